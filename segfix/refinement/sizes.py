"""Predictions and offset maps of different sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfix.formats import LabelMap, OffsetMap
from segfix.formats.images import turn_upright
from segfix.refinement.orientation import boundary_share, settle_orientation

Fit = Literal["image", "labels", "letterbox", "corner", "crop", "stretch-image", "stretch-labels"]
FITS: tuple[Fit, ...] = get_args(Fit)

OF_ONE_ASPECT: tuple[Fit, ...] = ("image", "labels")
"""What resizes without distortion, and is refused where it would distort."""

TO_LABELS: tuple[Fit, ...] = ("labels", "stretch-labels", "crop")
"""What leaves the prediction's size, and resizes the offset map."""

MEANINGS: dict[Fit, str] = {
    "letterbox": "padding on both sides",
    "corner": "padding below or on the right",
    "crop": "the middle of the photograph alone",
    "stretch-image": "stretching",
}
"""What may explain a prediction whose aspect ratio isn't the photograph's, the likeliest first."""

AS_GOOD = 0.02
"""Difference between shares of boundaries that meet the photograph's, which tells nothing."""

STRIDES, MULTIPLE = (1, 2, 4, 8, 16, 32), 32
"""Networks that pad sizes to multiples answer at full size or a stride of it."""

Box = tuple[float, float, float, float]
"""Top, left, height and width, pixels."""


def match_sizes(
    label_map: LabelMap, offset_map: OffsetMap, fit: Fit | None = None
) -> tuple[LabelMap, OffsetMap]:
    """Bring a prediction and an offset map to one size and orientation.

    Args:
        label_map: Of any kind. Scores whose layout may be (C, H, W) or (H, W, C) take that which
            has the offset map's size. A prediction of the photograph as it is stored, where it is
            displayed turned or mirrored, is turned, and turned back when it is written; see
            `settle_orientation`.
        offset_map: As the photograph is displayed.
        fit: "image": the prediction is resized to the offset map, ids by the nearest pixel, scores
            linearly; "labels": the offset map to the prediction, both of one aspect ratio up to
            rounding. "letterbox", "corner": the prediction likewise, without the padding on both
            sides, or below and on the right; "crop": the middle of the offset map to the
            prediction; "stretch-image", "stretch-labels": as without "stretch-", whatever the
            aspect ratios. None: sizes must be equal.

    Raises:
        ValueError: The sizes differ, and `fit` is None, or the aspect ratios, and it would stretch.
    """
    size = offset_map.codes.shape
    label_map = as_displayed(label_map, size, offset_map.source.get("orientation", 1), fit)
    shape = label_map.shape
    if shape != size:
        label_map, offset_map = apply_fit(label_map, offset_map, check_fit(label_map, size, fit))
    return settle_orientation(label_map, offset_map), offset_map


def see_whole(
    label_map: LabelMap, size: tuple[int, int], orientation: int, fit: Fit | None
) -> LabelMap:
    """Bring a prediction to its photograph's size, as a network looks at both.

    Args:
        label_map: See `match_sizes`.
        size: Height and width of the photograph as displayed.
        orientation: See `as_displayed`.
        fit: See `match_sizes`. What resizes the offset map there resizes the prediction here;
            around a "crop", its edges go on.

    Raises:
        ValueError: As `match_sizes`.
    """
    label_map = as_displayed(label_map, size, orientation, fit)
    if label_map.shape == size:
        return label_map
    fit = check_fit(label_map, size, fit)
    box = place_photograph(fit, label_map.shape, size)
    linear = label_map.kind == "scores" and fit != "crop"
    resize = resize_linear if linear else resize_nearest
    return label_map.with_planes(resize(label_map.planes, size, box))


def check_fit(label_map: LabelMap, size: tuple[int, ...], fit: Fit | None) -> Fit:
    """Check that a prediction can be brought to another size; see `match_sizes`.

    Raises:
        ValueError: It is None, or would stretch, or masks have that size along other axes.
    """
    shape = label_map.shape
    if masks_last(label_map, size):
        raise ValueError(f"Expected (N, H, W) masks of {size} but got {label_map.array.shape}.")
    if fit is None:
        raise ValueError(f"Expected a prediction of {size} but got {shape}.")
    if fit in OF_ONE_ASPECT and not same_aspect(shape, size):
        raise ValueError(f"Expected a prediction of the aspect ratio of {size} but got {shape}.")
    return fit


