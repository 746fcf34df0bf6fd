"""Every pixel of an error map has one code, and the codes add up to the errors of the maps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from segfix.report.error_map import (
    BROKEN,
    ERROR_COLOURS,
    ERROR_NAMES,
    FIXED,
    RELABELLED,
    RIGHT,
    VOID,
    WRONG,
    error_map,
)

CODES = (RIGHT, FIXED, BROKEN, WRONG, RELABELLED, VOID)

ids = st.sampled_from([0, 1, 2, 255])
three_maps = nps.arrays(
    np.uint8, st.tuples(st.just(3), st.integers(1, 6), st.integers(1, 6)), elements=ids
)


def code_of(pred: int, target: int, refined: int) -> int:
    """The code of one pixel, spelled out."""
    if target == 255:
        return VOID
    if pred == target:
        return RIGHT if refined == target else BROKEN
    if refined == target:
        return FIXED
    return WRONG if refined == pred else RELABELLED


@given(three_maps)
def test_each_pixel_has_the_code_of_its_three_labels(maps: np.ndarray) -> None:
    preds, target, refined = maps
    codes = error_map(preds, target, refined)
    assert codes.dtype == np.uint8
    expected = [
        code_of(*labels) for labels in zip(*(array.ravel().tolist() for array in maps), strict=True)
    ]
    assert codes.ravel().tolist() == expected


@given(three_maps)
def test_the_codes_add_up_to_the_errors_before_and_after(maps: np.ndarray) -> None:
    preds, target, refined = maps
    counts = np.bincount(error_map(preds, target, refined).ravel(), minlength=len(CODES))
    valid = target != 255
    wrong_before, wrong_after = (int(((m != target) & valid).sum()) for m in (preds, refined))
    assert counts.sum() == target.size
    assert counts[FIXED] + counts[WRONG] + counts[RELABELLED] == wrong_before
    assert counts[BROKEN] + counts[WRONG] + counts[RELABELLED] == wrong_after
    assert counts[FIXED] - counts[BROKEN] == wrong_before - wrong_after
    changed = int(((preds != refined) & valid).sum())
    assert counts[FIXED] + counts[BROKEN] + counts[RELABELLED] == changed


@given(three_maps)
def test_swapping_before_and_after_swaps_fixed_and_broken(maps: np.ndarray) -> None:
    preds, target, refined = maps
    swapped = np.arange(len(CODES), dtype=np.uint8)
    swapped[[FIXED, BROKEN]] = BROKEN, FIXED
    there, back = error_map(preds, target, refined), error_map(refined, target, preds)
    assert np.array_equal(swapped[there], back)


@given(three_maps)
def test_without_refinement_a_pixel_is_right_wrong_or_void(maps: np.ndarray) -> None:
    preds, target, _ = maps
    codes = error_map(preds, target)
    assert np.array_equal(codes, error_map(preds, target, preds))
    assert set(np.unique(codes)) <= {RIGHT, WRONG, VOID}


def test_void_is_what_the_ground_truth_says() -> None:
    preds, target = np.array([[255, 9, 1]]), np.array([[1, 1, 9]])
    assert error_map(preds, target, ignore_index=9).tolist() == [[WRONG, WRONG, VOID]]
    assert error_map(preds, target, ignore_index=-1).tolist() == [[WRONG] * 3]
    small = np.zeros((1, 2), np.uint8)
    assert error_map(small, small, ignore_index=-1).tolist() == [[RIGHT, RIGHT]]


def test_maps_of_different_kinds_are_compared_by_value() -> None:
    preds, target = np.array([[1, 2]], np.uint8), np.array([[1, 258]], np.int32)
    assert error_map(preds, target).tolist() == [[RIGHT, WRONG]]


def test_maps_of_different_sizes_are_refused() -> None:
    wide, high = np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8)
    with pytest.raises(ValueError, match="one size"):
        error_map(wide, high)
    with pytest.raises(ValueError, match="one size"):
        error_map(wide, wide, high)


def test_every_code_has_a_name_and_a_colour_of_its_own() -> None:
    assert CODES == tuple(range(len(ERROR_NAMES))) == tuple(range(len(ERROR_COLOURS)))
    assert len(set(ERROR_NAMES)) == len(set(ERROR_COLOURS)) == len(CODES)
