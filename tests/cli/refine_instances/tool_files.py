"""The same polygons in the files of each annotation tool, written as its documentation shows them.

LabelMe 5.5 (examples/instance_segmentation of its repository), CVAT for images 1.1 (its page
"CVAT XML format"), Label Studio 1.13 (its page "Export annotations": JSON; brushes as its converter
packs them), Ultralytics 8.3 (its page "Instance Segmentation Datasets": labels and data.yaml).
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from segfix.polygons.label_studio import decode_brush, encode_brush
from segfix.polygons.regions import fill_outline
from tests.cli.refine_instances.instance_files import SIZE, Mask

HEIGHT, WIDTH = SIZE
Ring = list[list[float]]
Shape = Ring | Mask
"""An outline, or a mask."""


def corners(top: int, left: int, height: int, width: int) -> Ring:
    bottom, right = top + height, left + width
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def png(mask: Mask) -> str:
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def box_of(mask: Mask) -> tuple[int, int, int, int]:
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1


def write_labelme(shapes: list[Shape], folder: Path = Path("labelme")) -> Path:
    items: list[dict[str, Any]] = [
        {"label": "wheel", "points": [[3, 4.5]], "group_id": None, "shape_type": "point"}
    ]
    for number, shape in enumerate(shapes):
        item: dict[str, Any] = {"label": "car", "points": shape}
        if isinstance(shape, np.ndarray):
            top, left, bottom, right = box_of(shape)
            item["points"] = [[float(left), float(top)], [right - 1.0, bottom - 1.0]]
            item["mask"] = png(shape[top:bottom, left:right])
        kind = "mask" if isinstance(shape, np.ndarray) else "polygon"
        more = {
            "group_id": number,
            "description": "Straße",
            "shape_type": kind,
            "flags": {"old": True},
        }
        items.append({**item, **more, "mine": {"kept": [1, 2.50, None]}})
    items.append({"label": "box", "points": [[1.0, 1], [5, 6]], "shape_type": "rectangle"})
    document: dict[str, Any] = {
        "version": "5.5.0",
        "flags": {},
        "shapes": items,
        "imagePath": "..\\images\\a.jpg",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        "checkedBy": "Jürgen",
    }
    return write_text(folder / "a.json", json.dumps(document, ensure_ascii=False, indent=2))


def write_cvat(shapes: list[Shape], folder: Path = Path("cvat")) -> Path:
    lines = []
    for shape in shapes:
        common = 'label="car" source="manual" occluded="0"'
        if isinstance(shape, np.ndarray):
            top, left, bottom, right = box_of(shape)
            flat = shape[top:bottom, left:right].ravel()
            ends = [*(np.flatnonzero(np.diff(flat)) + 1), flat.size]
            runs = np.diff([0, *([0] if flat[0] else []), *ends]).tolist()
            box = f'left="{left}" top="{top}" width="{right - left}" height="{bottom - top}"'
            lines.append(f'<mask {common} rle="{", ".join(map(str, runs))}" {box} z_order="0">')
            lines.append("    </mask>")
        else:
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in shape)
            lines.append(f'<polygon {common} points="{points}" z_order="0">')
            lines.append('      <attribute name="model">a &amp; b</attribute>')
            lines.append("    </polygon>")
    regions = "\n    ".join(lines)
    text = f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>4</id>
      <name>cars</name>
      <size>2</size>
      <labels>
        <label><name>car</name><color>#c06060</color></label>
        <label><name>wheel</name></label>
      </labels>
    </task>
  </meta>
  <!-- reviewed -->
  <image id="0" name="val/a.jpg" width="{WIDTH}" height="{HEIGHT}">
    <points label="wheel" source="manual" occluded="0" points="3.00,4.50" z_order="0">
    </points>
    {regions}
    <box label="car" source="manual" occluded="0" xtl="1.00" ytl="1.00" xbr="5.00" ybr="6.00">
    </box>
  </image>
  <image id="1" name="empty.jpg" width="{WIDTH}" height="{HEIGHT}">
  </image>
</annotations>
"""
    return write_text(folder / "annotations.xml", text)


def write_label_studio(shapes: list[Shape], folder: Path = Path("label_studio")) -> Path:
    results: list[dict[str, Any]] = []
    for number, shape in enumerate(shapes):
        common = {
            "original_width": WIDTH,
            "original_height": HEIGHT,
            "image_rotation": 0,
            "id": f"kept{number}",
            "to_name": "image",
            "origin": "manual",
        }
        if isinstance(shape, np.ndarray):
            rle = list(encode_brush(shape))
            value: dict[str, Any] = {"format": "rle", "rle": rle, "brushlabels": ["car"]}
            results.append({**common, "value": value, "from_name": "brush", "type": "brushlabels"})
        else:
            points = [[x / WIDTH * 100, y / HEIGHT * 100] for x, y in shape]
            value = {"points": points, "closed": True, "polygonlabels": ["car"]}
            results.append(
                {**common, "value": value, "from_name": "outline", "type": "polygonlabels"}
            )
    results.append(
        {"id": "c", "type": "choices", "value": {"choices": ["day"]}, "to_name": "image"}
    )
    box = {"x": 1.5, "y": 2, "width": 3, "height": 4, "rotation": 0, "rectanglelabels": ["car"]}
    results.append({**common, "id": "r", "type": "rectanglelabels", "value": box})
    document = [
        {
            "id": 31,
            "annotations": [{"id": 7, "completed_by": 1, "result": results, "lead_time": 3.25}],
            "file_upload": "0a1b2c3d-a.jpg",
            "predictions": [],
            "data": {"image": "/data/upload/1/0a1b2c3d-a.jpg", "note": "x"},
            "meta": {},
        }
    ]
    return write_text(folder / "export.json", json.dumps(document, indent=1))


