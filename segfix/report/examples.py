"""The images that a report shows: which ones, and their pictures."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import SegfixError
from segfix.evaluation.checks import read_ids
from segfix.evaluation.image_scores import ImageScores
from segfix.evaluation.statistics import COLUMNS, mean_scores
from segfix.formats import read_image, read_label_map
from segfix.formats.label_maps import NO_ID
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
    draw_fill,
    draw_lines,
    draw_photograph,
    reduce_nearest,
    shown_size,
)
from segfix.report.overlay import NUM_COLOURS, busiest_part, label_colours
from segfix.report.show import shared_palette

VOID_SWATCH = "repeating-linear-gradient(135deg,#a5a5a5 0 2px,#fff 2px 4px)"
"""The same in a legend."""

SHOWN_CLASSES = 24
"""Of the legend of a picture."""

Ids = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class ImageRow:
    """What the report keeps of each image.

    Attributes:
        name: Stem of the ground truth.
        truth: File of the ground truth.
        maps: Files of the label maps of each set, the one before first.
        photograph: Its file, if there is one.
        miou: Of the image alone, over the classes in its labels, for each of `maps`; None for an
            image of void alone.
        fixed: Number of pixels, for each set but the first.
        broken: The same.
        pixels: Number of pixels that aren't void.
        classes: Ids in its ground truth.
    """

    name: str
    truth: Path
    maps: tuple[Path, ...]
    photograph: Path | None
    miou: tuple[float | None, ...]
    fixed: tuple[int, ...]
    broken: tuple[int, ...]
    pixels: int
    classes: tuple[int, ...] = ()

    def gains(self) -> list[float | None]:
        """Compute the change of the image's own mIoU, for each set but the first."""
        first, *others = self.miou
        return [None if first is None or other is None else other - first for other in others]

    @property
    def gain(self) -> float | None:
        """Change of the image's own mIoU in the second set."""
        return next(iter(self.gains()), None)


