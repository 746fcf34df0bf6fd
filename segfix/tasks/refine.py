"""Refine files: label maps, soft predictions and arrays of masks."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segfix.errors import SegfixError
from segfix.files import Entry, Pair, list_entries, pair_entries
from segfix.files.pairing import choose_kind
from segfix.files.provenance import NOT_TAKEN, content_digest, read_record
from segfix.formats import (
    LABEL_SUFFIXES,
    LabelMap,
    OffsetMap,
    write_label_map,
)
from segfix.formats.arguments import as_path, describe
from segfix.formats.label_maps import NO_ID
from segfix.instances.listing import holds_instances
from segfix.jobs.run import Summary, run_task
from segfix.jobs.run_settings import RunSettings
from segfix.jobs.sources import check_folders, check_results, list_offsets
from segfix.jobs.task import Job, Output, Row, Task
from segfix.jobs.urls import stage_urls
from segfix.refinement.apply import (
    RefineSettings,
    made_for_another,
    refine_masks,
    refine_planes,
    restore_ids,
)
from segfix.refinement.kept_ids import find_kept
from segfix.refinement.little_change import explain_little_change
from segfix.refinement.orientation import ASSUMED
from segfix.tasks.predictions import FileSettings, read_pair

KIND = "refined label map"
"""What the record of a result says that it is."""

MOST_CLASSES = 255
"""Label maps with higher ids are taken to tell instances apart, none of which may get lost."""


def check_passes(passes: int) -> None:
    """Raise `ValueError` unless an argument is how often to refine."""
    given: Any = passes
    if not isinstance(given, int) or given < 1:
        raise ValueError(f"Expected passes as a number from 1 on but got {describe(given)}.")


@dataclass(frozen=True)
class Begun:
    """What several passes began with.

    Attributes:
        prediction: Its file.
        record: Of the result of the last pass, but for its offset map.
    """

    prediction: Entry
    record: Mapping[str, Any]


def refine_folder(
    preds: Path | str,
    offsets: Path | str = "offsets",
    out: Path | str = "refined",
    *,
    settings: RefineSettings = RefineSettings(),
    reading: FileSettings = FileSettings(),
    annotations: Path | None = None,
    form: Literal["polygons", "rle"] | None = None,
    simplify: float = 0.5,
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
        settings: How to refine; its `keep` names ids that neither give nor take.
        reading: How predictions are read, and what of them is written.
        annotations: COCO JSON with the file names of image ids, for instances.
        form: What all instances in files become; None: they stay polygons or masks.
        simplify: How far polygons may leave the pixels' edges to have fewer vertices, pixels.
        recursive: Whether to go into folders within.
        naming: `suffixes` and `name_map` of `segfix.files.pair_entries`.
        run: `workers`, `shard`, `overwrite`, `max_failures`, `quiet`, `cluster` of
            `segfix.jobs.run_settings.RunSettings`.

    Returns:
        Rows of the files written (`done`, each with its number of pixels and of those `changed`),
        paths of those that were there (`skipped`), and a text for each failure (`failed`).

    Raises:
        TypeError: An argument is no path, or no settings.
        SegfixError: There is nothing to refine or to pair.

    Example:
        >>> summary = refine_folder("preds", "offsets", "refined")  # doctest: +SKIP
        >>> sum(row["changed"] for row in summary.done)  # doctest: +SKIP
        20812
    """
    for name, value in {"preds": preds, "offsets": offsets, "out": out}.items():
        as_path(value, name)
    if not isinstance(settings, RefineSettings):
        raise TypeError(f"Expected settings as RefineSettings but got {describe(settings)}.")
    spread = RunSettings(**run)
    listed: dict[str, Any] = {"recursive": recursive, "naming": naming}
    with stage_urls(preds, offsets, out=out, recursive=recursive) as (source, maps, folder):
        if holds_instances(source, recursive=recursive):
            from segfix.instances.refine_files import refine_instance_files
            from segfix.instances.refine_images import InstanceSettings

            masks = InstanceSettings(settings, reading.drop_empty, form, simplify)
            return refine_instance_files(
                source, maps, folder, masks, spread, annotations=annotations, **listed
            )
        passed = Counter[str]()
        pairs = list_pairs(
            source, maps, folder, argmax=reading.argmax, passed_over=passed, **listed
        )
        task = refine_task(settings, reading)
        return run_task(task, pairs, folder, spread, passed_over=passed)


