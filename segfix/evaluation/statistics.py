"""Counts of one image that add up over a set, and the scores that they give."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.geometry.boundary_regions import accuracy_radii, number_regions
from segfix.geometry.targets import IGNORE_INDEX, distance_map
from segfix.metrics import (
    boundary_accuracy_shares,
    boundary_iou_counts,
    class_boundary_f,
    class_numbers,
    e_measure,
    valid_pixels,
)

BANDS = (1, 2, 3, 4, 5, 10, 20, 50)
"""Upper limits of the bands of distance to a true boundary, pixels; a last one goes on for ever."""

RADII = (1, 2, 3)
"""Tolerances of the boundary F-score, pixels."""

RELATIVE_RADII = (0.0003, 0.0006, 0.0009)
"""Tolerances as shares of the image's diagonal, rounded up to pixels."""

_F_SCORES = (*(f"f_{radius}px" for radius in RADII), *(f"f_{radius}" for radius in RELATIVE_RADII))
_LAYOUT = (
    *((name, len(BANDS) + 1) for name in ("true", "predicted", "hits")),
    ("boundary_iou", 2),
    ("mba", 2),
    ("f", len(_F_SCORES)),
    ("e", 1),
    ("present", 1),
)
_ENDS = np.cumsum([width for _, width in _LAYOUT]).tolist()
COLUMNS = {name: slice(end - width, end) for (name, width), end in zip(_LAYOUT, _ENDS, strict=True)}
"""What the columns of statistics hold: pixels by band, true, predicted and both; intersection and
union of inner bands; shares of `boundary_accuracy_shares`; sums over images of boundary F-scores
and E-measure; images with the class."""

NUM_COLUMNS = _ENDS[-1]

CHANGES = ("moved", "fixed", "broken")
"""What `change_counts` counts."""

SCORES = {
    "iou": "mIoU",
    **{f"f_{radius}px": f"F@{radius}px" for radius in RADII},
    **{f"f_{radius}": f"F@{radius}" for radius in RELATIVE_RADII},
    "boundary_iou": "boundary IoU",
    "f1": "F1",
    "e_measure": "E-measure",
    **{f"trimap_iou_{width}px": f"trimap mIoU {width}px" for width in BANDS},
    "mba": "mBA",
    "pixel_accuracy": "pixel accuracy",
}
"""Keys of scores, and what tables call their means."""


@dataclass(frozen=True)
class Surroundings:
    """How near each pixel of a ground truth is to another label, void being a label.

    Attributes:
        bands: (H, W) from 0, at most `BANDS[0]` px away, to `len(BANDS)`, beyond the last.
        regions: (H, W) of `number_regions`, for mean boundary accuracy.
    """

    bands: NDArray[np.int64]
    regions: NDArray[np.int64]


def measure_surroundings(target: NDArray[Any], *, ignore_index: int | None) -> Surroundings:
    """Number bands and regions along the boundaries of (H, W) true ids; both are 0 on void."""
    distances = distance_map(target, ignore_index=ignore_index)
    return Surroundings(
        np.searchsorted(np.array(BANDS, np.float32), distances),
        number_regions(target, distances, accuracy_radii(target.shape)),
    )


def class_statistics(
    preds: NDArray[Any],
    target: NDArray[Any],
    classes: NDArray[np.integer[Any]],
    surroundings: Surroundings,
    *,
    ignore_index: int | None = IGNORE_INDEX,
    absent: str = "skip",
) -> NDArray[np.float64]:
    """Count the statistics of one image.

    Args:
        preds: (H, W) predicted ids.
        target: (H, W) true ids.
        classes: (K,) ascending ids to score; others predicted are wrong.
        surroundings: Of the true ids.
        ignore_index: The void id; None where there is none.
        absent: "one" counts a class that is in neither map as a boundary F-score and E-measure of
            1, as the released script does; "skip" leaves the image out of that class's mean.

    Returns:
        (K, `NUM_COLUMNS`), see `COLUMNS`. Those of a set are the sum over its images.
    """
    valid = valid_pixels(target, ignore_index)
    num_classes, num_bands = len(classes), len(BANDS) + 1
    found, true = (class_numbers(ids, classes, valid) for ids in (preds, target))
    statistics = np.zeros((num_classes, NUM_COLUMNS))
    for name, numbers in (
        ("true", true),
        ("predicted", found),
        ("hits", np.where(found == true, true, -1)),
    ):
        places = ((numbers + 1) * num_bands + surroundings.bands)[valid]
        counts = np.bincount(places, minlength=(num_classes + 1) * num_bands)
        statistics[:, COLUMNS[name]] = counts.reshape(-1, num_bands)[1:]
    statistics[:, COLUMNS["boundary_iou"]] = boundary_iou_counts(
        preds, target, classes, ignore_index=ignore_index
    )
    statistics[:, COLUMNS["mba"]] = boundary_accuracy_shares(
        preds, target, classes, surroundings.regions, ignore_index=ignore_index
    )
    diagonal = math.hypot(*target.shape)
    radii = [*RADII, *(math.ceil(share * diagonal) for share in RELATIVE_RADII)]
    ascending = sorted(set(radii))
    f_scores = class_boundary_f(preds, target, classes, radii=ascending, ignore_index=ignore_index)[
        :, [ascending.index(radius) for radius in radii]
    ]
    true_pixels, predicted, hits = (
        statistics[:, COLUMNS[name]].sum(axis=1) for name in ("true", "predicted", "hits")
    )
    present = true_pixels + predicted > 0
    e_scores = e_measure(true_pixels, predicted, hits, max(int(valid.sum()), 1))
    scores = np.column_stack([np.nan_to_num(f_scores), e_scores, present])
    scores[~present] = 1 if absent == "one" else 0
    statistics[:, COLUMNS["f"].start :] = scores
    return statistics


