"""Refinement: each boundary pixel of a label map takes the label its offset leads to."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from segfix.errors import SegfixError
from segfix.formats import (
    LABEL_SUFFIXES,
    Entry,
    LabelMap,
    OffsetMap,
    read_label_map,
    read_offset_map,
    write_label_map,
)
from segfix.formats.label_maps import kind_of_array
from segfix.formats.records import content_digest
from segfix.formats.tiff import GEO_REFERENCE
from segfix.geometry import apply_offsets, fit_offsets, follow_offsets
from segfix.inference.batch import check_output, output_path
from segfix.inference.sizes import Fit, match_sizes

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True)
class RefineSettings:
    """How a label map is refined.

    Attributes:
        scale: Steps per offset; None: as many as fit the label map.
        iterate: Instead of one scaled step, follow the offsets for up to this many steps; 0: don't.
        min_confidence: Pixels less confident than this keep their label.
    """

    scale: float | None = None
    iterate: int = 0
    min_confidence: float = 0.0


@dataclass(frozen=True)
class FileSettings:
    """How a prediction's file is read, and what of it is written.

    Attributes:
        soft: Whether integers are scores, too, not ids.
        key: The array of an .npz file that is meant; None: the largest.
        fit: What is resized where prediction and offset map differ in size; None: it is an error.
        argmax: Whether scores become a label map.
    """

    soft: bool = False
    key: str | None = None
    fit: Fit | None = None
    argmax: bool = False


def refine(
    label_map: NDArray[_Scalar],
    offset_map: OffsetMap,
    *,
    scale: float | None = None,
    iterate: int = 0,
    min_confidence: float = 0.0,
) -> NDArray[_Scalar]:
    """Refine a label map or a soft prediction.

    Args:
        label_map: (H, W) ids of any type or, if floats with fractions, scores of the foreground;
            (H, W, 3 or 4) uint8 colours; (C, H, W) or (H, W, C) scores of classes: probabilities
            or logits, of which every channel is looked up alike.
        offset_map: Of the same photograph, of the same size.
        scale: Steps per offset: a pixel on the boundary takes the label found there (the paper's
            rule, with 2 for semantic label maps and 1 for instance masks). None: the step fits the
            label map, see `segfix.geometry.fit_offsets`.
        iterate: Instead of one scaled step, follow the offsets for up to this many steps.
        min_confidence: Pixels less confident than this keep their label.

    Returns:
        A new array like `label_map`. It holds no value that `label_map` lacks, and pixels off the
        predicted boundary keep theirs.

    Raises:
        ValueError: The sizes differ.

    Example:
        >>> boundary, right = np.array([[True, False, False]]), np.full((1, 3), 4, np.uint8)
        >>> offset_map = OffsetMap.encode(boundary, right)
        >>> refine(np.array([[1, 2, 3]]), offset_map)
        array([[2, 2, 3]])
        >>> refine(np.array([[1, 2, 3]]), offset_map, scale=2)
        array([[3, 2, 3]])

    Reference:
        Yuan et al., SegFix, ECCV 2020, eq. 1.
    """
    size = offset_map.codes.shape
    first = label_map.ndim == 3 and label_map.shape[:2] != size and label_map.shape[1:] == size
    whole = LabelMap(label_map, kind_of_array(label_map), channels_first=first)
    settings = RefineSettings(scale, iterate, min_confidence)
    return refine_planes(whole, offset_map, settings).array


def refine_planes(label_map: LabelMap, offset_map: OffsetMap, settings: RefineSettings) -> LabelMap:
    """Refine a label map of any kind, all its channels alike; see `refine`."""
    vectors, scale = offset_map.vectors(settings.min_confidence), settings.scale
    if settings.iterate:
        refined = follow_offsets(label_map.planes, vectors, max_steps=settings.iterate)
    else:
        if scale is None:
            vectors = fit_offsets(label_map.ids(), vectors, offset_map.confidence_map())
            scale = 1
        refined = apply_offsets(label_map.planes, vectors, scale=scale)
    return label_map.with_planes(refined)


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
        The paths, the number of pixels and of those whose label changed.

    Raises:
        Skipped: The result is there already.
        SegfixError: A file is missing or broken, or the sizes differ.
    """
    if labels.problem:
        raise SegfixError(labels.problem)
    if offsets is None:
        raise SegfixError(
            f"{labels.path}: no offset map of that name; run predict-offsets on its image."
        )
    path = result_path(labels, out, argmax=reading.argmax)
    record = {
        "kind": "refined label map",
        "settings": {**asdict(settings), **asdict(reading)},
        "labels": content_digest(labels.path),
        "offsets": content_digest(offsets.path),
    }
    check_output(path, record, record, overwrite)
    found = read_label_map(labels.path, soft=reading.soft, key=reading.key, masks=True)
    offset_map = read_offset_map(offsets.path)
    if reading.argmax and found.kind != "scores":
        raise SegfixError(f"{labels.path}: {found.kind}, not scores; leave --argmax out.")
    height, width = offset_map.codes.shape
    try:
        label_map, offset_map = match_sizes(found, offset_map, reading.fit)
    except ValueError as error:
        raise SegfixError(
            f"{labels.path}: {found.size}, but its offset map {offsets.path} is "
            f"{width}×{height}; --fit image enlarges or reduces the prediction to that, "
            "--fit labels the offset map."
        ) from error
    if label_map.shape != found.shape and GEO_REFERENCE & found.rest.get("tags", {}).keys():
        raise SegfixError(
            f"{labels.path}: its geo-reference wouldn't fit another size; use --fit labels."
        )
    refined = refine_planes(label_map, offset_map, settings)
    if label_map.kind == "scores":
        ids = refined.ids()
        changed = ids != label_map.ids()
        if reading.argmax:
            refined = LabelMap(ids, rest={"turned": refined.rest.get("turned", 1)})
    else:
        changed = refined.array != label_map.array
    write_label_map(path, refined, record=json.dumps(record, sort_keys=True))
    return {
        "input": str(labels.path),
        "output": str(path),
        "pixels": offset_map.codes.size,
        "changed": int(changed.any(axis=2).sum() if changed.ndim == 3 else changed.sum()),
    }


def result_path(labels: Entry, out: Path, *, argmax: bool = False) -> Path:
    """Where the refined file goes: of the same name, but a PNG file where scores become ids."""
    suffix = labels.path.suffix
    known = suffix.lower() in LABEL_SUFFIXES and not argmax
    return output_path(out, labels.stem, suffix if known else ".png")
