"""COCO files: instances with run lengths or polygons, and panoptic segments, read and checked."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segfix.errors import FileFormatError, PairingError
from segfix.files.reading import check_regular, open_picture, read_text
from segfix.formats.label_maps import LabelMap, read_label_map

LONGEST_OUTLINE, LONGEST_OF_LARGE = 1_000_000, 16_000_000
"""Of a polygon, pixels; the latter where the image is large."""


def read_json(path: Path, *, peek: bool = False) -> Any:
    """The document; with `peek` only [] or {}, by its first character."""
    try:
        if not peek:
            return json.loads(read_text(path))
        check_regular(path)
        with path.open(encoding="utf-8-sig") as file:
            start = file.read(1000).lstrip()[:1]
    except FileNotFoundError as error:
        raise PairingError(f"{path}: no such file.") from error
    except OSError as error:
        raise FileFormatError(f"{path}: can't be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        raise FileFormatError(
            f"{path}: not a whole JSON file ({error}); write it again."
        ) from error
    if start not in ("[", "{"):
        raise FileFormatError(
            f"{path}: neither a JSON list (COCO results) nor an object (COCO panoptic)."
        )
    return [] if start == "[" else {}


def check_table(path: Path, table: Any, keys: Sequence[str]) -> None:
    """Refuse a document that is no object with these lists."""
    for key in keys:
        if not isinstance(table, dict) or not isinstance(table.get(key), list):
            raise FileFormatError(
                f"{path}: no list {key!r}; expected a JSON object with {', '.join(keys)} "
                "(instances: results as a list, and their annotations; panoptic: both as objects)."
            )


def check_items(path: Path, where: str, items: Any, keys: Sequence[str]) -> None:
    """Refuse items that lack one of these keys, or whose id or file name is of another type."""
    if not isinstance(items, list):
        raise FileFormatError(f"{path}: {where} is no list.")
    for number, item in enumerate(items):
        for key in keys:
            if not isinstance(item, dict) or item.get(key) is None:
                raise FileFormatError(
                    f"{path}: {where}[{number}] has no {key!r}; expected {', '.join(keys)}."
                )
            if key.endswith("id") and not isinstance(item[key], int | str):
                raise FileFormatError(
                    f"{path}: {where}[{number}] has {key!r} {item[key]!r}; expected a number or "
                    "a text."
                )
            if key == "file_name" and not isinstance(item[key], str):
                raise FileFormatError(
                    f"{path}: {where}[{number}] has {key!r} {item[key]!r}; expected a text."
                )


def check_panoptic(path: Path, table: Any, keys: Sequence[str]) -> None:
    """Refuse a panoptic table whose annotations, or segments without `keys`, can't be used."""
    check_table(path, table, ("annotations",))
    wanted = ("image_id", "file_name", "segments_info")
    check_items(path, "annotations", table["annotations"], wanted)
    for annotation in table["annotations"]:
        where = f"segments_info of image {annotation['image_id']!r}"
        check_items(path, where, annotation["segments_info"], keys)


def check_panoptic_mode(path: Path, mode: str) -> None:
    """Refuse a picture that is no panoptic map, by its mode in Pillow's words."""
    if mode not in ("RGB", "RGBA"):
        raise FileFormatError(
            f"{path}: mode {mode}; expected a panoptic PNG in RGB (id = R + 256 · G + 256² · B)."
        )


def read_panoptic_map(path: Path) -> LabelMap:
    """Read the picture of a panoptic image; `LabelMap.ids` of its colours are segment ids.

    Raises:
        FileFormatError: The file is missing, broken, or not in colours.
    """
    with open_picture(path, "panoptic map") as picture:
        check_panoptic_mode(path, picture.mode)
    return read_label_map(path)


def is_number(value: Any) -> bool:
    """Whether a value is finite, or not given."""
    # Whole numbers in a file may have thousands of digits.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (number and abs(value) <= sys.float_info.max)


def run_lengths(segmentation: Any, height: int, width: int) -> Any:
    """Polygons or run lengths as compressed run lengths that pycocotools is safe with.

    Args:
        segmentation: As in the file.
        height: Of the image, pixels.
        width: Of the image, pixels.

    Raises:
        ValueError: They are of another size, or aren't whole: pycocotools would read on, or wait
            for ever.
    """
    from pycocotools import mask as masks

    if isinstance(segmentation, list):
        for polygon in segmentation:
            points = np.asarray(polygon, float)
            if points.ndim != 1 or points.size < 6 or points.size % 2:
                raise ValueError("expected polygons of three points or more, x and y in turn")
            if not (np.abs(points) <= 10 * max(height, width)).all():
                raise ValueError("points far outside of the image")
            steps = np.diff(points.reshape(-1, 2), axis=0, append=points[None, :2])
            length = np.abs(steps).max(axis=1).sum()
            # pycocotools takes some 60 bytes per pixel of the outline.
            if length > min(max(LONGEST_OUTLINE, 4 * height * width), LONGEST_OF_LARGE):
                raise ValueError(f"an outline of {length:.0f} pixels")
        if not segmentation:
            raise ValueError("expected polygons or run lengths but got an empty list")
        return masks.merge(masks.frPyObjects(segmentation, height, width))
    size, counts = segmentation["size"], segmentation["counts"]
    if list(size) != [height, width]:
        raise ValueError(f"{size} high and wide, but the image is {[height, width]}")
    runs = decode_runs(counts) if isinstance(counts, str) else np.asarray(counts)
    if runs.ndim != 1 or runs.dtype.kind != "i" or runs.min(initial=0) < 0:
        raise ValueError("broken run lengths")
    # Looked at before their sum, which may be beyond 64 bits.
    if runs.max(initial=0) > height * width:
        raise ValueError(f"a run of {runs.max()} pixels, but the image has {height * width}")
    if runs.sum() != height * width:
        raise ValueError(f"runs of {runs.sum()} pixels in all, but the image has {height * width}")
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts}
    return masks.frPyObjects({"size": [height, width], "counts": counts}, height, width)


def decode_runs(counts: str) -> Any:
    """The lengths in COCO's compressed form: groups of 5 bits, the fourth on as differences."""
    codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes & 32 == 0)
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or ends[-1:] != codes.size - 1:
        raise ValueError("broken run lengths")
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(codes.size) - np.repeat(starts, ends - starts + 1)
    if place.max() > 6:
        raise ValueError("broken run lengths")
    runs = np.add.reduceat((codes & 31) << (5 * place), starts)
    runs -= np.where(codes[ends] & 16, 32 << (5 * place[ends]), 0)
    for first in (1, 2):
        runs[first::2] = runs[first::2].cumsum()
    return runs