def masks_last(label_map: LabelMap, size: tuple[int, ...]) -> bool:
    """Tell whether masks are (H, W, N) of this size, which isn't what they were read as."""
    return label_map.kind == "masks" and label_map.array.shape[:2] == size != label_map.shape


def apply_fit(label_map: LabelMap, offset_map: OffsetMap, fit: Fit) -> tuple[LabelMap, OffsetMap]:
    """Resize a prediction or an offset map to the other's size; see `match_sizes`."""
    size = offset_map.codes.shape
    top, left, height, width = place_photograph(fit, label_map.shape, size)
    if fit in TO_LABELS:
        down, right = size[0] / height, size[1] / width
        rows, cols = label_map.shape
        box = -top * down, -left * right, rows * down, cols * right
        codes = resize_nearest(offset_map.codes, label_map.shape, box)
        return label_map, replace(offset_map, codes=codes)
    resize: Callable[[NDArray[Any], tuple[int, ...], Box], NDArray[Any]] = (
        resize_linear if label_map.kind == "scores" else resize_nearest
    )
    planes = resize(label_map.planes, size, (top, left, height, width))
    return label_map.with_planes(planes), offset_map


def same_aspect(shape: tuple[int, ...], size: tuple[int, ...]) -> bool:
    """Tell whether one size is the other times a number, rounded up or down.

    Example:
        >>> same_aspect((68, 120), (135, 240)), same_aspect((160, 256), (135, 240))
        (True, False)
    """
    lowest = max((new - 1) / old for new, old in zip(shape, size, strict=True))
    highest = min((new + 1) / old for new, old in zip(shape, size, strict=True))
    return lowest < highest


