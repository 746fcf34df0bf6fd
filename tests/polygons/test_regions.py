"""Outlines and masks of annotation tools, and the pixels inside of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from segfix.polygons.regions import Region, decode_region, fill_outline

points = arrays(
    np.float64,
    st.tuples(st.integers(3, 8), st.just(2)),
    # Not through the centres of pixels.
    elements=st.integers(-30, 120).map(lambda number: number / 10 + 0.013),
)


@given(points)
def test_the_centres_inside_are_marked_by_the_even_odd_rule(ring: NDArray[np.float64]) -> None:
    mask = fill_outline(ring, (9, 11))
    expected = np.zeros((9, 11), int)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        for row in range(9):
            if min(y0, y1) <= row + 0.5 < max(y0, y1):
                cross = x0 + (row + 0.5 - y0) / (y1 - y0) * (x1 - x0)
                expected[row] += np.arange(11) + 0.5 >= cross
    assert np.array_equal(mask, expected % 2)


def test_outlines_that_cross_themselves_are_filled_by_turns() -> None:
    bow = np.array([[0, 0], [8, 4], [8, 0], [0, 4]], float)
    assert fill_outline(bow, (4, 8)).tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 1],
        [1, 1, 1, 0, 0, 1, 1, 1],
        [1, 1, 1, 0, 0, 1, 1, 1],
        [1, 0, 0, 0, 0, 0, 0, 1],
    ]


@given(points, points)
def test_rings_are_filled_by_turns(one: NDArray[np.float64], other: NDArray[np.float64]) -> None:
    both = fill_outline(np.concatenate([one, other]), (9, 11), [len(one), len(other)])
    assert np.array_equal(both, fill_outline(one, (9, 11)) ^ fill_outline(other, (9, 11)))


def test_shares_and_percents_are_of_the_photograph() -> None:
    shapely = pytest.importorskip("shapely")
    ring = np.array([[2, 1], [6, 1], [6, 3], [2, 3]], float)
    plain = decode_region(Region(points=ring), (4, 8))
    assert plain.sum() == 8
    for scale in (1, 100):
        region = Region(points=ring / (8, 4) * scale, scale=scale)
        assert np.array_equal(decode_region(region, (4, 8)), plain)
        again = region.with_area(shapely.multipolygons([shapely.Polygon(ring)]), (4, 8))
        assert again.points is not None
        assert again.points.tolist() == pytest.approx(np.asarray(region.points))


def test_a_mask_comes_back_in_its_box() -> None:
    mask = np.zeros((5, 9), bool)
    mask[2:4, 3:8] = True
    mask[2, 4] = False
    region = Region().with_mask(mask)
    assert region.corner == (3, 2)
    assert region.mask is not None
    assert region.mask.shape == (2, 5)
    assert np.array_equal(decode_region(region, (5, 9)), mask)


@pytest.mark.parametrize(
    ("region", "text"),
    [
        (Region(points=np.array([[0, 0], [12, 0], [3, 3.0]])), "outside of 9×5 pixels"),
        (Region(points=np.array([[-3, 0], [2, 0], [3, 3.0]])), "points from -3, 0"),
        (Region(points=np.array([[0, 0], [1, 0], [0.5, 2]]), scale=1), "outside of 9×5"),
        (Region(mask=np.ones((2, 2), bool), corner=(8, 0)), "a mask up to 10×2, not 9×5"),
        (Region(mask=np.ones((2, 2), bool), corner=(-1, 0)), "a mask up to"),
        (Region(points=np.array([[0, -1e9], [1, 1e9], [0, 2.0]])), "outside"),
    ],
)
def test_what_reaches_beyond_the_photograph_is_refused(region: Region, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        decode_region(region, (5, 9))


def test_a_photograph_of_another_size_is_refused() -> None:
    region = Region(points=np.array([[0, 0], [2, 0], [2, 2.0]]))
    with pytest.raises(ValueError, match="7×5 pixels, not 9×5"):
        decode_region(region, (5, 9), (5, 7))


def test_an_outline_to_and_fro_does_not_fill_the_memory() -> None:
    zigzag = np.array([[number % 7, (number % 2) * 4000] for number in range(10_000)], float)
    with pytest.raises(ValueError, match="an outline that crosses"):
        fill_outline(zigzag, (4000, 10))


def test_regions_that_differ_have_other_digests() -> None:
    ring = np.array([[2, 1], [6, 1], [6, 3], [2, 3]], float)
    mask = np.ones((2, 4), bool)
    regions = [
        Region(points=ring),
        Region(points=ring + 1),
        Region(points=ring, scale=100),
        Region(mask=mask),
        Region(mask=mask, corner=(1, 0)),
        Region(mask=mask.T),
    ]
    assert len({region.digest() for region in regions}) == len(regions)
    assert Region(points=ring.copy()).digest() == regions[0].digest()
