"""Boundary IoU, against that of Cheng et al."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from segfix.metrics import boundary_iou_counts, inner_band
from tests.metrics.label_maps import STEMS, VOID, crop, predictions


def cheng_band(mask: NDArray[np.bool_], ratio: float = 0.02) -> NDArray[np.bool_]:
    """`mask_to_boundary` as Cheng et al. have it: the mask less the mask eroded d times."""
    height, width = mask.shape
    dilation_px = max(1, round(ratio * math.sqrt(height**2 + width**2)))
    padded = np.pad(mask, 1)  # "to make sure mask truncated by image border is also eroded"
    eroded = ndimage.binary_erosion(padded, np.ones((3, 3)), iterations=dilation_px)
    band: NDArray[np.bool_] = mask & ~eroded[1:-1, 1:-1]
    return band


def cheng_counts(
    preds: NDArray[np.bool_], target: NDArray[np.bool_], ratio: float
) -> tuple[int, int]:
    """Intersection and union of the bands of two masks."""
    found, true = (cheng_band(mask, ratio) for mask in (preds, target))
    return int((found & true).sum()), int((found | true).sum())


@given(predictions(), st.sampled_from([0.02, 0.3, 2]))
def test_boundary_iou_equals_that_of_cheng_et_al_on_noise(
    maps: tuple[NDArray[np.uint8], NDArray[np.uint8]], ratio: float
) -> None:
    preds, target = maps
    classes = np.array([0, 1, 2, 9])
    counts = boundary_iou_counts(preds, target, classes, ratio=ratio)
    for k, found in zip(classes, counts.tolist(), strict=True):
        expected = cheng_counts((preds == k) & (target != VOID), target == k, ratio)
        assert tuple(found) == expected


@pytest.mark.parametrize("stem", STEMS)
def test_boundary_iou_equals_that_of_cheng_et_al_on_real_maps(stem: str) -> None:
    preds, target = crop(stem)
    counts = boundary_iou_counts(preds, target, np.arange(11))
    for k in range(11):
        expected = cheng_counts((preds == k) & (target != VOID), target == k, 0.02)
        assert tuple(counts[k].tolist()) == expected
    assert 0 < counts[:, 0].sum() < counts[:, 1].sum()


def test_the_band_of_a_region_runs_along_the_frame_too() -> None:
    label_map = np.zeros((7, 9), int)
    assert inner_band(label_map, 1).sum() == 63 - 5 * 7
    assert inner_band(label_map, 2).sum() == 63 - 3 * 5
    assert inner_band(label_map, 40).all()
