"""Panels beside each other, each below its caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

GAP = 8
"""White pixels between panels."""

SMALLEST_TEXT, LARGEST_TEXT = 9, 32
"""Height of captions, pixels."""

Colour = tuple[int, int, int]
Words = list[tuple[str, Colour | None]]
"""A caption: texts, each with the colour it explains, if any."""
Part = tuple[tuple[slice, slice], int]
"""Rows and columns of a part of a picture, and how many times it is enlarged."""


def frame_part(picture: NDArray[np.uint8], part: Part) -> None:
    """Draw a frame around a part of a picture, in place: black within white."""
    rows, columns = part[0]
    line = max(picture.shape[1] // 600, 1)
    for outside in range(2 * line, 0, -1):
        top, left = max(rows.start - outside, 0), max(columns.start - outside, 0)
        bottom = min(rows.stop + outside, picture.shape[0]) - 1
        right = min(columns.stop + outside, picture.shape[1]) - 1
        level = 255 if outside > line else 0
        picture[[top, bottom], left : right + 1] = level
        picture[top : bottom + 1, [left, right]] = level


def arrange(
    pictures: Sequence[NDArray[np.uint8]],
    captions: Sequence[Words] | None,
    details: Sequence[NDArray[np.uint8]] = (),
) -> NDArray[np.uint8]:
    """Put panels into rows of up to three, each below its caption.

    Args:
        pictures: (H, W, 3) RGB, all of one size.
        captions: One per panel; None: no captions.
        details: What stands below each panel, if anything, no wider than it.

    Returns:
        (…, …, 3) RGB. A single panel keeps its size, and its caption covers its upper edge.
    """
    height, width, _ = pictures[0].shape
    strips = caption_strips(captions or [], width, height // 2)
    if strips and len(pictures) == 1:
        return np.concatenate([strips[0], pictures[0][len(strips[0]) :]])[:height]
    tiles = list(pictures)
    for place, detail in enumerate(details):
        below = np.full((GAP // 2 + len(detail), width, 3), 255, np.uint8)
        left = (width - detail.shape[1]) // 2
        below[GAP // 2 :, left : left + detail.shape[1]] = detail
        tiles[place] = np.concatenate([tiles[place], below])
    for place, strip in enumerate(strips):
        tiles[place] = np.concatenate([strip, tiles[place]])
    columns = 2 if len(tiles) == 4 else min(len(tiles), 3)
    rows = -(-len(tiles) // columns)
    height = len(tiles[0])
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        top, left = place // columns * (height + GAP), place % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = tile
    return sheet


def caption_strips(captions: Sequence[Words], width: int, highest: int) -> list[NDArray[np.uint8]]:
    """Set captions, white on dark, in as many lines as the longest takes.

    Args:
        captions: Texts and the colours they explain.
        width: Pixels.
        highest: Pixels that they may take; what finds no room, in small letters, is cut.

    Returns:
        (h, width, 3) RGB each, all of one height.
    """
    size = min(max(width // 40, SMALLEST_TEXT), LARGEST_TEXT)
    while True:
        font = ImageFont.load_default(size)
        laid = [lay_caption(words, width, size, font) for words in captions]
        lines = max((line for places in laid for _, line, _ in places), default=0) + 1
        step = size + size // 2
        most = max(highest // step, 1)
        right = max((end for places in laid for *_, end in places), default=0)
        if size <= SMALLEST_TEXT or (lines <= most and right <= width):
            break
        size -= 1
    strips = []
    for words, places in zip(captions, laid, strict=True):
        picture = Image.new("RGB", (width, step * min(lines, most)), (32, 32, 32))
        pen = ImageDraw.Draw(picture)
        for (text, colour), (left, line, _) in zip(words, places, strict=True):
            middle = step * (line + 0.5)
            if colour is not None:
                top = middle - size / 3
                square = (left, top, left + size * 2 / 3, top + size * 2 / 3)
                pen.rectangle(square, fill=colour, outline=(255, 255, 255))
            start = left + (size if colour is not None else 0)
            pen.text((start, middle), text, (255, 255, 255), font, anchor="lm")
        strips.append(np.array(picture))
    return strips


def lay_caption(words: Words, width: int, size: int, font: Any) -> list[tuple[float, int, float]]:
    """Break a caption into lines: where each text begins, in which line, and where it ends."""
    places = []
    left, line = size / 2, 0
    for text, colour in words:
        length = font.getlength(text) + (size if colour is not None else 0)
        if left > size / 2 and left + length > width:
            left, line = size / 2, line + 1
        places.append((left, line, left + length))
        left += length + size * 2 / 3
    return places
