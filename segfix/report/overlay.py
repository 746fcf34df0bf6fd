"""Label maps, error maps and offset maps drawn on photographs."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segfix.formats import OffsetMap
from segfix.formats.offset_maps import colour_wheel
from segfix.geometry import direction_angles, quantize_directions
from segfix.report.error_map import ERROR_COLOURS, RIGHT, VOID

FIRST_COLOURS = bytes.fromhex(
    "d93636 0dff0d 0d0dff 0de7ff ffcf0d 062b80 ff0dcf 208029 805c39 80064f cfff0d 6f09b2 "
    "0dffcf 396380 ff860d ff0d86 0dff86 808006 0d9eff 20806c 0d6eff ff9d73 d962cd ff0d0d"
)
"""RGB of the first ids: each as far as can be, in CIELAB, from those before it."""

NUM_COLOURS = 257
"""Colours before they repeat: a prime, so that ids in even steps get different ones, too."""

PALE, DARK = (140, 250), (0, 100)
"""Levels that black and white of a photograph get behind dark and behind bright colours."""

CHANGED = (255, 0, 255)

LINE = 0.7
"""Opacity of the white lines around regions."""

MIN_SPACING, MIN_RADIUS = 14, 6
"""Pixels between arrows, and of the colour wheel; smaller ones could not be read."""


def label_colours(palette: bytes | None = None, ignore_index: int = 255) -> NDArray[np.uint8]:
    """Choose a colour for each id, so that neighbours differ well.

    Args:
        palette: RGB bytes of the first ids' own colours, if they have some.
        ignore_index: Void id, black unless it has a colour of its own.

    Returns:
        (257, 3) RGB of ids 0 … 256; id k has that of k mod 257.
    """
    # Steps of the golden ratio never come near a hue used shortly before.
    hues = (0.618034 * np.arange(NUM_COLOURS)) % 1
    colours = [
        colorsys.hsv_to_rgb(hue, 0.8, 1.0 if k % 2 else 0.65) for k, hue in enumerate(hues.tolist())
    ]
    table: NDArray[np.uint8] = np.rint(np.array(colours) * 255).astype(np.uint8)
    table[: len(FIRST_COLOURS) // 3] = rgb(FIRST_COLOURS)
    if 0 <= ignore_index < NUM_COLOURS:
        table[ignore_index] = 0
    own = rgb(palette or b"")
    table[: len(own)] = own
    return table


def rgb(palette: bytes) -> NDArray[np.uint8]:
    """Shape the bytes of a palette as (N, 3)."""
    return np.frombuffer(palette, np.uint8).reshape(-1, 3)


def overlay(
    image: NDArray[np.uint8],
    ids: NDArray[np.integer[Any]],
    colours: NDArray[np.uint8],
    *,
    opacity: float = 0.45,
) -> NDArray[np.uint8]:
    """Blend the colours of a label map over a photograph and lighten its boundaries.

    Args:
        image: (H, W, 3) RGB.
        ids: (H, W) integers.
        colours: (257, 3) RGB of `label_colours`, or (H, W, 3) of the pixels themselves.
        opacity: Of the colours, in [0, 1].

    Returns:
        (H, W, 3) RGB.
    """
    if colours.ndim == 2:
        colours = colours[np.remainder(ids, NUM_COLOURS, dtype=np.int64)]
    drawn = np.array(Image.blend(Image.fromarray(image), Image.fromarray(colours), opacity))
    # Not all white: the colours of a region of a single pixel are still seen.
    lines = region_lines(ids)
    drawn[lines] = 255 - (1 - LINE) * (255 - drawn[lines])
    return drawn


def region_lines(ids: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Find (H, W) pixels whose right or lower neighbour has another id: lines of one pixel."""
    lines = np.zeros(ids.shape, bool)
    lines[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    lines[:-1] |= ids[:-1] != ids[1:]
    return lines


def busiest_part(marked: NDArray[np.bool_], height: int, width: int) -> tuple[int, int]:
    """Find the part of a picture that holds most marked pixels.

    Args:
        marked: (H, W).
        height: Of the part, pixels, at most H.
        width: Of the part, pixels, at most W.

    Returns:
        Its first row and column; the middle of the picture where nothing is marked.

    Example:
        >>> marked = np.zeros((8, 8), bool)
        >>> marked[1, 6] = True
        >>> busiest_part(marked, 3, 3)
        (0, 4)
    """
    sums = np.pad(marked.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    rows = sums[height:] - sums[:-height]
    held = rows[:, width:] - rows[:, :-width]
    fullest = np.argwhere(held == held.max())
    # Of equally full parts, the one nearest to their middle.
    top, left = fullest[np.abs(fullest - fullest.mean(axis=0)).sum(axis=1).argmin()].tolist()
    return top, left


def backdrop(image: NDArray[np.uint8], levels: tuple[int, int]) -> NDArray[np.uint8]:
    """Turn the photograph grey, between two levels, to draw on.

    Args:
        image: (H, W, 3) RGB.
        levels: What becomes of black and of white.

    Returns:
        (H, W, 3) RGB.
    """
    table = np.linspace(*levels, 256).astype(np.uint8).tolist()
    return np.array(Image.fromarray(image).convert("L").point(table).convert("RGB"))


def overlay_errors(image: NDArray[np.uint8], codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw an error map over a photograph: void is striped, what is right shows the photograph.

    Args:
        image: (H, W, 3) RGB.
        codes: (H, W) codes of `segfix.report.error_map`.

    Returns:
        (H, W, 3) RGB.
    """
    drawn = backdrop(image, PALE)
    painted = codes != RIGHT
    drawn[painted] = np.array(ERROR_COLOURS, np.uint8)[codes[painted]]
    y, x = np.ogrid[: codes.shape[0], : codes.shape[1]]
    drawn[(codes == VOID) & ((x + y) % 6 < 3)] = 255
    return drawn


def overlay_changes(image: NDArray[np.uint8], changed: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Draw the pixels of a (H, W) mask over a photograph, in magenta."""
    drawn = backdrop(image, PALE)
    drawn[changed] = CHANGED
    return drawn


def overlay_offsets(
    image: NDArray[np.uint8], offset_map: OffsetMap, *, legend: bool = True, arrows: bool = False
) -> NDArray[np.uint8]:
    """Draw an offset map over a photograph in the colours of its file.

    Args:
        image: (H, W, 3) RGB.
        offset_map: Of the same size.
        legend: Draw the colour wheel in the lower right corner.
        arrows: Draw arrows along the boundary, too.

    Returns:
        (H, W, 3) RGB.
    """
    drawn = backdrop(image, DARK)
    paint_codes(drawn, offset_map)
    size = min(image.shape[:2])
    if arrows:
        spacing = max(MIN_SPACING, size // 28)
        drawn = draw_arrows(drawn, *arrow_ends(offset_map, spacing), width=1 + spacing // 25)
    radius = size // 12
    if legend and radius >= MIN_RADIUS:
        margin = radius // 3
        box = slice(-2 * radius - 1 - margin, -margin)
        paint_codes(drawn[box, box], wheel(offset_map, radius))
    return drawn


def paint_codes(drawn: NDArray[np.uint8], offset_map: OffsetMap) -> None:
    """Give the boundary pixels of a picture the colours of their codes, in place."""
    colours = rgb(colour_wheel(offset_map.num_directions, offset_map.num_levels))
    boundary = offset_map.codes > 0
    drawn[boundary] = colours[offset_map.codes[boundary]]


def wheel(offset_map: OffsetMap, radius: int) -> OffsetMap:
    """Draw the legend of an offset map: offsets that point outwards, surest at the edge.

    Args:
        offset_map: Whose directions and levels to show.
        radius: Pixels.

    Returns:
        An offset map of 2 · radius + 1 pixels each way.
    """
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    share = np.hypot(y, x) / (radius + 0.5)
    least, m = offset_map.lowest_confidence, offset_map.num_directions
    return OffsetMap.encode(
        share <= 1,
        quantize_directions(y, x, m),
        least + (1 - least) * share,
        num_directions=m,
        lowest_confidence=least,
        num_levels=offset_map.num_levels,
    )


def arrow_ends(
    offset_map: OffsetMap, spacing: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Choose one boundary pixel per square of the picture: the surest, then the most central.

    Args:
        offset_map: Any.
        spacing: Side of the squares, pixels.

    Returns:
        Tails and tips of their arrows, (N, 2) each, pixels, rows first. Tails are boundary pixels;
        arrows point the way of their offset.
    """
    spots = np.argwhere(offset_map.codes)
    confidence = offset_map.confidence_map()[tuple(spots.T)]
    from_centre = np.abs(spots % spacing - (spacing - 1) / 2).sum(axis=1)
    square = spots // spacing @ [offset_map.codes.shape[1], 1]
    order = np.lexsort((from_centre, -confidence, square))
    _, first = np.unique(square[order], return_index=True)
    tails = spots[order[first]]
    sectors = offset_map.direction_map()[tuple(tails.T)]
    angles = np.radians(direction_angles(offset_map.num_directions))[sectors]
    steps = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    return tails.astype(np.float64), tails + 0.8 * spacing * steps


def draw_arrows(
    image: NDArray[np.uint8],
    tails: NDArray[np.float64],
    tips: NDArray[np.float64],
    *,
    width: int = 1,
) -> NDArray[np.uint8]:
    """Draw white arrows with dark rims.

    Args:
        image: (H, W, 3) RGB.
        tails: (N, 2) pixels, rows first.
        tips: (N, 2) pixels, rows first.
        width: Of the white lines, pixels.

    Returns:
        (H, W, 3) RGB.
    """
    along = tips - tails
    across = along[:, ::-1] * (1, -1)
    wings = [tips - 0.4 * along + 0.25 * side * across for side in (1, -1)]
    # Pillow wants columns first.
    lines = np.stack([tails, tips, wings[0], tips, wings[1]], axis=1)[..., ::-1]
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    for colour, rim in (((0, 0, 0), 2), ((255, 255, 255), 0)):
        for line in lines:
            pen.line([(x, y) for x, y in line.tolist()], fill=colour, width=width + rim)
    return np.array(picture)
