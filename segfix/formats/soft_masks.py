"""Grey levels of soft masks, and photographs, told from ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import FileFormatError

NEAR_END = 16
"""Levels of 256 that count as nearly background or nearly foreground."""

MOST_BETWEEN, FEWEST_LEVELS, FEWEST_PIXELS = 0.2, 3, 32
"""Of a label map's pixels above 0 and below 255, at most 0.4 % lie between the values of two
opposite neighbours (500 label maps and predictions of 12 data sets); of masks that were reduced,
enlarged, turned, blurred or compressed, 30 % or more. Fewer levels or pixels say nothing."""

SAMPLED_ROWS, FEWEST_COLOURS = 64, 65
"""Of a picture that may be a photograph; a label map of fewer colours may be noise."""

FEWEST_CHANGES, LARGEST_CHANGE = 0.3, 12
"""In most rows of photographs, more than this share of the pixels differ from their neighbour, and
the median of these differences is no larger. In rows of label maps 1 % differ, and of noise of so
many ids the median is 18 or more."""

PHOTOGRAPH = "colours or grey levels that change from pixel to pixel, as a photograph's do, not ids"
ADD_SOFT = "add --soft, which fix, refine and predict-offsets have"
EXPORT_IDS = (
    "where a command takes both, the photograph comes first; else export ids as PNG (grey levels "
    f"that are scores: {ADD_SOFT})"
)


def check_hard(path: Path, array: NDArray[Any]) -> None:
    """Refuse grey levels of a soft mask, and photographs, which would be taken for ids.

    Args:
        path: The file, for messages.
        array: Of `is_soft_mask`.

    Raises:
        FileFormatError: They are.
    """
    if is_soft_mask(array):
        raise FileFormatError(
            "grey levels of a soft mask (antialiased, blurred, or probabilities), not ids",
            path=path,
            advice=f"{ADD_SOFT} (one band), or write levels above the middle as 1 and others as 0",
        )
    if is_photograph(array):
        raise FileFormatError(PHOTOGRAPH, path=path, advice=EXPORT_IDS)


def is_soft_mask(array: NDArray[Any]) -> bool:
    """Tell whether whole numbers are evidently grey levels of a mask, not ids.

    Most pixels are nearly black or nearly white, with levels between them that form slopes instead
    of regions.

    Args:
        array: (H, W) of any type, or (H, W, C) colours, which may all be grey.

    Example:
        >>> slope = np.tile(np.array([0, 0, 0, 63, 127, 191, 255, 255, 255], np.uint8), (16, 1))
        >>> is_soft_mask(slope), is_soft_mask(slope // 64)
        (True, False)
    """
    if array.ndim == 3:
        # Of grey with alpha there is no other; of colours, a few rows tell at once.
        colours = array[..., : 1 if array.shape[2] == 2 else 3]
        if not all((part == part[..., :1]).all() for part in (colours[::97], colours)):
            return False
        array = array[..., 0]
    if array.dtype == bool or min(array.shape) < 3:
        return False
    lowest, highest = array.min(), array.max()
    if array.dtype == np.uint16 and highest > 255:
        array, lowest, highest = array >> 8, lowest >> 8, highest >> 8
    # Of NaN, neither holds.
    if not (0 <= lowest < NEAR_END and 128 <= highest <= 255):
        return False
    array = array.astype(np.uint8, copy=False)
    inner = (array > 0) & (array < 255)
    number = int(inner.sum())
    near = (array < NEAR_END) | (array >= 256 - NEAR_END)
    if not number or 2 * int(near.sum()) < array.size:
        return False
    between = np.zeros(array.shape, np.bool_)
    for axis in (0, 1):
        values, found = (np.moveaxis(one, axis, 0) for one in (array, between))
        before, here, after = values[:-2], values[1:-1], values[2:]
        found[1:-1] |= ((before < here) & (here < after)) | ((before > here) & (here > after))
    if int((between & inner).sum()) < max(MOST_BETWEEN * number, FEWEST_PIXELS):
        return False
    return count_values(array[inner]) >= FEWEST_LEVELS


def is_photograph(array: NDArray[Any]) -> bool:
    """Tell whether 8-bit colours or grey levels are evidently a photograph's, not ids.

    Nearly every pixel differs from its neighbour, by little. Only a few rows are looked at.

    Args:
        array: (H, W) of any type, or (H, W, C) colours, the last of 2 or 4 channels being alpha.

    Example:
        >>> columns = np.arange(400)
        >>> wave = (128 + 100 * np.sin(columns / 20)).astype(np.uint8)
        >>> is_photograph(np.tile(wave, (20, 1))), is_photograph(np.tile(wave // 50, (20, 1)))
        (True, False)
    """
    if array.dtype != np.uint8 or min(array.shape[:2]) < 8:
        return False
    rows = array[:: -(-len(array) // SAMPLED_ROWS)].reshape(-1, *array.shape[1:2], array[0, 0].size)
    opaque = np.ones(rows.shape[:2], np.bool_)
    if rows.shape[2] in (2, 4):
        rows, opaque = rows[..., :-1], rows[..., -1] > 0
    colours = np.zeros(rows.shape[:2], np.int64)
    for place in range(rows.shape[2]):
        colours |= rows[..., place].astype(np.int64) << 8 * place
    if count_values(colours[opaque]) < FEWEST_COLOURS:
        return False
    steps = np.diff(rows.astype(np.int16), axis=1)
    # Ids that are merely counted, as of a grid, rise alone.
    if 8 * min((steps > 0).sum(), (steps < 0).sum()) < (steps != 0).sum():
        return False
    sizes = np.abs(steps).max(axis=2)
    telling = opaque[:, 1:] & opaque[:, :-1]
    found = [row[seen] for row, seen in zip(sizes, telling, strict=True) if seen.any()]
    like = [
        (row > 0).mean() > FEWEST_CHANGES and np.median(row[row > 0]) <= LARGEST_CHANGE
        for row in found
    ]
    return bool(2 * sum(like) > len(like))


def count_values(array: NDArray[Any]) -> int:
    """Count the different values of (N,) integers."""
    # np.unique imports masked arrays, which takes longer than to refine a small file.
    ordered = np.sort(array)
    return int((ordered[1:] != ordered[:-1]).sum()) + min(len(ordered), 1)
