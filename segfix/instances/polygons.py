"""Polygons traced around the mask of an instance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BOTTOM_RIGHT = 8
TWO_CORNERS = {9: ((0, 0), (1, 1)), 6: ((0, 1), (1, 0))}
"""Where two pixels meet at a corner, by the sum of bits below: which of the two edges along the
row, and along the column, each of the two outlines takes, so that the pixels stay apart."""

Ring = list[tuple[int, int]]
"""Corners x, y of an outline, the first to the right of which is its topmost edge."""


def trace_polygons(mask: NDArray[Any]) -> list[list[int]]:
    """Trace the outline of a mask along the edges of its pixels.

    Args:
        mask: (H, W) bool, or 0 and 1.

    Returns:
        A polygon of each part, x and y in turn, that encloses its pixels exactly. A hole is joined
        to the outline above it by a cut to and fro. Pixels that meet at a corner alone are parts of
        their own.

    Example:
        >>> trace_polygons(np.array([[0, 1, 1], [0, 1, 1]]))
        [[1, 0, 3, 0, 3, 2, 1, 2]]
    """
    rings: list[Ring] = []
    for ring, hole in trace_rings(np.asarray(mask) != 0):
        if hole:
            join_hole(rings, ring)
        else:
            rings.append(ring)
    return [[value for point in ring for value in point] for ring in rings]


def trace_rings(mask: NDArray[np.bool_]) -> list[tuple[Ring, bool]]:
    """Trace outlines and the edges of holes, from top to bottom; each begins at the top left."""
    bits = np.pad(mask, 1).astype(np.uint8)
    around = bits[:-1, :-1] + 2 * bits[:-1, 1:] + 4 * bits[1:, :-1] + BOTTOM_RIGHT * bits[1:, 1:]
    y, x = np.nonzero(np.isin(around, (1, 2, 4, 6, 7, 8, 9, 11, 13, 14)))
    kind = around[y, x]
    number = np.where(np.isin(kind, list(TWO_CORNERS)), 2, 1)
    copy = np.arange(number.sum()) - np.repeat(number.cumsum() - number, number)
    y, x, kind = (np.repeat(array, number) for array in (y, x, kind))
    along_column = np.where(kind == 6, 1 - copy, copy)
    # Along a row or a column, corners begin and end edges in turn.
    partners = []
    for order in (np.lexsort((copy, x, y)), np.lexsort((along_column, y, x))):
        partner = np.empty(len(order), np.intp)
        partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]
        partners.append(partner.tolist())
    right, down = partners
    points = list(zip(x.tolist(), y.tolist(), strict=True))
    outer = (kind & BOTTOM_RIGHT > 0).tolist()
    rings, seen = [], np.zeros(len(points), np.bool_)
    for start in range(len(points)):
        if seen[start]:
            continue
        ring: Ring = []
        here = start
        while not ring or here != start:
            there = right[here]
            seen[here] = seen[there] = True
            ring += [points[here], points[there]]
            here = down[there]
        rings.append((ring, not outer[start]))
    return rings


def join_hole(rings: Sequence[Ring], hole: Ring) -> None:
    """Insert a hole into the outline that lies next above its first corner."""
    x, y = hole[0]
    best: tuple[int, Ring, int] | None = None
    for ring in rings:
        for place in range(len(ring) - 1):
            (left, height), (right, same) = ring[place], ring[place + 1]
            above = height == same < y and min(left, right) <= x <= max(left, right)
            if above and (best is None or height > best[0]):
                best = height, ring, place + 1
    if best is not None:
        height, ring, place = best
        ring[place:place] = [(x, height), *hole, hole[0], (x, height)]
