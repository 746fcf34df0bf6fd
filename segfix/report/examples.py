"""The images that a report shows: which ones, and their pictures."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segfix.errors import SegfixError
from segfix.evaluation.checks import read_ids
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
from segfix.report.layers import (
    css_colour,
    data_uri,
    draw_errors,
    draw_labels,
    draw_photograph,
    reduce_nearest,
    shown_size,
)
from segfix.report.overlay import NUM_COLOURS, label_colours
from segfix.report.show import shared_palette

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
    row: ImageRow,
    *,
    ignore_index: int,
    class_names: Mapping[int, str] | None,
    bands: Sequence[int] | None = None,
) -> tuple[Example, list[str]]:
    """Draw the pictures of an image for the page.

    Args:
        row: The image.
        ignore_index: Void id of the ground truth.
        class_names: Name of each id.
        bands: See `segfix.formats.read_image`.

    Returns:
        The example and what was wrong with its photograph, if anything: then it has none.

    Raises:
        SegfixError: A label map can't be read any more.
    """
    files = {str(number): read_label_map(path) for number, path in enumerate(row.maps)}
    files["truth"] = read_label_map(row.truth)
    maps = {name: read_ids(label_map, row.truth) for name, label_map in files.items()}
    target, first = maps["truth"], maps["0"]
    colours = label_colours(shared_palette({"truth": files["truth"], **files}), ignore_index)
    codes = error_map(first, target, maps.get("1"), ignore_index=ignore_index)
    kinds = _error_legend(codes, row.pixels)
    photograph, failed = None, []
    if row.photograph is not None:
        try:
            photograph = _read_photograph(row.photograph, row.truth, target.shape, bands)
        except SegfixError as error:
            failed.append(str(error))
    size = shown_size(*target.shape)
    ids, number = np.unique(
        np.concatenate([array.ravel() for array in maps.values()]), return_counts=True
    )
    order = [int(k) for k in ids[np.argsort(-number, kind="stable")] if k != ignore_index]
    names = class_names or {}
    codes = reduce_nearest(codes, size)
    before = np.where(np.isin(codes, (FIXED, WRONG, RELABELLED, VOID)), codes, RIGHT)
    after = np.where(np.isin(codes, (BROKEN, WRONG, RELABELLED, VOID)), codes, RIGHT)
    example = Example(
        row,
        size[1],
        size[0],
        size != target.shape,
        None if photograph is None else data_uri(draw_photograph(photograph, size), "image/jpeg"),
        [
            data_uri(draw_labels(reduce_nearest(maps[str(i)], size), colours))
            for i in range(len(row.maps))
        ],
        [data_uri(draw_errors(found)) for found in (before, after)[: len(row.maps)]],
        data_uri(draw_errors(codes)) if len(row.maps) > 1 else None,
        data_uri(draw_labels(reduce_nearest(target, size), colours, void=ignore_index)),
        [
            Swatch(css_colour(colours[k % NUM_COLOURS].tolist()), names.get(k, str(k)))
            for k in order[:SHOWN_CLASSES]
        ],
        max(len(order) - SHOWN_CLASSES, 0),
        kinds,
    )
    return example, failed


def _read_photograph(
    path: Path, truth: Path, shape: tuple[int, ...], bands: Sequence[int] | None
) -> NDArray[np.uint8]:
    """Read the photograph of a label map, which must be of its size."""
    photograph = read_image(path, bands)
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
            VOID_SWATCH if code == VOID else css_colour(ERROR_COLOURS[code]),
            ERROR_NAMES[code],
            None if code == VOID else counts[code] / max(pixels, 1),
        )
        for code in (FIXED, BROKEN, WRONG, RELABELLED, VOID)
        if counts[code]
    ]
