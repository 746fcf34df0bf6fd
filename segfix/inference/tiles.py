"""Large photographs in overlapping tiles, so that memory stays bounded."""

from __future__ import annotations

import math
from collections.abc import Iterator

Box = tuple[slice, slice]

TILE, MARGIN = 1792, 128
"""Pixels of a tile's side that are kept at most, and that are looked at around it; the network's
largest stride divides both. What difference is left: `tests/bench/tiles.py`."""

STRIDE = 32
"""Where tiles begin at multiples of it, the network sees the same grid as in the whole picture."""


def tile_boxes(
    height: int, width: int, *, tile: int = TILE, margin: int = MARGIN
) -> Iterator[tuple[Box, Box]]:
    """Cut a picture into tiles of about equal size.

    Args:
        height: Of the picture, pixels.
        width: Of the picture, pixels.
        tile: Side of what is kept of a tile, pixels, about; up to two margins more are one tile.
        margin: What else is looked at on each side, as far as the picture goes.

    Yields:
        Rows and columns to look at, and those to keep, in the picture.

    Example:
        >>> for look, keep in tile_boxes(50, 150, tile=64, margin=32):
        ...     print(look[1], keep[1])
        slice(0, 128, None) slice(0, 96, None)
        slice(64, 150, None) slice(96, 150, None)
    """
    rows, cols = (_cuts(size, tile, margin) for size in (height, width))
    for top, bottom in rows:
        for left, right in cols:
            look = (
                slice(max(top - margin, 0), min(bottom + margin, height)),
                slice(max(left - margin, 0), min(right + margin, width)),
            )
            yield look, (slice(top, bottom), slice(left, right))


def _cuts(size: int, tile: int, margin: int) -> list[tuple[int, int]]:
    count = max(1, math.ceil((size - 2 * margin) / tile))
    step = STRIDE * math.ceil(size / count / STRIDE)
    return [(start, min(start + step, size)) for start in range(0, size, step)]
