"""How surely a photograph contradicts a label map: a score of the map, and the regions in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.geometry.label_distance import DISTANCE_STEPS, WRONG_WITHIN, label_distance

TOLERANCE = 2
"""Pixels; annotators and photographs differ by as much at the best of boundaries."""

VOID_TOLERANCE = 3
"""Pixels around void that say nothing: where void ends is no boundary of anything."""

NEIGHBOURHOOD = 16
"""Standard deviation of the window in which wrong pixels count together, pixels."""

TYPICAL_BOUNDARY = 200
"""Pixels of boundary that every map is taken to have in addition: short ones tell little."""

LIKELY, SMALLEST = 0.5, 5.0
"""Regions are pixels likelier wrong than right, so many of them expected to be wrong."""

MOST_REGIONS = 20
"""Regions kept of a map, the heaviest."""


@dataclass(frozen=True)
class Region:
    """A connected region of a label map that is likely wrong.

    Attributes:
        box: x, y, width, height, pixels.
        label: The id that most of it has.
        wrong: Number of its pixels expected to be wrong, the sum of their probabilities.
    """

    box: tuple[int, int, int, int]
    label: int
    wrong: float


@dataclass(frozen=True)
class Suspicion:
    """What contradicts a label map.

    Attributes:
        score: √(share · peak), from 0: ranks label maps; it is no probability.
        share: Pixels expected to be wrong, beyond 2 px from the map's boundaries, per pixel of
            boundary.
        peak: Where they lie most densely, their share of the neighbourhood, in [0, 1].
        regions: The likely wrong regions, heaviest first.
    """

    score: float
    share: float
    peak: float
    regions: tuple[Region, ...]


def find_suspicion(
    label_map: NDArray[np.integer[Any]],
    wrong_map: NDArray[np.floating[Any]],
    *,
    ignore_index: int = 255,
) -> Suspicion:
    """Score how surely a label map is wrong somewhere, and find where.

    Of a shifted map most boundaries are a little wrong, of one bad polygon a few are very wrong:
    the score is the geometric mean of what tells the one and of what tells the other.

    Args:
        label_map: (H, W) ids.
        wrong_map: (H, W) in [0, 1], probability that the pixel's label is wrong.
        ignore_index: Void id: void pixels, and those near them, say nothing.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> labels = np.repeat([[1, 2]], 20, axis=1).repeat(20, axis=0)
        >>> wrong = np.zeros((20, 40))
        >>> wrong[5:15, 14:20] = 0.9
        >>> find_suspicion(labels, wrong).regions
        (Region(box=(14, 5, 4, 10), label=1, wrong=36.0),)
    """
    if wrong_map.shape != label_map.shape:
        raise ValueError(
            f"Expected wrong_map of {label_map.shape}, as label_map is, but got {wrong_map.shape}."
        )
    from scipy import ndimage

    if not label_map.size:
        return Suspicion(0.0, 0.0, 0.0, ())
    void = label_map == ignore_index
    near_void = ndimage.binary_dilation(void, iterations=VOID_TOLERANCE) if void.any() else void
    distance = label_distance(label_map)
    told = (distance > TOLERANCE * DISTANCE_STEPS) & (distance <= WRONG_WITHIN * DISTANCE_STEPS)
    wrong = np.where(told & ~near_void, wrong_map, 0).astype(np.float32)
    beside = int(((distance == DISTANCE_STEPS) & ~near_void).sum())
    share = float(wrong.sum(dtype=np.float64)) / (beside + TYPICAL_BOUNDARY)
    dense = ndimage.gaussian_filter(wrong, NEIGHBOURHOOD, mode="constant", truncate=3)
    peak = float(dense.max())
    return Suspicion(float(np.sqrt(share * peak)), share, peak, find_regions(label_map, wrong))


def find_regions(
    label_map: NDArray[np.integer[Any]], wrong: NDArray[np.float32]
) -> tuple[Region, ...]:
    """Find connected regions that are likely wrong, heaviest first; see `find_suspicion`."""
    from scipy import ndimage

    numbered, count = ndimage.label(wrong > LIKELY, structure=np.ones((3, 3)))
    weights = ndimage.sum_labels(wrong, numbered, np.arange(1, count + 1))
    boxes = ndimage.find_objects(numbered)
    found = []
    for place in np.argsort(-weights, kind="stable")[:MOST_REGIONS]:
        if weights[place] < SMALLEST:
            break
        rows, columns = boxes[place]
        ids = label_map[boxes[place]][numbered[boxes[place]] == place + 1]
        values, counts = np.unique(ids, return_counts=True)
        box = (
            *(columns.start, rows.start),
            *(columns.stop - columns.start, rows.stop - rows.start),
        )
        label = int(values[counts.argmax()])
        found.append(Region(box, label, round(float(weights[place]), 1)))
    return tuple(found)