def image_row(name: str, scores: ImageScores, photograph: Path | None) -> ImageRow:
    """Take down what the report keeps of an image whose label maps were scored."""
    means = mean_scores(scores.statistics)["iou"].tolist()
    fixed, broken = (tuple(scores.changes[..., kind].sum(axis=(1, 2)).tolist()) for kind in (1, 2))
    return ImageRow(
        name,
        scores.paths[0],
        scores.paths[1:],
        photograph,
        tuple(None if np.isnan(mean) else mean for mean in means),
        fixed,
        broken,
        scores.pixels,
        tuple(scores.classes[scores.statistics[0][:, COLUMNS["true"]].any(axis=1)].tolist()),
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
    """A line of a legend: its colour as in CSS, its name, the share of pixels or the id, if any."""

    colour: str
    name: str
    share: float | None = None
    key: int | None = None


@dataclass(frozen=True)
class Change:
    """Errors of the first set and of another one.

    Attributes:
        errors: Wrong pixels before and after; of one set alone, its own.
        changes: Pixels fixed, broken and wrong as before; None if there is one set.
        kinds: Legend of the three.
        spot: The place, x and y as shares, where most of them are.
    """

    errors: list[str]
    changes: str | None
    kinds: list[Swatch]
    spot: tuple[float, float]


@dataclass(frozen=True)
class Example:
    """An image with its pictures, all of one size, as data URIs.

    Attributes:
        row: The image's numbers.
        width: Of the pictures, pixels.
        height: Of the pictures, pixels.
        reduced: Whether they are smaller than the image.
        photograph: The photograph, if there is one.
        labels: Label maps of all sets.
        lines: Outlines of their regions.
        changes: How each other set differs from the first; of one set alone, its errors.
        truth: The ground truth, and its outlines.
        classes: Legend of label maps, the most frequent class first.
        more_classes: Number of classes that the legend leaves out.
    """

    row: ImageRow
    width: int
    height: int
    reduced: bool
    photograph: str | None
    labels: list[str]
    lines: list[str]
    changes: list[Change]
    truth: tuple[str, str]
    classes: list[Swatch]
    more_classes: int


def read_example(row: ImageRow, ignore_index: int) -> tuple[list[Ids], NDArray[np.uint8]]:
    """Read the label maps of an image.

    Returns:
        (H, W) ids of the ground truth and of each set, and (257, 3) colours.

    Raises:
        SegfixError: One can't be read any more.
    """
    files = [read_label_map(path) for path in (row.truth, *row.maps)]
    palette = shared_palette({str(place): one for place, one in enumerate(files)})
    return [read_ids(one, row.truth) for one in files], label_colours(palette, ignore_index)


def draw_example(
    row: ImageRow,
    maps: Sequence[Ids],
    colours: NDArray[np.uint8],
    *,
    ignore_index: int,
    class_names: Mapping[int, str] | None,
    bands: Sequence[int] | None = None,
    clear: int | None = None,
) -> tuple[Example, list[str]]:
    """Draw the pictures of an image for the page.

    Args:
        row: The image.
        maps: (H, W) ids of the ground truth and of each set.
        colours: (257, 3) RGB of the ids.
        ignore_index: Void id of the ground truth.
        class_names: Name of each id.
        bands: See `segfix.formats.read_image`.
        clear: Id without a colour; None: void, in the ground truth alone.

    Returns:
        The example and what was wrong with its photograph, if anything: then it has none.
    """
    target, *preds = maps
    photograph, failed = None, []
    if row.photograph is not None:
        try:
            photograph = _read_photograph(row.photograph, row.truth, target.shape, bands)
        except SegfixError as error:
            failed.append(str(error))
    size = shown_size(*target.shape)
    ids, number = np.unique(np.concatenate([array.ravel() for array in maps]), return_counts=True)
    order = [int(k) for k in ids[np.argsort(-number, kind="stable")] if k != ignore_index]
    names = class_names or {}
    small = [reduce_nearest(array, size) for array in maps]
    lines = [data_uri(draw_lines(array)) for array in small]
    unseen = [ignore_index, *[NO_ID] * len(preds)] if clear is None else [clear] * len(maps)
    fills = [
        data_uri(draw_fill(array, colours, blank))
        for array, blank in zip(small, unseen, strict=True)
    ]
    example = Example(
        row,
        size[1],
        size[0],
        size != target.shape,
        None if photograph is None else data_uri(draw_photograph(photograph, size), "image/jpeg"),
        fills[1:],
        lines[1:],
        [
            draw_change(preds[0], after, target, row.pixels, size, ignore_index)
            for after in (preds[1:] if len(preds) > 1 else (None,))
        ],
        (fills[0], lines[0]),
        [
            Swatch(css_colour(colours[k % NUM_COLOURS].tolist()), names.get(k, str(k)), None, k)
            for k in order[:SHOWN_CLASSES]
        ],
        max(len(order) - SHOWN_CLASSES, 0),
    )
    return example, failed


def draw_change(
    before: Ids, after: Ids | None, target: Ids, pixels: int, size: tuple[int, int], void: int
) -> Change:
    """Draw where a label map is wrong and, if there is another one, what it fixed and broke.

    Args:
        before: (H, W) ids.
        after: (H, W) ids, if there are such.
        target: (H, W) true ids.
        pixels: Number of those that aren't void.
        size: Height and width of the pictures.
        void: Id in `target`.
    """
    codes = error_map(before, target, after, ignore_index=void)
    kinds = _error_legend(codes, pixels)
    changed = (codes == FIXED) | (codes == BROKEN)
    marked = changed if changed.any() else (codes == WRONG) | (codes == RELABELLED)
    part = [max(1, length // 4) for length in marked.shape]
    y, x = (
        (start + length / 2) / whole
        for start, length, whole in zip(
            busiest_part(marked, *part), part, marked.shape, strict=True
        )
    )
    codes = reduce_nearest(codes, size)
    shown = ((FIXED, WRONG, RELABELLED, VOID), (BROKEN, WRONG, RELABELLED, VOID))
    errors = [data_uri(draw_errors(np.where(np.isin(codes, kept), codes, RIGHT))) for kept in shown]
    if after is None:
        return Change(errors[:1], None, kinds, (x, y))
    return Change(errors, data_uri(draw_errors(codes)), kinds, (x, y))


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
