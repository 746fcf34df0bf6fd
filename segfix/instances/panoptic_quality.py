"""Panoptic quality of COCO panoptic files, by cityscapesScripts.

Its script is panopticapi's with other messages; categories may be any.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import FileFormatError, tell_number
from segfix.files.reading import open_picture, path_within
from segfix.instances import boundaries
from segfix.instances.coco import check_items, check_table, is_number, read_json
from segfix.instances.panoptic import check_panoptic, check_panoptic_mode, read_panoptic_map
from segfix.instances.replicas import (
    draw_images,
    join_replicas,
    name_replicas,
    replicate_qualities,
)
from segfix.instances.summary import check_complete, list_some, name_categories, summarize
from segfix.jobs.pool import Threads

SCORES = ("pq", "sq", "rq")
GROUPS = {"": None, "_things": True, "_stuff": False}
"""Endings of the means, and the `isthing` that each is over."""


def measure_panoptic_quality(
    preds: Path, labels: Path, *, workers: int = 1, boundary: bool = False, replicas: int = 0
) -> dict[str, Any]:
    """Measure PQ, SQ and RQ: over all categories, over things, over stuff and of each.

    Args:
        preds: Panoptic JSON; the PNG files lie beside it, in a folder of its name without .json.
        labels: The ground truth, likewise.
        workers: Threads.
        boundary: Whether to measure Boundary PQ, too.
        replicas: Number of replicas to score, too.

    Raises:
        SegfixError: As `evaluate_instances`.
        ModuleNotFoundError: The extra isn't installed.
    """
    from cityscapesscripts.evaluation import (
        evalPanopticSemanticLabeling as evaluator,  # noqa: N813, its name
    )

    truth, predicted = read_json(labels), read_json(preds)
    check_documents(preds, predicted, labels, truth)
    categories = {category["id"]: category for category in truth["categories"]}
    for path, table, keys in ((labels, truth, ("area",)), (preds, predicted, ())):
        check_panoptic(path, table, ("id", "category_id", *keys))
        check_categories(path, table, labels, categories)
    pairs, notes = pair_annotations(preds, predicted, labels, truth)

    def match(pair: Sequence[Any]) -> Any:
        return match_segments(pair, labels, preds, categories, evaluator, boundary=boundary)

    totals = [evaluator.PQStat() for _ in range(1 + boundary)]
    counts = np.zeros((1 + boundary, len(pairs) if replicas else 0, len(categories), 4))
    with contextlib.redirect_stdout(io.StringIO()), Threads(workers) as pool:
        for image, parts in enumerate(pool.map(match, pairs)):
            for number, part in enumerate(parts):
                totals[number] += part
                for place, identity in enumerate(categories if replicas else ()):
                    one = part[identity]
                    counts[number, image, place] = one.iou, one.tp, one.fp, one.fn
    mean: dict[str, Any] = {}
    per_class: dict[str, dict[str, Any]] = {}
    drawn, draws = [], draw_images(replicas, len(pairs))
    for prefix, total, one in zip(("", "boundary_"), totals, counts, strict=False):
        add_qualities(total, truth["categories"], prefix, mean, per_class)
        if replicas:
            drawn.append(average_replicas(one, draws, truth["categories"], prefix))
    return summarize("panoptic", len(pairs), mean, per_class, notes, join_replicas(drawn))


def average_replicas(
    counts: NDArray[np.float64], draws: NDArray[np.float32], listed: Sequence[Any], prefix: str
) -> dict[str, Any]:
    """Average the qualities of replicas by the keys of `add_qualities`."""
    scores = replicate_qualities(counts, draws)
    things = np.array([category["isthing"] == 1 for category in listed])
    groups: dict[str, Any] = {}
    for ending, isthing in GROUPS.items():
        outside = (
            np.zeros(len(things)) if isthing is None else np.where(things == isthing, 0, np.nan)
        )
        groups |= {f"{prefix}{key}{ending}": scores[key] + outside[:, None] for key in SCORES}
    names = list(name_categories(listed).values())
    # Hit or missed: it is there.
    holders = counts[..., [1, 3]].any(axis=2).sum(axis=0).tolist()
    return name_replicas(groups, names, holders, [f"{prefix}{key}" for key in SCORES])


def add_qualities(
    total: Any,
    listed: Sequence[Any],
    prefix: str,
    mean: dict[str, Any],
    per_class: dict[str, dict[str, Any]],
) -> None:
    """Add the averages of the script's counts to the means and to the classes' scores."""
    categories = {category["id"]: category for category in listed}
    counted = {identity for identity in categories if _occurs(total[identity])}
    for ending, isthing in GROUPS.items():
        of_group = {
            identity
            for identity, category in categories.items()
            if isthing is None or (category["isthing"] == 1) == isthing
        }
        # The script divides by the number of classes seen, be it zero.
        scores = total.pq_average(categories, isthing)[0] if counted & of_group else {}
        mean |= {f"{prefix}{key}{ending}": scores.get(key) for key in SCORES}
    scores = total.pq_average(categories, None)[1] if counted else {}
    for identity, name in name_categories(listed).items():
        found = scores[identity] if identity in counted else dict.fromkeys(SCORES)
        per_class.setdefault(name, {}).update({f"{prefix}{key}": found[key] for key in SCORES})


def _occurs(statistics: Any) -> bool:
    return bool(statistics.tp + statistics.fp + statistics.fn)


def check_documents(preds: Path, predicted: Any, labels: Path, truth: Any) -> None:
    """Refuse documents that are no panoptic tables, or of which the truth lists no categories."""
    check_table(labels, truth, ("categories", "annotations"))
    check_table(preds, predicted, ("annotations",))
    check_items(labels, "categories", truth["categories"], ("id", "name", "isthing"))


def check_categories(path: Path, table: Any, labels: Path, categories: Mapping[Any, Any]) -> None:
    """Refuse segments of categories that the ground truth lacks; note that others are no crowds."""
    unknown = []
    for annotation in table["annotations"]:
        for segment in annotation["segments_info"]:
            segment.setdefault("iscrowd", 0)
            if segment["category_id"] not in categories:
                unknown.append(segment["category_id"])
    if unknown:
        raise FileFormatError(
            f"{path}: {tell_number(len(unknown), 'segment')} of categories that {labels} doesn't "
            f"list ({list_some(unknown)}); use its category ids."
        )


def pair_annotations(
    preds: Path, predicted: Any, labels: Path, truth: Any
) -> tuple[list[tuple[Any, Any]], list[str]]:
    """Pair true with predicted annotations by image; note predictions that are of no true one."""
    found = {annotation["image_id"]: annotation for annotation in predicted["annotations"]}
    if len(found) < len(predicted["annotations"]):
        raise FileFormatError(f"{preds}: two annotations of one image_id; keep one per image.")
    if not truth["annotations"]:
        raise FileFormatError(f"{labels}: no annotations; nothing to score.")
    pairs = [(item, found.get(item["image_id"])) for item in truth["annotations"]]
    missing = [item["image_id"] for item, partner in pairs if partner is None]
    check_complete(preds, missing, len(pairs))
    spare = set(found) - {item["image_id"] for item in truth["annotations"]}
    if not spare:
        return pairs, []
    told = f"{tell_number(len(spare), 'predicted image')} without ground truth"
    return pairs, [f"{told} ({list_some(spare)})"]


def match_segments(
    pair: Sequence[Any],
    labels: Path,
    preds: Path,
    categories: Mapping[Any, Any],
    evaluator: Any,
    *,
    boundary: bool = False,
) -> list[Any]:
    """Match the segments of an image, as the script does.

    Args:
        pair: The true annotation and the predicted one.
        labels: The ground truth's JSON.
        preds: The predictions' JSON.
        categories: By id.
        evaluator: The script.
        boundary: Whether to match by Boundary IoU, too.

    Returns:
        The script's counts per category; with `boundary`, those of Boundary PQ after them.

    Raises:
        FileFormatError: A picture is missing or broken, or its segments aren't those of the JSON.
    """
    folders = labels.with_suffix(""), preds.with_suffix("")
    pictures = [
        path_within(folder, item["file_name"], folder, str(path), inside=[path.parent])
        for folder, item, path in zip(folders, pair, (labels, preds), strict=True)
    ]
    check_pictures(pictures, pair[0]["segments_info"])
    # The script puts folder and name together; the system takes "a.png/" for no file.
    pair = [{**item, "file_name": str(p)} for item, p in zip(pair, pictures, strict=True)]
    try:
        # Unwrapped: the wrapper prints a traceback.
        with np.errstate(divide="raise", invalid="raise"):
            counts = evaluator.pq_compute_single_core.__wrapped__(
                0, [pair], *map(str, folders), categories
            )
    except FloatingPointError as error:
        raise FileFormatError(
            f"{pictures[0]}: the areas in {labels} aren't those of its segments; write the "
            "JSON again."
        ) from error
    except KeyError as error:
        raise FileFormatError(
            f"{pictures[1]}: its segments aren't those in {preds} ({error.args[0]})."
        ) from error
    if not boundary:
        return [counts]
    maps = [read_panoptic_map(picture).ids() for picture in pictures]
    total = evaluator.PQStat()
    boundaries.match_segments(maps, [item["segments_info"] for item in pair], total)
    return [counts, total]


def check_pictures(paths: Sequence[Path], segments: Sequence[Any]) -> None:
    """Refuse pictures of different sizes, and areas in the JSON that don't fit them."""
    sizes = []
    for path in paths:
        with open_picture(path, "panoptic map") as picture:
            check_panoptic_mode(path, picture.mode)
            picture.load()
            sizes.append(picture.size)
    (width, height), other = sizes
    if other != (width, height):
        raise FileFormatError(
            f"{paths[1]}: {other[0]}×{other[1]}, but {paths[0]} is {width}×{height}; sizes must be "
            "equal."
        )
    if not all(is_number(segment["area"]) for segment in segments):
        raise FileFormatError(f"{paths[0]}: a segment has an area that is not a number.")
    if sum(segment["area"] for segment in segments) > width * height:
        raise FileFormatError(
            f"{paths[0]}: the segments' areas in its JSON exceed {width}×{height} pixels; "
            "areas and PNG must be of one size."
        )