def place_photograph(fit: Fit, shape: tuple[int, ...], size: tuple[int, ...]) -> Box:
    """Find where in a prediction its photograph lies, in the prediction's pixels.

    Args:
        fit: See `match_sizes`.
        shape: Height and width of the prediction.
        size: Those of the photograph.

    Returns:
        Where "crop" begins above or left of the prediction, top or left are negative.

    Example:
        >>> place_photograph("letterbox", (160, 256), (135, 240))
        (8, 0, 144, 256)
        >>> place_photograph("corner", (1024, 1024), (375, 500))
        (0, 0, 768, 1024)
    """
    height, width = shape
    if fit not in ("letterbox", "corner", "crop"):
        return 0, 0, height, width
    scales = height / size[0], width / size[1]
    if fit == "corner" and height != width:
        padded = tuple(-(-side // MULTIPLE) * MULTIPLE for side in size)
        for stride in STRIDES:
            if (height * stride, width * stride) == padded:
                # Below and on the right, not enlarged to fill one of them.
                return 0, 0, size[0] / stride, size[1] / stride
    scale = max(scales) if fit == "crop" else min(scales)
    rows, cols = round(size[0] * scale), round(size[1] * scale)
    if fit == "corner":
        return 0, 0, rows, cols
    # Of an odd number of rows, one more below than above.
    return (height - rows) // 2, (width - cols) // 2, rows, cols


def advise_fit(label_map: LabelMap, offset_map: OffsetMap) -> str:
    """Word which --fit may explain that a prediction has another size than its photograph.

    Where aspect ratios differ, how many of the prediction's boundaries meet the photograph's under
    each is told, the best first; of those about as good, the likeliest.
    """
    size = offset_map.codes.shape
    shape = label_map.shape
    if masks_last(label_map, size):
        return "its masks are (H, W, N): np.moveaxis(masks, -1, 0) makes them (N, H, W)"
    if same_aspect(shape, size):
        return "--fit image enlarges or reduces the prediction to that, --fit labels the offset map"
    if same_aspect(shape[::-1], size):
        return "height and width are swapped: turn or transpose it as its photograph"
    if not label_map.array.any():
        return "--fit letterbox, corner, crop or stretch-image says how it came about"
    shares: dict[Fit, float] = {}
    for fit in MEANINGS:
        pair = apply_fit(label_map, offset_map, fit)
        shares[fit] = boundary_share(pair[0].layers(), pair[1].codes > 0)[0]
    highest = max(shares.values())
    best = next(fit for fit in MEANINGS if shares[fit] >= highest - AS_GOOD)
    rest = sorted((fit for fit in MEANINGS if fit != best), key=lambda fit: -shares[fit])
    others = ", ".join(f"{fit} {shares[fit]:.0%}" for fit in rest)
    return (
        f"another aspect ratio: {MEANINGS[best]} would fit best, --fit {best} ({shares[best]:.0%} "
        f"of its boundaries meet the photograph's; {others})"
    )


def as_displayed(
    label_map: LabelMap, size: tuple[int, ...], orientation: Any, fit: Fit | None = None
) -> LabelMap:
    """Turn a prediction as its photograph is displayed, if its size tells; else leave it.

    Args:
        label_map: See `match_sizes`.
        size: Height and width of the photograph as displayed.
        orientation: 1 … 8, as EXIF counts: how the photograph is stored.
        fit: Whether it may also be of another size.
    """
    if label_map.kind == "scores" and label_map.array.ndim == 3 and label_map.shape != size:
        other = replace(label_map, channels_first=not label_map.channels_first)
        label_map = other if other.shape == size else label_map
    shape, stored = label_map.shape, size[::-1]
    apart = shape == stored != size or (
        fit in OF_ONE_ASPECT and same_aspect(shape, stored) and not same_aspect(shape, size)
    )
    # Not where the two turns are one: then the prediction is upright, and of another size.
    if (
        apart
        and label_map.rest.get("turned", 1) == 1
        and isinstance(orientation, int)
        and 5 <= orientation <= 8
    ):
        upright = label_map.with_planes(turn_upright(label_map.planes, orientation))
        return replace(upright, rest={**label_map.rest, "turned": orientation})
    return label_map


def resize_nearest(
    array: NDArray[Any], shape: tuple[int, ...], box: Box | None = None
) -> NDArray[Any]:
    """Resize an array by the value of the nearest pixel.

    Args:
        array: (H, W) or (H, W, C) of any type.
        shape: Height and width of the result.
        box: The part of the array that becomes the result; what lies beyond takes the edge's
            values. None: all of it.

    Example:
        >>> resize_nearest(np.array([[1, 2]]), (2, 4))
        array([[1, 1, 2, 2],
               [1, 1, 2, 2]])
    """
    top, left, height, width = box or (0, 0, *array.shape[:2])
    rows, cols = (
        np.floor(start + (np.arange(new) * 2 + 1) * length / (2 * new))
        .clip(0, old - 1)
        .astype(np.intp)
        for start, length, new, old in zip(
            (top, left), (height, width), shape, array.shape[:2], strict=True
        )
    )
    resized: NDArray[Any] = array[rows[:, None], cols]
    return resized


def resize_linear(
    scores: NDArray[Any], shape: tuple[int, ...], box: Box | None = None
) -> NDArray[Any]:
    """Resize scores to values between those of the nearest pixels, channel by channel.

    Args:
        scores: (H, W) or (H, W, C) floats or integers.
        shape: Height and width of the result.
        box: The part of the scores that becomes the result; None: all of it.
    """
    height, width = shape
    top, left, rows, cols = box or (0, 0, *scores.shape[:2])
    edges = (left, top, left + cols, top + rows)
    stacked = scores.reshape(*scores.shape[:2], -1)
    resized = np.empty((height, width, stacked.shape[2]), scores.dtype)
    for channel in range(stacked.shape[2]):
        plane = Image.fromarray(np.ascontiguousarray(stacked[..., channel], np.float32))
        values = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR, edges))
        resized[..., channel] = values if scores.dtype.kind == "f" else np.rint(values)
    return resized.reshape(height, width, *scores.shape[2:])
