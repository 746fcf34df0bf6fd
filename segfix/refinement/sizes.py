"""Predictions and offset maps of different sizes, or a quarter turn apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfix.formats import LabelMap, OffsetMap
from segfix.formats.images import turn_upright

Fit = Literal["image", "labels"]


def match_sizes(
    label_map: LabelMap, offset_map: OffsetMap, fit: Fit | None = None
) -> tuple[LabelMap, OffsetMap]:
    """A prediction and an offset map of one size.

    Args:
        label_map: Of any kind. Scores whose layout may be (C, H, W) or (H, W, C) take that which
            has the offset map's size. A prediction of the photograph as it is stored, where it is
            displayed a quarter turn from there, is turned, and turned back when it is written.
        offset_map: As the photograph is displayed.
        fit: "image": the prediction is resized to the offset map, ids by the nearest pixel, scores
            linearly; "labels": the offset map to the prediction; None: neither.

    Raises:
        ValueError: The sizes differ, and `fit` is None.
    """
    size = offset_map.codes.shape
    label_map = as_displayed(label_map, size, offset_map.source.get("orientation", 1))
    if label_map.shape == size:
        return label_map, offset_map
    if fit is None:
        raise ValueError(f"Expected a prediction of {size} but got {label_map.shape}.")
    if fit == "labels":
        codes = resize_nearest(offset_map.codes, label_map.shape)
        return label_map, replace(offset_map, codes=codes)
    resize: Callable[[NDArray[Any], tuple[int, ...]], NDArray[Any]] = (
        resize_linear if label_map.kind == "scores" else resize_nearest
    )
    return label_map.with_planes(resize(label_map.planes, size)), offset_map


def as_displayed(label_map: LabelMap, size: tuple[int, ...], orientation: Any) -> LabelMap:
    """A prediction as its photograph is displayed, if it can be; else as it is.

    Args:
        label_map: See `match_sizes`.
        size: Height and width of the photograph as displayed.
        orientation: 1 … 8, as EXIF counts: how the photograph is stored.
    """
    if label_map.kind == "scores" and label_map.array.ndim == 3 and label_map.shape != size:
        other = replace(label_map, channels_first=not label_map.channels_first)
        label_map = other if other.shape == size else label_map
    turned = label_map.rest.get("turned", 1)
    # Not where the two turns are one: then the prediction is upright, and of another size.
    if (
        label_map.shape == size[::-1] != size
        and turned == 1
        and isinstance(orientation, int)
        and 5 <= orientation <= 8
    ):
        upright = label_map.with_planes(turn_upright(label_map.planes, orientation))
        return replace(upright, rest={**label_map.rest, "turned": orientation})
    return label_map


def resize_nearest(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The value of the nearest pixel.

    Args:
        array: (H, W) or (H, W, C) of any type.
        shape: Height and width of the result.

    Example:
        >>> resize_nearest(np.array([[1, 2]]), (2, 4))
        array([[1, 1, 2, 2],
               [1, 1, 2, 2]])
    """
    rows, cols = (
        (np.arange(new) * 2 + 1) * old // (2 * new)
        for old, new in zip(array.shape[:2], shape, strict=True)
    )
    resized: NDArray[Any] = array[rows[:, None], cols]
    return resized


def resize_linear(scores: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Scores between those of the nearest pixels, channel by channel.

    Args:
        scores: (H, W) or (H, W, C) floats or integers.
        shape: Height and width of the result.
    """
    height, width = shape
    stacked = scores.reshape(*scores.shape[:2], -1)
    resized = np.empty((height, width, stacked.shape[2]), scores.dtype)
    for channel in range(stacked.shape[2]):
        plane = Image.fromarray(np.ascontiguousarray(stacked[..., channel], np.float32))
        values = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
        resized[..., channel] = values if scores.dtype.kind == "f" else np.rint(values)
    return resized.reshape(height, width, *scores.shape[2:])
