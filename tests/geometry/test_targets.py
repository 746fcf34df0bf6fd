from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from segfix.geometry import (
    NUM_DIRECTIONS,
    UNDEFINED,
    Targets,
    boundary_map,
    direction_angles,
    direction_map,
    distance_map,
    flip_direction_map,
    make_targets,
)
from segfix.geometry.targets import IGNORE_INDEX, _distance_by_region

VOID = 255

each_m = pytest.mark.parametrize("m", NUM_DIRECTIONS)

label_maps = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=13),
    elements=st.sampled_from([0, 1, 2, VOID]),
    fill=st.just(1),
)


@pytest.fixture(params=["edt", "scipy"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways to a distance map: with the package edt, and without."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "scipy":
            patch.setitem(sys.modules, "edt", None)
        yield request.param


def assert_equal(found: Targets, expected: Targets) -> None:
    assert np.array_equal(found.distance_map, expected.distance_map)
    assert np.array_equal(found.boundary_map, expected.boundary_map)
    assert np.array_equal(found.direction_map, expected.direction_map)


# The slow oracle: float64, straight from the definitions.


def slow_distance(labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Each pixel against all others; void has none of its own."""
    distances = np.zeros(labels.shape)
    for y, x in np.argwhere(labels != VOID):
        others = np.argwhere(labels != labels[y, x])
        distances[y, x] = (
            np.sqrt(((others - (y, x)) ** 2).sum(axis=1).min()) if len(others) else np.inf
        )
    return distances


def slow_gradient(
    labels: NDArray[np.integer], distances: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One padded distance map per class, correlated with the 9×9 kernels."""
    dy, dx = np.zeros(labels.shape), np.zeros(labels.shape)
    height, width = labels.shape
    for k in np.unique(labels[labels != VOID]):
        own = np.pad(np.where(labels == k, distances, 0), 4, mode="edge")
        class_dy, class_dx = np.zeros(labels.shape), np.zeros(labels.shape)
        for j in range(-4, 5):
            for i in range(-4, 5):
                if i == j == 0:
                    continue
                there = own[4 + j : 4 + j + height, 4 + i : 4 + i + width]
                class_dy += j / (i**2 + j**2) * there
                class_dx += i / (i**2 + j**2) * there
        dy[labels == k], dx[labels == k] = class_dy[labels == k], class_dx[labels == k]
    return dy, dx


def slow_sectors(
    dy: NDArray[np.float64], dx: NDArray[np.float64], m: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """Nearest sector, second nearest, and whether the vector is clear of the border of the two.

    A vector is clear when it is more than 1e-4° away from a border; shorter than 1e-3 it must also
    stay clear when float32 shifts its end by 1e-6.
    """
    turns = np.abs(
        (np.degrees(np.arctan2(dy, dx))[..., None] - direction_angles(m) + 180) % 360 - 180
    )
    order = np.argsort(turns, axis=-1, kind="stable")
    ranked = np.take_along_axis(turns, order, axis=-1)
    to_border = (ranked[..., 1] - ranked[..., 0]) / 2
    length = np.maximum(np.hypot(dy, dx), 1e-12)
    hair = np.where(length > 1e-3, 1e-4, np.degrees(1e-6 / length))
    return order[..., 0], order[..., 1], to_border > hair


def random_labels(seed: int) -> NDArray[np.uint8]:
    """Blobs, noise or a mixture, in a few classes with void."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(9, 37, size=2)
    cell = int(rng.choice([1, 2, 5, 11]))
    coarse = rng.choice([0, 1, 2, 19, VOID], size=(-(-height // cell), -(-width // cell)))
    labels = np.kron(coarse, np.ones((cell, cell), int))[:height, :width]
    specks = rng.random((height, width)) < 0.02
    return np.where(specks, rng.choice([1, 2, VOID], size=(height, width)), labels).astype(np.uint8)


@pytest.mark.parametrize("seed", range(8))
def test_distances_equal_the_brute_force_ones(seed: int, backend: str) -> None:
    labels = random_labels(seed)
    distances = distance_map(labels)
    assert distances.dtype == np.float32
    np.testing.assert_allclose(distances, slow_distance(labels), rtol=0, atol=1e-5)


@each_m
@pytest.mark.parametrize("seed", range(8))
def test_targets_equal_the_slow_oracle(seed: int, m: int, backend: str) -> None:
    labels = random_labels(seed)
    width = [5, 2, 3.5, 8][seed % 4]
    targets = make_targets(labels, num_directions=m, boundary_width=width)
    distances = slow_distance(labels)
    np.testing.assert_allclose(targets.distance_map, distances, rtol=0, atol=1e-5)

    boundary = np.where(labels == VOID, 255, distances <= width)
    assert np.array_equal(targets.boundary_map, boundary)

    dy, dx = slow_gradient(labels, distances)
    length = np.hypot(dy, dx)
    band = (labels != VOID) & (distances <= 2 * width)
    nearest, second, clear = slow_sectors(dy, dx, m)
    found = targets.direction_map
    assert np.all(found[~band] == UNDEFINED)
    assert np.all(found[band & (length < 1e-7)] == UNDEFINED)
    directed = band & (length > 1e-5)
    assert np.array_equal(found[directed & clear], nearest[directed & clear])
    tied = directed & ~clear
    assert np.all((found[tied] == nearest[tied]) | (found[tied] == second[tied]))
    assert (directed & clear).sum() > 0.5 * band.sum() > 0
    # Between "vanishes" and "too short for float32" there must be nothing that hides a fault.
    assert not np.any(band & (length >= 1e-7) & (length <= 1e-5))


@given(label_maps)
def test_both_backends_agree(labels: NDArray[np.uint8]) -> None:
    with_edt = distance_map(labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "edt", None)
        with_scipy = distance_map(labels)
    np.testing.assert_allclose(with_edt, with_scipy, rtol=0, atol=1e-5)


def test_distance_by_region_is_exact_for_a_region_that_lies_in_pieces() -> None:
    regions = np.zeros((9, 12), np.uint32)
    regions[:3, :4] = regions[6:, 7:] = 1
    regions[4, 4] = 2
    labels = np.where(regions == 0, VOID, regions)
    np.testing.assert_allclose(_distance_by_region(regions), slow_distance(labels), atol=1e-6)


# Closed forms.


@each_m
@pytest.mark.parametrize("axis", [0, 1])
def test_half_plane_points_away_from_its_edge_also_at_the_frame(
    half_plane: NDArray[np.uint8], m: int, axis: int
) -> None:
    labels = half_plane if axis == 1 else half_plane.T
    targets = make_targets(labels, num_directions=m)
    along = np.arange(40) - 20
    distances = np.where(along < 0, -along, along + 1)
    before, after = {4: [(0, 2), (1, 3)], 8: [(2, 6), (0, 4)], 16: [(4, 12), (0, 8)]}[m][axis]
    if m == 4:
        # The axes are borders of the diagonal sectors: the later sector, in every row alike.
        before, after = (0, 2) if axis == 1 else (1, 3)
    directions = np.where(along < 0, before, after)
    for array, expected in (
        (targets.distance_map, distances),
        (targets.boundary_map, distances <= 5),
        (targets.direction_map, np.where(distances <= 10, directions, UNDEFINED)),
    ):
        lines = array if axis == 1 else array.T
        assert np.array_equal(lines, np.broadcast_to(expected, lines.shape))


@each_m
@pytest.mark.parametrize("inside", [True, False])
def test_disc_points_inward_inside_and_outward_outside(
    disc: NDArray[np.uint8], m: int, inside: bool
) -> None:
    found = make_targets(disc, num_directions=m).direction_map
    y, x = np.mgrid[:51, :51] - 25
    selected = (disc == (7 if inside else 3)) & (found != UNDEFINED) & (np.hypot(y, x) > 9)
    # What the Sobel filter sees of the world beyond the frame is made up.
    selected &= np.maximum(np.abs(y), np.abs(x)) <= 25 - 4
    assert selected.sum() > 500
    radial = np.degrees(np.arctan2(-y, -x) if inside else np.arctan2(y, x))[selected]
    turn = (direction_angles(m)[found[selected]] - radial + 180) % 360 - 180
    # Half a sector, and some degrees for the pixels that the circle is made of.
    assert np.abs(turn).max() < 180 / m + 12


def test_boundary_of_a_disc_is_a_ring_of_the_boundary_width(disc: NDArray[np.uint8]) -> None:
    y, x = np.mgrid[:51, :51] - 25
    radius = np.hypot(y, x)
    boundary = make_targets(disc, boundary_width=3).boundary_map
    assert np.all(boundary[(radius < 13) | (radius > 22)] == 0)
    assert np.all(boundary[(radius > 16) & (radius < 19)] == 1)


def test_a_line_of_one_pixel_has_no_direction_but_its_sides_have(
    pixel_line: NDArray[np.uint8],
) -> None:
    targets = make_targets(pixel_line)
    assert np.all(targets.distance_map[12] == 1)
    assert np.all(targets.boundary_map[12] == 1)
    assert np.all(targets.direction_map[12] == UNDEFINED)
    assert np.all(targets.direction_map[2:12] == 2)
    assert np.all(targets.direction_map[13:23] == 6)


@each_m
def test_the_ridge_of_a_band_has_no_direction(m: int) -> None:
    labels = np.zeros((30, 21), np.uint8)
    labels[10:17] = 1
    found = make_targets(labels, num_directions=m).direction_map
    assert np.all(found[13] == UNDEFINED)
    assert np.all(found[10:13] == {4: 3, 8: 6, 16: 12}[m])
    assert np.all(found[14:17] == {4: 1, 8: 2, 16: 4}[m])


def test_on_a_checkerboard_all_is_boundary_and_nothing_has_a_direction(
    checkerboard: NDArray[np.uint8],
) -> None:
    targets = make_targets(checkerboard)
    assert np.all(targets.distance_map == 1)
    assert np.all(targets.boundary_map == 1)
    assert np.all(targets.direction_map[4:-4, 4:-4] == UNDEFINED)


@each_m
def test_the_frame_does_not_pull_slanted_edges_to_itself(m: int) -> None:
    """What lies beyond the frame isn't known, so it may matter, but for less than 45°."""
    y, x = np.mgrid[:60, :60]
    labels = (x > 30 + y // 2).astype(np.uint8)
    cropped = make_targets(labels[20:40], num_directions=m).direction_map
    whole = make_targets(labels, num_directions=m).direction_map[20:40]
    both = (cropped != UNDEFINED) & (whole != UNDEFINED)
    angles = direction_angles(m)
    turn = (angles[cropped[both]] - angles[whole[both]] + 180) % 360 - 180
    assert both.sum() > 300
    assert np.abs(turn).max() <= max(45, 360 / m)


@pytest.mark.parametrize("ignore_index", [VOID, None])
def test_one_class_alone_has_no_boundary(ignore_index: int | None, backend: str) -> None:
    targets = make_targets(np.full((7, 9), 4, np.uint8), ignore_index=ignore_index)
    assert np.all(np.isposinf(targets.distance_map))
    assert np.all(targets.boundary_map == 0)
    assert np.all(targets.direction_map == UNDEFINED)


def test_void_alone_is_void_everywhere(backend: str) -> None:
    targets = make_targets(np.full((7, 9), VOID, np.uint8))
    assert np.all(targets.distance_map == 0)
    assert np.all(targets.boundary_map == IGNORE_INDEX)
    assert np.all(targets.direction_map == UNDEFINED)


def test_void_is_another_class_for_its_neighbours(half_plane: NDArray[np.uint8]) -> None:
    with_void = np.where(half_plane == 2, VOID, half_plane)
    targets, full = make_targets(with_void), make_targets(half_plane)
    left, right = np.s_[:, :20], np.s_[:, 20:]
    assert np.array_equal(targets.distance_map[left], full.distance_map[left])
    assert np.array_equal(targets.boundary_map[left], full.boundary_map[left])
    assert np.array_equal(targets.direction_map[left], full.direction_map[left])
    assert np.all(targets.distance_map[right] == 0)
    assert np.all(targets.boundary_map[right] == 255)
    assert np.all(targets.direction_map[right] == UNDEFINED)


def test_without_a_void_id_255_is_a_class_like_others(half_plane: NDArray[np.uint8]) -> None:
    renamed = np.where(half_plane == 2, VOID, half_plane)
    assert_equal(make_targets(renamed, ignore_index=None), make_targets(half_plane))


def test_another_void_id_than_255_is_honoured(backend: str) -> None:
    labels = np.array([[1, 1, 0, 255]], np.uint8)
    assert distance_map(labels, ignore_index=0).tolist() == [[2, 1, 0, 1]]
    assert make_targets(labels, ignore_index=0).boundary_map.tolist() == [[1, 1, 255, 1]]


@pytest.mark.parametrize("apart", [2**8, 2**16, 2**32])
def test_ids_that_share_their_last_bytes_are_different(apart: int, backend: str) -> None:
    assert distance_map(np.array([[7, 7, 7 + apart, 7 + apart, 7]])).tolist() == [[2, 1, 1, 1, 1]]


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_a_map_without_pixels_has_targets_of_its_shape(
    shape: tuple[int, int], backend: str
) -> None:
    targets = make_targets(np.zeros(shape, np.uint8))
    assert [part.shape for part in targets] == [shape] * 3
    assert [part.dtype for part in targets] == [np.float32, np.uint8, np.uint8]
    assert _distance_by_region(np.zeros(shape, np.uint32)).shape == shape


def test_boundary_includes_the_distance_equal_to_its_width() -> None:
    distances = np.array([[0, 1, np.nextafter(3, 0), 3, np.nextafter(3, 4), np.inf]], np.float32)
    distances[0, 4] = np.nextafter(np.float32(3), np.float32(4))
    assert boundary_map(distances, boundary_width=3).tolist() == [[255, 1, 1, 1, 0, 0]]


def test_directions_end_at_twice_the_boundary_width_or_where_asked(
    half_plane: NDArray[np.uint8],
) -> None:
    distances = distance_map(half_plane)
    for width in (1, 4):
        found = make_targets(half_plane, boundary_width=width).direction_map
        assert np.array_equal(found != UNDEFINED, distances <= 2 * width)
    found = direction_map(half_plane, distances, max_distance=3)
    assert np.array_equal(found != UNDEFINED, distances <= 3)
    found = direction_map(half_plane, distances)
    assert np.array_equal(found != UNDEFINED, distances <= 10)


@pytest.mark.parametrize("size", [(300, 14), (14, 600)])
def test_every_part_of_a_large_map_has_directions(size: tuple[int, int]) -> None:
    height, width = size
    across = np.zeros(size, np.uint8)
    across[:, 5:] = 1
    found = make_targets(across).direction_map
    assert np.all(found[:, :5] == 0)
    assert np.all(found[:, 5 : min(width, 15)] == 4)
    down = np.zeros(size, np.uint8)
    down[5:] = 1
    found = make_targets(down).direction_map
    assert np.all(found[:5] == 2)
    assert np.all(found[5 : min(height, 15)] == 6)
    assert np.all(found[15:] == UNDEFINED)


# Properties.


@each_m
@given(labels=label_maps, axis=st.sampled_from([0, 1]))
def test_flips_commute(m: int, labels: NDArray[np.uint8], axis: int) -> None:
    targets = make_targets(labels, num_directions=m)
    flipped = make_targets(np.ascontiguousarray(np.flip(labels, axis)), num_directions=m)
    assert np.array_equal(flipped.distance_map, np.flip(targets.distance_map, axis))
    assert np.array_equal(flipped.boundary_map, np.flip(targets.boundary_map, axis))
    expected = flip_direction_map(targets.direction_map, m, axis=axis)
    # A vector on a border belongs to the later sector, and a mirror turns later into earlier.
    distances = slow_distance(labels)
    if np.isinf(distances).any():
        clear = np.ones(labels.shape, bool)
    else:
        clear = np.flip(slow_sectors(*slow_gradient(labels, distances), m)[2], axis)
    assert np.array_equal(flipped.direction_map[clear], expected[clear])
    assert np.array_equal(flipped.direction_map == UNDEFINED, expected == UNDEFINED)


@given(
    labels=label_maps,
    names=st.permutations([0, 1, 2, 7, 254]),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]),
)
def test_targets_do_not_depend_on_the_class_ids(
    labels: NDArray[np.uint8], names: list[int], dtype: type
) -> None:
    table = np.arange(256)
    table[:3] = names[:3]
    renamed: NDArray[Any] = table[labels].astype(dtype)
    assert_equal(make_targets(renamed), make_targets(labels))


@given(label_maps)
def test_every_labelled_pixel_beside_another_label_is_at_distance_one(
    labels: NDArray[np.uint8],
) -> None:
    distances = distance_map(labels)
    padded = np.pad(labels, 1, mode="edge")
    beside = np.zeros(labels.shape, bool)
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        beside |= padded[dy : dy + labels.shape[0], dx : dx + labels.shape[1]] != labels
    assert np.array_equal(distances == 1, beside & (labels != VOID))
    assert np.array_equal(distances == 0, labels == VOID)


@given(label_maps)
def test_the_label_map_itself_is_left_alone(labels: NDArray[np.uint8]) -> None:
    before = labels.copy()
    make_targets(labels)
    assert np.array_equal(labels, before)


def test_masks_of_bool_are_label_maps(disc: NDArray[np.uint8]) -> None:
    assert_equal(make_targets(disc == 7), make_targets(disc))


@pytest.mark.parametrize(
    "labels", [np.zeros((4, 4, 3), np.uint8), np.zeros(4, np.uint8), np.zeros((4, 4))]
)
def test_colours_rows_and_floats_are_refused(labels: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match="two-dimensional array of integers but got"):
        make_targets(labels)


def test_other_numbers_of_directions_are_refused(half_plane: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="but got 12"):
        make_targets(half_plane, num_directions=12)
    nowhere = np.full((3, 4), np.inf, np.float32)
    with pytest.raises(ValueError, match="but got 12"):
        direction_map(np.zeros((3, 4), np.uint8), nowhere, num_directions=12)
