"""The same objects, found by some network, in each kind of JSON of instances."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import segfix
from segfix.formats import read_offset_map
from tests.cli import commands

pytest.importorskip("pycocotools", reason="needs the extra: pip install 'segfix-refine[eval]'")

run = partial(commands.run, "refine")
SIZE = (40, 60)
IMAGES = {7: "a", 12: "b"}
"""File names by image id."""
Mask = NDArray[np.bool_]


def box(top: int, left: int, height: int, width: int) -> Mask:
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


# Of the true objects, which the offset maps lead to, and of the predictions: shifted, overlapping.
TRUE = [box(8, 10, 16, 18), box(8, 34, 20, 18)]
FOUND = {
    7: [box(9, 12, 16, 18), box(6, 33, 20, 21), box(10, 11, 15, 40)],
    12: [box(7, 8, 16, 18), box(9, 36, 20, 18)],
}


def refined(mask: Mask, **settings: Any) -> Mask:
    """By the plain path over arrays."""
    offset_map = read_offset_map(Path("offsets/a.png"))
    return segfix.refine(mask, offset_map, **settings)


def compressed(mask: Mask) -> dict[str, Any]:
    from pycocotools import mask as masks

    rle = masks.encode(np.asfortranarray(mask, np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def plain(mask: Mask) -> dict[str, Any]:
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)}


def polygons(mask: Mask) -> list[list[float]]:
    left, top, width, height = bounds(mask)
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]


def bounds(mask: Mask) -> list[int]:
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(cols[0])
    return [left, top, int(cols[-1]) + 1 - left, int(rows[-1]) + 1 - top]


def decoded(segmentation: Any) -> Mask:
    from pycocotools import mask as masks

    if isinstance(segmentation, list) or isinstance(segmentation["counts"], list):
        segmentation = masks.frPyObjects(segmentation, *SIZE)
    found = masks.decode(segmentation)
    return np.array(found.any(axis=2) if found.ndim == 3 else found, bool)


def write_json(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1))
    return path


def results(form: Callable[[Mask], Any], **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image,
            "category_id": 3,
            "bbox": [float(value) for value in bounds(mask)],
            "score": 0.1 + place / 10,
            "segmentation": form(mask),
            "extra": {"kept": ["as", "it", None]},
            **{key: value(image) for key, value in more.items()},
        }
        for image, masks in FOUND.items()
        for place, mask in enumerate(masks)
    ]


def write_results(folder: Path, form: Callable[[Mask], Any] = compressed) -> Path:
    """As Detectron2 and Ultralytics do."""
    names = {"file_name": lambda image: f"val/{IMAGES[image]}.jpg"}
    return write_json(folder / "x.json", results(form, **names))


def write_dataset(folder: Path) -> Path:
    annotations: list[dict[str, Any]] = [
        {**item, "id": number, "area": int(decoded(item["segmentation"]).sum()), "iscrowd": 0}
        for number, item in enumerate(results(compressed), 1)
    ]
    images = [
        {"id": image, "file_name": f"{stem}.jpg", "height": SIZE[0], "width": SIZE[1]}
        for image, stem in IMAGES.items()
    ]
    categories = [{"id": 3, "name": "thing"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    return write_json(folder / "x.json", document)


def sam_list() -> list[dict[str, Any]]:
    return [
        {
            "segmentation": form(mask),
            "area": int(mask.sum()),
            "bbox": bounds(mask),
            "predicted_iou": 0.9,
        }
        for mask, form in zip(FOUND[7], (plain, compressed, plain), strict=True)
    ]


def write_sam(folder: Path) -> Path:
    return write_json(folder / "a.json", sam_list())


def write_sa1b(folder: Path) -> Path:
    image = {"image_id": 7, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}
    return write_json(folder / "sa_7.json", {"image": image, "annotations": sam_list()})


def write_ultralytics(folder: Path) -> Path:
    items = []
    for mask in FOUND[7]:
        (polygon,) = polygons(mask)
        left, top, width, height = bounds(mask)
        items.append(
            {
                "name": "cat",
                "class": 15,
                "confidence": 0.77,
                "box": {"x1": left - 0.4, "y1": top, "x2": left + width, "y2": top + height},
                "segments": {"x": polygon[::2], "y": polygon[1::2]},
            }
        )
    return write_json(folder / "a.json", items)


KINDS: dict[str, Callable[[Path], Path]] = {
    "compressed": write_results,
    "plain": lambda folder: write_results(folder, plain),
    "polygons": lambda folder: write_results(folder, polygons),
    "dataset": write_dataset,
    "sam": write_sam,
    "sa1b": write_sa1b,
    "ultralytics": write_ultralytics,
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def items_of(path: Path) -> list[dict[str, Any]]:
    document = json.loads(path.read_text())
    found: list[dict[str, Any]] = (
        document if isinstance(document, list) else document["annotations"]
    )
    return found


def masks_of(path: Path) -> list[Mask]:
    found = []
    for item in items_of(path):
        if "segmentation" in item:
            found.append(decoded(item["segmentation"]))
        else:
            points = zip(item["segments"]["x"], item["segments"]["y"], strict=True)
            found.append(decoded([[value for point in points for value in point]]))
    return found


def out_of(path: Path) -> Path:
    return Path("refined", path.name)
