"""GeoJSON: a collection of features, some of which are polygons, in coordinates of the earth.

Needs shapely and pyproj (extra `geo`). What isn't the geometry of a polygon that changes stays as
it is, letter by letter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from segfix.errors import FileFormatError
from segfix.polygons.regions import FAULTS, AnnotatedImage, Region
from segfix.polygons.shapes import (
    LONGITUDE_LATITUDE,
    Shape,
    check_shape,
    geometry_of,
    read_system,
)

AREAS = ("Polygon", "MultiPolygon")

SPACE = re.compile(r"[ \t\r\n]*")

SYSTEM_NAME = re.compile(r"(?i)(urn:ogc:def:crs:|epsg:|ogc:|esri:|https?://www\.opengis\.net/)")
"""How names of coordinate reference systems begin; others PROJ might take for files."""

decode = json.JSONDecoder().raw_decode


def is_collection(document: Any) -> bool:
    """Tell whether a JSON document is a collection of features."""
    return isinstance(document, dict) and document.get("type") == "FeatureCollection"


def read_features(path: Path, document: Any) -> list[AnnotatedImage]:
    """Read the polygons of a collection of features.

    Args:
        path: The file.
        document: Its text; what `json` makes of it, if that is no collection.

    Returns:
        One image of all. Features with a fault are regions with one.

    Raises:
        FileFormatError: It is no collection, or in an unknown coordinate reference system.
    """
    if not isinstance(document, str):
        kind = document.get("type") if isinstance(document, dict) else None
        raise FileFormatError(
            f"type {kind!r}"[:80],
            path=path,
            expected="a FeatureCollection is needed",
            advice="export the whole layer as GeoJSON",
        )
    top = {key: value for key, value, _, _ in list_members(document, document.index("{"))}
    if not isinstance(top.get("features"), list):
        raise FileFormatError("no list of features", path=path, advice="export it again")
    crs = _read_crs(path, top.get("crs"))
    areas = [feature for feature in top["features"] if _is_area(feature)]
    shapes = [_read_feature(feature, crs) for feature in areas]
    if crs == LONGITUDE_LATITUDE:
        _check_degrees(path, shapes)
    return [AnnotatedImage([], shapes, others=len(top["features"]) - len(areas))]


def write_features(document: str, changes: Mapping[int, Region | None]) -> str:
    """Replace the polygons of a collection of features.

    Raises:
        SegfixError: One is a mask.
    """
    top = {key: begin for key, _, begin, _ in list_members(document, document.index("{"))}
    features = list(list_members(document, top["features"]))
    parts: list[str] = []
    place, last = -1, 0
    for _, feature, begin, end in features:
        text = document[begin:end]
        if _is_area(feature) and (place := place + 1) in changes:
            region = changes[place]
            text = "" if region is None else _replace_geometry(text, region)
        if text:
            # What stands between two features goes with the second.
            parts += [document[last:begin] if parts else "", text]
        last = end
    start = features[0][2] if features else 0
    return document[:start] + "".join(parts) + document[last if features else 0 :]


def list_members(text: str, start: int) -> Iterator[tuple[Any, Any, int, int]]:
    """List the members of a JSON object or list within a text that is whole.

    Args:
        text: The text.
        start: Where its bracket stands.

    Yields:
        Key (of a list's members None), value, and where the value begins and ends.
    """
    place = _skip(text, start + 1)
    while text[place] not in "]}":
        key = None
        if text[start] == "{":
            key, place = decode(text, place)
            place = _skip(text, _skip(text, place) + 1)
        value, end = decode(text, place)
        yield key, value, place, end
        place = _skip(text, end)
        if text[place] == ",":
            place = _skip(text, place + 1)


def _skip(text: str, place: int) -> int:
    found = SPACE.match(text, place)
    return found.end() if found else place


def _replace_geometry(text: str, region: Region) -> str:
    from shapely.geometry import mapping

    found = {key: (begin, end) for key, _, begin, end in list_members(text, 0)}
    begin, end = found["geometry"]
    return text[:begin] + json.dumps(mapping(geometry_of(region))) + text[end:]


def _is_area(feature: Any) -> bool:
    geometry = feature.get("geometry") if isinstance(feature, dict) else None
    return (
        isinstance(geometry, dict)
        and geometry.get("type") in AREAS
        and bool(geometry.get("coordinates", True))
    )


def _read_feature(feature: dict[str, Any], crs: str) -> Shape:
    import shapely

    geometry = feature["geometry"]
    try:
        parts = geometry["coordinates"]
        parts = [parts] if geometry["type"] == "Polygon" else parts
        polygons = [shapely.Polygon(rings[0], rings[1:]) for rings in parts]
        area = shapely.MultiPolygon(polygons) if geometry["type"] != "Polygon" else polygons[0]
    except (*FAULTS, shapely.errors.ShapelyError) as error:
        return Shape(fault=f"{error}" or "coordinates that are no rings of points")
    return check_shape(Shape(geometry=area, crs=crs))


def _read_crs(path: Path, member: Any) -> str:
    if member is None:
        return LONGITUDE_LATITUDE
    with suppress(*FAULTS):
        name = member["properties"]["name"]
        if member["type"] == "name" and SYSTEM_NAME.match(name):
            read_system(name, f"{path}")
            return str(name)
    raise FileFormatError(
        f"crs {json.dumps(member)[:80]}, which isn't known",
        path=path,
        advice="export it in longitude and latitude of WGS 84 (RFC 7946)",
    )


def _check_degrees(path: Path, shapes: Sequence[Shape]) -> None:
    import shapely

    points = shapely.get_coordinates([shape.geometry for shape in shapes if not shape.fault])
    far = np.flatnonzero((np.abs(points) > (360, 90 + 1e-6)).any(axis=1))
    if len(far):
        x, y = points[far[0]]
        raise FileFormatError(
            f"coordinates such as {x:.9g}, {y:.9g} and no member crs",
            path=path,
            expected="longitude and latitude of WGS 84 were expected",
            advice="export it in these (RFC 7946), or with the crs that it is in",
        )