def write_yolo(shapes: list[Shape], folder: Path = Path("yolo")) -> Path:
    lines = ["2 0.5 0.5 0.25 0.125"]
    for number, shape in enumerate(shapes):
        assert not isinstance(shape, np.ndarray)
        shares = (f"{x / WIDTH:.6g} {y / HEIGHT:.6g}" for x, y in shape)
        lines.append(f"{number % 3} {' '.join(shares)}" + " 0.875" * (number == 1))
    write_text(folder / "labels" / "b.txt", "")
    write_text(folder / "data.yaml", "path: .\nval: images\nnames: {0: car, 1: bus, 2: box}\n")
    return write_text(folder / "labels" / "a.txt", "\r\n".join(lines) + "\r\n")


TOOLS: dict[str, Callable[[list[Shape]], Path]] = {
    "labelme": write_labelme,
    "cvat": write_cvat,
    "label_studio": write_label_studio,
    "yolo": write_yolo,
}
WITH_MASKS = ("labelme", "cvat", "label_studio")


def read_shapes(path: Path) -> list[Shape]:
    """Read all areas of a file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".txt":
        rows = [np.array(line.split()[1:], float) for line in text.splitlines()]
        return [
            (row[: len(row) // 2 * 2].reshape(-1, 2) * (WIDTH, HEIGHT)).tolist()
            for row in rows
            if len(row) > 5
        ]
    if path.suffix == ".xml":
        return [
            _cvat_shape(element)
            for element in ElementTree.fromstring(text).iter()
            if element.tag in ("polygon", "mask")
        ]
    document = json.loads(text)
    if isinstance(document, dict):
        return [
            _labelme_shape(item)
            for item in document["shapes"]
            if item["shape_type"] in ("polygon", "mask")
        ]
    found: list[Shape] = []
    for result in document[0]["annotations"][0]["result"]:
        if result["type"] == "brushlabels":
            found.append(decode_brush(bytes(result["value"]["rle"]), SIZE))
        elif result["type"] == "polygonlabels":
            scale = (WIDTH / 100, HEIGHT / 100)
            found.append((np.array(result["value"]["points"]) * scale).tolist())
    return found


def _labelme_shape(item: dict[str, Any]) -> Shape:
    if item["shape_type"] == "polygon":
        ring: Ring = item["points"]
        return ring
    (left, top), (right, bottom) = (map(int, point) for point in item["points"])
    mask = np.zeros(SIZE, bool)
    with Image.open(io.BytesIO(base64.b64decode(item["mask"]))) as picture:
        mask[top : bottom + 1, left : right + 1] = np.array(picture) != 0
    return mask


def _cvat_shape(element: ElementTree.Element) -> Shape:
    if element.tag == "polygon":
        return [list(map(float, pair.split(","))) for pair in element.attrib["points"].split(";")]
    left, top, width, height = (
        int(element.attrib[key]) for key in ("left", "top", "width", "height")
    )
    runs = [int(run) for run in element.attrib["rle"].split(",")]
    mask = np.zeros(SIZE, bool)
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    mask[top : top + height, left : left + width] = values
    return mask


def mask_of(shape: Shape) -> Mask:
    if isinstance(shape, np.ndarray):
        return shape
    return np.asarray(fill_outline(np.array(shape, float), SIZE) != 0)


def rest_of(path: Path) -> str:
    """Blank what areas are made of: points, runs, masks."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".txt":
        lines = [line.split() for line in text.splitlines()]
        confidences = [line[-1:] * (len(line) > 5 and len(line) % 2 == 0) for line in lines]
        return str([line if len(line) == 5 else line[:1] for line in lines]) + str(confidences)
    if path.suffix == ".xml":
        return re.sub(r'(<polygon [^>]*) points="[^"]*"', r"\1", re.sub(r' rle="[^"]*"', "", text))
    document = json.loads(text)
    items = document["shapes"] if isinstance(document, dict) else []
    for item in items or document[0]["annotations"][0]["result"]:
        kind = item.get("shape_type") or item["type"]
        if kind in ("polygon", "mask"):
            item["points"] = item["mask"] = None
        elif kind in ("polygonlabels", "brushlabels"):
            item["value"]["points"] = item["value"]["rle"] = None
    return json.dumps(document)
