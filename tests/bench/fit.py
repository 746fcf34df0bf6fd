"""Predictions smaller than their photographs: what `segfix refine --fit` makes of them.

    python -m tests.bench.fit --soft DIR --labels DIR --offsets DIR --work DIR

reduces soft predictions (.npy, (C, H, W) probabilities) by 2 and by 4 with the mean of each block,
as many networks give them out, and compares at full size: enlarged alone, `--fit image`, and
`--fit labels` enlarged afterwards; of label maps (the nearest pixel) and of soft predictions.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from segfix.refinement.sizes import resize_linear, resize_nearest


def segfix(*arguments: object) -> str:
    command = [sys.executable, "-c", "import segfix.cli; segfix.cli.main()"]
    return subprocess.run(
        [*command, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def save(folder: Path, stem: str, ids: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids.astype(np.uint8)).save(folder / f"{stem}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("soft", "labels", "offsets", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    for factor in (2, 4):
        work = given.work / str(factor)
        shapes = {}
        for path in sorted(given.soft.glob("*.npy")):
            scores = np.load(path).astype(np.float32)
            shape = scores.shape[1:]
            rows, cols = (length // factor for length in shape)
            blocks = scores[:, : rows * factor, : cols * factor]
            small = blocks.reshape(-1, rows, factor, cols, factor).mean((2, 4))
            for kind in ("soft", "ids"):
                (work / kind).mkdir(parents=True, exist_ok=True)
            np.save(work / "soft" / path.name, small.astype(np.float16))
            ids = small.argmax(0)
            save(work / "ids", path.stem, ids)
            save(work / "ids-enlarged", path.stem, resize_nearest(ids, shape))
            large = resize_linear(np.moveaxis(small, 0, -1), shape)
            save(work / "soft-enlarged", path.stem, large.argmax(2))
            shapes[path.stem] = shape
        for kind, options in (("ids", []), ("soft", ["--argmax"])):
            for fit in ("image", "labels"):
                out = work / f"{kind}-{fit}"
                refine = ["refine", work / kind, "--offsets", given.offsets, "--fit", fit, "-q"]
                segfix(*refine, "-o", out, "--overwrite", *options)
            for stem, shape in shapes.items():
                found = np.array(Image.open(work / f"{kind}-labels" / f"{stem}.png"))
                save(work / f"{kind}-labels-enlarged", stem, resize_nearest(found, shape))
        fits = ("enlarged", "image", "labels-enlarged")
        ways = [f"{kind}-{fit}" for kind in ("ids", "soft") for fit in fits]
        against = [f"--against={way}={work / way}" for way in ways[1:]]
        report = json.loads(
            segfix("evaluate", work / ways[0], given.labels, *against, "--json", "-q")
        )
        for way, name in zip(ways, ["PREDS", *ways[1:]], strict=True):
            mean = report["sets"][name]["mean"]
            print(f"1/{factor} {way:22} {100 * mean['iou']:.2f} {100 * mean['f_1px']:.2f}")


if __name__ == "__main__":
    main()
