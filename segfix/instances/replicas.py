"""Scores of replicas of a set of images, for intervals: the Poisson bootstrap over images.

AP isn't a mean over images, but images are matched one by one: a replica, in which each image
counts a number of times, needs no matching, only new sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 1 << 21
"""Detections times replicas that are summed at once."""

Scores = NDArray[np.float64]


def draw_images(replicas: int, images: int) -> NDArray[np.float32]:
    """Draw how often each image counts in each replica, alike for every set of predictions.

    Returns:
        (R, N) whole numbers.
    """
    return np.random.default_rng(0).poisson(1, (replicas, images)).astype(np.float32)


def replicate_coco_ap(scorer: Any, draws: NDArray[np.float32]) -> Scores:
    """Compute pycocotools' AP of replicas.

    Args:
        scorer: An evaluated `COCOeval` of N images.
        draws: (R, N), see `draw_images`.

    Returns:
        (A, K, T, R) by area, category and threshold of IoU; NaN where nothing counts.
    """
    params, images = scorer.params, draws.shape[1]
    shape = len(params.areaRng), len(params.catIds), len(params.iouThrs), len(draws)
    precision = np.full(shape, np.nan)
    for area, category in np.ndindex(shape[:2]):
        start = (category * shape[0] + area) * images
        matched = [
            (place, one) for place, one in enumerate(scorer.evalImgs[start : start + images]) if one
        ]
        if not matched:
            continue
        objects = np.zeros(images, np.float32)
        for place, one in matched:
            objects[place] = np.count_nonzero(one["gtIgnore"] == 0)
        scores = np.concatenate([one["dtScores"] for _, one in matched])
        order = np.argsort(-scores, kind="stable")
        owners = np.repeat(
            [place for place, _ in matched], [len(one["dtIds"]) for _, one in matched]
        )
        hits, ignored = (
            np.concatenate([one[key] for _, one in matched], axis=1)[:, order] > 0
            for key in ("dtMatches", "dtIgnore")
        )
        total = draws @ objects
        parts = np.array_split(np.arange(len(draws)), len(order) * len(draws) // MOST + 1)
        for number, part in ((t, part) for part in parts for t in range(shape[2])):
            kept = ~ignored[number]
            precision[area, category, number, part] = average_precision(
                draws[np.ix_(part, owners[order[kept]])],
                hits[number, kept],
                total[part],
                params.recThrs,
            )
    return precision


def average_precision(
    times: NDArray[np.float32],
    hits: NDArray[np.bool_],
    total: NDArray[np.float32],
    recalls: NDArray[np.float64],
) -> Scores:
    """Average the precision over levels of recall, as on COCO.

    Args:
        times: (R, D) how often each detection counts, the surest first.
        hits: (D,) whether it is matched.
        total: (R,) number of objects.
        recalls: The levels, ascending.

    Returns:
        (R,) in [0, 1]; NaN without an object.
    """
    found = times.cumsum(axis=1)[:, hits].astype(float)
    true = times[:, hits].cumsum(axis=1).astype(float)
    objects = np.where(total > 0, total, np.nan).astype(float)[:, None]
    precision = np.maximum.accumulate((true / np.maximum(found, 1))[:, ::-1], axis=1)[:, ::-1]
    # At a hit, so many levels are reached: those beyond the last hit's have this precision.
    reached = np.searchsorted(recalls, true / objects, side="right")
    levels = np.diff(reached, axis=1, prepend=0)
    average: Scores = (precision * levels).sum(axis=1) / len(recalls)
    return average + 0 * objects[:, 0]


def replicate_qualities(counts: NDArray[np.float64], draws: NDArray[np.float32]) -> dict[str, Any]:
    """Compute the panoptic quality of replicas.

    Args:
        counts: (N, K, 4) of each image and category: sum of IoU, and numbers of segments that are
            matched, found without being true, and missed.
        draws: (R, N), see `draw_images`.

    Returns:
        `pq`, `sq` and `rq`: (K, R) each; NaN where nothing counts.
    """
    iou, hits, spare, missed = np.moveaxis(np.tensordot(draws, counts, axes=1), (2, 1), (0, 1))
    seen = hits + spare + missed > 0
    all_of = np.where(seen, hits + spare / 2 + missed / 2, np.nan)
    whole = np.maximum(hits, 1)
    return {"pq": iou / all_of, "sq": iou / whole + 0 * all_of, "rq": hits / all_of}


def name_replicas(
    scores: Mapping[str, Scores], names: Sequence[str], holders: Sequence[int], keys: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Name the scores of replicas as those of `evaluate_instances` are.

    Args:
        scores: (K, R) of each class, by the key of the score.
        names: Of the K classes.
        holders: Number of images that hold each class: the scores of one image alone, drawn again
            and again, are NaN.
        keys: Of the scores that classes have.
    """
    known = [np.nan if number < 2 else 0.0 for number in holders]
    return {
        "mean": {key: mean_of_known(found) for key, found in scores.items()},
        "class": {
            name: {key: scores[key][place] + known[place] for key in keys}
            for place, name in enumerate(names)
        },
    }


def mean_of_known(scores: Scores) -> Scores:
    """Average (K, R) scores over the classes that have one; NaN where none has."""
    known = ~np.isnan(scores)
    total: Scores = np.nansum(scores, axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where(known.any(axis=0), total, np.nan)


def join_replicas(parts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Join what `name_replicas` gives of several measures; empty where there is none."""
    joined: dict[str, dict[str, Any]] = {"mean": {}, "class": {}} if parts else {}
    for part in parts:
        joined["mean"] |= part["mean"]
        for name, scores in part["class"].items():
            joined["class"].setdefault(name, {}).update(scores)
    return joined
