"""The images that a report shows: which ones, and their pictures."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfix.errors import SegfixError
from segfix.evaluation.image_scores import ImageScores
from segfix.evaluation.statistics import mean_scores
from segfix.formats import read_image, read_label_map
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
from segfix.report.overlay import NUM_COLOURS, label_colours, region_lines
from segfix.report.show import shared_palette

LONGEST_SIDE = 1024
"""Of a picture, pixels; larger images are reduced."""

FILL = 115
"""Opacity of the colours of label maps, of 255."""

LINE = 255
"""Opacity of their boundaries."""

VOID_STRIPE = 6
"""Pixels from one stripe of void to the next."""

VOID_SWATCH = "repeating-linear-gradient(135deg,#a5a5a5 0 2px,#fff 2px 4px)"
"""The same in a legend."""

SHOWN_CLASSES = 12
"""Of the legend of a picture."""


@dataclass(frozen=True)
class ImageRow:
    """What the report keeps of each image.

    Attributes:
        name: Stem of the ground truth.
        truth: File of the ground truth.
        maps: Files of the label maps before and, if there is such a set, after.
        photograph: Its file, if there is one.
        miou: Of the image alone, over the classes in its labels, for each of `maps`; None for an
            image of void alone.
        fixed: Number of pixels.
        broken: Number of pixels.
        pixels: Number of pixels that aren't void.
    """

    name: str
    truth: Path
    maps: tuple[Path, ...]
    photograph: Path | None
    miou: tuple[float | None, ...]
    fixed: int
    broken: int
    pixels: int

    @property
    def gain(self) -> float | None:
        """Change of the image's own mIoU."""
        first, last = self.miou[0], self.miou[-1]
        return None if first is None or last is None or len(self.miou) < 2 else last - first


def image_row(name: str, scores: ImageScores, photograph: Path | None) -> ImageRow:
    """Take down what the report keeps of an image whose label maps were scored."""
    means = mean_scores(scores.statistics[:2])["iou"].tolist()
    fixed, broken = (
        int(scores.changes[0, ..., kind].sum()) if len(scores.changes) else 0 for kind in (1, 2)
    )
    return ImageRow(
        name,
        scores.paths[0],
        scores.paths[1:3],
        photograph,
        tuple(None if np.isnan(mean) else mean for mean in means),
        fixed,
        broken,
        scores.pixels,
    )


def choose(rows: Sequence[ImageRow], number: int, seed: int = 0) -> dict[str, list[ImageRow]]:
    """Choose the images to show, none of them twice.

    Args:
        rows: Of all images.
        number: Images per group.
        seed: Of the random handful.

    Returns:
        By title: what gained most, what lost most, and others at random; without a second set,
        what has the lowest mIoU, and others at random. Groups without an image are left out.
    """
    if any(len(row.miou) > 1 for row in rows):
        changed = [(row.gain, row) for row in rows if row.gain]
        ranked = [row for _, row in sorted(changed, key=lambda pair: (-pair[0], pair[1].name))]
        groups = {
            "Gained most": [row for row in ranked if (row.gain or 0) > 0][:number],
            "Lost most": [row for row in ranked[::-1] if (row.gain or 0) < 0][:number],
        }
    else:
        scored = [(row.miou[0], row.name, row) for row in rows if row.miou[0] is not None]
        groups = {"Lowest mIoU": [row for *_, row in sorted(scored, key=lambda s: s[:2])][:number]}
    shown = {row.name for group in groups.values() for row in group}
    others = [row for row in rows if row.name not in shown and row.pixels]
    handful = random.Random(seed).sample(others, min(number, len(others)))
    groups["At random"] = sorted(handful, key=lambda row: row.name)
    return {title: group for title, group in groups.items() if group}


@dataclass(frozen=True)
class Swatch:
    """A line of a legend: the colour as in CSS, its name and the share of pixels, if known."""

    colour: str
    name: str
    share: float | None = None


@dataclass(frozen=True)
class Example:
    """An image with its pictures, all of one size, as data URIs.

    Attributes:
        row: The image's numbers.
        width: Of the pictures, pixels.
        height: Of the pictures, pixels.
        reduced: Whether they are smaller than the image.
        photograph: The photograph, if there is one.
        labels: Label maps before and after, half transparent.
        errors: Wrong pixels before and after.
        changes: Pixels fixed, broken and wrong as before; None if there is one set.
        truth: The ground truth.
        classes: Legend of label maps, the most frequent class first.
        more_classes: Number of classes that the legend leaves out.
        kinds: Legend of error maps.
    """

    row: ImageRow
    width: int
    height: int
    reduced: bool
    photograph: str | None
    labels: list[str]
    errors: list[str]
    changes: str | None
    truth: str
    classes: list[Swatch]
    more_classes: int
    kinds: list[Swatch]


