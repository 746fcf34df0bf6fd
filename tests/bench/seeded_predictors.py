"""Label maps of networks that are told where the regions' cores are: predictions of any set.

    python -m tests.bench.seeded_predictors --data SET/train --data OTHER/train --out DIR

Region labels (ADE20K, BSDS500) mean nothing across images, so that no network predicts them from
the photograph alone. One that also sees a region's core, and those of the others, does: its label
maps have the right regions and a network's boundaries. Each half of the photographs is predicted
by a network trained on the other half, on all sets together: `OUT/NETWORK/SET/STEM.png`. How deep
the cores lie and what share of them is hidden differs from photograph to photograph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import numpy.typing as npt
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor, nn

from segfix.training.encoders import EncoderConv2d
from tests.bench.coarse_predictors import (
    BATCH,
    VOID,
    augment,
    normalise,
    on_lite,
    optimize,
    write_label_map,
)
from tests.bench.stand_in_predictors import Labels, find_core

DEPTH = (2, 16)  # pixels between a boundary and the cores beside it
HIDDEN = (0, 0.5)  # share of the area without cores
BLOB = 20  # standard deviation of what hides them
STRIDES = (2, 4, 8)  # of the logits, which are enlarged
NETWORKS = {"unet": (smp.Unet, 1), "fpn": (smp.FPN, 2)}
Mask = npt.NDArray[np.bool_]


def build(name: str) -> nn.Module:
    """On EfficientNet-Lite0, its first convolution seeing two more channels: the cores."""
    kind, reduction = NETWORKS[name]
    network: Any = on_lite(kind, reduction, 1)
    encoder = network.network.encoder.model
    old = encoder.conv_stem
    stem = EncoderConv2d(5, old.out_channels, old.kernel_size, old.stride, bias=False)
    with torch.no_grad():
        stem.weight.mul_(0.1)
        stem.weight[:, :3] = old.weight
    encoder.conv_stem = stem
    return cast(nn.Module, network)


def visible(shape: tuple[int, int], rng: np.random.Generator) -> Mask:
    """Where cores are told: blobs hide a share of them."""
    field = ndimage.gaussian_filter(rng.normal(size=shape), BLOB)
    return np.asarray(field >= np.quantile(field, rng.uniform(*HIDDEN)))


def sample(path: Path, rng: np.random.Generator) -> tuple[Tensor, Tensor] | None:
    """One region of a random crop: (5, H, W) pixels and cores, (H, W) 0, 1 or void."""
    with Image.open(path) as image, Image.open(label_path(path)) as labels:
        pixels, ids = augment((image.convert("RGB"), labels), rng)
    found, counts = np.unique(ids.numpy(), return_counts=True)
    found = found[(found != VOID) & (counts >= 100)]
    if len(found) < 2:
        return None
    truth = ids.numpy() == rng.choice(found)
    known, depth = ids.numpy() != VOID, rng.uniform(*DEPTH)
    seen = visible(truth.shape, rng)
    cores = np.stack([find_core(truth, depth) & seen, find_core(known & ~truth, depth) & seen])
    target = torch.from_numpy(np.where(known, truth, VOID).astype(np.int64))
    return torch.cat([pixels, torch.from_numpy(cores.astype(np.float32))]), target


def label_path(image: Path) -> Path:
    """The label map of a photograph."""
    return image.parent.parent / "labels" / f"{image.stem}.png"


def train(network: nn.Module, paths: list[Path], steps: int, seed: int) -> None:
    """Train in place with binary cross-entropy without void."""
    rng = np.random.default_rng(seed)

    def draw() -> list[tuple[Tensor, Tensor]]:
        found: list[tuple[Tensor, Tensor]] = []
        while len(found) < BATCH:
            if one := sample(paths[rng.integers(len(paths))], rng):
                found.append(one)
        return found

    def loss_of(logits: Tensor, target: Tensor) -> Tensor:
        known = target != VOID
        return F.binary_cross_entropy_with_logits(logits[:, 0][known], (target[known] == 1).float())

    optimize(network, draw, loss_of, steps)


@torch.inference_mode()
def predict(network: nn.Module, path: Path, seed: int) -> Labels:
    """Each region's logits from its core and those of the others; the largest wins.

    They are averaged over cells of a random stride first: each pixel's for itself are noise where
    no core is near.
    """
    with Image.open(path) as image, Image.open(label_path(path)) as labels:
        pixels = normalise(np.asarray(image.convert("RGB"), np.float32) / 255)
        ids = np.asarray(labels)
    rng = np.random.default_rng(seed)
    seen, depth, stride = visible(ids.shape, rng), rng.uniform(*DEPTH), int(rng.choice(STRIDES))
    regions = [k for k in np.unique(ids) if k != VOID]
    cores = [torch.from_numpy(find_core(ids == k, depth) & seen).float() for k in regions]
    union = torch.stack(cores).amax(0)
    best, label_map = torch.full(ids.shape, -torch.inf), torch.zeros(ids.shape, dtype=torch.uint8)
    for k, own in zip(regions, cores, strict=True):
        inputs = torch.cat([pixels, own[None], (union - own)[None]])[None]
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(inputs.contiguous(memory_format=torch.channels_last)).float()
        logits = F.avg_pool2d(logits, stride, ceil_mode=True)
        logits = F.interpolate(logits, ids.shape, mode="bilinear")[0, 0]
        label_map[logits > best] = int(k)
        best = best.maximum(logits)
    return label_map.numpy()


@click.command()
@click.option(
    "--data",
    "sets",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    required=True,
    help="Folders of images/ and labels/.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--network", "name", type=click.Choice(list(NETWORKS)), default="unet")
@click.option("--steps", type=click.IntRange(1), default=600)
@click.option("--limit", type=click.IntRange(1), default=200, help="Photographs of each set.")
def main(sets: tuple[Path, ...], out: Path, name: str, steps: int, limit: int) -> None:
    """Train two networks, and write what each predicts on the other's photographs."""
    torch.set_num_threads(1)
    halves: tuple[list[Path], list[Path]] = ([], [])
    for folder in sets:
        paths = sorted((folder / "images").iterdir())
        paths = paths[:: max(1, len(paths) // limit)]
        # Neighbouring frames of a video stay in one half.
        halves[0].extend(paths[: len(paths) // 2])
        halves[1].extend(paths[len(paths) // 2 :])
    for seed, (own, other) in enumerate((halves, halves[::-1])):
        torch.manual_seed(seed)
        network, weights = build(name), out / name / f"{seed}.safetensors"
        if weights.exists():
            network.load_state_dict(load_file(weights))
        else:
            train(network, own, steps, seed)
            weights.parent.mkdir(parents=True, exist_ok=True)
            save_file({k: v.contiguous() for k, v in network.state_dict().items()}, weights)
        network.eval().to(memory_format=torch.channels_last)
        order = np.random.default_rng(seed).permutation(len(other))
        for place in order:
            path = other[place]
            target = out / name / path.parent.parent.parent.name / f"{path.stem}.png"
            if not target.exists():
                write_label_map(target, predict(network, path, int(place)))


if __name__ == "__main__":
    main()
