"""Label maps that stand in for predictions, made from ground truth: strong ones of several kinds.

    python tests/bench/stand_in_predictors.py --images DIR --labels DIR --out DIR

Region labels (ADE20K, BSDS500) mean nothing across images, so no network can be trained to predict
them; and networks trained in an hour are weak. These maps have the right regions and wrong
boundaries: `superpixels` (each SLIC superpixel takes its most frequent label), `watershed` (the
labels' cores flood the photograph's gradient), `warp1` and `warp2` (the labels moved about by 1 and
2 px, smoothly and at random). They only serve to choose settings; the published tables are
measured on networks' predictions.

    python tests/bench/stand_in_predictors.py … --grown 3 12 --every 2
    python tests/bench/stand_in_predictors.py … --near 0.4 1.4

make one kind alone, to train on: `grown` is like `watershed`, but of every second photograph, and
with cores that begin between 3 and 12 px from a boundary; `near` is like `warp1`, by 0.4 to 1.4 px
and differently smooth.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage
from skimage.filters import sobel
from skimage.segmentation import slic, watershed

from segfix.files import list_entries
from segfix.formats import IMAGE_SUFFIXES, read_image, read_label_map

VOID = 255
SUPERPIXEL = 150  # pixels
CORE = 4  # pixels from a boundary
Labels = npt.NDArray[np.uint8]


def superpixels(image: npt.NDArray[np.uint8], labels: Labels) -> Labels:
    """Each superpixel takes its most frequent label."""
    segments = slic(image, n_segments=labels.size // SUPERPIXEL, compactness=10, start_label=0)
    counts = np.zeros((segments.max() + 1, 256))
    np.add.at(counts, (segments.ravel(), labels.ravel()), 1)
    return np.asarray(counts.argmax(axis=1)[segments], np.uint8)


def find_core(mask: npt.NDArray[np.bool_], depth: float) -> npt.NDArray[np.bool_]:
    """What lies deeper than this; of thin parts their ridge."""
    deep = ndimage.distance_transform_edt(mask)
    parts, count = ndimage.label(mask)
    deepest = np.asarray(ndimage.maximum(deep, parts, np.arange(count + 1)))[parts]
    return np.asarray((deep > depth) | (mask & (deepest <= depth + 1) & (deep >= 0.6 * deepest)))


def flooded(image: npt.NDArray[np.uint8], labels: Labels, core: float = CORE) -> Labels:
    """Cores of the regions, flooding the photograph's gradient; thin ones keep their ridge."""
    seeds = np.zeros(labels.shape, np.int32)
    for k in np.unique(labels):
        seeds[find_core(labels == k, core)] = k + 1
    gradient = sobel(image.mean(axis=2) / 255)  # type: ignore[no-untyped-call]
    return np.asarray(watershed(gradient, seeds) - 1, np.uint8)  # type: ignore[no-untyped-call]


def warped(labels: Labels, pixels: float, seed: int, smoothness: float = 6) -> Labels:
    """Moved by a smooth random field of this standard deviation."""
    rng = np.random.default_rng(seed)
    moved = []
    for axis, there in enumerate(np.indices(labels.shape)):
        field = ndimage.gaussian_filter(rng.normal(size=labels.shape), smoothness)
        found = np.rint(there + field * (pixels / field.std()))
        moved.append(np.clip(found, 0, labels.shape[axis] - 1).astype(int))
    return np.asarray(labels[tuple(moved)])


def without_void(labels: npt.NDArray[Any]) -> Labels:
    """Void takes the nearest label."""
    nearest = ndimage.distance_transform_edt(
        labels == VOID, return_distances=False, return_indices=True
    )
    return np.asarray(labels[tuple(nearest)], np.uint8)


@click.command()
@click.option("--images", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--labels", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--grown", type=(float, float))
@click.option("--near", type=(float, float))
@click.option("--every", default=1)
def main(
    images: Path,
    labels: Path,
    out: Path,
    grown: tuple[float, float] | None,
    near: tuple[float, float] | None,
    every: int,
) -> None:
    """Write OUT/KIND/STEM.png for every photograph."""
    for seed, entry in enumerate(list_entries(images, IMAGE_SUFFIXES, what="images")):
        if seed % every:
            continue
        image = read_image(entry.path)
        truth = without_void(read_label_map(labels / f"{entry.stem}.png").ids())
        rng = np.random.default_rng(seed)
        if grown:
            maps = {"grown": flooded(image, truth, rng.uniform(*grown))}
        elif near:
            pixels, smoothness = rng.uniform(*near), rng.uniform(3, 15)
            maps = {"near": warped(truth, pixels, seed, smoothness)}
        else:
            maps = {
                "superpixels": superpixels(image, truth),
                "watershed": flooded(image, truth),
                "warp1": warped(truth, 1, seed),
                "warp2": warped(truth, 2, seed),
            }
        for kind, label_map in maps.items():
            path = out / kind / f"{entry.stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(label_map).save(path)


if __name__ == "__main__":
    main()