def list_pairs(
    preds: Path,
    offsets: Path,
    out: Path,
    *,
    argmax: bool = False,
    recursive: bool = False,
    naming: Mapping[str, Any] | None = None,
    passed_over: Counter[str] | None = None,
) -> list[Pair]:
    """List predictions, each with its offset map.

    Args:
        preds: A prediction or a folder of them.
        offsets: An offset map or a folder of them.
        out: Folder of the results.
        argmax: Whether results are PNG files, of which two must not have the same name.
        recursive: Whether to go into folders within.
        naming: Of `pair_entries`.
        passed_over: Of `list_entries`.

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
        passed_over=passed_over,
    )
    entries = choose_kind(entries, **(naming or {}), passed_over=passed_over)
    maps = list_offsets(offsets, recursive=recursive, leave_out=[out])
    check_results(
        (out / name_result(entry, argmax=argmax) for entry in entries),
        (entry.path for entry in (*entries, *maps)),
    )
    return pair_entries(entries, maps, leave=NOT_TAKEN["offset map"], **(naming or {}))


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
    name = partial(name_result, argmax=reading.argmax)
    return Task(work, "map", name, processes=True, takes="label map")


def refine_file(
    pair: Pair,
    output: Output,
    *,
    settings: RefineSettings,
    reading: FileSettings,
    like: str | None = None,
    begun: Begun | None = None,
) -> Row:
    """Refine one label map or soft prediction file.

    Args:
        pair: The file and its offset map.
        output: The refined file.
        settings: How to refine.
        reading: How to read and to write.
        like: See `read_pair`.
        begun: Where passes went before, what they began with: the row and the record are of that.

    Returns:
        The number of pixels and of those whose label changed; whether the label map had been
        refined before, and whether the offset map was made for another prediction; ids that were
        kept; why almost nothing changed, if so; of masks and instance ids, those that would have
        vanished (`emptied`).
    """
    labels, offsets = pair.entry, pair.partner
    if offsets is None:
        raise SegfixError(
            "no offset map of that name",
            path=labels.path,
            advice="run predict-offsets on its image, or say with --map or --suffix which one it "
            "is",
        )
    first = begun.prediction if begun else labels
    record = dict(begun.record) if begun else start_record(labels.path, settings, reading)
    record["offsets"] = content_digest(offsets.path)
    output.check(record)
    label_map, offset_map = read_pair(labels.path, offsets.path, reading, like)
    if settings.keep and label_map.kind == "masks":
        raise SegfixError("masks, which have no ids", path=labels.path, advice="leave --keep out")
    check_photograph(labels.path, offsets.path, offset_map, record["labels"])
    record.setdefault("source", offset_map.source)
    row: Row = {
        "refined_before": f'"{KIND}"' in (read_record(first.path) or ""),
        "other_prediction": made_for_another(label_map, offset_map),
        **tell_turn(label_map),
    }
    # It has been said.
    offset_map = replace(offset_map, source={})
    row["kept"], kept = find_kept(label_map, settings.keep)
    restore = not reading.drop_empty
    refined, lost = refine_whole(label_map, offset_map, settings, kept, restore=restore)
    if lost is not None:
        row["emptied"] = [{"image": first.stem, **one} for one in lost]
    if begun:
        label_map, _ = read_pair(first.path, offsets.path, reading, like)
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
    if label_map.kind != "masks":
        row["little"] = explain_little_change(
            label_map, offset_map, settings.min_confidence, row["changed"], kept
        )
    return row


def check_photograph(labels: Path, offsets: Path, offset_map: OffsetMap, digest: str) -> None:
    """Refuse an offset map of a photograph with the label map's digest."""
    if offset_map.source.get("image") == digest and not offset_map.conditioned:
        raise SegfixError(
            f"its offset map {offsets} was made of this very file",
            path=labels,
            expected="its photograph's is needed",
            advice="delete that one, and keep photographs in a folder of their own",
        )


def start_record(
    labels: Path, settings: RefineSettings, reading: FileSettings, passes: int = 1
) -> dict[str, Any]:
    """Begin the record of a result: what it is, how and of which prediction it was made."""
    several = {"passes": passes} if passes > 1 else {}
    return {
        "kind": KIND,
        "settings": {**asdict(settings), **asdict(reading), **several},
        "labels": content_digest(labels),
    }


def tell_turn(label_map: LabelMap) -> Row:
    """Tell how a prediction was turned to its photograph; None: left, without being sure of it."""
    turned = label_map.rest.get("turned", 1)
    if label_map.rest.get(ASSUMED) or turned == label_map.rest.get("orientation", 1):
        return {"turned": None} if label_map.rest.get(ASSUMED) else {}
    return {"turned": turned}


def refine_whole(
    label_map: LabelMap,
    offset_map: OffsetMap,
    settings: RefineSettings,
    kept: NDArray[np.bool_] | None,
    *,
    restore: bool,
) -> tuple[LabelMap, list[dict[str, Any]] | None]:
    """Refine a label map of any kind, and find what would vanish of its instances.

    Args:
        label_map: Ids, colours, scores or masks.
        offset_map: Of the same size.
        settings: How to refine.
        kept: See `refine_planes`.
        restore: Whether instance ids of which nothing would be left get their pixels back; masks
            always do.

    Returns:
        The refined label map, and the `place` of each mask or each `id` of which nothing would be
        left; None where there are no instances.
    """
    if label_map.kind == "masks":
        refined, empty = refine_or_keep(label_map, offset_map, settings)
        if restore:
            # What was empty before stays, and hasn't vanished.
            empty &= label_map.array.any(axis=(1, 2))
        return refined, [{"place": place} for place in np.flatnonzero(empty).tolist()]
    refined = refine_planes(label_map, offset_map, settings, kept)
    if label_map.kind != "ids" or (ids := label_map.ids()).max() <= MOST_CLASSES:
        return refined, None
    moved = np.unique(ids[(refined.ids() != ids) & (ids != NO_ID)]).tolist()
    lost = restore_ids(label_map, refined.array, moved, restore=restore)
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
    how = {name: value for name, value in asdict(settings).items() if name != "keep"}
    refined = refine_masks(label_map.array, offset_map, **how)
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
