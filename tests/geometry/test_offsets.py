from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from segfix.geometry import (
    NUM_DIRECTIONS,
    UNDEFINED,
    apply_offsets,
    direction_to_offsets,
    follow_offsets,
    make_targets,
    unit_offsets,
)

Method = Callable[[NDArray[Any], NDArray[np.int8]], NDArray[Any]]

each_m = pytest.mark.parametrize("m", NUM_DIRECTIONS)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """A label map and offsets, some of which leave the frame."""
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    ids = st.sampled_from([0, 3, 200, 255])
    steps = st.integers(-4, 4)
    labels = draw(hnp.arrays(np.uint8, (height, width), elements=ids))
    offsets = draw(hnp.arrays(np.int8, (2, height, width), elements=steps, fill=st.just(0)))
    return labels, offsets


def random_offsets(
    seed: int, m: int, shape: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 256, shape, np.uint8)
    sectors = rng.integers(0, m, shape, np.uint8)
    sectors[rng.random(shape) < 0.1] = UNDEFINED
    return labels, direction_to_offsets(rng.random(shape) < 0.6, sectors, m)


# direction_to_offsets


@each_m
def test_each_boundary_pixel_gets_the_offset_of_its_sector_and_others_none(m: int) -> None:
    sectors = np.array([[*range(m), UNDEFINED, 0]], np.uint8)
    boundary = np.ones(sectors.shape, bool)
    boundary[0, -1] = False
    offsets = direction_to_offsets(boundary, sectors, m)
    assert offsets.dtype == np.int8
    assert offsets.flags.c_contiguous
    assert offsets[:, 0].T.tolist() == [*unit_offsets(m).tolist(), [0, 0], [0, 0]]


def test_other_numbers_of_directions_are_refused() -> None:
    with pytest.raises(ValueError, match="but got 9"):
        direction_to_offsets(np.ones((1, 1), bool), np.zeros((1, 1), np.uint8), 9)


# apply_offsets


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@each_m
@pytest.mark.parametrize("shape", [(17, 23), (2, 31), (40, 3)])
def test_refinement_is_grid_sample_nearest(shape: tuple[int, int], m: int, scale: int) -> None:
    labels, offsets = random_offsets(m + scale, m, shape)
    height, width = shape
    y, x = np.mgrid[:height, :width] + scale * offsets.astype(np.float64)
    assert ((x < 0) | (x > width - 1) | (y < 0) | (y > height - 1)).sum() > 5
    grid = np.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], axis=-1)
    sampled = F.grid_sample(
        torch.from_numpy(labels.astype(np.float64))[None, None],
        torch.from_numpy(grid)[None],
        mode="nearest",
        padding_mode="border",
        align_corners=True,
    )
    assert np.array_equal(apply_offsets(labels, offsets, scale=scale), sampled[0, 0].numpy())


@given(scenes(), st.integers(1, 5))
def test_each_pixel_takes_the_label_at_the_end_of_its_offset(
    scene: tuple[NDArray[np.uint8], NDArray[np.int8]], scale: int
) -> None:
    labels, offsets = scene
    refined = apply_offsets(labels, offsets, scale=scale)
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            there = (
                min(max(y + scale * int(offsets[0, y, x]), 0), height - 1),
                min(max(x + scale * int(offsets[1, y, x]), 0), width - 1),
            )
            assert refined[y, x] == labels[there]


@given(scenes(), st.sampled_from([0.5, 1, 2, 3.7]))
def test_nothing_new_appears_and_pixels_without_offset_stay(
    scene: tuple[NDArray[np.uint8], NDArray[np.int8]], scale: float
) -> None:
    labels, offsets = scene
    before = labels.copy()
    for refined in (
        apply_offsets(labels, offsets, scale=scale),
        follow_offsets(labels, offsets, max_steps=round(2 * scale)),
    ):
        assert refined.dtype == labels.dtype
        assert set(np.unique(refined)) <= set(np.unique(labels))
        still = ~offsets.any(axis=0)
        assert np.array_equal(refined[still], labels[still])
        assert not np.shares_memory(refined, labels)
    assert np.array_equal(labels, before)


@given(scenes())
def test_zero_offsets_and_zero_scale_are_the_identity(
    scene: tuple[NDArray[np.uint8], NDArray[np.int8]],
) -> None:
    labels, offsets = scene
    assert np.array_equal(apply_offsets(labels, np.zeros_like(offsets)), labels)
    assert np.array_equal(follow_offsets(labels, np.zeros_like(offsets)), labels)
    assert np.array_equal(apply_offsets(labels, offsets, scale=0), labels)


@pytest.mark.parametrize("method", [apply_offsets, follow_offsets])
def test_colours_and_soft_predictions_move_channel_by_channel(method: Method) -> None:
    _, offsets = random_offsets(0, 8, (12, 14))
    soft = np.random.default_rng(1).random((12, 14, 5))
    refined = method(soft, offsets)
    for channel in range(5):
        assert np.array_equal(refined[..., channel], method(soft[..., channel], offsets))


