"""From label maps to polygons and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from segfix.polygons.regions import fill_outline
from segfix.polygons.tracing import join_rings, list_rings, simplify_path, trace_regions

shapely = pytest.importorskip(
    "shapely", reason="needs the extra: pip install 'segfix-refine[polygons]'"
)

Labels = NDArray[np.int64]

label_maps = arrays(
    np.int64, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)
)


def filled(rings: list[NDArray[np.float64]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    for ring in rings:
        mask |= fill_outline(ring, (shape[0], shape[1])) != 0
    return mask


def disc(size: int, radius: float) -> NDArray[np.bool_]:
    rows, cols = np.mgrid[:size, :size] + 0.5
    return np.asarray(np.hypot(rows - size / 2, cols - size / 2) < radius)


@given(label_maps)
def test_exact_polygons_are_the_regions(labels: Labels) -> None:
    traced = trace_regions(labels, 0)
    assert list(traced) == np.unique(labels[labels > 0]).tolist()
    for one, area in traced.items():
        assert area.is_valid
        assert area.area == (labels == one).sum()
        assert np.array_equal(filled(list_rings(area), labels.shape), labels == one)


@given(label_maps)
def test_simplified_polygons_stay_within_half_a_pixel_and_share_their_borders(
    labels: Labels,
) -> None:
    exact, traced = trace_regions(labels, 0), trace_regions(labels, 0.5)
    for one, area in traced.items():
        assert area.is_valid
        assert area.boundary.hausdorff_distance(exact[one].boundary) <= 0.5 + 1e-9
        assert len(shapely.get_coordinates(area)) <= len(shapely.get_coordinates(exact[one]))
    if traced:
        assert shapely.coverage_is_valid(list(traced.values()))
        whole = shapely.union_all(list(traced.values()))
        assert whole.area == pytest.approx(sum(area.area for area in traced.values()))


@given(label_maps, st.sampled_from([1.0, 2.5, 64.0]))
def test_no_tolerance_loses_a_region_or_makes_two_overlap(labels: Labels, tolerance: float) -> None:
    traced = trace_regions(labels, tolerance)
    for one, area in traced.items():
        assert area.is_valid
        assert area.area == pytest.approx((labels == one).sum(), rel=1 / 8 + 1e-9)
    assert not traced or shapely.coverage_is_valid(list(traced.values()))


@given(label_maps)
def test_one_ring_tells_parts_and_holes(labels: Labels) -> None:
    for one, area in trace_regions(labels, 0).items():
        parts = shapely.get_parts(area)
        rings = [ring for part in parts for ring in (part.exterior, *part.interiors)]
        ring = join_rings([np.array(ring.coords)[:-1] for ring in rings])
        assert np.array_equal(filled([ring], labels.shape), labels == one)


def test_a_hole_and_a_part() -> None:
    labels = np.zeros((8, 12), np.int64)
    labels[1:7, 1:7] = labels[2:4, 9:11] = 5
    labels[3:5, 3:5] = 0
    (area,) = trace_regions(labels).values()
    assert [len(part.interiors) for part in area.geoms] == [1, 0]
    assert len(list_rings(area)) == 2
    assert shapely.get_num_coordinates(area) == 15  # three rectangles


def test_straight_lines_take_few_vertices() -> None:
    rows, cols = np.mgrid[:60, :80]
    for slope, most in ((0.1, 7), (0.37, 25), (1.0, 7)):
        (area,) = trace_regions((rows > 3 + slope * cols).astype(int)).values()
        assert shapely.get_num_coordinates(area) <= most, slope


def test_a_disc_takes_few_vertices_and_keeps_its_area() -> None:
    mask = disc(100, 40)
    (area,), (exact,) = (trace_regions(mask.astype(int), px).values() for px in (0.5, 0))
    assert shapely.get_num_coordinates(area) < shapely.get_num_coordinates(exact) / 3
    assert area.area == pytest.approx(mask.sum(), rel=0.005)
    assert (filled(list_rings(area), mask.shape) != mask).mean() < 0.003


def test_a_rectangle_stays_one() -> None:
    path = np.array([[0, 0], [9, 0], [9, 5], [0, 5], [0, 0]], float)
    assert sorted(simplify_path(path, 0.5, ring=True).tolist()) == sorted(path.tolist())


def test_regions_that_touch_share_the_vertices_of_their_border() -> None:
    labels = np.where(disc(40, 16), 1, 0)
    rows, cols = np.mgrid[:40, :40]
    labels[(labels == 1) & (cols > 20 + 5 * np.sin(rows / 5))] = 2
    one, two = trace_regions(labels).values()
    border: Any = one.boundary.intersection(two.boundary)
    assert border.length > 30
    shared = {tuple(point) for point in shapely.get_coordinates(one).tolist()} & {
        tuple(point) for point in shapely.get_coordinates(two).tolist()
    }
    assert shared == {tuple(point) for point in shapely.get_coordinates(border).tolist()}
    assert one.intersection(two).area == 0


def test_nothing_has_no_polygons() -> None:
    assert trace_regions(np.zeros((3, 4), int)) == {}
