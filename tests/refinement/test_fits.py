"""Predictions that hold padding, a part of the photograph, or another aspect ratio."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segfix.cli.refine import FITS as OFFERED
from segfix.formats import LabelMap, OffsetMap
from segfix.refinement.sizes import (
    FITS,
    Fit,
    advise_fit,
    match_sizes,
    place_photograph,
    same_aspect,
)


def scene(height: int, width: int) -> NDArray[np.uint8]:
    """A disc, off the middle, on a background with a stripe."""
    y, x = np.mgrid[:height, :width]
    ids = np.ones((height, width), np.uint8)
    ids[height // 8 : height // 5] = 2
    radius = min(height, width) / 4
    ids[(y - 0.6 * height) ** 2 + (x - 0.35 * width) ** 2 < radius**2] = 3
    return ids


def resized(ids: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    return np.array(Image.fromarray(ids).resize((width, height), Image.Resampling.NEAREST))


def edges(ids: NDArray[np.uint8]) -> OffsetMap:
    """An offset map whose boundary is that of a label map, and a pixel around."""
    there = np.zeros(ids.shape, bool)
    there[1:] |= ids[1:] != ids[:-1]
    there[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    return OffsetMap(there.astype(np.uint8))


def padded(fit: str, ids: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The prediction of a network that pads, crops or stretches photographs in this way."""
    height, width = ids.shape
    if fit == "stretch-image":
        return resized(ids, *shape)
    scales = shape[0] / height, shape[1] / width
    scale = max(scales) if fit == "crop" else min(scales)
    whole = resized(ids, round(height * scale), round(width * scale))
    rows, cols = whole.shape
    if fit == "crop":
        top, left = (rows - shape[0]) // 2, (cols - shape[1]) // 2
        return whole[top : top + shape[0], left : left + shape[1]]
    found = np.zeros(shape, np.uint8)
    top, left = ((shape[0] - rows) // 2, (shape[1] - cols) // 2) if fit == "letterbox" else (0, 0)
    found[top : top + rows, left : left + cols] = whole
    return found


def agreement(first: NDArray[Any], second: NDArray[Any]) -> float:
    return float((first == second).mean())


SIZES = [
    # Of the photograph, of the prediction.
    ((135, 240), (160, 256)),
    ((375, 500), (1024, 1024)),  # SAM
    ((240, 427), (256, 256)),
    ((333, 200), (224, 224)),
    ((270, 480), (384, 640)),  # whole multiples of 32
]


@pytest.mark.parametrize("fit", ["letterbox", "corner", "stretch-image"])
@pytest.mark.parametrize(("size", "shape"), SIZES)
def test_the_right_fit_gives_the_photographs_label_map_back(
    fit: Fit, size: tuple[int, int], shape: tuple[int, int]
) -> None:
    if fit == "corner" and shape == (160, 256):
        shape = (144, 256)  # not the next multiples of 32, which are padded at their own scale
        size = (120, 240)
    ids = scene(*size)
    found, same = match_sizes(LabelMap(padded(fit, ids, shape)), edges(ids), fit)
    assert found.shape == same.codes.shape == size
    assert agreement(found.array, ids) > 0.98
    padding: tuple[Fit, ...] = ("letterbox", "corner", "stretch-image")
    for other in (one for one in padding if one != fit):
        wrong, _ = match_sizes(LabelMap(padded(fit, ids, shape)), edges(ids), other)
        assert agreement(wrong.array, ids) < agreement(found.array, ids)


@pytest.mark.parametrize(("size", "shape"), SIZES)
def test_a_crop_takes_the_middle_of_the_offset_map(
    size: tuple[int, int], shape: tuple[int, int]
) -> None:
    ids = scene(*size)
    prediction = padded("crop", ids, shape)
    same, found = match_sizes(LabelMap(prediction), OffsetMap(ids), "crop")
    assert same.array is prediction
    assert agreement(found.codes, prediction) > 0.97


@pytest.mark.parametrize("fit", ["letterbox", "corner", "crop", "stretch-image"])
def test_the_message_puts_the_likeliest_first(fit: str) -> None:
    ids = scene(135, 240)
    advice = advise_fit(LabelMap(padded(fit, ids, (160, 200))), edges(ids))
    assert f"--fit {fit} (" in advice
    assert advice.startswith("another aspect ratio: ")


@pytest.mark.parametrize("fit", ["image", "labels"])
def test_nothing_is_stretched_unless_asked_for_by_name(fit: Fit) -> None:
    ids = scene(135, 240)
    prediction = LabelMap(padded("letterbox", ids, (160, 256)))
    with pytest.raises(ValueError, match="of the aspect ratio of"):
        match_sizes(prediction, edges(ids), fit)
    by_name: Fit = "stretch-image" if fit == "image" else "stretch-labels"
    label_map, offset_map = match_sizes(prediction, edges(ids), by_name)
    assert label_map.shape == offset_map.codes.shape


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((68, 120), (135, 240)),  # half of it, rounded up
        ((67, 120), (135, 240)),  # and down
        ((270, 480), (135, 240)),
        ((12, 16), (375, 500)),  # stride 32
        ((47, 156), (375, 1242)),
        ((1, 1), (3, 5)),
    ],
)
def test_rounded_sizes_have_the_photographs_aspect(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    assert same_aspect(shape, size)
    ids = scene(*size)
    fits: tuple[Fit, ...] = ("image", "labels")
    for fit in fits:
        label_map, offset_map = match_sizes(LabelMap(resized(ids, *shape)), edges(ids), fit)
        assert label_map.shape == offset_map.codes.shape


@pytest.mark.parametrize(
    ("shape", "stride"), [((384, 1248), 1), ((192, 624), 2), ((96, 312), 4), ((12, 39), 32)]
)
def test_padding_to_a_multiple_of_32_leaves_the_scale(shape: tuple[int, int], stride: int) -> None:
    size = (375, 1242)
    box = place_photograph("corner", shape, size)
    assert list(box) == [0, 0, 375 / stride, 1242 / stride]
    ids = scene(*size)
    whole = np.zeros((384, 1248), np.uint8)
    whole[:375, :1242] = ids
    reduced = whole[stride // 2 :: stride, stride // 2 :: stride]
    found, _ = match_sizes(LabelMap(reduced), edges(ids), "corner")
    assert agreement(found.array, ids) > 1 - stride / 150
    if stride == 1:
        assert np.array_equal(found.array, ids)


def test_one_fit_serves_photographs_of_all_sizes() -> None:
    square = scene(100, 100)
    fits: tuple[Fit, ...] = ("letterbox", "corner", "crop")
    for fit in fits:
        found, _ = match_sizes(LabelMap(resized(square, 64, 64)), edges(square), fit)
        assert found.shape in ((100, 100), (64, 64))
        if fit != "crop":
            assert agreement(found.array, square) > 0.97


def test_scores_leave_their_padding_too() -> None:
    ids = scene(135, 240)
    boxed = padded("letterbox", ids, (160, 256))
    scores = np.stack([boxed == k for k in range(4)]).astype(np.float32)
    found, _ = match_sizes(LabelMap(scores, "scores", channels_first=True), edges(ids), "letterbox")
    assert found.array.shape == (4, 135, 240)
    assert agreement(found.ids(), ids) > 0.97


@pytest.mark.parametrize("shape", [(240, 135), (120, 68), (480, 270)])
def test_swapped_sizes_are_named(shape: tuple[int, int]) -> None:
    ids = scene(135, 240)
    advice = advise_fit(LabelMap(resized(ids, *shape)), edges(ids))
    assert advice == "height and width are swapped: turn or transpose it as its photograph"


def test_a_smaller_prediction_of_a_turned_photograph_is_turned() -> None:
    stored = scene(120, 80)
    offset_map = OffsetMap(np.zeros((160, 240), np.uint8), source={"orientation": 6})
    found, _ = match_sizes(LabelMap(stored), offset_map, "image")
    assert found.rest["turned"] == 6
    assert found.shape == (160, 240)


def test_the_command_offers_every_fit() -> None:
    assert OFFERED == FITS


@pytest.mark.parametrize("everywhere", [0, 1])
def test_of_fits_as_good_as_each_other_the_likeliest_is_named(everywhere: int) -> None:
    ids = scene(135, 240)
    advice = advise_fit(
        LabelMap(padded("letterbox", ids, (160, 200))),
        OffsetMap(np.full(ids.shape, everywhere, np.uint8)),
    )
    share = f"{everywhere:.0%}"
    assert f"--fit letterbox ({share} of its" in advice
    assert f"; corner {share}, crop {share}, stretch-image {share})" in advice
