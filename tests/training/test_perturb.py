from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from segfix.training.perturb import (
    _displace,
    _fill,
    _grow,
    _leak,
    _reduce,
    _speckle,
    _thin,
    perturb_label_map,
)

VOID = -1
SKY, HOUSE, POLE, ROAD = -7, 3, 40, 2**31 - 1

label_maps = st.sampled_from([np.uint8, np.int16, np.int64]).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
        elements=st.sampled_from([0, 1, 2, 77, 100]),
        fill=st.sampled_from([1, 77]),
    )
)


def make_rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def street() -> NDArray[np.int32]:
    """(160, 160): a house and a pole before the sky, a road below, some void."""
    scene = np.full((160, 160), SKY, np.int32)
    scene[40:110, 20:90] = HOUSE
    scene[30:110, 120:123] = POLE
    scene[110:] = ROAD
    scene[150:, :10] = VOID
    scene.flags.writeable = False
    return scene


@pytest.fixture(scope="module")
def halves() -> NDArray[np.uint8]:
    """(120, 120): label 0 in columns 0 … 59, label 1 from column 60."""
    scene = np.zeros((120, 120), np.uint8)
    scene[:, 60:] = 1
    scene.flags.writeable = False
    return scene


@pytest.fixture(scope="module")
def square() -> NDArray[np.uint8]:
    """(100, 100): label 1 in rows and columns 30 … 69, on label 0."""
    scene = np.zeros((100, 100), np.uint8)
    scene[30:70, 30:70] = 1
    scene.flags.writeable = False
    return scene


