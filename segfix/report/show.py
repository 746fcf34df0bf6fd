"""Draw pictures to look at: label maps, offsets and errors beside each other, on the photograph."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segfix.errors import SegfixError
from segfix.files import Entry, pair_entries
from segfix.files.provenance import NOT_TAKEN, content_digest
from segfix.formats import LabelMap, OffsetMap, read_image, read_label_map, read_offset_map
from segfix.formats.png import save_png
from segfix.jobs.task import Output, Row, Task
from segfix.report.error_map import ERROR_COLOURS, ERROR_NAMES, RIGHT, VOID, error_map
from segfix.report.overlay import (
    CHANGED,
    NUM_COLOURS,
    label_colours,
    overlay,
    overlay_changes,
    overlay_errors,
    overlay_offsets,
    rgb,
)

GAP = 8
"""White pixels between panels."""

MOST_IDS = 40
"""A caption lists the ids of a label map up to this many."""

SMALLEST_TEXT, LARGEST_TEXT = 9, 32
"""Height of captions, pixels."""

Colour = tuple[int, int, int]
Words = list[tuple[str, Colour | None]]
"""A caption: texts, each with the colour it explains, if any."""


@dataclass(frozen=True)
class ShowSettings:
    """What to draw and how.

    Attributes:
        panels: Names of `segfix.report.PANELS`, in order.
        opacity: Of the colours of label maps, in [0, 1].
        ignore_index: Void id of the ground truth.
        arrows: Draw arrows along the boundary of offset maps.
        captions: Say above each panel what it is; without, panels and nothing else are drawn.
        bands: See `segfix.formats.read_image`.
    """

    panels: tuple[str, ...]
    opacity: float = 0.45
    ignore_index: int = 255
    arrows: bool = False
    captions: bool = True
    bands: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Sheet:
    """What a sheet of panels is drawn from.

    Attributes:
        entry: The photograph.
        maps: Its maps by name, None where there is none.
    """

    entry: Entry
    maps: dict[str, Entry | None]


def pair_maps(
    images: Sequence[Entry],
    folders: Mapping[str, Sequence[Entry]],
    **naming: Any,
) -> list[Sheet]:
    """Find each photograph's map in every folder; see `segfix.files.pair_entries`.

    Args:
        images: The photographs.
        folders: Maps by name: `preds`, `refined`, `labels`, `offsets`.
        naming: Of `pair_entries`.

    Returns:
        One per photograph, in their order; a photograph that can't be paired has a problem.

    Raises:
        PairingError: A folder has no map of any photograph.
    """
    sheets = [Sheet(image, {}) for image in images]
    for name, maps in folders.items():
        leave = NOT_TAKEN["offset map" if name == "offsets" else "label map"]
        pairs = pair_entries([sheet.entry for sheet in sheets], maps, leave=leave, **naming)
        sheets = [
            Sheet(pair.entry, {**sheet.maps, name: pair.partner})
            for pair, sheet in zip(pairs, sheets, strict=True)
        ]
    return sheets


def show_task(settings: ShowSettings) -> Task[Sheet]:
    """Make the task of drawing panels; `settings` say what and how."""
    work = partial(show_file, settings=settings)
    return Task(work, "picture", processes=True, takes="photograph")


def show_file(sheet: Sheet, output: Output, settings: ShowSettings) -> Row:
    """Draw the panels of one photograph.

    Returns:
        Of an error panel, the number of pixels of each kind.
    """
    image = sheet.entry.path
    paths = {name: entry.path for name, entry in sheet.maps.items() if entry is not None}
    if missing := [name for name in sheet.maps if name not in paths]:
        raise SegfixError(
            f"no map of that name in --{missing[0]}",
            path=image,
            advice="make it, or leave this photograph or the folder out",
        )
    given = {name: value for name, value in asdict(settings).items() if value is not None}
    record = {
        "kind": "panels",
        # As JSON gives it back, to compare with.
        "settings": json.loads(json.dumps(given)),
        "inputs": {name: content_digest(path) for name, path in {"image": image, **paths}.items()},
    }
    output.check(record)
    photograph = read_image(image, settings.bands)
    label_maps: dict[str, LabelMap] = {}
    offset_map = None
    for name, source in paths.items():
        if name == "offsets":
            offset_map = read_offset_map(source)
            check_size(source, offset_map.codes.shape, image, photograph)
        else:
            label_maps[name] = read_label_map(source)
            check_size(source, label_maps[name].shape, image, photograph)
        if "errors" in settings.panels and name != "offsets":
            check_ids(source, label_maps[name])
    row: Row = {}
    pictures, captions = [], []
    for panel in settings.panels:
        picture, words, counts = draw_panel(panel, photograph, label_maps, offset_map, settings)
        pictures.append(picture)
        captions.append([(panel, None), *words])
        row |= counts
    drawn = Image.fromarray(arrange(pictures, captions if settings.captions else None))
    save_png(output.path, drawn, record=json.dumps(record, sort_keys=True), transparency=None)
    return row


def check_ids(path: Path, label_map: LabelMap) -> None:
    """Raise `SegfixError` unless a label map holds class ids."""
    if label_map.kind == "colours":
        raise SegfixError(
            "colour-coded",
            path=path,
            advice="errors need class ids (grey or palette PNG), other panels don't: choose them "
            "with --panel",
        )


def check_size(
    path: Path, shape: tuple[int, ...], image_path: Path, image: NDArray[np.uint8]
) -> None:
    """Raise `SegfixError` unless a map has the size of its photograph."""
    (height, width), (rows, columns) = shape, image.shape[:2]
    if (height, width) != (rows, columns):
        raise SegfixError(
            f"{width}×{height}",
            path=path,
            expected=f"its photograph {image_path} is {columns}×{rows}",
            advice="give photographs of the maps' size",
        )


def draw_panel(
    panel: str,
    image: NDArray[np.uint8],
    label_maps: Mapping[str, LabelMap],
    offset_map: OffsetMap | None,
    settings: ShowSettings,
) -> tuple[NDArray[np.uint8], Words, dict[str, int]]:
    """Draw one panel.

    Args:
        panel: One of `segfix.report.PANELS`.
        image: (H, W, 3) RGB.
        label_maps: By name, at least those that the panel is drawn from.
        offset_map: For the panel of that name.
        settings: How to draw.

    Returns:
        (H, W, 3) RGB, what the caption says besides the name, and the pixels counted, by kind.
    """
    if panel == "offsets":
        assert offset_map is not None
        drawn = overlay_offsets(image, offset_map, legend=settings.captions, arrows=settings.arrows)
        return drawn, [("hue: the way to the interior; brightness: confidence", None)], {}
    if panel == "errors":
        ids = {name: label_map.ids() for name, label_map in label_maps.items()}
        codes = error_map(
            ids["preds"], ids["labels"], ids.get("refined"), ignore_index=settings.ignore_index
        )
        numbers = np.bincount(codes.ravel(), minlength=len(ERROR_NAMES)).tolist()
        counted = max(codes.size - numbers[VOID], 1)
        words: Words = []
        for code, number in enumerate(numbers):
            if number and code != RIGHT:
                share = "" if code == VOID else f" {number / counted:.2%}"
                words.append((f"{ERROR_NAMES[code]}{share}", ERROR_COLOURS[code]))
        return overlay_errors(image, codes), words, dict(zip(ERROR_NAMES, numbers, strict=True))
    if panel == "changes":
        changed = label_maps["preds"].ids() != label_maps["refined"].ids()
        number = int(changed.sum())
        words = [(f"{number / changed.size:.2%} of the pixels", CHANGED)]
        return overlay_changes(image, changed), words, {"changed": number}
    label_map = label_maps[panel]
    ids_here = label_map.ids()
    if label_map.kind == "colours" and label_map.array.shape[2] >= 3:
        colours, words = label_map.array[..., :3], []
    else:
        colours = label_colours(shared_palette(label_maps), settings.ignore_index)
        known = np.unique(ids_here).tolist()
        words = [(f"{len(known)} ids", None)]
        if len(known) <= MOST_IDS:
            words = [(str(k), tuple(colours[k % NUM_COLOURS].tolist())) for k in known]
    return overlay(image, ids_here, colours, opacity=settings.opacity), words, {}


def shared_palette(label_maps: Mapping[str, LabelMap]) -> bytes | None:
    """Choose the first palette that has colours, so that equal ids are drawn in equal colours."""
    for label_map in label_maps.values():
        if label_map.palette is not None and np.ptp(rgb(label_map.palette), axis=1).any():
            return label_map.palette
    return None


def arrange(
    pictures: Sequence[NDArray[np.uint8]], captions: Sequence[Words] | None
) -> NDArray[np.uint8]:
    """Put panels into rows of up to three, each below its caption.

    Args:
        pictures: (H, W, 3) RGB, all of one size.
        captions: One per panel; None: no captions.

    Returns:
        (…, …, 3) RGB. A single panel keeps its size, and its caption covers its upper edge.
    """
    height, width, _ = pictures[0].shape
    tiles = list(pictures)
    for place, words in enumerate(captions or []):
        strip = caption_strip(words, width)
        if len(tiles) == 1:
            return np.concatenate([strip, pictures[0][len(strip) :]])[:height]
        tiles[place] = np.concatenate([strip, pictures[place]])
    columns = 2 if len(tiles) == 4 else min(len(tiles), 3)
    rows = -(-len(tiles) // columns)
    height = len(tiles[0])
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        top, left = place // columns * (height + GAP), place % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = tile
    return sheet


def caption_strip(words: Words, width: int) -> NDArray[np.uint8]:
    """Set a caption in one line, white on dark, smaller where it would not fit.

    Args:
        words: Texts and the colours they explain.
        width: Pixels.

    Returns:
        (h, width, 3) RGB; h follows from the width alone.
    """
    size = min(max(width // 40, SMALLEST_TEXT), LARGEST_TEXT)
    height = size + size // 2
    picture = Image.new("RGB", (width, height), (32, 32, 32))
    pen = ImageDraw.Draw(picture)
    while True:
        font = ImageFont.load_default(size)
        swatches = [0 if colour is None else size for _, colour in words]
        lengths = [pen.textlength(text, font) for text, _ in words]
        needed = sum(swatches) + sum(lengths) + size * len(words)
        if needed <= width or size <= SMALLEST_TEXT:
            break
        size -= 1
    left = size / 2
    for (text, colour), swatch, length in zip(words, swatches, lengths, strict=True):
        if colour is not None:
            top = height / 2 - size / 3
            square = (left, top, left + size * 2 / 3, top + size * 2 / 3)
            pen.rectangle(square, fill=colour, outline=(255, 255, 255))
        pen.text((left + swatch, height / 2), text, (255, 255, 255), font, anchor="lm")
        left += swatch + length + size * 2 / 3
    return np.array(picture)
