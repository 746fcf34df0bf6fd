from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from segfix.geometry import (
    apply_offsets,
    direction_to_offsets,
    fit_offsets,
    flip_direction_map,
    make_targets,
)
from segfix.geometry.evidence import (
    CONDITIONED_WEIGHTS,
    MAX_DISTANCE,
    MOST_WRONG,
    TYPICAL_SHARE,
    TYPICAL_WEIGHT,
    WEIGHTS,
    cast_rays,
    share_on_wrong_side,
)


def blobs(seed: int, size: tuple[int, int] = (60, 70), classes: int = 4) -> NDArray[np.uint8]:
    """Smooth regions, as large as objects are."""
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.normal(size=size), 6) for _ in range(classes)]
    labels: NDArray[np.uint8] = np.argmax(fields, axis=0).astype(np.uint8)
    return labels


def true_offsets(labels: NDArray[Any], num_directions: int = 8) -> NDArray[np.int8]:
    targets = make_targets(labels, num_directions=num_directions)
    return direction_to_offsets(targets.boundary_map == 1, targets.direction_map, num_directions)


def refined(
    labels: NDArray[Any], offsets: NDArray[np.int8], confidence: float = 0.95
) -> NDArray[Any]:
    return apply_offsets(
        labels, fit_offsets(labels, offsets, np.full(labels.shape, confidence)), scale=1
    )


