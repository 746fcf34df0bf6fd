"""What `segfix predict-offsets --max-side` costs: photographs reduced before the network sees them.

    python -m tests.bench.scale_input --images DIR --labels DIR --preds NAME=DIR --work DIR

Photographs at 1, 3/4 and 1/2 of their size, `hrnet_w18_small` and its 8-bit twin: what mIoU and
boundary F at 1 px gain by the default step, and CPU seconds of one thread (decoding, network,
writing): the mean over the photographs, and of one that was enlarged to 2048×1024, the least of
five. --variants measures other ways instead, with the first: photographs enlarged by 2, a
narrower boundary, and sectors enlarged as vectors. What is in the work folder is not made again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfix.files import Entry, Pair, list_entries, pair_entries
from segfix.formats import IMAGE_SUFFIXES
from segfix.formats.images import Photograph, open_photograph
from segfix.geometry import direction_angles
from segfix.jobs.run import Batch
from segfix.network import offset_model as model_module
from segfix.network.offset_model import OffsetModel
from segfix.network.tiles import enlarge_tile
from segfix.network.weights import find_weights
from segfix.refinement.apply import RefineSettings
from segfix.tasks.predict_offsets import predict_task
from tests.bench.gains import label_maps, make_all, parse_named, refine_pair, score

NETWORKS = ("hrnet_w18_small", "hrnet_w18_small_int8")
SCALES = (1.0, 0.75, 0.5)
KEYS = ("iou", "f_1px")
LARGE = (2048, 1024)


def enlarged(photograph: Photograph, _: int) -> NDArray[np.uint8]:
    """In place of `Photograph.reduced`: (2H, 2W, 3)."""
    height, width = photograph.shape[:2]
    image = Image.fromarray(photograph[:, :])
    return np.asarray(image.resize((2 * width, 2 * height), Image.Resampling.BILINEAR))


def enlarge_vectors(
    maps: tuple[NDArray[np.uint8], ...], *place: Any
) -> Iterator[tuple[Any, list[NDArray[np.uint8]]]]:
    """As `enlarge_tile`, of one tile: sectors as interpolated vectors, as long as they are sure."""
    ((part, (nearest, *probabilities)),) = enlarge_tile(maps, *place)
    sector, _, certainty = maps
    angles = np.deg2rad(direction_angles(8))[sector]
    y, x = (
        np.asarray(
            Image.fromarray((axis * certainty).astype(np.float32)).resize(
                nearest.shape[::-1], Image.Resampling.BILINEAR
            )
        )
        for axis in (np.sin(angles), np.cos(angles))
    )
    sectors = np.rint((np.rad2deg(np.arctan2(y, x)) + 180) / 45) % 8
    yield part, [sectors.astype(np.uint8), *probabilities]


PATCHES = {
    "boundary from 0.6": (model_module, "BOUNDARY_THRESHOLD", 0.6),
    "boundary from 0.8": (model_module, "BOUNDARY_THRESHOLD", 0.8),
    "sectors as vectors": (model_module, "enlarge_tile", enlarge_vectors),
}


def predict_scaled(model: OffsetModel, image: Entry, out: Path, scale: float) -> dict[str, Any]:
    """Predict the offset map of a photograph at so many times its size."""
    with open_photograph(image.path) as photograph:
        longer = max(photograph.shape)
    task = predict_task(model, max_side=max(1, round(scale * longer)))
    return task.do(Pair(image, None), out)


def least_seconds(model: OffsetModel, image: Path, work: Path, scale: float) -> float:
    """CPU seconds of a photograph as large as `LARGE`."""
    path = work / "large.jpg"
    if not path.exists():
        Image.open(image).convert("RGB").resize(LARGE).save(path, quality=92)
    times = []
    for _ in range(5):
        started = time.process_time()
        task = predict_task(model, max_side=round(scale * max(LARGE)))
        task.do(Pair(Entry(path, "large"), None), work / "large", overwrite=True)
        times.append(time.process_time() - started)
    return min(times)


@click.command()
@click.option("--images", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--labels", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--preds", multiple=True, required=True, callback=parse_named, help="NAME=DIR")
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--variants", is_flag=True)
def main(images: Path, labels: Path, preds: dict[str, Path], work: Path, variants: bool) -> None:
    """Measure and print Markdown."""
    truth, photographs = label_maps(labels), list_entries(images, IMAGE_SUFFIXES, what="images")
    stems = {entry.stem for entry in truth}
    photographs = [entry for entry in photographs if entry.stem in stems]
    first = photographs[0].path
    before = {name: score(truth, folder) for name, folder in preds.items()}
    heads = (
        f"{name} {' / '.join(f'{100 * row[key]:.2f}' for key in KEYS)}"
        for name, row in before.items()
    )
    print("| network | seen at |", " | ".join(heads), "| CPU s | at 2048×1024 |")
    print("|---" * (4 + len(preds)) + "|")
    looks: list[tuple[str, float, list[Any]]] = [(f"{scale:g}", scale, []) for scale in SCALES]
    if variants:
        looks = [("2", 0, [(Photograph, "reduced", enlarged)])]
        looks += [
            (f"{scale:g}, {name}", scale, [patch])
            for scale in SCALES[1:]
            for name, patch in PATCHES.items()
        ]
    for network in NETWORKS[: 1 if variants else None]:
        model = OffsetModel(find_weights(network), "cpu", threads=1)
        for name, scale, patches in looks:
            offsets = work / f"{network}-{name}"
            with ExitStack() as stack:
                for patch in patches:
                    stack.enter_context(mock.patch.object(*patch))
                started = time.process_time()
                one = partial(predict_scaled, model, out=offsets, scale=scale)
                make_all(Batch(photographs, one, "image"))
                mean = (time.process_time() - started) / len(photographs)
            large = "" if variants else f"{least_seconds(model, first, work, scale):.2f}"
            cells = []
            for predictor, folder in preds.items():
                out = work / f"{predictor}-{offsets.name}"
                pairs = pair_entries(label_maps(folder), label_maps(offsets))
                settings = RefineSettings()
                make_all(Batch(pairs, partial(refine_pair, out=out, settings=settings), "map"))
                after = score(truth, out)
                gains = (100 * (after[key] - before[predictor][key]) for key in KEYS)
                cells.append(" / ".join(f"{gain:+.2f}" for gain in gains))
            print(
                f"| {network} | {name} | {' | '.join(cells)} | {mean:.3f} | {large} |", flush=True
            )


if __name__ == "__main__":
    main()
