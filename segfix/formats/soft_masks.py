"""Grey levels of soft masks, told from ids."""

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


def check_hard(path: Path, array: NDArray[Any]) -> None:
    """Refuse grey levels of a soft mask, which would be taken for ids.

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
            advice="add --soft where there is such an option (one band), or write levels above the "
            "middle as 1 and others as 0",
        )


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
    return len(np.unique(array[inner])) >= FEWEST_LEVELS
