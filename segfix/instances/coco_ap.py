"""Average precision of masks as on COCO, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import FileFormatError, PairingError, tell_number, tell_share
from segfix.files.limits import check_pixels
from segfix.instances.boundaries import compare_bands
from segfix.instances.coco import check_items, check_table, is_number, read_json
from segfix.instances.masks import run_lengths
from segfix.instances.replicas import (
    draw_images,
    join_replicas,
    name_replicas,
    replicate_coco_ap,
)
from segfix.instances.summary import list_some, name_categories, summarize

LONGEST_SIDE = 65535
"""Of an image, pixels: pycocotools counts them in 32 bits, and crashes beyond."""

MEANS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""The first entries of the evaluator's `stats`."""


def measure_coco_ap(
    preds: Path, labels: Path, *, boundary: bool = False, replicas: int = 0
) -> dict[str, Any]:
    """Measure AP of masks: over IoU 0.5 … 0.95, at most 100 detections per image and class.

    All images of the ground truth count. Small, medium and large (below 32², below 96², above)
    are the areas of masks, whatever boxes the results hold; crowds are neither hit nor missed.

    Args:
        preds: Result JSON: a list of image_id, category_id, segmentation and score; or annotation
            JSON, whose instances count as sure.
        labels: Annotation JSON.
        boundary: Whether to measure Boundary AP, too.
        replicas: Number of replicas to score, too.

    Raises:
        SegfixError: As `evaluate_instances`.
        ModuleNotFoundError: The extra isn't installed.
    """
    from pycocotools.cocoeval import COCOeval

    truth, results = read_json(labels), read_json(preds)
    unscored = holds_annotations(results)
    if unscored:
        results = [
            {"score": 1, **item} if isinstance(item, dict) else item
            for item in results["annotations"]
        ]
    check_documents(preds, results, labels, truth)
    sizes = read_sizes(labels, truth["images"])
    names = name_categories(truth["categories"])
    check_references(labels, truth["annotations"], sizes, names)
    notes = check_results(preds, results, labels, sizes, names)
    if unscored:
        notes.append("annotations, not results: without a score, an instance counts as sure (1)")
    without = sum(item.get("area") is None for item in truth["annotations"])
    if without:
        told = tell_number(without, "annotation")
        notes.append(f"no area is stated in {told}: the mask's is taken")
    results = [item for item in results if item["category_id"] in names]
    with contextlib.redirect_stdout(io.StringIO()):
        scorer = COCOeval(
            build_table(labels, "annotations", truth["annotations"], sizes, names),
            build_table(preds, "results", results, sizes, names),
            "segm",
        )
        scorer.evaluate()
        scorers = {"": scorer, "boundary_": compare_bands(scorer)} if boundary else {"": scorer}
        mean: dict[str, Any] = {}
        per_class: dict[str, dict[str, Any]] = {name: {} for name in names.values()}
        for prefix, one in scorers.items():
            add_averages(one, prefix, mean, per_class)
    draws = draw_images(replicas, len(sizes))
    drawn = [
        average_replicas(one, prefix, list(names.values()), draws)
        for prefix, one in scorers.items()
        if replicas
    ]
    return summarize("coco", len(sizes), mean, per_class, notes, join_replicas(drawn))


def holds_annotations(document: Any) -> bool:
    """Tell whether a JSON document holds annotations of instances, as fixed ones are scored."""
    annotations = document.get("annotations") if isinstance(document, dict) else None
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    return isinstance(first, dict) and "segmentation" in first


def add_averages(
    scorer: Any, prefix: str, mean: dict[str, Any], per_class: dict[str, dict[str, Any]]
) -> None:
    """Add the averages of a scorer that is evaluated to the means and to the classes' scores."""
    scorer.accumulate()
    scorer.summarize()
    averages = _defined(scorer.stats[: len(MEANS)])
    mean |= {f"{prefix}{key}": value for key, value in zip(MEANS, averages, strict=True)}
    # IoU thresholds × recalls × classes, over all areas and 100 detections.
    precision = scorer.eval["precision"][:, :, :, 0, 2]
    for place, scores in enumerate(per_class.values()):
        curve = _defined(precision[:, :, place]).mean(axis=1)
        scores |= {
            f"{prefix}ap": curve.mean(),
            f"{prefix}ap50": curve[0],
            f"{prefix}ap75": curve[5],
        }


def average_replicas(
    scorer: Any, prefix: str, names: Sequence[str], draws: NDArray[np.float32]
) -> dict[str, Any]:
    """Average the AP of replicas by the keys of `add_averages`."""
    scores = replicate_coco_ap(scorer, draws)
    curves = [scores[0].mean(axis=1), scores[0][:, 0], scores[0][:, 5], *scores[1:].mean(axis=2)]
    objects = [item for item in scorer.cocoGt.dataset["annotations"] if not item["iscrowd"]]
    pairs = {(item["image_id"], item["category_id"]) for item in objects}
    holders = Counter(category for _, category in pairs)
    held = [holders[number] for number in range(1, len(names) + 1)]
    keys = [f"{prefix}{key}" for key in MEANS]
    return name_replicas(dict(zip(keys, curves, strict=True)), names, held, keys[:3])


