"""Refine files: label maps, soft predictions and arrays of masks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import SegfixError
from segfix.files import Pair, list_entries, pair_entries
from segfix.files.provenance import content_digest, read_record
from segfix.formats import (
    LABEL_SUFFIXES,
    LabelMap,
    OffsetMap,
    read_label_map,
    read_offset_map,
    write_label_map,
)
from segfix.formats.tiff import GEO_REFERENCE
from segfix.instances.listing import holds_instances
from segfix.jobs.run import Summary, run_task
from segfix.jobs.run_settings import RunSettings
from segfix.jobs.sources import check_folders, check_results, list_offsets
from segfix.jobs.task import Job, Output, Row, Task
from segfix.jobs.urls import stage_urls
from segfix.refinement.apply import (
    RefineSettings,
    keep_ids,
    made_for_another,
    refine_masks,
    refine_planes,
)
from segfix.refinement.sizes import Fit, match_sizes

KIND = "refined label map"
"""What the record of a result says that it is."""

MOST_CLASSES = 255
"""Label maps with higher ids are taken to tell instances apart, none of which may get lost."""


@dataclass(frozen=True)
class FileSettings:
    """How a prediction's file is read, and what of it is written.

    Attributes:
        soft: Whether integers are scores, too, not ids.
        key: The array of an .npz file that is meant; None: the largest.
        fit: What is resized where prediction and offset map differ in size; None: it is an error.
        argmax: Whether scores become a label map.
        drop_empty: Whether masks and instance ids of which nothing is left are left out, not kept
            as they were.
    """

    soft: bool = False
    key: str | None = None
    fit: Fit | None = None
    argmax: bool = False
    drop_empty: bool = False


def refine_folder(
    preds: Path | str,
    offsets: Path | str = "offsets",
    out: Path | str = "refined",
    *,
    settings: RefineSettings = RefineSettings(),
    reading: FileSettings = FileSettings(),
    annotations: Path | None = None,
    recursive: bool = False,
    naming: Mapping[str, Any] | None = None,
    **run: Any,
) -> Summary:
    """Refine a folder of predictions, as `segfix refine` does.

    Args:
        preds: A prediction or a folder of them: label maps, arrays, or files of instances; may be
            a URL, as `offsets` and `out`.
        offsets: Offset maps of their photographs.
        out: Folder of the results, which keep names and kinds of the predictions.
        settings: How to refine.
        reading: How predictions are read, and what of them is written.
        annotations: COCO JSON with the file names of image ids, for instances.
        recursive: Whether to go into folders within.
        naming: `suffixes` and `name_map` of `segfix.files.pair_entries`.
        run: `workers`, `shard`, `overwrite`, `max_failures`, `quiet`, `cluster` of
            `segfix.jobs.run_settings.RunSettings`.

    Returns:
        Rows of the files written (`done`, each with its number of pixels and of those `changed`),
        paths of those that were there (`skipped`), and a text for each failure (`failed`).

    Raises:
        SegfixError: There is nothing to refine or to pair.

    Example:
        >>> summary = refine_folder("preds", "offsets", "refined")  # doctest: +SKIP
        >>> sum(row["changed"] for row in summary.done)  # doctest: +SKIP
        20812
    """
    spread = RunSettings(**run)
    listed: dict[str, Any] = {"recursive": recursive, "naming": naming}
    with stage_urls(preds, offsets, out=out, recursive=recursive) as (source, maps, folder):
        if holds_instances(source, recursive=recursive):
            from segfix.instances.refine_files import refine_instance_files
            from segfix.instances.refine_images import InstanceSettings

            masks = InstanceSettings(settings, drop_empty=reading.drop_empty)
            return refine_instance_files(
                source, maps, folder, masks, spread, annotations=annotations, **listed
            )
        pairs = list_pairs(source, maps, folder, argmax=reading.argmax, **listed)
        return run_task(refine_task(settings, reading), pairs, folder, spread)


def list_pairs(
    preds: Path,
    offsets: Path,
    out: Path,
    *,
    argmax: bool = False,
    recursive: bool = False,
    naming: Mapping[str, Any] | None = None,
) -> list[Pair]:
    """List predictions, each with its offset map.

    Args:
        preds: A prediction or a folder of them.
        offsets: An offset map or a folder of them.
        out: Folder of the results.
        argmax: Whether results are PNG files, of which two must not have the same name.
        recursive: Whether to go into folders within.
        naming: Of `pair_entries`.

    Raises:
        PairingError: There is nothing to list or to pair.
        ArgumentError: A result would replace an input.
    """
    check_folders({"PREDS": preds, "the offset maps": offsets}, out)
    entries = list_entries(
        preds,
        LABEL_SUFFIXES,
        what="predictions",
        recursive=recursive,
        leave_out=[out, offsets],
        one_per_stem=argmax,
    )
    maps = list_offsets(offsets, recursive=recursive, leave_out=[out])
    check_results(
        (out / name_result(entry, argmax=argmax) for entry in entries),
        (entry.path for entry in (*entries, *maps)),
    )
    return pair_entries(entries, maps, **(naming or {}))


def name_result(job: Job, *, argmax: bool = False) -> str:
    """Name the refined file: as its prediction, but a PNG file where scores become ids."""
    suffix = job.entry.path.suffix
    known = suffix.lower() in LABEL_SUFFIXES and not argmax
    return job.entry.stem + (suffix if known else ".png")


def refine_task(
    settings: RefineSettings = RefineSettings(), reading: FileSettings = FileSettings()
) -> Task[Pair]:
    """Make the task of refining label maps, soft predictions and arrays of masks.

    Args:
        settings: How to refine.
        reading: How to read and to write.
    """
    work = partial(refine_file, settings=settings, reading=reading)
    return Task(work, "map", partial(name_result, argmax=reading.argmax), processes=True)


def refine_file(
    pair: Pair, output: Output, *, settings: RefineSettings, reading: FileSettings
) -> Row:
    """Refine one label map or soft prediction file.

    Returns:
        The number of pixels and of those whose label changed; whether the label map had been
        refined before, and whether the offset map was made for another prediction; of masks and
        instance ids, those that would have vanished (`emptied`).
    """
    labels, offsets = pair.entry, pair.partner
    if offsets is None:
        raise SegfixError(
            "no offset map of that name",
            path=labels.path,
            advice="run predict-offsets on its image, or say with --map or --suffix which one it "
            "is",
        )
    record = start_record(labels.path, settings, reading)
    record["offsets"] = content_digest(offsets.path)
    output.check(record)
    label_map, offset_map = read_pair(labels.path, offsets.path, reading)
    record["source"] = offset_map.source
    row: Row = {
        "refined_before": f'"{KIND}"' in (read_record(labels.path) or ""),
        "other_prediction": made_for_another(label_map, offset_map),
    }
    # It has been said.
    offset_map = replace(offset_map, source={})
    refined, lost = refine_whole(label_map, offset_map, settings, keep=not reading.drop_empty)
    if lost is not None:
        row["emptied"] = [{"image": labels.stem, **one} for one in lost]
    if label_map.kind == "scores" or (label_map.kind, label_map.array.dtype.kind) == ("ids", "f"):
        ids = refined.ids()
        changed = ids != label_map.ids()
        if reading.argmax:
            refined = LabelMap(ids, rest={"turned": refined.rest.get("turned", 1)})
    else:
        changed = refined.planes != label_map.planes
    if label_map.kind == "masks" and reading.drop_empty:
        refined = without_masks(refined, [one["place"] for one in lost or ()])
    write_label_map(output.path, refined, record=json.dumps(record, sort_keys=True))
    row["pixels"] = offset_map.codes.size
    row["changed"] = int(changed.any(axis=2).sum() if changed.ndim == 3 else changed.sum())
    return row


def start_record(labels: Path, settings: RefineSettings, reading: FileSettings) -> dict[str, Any]:
    """Begin the record of a result: what it is, how and of which prediction it was made."""
    return {
        "kind": KIND,
        "settings": {**asdict(settings), **asdict(reading)},
        "labels": content_digest(labels),
    }


def read_pair(labels: Path, offsets: Path, reading: FileSettings) -> tuple[LabelMap, OffsetMap]:
    """Read a prediction and its offset map, of one size.

    Raises:
        SegfixError: A file is missing or broken, or the sizes differ.
    """
    offset_map = read_offset_map(offsets)
    height, width = offset_map.codes.shape
    found = read_label_map(
        labels, soft=reading.soft, key=reading.key, masks=True, shape=(height, width)
    )
    # Probabilities that are all 0 or 1 hold no fraction either.
    certain = found.kind == "ids" and found.array.dtype.kind == "f"
    if reading.argmax and certain and np.isin(found.array, (0, 1)).all():
        found = replace(found, kind="scores")
    if reading.argmax and found.kind != "scores":
        raise SegfixError(f"{found.kind}, not scores", path=labels, advice="leave --argmax out")
    try:
        label_map, offset_map = match_sizes(found, offset_map, reading.fit)
    except ValueError as error:
        array_name = f"array {found.rest['key']!r} is " if "key" in found.rest else ""
        raise SegfixError(
            f"{array_name}{found.size}",
            path=labels,
            expected=f"its offset map {offsets} is {width}×{height}",
            advice="--fit image enlarges or reduces the prediction to that, --fit labels the "
            "offset map",
        ) from error
    if label_map.shape != found.shape and GEO_REFERENCE & found.rest.get("tags", {}).keys():
        raise SegfixError(
            "its geo-reference wouldn't fit another size", path=labels, advice="use --fit labels"
        )
    return label_map, offset_map


def refine_whole(
    label_map: LabelMap, offset_map: OffsetMap, settings: RefineSettings, *, keep: bool
) -> tuple[LabelMap, list[dict[str, Any]] | None]:
    """Refine a label map of any kind, and find what would vanish of its instances.

    Args:
        label_map: Ids, colours, scores or masks.
        offset_map: Of the same size.
        settings: How to refine.
        keep: Whether instance ids of which nothing would be left keep their pixels; masks always
            do.

    Returns:
        The refined label map, and the `place` of each mask or each `id` of which nothing would be
        left; None where there are no instances.
    """
    if label_map.kind == "masks":
        refined, empty = refine_or_keep(label_map, offset_map, settings)
        return refined, [{"place": place} for place in np.flatnonzero(empty).tolist()]
    refined = refine_planes(label_map, offset_map, settings)
    if label_map.kind != "ids" or label_map.array.max() <= MOST_CLASSES:
        return refined, None
    moved = np.unique(label_map.array[refined.array != label_map.array]).tolist()
    lost = keep_ids(label_map, refined.array, moved, keep=keep)
    return refined, [{"id": identity} for identity in lost]


def refine_or_keep(
    label_map: LabelMap, offset_map: OffsetMap, settings: RefineSettings
) -> tuple[LabelMap, NDArray[np.bool_]]:
    """Refine masks; those of which nothing would be left stay as they were.

    Args:
        label_map: Of masks, (N, H, W).
        offset_map: Of the same size.
        settings: How to refine.

    Returns:
        The refined masks, and (N,) bool: those of which nothing would be left.
    """
    refined = refine_masks(label_map.array, offset_map, **asdict(settings))
    empty = np.array(~refined.any(axis=(1, 2)))
    refined[empty] = label_map.array[empty]
    return label_map.with_array(refined), empty


def without_masks(label_map: LabelMap, places: list[int]) -> LabelMap:
    """Leave out masks, and their rows in the file's lists of as many things."""
    dropped = np.zeros(len(label_map.array), np.bool_)
    dropped[places] = True
    listed = {
        # Of two masks, an image's height and width are no such list.
        name: array[~dropped]
        if array.ndim and len(array) == len(dropped) and not re.search("size|shape", name)
        else array
        for name, array in label_map.rest.get("arrays", {}).items()
    }
    rest = {**label_map.rest, "arrays": listed}
    return replace(label_map, array=label_map.array[~dropped], rest=rest)
