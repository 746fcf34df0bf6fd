"""Refinement of files: label maps, soft predictions and arrays of masks."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import SegfixError
from segfix.files import Entry
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
from segfix.jobs.run import check_output, output_path
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


def refine_file(
    labels: Entry,
    offsets: Entry | None,
    out: Path,
    settings: RefineSettings,
    reading: FileSettings = FileSettings(),
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Refine one label map or soft prediction file.

    Args:
        labels: The label map.
        offsets: Its offset map; None where there is none.
        out: Folder of the result, which keeps name and kind of the label map.
        settings: How to refine.
        reading: How to read and to write.
        overwrite: Whether to replace an existing result.

    Returns:
        The paths, the number of pixels and of those whose label changed, whether the label map had
        been refined before, and whether the offset map was made for another prediction.

    Raises:
        Skipped: The result is there already.
        SegfixError: A file is missing or broken, or the sizes differ.
    """
    if labels.problem:
        raise SegfixError(labels.problem)
    if offsets is None:
        raise SegfixError(
            f"{labels.path}: no offset map of that name; run predict-offsets on its image, or say "
            "with --map or --suffix which one it is."
        )
    path = result_path(labels, out, argmax=reading.argmax)
    record = {
        "kind": KIND,
        "settings": {**asdict(settings), **asdict(reading)},
        "labels": content_digest(labels.path),
        "offsets": content_digest(offsets.path),
    }
    check_output(path, record, record, overwrite)
    offset_map = read_offset_map(offsets.path)
    height, width = offset_map.codes.shape
    found = read_label_map(
        labels.path, soft=reading.soft, key=reading.key, masks=True, shape=(height, width)
    )
    # Probabilities that are all 0 or 1 hold no fraction either.
    certain = found.kind == "ids" and found.array.dtype.kind == "f"
    if reading.argmax and certain and np.isin(found.array, (0, 1)).all():
        found = replace(found, kind="scores")
    if reading.argmax and found.kind != "scores":
        raise SegfixError(f"{labels.path}: {found.kind}, not scores; leave --argmax out.")
    try:
        label_map, offset_map = match_sizes(found, offset_map, reading.fit)
    except ValueError as error:
        array_name = f"array {found.rest['key']!r} is " if "key" in found.rest else ""
        raise SegfixError(
            f"{labels.path}: {array_name}{found.size}, but its offset map {offsets.path} is "
            f"{width}×{height}; --fit image enlarges or reduces the prediction to that, "
            "--fit labels the offset map."
        ) from error
    if label_map.shape != found.shape and GEO_REFERENCE & found.rest.get("tags", {}).keys():
        raise SegfixError(
            f"{labels.path}: its geo-reference wouldn't fit another size; use --fit labels."
        )
    row: dict[str, Any] = {"input": str(labels.path), "output": str(path)}
    row["refined_before"] = f'"{KIND}"' in (read_record(labels.path) or "")
    row["other_prediction"] = made_for_another(label_map, offset_map)
    # It has been said.
    offset_map = replace(offset_map, source={})
    if label_map.kind == "masks":
        refined, empty = refine_or_keep(label_map, offset_map, settings)
        places = np.flatnonzero(empty).tolist()
        row["emptied"] = [{"image": labels.stem, "place": place} for place in places]
    else:
        refined = refine_planes(label_map, offset_map, settings)
    if label_map.kind == "ids" and label_map.array.max() > MOST_CLASSES:
        moved = np.unique(label_map.array[refined.array != label_map.array]).tolist()
        lost = keep_ids(label_map, refined.array, moved, keep=not reading.drop_empty)
        row["emptied"] = [{"image": labels.stem, "id": identity} for identity in lost]
    if label_map.kind == "scores" or (label_map.kind, label_map.array.dtype.kind) == ("ids", "f"):
        ids = refined.ids()
        changed = ids != label_map.ids()
        if reading.argmax:
            refined = LabelMap(ids, rest={"turned": refined.rest.get("turned", 1)})
    else:
        changed = refined.planes != label_map.planes
    if label_map.kind == "masks" and reading.drop_empty:
        refined = without_masks(refined, empty)
    write_label_map(path, refined, record=json.dumps(record, sort_keys=True))
    row["pixels"] = offset_map.codes.size
    row["changed"] = int(changed.any(axis=2).sum() if changed.ndim == 3 else changed.sum())
    return row


def result_path(labels: Entry, out: Path, *, argmax: bool = False) -> Path:
    """Where the refined file goes: of the same name, but a PNG file where scores become ids."""
    suffix = labels.path.suffix
    known = suffix.lower() in LABEL_SUFFIXES and not argmax
    return output_path(out, labels.stem, suffix if known else ".png")


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


def without_masks(label_map: LabelMap, dropped: NDArray[np.bool_]) -> LabelMap:
    """Masks without some of them, and without their rows in the file's lists of as many things."""
    listed = {
        # Of two masks, an image's height and width are no such list.
        name: array[~dropped]
        if array.ndim and len(array) == len(dropped) and not re.search("size|shape", name)
        else array
        for name, array in label_map.rest.get("arrays", {}).items()
    }
    rest = {**label_map.rest, "arrays": listed}
    return replace(label_map, array=label_map.array[~dropped], rest=rest)
