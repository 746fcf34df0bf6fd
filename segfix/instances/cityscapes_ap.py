"""Average precision of the instance task of Cityscapes, by cityscapesScripts."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import FileFormatError, tell_number
from segfix.files import list_entries
from segfix.files.reading import open_picture
from segfix.instances.boundaries import take_lesser_overlap
from segfix.instances.cityscapes import read_list, sort_by_name
from segfix.instances.replicas import (
    draw_images,
    join_replicas,
    name_replicas,
    replicate_cityscapes_ap,
)
from segfix.instances.summary import check_complete, list_some, summarize
from segfix.jobs.pool import Threads


def measure_cityscapes_ap(
    preds: Path, labels: Path, *, workers: int = 1, boundary: bool = False, replicas: int = 0
) -> dict[str, Any]:
    """Measure AP of Cityscapes' classes of objects, over IoU above 0.5 … 0.95.

    Objects below 100 pixels, groups and void are neither hit nor missed. Environment variables
    and caches of the script are passed by, and nothing is written.

    Args:
        preds: Folder of `*_pred.txt`; a line is a mask's path from there, class id and score.
        labels: Folder of `*_gtFine_instanceIds.png`, in folders within or not.
        workers: Threads.
        boundary: Whether to measure Boundary AP, too.
        replicas: Number of replicas to score, too.

    Raises:
        SegfixError: As `evaluate_instances`.
        ModuleNotFoundError: The extra isn't installed.
    """
    evaluator = load_evaluator()
    from cityscapesscripts.helpers.labels import name2label

    settings = copy(evaluator.args)
    evaluator.setInstanceLabels(settings)
    classes = {name2label[name].id for name in settings.instLabels}
    pairs, spare = pair_lists(preds, labels)
    notes = [f"{len(spare)} lists without ground truth ({list_some(spare)})"] if spare else []

    def match(pair: tuple[Path, Path]) -> tuple[list[dict[str, Any]], list[int]]:
        truth, listed = pair
        array = read_instance_map(truth)
        masks = read_list(listed, preds)
        for mask in masks:
            check_mask(Path(mask), truth, array.shape)
        scored = {mask: entry for mask, entry in masks.items() if entry["labelID"] in classes}
        unknown = [entry["labelID"] for mask, entry in masks.items() if mask not in scored]
        found = [match_instances(truth, array, scored, evaluator, settings)]
        if boundary:
            found.append(deepcopy(found[0]))
            take_lesser_overlap(found[1], array, settings)
        return found, unknown

    with Threads(workers) as pool:
        matches, unlisted = zip(*pool.map(match, pairs), strict=True)
    mean: dict[str, Any] = {}
    per_class: dict[str, dict[str, Any]] = {}
    drawn, draws = [], draw_images(replicas, len(pairs))
    for prefix, found in zip(("", "boundary_"), zip(*matches, strict=True), strict=False):
        add_averages(average_matches(found, evaluator, settings), prefix, mean, per_class)
        if replicas:
            scores, holders = replicate_cityscapes_ap(found, settings, draws)
            named = {f"{prefix}ap": scores.mean(axis=1), f"{prefix}ap50": scores[:, 0]}
            drawn.append(name_replicas(named, settings.instLabels, holders, list(named)))
    unknown = [identity for found in unlisted for identity in found]
    if unknown:
        notes.append(
            f"{tell_number(len(unknown), 'instance')} of class ids that Cityscapes doesn't score "
            f"({list_some(unknown)}): not counted"
        )
    return summarize("cityscapes", len(pairs), mean, per_class, notes, join_replicas(drawn))


def add_averages(
    averages: Mapping[str, Any],
    prefix: str,
    mean: dict[str, Any],
    per_class: dict[str, dict[str, Any]],
) -> None:
    """Add the script's averages to the means and to the classes' scores."""
    mean |= {f"{prefix}ap": averages["allAp"], f"{prefix}ap50": averages["allAp50%"]}
    for name, scores in averages["classes"].items():
        found = {f"{prefix}ap": scores["ap"], f"{prefix}ap50": scores["ap50%"]}
        per_class.setdefault(name, {}).update(found)


def load_evaluator() -> Any:
    """Import the script of the instance task, made to work with this NumPy."""
    from cityscapesscripts.evaluation import (
        evalInstanceLevelSemanticLabeling as evaluator,  # noqa: N813, its name
    )

    # NumPy 2.4 dropped in1d; the script calls it still (mcordts/cityscapesScripts#196).
    evaluator.np = SimpleNamespace(**{**vars(np), "in1d": np.isin})
    return evaluator


def match_instances(
    truth: Path, array: NDArray[Any], masks: Mapping[str, Any], evaluator: Any, settings: Any
) -> dict[str, Any]:
    """Match the predicted masks of an image with its true instances, as the script does.

    Args:
        truth: The instance map.
        array: (H, W) its ids.
        masks: Class and score by the mask's file, of classes that are scored.
        evaluator: Of `load_evaluator`.
        settings: The script's arguments.

    Raises:
        FileFormatError: The instance map holds a class that Cityscapes lacks.
    """
    from cityscapesscripts.evaluation.instances2dict import instances2dict

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
    return {"groundTruth": found, "prediction": predicted}


def average_matches(matches: Sequence[Any], evaluator: Any, settings: Any) -> Any:
    """Average the precision over all images, as the script does, by class and overlap."""
    precision = np.zeros((1, len(settings.instLabels), len(settings.overlaps)))
    for place in np.ndindex(precision.shape):
        one = copy(settings)
        one.instLabels = [settings.instLabels[place[1]]]
        one.overlaps = settings.overlaps[place[2] : place[2] + 1]
        # Where all that is predicted of a class is ignored, the script crashes instead of finding
        # nothing (mcordts/cityscapesScripts#89).
        with contextlib.suppress(IndexError):
            precision[place] = evaluator.evaluateMatches(dict(enumerate(matches)), one).item()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return evaluator.computeAverages(precision, settings)


def pair_lists(preds: Path, labels: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Pair instance maps with their lists; name the lists that have no instance map."""
    entries = list_entries(labels, (".png",), what="instance maps", recursive=True)
    maps = sort_by_name(entries, labels)
    lists = sort_by_name(list_entries(preds, (".txt",), what="lists", recursive=True), preds)
    check_complete(preds, sorted(set(maps) - set(lists)), len(maps))
    return [(path, lists[name]) for name, path in maps.items()], sorted(set(lists) - set(maps))


def read_instance_map(path: Path) -> NDArray[Any]:
    """Read the (H, W) ids of an instance map.

    Raises:
        FileFormatError: The file is missing, broken or in colours.
    """
    with open_picture(path, "instance map") as picture:
        array = np.array(picture)
    if array.ndim != 2:
        raise FileFormatError(f"{path}: colours; expected instance ids in 16-bit grey.")
    return array


def check_mask(mask: Path, truth: Path, shape: tuple[int, ...]) -> None:
    """Refuse a mask of another size, or of which the script would see other pixels."""
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
