from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

import segfix
from segfix.formats import LabelMap, OffsetMap
from segfix.geometry import apply_offsets, follow_offsets
from segfix.instances.refine_panoptic import _segment_ids
from segfix.refinement import refine_masks
from segfix.refinement.apply import refine_planes, restore_ids, surroundings


@st.composite
def scenes(draw: st.DrawFn) -> tuple[NDArray[Any], OffsetMap]:
    """Masks in one corner or another of a frame that they fill in part, and any offset map."""
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    num_directions = draw(st.sampled_from([4, 8, 16]))
    codes = draw(arrays(np.uint8, (height, width), elements=st.integers(0, 8 * num_directions)))
    dtype = draw(st.sampled_from([np.dtype(bool), np.dtype(np.uint8)]))
    masks: NDArray[Any] = np.zeros((draw(st.integers(0, 3)), height, width), dtype)
    for mask in masks:
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        inner = mask[top : top + 6, left : left + 6]
        inner[...] = draw(arrays(bool, inner.shape))
    if masks.dtype == np.uint8:
        masks *= np.uint8(255)
    return masks, OffsetMap(codes, num_directions=num_directions)


@given(scenes(), st.sampled_from([0, 0.4, 1, 2.5, 40]), st.sampled_from([0.0, 0.5, 1.0]))
def test_every_mask_is_looked_up_as_if_alone_in_the_full_frame(
    scene: tuple[NDArray[Any], OffsetMap], scale: float, min_confidence: float
) -> None:
    masks, offset_map = scene
    before = masks.copy()
    refined = refine_masks(masks, offset_map, scale=scale, min_confidence=min_confidence)
    assert (refined.dtype, refined.shape) == (masks.dtype, masks.shape)
    assert np.array_equal(masks, before)
    vectors = offset_map.vectors(min_confidence)
    for mask, result in zip(masks, refined, strict=True):
        assert np.array_equal(result, apply_offsets(mask, vectors, scale=scale))


@given(scenes(), st.sampled_from([1, 3, 30]))
def test_following_offsets_is_that_of_the_full_frame(
    scene: tuple[NDArray[Any], OffsetMap], steps: int
) -> None:
    masks, offset_map = scene
    refined = refine_masks(masks, offset_map, iterate=steps)
    for mask, result in zip(masks, refined, strict=True):
        assert np.array_equal(result, follow_offsets(mask, offset_map.vectors(), max_steps=steps))


@given(scenes())
def test_the_fitting_step_is_that_of_the_full_frame(
    scene: tuple[NDArray[Any], OffsetMap],
) -> None:
    masks, offset_map = scene
    for mask, result in zip(masks, refine_masks(masks, offset_map), strict=True):
        assert np.array_equal(result, segfix.refine(mask, offset_map))


def test_the_fitting_step_of_large_masks_is_that_of_the_full_frame() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:120, :160]
    masks = np.stack(
        [
            np.hypot(y - rng.integers(120), x - rng.integers(160)) < rng.integers(3, 50)
            for _ in range(12)
        ]
    )
    codes = rng.integers(1, 65, (120, 160)) * (rng.random((120, 160)) < 0.7)
    offset_map = OffsetMap(codes.astype(np.uint8))
    refined = segfix.refine_masks(masks, offset_map)
    assert (refined != masks).any()
    for mask, result in zip(masks, refined, strict=True):
        assert np.array_equal(result, segfix.refine(mask, offset_map))


def test_masks_may_overlap() -> None:
    offset_map = OffsetMap.encode(np.ones((1, 5), bool), np.full((1, 5), 4, np.uint8))
    masks = np.array([[[1, 1, 1, 0, 0]], [[0, 0, 1, 1, 0]]], bool)
    assert refine_masks(masks, offset_map, scale=1).astype(int).tolist() == [
        [[1, 1, 0, 0, 0]],
        [[0, 1, 1, 0, 0]],
    ]


@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 3), (1, 3, 4, 1), (0, 4, 3)])
def test_masks_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    offset_map = OffsetMap(np.zeros((3, 4), np.uint8))
    with pytest.raises(ValueError, match="Expected masks of shape"):
        refine_masks(np.zeros(shape, bool), offset_map)
    assert refine_masks(np.zeros((0, 3, 4), bool), offset_map).shape == (0, 3, 4)


def test_only_the_surroundings_of_a_mask_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def watched(mask: LabelMap, *others: Any) -> LabelMap:
        sizes.append(mask.shape)
        return refine_planes(mask, *others)

    monkeypatch.setattr(sys.modules["segfix.refinement.apply"], "refine_planes", watched)
    masks = np.zeros((3, 400, 500), bool)
    masks[0, 50:60, 70:90] = masks[1, 390:, :5] = True
    offset_map = OffsetMap(np.ones((400, 500), np.uint8))
    refine_masks(masks, offset_map, scale=2)
    assert sizes == [(14, 24), (12, 7)]
    refine_masks(masks[:1], offset_map)
    assert sizes[2:] == [(26, 36)]


def test_surroundings_are_the_box_of_a_mask_with_a_margin_in_the_frame() -> None:
    mask = np.zeros((9, 9), bool)
    assert surroundings(mask, 2) == ()
    mask[1, 4] = mask[3, 5] = True
    assert surroundings(mask, 2) == (slice(0, 6), slice(2, 8))
    assert surroundings(np.stack([mask] * 3, axis=-1), 0) == (slice(1, 4), slice(4, 6))


def test_segments_that_push_each_other_out_all_come_back() -> None:
    before = np.zeros((1, 4, 3), np.uint8)
    before[0, :, 0] = [1, 2, 3, 3]
    refined = np.zeros_like(before)
    refined[0, :, 0] = [2, 3, 3, 3]
    listed: list[Any] = [1, 2, 3, "text", 10**30]
    for keep, ids, lost in ((False, [2, 3, 3, 3], [1]), (True, [1, 2, 3, 3], [1, 2])):
        found = restore_ids(LabelMap(before), refined, listed, _segment_ids, restore=keep)
        assert refined[0, :, 0].tolist() == ids
        assert [one for one in found if one not in ("text", 10**30)] == lost
        assert len(found) == len(lost) + 2


@given(
    before=arrays(np.uint16, (3, 8), elements=st.integers(0, 9)),
    after=arrays(np.uint16, (3, 8), elements=st.integers(0, 9)),
    listed=st.sets(st.integers(0, 11)),
)
def test_ids_come_back_until_none_is_missing(
    before: NDArray[np.uint16], after: NDArray[np.uint16], listed: set[int]
) -> None:
    refined = after.copy()
    lost = restore_ids(LabelMap(before), refined, listed)
    expected, missing = after.copy(), set[int]()
    while more := listed - missing - set(expected.ravel().tolist()):
        missing |= more
        back = np.isin(before, [*more])
        expected[back] = before[back]
    assert set(lost) == missing
    assert len(lost) == len(missing)
    np.testing.assert_array_equal(refined, expected)