@pytest.mark.parametrize("method", [apply_offsets, follow_offsets])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int32, np.int64, np.float32])
def test_the_type_of_the_label_map_is_kept(dtype: type, method: Method) -> None:
    labels, offsets = random_offsets(0, 8, (9, 9))
    labels %= 2
    refined = method(labels.astype(dtype), offsets)
    assert refined.dtype == dtype
    assert np.array_equal(refined, method(labels, offsets))


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("scale", [64, 100, 127, 128, 1000, 64.0])
def test_a_large_scale_leads_to_the_frame_and_does_not_wrap_around(
    scale: float, dtype: type
) -> None:
    labels = np.arange(300, dtype=np.uint16)[None]
    offsets: NDArray[Any] = np.zeros((2, 1, 300), dtype)
    offsets[1, 0, 100], offsets[1, 0, 200] = 2, -2
    refined = apply_offsets(labels, offsets, scale=scale)
    assert refined[0, 100] == min(100 + 2 * scale, 299)
    assert refined[0, 200] == max(200 - 2 * scale, 0)


def test_fractional_scales_round_the_same_for_odd_and_even_pixels() -> None:
    labels = np.arange(6)[None]
    step = np.array([np.zeros((1, 6)), np.ones((1, 6))], np.int8)
    assert apply_offsets(labels, step, scale=0.5).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert apply_offsets(labels, step, scale=1.5).tolist() == [[2, 3, 4, 5, 5, 5]]
    assert apply_offsets(labels, -step, scale=1.5).tolist() == [[0, 0, 0, 1, 2, 3]]


def test_without_a_word_pixels_go_two_steps_or_follow_ten() -> None:
    labels = np.arange(30)[None]
    right = np.array([np.zeros((1, 30)), np.ones((1, 30))], np.int8)
    assert np.array_equal(apply_offsets(labels, right), np.minimum(labels + 2, 29))
    assert np.array_equal(follow_offsets(labels, right), np.minimum(labels + 10, 29))


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_a_scale_that_is_not_finite_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="finite scale but got"):
        apply_offsets(np.zeros((2, 2)), np.ones((2, 2, 2), np.int8), scale=scale)


def test_true_offsets_repair_a_boundary_that_is_off_by_a_few_pixels(
    disc: NDArray[np.uint8],
) -> None:
    y, x = np.mgrid[:51, :51] - 25
    coarse = np.where(y * y + x * x <= 15 * 15, 7, 3).astype(np.uint8)
    targets = make_targets(disc)
    offsets = direction_to_offsets(targets.boundary_map == 1, targets.direction_map)
    wrong = (coarse != disc).sum()
    for refined in (apply_offsets(coarse, offsets), follow_offsets(coarse, offsets)):
        assert (refined != disc).sum() < 0.1 * wrong


# follow_offsets


def slow_follow(
    labels: NDArray[np.uint8], offsets: NDArray[np.int8], max_steps: int
) -> NDArray[np.uint8]:
    refined = labels.copy()
    height, width = labels.shape
    for start in np.ndindex(labels.shape):
        y, x = start
        for _ in range(max_steps):
            dy, dx = (int(step) for step in offsets[:, y, x])
            y, x = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
        refined[start] = labels[y, x]
    return refined


@given(scenes(), st.integers(1, 12))
def test_following_equals_walking_pixel_by_pixel(
    scene: tuple[NDArray[np.uint8], NDArray[np.int8]], max_steps: int
) -> None:
    labels, offsets = scene
    expected = slow_follow(labels, offsets, max_steps)
    assert np.array_equal(follow_offsets(labels, offsets, max_steps=max_steps), expected)


@given(scenes())
def test_following_for_one_step_is_applying_with_scale_one(
    scene: tuple[NDArray[np.uint8], NDArray[np.int8]],
) -> None:
    one_step = follow_offsets(*scene, max_steps=1)
    assert np.array_equal(one_step, apply_offsets(*scene, scale=1))


def test_following_stops_at_the_first_pixel_off_the_boundary() -> None:
    labels = np.arange(8)[None]
    offsets = np.array([np.zeros((1, 8)), [[0, -1, -1, -1, 0, 0, -1, 0]]], np.int8)
    assert follow_offsets(labels, offsets).tolist() == [[0, 0, 0, 0, 4, 5, 5, 7]]
    assert follow_offsets(labels, offsets, max_steps=2).tolist() == [[0, 0, 0, 1, 4, 5, 5, 7]]


def test_following_ends_where_offsets_point_at_each_other() -> None:
    labels = np.array([[1, 2]])
    offsets = np.array([[[0, 0]], [[1, -1]]], np.int8)
    assert follow_offsets(labels, offsets, max_steps=10).tolist() == [[1, 2]]
    assert follow_offsets(labels, offsets, max_steps=11).tolist() == [[2, 1]]


@pytest.mark.parametrize("max_steps", [0, -1])
def test_fewer_than_one_step_is_refused(max_steps: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1 but got {max_steps}"):
        follow_offsets(np.zeros((2, 2)), np.zeros((2, 2, 2), np.int8), max_steps=max_steps)


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 5, 3), (1, 4, 3), (4, 3, 2), (4, 3)])
def test_offsets_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    offsets = np.zeros(shape, np.int8)
    for method in (apply_offsets, follow_offsets):
        with pytest.raises(ValueError, match=r"shape \(2, 4, 3\) but got"):
            method(np.zeros((4, 3), np.uint8), offsets)
