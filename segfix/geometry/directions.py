"""The compass: m sectors of direction, their angles, their offsets and their mirror images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_DIRECTIONS = (4, 8, 16)
"""The numbers of sectors m that exist."""

UNDEFINED = 255
"""Sector of a pixel that has no direction."""

VANISHING_GRADIENT = 1e-6
"""A gradient shorter than this (SPEC: 1e-6) points nowhere."""


def check_num_directions(num_directions: int) -> None:
    """Raise `ValueError` unless `num_directions` is one of `NUM_DIRECTIONS`."""
    if num_directions not in NUM_DIRECTIONS:
        raise ValueError(
            f"Expected num_directions to be one of {NUM_DIRECTIONS} but got {num_directions}."
        )


def direction_angles(num_directions: int = 8) -> NDArray[np.float64]:
    """Compute the centre of each sector, as the angle atan2(dy, dx) with y down.

    Args:
        num_directions: m, one of 4, 8, 16.

    Returns:
        (m,) degrees, from -180 upwards: centred on the axes for m = 8 and 16, on the diagonals
        for m = 4 (SegFix, Fig. 5a), in the order of the released code.

    Raises:
        ValueError: `num_directions` is not one of 4, 8, 16.

    Example:
        >>> direction_angles(4)
        array([-135.,  -45.,   45.,  135.])
        >>> direction_angles(8)
        array([-180., -135.,  -90.,  -45.,    0.,   45.,   90.,  135.])
    """
    check_num_directions(num_directions)
    first = -135.0 if num_directions == 4 else -180.0
    return np.linspace(first, first + 360.0, num_directions, endpoint=False)


def quantize_directions(
    dy: NDArray[Any], dx: NDArray[Any], num_directions: int = 8
) -> NDArray[np.uint8]:
    """Cut the angles of vectors into m equal sectors.

    Args:
        dy: Any shape, rows, y down.
        dx: The same shape, columns.
        num_directions: m, one of 4, 8, 16.

    Returns:
        The same shape, sector 0 … m - 1; `UNDEFINED` (255) where the vector is shorter than 1e-6.
        An angle on the border of two sectors belongs to the later one.

    Raises:
        ValueError: `num_directions` is not one of 4, 8, 16.

    Example:
        >>> quantize_directions(np.array([0, -1, 0, 1, 0]), np.array([-1, 0, 1, 1, 0]))
        array([  0,   2,   4,   5, 255], dtype=uint8)
    """
    first = direction_angles(num_directions)[0]
    turn = (np.degrees(np.arctan2(dy, dx)) - first) / (360.0 / num_directions)
    sectors = np.asarray(np.floor(turn + 0.5) % num_directions).astype(np.uint8)
    sectors[np.hypot(dy, dx) < VANISHING_GRADIENT] = UNDEFINED
    return sectors


def unit_offsets(num_directions: int = 8) -> NDArray[np.int8]:
    """Compute the integer step of each sector.

    Args:
        num_directions: m, one of 4, 8, 16.

    Returns:
        (m, 2) pixels, (dy, dx): the four diagonals for m = 4, the eight neighbours for m = 8, the
        ring at Chebyshev radius 2 for m = 16.

    Raises:
        ValueError: `num_directions` is not one of 4, 8, 16.

    Example:
        >>> unit_offsets(4).tolist()
        [[-1, -1], [-1, 1], [1, 1], [1, -1]]
        >>> unit_offsets(8).tolist()
        [[0, -1], [-1, -1], [-1, 0], [-1, 1], [0, 1], [1, 1], [1, 0], [1, -1]]
    """
    angles = np.radians(direction_angles(num_directions))
    steps = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    radius = 2 if num_directions == 16 else 1
    ring: NDArray[np.float64] = radius * steps / np.abs(steps).max(axis=1, keepdims=True)
    return np.rint(ring).astype(np.int8)


def flip_direction_map(
    direction_map: NDArray[np.uint8], num_directions: int = 8, *, axis: int = 1
) -> NDArray[np.uint8]:
    """Mirror a direction map: the pixels change places and the sectors change names.

    Args:
        direction_map: (H, W) sectors, 255 where undefined.
        num_directions: m, one of 4, 8, 16.
        axis: 1 mirrors left and right, 0 mirrors up and down.

    Returns:
        (H, W) sectors of the mirrored scene; twice the same flip gives the input back.

    Raises:
        ValueError: `num_directions` is not one of 4, 8, 16, or `axis` not one of 0, 1.

    Example:
        >>> flip_direction_map(np.array([[0, 1, 255]], np.uint8))
        array([[255,   3,   4]], dtype=uint8)
    """
    if axis not in (0, 1):
        raise ValueError(f"Expected axis to be 0 or 1 but got {axis}.")
    angles = np.radians(direction_angles(num_directions))
    dy, dx = np.sin(angles), np.cos(angles)
    names = np.full(256, UNDEFINED, np.uint8)
    names[:num_directions] = quantize_directions(
        -dy if axis == 0 else dy, -dx if axis == 1 else dx, num_directions
    )
    return names[np.flip(direction_map, axis)]
