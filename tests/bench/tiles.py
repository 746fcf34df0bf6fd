"""Large photographs: how far tiles differ from the whole, and what a picture of any size takes.

    python -m tests.bench.tiles --images DIR             # difference, by margin
    python -m tests.bench.tiles --side 20000 --work DIR  # peak memory of predict-offsets
    python -m tests.bench.tiles --side 20000 --work DIR --max-side 2048

The difference is measured with tiles much smaller than the real ones, in which seams are rarer.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from segfix.files import Entry, Pair, list_entries
from segfix.formats import read_image
from segfix.formats.images import IMAGE_SUFFIXES
from segfix.network import load
from segfix.network.offset_model import BOUNDARY_THRESHOLD
from segfix.network.tiles import tile_boxes
from segfix.tasks.predict_offsets import predict_task

MARGINS = (0, 32, 64, 128, 192)


def difference(images: Path, tile: int) -> None:
    model = load(device="cpu")
    paths = [e.path for e in list_entries(images, IMAGE_SUFFIXES, what="images")]
    counts = dict.fromkeys(MARGINS, np.zeros(4, np.int64))
    for path in paths:
        image = read_image(path)
        height, width, _ = image.shape
        whole = model.predict(image)
        boundary = whole[1] > BOUNDARY_THRESHOLD * 255
        for margin in MARGINS:
            pieces = [np.empty((height, width), np.uint8) for _ in whole]
            for look, keep in tile_boxes(height, width, tile=tile, margin=margin):
                inner = tuple(
                    slice(own.start - seen.start, own.stop - seen.start)
                    for seen, own in zip(look, keep, strict=True)
                )
                part = np.ascontiguousarray(image[look])
                for piece, found in zip(pieces, model.predict(part), strict=True):
                    piece[keep] = found[inner]
            tiled = pieces[1] > BOUNDARY_THRESHOLD * 255
            both = boundary & tiled
            turned = both & (whole[0] != pieces[0])
            counts[margin] = counts[margin] + [
                boundary.size,
                (boundary != tiled).sum(),
                both.sum(),
                turned.sum(),
            ]
    for margin, (pixels, other, shared, turned) in counts.items():
        print(
            f"tile {tile}, margin {margin:3}: boundary differs at {100 * other / pixels:.3f} % of "
            f"{pixels} pixels, sector at {100 * turned / shared:.3f} % of the boundary"
        )


def memory(side: int, work: Path, max_side: int | None, weights: str | None) -> None:
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{side}.jpg"
    Image.MAX_IMAGE_PIXELS = None
    if not path.exists():
        noise = np.random.default_rng(0).integers(0, 256, (side // 50, side // 50, 3), np.uint8)
        Image.fromarray(noise).resize((side, side), Image.Resampling.BILINEAR).save(path)
        print("made the picture; run again to measure")
        return
    model = load(weights, device="cpu")
    model.predict(np.zeros((64, 64, 3), np.uint8))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, cpu = time.perf_counter(), time.process_time()
    pair = Pair(Entry(path, path.stem), None)
    predict_task(model, max_side=max_side).do(pair, work / "offsets", overwrite=True)
    print(
        json.dumps(
            {
                "side": side,
                "max_side": max_side,
                "weights": model.metadata["name"],
                "loaded_mib": before >> 10,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
                "seconds": round(time.perf_counter() - started, 1),
                "cpu_seconds": round(time.process_time() - cpu, 1),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--side", type=int)
    parser.add_argument("--max-side", type=int)
    parser.add_argument("--weights")
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    if given.images:
        difference(given.images, given.tile)
    elif given.side and given.work:
        memory(given.side, given.work, given.max_side, given.weights)
    else:
        sys.exit("give --images, or --side and --work")


if __name__ == "__main__":
    main()