def draw_example(
    row: ImageRow, *, ignore_index: int, class_names: Mapping[int, str] | None
) -> tuple[Example, list[str]]:
    """Draw the pictures of an image for the page.

    Args:
        row: The image.
        ignore_index: Void id of the ground truth.
        class_names: Name of each id.

    Returns:
        The example and what was wrong with its photograph, if anything: then it has none.

    Raises:
        SegfixError: A label map can't be read any more.
    """
    files = {str(number): read_label_map(path) for number, path in enumerate(row.maps)}
    files["truth"] = read_label_map(row.truth)
    maps = {name: label_map.ids() for name, label_map in files.items()}
    target, first = maps["truth"], maps["0"]
    colours = label_colours(shared_palette({"truth": files["truth"], **files}), ignore_index)
    codes = error_map(first, target, maps.get("1"), ignore_index=ignore_index)
    kinds = _error_legend(codes, row.pixels)
    photograph, failed = None, []
    if row.photograph is not None:
        try:
            photograph = _read_photograph(row.photograph, row.truth, target.shape)
        except SegfixError as error:
            failed.append(str(error))
    size = shown_size(*target.shape)
    ids, number = np.unique(
        np.concatenate([array.ravel() for array in maps.values()]), return_counts=True
    )
    order = [int(k) for k in ids[np.argsort(-number, kind="stable")] if k != ignore_index]
    names = class_names or {}
    codes = reduce_map(codes, size)
    before = np.where(np.isin(codes, (FIXED, WRONG, RELABELLED, VOID)), codes, RIGHT)
    after = np.where(np.isin(codes, (BROKEN, WRONG, RELABELLED, VOID)), codes, RIGHT)
    example = Example(
        row,
        size[1],
        size[0],
        size != target.shape,
        None if photograph is None else photograph_uri(photograph, size),
        [_label_uri(reduce_map(maps[str(i)], size), colours) for i in range(len(row.maps))],
        [_error_uri(found) for found in (before, after)[: len(row.maps)]],
        _error_uri(codes) if len(row.maps) > 1 else None,
        _label_uri(reduce_map(target, size), colours, void=ignore_index),
        [
            Swatch(_hex(colours[k % NUM_COLOURS].tolist()), names.get(k, str(k)))
            for k in order[:SHOWN_CLASSES]
        ],
        max(len(order) - SHOWN_CLASSES, 0),
        kinds,
    )
    return example, failed


def _read_photograph(path: Path, truth: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read the photograph of a label map, which must be of its size."""
    photograph = read_image(path)
    height, width = photograph.shape[:2]
    if (height, width) != shape:
        raise SegfixError(
            f"{path}: {width}×{height}, but its label map {truth} is {shape[1]}×{shape[0]}; drawn "
            "without the photograph."
        )
    return photograph


def _error_legend(codes: NDArray[np.uint8], pixels: int) -> list[Swatch]:
    """List the codes that occur in an error map, with their shares of the pixels."""
    counts = np.bincount(codes.ravel(), minlength=len(ERROR_NAMES))
    return [
        Swatch(
            VOID_SWATCH if code == VOID else _hex(ERROR_COLOURS[code]),
            ERROR_NAMES[code],
            None if code == VOID else counts[code] / max(pixels, 1),
        )
        for code in (FIXED, BROKEN, WRONG, RELABELLED, VOID)
        if counts[code]
    ]


def _hex(colour: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def shown_size(height: int, width: int) -> tuple[int, int]:
    """Choose height and width of a picture: at most `LONGEST_SIDE`."""
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def reduce_map(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Take the nearest neighbours at the centres of the smaller picture's pixels."""
    y, x = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp)
        for new, old in zip(size, array.shape, strict=True)
    )
    return array[np.ix_(y, x)]


def _label_uri(
    ids: NDArray[np.integer[Any]], colours: NDArray[np.uint8], void: int | None = None
) -> str:
    """Draw a label map with lines between its regions, void transparent."""
    packed = _pack(colours, FILL)[np.remainder(ids, NUM_COLOURS, dtype=np.int64)]
    if void is not None:
        packed[ids == void] = 0
    packed[region_lines(ids)] = 0xFFFFFF00 + LINE
    return png_uri(packed)


def _error_uri(codes: NDArray[np.uint8]) -> str:
    """Draw an error map, what is right transparent, void striped."""
    colours = _pack(np.array(ERROR_COLOURS), 255)
    colours[RIGHT] = 0
    packed = colours[codes]
    y, x = np.ogrid[: codes.shape[0], : codes.shape[1]]
    packed[(codes == VOID) & ((x + y) % VOID_STRIPE < VOID_STRIPE // 2)] = 0xFFFFFFFF
    return png_uri(packed)


def _pack(colours: NDArray[np.integer[Any]], opacity: int) -> NDArray[np.int64]:
    """Pack (…, 3) RGB into RRGGBBAA numbers."""
    weights = np.array([1 << 24, 1 << 16, 1 << 8])
    packed: NDArray[np.int64] = colours.astype(np.int64) @ weights + opacity
    return packed


def png_uri(packed: NDArray[np.int64]) -> str:
    """Encode RRGGBBAA numbers as PNG, with a palette of as few bits as may be."""
    found, index = np.unique(packed, return_inverse=True)
    if len(found) > 256:
        picture = Image.fromarray(packed.astype(">u4").view(np.uint8).reshape(*packed.shape, 4))
        return _uri(picture, "PNG", "image/png", optimize=True)
    table = found.astype(">u4").view(np.uint8).reshape(-1, 4)
    picture = Image.fromarray(index.reshape(packed.shape).astype(np.uint8))
    picture.putpalette(table[:, :3].tobytes())
    return _uri(picture, "PNG", "image/png", optimize=True, transparency=table[:, 3].tobytes())


def photograph_uri(image: NDArray[np.uint8], size: tuple[int, int]) -> str:
    """Encode an RGB picture, reduced to this height and width, as JPEG."""
    picture = Image.fromarray(image)
    if size != image.shape[:2]:
        picture = picture.resize(size[::-1], Image.Resampling.LANCZOS, reducing_gap=3)
    return _uri(picture, "JPEG", "image/jpeg", quality=80, optimize=True)


def _uri(picture: Image.Image, kind: str, media_type: str, **options: Any) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:{media_type};base64,{base64.b64encode(file.getvalue()).decode()}"
