"""YOLO's segmentation labels, a text file per photograph, as Ultralytics lays them out.

A line is a class and x and y in turn, as shares of width and height; predictions have a confidence
behind them. A line of a class and four numbers is a box, and stays as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np

from segfix.errors import FileFormatError, SegfixError
from segfix.polygons.regions import AnnotatedImage, Region

COMPANIONS = re.compile(
    r"(classes|labels|obj_names|obj|notes|train|val|test|autosplit_\w+|license|readme.*)\.txt"
)
"""Names of other text files beside labels, in lower case."""

LABELS = "labels"
"""Folder of the labels in a data set's folder, beside `images` and `data.yaml`."""


def read_lines(path: Path, document: str) -> list[AnnotatedImage]:
    """Read the polygons of a label file.

    Raises:
        FileFormatError: A line isn't numbers as YOLO's.
    """
    regions = []
    for number, line in enumerate(document.splitlines(), 1):
        try:
            region = _read_line(line)
        except ValueError as error:
            raise FileFormatError(
                f"{path}: line {number} is {line[:60]!r}; expected YOLO's class and x and y in "
                "turn, from 0 to 1."
            ) from error
        if region:
            regions.append(region)
    return [AnnotatedImage([], regions)]


def write_regions(document: str, changes: Mapping[int, Region | None]) -> str:
    """Replace the polygons of a label file.

    Raises:
        SegfixError: One is a mask.
    """
    places, lines = count(), []
    for line in document.splitlines(keepends=True):
        if _read_line(line) is None or (place := next(places)) not in changes:
            lines.append(line)
            continue
        region = changes[place]
        if region is None:
            continue
        if region.points is None:
            raise SegfixError("YOLO's labels are polygons alone; leave --as rle out")
        words = line.split()
        rest = words[1 + 2 * len(_points(words)) :]
        coordinates = [f"{value:.6f}".rstrip("0").rstrip(".") for value in region.points.flat]
        end = line[len(line.rstrip()) :]
        lines.append(" ".join([words[0], *coordinates, *rest]) + end)
    return "".join(lines)


def is_companion(path: Path) -> bool:
    """Tell by its name whether a text file lies beside labels and holds none."""
    return COMPANIONS.fullmatch(path.name.lower()) is not None


def is_label_file(path: Path) -> bool:
    """Tell by its first line whether a text file holds YOLO's labels; an empty one may.

    A line of numbers with a word among them is a broken label.
    """
    if is_companion(path):
        return False
    try:
        with path.open(encoding="utf-8") as file:
            words = file.readline(400).split()[:9]
    except (OSError, ValueError):
        return False
    numbers = [_is_number(word) for word in words]
    return not words or (numbers[0] and 2 * sum(numbers) > len(words))


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _read_line(line: str) -> Region | None:
    """Read the polygon of a line; None: a box, or nothing."""
    words = line.split()
    values = _points(words)
    if words and (len(words) < 5 or not math.isfinite(float(words[0]))):
        raise ValueError("too few numbers")
    return Region(points=values, scale=1) if len(values) else None


def _points(words: Sequence[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Read (N, 2) x and y of a line's words; of a box none."""
    values = np.array([float(word) for word in words[1:]])
    if not np.isfinite(values).all():
        raise ValueError("not finite")
    points = values[: len(values) // 2 * 2].reshape(-1, 2) if len(words) > 6 else values[:0]
    return points.reshape(-1, 2)