def boundary(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """The pixels that differ from the one above or to the left."""
    differs = np.zeros(labels.shape, bool)
    differs[1:] |= labels[1:] != labels[:-1]
    differs[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    return differs


def displacement(labels: NDArray[Any], true: NDArray[Any]) -> float:
    """Mean distance from the boundaries to the true ones, in pixels."""
    distances: NDArray[np.float64] = ndimage.distance_transform_edt(~boundary(true))
    return float(distances[boundary(labels)].mean())


def depth(changed: NDArray[np.bool_], true: NDArray[Any]) -> float:
    """How far from a true boundary the changes reach: 1 is a pixel next to it."""
    distances = [
        ndimage.distance_transform_edt(true == label)[changed & (true == label)]
        for label in np.unique(true)
    ]
    return float(np.concatenate(distances).max(initial=0))


@given(label_maps, st.integers(0, 1000), st.sampled_from([1, 100, -1, 999]))
def test_a_prediction_holds_the_labels_of_the_map_and_no_void(
    labels: NDArray[Any], seed: int, void: int
) -> None:
    before = labels.copy()
    found = perturb_label_map(labels, make_rng(seed), void=void)
    assert found.shape == labels.shape
    assert found.dtype == labels.dtype
    allowed = set(labels.ravel().tolist())
    assert set(found.ravel().tolist()) <= (allowed - {void} or allowed)
    assert np.array_equal(labels, before)
    assert not np.shares_memory(found, labels)
    again = perturb_label_map(labels, make_rng(seed), void=void)
    assert np.array_equal(found, again)


def test_seeds_differ(street: NDArray[np.int32]) -> None:
    found = {perturb_label_map(street, make_rng(s), void=VOID).tobytes() for s in range(20)}
    assert len(found) >= 17


def test_ids_are_arbitrary(street: NDArray[np.int32]) -> None:
    _, small = np.unique(street, return_inverse=True)
    for seed in range(20):
        found = perturb_label_map(street, make_rng(seed), void=VOID)
        same = perturb_label_map(small.astype(np.uint8), make_rng(seed), void=1)
        assert np.array_equal(found, np.unique(street)[same])


@pytest.mark.parametrize("void", [VOID, 5])
def test_a_constant_map_stays_constant(void: int) -> None:
    labels = np.full((50, 60), 5)
    labels[10:20, :30] = VOID
    for seed in range(10):
        found = perturb_label_map(labels, make_rng(seed), void=void)
        assert (found == (5 if void == VOID else VOID)).all()


def test_all_void_and_no_pixels_are_copied() -> None:
    for labels in (np.full((9, 9), VOID), np.zeros((0, 4), np.uint8)):
        found = perturb_label_map(labels, make_rng(), void=VOID)
        assert np.array_equal(found, labels)
        assert found is not labels


def test_more_labels_than_a_byte_holds() -> None:
    labels = np.arange(40 * 40).reshape(40, 40)
    for seed in range(20):
        found = perturb_label_map(labels, make_rng(seed), void=VOID)
        assert found.min() >= 0
        assert found.max() < 1600


@given(hnp.arrays(np.bool_, (9, 12)), st.integers(0, 99))
def test_unknown_pixels_take_the_nearest_label(unknown: NDArray[np.bool_], seed: int) -> None:
    regions = make_rng(seed).integers(0, 5, unknown.shape, np.uint8)
    found = _fill(regions, unknown)
    known = np.argwhere(~unknown)
    if not known.size:
        assert np.array_equal(found, regions)
        return
    for pixel in np.ndindex(*unknown.shape):
        squares = ((known - pixel) ** 2).sum(1)
        nearest = known[squares == squares.min()]
        assert found[pixel] in regions[tuple(nearest.T)]


def test_void_is_filled_before_all_else() -> None:
    labels = np.ones((30, 60), np.int64)
    labels[:, 30:] = 2
    labels[:, 10:40] = VOID
    middles = [
        float((perturb_label_map(labels, make_rng(seed), void=VOID) == 1).mean() * 60)
        for seed in range(60)
    ]
    # Between the labels, columns 9 and 40.
    assert np.median(middles) == pytest.approx(25, abs=1)


def test_nearest_reduction_makes_blocks(street: NDArray[np.int32]) -> None:
    noise = make_rng().integers(0, 200, (64, 64)).astype(np.uint8)
    for seed in range(10):
        found = _reduce(noise, make_rng(seed), 8, nearest=True)
        for lines in (found, found.T):
            edges = np.flatnonzero((lines[1:] != lines[:-1]).any(1))
            assert (np.diff(edges) == 8).all()
            assert edges.size in (7, 8)


@pytest.mark.parametrize("nearest", [True, False])
@pytest.mark.parametrize("stride", [2, 3, 10.7])
def test_reduction_favours_no_side(halves: NDArray[np.uint8], stride: float, nearest: bool) -> None:
    for scene in (halves, halves.T):
        areas = [
            (_reduce(scene, make_rng(seed), stride, nearest=nearest) == 0).sum() / 120
            for seed in range(200)
        ]
        assert np.mean(areas) == pytest.approx(60, abs=0.09 * stride)
        assert np.abs(np.subtract(areas, 60)).max() <= (stride + 1) / 2
        assert np.std(areas) > 0.05 * stride


def test_smooth_reduction_rounds_corners_and_loses_lines(square: NDArray[np.uint8]) -> None:
    scene = square.copy()
    scene[:, 10] = 1
    corners = ([30, 30, 69, 69], [30, 69, 30, 69])
    for seed in range(10):
        found = _reduce(scene, make_rng(seed), 10, nearest=False)
        assert not found[corners].any()
        assert found[35:65, 35:65].all()
        assert not found[:, :20].any()


def test_labels_far_apart_are_enlarged_as_labels_everywhere(square: NDArray[np.uint8]) -> None:
    scene = square.copy()
    scene[40:45, 45:52] = 2
    everywhere = scene.copy()
    everywhere[[0, 0, 1, -1, -1, -2], [0, 1, 0, -1, -2, -1]] = [0, 1, 2, 0, 1, 2]
    for seed in range(20):
        found, expected = (
            _reduce(labels, make_rng(seed), 5.3, nearest=False) for labels in (scene, everywhere)
        )
        # Windows that begin elsewhere round otherwise.
        assert (found != expected)[15:-15, 15:-15].mean() < 0.001


def test_displacement_stays_within_its_amplitude(halves: NDArray[np.uint8]) -> None:
    moved = [displacement(_displace(halves, make_rng(s), 10, 3), halves) for s in range(40)]
    # Of a normal variable, the mean absolute value is 0.8 deviations, here 0.8 · 3.
    assert 1 < np.mean(moved) < 3


def test_a_shift_moves_all(square: NDArray[np.uint8]) -> None:
    found = _displace(square, make_rng(), 10, 0, shift=(3, -2))
    assert np.array_equal(found, np.roll(square, (-3, 2), (0, 1)))


def test_fine_displacement_is_ragged(halves: NDArray[np.uint8]) -> None:
    fine, smooth = (boundary(_displace(halves, make_rng(), s, 2)).sum() for s in (1, 30))
    assert fine > 1.5 * smooth
    assert displacement(_displace(halves, make_rng(), 1, 2), halves) < 3


@pytest.mark.parametrize("pixels", [1, 3.5, 6])
def test_growth_is_as_wide_as_asked(square: NDArray[np.uint8], pixels: float) -> None:
    areas = set()
    for seed in range(12):
        found = _grow(square, make_rng(seed), pixels, patchy=False)
        assert int(pixels) <= depth(found != square, square) <= pixels
        areas.add(int(found[50].sum()))
    # Label 1 grown or label 0 shrunk, and the other way round.
    assert areas == {40 - 2 * int(pixels), 40 + 2 * int(pixels)}


def test_patchy_growth_differs_from_place_to_place(square: NDArray[np.uint8]) -> None:
    both = 0
    for seed in range(12):
        found = _grow(square, make_rng(seed), 4, patchy=True)
        assert depth(found != square, square) <= 16
        gained, lost = (found > square).any(), (found < square).any()
        both += bool(gained and lost)
    assert both >= 6


def test_narrow_things_are_lost(square: NDArray[np.uint8]) -> None:
    scene = np.pad(square, ((0, 0), (0, 60)))
    scene[:, 120] = 2
    for seed in range(12):
        found = _thin(scene, make_rng(seed), 3)
        assert (found == 2).sum() < 0.2 * (scene == 2).sum()
        # The rest keeps its place, but for corners and where the radius changes.
        changed = (found != scene)[40:60, :110]
        assert depth(changed, scene[40:60, :110]) <= 2
        assert changed.mean() < 0.01
    assert np.array_equal(_thin(scene, make_rng(), 0.1), scene)


def test_leaks_take_the_label_of_the_other_side(halves: NDArray[np.uint8]) -> None:
    for scene in (halves, halves.T):
        sides = set()
        reached = []
        for seed in range(40):
            found = _leak(scene, make_rng(seed), 15)
            changed = found != scene
            if changed.any():
                sides |= set(found[changed])
                reached.append(depth(changed, scene))
        # Only pairs across the direction that was drawn are found: in half the cases.
        assert 10 <= len(reached) <= 30
        assert sides == {0, 1}
        assert 10 < np.mean(reached) < 20
        assert max(reached) <= 31


def test_leaks_spare_a_third_label(halves: NDArray[np.uint8]) -> None:
    scene = halves.copy()
    scene[::5] = 2
    for seed in range(20):
        changed = _leak(scene, make_rng(seed), 15) != scene
        assert np.unique(scene[changed]).size == 1


def test_speckle_is_small_and_sparse(street: NDArray[np.int32]) -> None:
    regions = np.unique(street, return_inverse=True)[1].astype(np.uint8)
    share = []
    for seed in range(10):
        found = _speckle(regions, make_rng(seed), 2)
        blobs, _ = ndimage.label(found != regions)
        share.append(float((blobs > 0).mean()))
        assert np.bincount(blobs.ravel())[1:].max(initial=0) < 400
    assert 0.001 < np.mean(share) < 0.05


def test_maps_are_good_and_coarse(street: NDArray[np.int32]) -> None:
    true = np.where(street == VOID, ROAD, street)
    off, same = [], 0
    for seed in range(200):
        found = perturb_label_map(street, make_rng(seed), void=VOID)
        same += np.array_equal(found, true)
        off.append(displacement(found, true))
    assert 0.02 * 200 <= same <= 0.1 * 200
    tenth, quarter, half, most, coarse = np.quantile(off, [0.1, 0.25, 0.5, 0.75, 0.95])
    assert tenth < 0.7
    assert 0.5 < quarter < 1.5
    assert 1.5 < half < 3
    assert 3 < most < 6
    assert coarse > 6
    assert max(off) > 10
