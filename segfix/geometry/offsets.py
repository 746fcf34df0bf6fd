"""From directions to offsets, and from offsets to a refined label map."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from segfix.geometry.directions import unit_offsets

_Scalar = TypeVar("_Scalar", bound=np.generic)

OFFSET_SCALE = 2
"""Steps per offset for semantic label maps with m = 4 and 8 (SegFix, Section 3.1)."""


def direction_to_offsets(
    boundary_mask: NDArray[np.bool_], direction_map: NDArray[np.uint8], num_directions: int = 8
) -> NDArray[np.int8]:
    """Convert sectors to the unit offset of every boundary pixel.

    Args:
        boundary_mask: (H, W) bool.
        direction_map: (H, W) sectors, 255 where undefined.
        num_directions: m, one of 4, 8, 16.

    Returns:
        (2, H, W) int8, pixels, rows first: (0, 0) off the boundary and where no direction is
        defined.

    Raises:
        ValueError: `num_directions` is not one of 4, 8, 16.

    Example:
        >>> direction_to_offsets(np.array([[True, True, False]]), np.array([[4, 255, 0]], np.uint8))
        array([[[0, 0, 0]],
        <BLANKLINE>
               [[1, 0, 0]]], dtype=int8)
    """
    steps = np.zeros((256, 2), np.int8)
    steps[:num_directions] = unit_offsets(num_directions)
    return np.ascontiguousarray(np.moveaxis(steps[direction_map] * boundary_mask[..., None], -1, 0))


def apply_offsets(
    label_map: NDArray[_Scalar],
    vectors: NDArray[np.integer[Any]],
    *,
    scale: float = OFFSET_SCALE,
) -> NDArray[_Scalar]:
    """Give each pixel the label found at the end of its offset.

    refined[p] = label_map[clip(p + round(scale · offset[p]))] (SegFix, eq. 1): the same as
    `grid_sample(mode="nearest", padding_mode="border", align_corners=True)` in pixel units, for
    whole steps; of a fractional scale the step is rounded, whatever pixel it starts from.

    Args:
        label_map: (H, W) ids of any type, or (H, W, C) colours or soft predictions.
        vectors: (2, H, W) integers, pixels, rows first.
        scale: Factor on the offsets; 2 for semantic label maps, 1 for instance masks.

    Returns:
        A new array like `label_map`. It holds no value that `label_map` lacks, and pixels whose
        offset is (0, 0) keep theirs.

    Raises:
        ValueError: The two maps differ in height or width, or `scale` is not finite.

    Example:
        >>> apply_offsets(np.array([[1, 1, 2, 2]]), np.array([[[0, 0, 0, 0]], [[0, 0, -1, 1]]]))
        array([[1, 1, 1, 2]])
    """
    if not math.isfinite(scale):
        raise ValueError(f"Expected a finite scale but got {scale}.")
    rows, cols = _moving_pixels(label_map, vectors)
    # A float factor, or products beyond 127 would wrap around in int8.
    dy, dx = (np.rint(float(scale) * axis[rows, cols]).astype(np.intp) for axis in vectors)
    refined = label_map.copy()
    refined[rows, cols] = label_map[_clipped(rows + dy, cols + dx, label_map.shape)]
    return refined


def follow_offsets(
    label_map: NDArray[_Scalar], vectors: NDArray[np.integer[Any]], *, max_steps: int = 10
) -> NDArray[_Scalar]:
    """Give each pixel the first label off the boundary that the offsets lead to.

    From pixel to pixel each one's own offset is followed, unscaled, until one whose offset is
    (0, 0), or for `max_steps` steps: the second scheme of the paper (SegFix, Section 3.1).

    Args:
        label_map: (H, W) ids of any type, or (H, W, C) colours or soft predictions.
        vectors: (2, H, W) integers, pixels, rows first.
        max_steps: Where the boundary hasn't ended by then, the pixel reached gives the label.

    Returns:
        A new array like `label_map`, with the guarantees of `apply_offsets`.

    Raises:
        ValueError: The two maps differ in height or width, or `max_steps` is below 1.

    Example:
        >>> follow_offsets(np.array([[1, 2, 3, 4]]), np.array([[[0, 0, 0, 0]], [[0, -1, -1, 0]]]))
        array([[1, 1, 1, 4]])
    """
    if max_steps < 1:
        raise ValueError(f"Expected max_steps to be at least 1 but got {max_steps}.")
    moving = rows, cols = _moving_pixels(label_map, vectors)
    for _ in range(max_steps):
        dy, dx = vectors[0][rows, cols], vectors[1][rows, cols]
        if not (dy.any() or dx.any()):
            break
        rows, cols = _clipped(rows + dy, cols + dx, label_map.shape)
    refined = label_map.copy()
    refined[moving] = label_map[rows, cols]
    return refined


def _moving_pixels(
    label_map: NDArray[Any], vectors: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find rows and columns of the pixels whose offset is not (0, 0)."""
    if vectors.shape != (2, *label_map.shape[:2]):
        raise ValueError(
            f"Expected vectors of shape {(2, *label_map.shape[:2])} but got {vectors.shape}."
        )
    # Three times as fast as np.nonzero of two axes.
    places = np.flatnonzero((vectors[0] != 0) | (vectors[1] != 0))
    rows, cols = np.divmod(places, max(label_map.shape[1], 1))
    return rows, cols


def _clipped(
    rows: NDArray[np.intp], cols: NDArray[np.intp], shape: tuple[int, ...]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.clip(rows, 0, shape[0] - 1), np.clip(cols, 0, shape[1] - 1)
