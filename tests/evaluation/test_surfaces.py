"""HD95 and surface Dice against all pairs of surface pixels, and in closed form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from segfix.evaluation import Comparison, score_image
from segfix.evaluation.surfaces import SurfaceSettings, summarize_surfaces, surface_scores

VOID = 255


def surface(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Pixels with a neighbour that is outside."""
    padded = np.pad(mask, 1)
    return [
        (y, x)
        for y, x in np.argwhere(mask).tolist()
        if not all(padded[y + 1 + dy, x + 1 + dx] for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)))
    ]


def scores_of_all_pairs(
    one: NDArray[np.bool_], other: NDArray[np.bool_], how: SurfaceSettings
) -> list[float]:
    """HD95 and surface Dice."""
    spacing = how.spacing or (1, 1)
    points = [np.array(surface(mask), float).reshape(-1, 2) * spacing for mask in (one, other)]
    pairs = np.sqrt(((points[0][:, None] - points[1]) ** 2).sum(axis=2))
    nearest = [pairs.min(axis=1), pairs.min(axis=0)]
    within = np.concatenate(nearest) <= how.tolerance * (1 + 1e-9)
    return [max(np.percentile(found, 95) for found in nearest), within.mean()]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    smoothness=st.floats(0, 4),
    spacing=st.none() | st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)),
    tolerance=st.floats(0, 5),
)
def test_scores_are_those_of_all_pairs_of_surface_pixels(
    seed: int,
    shape: tuple[int, int],
    smoothness: float,
    spacing: tuple[float, float] | None,
    tolerance: float,
) -> None:
    noise = np.random.default_rng(seed).standard_normal((2, *shape))
    target, preds = np.digitize(
        ndimage.gaussian_filter(noise, (0, smoothness, smoothness)) / noise.std(), [-0.1, 0.1]
    )
    target = np.where(target == 2, VOID, target)
    how = SurfaceSettings(tolerance, spacing)
    found = surface_scores(preds, target, np.arange(2), how)
    diagonal = math.hypot(*np.multiply(shape, spacing or (1, 1)))
    for k in range(2):
        one, other = ((ids == k) & (target != VOID) for ids in (preds, target))
        if one.any() and other.any():
            expected = [*scores_of_all_pairs(one, other, how), 1]
        else:
            expected = [diagonal, 0, 1] if one.any() or other.any() else [0, 0, 0]
        assert found[k].tolist() == pytest.approx(expected, rel=1e-9)
    if not np.any(target == VOID):
        swapped = surface_scores(target, preds, np.arange(2), how)
        assert swapped[found[:, 2] > 0] == pytest.approx(found[found[:, 2] > 0])


def square(left: int) -> NDArray[np.uint8]:
    """Of 20 pixels each side, whose surface has 76."""
    array = np.zeros((40, 60), np.uint8)
    array[10:30, left : left + 20] = 1
    return array


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0), (2.0, 0.5)])
def test_of_a_square_that_is_moved_the_sides_are_far(spacing: tuple[float, float] | None) -> None:
    # Upper and lower side lie on each other, but for 3 pixels; the left and right side are off.
    across = 3 * (spacing or (1, 1))[1]
    for tolerance in (0.9 * across, across):
        how = SurfaceSettings(tolerance, spacing)
        hd95, nsd, images = surface_scores(square(23), square(20), np.array([1]), how)[0]
        assert (hd95, images) == (pytest.approx(across), 1)
        if tolerance == across:
            assert nsd == 1
        else:
            assert nsd < 1


def test_equal_masks_are_at_no_distance_and_spacing_scales_it() -> None:
    target = square(20)
    assert surface_scores(target, target, np.array([0, 1]), SurfaceSettings(0)).tolist() == [
        [0, 1, 1],
        [0, 1, 1],
    ]
    one, other = (
        surface_scores(square(25), target, np.array([1]), SurfaceSettings(2 * f, (f, f)))[0]
        for f in (1.0, 0.25)
    )
    assert other[0] == pytest.approx(one[0] / 4)
    assert other[1] == one[1]


def test_means_are_over_images_with_the_class_then_over_classes() -> None:
    sums = np.array([[6.0, 1.5, 2], [10, 1, 1], [0, 0, 0]])
    assert summarize_surfaces(sums) == {
        "mean": {"hd95": 6.5, "nsd": 0.875},
        "class": {"hd95": [3, 10, None], "nsd": [0.75, 1, None]},
    }
    assert summarize_surfaces(sums[2:])["mean"] == {"hd95": None, "nsd": None}


def test_a_comparison_adds_images_up() -> None:
    how = SurfaceSettings(1)
    images: list[tuple[NDArray[Any], ...]] = [
        (square(20), square(23), square(20)),
        (square(20), square(21), 0 * square(20)),
    ]
    comparison, sums = Comparison("AB"), np.zeros((2, 2, 3))
    for target, *preds in images:
        comparison.update(score_image(target, preds, surface=how))
        for number, found in enumerate(preds):
            sums[number] += surface_scores(found, target, np.arange(2), how)
    result = comparison.result()["sets"]
    for name, total in zip("AB", sums, strict=True):
        assert result[name]["surface"] == summarize_surfaces(total)
    # Nothing predicted: the diagonal of the image.
    assert result["B"]["surface"]["class"]["hd95"][1] == pytest.approx(math.hypot(40, 60) / 2)
    plain = Comparison("A")
    plain.update(score_image(images[0][0], [images[0][1]]))
    assert "surface" not in plain.result()["sets"]["A"]
