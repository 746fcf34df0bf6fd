"""How far each pixel of a label map lies from the nearest pixel of another label."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DISTANCE_STEPS = 8
"""Steps of a coded distance in a pixel."""

NO_PREDICTION = 255
"""The code that says that there is no label map."""

WRONG_WITHIN = 12
"""Pixels around a prediction's boundaries within which a network tells what is wrong."""

_REACH = 32
"""Where distances are clipped, pixels: the first whole number beyond what a code can say."""

_ROWS = 64
"""Rows done at a time, so that they stay in the processor's cache."""

_CODES = np.minimum(
    np.rint(DISTANCE_STEPS * np.sqrt(np.arange(_REACH**2 + 1))), NO_PREDICTION - 1
).astype(np.uint8)


def label_distance(label_map: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Measure how far each pixel lies from the nearest pixel of another label.

    Along rows first. Of the pixels above and below, those beyond a change of label needn't be told
    from the others: the change itself is nearer.

    Args:
        label_map: (H, W) class ids.

    Returns:
        (H, W) min(round(8 · d), 254), d the Euclidean distance in pixels, so at least 8; 254 where
        no other label is near. Never 255, which stands for no prediction.

    Example:
        >>> label_distance(np.array([[0, 0, 0], [0, 0, 1]]))
        array([[18, 11,  8],
               [16,  8,  8]], dtype=uint8)

    Reference:
        Felzenszwalb and Huttenlocher, Distance Transforms of Sampled Functions, Theory of
        Computing 2012: squared distances are separable.
    """
    height, width = label_map.shape
    codes = np.empty((height, width), np.uint8)
    along_columns = _steps(label_map)
    along_rows = np.full((height + 2 * _REACH, width), _REACH**2, np.int16)
    along_rows[_REACH:-_REACH] = np.square(_steps(label_map.T).T, dtype=np.int16)
    for top in range(0, height, _ROWS):
        nearest = np.square(along_columns[top : top + _ROWS], dtype=np.int16)
        rows = len(nearest)
        np.minimum(nearest, along_rows[top + _REACH :][:rows], out=nearest)
        for step in range(1, _REACH):
            above, below = (along_rows[top + _REACH + by :][:rows] for by in (-step, step))
            candidate = np.minimum(above, below)
            candidate += step**2
            np.minimum(nearest, candidate, out=nearest)
        codes[top : top + rows] = _CODES[nearest]
    return codes


def _steps(label_map: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Count the rows to the next other label in the same column, at most `_REACH`."""
    steps = np.full_like(label_map, _REACH, np.uint8)
    change = label_map[1:] != label_map[:-1]
    steps[1:][change] = 1
    steps[:-1][change] = 1
    by = 1
    while by < _REACH:
        np.minimum(steps[by:], steps[:-by] + np.uint8(by), out=steps[by:])
        np.minimum(steps[:-by], steps[by:] + np.uint8(by), out=steps[:-by])
        by *= 2
    return steps
