"""LabelMe's JSON, a file per photograph: shapes that are polygons or masks, and others."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segfix.errors import FileFormatError, SegfixError
from segfix.files.limits import check_pixels
from segfix.files.reading import DECODE_ERRORS
from segfix.polygons.regions import FAULTS, AnnotatedImage, Region

NEWEST = 6
"""Version whose files are known."""

AREAS = ("polygon", "mask")
"""Shapes that are areas; boxes, circles, lines and points stay as they are."""


def read_shapes(path: Path, document: dict[str, Any]) -> list[AnnotatedImage]:
    """Read the polygons and masks of a file.

    Raises:
        FileFormatError: The file is of an unknown version, or a shape is broken.
    """
    version = re.match(r"(\d+)\b", str(document.get("version") or 0))
    if not version or int(version[1]) > NEWEST:
        raise FileFormatError(
            f"version {document['version']!r} of LabelMe",
            path=path,
            expected=f"versions up to {NEWEST} are known",
            advice="save it with one of these",
        )
    regions = []
    for number, shape in enumerate(document["shapes"]):
        try:
            if _is_area(shape):
                group, label = shape.get("group_id"), shape.get("label")
                together = None if group is None else f"{group!r} of {label!r}"
                regions.append(replace(_read_shape(shape), group=together))
        except (*FAULTS, *DECODE_ERRORS, SegfixError) as error:
            raise FileFormatError(
                f"shapes[{number}] is broken ({error})", path=path, advice="save it again"
            ) from error
    height, width = document.get("imageHeight"), document.get("imageWidth")
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    name = document.get("imagePath")
    return [AnnotatedImage([name] if isinstance(name, str) else [], regions, size)]


def write_regions(document: dict[str, Any], changes: Mapping[int, Region | None]) -> dict[str, Any]:
    """Replace the polygons and masks of a file."""
    places, shapes = count(), []
    for shape in document["shapes"]:
        if not _is_area(shape) or (place := next(places)) not in changes:
            shapes.append(shape)
        elif (region := changes[place]) is not None:
            shapes.append(_write_shape(shape, region))
    return {**document, "shapes": shapes}


def _is_area(shape: dict[str, Any]) -> bool:
    # Of version 3, shapes without a type are polygons.
    return (shape.get("shape_type") or "polygon") in AREAS


def _read_shape(shape: dict[str, Any]) -> Region:
    points = np.array(shape["points"], np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError("expected points of x and y")
    if shape.get("shape_type") != "mask":
        if len(points) < 3:
            raise ValueError("a polygon of less than three points")
        return Region(points=points)
    (left, top), (right, bottom) = points.round().astype(np.int64).tolist()
    size = right + 1 - left, bottom + 1 - top
    try:
        content = base64.b64decode(shape["mask"], validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
        if picture.size != size:
            raise ValueError(f"a mask of {picture.size}, but its box is {size}")
        check_pixels(picture.size, "a mask")
        planes = np.asarray(picture).reshape(size[1], size[0], -1)
    return Region(mask=np.asarray(planes.any(axis=2)), corner=(left, top))


def _write_shape(shape: dict[str, Any], region: Region) -> dict[str, Any]:
    if region.points is not None:
        changed: dict[str, Any] = {"points": region.points.tolist(), "shape_type": "polygon"}
        return {**shape, **changed, **({"mask": None} if shape.get("mask") else {})}
    assert region.mask is not None
    file = io.BytesIO()
    Image.fromarray(region.mask.astype(np.uint8)).save(file, "PNG")
    (left, top), (height, width) = region.corner, region.mask.shape
    corners = [[float(left), float(top)], [left + width - 1.0, top + height - 1.0]]
    mask = base64.b64encode(file.getvalue()).decode("ascii")
    return {**shape, "points": corners, "shape_type": "mask", "mask": mask}
