"""E-measure, against that of Fan et al."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from segfix.metrics import e_measure
from tests.metrics.label_maps import blobs, mask_pairs


def fan_measure(preds: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    """`Enhancedmeasure` as Fan et al. have it, pixel by pixel, as a mean over pixels."""
    found, true = preds.astype(float).ravel(), target.astype(float).ravel()
    if true.sum() == 0:
        return float(np.mean(1 - found))
    if true.sum() == true.size:
        return float(np.mean(found))
    enhanced = []
    mean_found, mean_true = found.mean(), true.mean()
    for p, g in zip(found, true, strict=True):
        align_p, align_g = p - mean_found, g - mean_true
        align = 2 * align_g * align_p / (align_g**2 + align_p**2 + np.finfo(float).eps)
        enhanced.append((align + 1) ** 2 / 4)
    return float(np.mean(enhanced))


def measured(preds: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    true, found, hits = (np.array(mask.sum(), float) for mask in (target, preds, preds & target))
    return float(e_measure(true, found, hits, preds.size))


@given(mask_pairs)
def test_e_measure_equals_that_of_fan_et_al(
    masks: tuple[NDArray[np.bool_], NDArray[np.bool_]],
) -> None:
    assert measured(*masks) == pytest.approx(fan_measure(*masks), abs=1e-9)


@pytest.mark.parametrize("true", [False, True])
@pytest.mark.parametrize("share", [0, 3, 25])
def test_e_measure_of_an_empty_or_a_full_ground_truth(true: bool, share: int) -> None:
    target = np.full((5, 5), true)
    preds = np.arange(25).reshape(5, 5) < share
    expected = share / 25 if true else 1 - share / 25
    assert measured(preds, target) == pytest.approx(expected)
    assert fan_measure(preds, target) == pytest.approx(expected)


@pytest.mark.parametrize("found", [False, True])
def test_e_measure_of_an_empty_or_a_full_prediction_is_a_quarter(found: bool) -> None:
    target = np.arange(24).reshape(4, 6) < 7
    assert measured(np.full((4, 6), found), target) == 0.25


@pytest.mark.parametrize("seed", range(3))
def test_e_measure_of_blobs_and_of_their_opposite(seed: int) -> None:
    preds, target = blobs(seed), np.roll(blobs(seed), (1, 2), axis=(0, 1))
    assert measured(preds, target) == pytest.approx(fan_measure(preds, target), abs=1e-12)
    assert measured(target, target) == 1
    assert measured(~target, target) == 0
