from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segfix.geometry import (
    NUM_DIRECTIONS,
    UNDEFINED,
    direction_angles,
    flip_direction_map,
    quantize_directions,
    unit_offsets,
)

each_m = pytest.mark.parametrize("m", NUM_DIRECTIONS)


@each_m
def test_angles_are_equally_spaced_and_start_at_the_released_first_sector(m: int) -> None:
    angles = direction_angles(m)
    assert angles.shape == (m,)
    assert angles[0] == (-135 if m == 4 else -180)
    assert np.all(np.diff(angles) == 360 / m)


def test_unit_offsets_are_the_diagonals_for_4() -> None:
    assert unit_offsets(4).tolist() == [[-1, -1], [-1, 1], [1, 1], [1, -1]]


def test_unit_offsets_are_the_released_neighbours_for_8() -> None:
    expected = [[0, -1], [-1, -1], [-1, 0], [-1, 1], [0, 1], [1, 1], [1, 0], [1, -1]]
    assert unit_offsets(8).tolist() == expected


def test_unit_offsets_are_the_ring_at_radius_2_for_16() -> None:
    top = [[0, -2], [-1, -2], [-2, -2], [-2, -1], [-2, 0], [-2, 1], [-2, 2], [-1, 2]]
    assert unit_offsets(16).tolist() == top + [[-y, -x] for y, x in top]


@each_m
def test_each_unit_offset_lies_in_its_own_sector(m: int) -> None:
    dy, dx = unit_offsets(m).T
    assert quantize_directions(dy, dx, m).tolist() == list(range(m))


@each_m
@given(data=st.data())
def test_the_sector_is_the_one_whose_centre_is_nearest(m: int, data: st.DataObject) -> None:
    angle = data.draw(st.floats(-180, 180))
    length = data.draw(st.floats(1e-5, 1e5))
    turns = (angle - direction_angles(m) + 180) % 360 - 180
    nearest = np.sort(np.abs(turns))
    radians = np.radians(angle)
    sector = quantize_directions(
        np.array([length * np.sin(radians)]), np.array([length * np.cos(radians)]), m
    )
    if nearest[1] - nearest[0] > 1e-9:
        assert sector[0] == np.abs(turns).argmin()
    else:
        assert np.abs(turns)[sector[0]] < 180 / m + 1e-9


def test_a_border_belongs_to_the_later_sector() -> None:
    dy, dx = np.array([-1, 0, 1, 0]), np.array([0, 1, 0, -1])
    assert quantize_directions(dy, dx, 4).tolist() == [1, 2, 3, 0]


@each_m
def test_minus_and_plus_180_degrees_are_one_direction(m: int) -> None:
    sectors = quantize_directions(np.array([0.0, -0.0]), np.array([-1.0, -1.0]), m)
    assert sectors.tolist() == [0, 0]


def test_a_vector_shorter_than_a_millionth_has_no_direction() -> None:
    dx = np.array([0.0, 0.9e-6, -0.9e-6, 1e-6, -1e-6])
    assert quantize_directions(np.zeros(5), dx).tolist() == [UNDEFINED] * 3 + [4, 0]


def test_eight_directions_are_meant_where_nothing_is_said() -> None:
    assert np.array_equal(direction_angles(), direction_angles(8))
    assert np.array_equal(unit_offsets(), unit_offsets(8))


def test_the_shape_of_the_vectors_is_kept_down_to_none() -> None:
    assert quantize_directions(np.ones((2, 3, 4)), np.ones((2, 3, 4))).shape == (2, 3, 4)
    single = quantize_directions(np.array(1.0), np.array(0.0))
    assert single.shape == ()
    assert single.dtype == np.uint8
    assert int(single) == 6


@each_m
@pytest.mark.parametrize("axis", [0, 1])
def test_flipping_moves_pixels_and_mirrors_their_offsets(m: int, axis: int) -> None:
    sectors = np.arange(m, dtype=np.uint8).reshape(2, -1)
    mirrored = unit_offsets(m)[np.flip(sectors, axis)] * np.array([(-1, 1), (1, -1)][axis])
    flipped = flip_direction_map(sectors, m, axis=axis)
    assert np.array_equal(unit_offsets(m)[flipped], mirrored)


@each_m
@given(data=st.data())
def test_flipping_twice_gives_the_map_back(m: int, data: st.DataObject) -> None:
    axis = data.draw(st.sampled_from([0, 1]))
    sectors = data.draw(
        hnp.arrays(
            np.uint8,
            hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
            elements=st.sampled_from([*range(m), UNDEFINED]),
        )
    )
    once = flip_direction_map(sectors, m, axis=axis)
    assert np.array_equal(flip_direction_map(once, m, axis=axis), sectors)
    assert np.array_equal(once == UNDEFINED, np.flip(sectors, axis) == UNDEFINED)


@pytest.mark.parametrize("m", [0, -8, 1, 6, 32])
@pytest.mark.parametrize(
    "function",
    [
        direction_angles,
        unit_offsets,
        lambda m: quantize_directions(np.ones(1), np.ones(1), m),
        lambda m: flip_direction_map(np.zeros((1, 1), np.uint8), m),
    ],
)
def test_other_numbers_of_directions_are_refused(function: Callable[[int], Any], m: int) -> None:
    with pytest.raises(ValueError, match=r"\(4, 8, 16\) but got"):
        function(m)


def test_other_axes_of_a_flip_are_refused() -> None:
    with pytest.raises(ValueError, match="0 or 1 but got 2"):
        flip_direction_map(np.zeros((1, 1), np.uint8), axis=2)
