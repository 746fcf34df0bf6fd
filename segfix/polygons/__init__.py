"""Files of annotation tools whose areas are outlines or masks: read, and written with others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from segfix.polygons import cvat, label_studio, labelme, yolo
from segfix.polygons.regions import AnnotatedImage, Region

Read = Callable[[Path, Any], list[AnnotatedImage]]
Write = Callable[[Any, Mapping[int, Region | None]], Any]

TOOLS: dict[str, tuple[Read, Write]] = {
    "CVAT": (cvat.read_images, cvat.write_regions),
    "Label Studio": (label_studio.read_tasks, label_studio.write_regions),
    "LabelMe": (labelme.read_shapes, labelme.write_regions),
    "YOLO": (yolo.read_lines, yolo.write_regions),
}
"""Of each tool: what reads a document, and what writes one with other regions.

Documents are what `json` makes of them, else texts. Regions have a place in the file, from 0; those
replaced are given by place, None for one left out, and all else stays as it is.
"""


def recognize_tool(path: Path, document: Any) -> str | None:
    """Tell whose document it is; None: none of these tools'."""
    if isinstance(document, str):
        return "CVAT" if path.suffix.lower() == ".xml" else "YOLO"
    if isinstance(document, dict) and isinstance(document.get("shapes"), list):
        return "LabelMe"
    return "Label Studio" if label_studio.holds_tasks(document) else None
