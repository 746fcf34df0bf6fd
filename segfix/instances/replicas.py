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
        every = scorer.evalImgs[start : start + images]
        places = [place for place, one in enumerate(every) if one]
        matched = [every[place] for place in places]
        if not matched:
            continue
        total = draws[:, places] @ [np.count_nonzero(one["gtIgnore"] == 0) for one in matched]
        order = np.argsort(-np.concatenate([one["dtScores"] for one in matched]), kind="stable")
        owners = np.repeat(places, [len(one["dtScores"]) for one in matched])
        hits, ignored = (
            np.concatenate([one[key] for one in matched], axis=1)[:, order] > 0
            for key in ("dtMatches", "dtIgnore")
        )
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
    total: Scores,
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
    objects = np.where(total > 0, total, np.nan)[:, None]
    precision = np.maximum.accumulate((true / np.maximum(found, 1))[:, ::-1], axis=1)[:, ::-1]
    # At a hit, so many levels are reached: those beyond the last hit's have this precision.
    reached = np.searchsorted(recalls, true / objects, side="right")
    levels = np.diff(reached, axis=1, prepend=0)
    average: Scores = (precision * levels).sum(axis=1) / len(recalls) + 0 * objects[:, 0]
    return average


def replicate_cityscapes_ap(
    matches: Sequence[Mapping[str, Any]], settings: Any, draws: NDArray[np.float32]
) -> tuple[Scores, list[int]]:
    """Compute cityscapesScripts' AP of replicas.

    Args:
        matches: `groundTruth` and `prediction` of each of N images, as the script assigns them.
        settings: The script's.
        draws: (R, N), see `draw_images`.

    Returns:
        (K, T, R) by class and overlap, NaN where nothing counts; and how many images hold each
        class.
    """
    labels, overlaps = settings.instLabels, settings.overlaps
    precision = np.full((len(labels), len(overlaps), len(draws)), np.nan)
    holders = []
    for place, label in enumerate(labels):
        held = np.zeros(len(matches))
        for number, overlap in enumerate(overlaps):
            listed = [list_outcomes(one, label, overlap, settings) for one in matches]
            held = np.array([objects for _, objects in listed])
            outcomes = np.array([pair for pairs, _ in listed for pair in pairs]).reshape(-1, 2)
            order = np.argsort(outcomes[:, 0], kind="stable")
            owners = np.repeat(np.arange(len(listed)), [len(pairs) for pairs, _ in listed])[order]
            scores, hits = outcomes[order].T
            parts = np.array_split(np.arange(len(draws)), len(order) * len(draws) // MOST + 1)
            for part in parts:
                precision[place, number, part] = step_precision(
                    draws[np.ix_(part, owners)], scores, hits, draws[part] @ held
                )
        holders.append(int((held > 0).sum()))
    return precision, holders


def list_outcomes(
    match: Mapping[str, Any], label: str, overlap: float, settings: Any
) -> tuple[list[tuple[float, bool]], int]:
    """List score and success of the predictions of an image that count, as the script does.

    Returns:
        The list, and the number of objects that count.
    """
    least = settings.minRegionSizes[0]

    def overlaps(true: Mapping[str, Any], found: Mapping[str, Any], both: float) -> bool:
        return bool(both / (true["pixelCount"] + found["pixelCount"] - both) > overlap)

    outcomes = []
    objects = [
        true
        for true in match["groundTruth"][label]
        if true["instID"] >= 1000 and true["pixelCount"] >= least
    ]
    for true in objects:
        near = [one for one in true["matchedPred"] if overlaps(true, one, one["intersection"])]
        scores = sorted((one["confidence"] for one in near), reverse=True)
        outcomes += [(score, place == 0) for place, score in enumerate(scores)]
    for found in match["prediction"][label]:
        if any(overlaps(true, found, true["intersection"]) for true in found["matchedGt"]):
            continue
        ignored = found["voidIntersection"]
        for true in found["matchedGt"]:
            # A small group counts twice there, too.
            reasons = int(true["instID"] < 1000) + int(true["pixelCount"] < least)
            ignored += reasons * true["intersection"]
        if ignored / found["pixelCount"] <= overlap:
            outcomes.append((found["confidence"], False))
    return outcomes, len(objects)


def step_precision(
    times: NDArray[np.float32], scores: Scores, hits: Scores, total: Scores
) -> Scores:
    """Integrate the precision over recall in steps, as on Cityscapes.

    Args:
        times: (R, D) how often each prediction counts, the least sure first.
        scores: (D,) ascending.
        hits: (D,) 1 where it is matched, else 0.
        total: (R,) number of objects.

    Returns:
        (R,) in [0, 1]; NaN without an object.
    """
    objects = np.where(total > 0, total, np.nan)[:, None]
    if not len(scores):
        return 0 * objects[:, 0]
    firsts = np.unique(scores, return_index=True)[1]
    found, true = (
        sums[:, ::-1].cumsum(axis=1)[:, ::-1][:, firsts] for sums in (times, times * hits)
    )
    # The script's artificial point: nothing found, and that precisely.
    end = ((0, 0), (0, 1))
    precision = np.pad(np.where(found > 0, true / np.maximum(found, 1), 1), end, constant_values=1)
    recall = np.pad(true / objects, end)
    before = np.concatenate([recall[:, :1], recall[:, :-1]], axis=1)
    average: Scores = (precision * (before - np.pad(recall[:, 1:], end))).sum(axis=1) / 2
    return average


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
