"""Pictures that a page lays over each other: a photograph, label maps and errors on it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfix.report.error_map import ERROR_COLOURS, RIGHT, VOID
from segfix.report.overlay import CHANGED, NUM_COLOURS, region_lines

LONGEST_SIDE = 1024
"""Of a picture, pixels; larger images are reduced."""

FILL = 115
"""Opacity of the colours of label maps, of 255."""

LINE = 255
"""Opacity of their boundaries."""

VOID_STRIPE = 6
"""Pixels from one stripe of void to the next."""


def shown_size(height: int, width: int) -> tuple[int, int]:
    """Compute height and width of an image's pictures."""
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def reduce_nearest(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Take the nearest neighbours at the centres of the smaller picture's pixels.

    Args:
        array: (H, W) or (H, W, C).
        size: Height and width of the result.
    """
    y, x = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp)
        for new, old in zip(size, array.shape[:2], strict=True)
    )
    return array[np.ix_(y, x)]


def draw_labels(
    ids: NDArray[np.integer[Any]], colours: NDArray[np.uint8], void: int | None = None
) -> bytes:
    """Draw a label map, half transparent, with lines between its regions.

    `draw_fill` and `draw_lines` draw the two apart.

    Args:
        ids: (H, W) integers.
        colours: (257, 3) RGB of `label_colours`, or (H, W, 3) of the pixels themselves.
        void: Id that is left transparent.

    Returns:
        A PNG file.
    """
    packed = _pack(colours, FILL)
    if colours.ndim == 2:
        packed = packed[np.remainder(ids, NUM_COLOURS, dtype=np.int64)]
    if void is not None:
        packed[ids == void] = 0
    packed[region_lines(ids)] = 0xFFFFFF00 + LINE
    return encode_png(packed)


def draw_fill(ids: NDArray[np.integer[Any]], colours: NDArray[np.uint8], void: int) -> bytes:
    """Draw (H, W) ids in their (257, 3) colours as PNG, `void` transparent."""
    packed = _pack(colours, 255)[np.remainder(ids, NUM_COLOURS, dtype=np.int64)]
    packed[ids == void] = 0
    return encode_png(packed)


def draw_lines(ids: NDArray[np.integer[Any]]) -> bytes:
    """Draw the lines between the regions of (H, W) ids as PNG of twice the size.

    They are half a pixel thin, so that a region of a single pixel is still seen.
    """
    lines = np.zeros((2 * ids.shape[0], 2 * ids.shape[1]), np.int64)
    lines[:, 1:-1:2] = (ids[:, :-1] != ids[:, 1:]).repeat(2, axis=0)
    lines[1:-1:2] |= (ids[:-1] != ids[1:]).repeat(2, axis=1)
    return encode_png(lines * 0xFFFFFFFF)


def draw_errors(codes: NDArray[np.uint8]) -> bytes:
    """Draw (H, W) codes of an error map as PNG, what is right transparent, void striped."""
    colours = _pack(np.array(ERROR_COLOURS), 255)
    colours[RIGHT] = 0
    packed = colours[codes]
    y, x = np.ogrid[: codes.shape[0], : codes.shape[1]]
    packed[(codes == VOID) & ((x + y) % VOID_STRIPE < VOID_STRIPE // 2)] = 0xFFFFFFFF
    return encode_png(packed)


def draw_changes(changed: NDArray[np.bool_]) -> bytes:
    """Draw an (H, W) mask as PNG, in magenta, all else transparent."""
    return encode_png(_pack(np.array(CHANGED), 255) * changed)


def draw_photograph(image: NDArray[np.uint8], size: tuple[int, int]) -> bytes:
    """Draw an (H, W, 3) RGB photograph as JPEG, reduced to height and width."""
    picture = Image.fromarray(image)
    if size != image.shape[:2]:
        picture = picture.resize(size[::-1], Image.Resampling.LANCZOS, reducing_gap=3)
    return _encode(picture, "JPEG", quality=80, optimize=True)


def data_uri(content: bytes, media_type: str = "image/png") -> str:
    """Write a file as a URI, for a page that is one file."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def css_colour(colour: Sequence[int]) -> str:
    """Write RGB as CSS does."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _pack(colours: NDArray[np.integer[Any]], opacity: int) -> NDArray[np.int64]:
    """Pack (…, 3) RGB into RRGGBBAA numbers."""
    weights = np.array([1 << 24, 1 << 16, 1 << 8])
    packed: NDArray[np.int64] = colours.astype(np.int64) @ weights + opacity
    return packed


def encode_png(packed: NDArray[np.int64]) -> bytes:
    """Encode RRGGBBAA numbers as PNG, with a palette of as few bits as may be."""
    found, index = np.unique(packed, return_inverse=True)
    if len(found) > 256:
        picture = Image.fromarray(packed.astype(">u4").view(np.uint8).reshape(*packed.shape, 4))
        return _encode(picture, "PNG", optimize=True)
    table = found.astype(">u4").view(np.uint8).reshape(-1, 4)
    picture = Image.fromarray(index.reshape(packed.shape).astype(np.uint8))
    picture.putpalette(table[:, :3].tobytes())
    return _encode(picture, "PNG", optimize=True, transparency=table[:, 3].tobytes())


def _encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()