def slow_fit(
    labels: NDArray[Any],
    offsets: NDArray[np.int8],
    confidence: NDArray[np.float64],
    conditioned: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """`fit_offsets` pixel by pixel, from its formula, and the log-odds; NaN for none."""
    height, width = labels.shape
    unit = max(1, int(np.abs(offsets).max()))

    def first_change(y: int, x: int, dy: int, dx: int) -> int:
        for t in range(1, 8 // unit + 1):
            # The label map goes on beyond the frame as at the frame.
            there = min(max(y + t * dy, 0), height - 1), min(max(x + t * dx, 0), width - 1)
            if labels[there] != labels[y, x]:
                return t
        return 0

    def is_opposed(y: int, x: int, dy: int, dx: int, steps: int) -> bool:
        places = [(y + t * dy, x + t * dx) for t in range(1, steps + 1)]
        return any(
            dy * int(offsets[0, i, j]) + dx * int(offsets[1, i, j]) < 0
            for i, j in places
            if 0 <= i < height and 0 <= j < width
        )

    rays = {}
    wrong = total = 0
    for y, x in np.argwhere(offsets.any(axis=0)).tolist():
        dy, dx = (int(v) for v in offsets[:, y, x])
        ahead, behind = first_change(y, x, dy, dx), first_change(y, x, -dy, -dx)
        ahead = 0 if is_opposed(y, x, dy, dx, ahead) else ahead
        rays[y, x] = dy, dx, ahead, behind
        apart = [t * unit if t else 7 for t in (ahead, behind)]
        if confidence[y, x] > 0.8 and 3 <= min(apart) <= 6:
            total += 1
            wrong += apart[0] <= apart[1]
    share = (wrong + 6) / (total + 100)
    bias, own, far, thin, beyond, pixel, constant = WEIGHTS
    if conditioned:
        bias, own, far, thin, beyond, pixel, constant = CONDITIONED_WEIGHTS
        beside = [
            confidence[y, x]
            for y, x in np.ndindex(labels.shape)
            if any(
                0 <= i < height and 0 <= j < width and labels[i, j] != labels[y, x]
                for i, j in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
            )
        ]
        share = (float(sum(beside)) + 30) / (len(beside) + 100)
        assert share <= MOST_WRONG

    def logit(y: int, x: int) -> float:
        there = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        sure = min(max(confidence[there], 0.03), 0.97)
        return float(np.log(sure / (1 - sure)))

    fitted = np.zeros((2, height, width), int)
    odds = np.full((height, width), np.nan)
    for (y, x), (dy, dx, ahead, behind) in rays.items():
        if ahead:
            odds[y, x] = bias + constant * np.log(share) + own * logit(y, x)
            odds[y, x] += (pixel + far * np.log(share)) * ahead * unit
            odds[y, x] += thin * (0 < behind * unit <= 6)
            odds[y, x] += beyond * logit(y + ahead * dy, x + ahead * dx)
            if odds[y, x] > 0:
                fitted[:, y, x] = ahead * dy, ahead * dx
    return fitted, odds


def halves(edge: int, width: int = 40) -> NDArray[np.uint8]:
    labels = np.zeros((30, width), np.uint8)
    labels[:, edge:] = 1
    return labels


@pytest.mark.parametrize("num_directions", [8, 16])
@pytest.mark.parametrize("strayed", [-4, -2, -1, 0, 1, 2, 4])
def test_a_boundary_that_strayed_is_brought_back(strayed: int, num_directions: int) -> None:
    offsets = true_offsets(halves(20), num_directions)
    assert np.array_equal(refined(halves(20 + strayed), offsets), halves(20))


def test_the_paper_step_would_not_reach_as_far() -> None:
    offsets = true_offsets(halves(20))
    assert not np.array_equal(apply_offsets(halves(24), offsets, scale=2), halves(20))


@pytest.mark.parametrize("seed", range(5))
def test_true_offsets_leave_true_labels_almost_alone(seed: int) -> None:
    labels = blobs(seed)
    offsets = true_offsets(labels)
    ours = np.mean(refined(labels, offsets) != labels)
    papers = np.mean(apply_offsets(labels, offsets, scale=4) != labels)
    assert ours <= 0.002
    assert ours <= papers


@pytest.mark.parametrize("width", [2, 3, 4, 5])
def test_what_lies_beyond_a_thin_object_is_not_fetched(width: int) -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[:, 18 : 18 + width] = 1
    offsets = true_offsets(labels)
    assert np.array_equal(refined(labels, offsets), labels)
    if width in (2, 3):
        assert not apply_offsets(labels, offsets, scale=4)[:, 18 : 18 + width].all()


def test_an_unsure_direction_moves_nothing() -> None:
    offsets = true_offsets(halves(20))
    assert np.array_equal(refined(halves(23), offsets, confidence=0.3), halves(23))


def test_the_same_evidence_reaches_farther_in_a_map_that_strayed_farther() -> None:
    # The upper rows, whose directions are sure, follow the photograph or miss it by 5 px; those
    # below miss it by 4 px and are less sure.
    true = np.zeros((60, 40), np.uint8)
    true[:, 20:] = 1
    confidence = np.repeat([0.9, 0.75], 30)[:, None] * np.ones((1, 40))
    moved = {}
    for strayed in (0, 5):
        labels = np.concatenate([halves(20 + strayed), halves(24)])
        fitted = fit_offsets(labels, true_offsets(true), confidence)
        moved[strayed] = int((fitted[:, 30:] != 0).any(axis=0).sum())
    assert moved[5] > moved[0]


def test_share_on_the_wrong_side_counts_sure_pixels_some_way_off() -> None:
    # The photograph's boundary lies before column 20, the label map's before column 26: the band's
    # columns 20 … 24 see it 6 … 2 px ahead, of which 3 … 6 count; none sees it behind.
    offsets = true_offsets(halves(20))
    rays = cast_rays(halves(26), offsets, MAX_DISTANCE)
    assert {*rays.ahead[rays.ahead > 0]} == {2, 3, 4, 5, 6}
    assert {*rays.behind} == {0, 7, 8}, "of the columns on the other side"
    wrong = 4 * 30
    share = share_on_wrong_side(rays, np.full(len(rays.places), 0.9), 1)
    assert share == pytest.approx(
        (wrong + TYPICAL_WEIGHT * TYPICAL_SHARE) / (wrong + TYPICAL_WEIGHT)
    )
    unsure = share_on_wrong_side(rays, np.full(len(rays.places), 0.5), 1)
    assert unsure == pytest.approx(TYPICAL_SHARE)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(0, 1000), st.sampled_from([4, 8, 16]))
def test_labels_are_only_moved_and_only_on_the_boundary(
    seed: int, other: int, num_directions: int
) -> None:
    labels, photograph = blobs(seed, (30, 35)), blobs(other, (30, 35))
    offsets = true_offsets(photograph, num_directions)
    rng = np.random.default_rng(seed)
    fitted = fit_offsets(labels, offsets, rng.random(labels.shape))
    found = apply_offsets(labels, fitted, scale=1)
    assert set(np.unique(found)) <= set(np.unique(labels))
    still = (offsets == 0).all(axis=0)
    assert np.array_equal(found[still], labels[still])
    assert np.abs(fitted).max() <= MAX_DISTANCE
    # Whoever moves gets another label than its own, found along its own direction.
    moving = (fitted != 0).any(axis=0)
    assert np.all(found[moving] != labels[moving])
    assert np.all(fitted[0] * offsets[1] == fitted[1] * offsets[0])


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_mirrored_input_gives_the_mirrored_result(seed: int, other: int) -> None:
    labels, photograph = blobs(seed, (30, 35)), blobs(other, (30, 35))
    targets = make_targets(photograph)
    boundary = targets.boundary_map == 1
    confidence = np.random.default_rng(seed).random(labels.shape)
    offsets = direction_to_offsets(boundary, targets.direction_map)
    mirrored = direction_to_offsets(
        boundary[:, ::-1], flip_direction_map(targets.direction_map, num_directions=8)
    )
    found = apply_offsets(labels, fit_offsets(labels, offsets, confidence), scale=1)
    again = apply_offsets(
        labels[:, ::-1], fit_offsets(labels[:, ::-1], mirrored, confidence[:, ::-1]), scale=1
    )
    assert np.array_equal(found[:, ::-1], again)


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("num_directions", [4, 8, 16])
@pytest.mark.parametrize("seed", range(6))
def test_fitting_equals_the_formula_pixel_by_pixel(
    seed: int, num_directions: int, conditioned: bool
) -> None:
    size = [(40, 45), (33, 12), (300, 20)][seed % 3]
    photograph = blobs(seed, size)
    # A map that strayed by a few pixels, and one that has nothing to do with the photograph.
    labels = np.roll(photograph, (2, 3), (0, 1)) if seed % 2 else blobs(seed + 100, size)
    rng = np.random.default_rng(seed)
    confidence = rng.random(size) ** 0.3
    specks = rng.random(size)
    confidence[specks < 0.2], confidence[specks < 0.1], confidence[specks < 0.03] = 0.8, 1, 0
    offsets = true_offsets(photograph, num_directions)
    if conditioned:
        confidence = confidence**2
    expected, odds = slow_fit(labels, offsets, confidence, conditioned)
    clear = ~(np.abs(odds) < 1e-9)
    assert clear.mean() > 0.99
    assert (odds > 0).sum() > 10
    assert (odds < 0).sum() > 10
    found = fit_offsets(labels, offsets, confidence, conditioned=conditioned)
    assert found.dtype == np.int8
    assert np.array_equal(found[:, clear], expected[:, clear])


@pytest.mark.parametrize("strayed", [-4, -2, 2, 4])
def test_a_network_that_knows_what_is_wrong_brings_it_back(strayed: int) -> None:
    labels, true = halves(20 + strayed), halves(20)
    wrong = np.where(labels != true, 0.9, 0.05)
    fitted = fit_offsets(labels, true_offsets(true), wrong, conditioned=True)
    assert np.array_equal(apply_offsets(labels, fitted, scale=1), true)


def test_where_hardly_anything_is_wrong_what_is_unsure_stays() -> None:
    true = halves(20)
    sure, unsure = np.full(true.shape, 0.05), np.full(true.shape, 0.3)
    for confidence in (sure, unsure):
        fitted = fit_offsets(true, true_offsets(true), confidence, conditioned=True)
        assert not fitted.any()


def test_where_nearly_all_is_taken_for_wrong_nothing_moves() -> None:
    labels, true = halves(23), halves(20)
    # Of 60 pixels beside the change, with 0.3 of 100 more: at 0.65 they are 0.86 on average.
    for height, moves in ((600, False), (30, True)):
        tall, offsets = (np.resize(ids, (height, 40)) for ids in (labels, true))
        for wrong, moved in ((0.5, True), (0.9, moves)):
            confidence = np.full(tall.shape, wrong)
            fitted = fit_offsets(tall, true_offsets(offsets), confidence, conditioned=True)
            assert fitted.any() == moved


@pytest.mark.parametrize("reach", range(1, 8))
def test_a_shorter_reach_sees_the_same_but_what_is_farther(reach: int) -> None:
    labels, offsets = blobs(1), true_offsets(blobs(2))

    def seen(limit: int) -> NDArray[np.int8]:
        rays = cast_rays(labels, offsets, limit)
        maps = np.zeros((2, labels.size), np.int8)
        maps[:, rays.places] = rays.ahead, rays.behind
        return maps

    whole = seen(8)
    assert whole.max() == 8
    assert np.array_equal(seen(reach), np.where(whole <= reach, whole, 0))


def test_without_boundary_pixels_nothing_moves() -> None:
    nothing = np.zeros((2, 30, 40), np.int8)
    assert np.array_equal(fit_offsets(halves(20), nothing, np.ones((30, 40))), nothing)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_a_map_without_pixels_has_offsets_of_its_shape(shape: tuple[int, int]) -> None:
    nothing = np.zeros((2, *shape), np.int8)
    fitted = fit_offsets(np.zeros(shape, np.uint8), nothing, np.zeros(shape, np.float32))
    assert fitted.shape == nothing.shape
    assert fitted.dtype == np.int8


def test_shapes_that_differ_are_refused() -> None:
    labels = np.zeros((4, 5), np.uint8)
    with pytest.raises(ValueError, match=r"\(2, 4, 5\)"):
        fit_offsets(labels, np.zeros((2, 5, 4), np.int8), np.zeros((4, 5)))
    with pytest.raises(ValueError, match="confidence_map"):
        fit_offsets(labels, np.zeros((2, 4, 5), np.int8), np.zeros((5, 4)))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int32, np.int64])
def test_ids_of_any_type(dtype: type) -> None:
    offsets = true_offsets(halves(20))
    assert np.array_equal(refined(halves(22).astype(dtype), offsets), halves(20).astype(dtype))
