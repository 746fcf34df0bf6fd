"""Draw pictures to look at: label maps, offsets and errors beside each other, on the photograph."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfix.errors import SegfixError, tell_number
from segfix.files import Entry, pair_entries
from segfix.files.provenance import NOT_TAKEN, content_digest
from segfix.formats import LabelMap, OffsetMap, read_image, read_label_map, read_offset_map
from segfix.formats.png import save_png
from segfix.jobs.task import Output, Row, Task
from segfix.report.error_map import ERROR_COLOURS, ERROR_NAMES, RIGHT, VOID, error_map
from segfix.report.overlay import (
    CHANGED,
    NUM_COLOURS,
    busiest_part,
    label_colours,
    overlay,
    overlay_changes,
    overlay_errors,
    overlay_offsets,
    region_lines,
    rgb,
)
from segfix.report.sheet import Part, Words, arrange, frame_part

MOST_IDS = 40
"""A caption lists the ids of a label map up to this many."""

SMALLEST_ENLARGED = 64
"""Smaller photographs are looked at as they are, pixels."""

FEWEST_TIMES, MOST_TIMES = 3, 8
"""How often a part is enlarged."""


@dataclass(frozen=True)
class ShowSettings:
    """What to draw and how.

    Attributes:
        panels: Names of `segfix.report.PANELS`, in order.
        opacity: Of the colours of label maps, in [0, 1].
        ignore_index: Void id of the ground truth.
        arrows: Draw arrows along the boundary of offset maps.
        captions: Say above each panel what it is, and enlarge below where most has changed;
            without, panels and nothing else are drawn.
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
    panels = {panel: panel for panel in settings.panels}
    drawn, row = draw_sheet(panels, photograph, label_maps, offset_map, settings)
    save_png(output.path, drawn, record=json.dumps(record, sort_keys=True), transparency=None)
    return row


def draw_sheet(
    panels: Mapping[str, str],
    image: NDArray[np.uint8],
    label_maps: Mapping[str, LabelMap],
    offset_map: OffsetMap | None,
    settings: ShowSettings,
    said: Mapping[str, Words] = {},
) -> tuple[Image.Image, Row]:
    """Draw panels beside each other and, below them, the part that differs most, enlarged.

    Args:
        panels: One of `segfix.report.PANELS` each, by its caption.
        image: (H, W, 3) RGB.
        label_maps: By name, at least those that the panels are drawn from.
        offset_map: For the panel of that name.
        settings: How to draw.
        said: What captions say instead of what `draw_panel` does, by panel.

    Returns:
        RGB, and the pixels counted, by kind.
    """
    row: Row = {}
    pictures, captions, details = [], [], []
    part = None
    if settings.captions and len(panels) > 1 and min(image.shape[:2]) >= SMALLEST_ENLARGED:
        part = choose_part(label_maps, offset_map, settings.ignore_index)
    for caption, panel in panels.items():
        picture, words, counts = draw_panel(panel, image, label_maps, offset_map, settings)
        if part is not None:
            details.append(draw_part(part, panel, image, label_maps, offset_map, settings))
            frame_part(picture, part)
        pictures.append(picture)
        captions.append([(caption, None), *said.get(panel, words)])
        row |= counts
    sheet = arrange(pictures, captions if settings.captions else None, details)
    return Image.fromarray(sheet), row


def choose_part(
    label_maps: Mapping[str, LabelMap], offset_map: OffsetMap | None, ignore_index: int
) -> Part:
    """Choose what to enlarge: where most was fixed or broken, has changed, is wrong; or lines."""
    ids = {name: label_map.ids() for name, label_map in label_maps.items()}
    if "preds" in ids and "refined" in ids:
        marked = ids["preds"] != ids["refined"]
        if "labels" in ids:
            marked &= (ids["preds"] == ids["labels"]) | (ids["refined"] == ids["labels"])
    elif "preds" in ids and "labels" in ids:
        marked = (ids["preds"] != ids["labels"]) & (ids["labels"] != ignore_index)
    elif ids:
        marked = region_lines(next(iter(ids.values())))
    else:
        assert offset_map is not None
        marked = offset_map.codes > 0
    height, width = marked.shape
    times = min(max(width // 100, FEWEST_TIMES), MOST_TIMES)
    rows, columns = max(round(0.6 * height / times), 1), width // times
    top, left = busiest_part(marked, rows, columns)
    return np.s_[top : top + rows, left : left + columns], times


def draw_part(
    part: Part,
    panel: str,
    image: NDArray[np.uint8],
    label_maps: Mapping[str, LabelMap],
    offset_map: OffsetMap | None,
    settings: ShowSettings,
) -> NDArray[np.uint8]:
    """Draw a part of a panel enlarged, its lines as thin as ever; see `draw_sheet`."""
    crop, times = part

    def enlarge(array: NDArray[Any]) -> NDArray[Any]:
        return array[crop].repeat(times, axis=0).repeat(times, axis=1)

    maps = {name: one.with_planes(enlarge(one.planes)) for name, one in label_maps.items()}
    if offset_map is not None:
        offset_map = replace(offset_map, codes=enlarge(offset_map.codes))
    plain = replace(settings, captions=False)
    return draw_panel(panel, enlarge(image), maps, offset_map, plain)[0]


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
        words = [(tell_number(len(known), "id"), None)]
        if len(known) <= MOST_IDS:
            words = [(str(k), tuple(colours[k % NUM_COLOURS].tolist())) for k in known]
    return overlay(image, ids_here, colours, opacity=settings.opacity), words, {}


def shared_palette(label_maps: Mapping[str, LabelMap]) -> bytes | None:
    """Choose the first palette that has colours, so that equal ids are drawn in equal colours."""
    for label_map in label_maps.values():
        if label_map.palette is not None and np.ptp(rgb(label_map.palette), axis=1).any():
            return label_map.palette
    return None
