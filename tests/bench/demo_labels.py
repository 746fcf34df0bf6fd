"""Make the demo's coarse label maps with OpenCV's GrabCut on photographs shrunk eightfold.

pip install opencv-python-headless
python tests/bench/demo_labels.py segfix/demo
"""

from __future__ import annotations

from pathlib import Path

import click
import cv2
import numpy as np
from PIL import Image

SHRINK = 8
# Rectangles around the object, as shares of width and height: x0, y0, x1, y1.
RECTANGLES = {
    "coffee": (0.10, 0.02, 0.82, 0.99),
    "flower": (0.24, 0.17, 0.71, 0.86),
}


@click.command()
@click.argument("demo", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(demo: Path) -> None:
    """Write DEMO/preds/STEM.png (1 object, 0 background) for the photographs in DEMO/images."""
    for stem, (x0, y0, x1, y1) in RECTANGLES.items():
        photograph = Image.open(demo / "images" / f"{stem}.jpg").convert("RGB")
        width, height = (length // SHRINK for length in photograph.size)
        small = np.array(photograph.resize((width, height), Image.Resampling.BOX))[..., ::-1]
        labels = np.zeros((height, width), np.uint8)
        rectangle = (
            round(x0 * width),
            round(y0 * height),
            round((x1 - x0) * width),
            round((y1 - y0) * height),
        )
        cv2.setRNGSeed(0)
        background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(
            np.ascontiguousarray(small),
            labels,
            rectangle,
            background,
            foreground,
            8,
            cv2.GC_INIT_WITH_RECT,
        )
        object_mask = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
        coarse = Image.fromarray(object_mask.astype(np.uint8))
        coarse.resize(photograph.size, Image.Resampling.NEAREST).save(
            demo / "preds" / f"{stem}.png", optimize=True
        )


if __name__ == "__main__":
    main()
