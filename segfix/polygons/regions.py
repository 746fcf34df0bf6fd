"""An area of a photograph as annotation tools store it: one outline, or a mask in a box."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.polygons.tracing import join_rings, list_rings

MOST_CROSSINGS = 16_000_000
"""Of an outline with the rows of its image."""

FAULTS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
"""What broken documents raise where they are read."""


@dataclass(frozen=True, eq=False)
class Region:
    """An area of a photograph.

    Attributes:
        points: (N, 2) x and y of the outline, which is filled by the even-odd rule; pixels whose
            edges are whole numbers, or see `scale`.
        mask: (h, w) bool, instead of an outline.
        corner: Column and row of the mask's first pixel.
        scale: Width and height of the photograph in the unit of `points`: 1, or 100 for percent;
            None: pixels.
        rings: Number of points of each ring, where there are several or they may reach far beyond
            the photograph.
        group: What the regions of one object have in common; None: it is an object of its own.
        fault: Why the area can't be read; "": it can.
    """

    points: NDArray[np.float64] | None = None
    mask: NDArray[np.bool_] | None = None
    corner: tuple[int, int] = (0, 0)
    scale: float | None = None
    rings: Sequence[int] = ()
    group: Hashable = None
    fault: str = ""

    def digest(self) -> str:
        """Digest what the region is, to notice when it has changed."""
        content = np.asarray(self.points if self.mask is None else self.mask)
        text = f"{content.shape} {self.corner} {self.scale}".encode()
        return hashlib.blake2b(text + content.tobytes(), digest_size=16).hexdigest()

    def with_area(self, area: Any, size: tuple[int, int]) -> Region:
        """Replace what the region is by a shapely area in pixels of an image of (height, width)."""
        ring = join_rings(list_rings(area))
        points = ring if self.scale is None else ring / size[::-1] * self.scale
        return replace(self, points=points, mask=None)

    def with_mask(self, mask: NDArray[np.bool_]) -> Region:
        """Replace what the region is by a mask (H, W) of the image, of which some is marked."""
        rows, cols = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        box = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        return replace(self, points=None, mask=box, corner=(int(cols[0]), int(rows[0])))


@dataclass(frozen=True)
class AnnotatedImage:
    """What a file says of one photograph.

    Attributes:
        names: File names or paths that the photograph may have, likeliest first.
        regions: Its areas, in the order of the file.
        size: Height and width, where the file states them.
        identity: What messages call it; None: nothing, since the file is of it alone.
        others: How many objects have no area, of files in which that is worth a word.
    """

    names: Sequence[str]
    regions: Sequence[Region]
    size: tuple[int, int] | None = None
    identity: int | str | None = None
    others: int = 0


def decode_region(
    region: Region, size: tuple[int, int], stated: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Decode the mask of a region.

    Args:
        region: The region.
        size: Height and width of the photograph.
        stated: The same in words of the file.

    Returns:
        (height, width) 0 or 1: the pixels whose centres lie inside.

    Raises:
        ValueError: The sizes differ, or the region has a fault or reaches beyond the photograph.
    """
    if region.fault:
        raise ValueError(region.fault)
    height, width = size
    if stated is not None and tuple(stated) != size:
        raise ValueError(f"{stated[1]}×{stated[0]} pixels, not {width}×{height}")
    if region.mask is not None:
        (left, top), (rows, cols) = region.corner, region.mask.shape
        if min(left, top) < 0 or left + cols > width or top + rows > height:
            raise ValueError(f"a mask up to {left + cols}×{top + rows}, not {width}×{height}")
        mask = np.zeros(size, np.uint8)
        mask[top : top + rows, left : left + cols] = region.mask
        return mask
    points = np.asarray(region.points, np.float64)
    if region.rings:
        return fill_outline(points, size, region.rings)
    if region.scale is not None:
        points = points / region.scale * (width, height)
    # Editors let one draw a little beyond the edge.
    low, high = points.min(axis=0), points.max(axis=0)
    if not (low >= -2).all() or not (high <= (width + 2, height + 2)).all():
        raise ValueError(
            f"points from {low[0]:g}, {low[1]:g} to {high[0]:g}, {high[1]:g}, outside of "
            f"{width}×{height} pixels"
        )
    return fill_outline(points, size)


def fill_outline(
    points: NDArray[np.float64], size: tuple[int, int], rings: Sequence[int] = ()
) -> NDArray[np.uint8]:
    """Mark the pixels whose centres lie inside of an outline, by the even-odd rule.

    Args:
        points: (N, 2) x and y, pixels.
        size: Height and width of the result.
        rings: Number of points of each ring; (): there is one.

    Returns:
        (height, width) 0 or 1.

    Raises:
        ValueError: The outline goes to and fro over too many rows.
    """
    height, width = size
    lasts = np.cumsum(rings or [len(points)])
    after = np.arange(1, len(points) + 1)
    after[lasts - 1] = np.concatenate([[0], lasts[:-1]])
    (x, y), (next_x, next_y) = points.T, points[after].T
    # Rows whose centre an edge crosses, its lower end left out.
    first, end = (
        np.clip(np.ceil(ends - 0.5), 0, height).astype(np.int64)
        for ends in (np.minimum(y, next_y), np.maximum(y, next_y))
    )
    counts = end - first
    total = int(counts.sum())
    if total > MOST_CROSSINGS:
        raise ValueError(f"an outline that crosses {total} rows")
    edge = np.repeat(np.arange(len(points)), counts)
    row = np.arange(total) - np.repeat(counts.cumsum() - counts, counts) + first[edge]
    slope = (next_x - x)[edge] / (next_y - y)[edge]
    column = np.ceil(x[edge] + (row + 0.5 - y[edge]) * slope - 0.5)
    column = np.clip(column, 0, width).astype(np.int64)
    mask = np.zeros(size, np.uint8)
    if total:
        top, left = int(row.min()), int(column.min())
        shape = int(row.max()) + 1 - top, int(column.max()) + 1 - left
        place = (row - top) * shape[1] + column - left
        turns = np.bincount(place, minlength=shape[0] * shape[1]).reshape(shape)
        # A crossing in the last column lies right of the frame.
        inside = (turns.cumsum(axis=1) & 1).astype(np.uint8)[:, : width - left]
        mask[top : top + shape[0], left : left + inside.shape[1]] = inside
    return mask
