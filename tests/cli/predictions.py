"""Instances in files of each kind, and the warning of offset maps made for other predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

WARNING = "made for other predictions, such as that of "


def segmentation(mask: NDArray[np.bool_]) -> dict[str, Any]:
    masks = pytest.importorskip("pycocotools.mask")
    rle = masks.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def write_instances(kind: str, by_stem: dict[str, NDArray[np.bool_]]) -> tuple[object, ...]:
    """Write masks (N, H, W) by photograph; returns PREDS, and options that tell names."""
    Path(kind).mkdir(exist_ok=True)
    items = []
    for number, (stem, masks) in enumerate(by_stem.items()):
        lines = []
        found = [{"image_id": number, "segmentation": segmentation(mask)} for mask in masks]
        items += found
        for place, mask in enumerate(masks):
            if kind == "lists":
                Image.fromarray(mask.astype(np.uint8) * 255).save(f"lists/{stem}_{place}.png")
            lines.append(f"{stem}_{place}.png 26 0.9\n")
        if kind == "lists":
            Path(f"lists/{stem}_pred.txt").write_text("".join(lines))
        elif kind == "sam":
            for item in found:
                del item["image_id"]
            Path(f"sam/{stem}.json").write_text(json.dumps(found))
        elif kind == "masks":
            np.save(f"masks/{stem}.npy", masks)
    if kind != "results":
        return (kind,)
    names = [{"id": n, "file_name": f"{stem}.jpg"} for n, stem in enumerate(by_stem)]
    Path("names.json").write_text(json.dumps({"images": names}))
    Path("results.json").write_text(json.dumps(items))
    return ("results.json", "--annotations", "names.json")
