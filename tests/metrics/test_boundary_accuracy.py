"""Mean boundary accuracy against CascadePSP's definition, with OpenCV's morphology."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from segfix.geometry.boundary_regions import NUM_RADII, accuracy_radii, number_regions
from segfix.geometry.targets import distance_map
from segfix.metrics import boundary_accuracy_shares

VOID = 255


def shares(
    preds: NDArray[Any],
    target: NDArray[Any],
    classes: NDArray[Any] | None = None,
    radii: list[int] | None = None,
) -> NDArray[np.float64]:
    """Of an image, by class."""
    distances = distance_map(target, ignore_index=VOID)
    regions = number_regions(target, distances, radii or accuracy_radii(target.shape))
    classes = np.setdiff1d(target, [VOID]) if classes is None else classes
    return boundary_accuracy_shares(preds, target, classes, regions)


def mba(
    preds: NDArray[Any], target: NDArray[Any], radii: list[int] | None = None
) -> tuple[float, float]:
    """As the paper's script: a region of morphological gradients for each radius."""
    accuracies, weights = [], []
    for radius in radii or accuracy_radii(target.shape):
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        region = np.zeros(target.shape, bool)
        for k in np.setdiff1d(target, [VOID]):
            inside = (target == k).astype(np.uint8)
            region |= cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, kernel) > 0
        region &= target != VOID
        weights.append(float(region.any()))
        accuracies.append(float((preds == target)[region].mean()) if region.any() else 0)
    return float(np.mean(accuracies)), float(np.mean(weights))


def scene(seed: int, shape: tuple[int, int], smoothness: float) -> NDArray[np.uint8]:
    """Regions of a few classes, and of void."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    smooth = ndimage.gaussian_filter(noise, smoothness)
    cuts = np.quantile(smooth, [0.2, 0.5, 0.7, 0.9])
    ids: NDArray[np.uint8] = np.array([0, 1, 2, 3, VOID], np.uint8)[np.digitize(smooth, cuts)]
    return ids


def test_radii_are_those_of_the_script() -> None:
    for height, width in ((1, 1), (100, 50), (360, 480), (480, 640), (1024, 2048), (3000, 5000)):
        largest = (width + height) / 300
        expected = [1 + int((largest - 1) / 5 * i) for i in range(5)]
        assert accuracy_radii((height, width)) == expected
    assert len(accuracy_radii((7, 7))) == NUM_RADII


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    smoothness=st.floats(0.3, 6),
    radii=st.none() | st.lists(st.integers(1, 14), min_size=5, max_size=5).map(sorted),
)
def test_it_is_that_of_the_script(
    seed: int, shape: tuple[int, int], smoothness: float, radii: list[int] | None
) -> None:
    target, preds = scene(seed, shape, smoothness), scene(seed + 1, shape, smoothness)
    preds = np.where(np.random.default_rng(seed).random(shape) < 0.7, target, preds)
    found = shares(preds, target, radii=radii)
    assert tuple(found.sum(axis=0)) == pytest.approx(mba(preds, target, radii), abs=1e-12)
    assert (found[:, 0] <= found[:, 1] + 1e-12).all()


def test_it_is_that_of_the_script_on_an_image_of_full_size() -> None:
    target = scene(1, (700, 1100), 25)
    preds = np.roll(target, (2, 3), axis=(0, 1))
    assert accuracy_radii(target.shape) == [1, 2, 3, 4, 5]
    assert shares(preds, target)[:, 0].sum() == pytest.approx(mba(preds, target)[0], abs=1e-12)


def test_half_planes_that_are_a_pixel_apart() -> None:
    target = np.repeat([[0] * 1000 + [1] * 1000], 400, axis=0).astype(np.uint8)
    preds = np.repeat([[0] * 1001 + [1] * 999], 400, axis=0).astype(np.uint8)
    # Of the 2 r columns along the line, one is wrong: r is 1, 2, 3, 5 and 6.
    assert accuracy_radii(target.shape) == [1, 2, 3, 5, 6]
    expected = np.mean([1 - 1 / (2 * r) for r in (1, 2, 3, 5, 6)])
    found = shares(preds, target)
    assert found[:, 0].sum() == pytest.approx(expected)
    # The wrong ones are of the second class.
    np.testing.assert_allclose(found[0], [0.5, 0.5])


def test_without_a_boundary_there_is_no_accuracy() -> None:
    for target in (np.zeros((5, 5), np.uint8), np.full((5, 5), VOID, np.uint8)):
        assert not shares(1 - target, target, np.array([0, 1])).any()


def test_classes_that_are_left_out_leave_their_share() -> None:
    target = scene(3, (40, 40), 2)
    preds = np.roll(target, 1, axis=0)
    whole = shares(preds, target)
    for k in range(4):
        np.testing.assert_array_equal(shares(preds, target, np.array([k]))[0], whole[k])
