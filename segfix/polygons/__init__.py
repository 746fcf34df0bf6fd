"""Files of annotation tools whose areas are outlines or masks: read, and written with others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from segfix.polygons import cvat, geojson, geopackage, label_studio, labelme, yolo
from segfix.polygons.regions import AnnotatedImage, Region

Read = Callable[[Path, Any], list[AnnotatedImage]]
Write = Callable[[Any, Mapping[int, Region | None]], Any]

TOOLS: dict[str, tuple[Read, Write]] = {
    "CVAT": (cvat.read_images, cvat.write_regions),
    "GeoJSON": (geojson.read_features, geojson.write_features),
    "GeoPackage": (geopackage.read_layers, geopackage.write_layers),
    "Label Studio": (label_studio.read_tasks, label_studio.write_regions),
    "LabelMe": (labelme.read_shapes, labelme.write_regions),
    "YOLO": (yolo.read_lines, yolo.write_regions),
}
"""Of each tool: what reads a document, and what writes one with other regions.

Documents are what `json` makes of them, else texts, of GeoPackage bytes. Regions have a place in
the file, from 0; those replaced are given by place, None for one left out, and all else stays as it
is.
"""


GEO_TOOLS = ("GeoJSON", "GeoPackage")
"""Those whose areas are in coordinates of the earth, see `segfix.polygons.shapes`."""


def recognize_tool(path: Path, document: Any) -> str | None:
    """Tell whose document it is; None: none of these tools'."""
    suffix = path.suffix.lower()
    if isinstance(document, bytes):
        return "GeoPackage"
    if isinstance(document, str):
        return {".xml": "CVAT", ".txt": "YOLO"}.get(suffix, "GeoJSON")
    if suffix == ".geojson":
        return "GeoJSON"
    if isinstance(document, dict) and isinstance(document.get("shapes"), list):
        return "LabelMe"
    return "Label Studio" if label_studio.holds_tasks(document) else None
