"""Objects with curved outlines, some of them crowds, and predictions of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

SIZES = ((90, 120), (64, 200), (30, 40))
CATEGORIES = (1, 2, 3)
CITYSCAPES = {1: 26, 2: 24, 3: 27}
"""Ids of classes there: car, person, truck."""


def segment_map(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.int64]:
    """Smooth regions numbered from 1, and void."""
    smooth = ndimage.gaussian_filter(rng.standard_normal(size), 4)
    levels = np.digitize(smooth, np.quantile(smooth, [0.15, 0.4, 0.6, 0.85]))
    ids = np.zeros(size, np.int64)
    for level in (1, 2, 3, 4):
        parts, _ = ndimage.label(levels == level)
        ids[parts > 0] = parts[parts > 0] + ids.max()
    return ids


def disturbed(rng: np.random.Generator, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Moved by up to two pixels, here and there."""
    shift = ndimage.gaussian_filter(rng.standard_normal((2, *ids.shape)), (0, 6, 6)) * 25
    places = np.indices(ids.shape) + np.rint(np.clip(shift, -2, 2)).astype(int)
    moved: NDArray[np.int64] = ids[tuple(np.clip(places, 0, np.array([[ids.shape]]).T - 1))]
    return moved


def image_pairs(seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """True and predicted segments of a few images."""
    rng = np.random.default_rng(seed)
    pairs = []
    for size in SIZES:
        ids = segment_map(rng, size)
        pairs.append((ids, disturbed(rng, ids)))
    return pairs


def category(segment: int) -> int:
    """Of a segment."""
    return CATEGORIES[segment % len(CATEGORIES)]


def is_crowd(segment: int) -> bool:
    """Whether a true segment is a crowd: one of each category, as on COCO."""
    return segment in (3, 10, 17)


def write_coco(folder: Path, seed: int) -> tuple[Path, Path]:
    """Results and annotations; each object is a segment."""
    from pycocotools import mask as masks

    def encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
        rle = masks.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": rle["size"], "counts": rle["counts"].decode()}

    truth: dict[str, list[Any]] = {"images": [], "annotations": []}
    truth["categories"] = [{"id": k, "name": f"class {k}"} for k in CATEGORIES]
    results = []
    for image, (ids, found) in enumerate(image_pairs(seed), 1):
        truth["images"].append({"id": image, "height": ids.shape[0], "width": ids.shape[1]})
        for segment in (int(k) for k in np.unique(ids) if k):
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image,
                    "category_id": category(segment),
                    "segmentation": encode(ids == segment),
                    "area": int((ids == segment).sum()),
                    "bbox": [0, 0, 1, 1],
                    "iscrowd": int(is_crowd(segment)),
                }
            )
        for segment in (int(k) for k in np.unique(found) if k):
            results.append(
                {
                    "image_id": image,
                    "category_id": category(segment),
                    "segmentation": encode(found == segment),
                    "score": (segment * 37 % 101) / 101,
                }
            )
    preds, labels = folder / "preds.json", folder / "labels.json"
    preds.write_text(json.dumps(results))
    labels.write_text(json.dumps(truth))
    return preds, labels


def write_panoptic(folder: Path, seed: int) -> tuple[Path, Path]:
    """Panoptic files; ids are beyond 255."""
    documents: dict[str, Any] = {"preds": {"annotations": []}, "labels": {"annotations": []}}
    documents["labels"]["categories"] = [
        {"id": k, "name": f"class {k}", "isthing": int(k < 3)} for k in CATEGORIES
    ]
    for image, pair in enumerate(image_pairs(seed), 1):
        for name, ids in zip(("labels", "preds"), pair, strict=True):
            stored = np.where(ids, 1000 + ids, 0)
            rgb = np.stack([stored % 256, stored // 256, 0 * stored], axis=-1).astype(np.uint8)
            (folder / name).mkdir(exist_ok=True)
            Image.fromarray(rgb).save(folder / name / f"{image}.png")
            segments = [
                {
                    "id": 1000 + segment,
                    "category_id": category(segment),
                    "area": int((ids == segment).sum()),
                    "iscrowd": int(name == "labels" and is_crowd(segment)),
                }
                for segment in (int(k) for k in np.unique(ids) if k)
            ]
            documents[name]["annotations"].append(
                {"image_id": image, "file_name": f"{image}.png", "segments_info": segments}
            )
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return folder / "preds.json", folder / "labels.json"


def write_cityscapes(folder: Path, seed: int) -> tuple[Path, Path]:
    """Lists and instance maps of the blobs; crowds are groups, some objects are small."""
    preds, labels = folder / "preds", folder / "labels"
    preds.mkdir()
    labels.mkdir()
    for image, (ids, found) in enumerate(image_pairs(seed), 1):
        truth = np.zeros(ids.shape, np.uint16)
        for segment in (int(k) for k in np.unique(ids) if k):
            kind = CITYSCAPES[category(segment)]
            truth[ids == segment] = kind if is_crowd(segment) else kind * 1000 + segment
        Image.fromarray(truth).save(labels / f"{image}_gtFine_instanceIds.png")
        lines = []
        for segment in (int(k) for k in np.unique(found) if k):
            name = f"{image}_{segment}.png"
            Image.fromarray(((found == segment) * 255).astype(np.uint8)).save(preds / name)
            score = (segment * 37 % 101) / 101
            lines.append(f"{name} {CITYSCAPES[category(segment)]} {score}\n")
        (preds / f"{image}_pred.txt").write_text("".join(lines))
    return preds, labels