def _defined(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace pycocotools' -1, where nothing counts, by NaN."""
    return np.where(scores < 0, np.nan, scores)


def check_documents(preds: Path, results: Any, labels: Path, truth: Any) -> None:
    """Refuse documents that are no COCO results, or no annotations of instances."""
    if not isinstance(results, list):
        raise FileFormatError(f"{preds}: not a COCO result file; expected a JSON list.")
    check_table(labels, truth, ("images", "categories", "annotations"))
    check_items(labels, "images", truth["images"], ("id", "height", "width"))
    check_items(labels, "categories", truth["categories"], ("id", "name"))
    if any(isinstance(one, dict) and "segments_info" in one for one in truth["annotations"][:1]):
        raise FileFormatError(
            f"{labels}: panoptic, but {preds} is a list of instances; expected the annotation "
            "JSON of instances."
        )
    wanted = ("image_id", "category_id", "segmentation")
    check_items(labels, "annotations", truth["annotations"], wanted)
    check_items(preds, "results", results, (*wanted, "score"))


def read_sizes(labels: Path, images: Sequence[Mapping[str, Any]]) -> dict[Any, tuple[int, int]]:
    """Read height and width of each image by its id.

    Raises:
        FileFormatError: One is no number of pixels, or more than pycocotools takes.
        SegfixError: An image is beyond the limit of pixels.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    for identity, size in sizes.items():
        if not all(isinstance(length, int) and 0 < length <= LONGEST_SIDE for length in size):
            raise FileFormatError(
                f"{labels}: image {identity!r} is {size[0]!r} high and {size[1]!r} wide; expected "
                f"whole numbers of pixels, at most {LONGEST_SIDE}."
            )
        check_pixels(size, f"{labels}: image {identity!r}")
    return sizes


def check_references(
    labels: Path,
    annotations: Sequence[Mapping[str, Any]],
    sizes: Mapping[Any, Any],
    names: Mapping[Any, str],
) -> None:
    """Refuse annotations of images or categories that their file doesn't list."""
    for key, known in (("image_id", sizes), ("category_id", names)):
        for item in annotations:
            if item[key] not in known:
                raise FileFormatError(
                    f"{labels}: an annotation has {key} {item[key]!r}, which the file doesn't "
                    "list; mend the file."
                )


def check_results(
    preds: Path,
    results: Sequence[Mapping[str, Any]],
    labels: Path,
    sizes: Mapping[Any, Any],
    names: Mapping[Any, str],
) -> list[str]:
    """Refuse results of other images or of other categories alone; note what isn't counted."""
    strangers = [item["image_id"] for item in results if item["image_id"] not in sizes]
    if strangers:
        raise PairingError(
            f"{preds}: {tell_share(len(strangers), len(results), 'result')} of images that "
            f"{labels} lacks (image_id {strangers[0]!r}); use the annotations of the same split."
        )
    unknown = [item["category_id"] for item in results if item["category_id"] not in names]
    if results and len(unknown) == len(results):
        raise FileFormatError(
            f"{preds}: no result is of a category that {labels} lists ({list_some(unknown)}); use "
            "its category ids."
        )
    notes = []
    if unknown:
        notes.append(
            f"{tell_share(len(unknown), len(results), 'result')} of unknown categories "
            f"({list_some(unknown)}): not counted"
        )
    silent = len(sizes) - len({item["image_id"] for item in results})
    if silent:
        told = tell_share(silent, len(sizes), "image", "has", "have")
        notes.append(f"{told} no result: their objects are missed")
    return notes


def _read_mask(path: Path, where: str, item: Mapping[str, Any], size: tuple[int, int]) -> Any:
    """Read the run lengths of an instance, whose numbers must be numbers."""
    if not is_number(item.get("score", 0)) or not is_number(item.get("area", 0)):
        raise FileFormatError(f"{path}: {where} has a score or an area that is not a number.")
    try:
        return run_lengths(item["segmentation"], *size)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise FileFormatError(
            f"{path}: the segmentation of {where} can't be used ({error}); write it again."
        ) from error


def build_table(
    path: Path,
    what: str,
    items: Sequence[Mapping[str, Any]],
    sizes: Mapping[Any, tuple[int, int]],
    names: Mapping[Any, str],
) -> Any:
    """Build pycocotools' index of annotations or results.

    Ids count from 1: it takes a match with annotation 0 for none, and sorts mixed ids as text.

    Args:
        path: The file, for messages.
        what: "annotations" or "results".
        items: The file's list of that name.
        sizes: Height and width by image id.
        names: By category id.

    Raises:
        FileFormatError: A number or a mask is broken, or a mask is of another size than its image.
    """
    from pycocotools import mask as masks
    from pycocotools.coco import COCO

    images = {identity: number for number, identity in enumerate(sizes, 1)}
    categories = {identity: number for number, identity in enumerate(names, 1)}
    annotations, is_truth = [], what == "annotations"
    for number, item in enumerate(items):
        rle = _read_mask(path, f"{what}[{number}]", item, sizes[item["image_id"]])
        area = item.get("area") if is_truth else None
        annotations.append(
            {
                "id": number + 1,
                "image_id": images[item["image_id"]],
                "category_id": categories[item["category_id"]],
                "segmentation": rle,
                "area": float(masks.area(rle)) if area is None else area,
                "iscrowd": int(is_truth and bool(item.get("iscrowd"))),
                "score": item.get("score"),
            }
        )
    coco = COCO()
    coco.dataset = {
        "images": [
            {"id": number, "height": height, "width": width}
            for number, (height, width) in enumerate(sizes.values(), 1)
        ],
        "categories": [{"id": number} for number in categories.values()],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco
