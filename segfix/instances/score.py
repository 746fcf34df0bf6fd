"""Instance AP and panoptic quality, by the field's own evaluators (extra `eval`).

Files are read and checked here; matching and averaging are pycocotools' and cityscapesScripts'.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from segfix.errors import FileFormatError, PairingError
from segfix.files import list_entries
from segfix.files.limits import check_pixels
from segfix.files.reading import open_picture, path_within
from segfix.instances.cityscapes import by_image, read_list
from segfix.instances.coco import check_items, check_table, is_number, read_json
from segfix.instances.masks import run_lengths
from segfix.instances.panoptic import check_panoptic, check_panoptic_mode
from segfix.jobs.pool import Threads

LONGEST_SIDE = 65535
"""Of an image, pixels: pycocotools counts them in 32 bits, and crashes beyond."""

GROUPS = {"": None, "_things": True, "_stuff": False}
"""Endings of the panoptic means, and the `isthing` that each is over."""


def evaluate_instances(preds: Path, labels: Path, *, workers: int = 1) -> dict[str, Any]:
    """Score instance or panoptic predictions of whichever kind the files are.

    Args:
        preds: A COCO result JSON, a COCO panoptic JSON with its PNG folder beside it, or a
            Cityscapes folder of `*_pred.txt` and masks.
        labels: The ground truth in the same format: a COCO annotation JSON, a panoptic JSON, a
            folder of `*_gtFine_instanceIds.png`.
        workers: Threads, for Cityscapes and panoptic files.

    Returns:
        JSON-ready: `kind` (coco, cityscapes or panoptic), number of `images`, `mean` and `class`
        scores in [0, 1], None where nothing counts, and `notes`, what else there is to say.

    Raises:
        SegfixError: A file is missing, broken or doesn't fit the other side.
        ModuleNotFoundError: The extra isn't installed.
    """
    if preds.is_dir():
        return cityscapes_ap(preds, labels, workers=workers)
    if isinstance(read_json(preds, peek=True), list):
        return coco_ap(preds, labels)
    return panoptic_quality(preds, labels, workers=workers)


def coco_ap(preds: Path, labels: Path) -> dict[str, Any]:
    """AP of masks as on COCO: over IoU 0.5 … 0.95, at most 100 detections per image and class.

    All images of the ground truth count. Small, medium and large (below 32², below 96², above)
    are the areas of masks, whatever boxes the results hold; crowds are neither hit nor missed.

    Args:
        preds: Result JSON: a list of image_id, category_id, segmentation and score.
        labels: Annotation JSON.

    Raises:
        SegfixError: As `evaluate_instances`.
    """
    from pycocotools import mask as masks
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, results = read_json(labels), read_json(preds)
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
    # Ids from 1: pycocotools takes a match with annotation 0 for none, and sorts mixed ids as text.
    images = {image["id"]: number for number, image in enumerate(truth["images"], 1)}
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    names = _unique_names(truth["categories"])
    categories = {identity: number for number, identity in enumerate(names, 1)}
    for identity, size in sizes.items():
        if not all(isinstance(length, int) and 0 < length <= LONGEST_SIDE for length in size):
            raise FileFormatError(
                f"{labels}: image {identity!r} is {size[0]!r} high and {size[1]!r} wide; expected "
                f"whole numbers of pixels, at most {LONGEST_SIDE}."
            )
        check_pixels(size, f"{labels}: image {identity!r}")

    def table(path: Path, what: str, items: list[Any]) -> Any:
        annotations = []
        for number, item in enumerate(items):
            if not is_number(item.get("score", 0)) or not is_number(item.get("area", 0)):
                raise FileFormatError(
                    f"{path}: {what}[{number}] has a score or an area that is not a number."
                )
            try:
                rle = run_lengths(item["segmentation"], *sizes[item["image_id"]])
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                raise FileFormatError(
                    f"{path}: the segmentation of {what}[{number}] can't be used ({error}); write "
                    "it again."
                ) from error
            area = item.get("area") if what == "annotations" else None
            annotations.append(
                {
                    "id": number + 1,
                    "image_id": images[item["image_id"]],
                    "category_id": categories[item["category_id"]],
                    "segmentation": rle,
                    "area": float(masks.area(rle)) if area is None else area,
                    "iscrowd": int(what == "annotations" and bool(item.get("iscrowd"))),
                    "score": item.get("score"),
                }
            )
        coco = COCO()
        coco.dataset = {
            "images": [
                {"id": images[identity], "height": height, "width": width}
                for identity, (height, width) in sizes.items()
            ],
            "categories": [{"id": number} for number in categories.values()],
            "annotations": annotations,
        }
        coco.createIndex()
        return coco

    for key, known in (("image_id", images), ("category_id", categories)):
        for item in truth["annotations"]:
            if item[key] not in known:
                raise FileFormatError(
                    f"{labels}: an annotation has {key} {item[key]!r}, which the file doesn't "
                    "list; mend the file."
                )
    strangers = [item["image_id"] for item in results if item["image_id"] not in images]
    if strangers:
        raise PairingError(
            f"{preds}: {len(strangers)} of {len(results)} results are of images that {labels} "
            f"lacks (image_id {strangers[0]!r}); use the annotations of the same split."
        )
    notes = []
    unknown = Counter(
        item["category_id"] for item in results if item["category_id"] not in categories
    )
    if results and unknown.total() == len(results):
        raise FileFormatError(
            f"{preds}: no result is of a category that {labels} lists ({_sample(unknown)}); use "
            "its category ids."
        )
    if unknown:
        notes.append(
            f"{unknown.total()} of {len(results)} results are of unknown categories "
            f"({_sample(unknown)}): not counted"
        )
    silent = len(images) - len({item["image_id"] for item in results})
    if silent:
        notes.append(f"{silent} of {len(images)} images have no result: their objects are missed")
    without = sum(item.get("area") is None for item in truth["annotations"])
    if without:
        notes.append(f"{without} annotations state no area: their masks' is taken")
    results = [item for item in results if item["category_id"] in categories]
    with contextlib.redirect_stdout(io.StringIO()):
        scorer = COCOeval(
            table(labels, "annotations", truth["annotations"]),
            table(preds, "results", results),
            "segm",
        )
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    # IoU thresholds × recalls × classes, over all areas and 100 detections; -1 is undefined.
    precision = scorer.eval["precision"][:, :, :, 0, 2]
    per_class = {}
    for place, name in enumerate(names.values()):
        curves = np.where(precision[:, :, place] < 0, np.nan, precision[:, :, place]).mean(axis=1)
        scores = (curves.mean(), curves[0], curves[5])
        per_class[name] = dict(zip(("ap", "ap50", "ap75"), map(_number, scores), strict=True))
    keys = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    mean = {
        key: None if score < 0 else float(score)
        for key, score in zip(keys, scorer.stats, strict=False)
    }
    return _result("coco", len(images), mean, per_class, notes)


def cityscapes_ap(preds: Path, labels: Path, *, workers: int = 1) -> dict[str, Any]:
    """AP of the instance task of Cityscapes: its classes, IoU above 0.5 … 0.95.

    Objects below 100 pixels, groups and void are neither hit nor missed. Environment variables
    and caches of the script are passed by, and nothing is written.

    Args:
        preds: Folder of `*_pred.txt`; a line is a mask's path from there, class id and score.
        labels: Folder of `*_gtFine_instanceIds.png`, in folders within or not.
        workers: Threads.

    Raises:
        SegfixError: As `evaluate_instances`.
    """
    from cityscapesscripts.evaluation import (
        evalInstanceLevelSemanticLabeling as evaluator,  # noqa: N813, its name
    )
    from cityscapesscripts.evaluation.instances2dict import instances2dict
    from cityscapesscripts.helpers.labels import name2label

    # NumPy 2.4 dropped in1d; the script calls it still (mcordts/cityscapesScripts#196).
    evaluator.np = SimpleNamespace(**{**vars(np), "in1d": np.isin})
    settings = copy(evaluator.args)
    evaluator.setInstanceLabels(settings)
    classes = {name2label[name].id for name in settings.instLabels}
    pairs, spare = _pair_lists(preds, labels)
    notes = [f"{len(spare)} lists without ground truth ({_sample(spare)})"] if spare else []

    def match(pair: tuple[Path, Path]) -> tuple[dict[str, Any], list[int]]:
        truth, listed = pair
        with open_picture(truth, "instance map") as picture:
            array = np.array(picture)
        if array.ndim != 2:
            raise FileFormatError(f"{truth}: colours; expected instance ids in 16-bit grey.")
        masks = read_list(listed, preds)
        for mask in masks:
            _check_mask(Path(mask), truth, array.shape)
        identities = [entry["labelID"] for entry in masks.values()]
        masks = {mask: entry for mask, entry in masks.items() if entry["labelID"] in classes}
        try:
            (instances,) = instances2dict([str(truth)]).values()
        except KeyError as error:
            raise FileFormatError(
                f"{truth}: holds class {error}, which Cityscapes lacks; expected class · 1000 + "
                "instance, or a class alone."
            ) from error
        found, predicted = evaluator.assignGt2Preds(
            evaluator.filterGtInstances(instances, settings), array, masks, settings
        )
        return {"groundTruth": found, "prediction": predicted}, identities

    matches = {}
    unknown: Counter[int] = Counter()
    with Threads(workers) as pool:
        for number, (matched, identities) in enumerate(pool.map(match, pairs)):
            matches[number] = matched
            unknown.update(identity for identity in identities if identity not in classes)
    precision = np.zeros((1, len(settings.instLabels), len(settings.overlaps)))
    for place in np.ndindex(precision.shape):
        one = copy(settings)
        one.instLabels = [settings.instLabels[place[1]]]
        one.overlaps = settings.overlaps[place[2] : place[2] + 1]
        # Where all that is predicted of a class is ignored, the script crashes instead of finding
        # nothing (mcordts/cityscapesScripts#89).
        with contextlib.suppress(IndexError):
            precision[place] = evaluator.evaluateMatches(matches, one).item()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        averages = evaluator.computeAverages(precision, settings)
    if unknown:
        notes.append(
            f"{unknown.total()} instances are of class ids that Cityscapes doesn't score "
            f"({_sample(unknown)}): not counted"
        )
    mean = {"ap": _number(averages["allAp"]), "ap50": _number(averages["allAp50%"])}
    per_class = {
        name: {"ap": _number(scores["ap"]), "ap50": _number(scores["ap50%"])}
        for name, scores in averages["classes"].items()
    }
    return _result("cityscapes", len(pairs), mean, per_class, notes)


def panoptic_quality(preds: Path, labels: Path, *, workers: int = 1) -> dict[str, Any]:
    """PQ, SQ and RQ of COCO panoptic files, of any categories.

    The script is that of cityscapesScripts, which is panopticapi's with other messages.

    Args:
        preds: Panoptic JSON; the PNG files lie beside it, in a folder of its name without .json.
        labels: The ground truth, likewise.
        workers: Threads.

    Raises:
        SegfixError: As `evaluate_instances`.
    """
    from cityscapesscripts.evaluation import (
        evalPanopticSemanticLabeling as evaluator,  # noqa: N813, its name
    )

    truth, predicted = read_json(labels), read_json(preds)
    check_table(labels, truth, ("categories", "annotations"))
    check_table(preds, predicted, ("annotations",))
    check_items(labels, "categories", truth["categories"], ("id", "name", "isthing"))
    categories = {category["id"]: category for category in truth["categories"]}
    for path, table, wanted in (
        (labels, truth, ("id", "category_id", "area")),
        (preds, predicted, ("id", "category_id")),
    ):
        check_panoptic(path, table, wanted)
        unknown: Counter[Any] = Counter()
        for annotation in table["annotations"]:
            for segment in annotation["segments_info"]:
                segment.setdefault("iscrowd", 0)
                unknown[segment["category_id"]] += segment["category_id"] not in categories
        if +unknown:
            raise FileFormatError(
                f"{path}: {unknown.total()} segments are of categories that {labels} doesn't list "
                f"({_sample(+unknown)}); use its category ids."
            )
    found = {annotation["image_id"]: annotation for annotation in predicted["annotations"]}
    if len(found) < len(predicted["annotations"]):
        raise FileFormatError(f"{preds}: two annotations of one image_id; keep one per image.")
    if not truth["annotations"]:
        raise FileFormatError(f"{labels}: no annotations; nothing to score.")
    pairs = [(item, found.get(item["image_id"])) for item in truth["annotations"]]
    _check_complete(preds, [item["image_id"] for item, partner in pairs if partner is None], pairs)
    spare = set(found) - {item["image_id"] for item in truth["annotations"]}
    notes = [f"{len(spare)} predicted images without ground truth ({_sample(spare)})"]
    folders = labels.with_suffix(""), preds.with_suffix("")

    def score(pair: Sequence[Any]) -> Any:
        pictures = [
            path_within(folder, item["file_name"], folder, str(path))
            for folder, item, path in zip(folders, pair, (labels, preds), strict=True)
        ]
        _check_panoptic_pictures(pictures, pair[0]["segments_info"])
        # The script puts folder and name together; the system takes "a.png/" for no file.
        pair = [{**item, "file_name": str(p)} for item, p in zip(pair, pictures, strict=True)]
        try:
            # Unwrapped: the wrapper prints a traceback.
            with np.errstate(divide="raise", invalid="raise"):
                return evaluator.pq_compute_single_core.__wrapped__(
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

    total = evaluator.PQStat()
    with contextlib.redirect_stdout(io.StringIO()), Threads(workers) as pool:
        for part in pool.map(score, pairs):
            total += part
    counted = {
        identity: bool(total[identity].tp + total[identity].fp + total[identity].fn)
        for identity in categories
    }
    mean: dict[str, float | None] = {}
    for ending, isthing in GROUPS.items():
        members = [
            identity
            for identity, category in categories.items()
            if isthing is None or (category["isthing"] == 1) == isthing
        ]
        # The script divides by the number of classes seen, be it zero.
        any_seen = any(counted[identity] for identity in members)
        scores = total.pq_average(categories, isthing)[0] if any_seen else {}
        mean |= {f"{key}{ending}": _number(scores.get(key)) for key in ("pq", "sq", "rq")}
    scores = total.pq_average(categories, None)[1] if any(counted.values()) else {}
    per_class = {
        name: {
            key: _number(scores[identity][key]) if counted[identity] else None
            for key in ("pq", "sq", "rq")
        }
        for identity, name in _unique_names(truth["categories"]).items()
    }
    return _result("panoptic", len(pairs), mean, per_class, notes if spare else [])


def _result(
    kind: str,
    images: int,
    mean: Mapping[str, float | None],
    per_class: Mapping[str, Any],
    notes: list[str],
) -> dict[str, Any]:
    if not any(score is not None for score in mean.values()):
        notes = [*notes, "the ground truth holds nothing that counts"]
    return {
        "kind": kind,
        "images": images,
        "mean": dict(mean),
        "class": dict(per_class),
        "notes": notes,
    }


def _number(score: Any) -> float | None:
    return None if score is None or math.isnan(score) else float(score)


def _sample(values: Iterable[Any]) -> str:
    shown = sorted({str(value) for value in values})
    return ", ".join(shown[:3]) + (", …" if len(shown) > 3 else "")


def _unique_names(categories: Sequence[Any]) -> dict[Any, str]:
    names = {category["id"]: str(category["name"]) for category in categories}
    often = Counter(names.values())
    return {key: name if often[name] == 1 else f"{name} ({key})" for key, name in names.items()}


def _check_complete(preds: Path, missing: Sequence[Any], total: Sequence[Any]) -> None:
    if missing:
        raise PairingError(
            f"{preds}: no prediction for {len(missing)} of {len(total)} images of the ground truth "
            f"({_sample(missing)}); predict them too, or keep the ground truth of the others."
        )


def _pair_lists(preds: Path, labels: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Instance maps with their lists, and the names of lists without one."""
    maps = by_image(list_entries(labels, (".png",), what="instance maps", recursive=True), labels)
    lists = by_image(list_entries(preds, (".txt",), what="lists", recursive=True), preds)
    _check_complete(preds, sorted(set(maps) - set(lists)), list(maps))
    return [(path, lists[name]) for name, path in maps.items()], sorted(set(lists) - set(maps))


def _check_mask(mask: Path, truth: Path, shape: tuple[int, ...]) -> None:
    with open_picture(mask, "mask") as picture:
        if picture.size != shape[::-1]:
            raise FileFormatError(
                f"{mask}: {picture.width}×{picture.height}, but {truth} is {shape[1]}×{shape[0]}; "
                "sizes must be equal."
            )
        # Decoded here too: of a broken file, the script names nothing and leaves it open.
        stored = np.asarray(picture)
        if picture.mode in ("1", "L"):
            return
        # The script looks at grey values, in which an id may be black: a palette's, a 16-bit one.
        marked = stored.any(axis=2) if stored.ndim == 3 else stored != 0
        if not np.array_equal(np.asarray(picture.convert("L")) != 0, marked):
            raise FileFormatError(
                f"{mask}: mode {picture.mode}, of which the evaluator sees other pixels than are "
                "marked; save masks in 8-bit grey, 0 and 255."
            )


def _check_panoptic_pictures(paths: Sequence[Path], segments: Sequence[Any]) -> None:
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
