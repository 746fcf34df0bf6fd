"""The same objects in the files of each format of instances: (image, class, box[, score])."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segfix.errors import SegfixError
from segfix.evaluation import evaluate_instances, is_instance_input

SIZE = (60, 80)
CAR, PERSON, TRUCK, ROAD = 26, 24, 27, 7
Box = tuple[int, int, int, int]
"""Top, left, height, width."""

LEFT, RIGHT = (5, 5, 20, 20), (5, 45, 20, 20)
Write = Callable[..., tuple[Path, Path]]


def mask(box: Box) -> NDArray[np.bool_]:
    top, left, height, width = box
    array = np.zeros(SIZE, bool)
    array[top : top + height, left : left + width] = True
    return array


def polygon(box: Box) -> list[list[int]]:
    top, left, height, width = box
    bottom, right = top + height, left + width
    return [[left, top, right, top, right, bottom, left, bottom]]


def runs(array: NDArray[np.bool_]) -> dict[str, Any]:
    """Run lengths, column after column, starting with the background; not compressed."""
    flat = array.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": list(array.shape), "counts": [0, *counts] if flat[0] else counts}


def compressed(array: NDArray[np.bool_]) -> dict[str, Any]:
    from pycocotools import mask as masks

    rle = masks.encode(np.asfortranarray(array, np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def write_json(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def write_coco(folder: Path, truth: list[Any], found: list[Any], crowds: list[Any] = []) -> Any:  # noqa: B006
    """A result JSON and an annotation JSON. Ids start at 0, as they may."""
    images = {image for image, *_ in [*truth, *found, *crowds]} | {0}
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "segmentation": runs(mask(box)) if crowd else polygon(box),
            "area": box[2] * box[3],
            "iscrowd": int(crowd),
        }
        for number, (image, category, box, crowd) in enumerate(
            [(*item, False) for item in truth] + [(*item, True) for item in crowds]
        )
    ]
    results = [
        {
            "image_id": image,
            "category_id": category,
            "segmentation": compressed(mask(box)),
            "score": score,
        }
        for image, category, box, score in found
    ]
    labels = {
        "images": [{"id": image, "height": SIZE[0], "width": SIZE[1]} for image in sorted(images)],
        "categories": [
            {"id": CAR, "name": "car"},
            {"id": PERSON, "name": "person"},
            {"id": TRUCK, "name": "truck"},
        ],
        "annotations": annotations,
    }
    folder.mkdir(exist_ok=True)
    return write_json(folder / "preds.json", results), write_json(folder / "labels.json", labels)


def stem(image: int) -> str:
    return f"town_000000_{image:06}"


def write_cityscapes(
    folder: Path,
    truth: list[Any],
    found: list[Any],
    crowds: list[Any] = [],  # noqa: B006
) -> Any:
    preds, labels = folder / "preds", folder / "labels"
    (labels / "town").mkdir(parents=True)
    preds.mkdir()
    for image in {image for image, *_ in [*truth, *found, *crowds]} | {0}:
        ids = np.full(SIZE, ROAD, np.uint16)
        for _, category, box in (item for item in crowds if item[0] == image):
            ids[mask(box)] = category
        for number, (_, category, box) in enumerate(item for item in truth if item[0] == image):
            ids[mask(box)] = category * 1000 + number
        Image.fromarray(ids).save(labels / "town" / f"{stem(image)}_gtFine_instanceIds.png")
        lines = []
        for number, (_, category, box, score) in enumerate(
            item for item in found if item[0] == image
        ):
            name = f"{stem(image)}_{number}.png"
            Image.fromarray(mask(box).astype(np.uint8) * 255).save(preds / name)
            lines.append(f"{name} {category} {score}\n")
        (preds / f"{stem(image)}_leftImg8bit_pred.txt").write_text("".join(lines))
    return preds, labels


def write_panoptic(
    folder: Path,
    truth: list[Any],
    found: list[Any],
    crowds: list[Any] = [],  # noqa: B006
) -> Any:
    """Things are cars, persons and trucks; the rest of the truth is void."""
    folder.mkdir(exist_ok=True)
    paths = []
    for name, objects in (("preds", found), ("labels", [*truth, *crowds])):
        (folder / name).mkdir()
        annotations = []
        for image in sorted({image for image, *_ in [*truth, *found, *crowds]} | {0}):
            ids = np.zeros(SIZE, np.int64)
            segments = []
            for number, item in enumerate(objects):
                if item[0] == image:
                    # Beyond 255, so that all three channels matter.
                    ids[mask(item[2])] = 70_000 + number
                    segments.append(
                        {
                            "id": 70_000 + number,
                            "category_id": item[1],
                            "area": item[2][2] * item[2][3],
                            "iscrowd": int(item in crowds),
                        }
                    )
            rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
            Image.fromarray(rgb).save(folder / name / f"{image}.png")
            annotations.append(
                {"image_id": image, "file_name": f"{image}.png", "segments_info": segments}
            )
        document: dict[str, Any] = {"annotations": annotations}
        if name == "labels":
            document["categories"] = [
                {"id": CAR, "name": "car", "isthing": 1},
                {"id": PERSON, "name": "person", "isthing": 1},
                {"id": TRUCK, "name": "truck", "isthing": 1},
                {"id": ROAD, "name": "road", "isthing": 0},
            ]
        paths.append(write_json(folder / f"{name}.json", document))
    return tuple(paths)


FORMATS = {"coco": write_coco, "cityscapes": write_cityscapes, "panoptic": write_panoptic}
every_format = pytest.mark.parametrize("kind", FORMATS)
with_scores = pytest.mark.parametrize("kind", ["coco", "cityscapes"])


def scored(kind: str, folder: Path, *objects: Any) -> dict[str, Any]:
    write: Write = FORMATS[kind]
    preds, labels = write(folder, *objects)
    assert is_instance_input(preds)
    result = evaluate_instances(preds, labels)
    assert result["kind"] == kind
    json.dumps(result, allow_nan=False)
    return result


def fault(preds: Path, labels: Path) -> str:
    with pytest.raises(SegfixError) as caught:
        evaluate_instances(preds, labels)
    text = str(caught.value)
    assert "\n" not in text
    return text


def edited(path: Path, change: Callable[[Any], object]) -> Path:
    document = json.loads(path.read_text())
    change(document)
    return write_json(path, document)
