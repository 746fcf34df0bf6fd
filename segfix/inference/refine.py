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
    Entry,
    OffsetMap,
    read_label_map,
    read_offset_map,
    write_label_map,
)
from segfix.formats.records import content_digest
from segfix.geometry import apply_offsets, fit_offsets, follow_offsets
from segfix.inference.batch import check_output, output_path

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


def refine(
    label_map: NDArray[_Scalar],
    offset_map: OffsetMap,
    *,
    scale: float | None = None,
    iterate: int = 0,
    min_confidence: float = 0.0,
) -> NDArray[_Scalar]:
    """Refine a label map.

    Args:
        label_map: (H, W) ids of any type, or (H, W, C) colours (of 8 bytes at most) or floating
            soft predictions.
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
    vectors = offset_map.vectors(min_confidence)
    if iterate:
        return follow_offsets(label_map, vectors, max_steps=iterate)
    if scale is None:
        fitted = fit_offsets(class_ids(label_map), vectors, offset_map.confidence_map())
        return apply_offsets(label_map, fitted, scale=1)
    return apply_offsets(label_map, vectors, scale=scale)


def class_ids(label_map: NDArray[Any]) -> NDArray[np.integer[Any]]:
    """(H, W) ids of a label map of any kind: arg-max of soft predictions, colours as numbers."""
    ids: NDArray[np.integer[Any]]
    if label_map.ndim == 2:
        ids = label_map
    elif label_map.dtype.kind == "f":
        ids = label_map.argmax(axis=2)
    else:
        ids = np.zeros(label_map.shape[:2], np.int64)
        for channel in range(label_map.shape[2]):
            ids = (ids << 8 * label_map.itemsize) + label_map[..., channel]
    return ids


def refine_file(
    labels: Entry,
    offsets: Entry | None,
    out: Path,
    settings: RefineSettings,
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Refine one label map file.

    Args:
        labels: The label map.
        offsets: Its offset map; None where there is none.
        out: Folder of the result, which keeps stem and kind of the label map.
        settings: How to refine.
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
    path = output_path(out, labels.stem)
    record = {
        "kind": "refined label map",
        "settings": asdict(settings),
        "labels": content_digest(labels.path),
        "offsets": content_digest(offsets.path),
    }
    check_output(path, record, record, overwrite)
    label_map, offset_map = read_label_map(labels.path), read_offset_map(offsets.path)
    if label_map.array.shape[:2] != offset_map.codes.shape:
        height, width = offset_map.codes.shape
        raise SegfixError(
            f"{labels.path}: {label_map.size}, but its offset map {offsets.path} is "
            f"{width}×{height}; predict offsets on images of the label maps' size."
        )
    refined = refine(label_map.array, offset_map, **asdict(settings))
    changed = refined != label_map.array
    moved = int(changed.any(axis=2).sum() if changed.ndim == 3 else changed.sum())
    write_label_map(path, label_map.with_array(refined), record=json.dumps(record, sort_keys=True))
    return {
        "input": str(labels.path),
        "output": str(path),
        "pixels": offset_map.codes.size,
        "changed": moved,
    }