def change_counts(
    before: NDArray[Any],
    after: NDArray[Any],
    target: NDArray[Any],
    classes: NDArray[np.integer[Any]],
    bands: NDArray[np.int64],
    *,
    ignore_index: int | None = IGNORE_INDEX,
) -> NDArray[np.int64]:
    """Count the pixels of each true class and band that were moved, fixed and broken.

    Returns:
        (K, B, 3): pixels whose label differs; those now right; those that were right.
    """
    valid = valid_pixels(target, ignore_index)
    moved = np.nonzero(valid & (before != after))
    true = class_numbers(target[moved], classes, np.ones(len(moved[0]), bool))
    right = [
        np.ones(true.shape, bool),
        after[moved] == target[moved],
        before[moved] == target[moved],
    ]
    shape = (len(classes) + 1, len(BANDS) + 1)
    places = (true + 1) * shape[1] + bands[moved]
    counts = [np.bincount(places[kind], minlength=shape[0] * shape[1]) for kind in right]
    return np.stack(counts, axis=1).reshape(*shape, 3)[1:]


def class_scores(statistics: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Compute the scores of each class.

    Args:
        statistics: (…, K, `NUM_COLUMNS`), summed over images.

    Returns:
        For each key of `SCORES` but `mba` and `pixel_accuracy`, (…, K) in [0, 1]; NaN where a class
        has no score: for boundary F and E-measure, it is in neither map of any image; for the
        others, the labels don't hold it (there).
    """
    columns = {name: statistics[..., columns] for name, columns in COLUMNS.items()}
    within = {name: columns[name].cumsum(axis=-1) for name in ("true", "predicted", "hits")}
    true, predicted, hits = within.values()
    iou = _ratio(hits, true + predicted - hits, true > 0)
    occurs = true[..., -1] > 0
    band_hits, band_union = columns["boundary_iou"][..., 0], columns["boundary_iou"][..., 1]
    images = columns["present"][..., 0]
    return {
        "iou": iou[..., -1],
        **{
            name: _ratio(columns["f"][..., i], images, images > 0)
            for i, name in enumerate(_F_SCORES)
        },
        "boundary_iou": _ratio(band_hits, band_union, occurs),
        "f1": _ratio(2 * hits[..., -1], (true + predicted)[..., -1], occurs),
        "e_measure": _ratio(columns["e"][..., 0], images, images > 0),
        **{f"trimap_iou_{width}px": iou[..., i] for i, width in enumerate(BANDS)},
    }


def mean_scores(statistics: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Average `class_scores` over the classes that have one; add those that no class has.

    Args:
        statistics: (…, K, `NUM_COLUMNS`), summed over images.

    Returns:
        For each key of `SCORES`, (…) in [0, 1]; NaN where nothing counts.
    """
    means = {}
    for name, scores in class_scores(statistics).items():
        counted = ~np.isnan(scores)
        means[name] = _ratio(np.nansum(scores, axis=-1), counted.sum(axis=-1), counted.any(axis=-1))
    accuracy, images = np.moveaxis(statistics[..., COLUMNS["mba"]].sum(axis=-2), -1, 0)
    means["mba"] = _ratio(accuracy, images, images > 0)
    hits, true = (statistics[..., COLUMNS[name]].sum(axis=(-2, -1)) for name in ("hits", "true"))
    means["pixel_accuracy"] = _ratio(hits, true, true > 0)
    return means


def _ratio(part: NDArray[np.float64], whole: NDArray[Any], defined: Any) -> NDArray[np.float64]:
    return np.where(defined, part / np.where(defined, whole, 1), np.nan)
