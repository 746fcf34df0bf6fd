"""Hausdorff distance (HD95) and surface Dice (NSD) of label maps, as medical imaging has them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.geometry.targets import IGNORE_INDEX
from segfix.metrics import class_numbers, valid_pixels

SURFACE_SCORES = {"hd95": "HD95", "nsd": "surface Dice"}
"""Keys, and what tables call them."""


@dataclass(frozen=True)
class SurfaceSettings:
    """How surfaces are compared.

    Attributes:
        tolerance: Of surface Dice, in the unit of `spacing`.
        spacing: Height and width of a pixel, mm; None counts in pixels.
    """

    tolerance: float
    spacing: tuple[float, float] | None = None


def surface_scores(
    preds: NDArray[Any],
    target: NDArray[Any],
    classes: NDArray[np.integer[Any]],
    settings: SurfaceSettings,
    *,
    ignore_index: int | None = IGNORE_INDEX,
) -> NDArray[np.float64]:
    """Compare the surfaces of each class's two masks in one image.

    A surface is the pixels of a mask with one of their four neighbours outside of it or of the
    image; void is left out of both masks. HD95 is the larger of the 95th percentiles of the
    distances from one surface to the other; surface Dice, the share of the pixels of both surfaces
    that lie within the tolerance of the other.

    Args:
        preds: (H, W) ids.
        target: (H, W) ids.
        classes: (K,) ascending ids to score.
        settings: Tolerance and spacing.
        ignore_index: The void id; None where there is none.

    Returns:
        (K, 3): HD95, in the unit of the spacing, surface Dice in [0, 1], and 1; all 0 for a class
        in neither map. Of a class in one map alone, HD95 is the image's diagonal, surface Dice 0.

    Reference:
        Nikolov et al., Deep learning to achieve clinically applicable segmentation, 2018, for
        surface Dice; distances and the sums over pixels are those of MONAI.
    """
    from scipy import ndimage

    valid = valid_pixels(target, ignore_index)
    found, true = (class_numbers(ids, classes, valid) for ids in (preds, target))
    spacing = settings.spacing or (1, 1)
    diagonal = math.hypot(*(n * length for n, length in zip(target.shape, spacing, strict=True)))
    # A distance that is the tolerance but for its last digit is within it.
    within = settings.tolerance * (1 + 1e-9)
    scores = np.zeros((len(classes), 3))
    boxes = [ndimage.find_objects(numbers + 1, len(classes)) for numbers in (found, true)]
    for number, held in enumerate(zip(*boxes, strict=True)):
        if None in held:
            if any(held):
                scores[number] = diagonal, 0, 1
            continue
        window = tuple(
            slice(min(side.start for side in sides), max(side.stop for side in sides))
            for sides in zip(*held, strict=True)
        )
        surfaces = [_surface(numbers[window] == number) for numbers in (found, true)]
        distances = [
            ndimage.distance_transform_edt(~other, sampling=spacing)[one]
            for one, other in (surfaces, surfaces[::-1])
        ]
        near = sum(np.count_nonzero(there <= within) for there in distances)
        farthest = max(np.percentile(there, 95) for there in distances)
        scores[number] = farthest, near / sum(map(len, distances)), 1
    return scores


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy import ndimage

    surface: NDArray[np.bool_] = mask & ~ndimage.binary_erosion(mask)
    return surface


def summarize_surfaces(sums: NDArray[np.float64]) -> dict[str, Any]:
    """Average `surface_scores` over images, then over classes, JSON-ready.

    Args:
        sums: (K, 3), summed over images.

    Returns:
        `mean`, by key of `SURFACE_SCORES`, and `class`, a list of K for each; None where no image
        has the class.
    """
    averages = sums[:, :2] / np.where(sums[:, 2:] > 0, sums[:, 2:], np.nan)
    known = averages[sums[:, 2] > 0]
    means = known.mean(axis=0).tolist() if len(known) else [None, None]
    per_class = [[None if np.isnan(v) else float(v) for v in column] for column in averages.T]
    return {
        "mean": dict(zip(SURFACE_SCORES, means, strict=True)),
        "class": dict(zip(SURFACE_SCORES, per_class, strict=True)),
    }
