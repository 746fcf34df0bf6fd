"""Regions along the boundaries of a label map, of the radii and discs of mean boundary accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_RADII = 5


def accuracy_radii(shape: tuple[int, ...]) -> list[int]:
    """Compute the radii that mean boundary accuracy is averaged over.

    Args:
        shape: Height and width, pixels.

    Returns:
        `NUM_RADII` ascending pixels, from 1 to about (H + W) / 300; small images have equal ones.

    Example:
        >>> accuracy_radii((1024, 2048))
        [1, 2, 4, 6, 8]
    """
    largest = sum(shape) / 300
    return [1 + int((largest - 1) / NUM_RADII * step) for step in range(NUM_RADII)]


def number_regions(
    label_map: NDArray[Any], distance_map: NDArray[np.float32], radii: Sequence[int]
) -> NDArray[np.int64]:
    """Number the smallest region along the boundaries that each pixel lies in.

    A pixel lies in the region of a radius if the disc around it holds another label, void being a
    label. The disc is OpenCV's of 2 r + 1 pixels, whose rows are rounded, so that it holds a few
    pixels beyond the radius.

    Args:
        label_map: (H, W) integer class ids.
        distance_map: (H, W) of `segfix.geometry.targets.distance_map`.
        radii: R ascending pixels.

    Returns:
        (H, W) from 0, the first radius, to R, in none of them; of equal radii, the first. 0 on
        void.

    Example:
        >>> number_regions(np.array([[1, 1, 1, 2]]), np.array([[3, 2, 1, 1]], np.float32), [1, 2])
        array([[2, 1, 0, 0]])
    """
    regions = np.searchsorted(np.array(radii, np.float32), distance_map)
    labels, distances = label_map.ravel(), distance_map.ravel()
    height, width = label_map.shape
    for number, radius in enumerate(radii):
        if radius in radii[:number]:
            continue
        steps = np.arange(-radius, radius + 1)
        reach = np.rint(np.sqrt(radius**2 - steps**2)).astype(int)
        down, right = np.nonzero(abs(steps) <= reach[:, None])
        down, right = down - radius, right - radius
        beyond = down**2 + right**2 > radius**2
        places = np.flatnonzero((distances > radius) & (distances < radius + 0.5))
        rows, columns = np.divmod(places, width)
        found = np.zeros(len(places), bool)
        for y, x in zip(down[beyond].tolist(), right[beyond].tolist(), strict=True):
            inside = (rows + y >= 0) & (rows + y < height)
            inside &= (columns + x >= 0) & (columns + x < width)
            near = places[inside]
            found[inside] |= labels[near] != labels[near + (y * width + x)]
        there = places[found]
        regions.flat[there] = np.minimum(regions.flat[there], number)
    return regions
