"""Large photographs in overlapping tiles, so that memory stays bounded, also when enlarged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[slice, slice]
Size = tuple[int, int]

TILE, MARGIN = 1792, 128
"""Pixels of a tile's side that are kept at most, and that are looked at around it; the network's
largest stride divides both. What difference is left: `tests/bench/tiles.py`."""

STRIDE = 32
"""Where tiles begin at multiples of it, the network sees the same grid as in the whole picture."""

RESAMPLING = (Image.Resampling.NEAREST, *[Image.Resampling.BILINEAR] * 3)
"""How sectors and the two or three probabilities are enlarged. Neither sectors as interpolated
vectors nor a narrower boundary gains more: `tests/bench/scale_input.py`."""


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


def enlarge_tile(
    maps: Sequence[NDArray[np.uint8]], look: Box, keep: Box, seen: Size, full: Size
) -> Iterator[tuple[Box, list[NDArray[np.uint8]]]]:
    """Enlarge a network's answers for a tile of a reduced picture to the picture's size, in pieces.

    Args:
        maps: Of the tile, as `OffsetModel.predict` gives them: sectors are taken from the nearest
            pixel, probabilities interpolated.
        look: Rows and columns of the tile in the reduced picture.
        keep: Those to keep.
        seen: Height and width of the reduced picture.
        full: Height and width of the picture itself.

    Yields:
        Rows and columns of the picture itself, and the maps there; all tiles together fill it.
    """
    pictures = [Image.fromarray(plane) for plane in maps]
    rows, cols = (list(_pieces(*axis)) for axis in zip(look, keep, seen, full, strict=True))
    for (down, top, bottom), (across, left, right) in product(rows, cols):
        size = across.stop - across.start, down.stop - down.start
        # Pixels beyond the box are looked at, too, so that pieces join without a seam.
        yield (
            (down, across),
            [
                np.asarray(picture.resize(size, resampling, (left, top, right, bottom)))
                for picture, resampling in zip(pictures, RESAMPLING, strict=False)
            ],
        )


def _pieces(
    look: slice, keep: slice, small: int, large: int
) -> Iterator[tuple[slice, float, float]]:
    first, last = (edge * large // small for edge in (keep.start, keep.stop))
    for start, stop in _cuts(last - first, TILE, MARGIN):
        edges = first + start, first + stop
        yield slice(*edges), *(edge * small / large - look.start for edge in edges)
