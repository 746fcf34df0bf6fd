"""Large photographs in overlapping tiles, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator

Box = tuple[slice, slice]

TILE = 1792
"""Rows and columns of a tile that are kept: a multiple of the network's largest stride."""

MARGIN = 128
"""Pixels looked at around them: see `tests/bench/tiles.py` for what that leaves of a difference."""


def tile_boxes(
    height: int, width: int, *, tile: int = TILE, margin: int = MARGIN
) -> Iterator[tuple[Box, Box]]:
    """Cut a picture into tiles.

    Args:
        height: Of the picture, pixels.
        width: Of the picture, pixels.
        tile: Side of what is kept of a tile, pixels.
        margin: What else is looked at on each side, as far as the picture goes.

    Yields:
        What to look at, in the picture; and what to keep, in the picture.

    Example:
        >>> [(look[1], keep[1]) for look, keep in tile_boxes(9, 10, tile=6, margin=2)][:2]
        [(slice(0, 8, None), slice(0, 6, None)), (slice(4, 10, None), slice(6, 10, None))]
    """
    # What the margin would take in anyway is no tile of its own.
    rows, cols = (
        [(start, min(start + tile, size)) for start in range(0, size, tile)]
        for size in (height, width)
    )
    for top, bottom in rows:
        for left, right in cols:
            look = (
                slice(max(top - margin, 0), min(bottom + margin, height)),
                slice(max(left - margin, 0), min(right + margin, width)),
            )
            yield look, (slice(top, bottom), slice(left, right))
