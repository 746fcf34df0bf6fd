from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from segfix.formats import LabelMap, OffsetMap
from segfix.formats.images import turn_back, turn_upright
from segfix.refinement.orientation import ASSUMED
from segfix.refinement.sizes import (
    Fit,
    advise_fit,
    match_sizes,
    resize_linear,
    resize_nearest,
    see_whole,
)

RNG = np.random.default_rng(0)


def offset_map(height: int, width: int, **source: int) -> OffsetMap:
    codes = RNG.integers(0, 65, (height, width)).astype(np.uint8)
    return OffsetMap(codes, source=dict(source))


def test_equal_sizes_pass_unchanged() -> None:
    label_map, offsets = LabelMap(RNG.integers(0, 9, (6, 9))), offset_map(6, 9)
    for fit in (None, "image", "labels"):
        same, too = match_sizes(label_map, offsets, fit)
        assert same is label_map
        assert too is offsets


def test_other_sizes_are_an_error_unless_one_is_to_fit() -> None:
    label_map, offsets = LabelMap(RNG.integers(0, 9, (3, 4))), offset_map(6, 9)
    with pytest.raises(ValueError, match=r"Expected a prediction of \(6, 9\) but got \(3, 4\)"):
        match_sizes(label_map, offsets)
    large, same = match_sizes(label_map, offsets, "image")
    assert large.shape == (6, 9)
    assert same is offsets
    same_labels, small = match_sizes(label_map, offsets, "labels")
    assert same_labels is label_map
    assert small.codes.shape == (3, 4)
    assert set(small.codes.flat) <= set(offsets.codes.flat)


@pytest.mark.parametrize("fit", [None, "crop", "stretch-image", "letterbox"])
def test_masks_along_the_last_axis_are_refused(fit: Fit | None) -> None:
    masks = LabelMap(RNG.random((7, 9, 3)) > 0.5, "masks", channels_first=True)
    with pytest.raises(ValueError, match=r"\(7, 9, 3\)"):
        match_sizes(masks, offset_map(7, 9), fit)
    with pytest.raises(ValueError, match=r"\(7, 9, 3\)"):
        see_whole(masks, (7, 9), 1, fit)
    assert "np.moveaxis(masks, -1, 0)" in advise_fit(masks, offset_map(7, 9))


def test_scores_take_the_layout_that_has_the_size_of_the_offsets() -> None:
    scores = RNG.random((9, 7, 5))
    guess = LabelMap(scores, "scores", channels_first=False)
    assert match_sizes(guess, offset_map(7, 5))[0].channels_first
    other = LabelMap(scores, "scores", channels_first=True)
    assert not match_sizes(other, offset_map(9, 7))[0].channels_first


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_prediction_of_the_stored_pixels_is_turned(orientation: int) -> None:
    stored = LabelMap(RNG.integers(0, 9, (6, 9)))
    offsets = offset_map(9, 6, orientation=orientation)
    upright, same = match_sizes(stored, offsets)
    assert same is offsets
    assert np.array_equal(upright.array, turn_upright(stored.array, orientation))
    # `write_label_map` turns it back.
    assert np.array_equal(turn_back(upright.array, upright.rest["turned"]), stored.array)


def test_what_is_not_a_quarter_turn_apart_is_not_turned() -> None:
    stored = LabelMap(RNG.integers(0, 9, (6, 9)))
    for source in ({}, {"orientation": 1}, {"orientation": 3}, {"orientation": "6"}):
        offsets = replace(offset_map(9, 6), source=source)
        with pytest.raises(ValueError, match="Expected a prediction"):
            match_sizes(stored, offsets)
    square = LabelMap(RNG.integers(0, 9, (6, 6)))
    same, _ = match_sizes(square, offset_map(6, 6, orientation=6))
    assert np.array_equal(same.array, square.array)
    assert same.rest == {ASSUMED: True}


@given(st.integers(1, 8), st.booleans())
def test_turning_back_undoes_turning_and_agrees_with_exif(orientation: int, colour: bool) -> None:
    array = RNG.integers(0, 256, (4, 5, 3) if colour else (4, 5)).astype(np.uint8)
    upright = turn_upright(array, orientation)
    assert np.array_equal(turn_back(upright, orientation), array)
    steps = [
        *([], [0], [3], [1], [5], [4], [6], [2]),
    ][orientation - 1]
    picture = Image.fromarray(array)
    for step in steps:
        picture = picture.transpose(Image.Transpose(step))
    assert np.array_equal(np.array(picture), upright)


@given(*(st.integers(1, 12) for _ in range(4)))
def test_nearest_takes_the_pixel_under_the_middle(h: int, w: int, rows: int, cols: int) -> None:
    array = np.arange(h * w).reshape(h, w)
    resized = resize_nearest(array, (rows, cols))
    y = np.floor((np.arange(rows) + 0.5) * h / rows + 1e-12).astype(int)
    x = np.floor((np.arange(cols) + 0.5) * w / cols + 1e-12).astype(int)
    assert np.array_equal(resized, array[y[:, None], x])
    assert np.array_equal(resize_nearest(array, (h, w)), array)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.uint16])
def test_linear_keeps_type_range_and_what_is_constant(dtype: Any) -> None:
    scores: NDArray[Any] = (RNG.random((5, 6, 3)) * 100).astype(dtype)
    scores[..., 1] = 7
    resized = resize_linear(scores, (11, 4))
    assert resized.shape == (11, 4, 3)
    assert resized.dtype == dtype
    assert (resized[..., 1] == 7).all()
    assert resized.min() >= scores.min()
    assert resized.max() <= scores.max()
    assert resize_linear(scores[..., 0], (11, 4)).shape == (11, 4)
    ramp = np.tile(np.linspace(0, 1, 8, dtype=np.float32), (4, 1))
    assert (np.diff(resize_linear(ramp, (4, 16)), axis=1) >= 0).all()
