"""Train small segmentation networks and write their label maps: inputs for the benchmarks.

A set is a folder with `images/STEM.jpg` and `labels/STEM.png` (8-bit ids, 255 = void). Example:

    python tests/bench/coarse_predictors.py --train camvid/train --val camvid/val --out runs/coarse

writes `OUT/NETWORK/STEM.png` and `OUT/NETWORK/model.safetensors`. A network whose weights are
there already is not trained again; `--predict IMAGES[=FOLDER]` applies it to other photographs and
writes to `OUT/NETWORK/FOLDER` (without `=FOLDER`, the name of the folder that holds IMAGES).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segfix.training.encoders import load_encoder, replace_convolutions

VOID = 255
STRIDE = 32
BATCH = 4
CROP = (256, 320)  # rows, columns; over the smallest scale it still fits into 360x480
SCALES = (0.75, 1.5)
Sample = tuple[Image.Image, Image.Image]


class Padded(nn.Module):
    """Runs a network at 1/`reduction` of the size, padded to the stride; logits have full size."""

    def __init__(self, network: nn.Module, reduction: int = 1) -> None:
        super().__init__()
        self.network = network
        self.reduction = reduction

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        if self.reduction > 1:
            small = (-(-height // self.reduction), -(-width // self.reduction))
            image = F.interpolate(image, small, mode="bilinear", antialias=True)
        rows, columns = image.shape[-2:]
        padded = F.pad(image, (0, -columns % STRIDE, 0, -rows % STRIDE), mode="replicate")
        logits: Tensor = self.network(padded)[..., :rows, :columns].float()
        if self.reduction > 1:
            logits = F.interpolate(logits, (height, width), mode="bilinear")
        return logits


class FCN16s(nn.Module):
    """Scores at strides 16 and 32, summed and enlarged bilinearly: blobs with soft boundaries."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.encoder: nn.Module = timm.create_model(
            "resnet18", pretrained=False, features_only=True, out_indices=(3, 4)
        )
        self.score16 = nn.Conv2d(256, num_classes, 1)
        self.score32 = nn.Conv2d(512, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        stride16, stride32 = self.encoder(image)
        scores = self.score16(stride16).float()
        context = self.score32(stride32).float()
        scores = scores + F.interpolate(context, scores.shape[-2:], mode="bilinear")
        return F.interpolate(scores, image.shape[-2:], mode="bilinear")


def on_lite(kind: Any, reduction: int, num_classes: int) -> nn.Module:
    """A network on EfficientNet-Lite0 with ImageNet weights: much stronger in as many steps."""
    network = kind("tu-tf_efficientnet_lite0", encoder_weights=None, classes=num_classes)
    load_encoder(network.encoder.model, "tf_efficientnet_lite0")
    replace_convolutions(network.encoder.model)
    return Padded(network, reduction)


# Each network with its default number of steps: about 7, 7 and 20 minutes of one core with bf16
# instructions. `fpn` is weak, `fcn` has blobby boundaries, `unet` is the strong one.
NETWORKS: dict[str, tuple[Callable[[int], nn.Module], int]] = {
    "fpn": (lambda n: Padded(smp.FPN("resnet18", encoder_weights=None, classes=n), 2), 1600),
    "fcn": (lambda n: Padded(FCN16s(n)), 1300),
    "unet": (lambda n: Padded(smp.Unet("resnet18", encoder_weights=None, classes=n)), 1700),
    "lite": (partial(on_lite, smp.Unet, 1), 1200),
    "litefpn": (partial(on_lite, smp.FPN, 2), 600),
}


def read_set(folder: Path) -> Iterator[tuple[str, Sample]]:
    """Yields the stem, RGB image and label map of each photograph of a set, sorted by name."""
    for path in sorted((folder / "images").iterdir()):
        labels = folder / "labels" / f"{path.stem}.png"
        with Image.open(path) as image, Image.open(labels) as label_map:
            yield path.stem, (image.convert("RGB"), label_map.copy())


def augment(sample: Sample, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Returns a random rescaled, flipped, jittered crop: (3, H, W) pixels and (H, W) ids."""
    image, label_map = sample
    scale = np.exp(rng.uniform(*np.log(SCALES)))
    height, width = min(CROP[0] / scale, image.height), min(CROP[1] / scale, image.width)
    top, left = rng.uniform(0, image.height - height), rng.uniform(0, image.width - width)
    box = (left, top, left + width, top + height)
    crop = image.resize(CROP[::-1], Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(crop, np.float32) / 255
    ids = np.asarray(label_map.resize(CROP[::-1], Image.Resampling.NEAREST, box=box), np.int64)
    if rng.random() < 0.5:
        pixels, ids = pixels[:, ::-1], ids[:, ::-1]
    saturation, contrast = rng.uniform(0.6, 1.4, 2)
    tint = rng.uniform(-0.15, 0.15) + rng.uniform(-0.04, 0.04, 3)
    grey, mean = pixels.mean(axis=2, keepdims=True), pixels.mean()
    pixels = ((pixels - grey) * saturation + grey - mean) * contrast + mean + tint
    return normalise(pixels), torch.from_numpy(ids.copy())


def normalise(pixels: npt.NDArray[Any]) -> Tensor:
    """Maps (H, W, 3) values in 0..1 to a (3, H, W) float32 tensor about zero."""
    centred = (np.clip(pixels, 0, 1).astype(np.float32) - 0.45) / 0.25
    return torch.from_numpy(centred).permute(2, 0, 1)


def class_weights(samples: list[Sample], num_classes: int) -> Tensor:
    """Returns (C,) weights, inverse square roots of the classes' shares: rare ones count too."""
    ids = np.concatenate([np.asarray(label_map).ravel() for _, label_map in samples])
    counts = np.bincount(ids, minlength=num_classes)[:num_classes]
    shares = np.maximum(counts / counts.sum(), 1e-3)
    return torch.tensor(shares**-0.5 / np.sum(shares**0.5), dtype=torch.float32)


def train(
    network: nn.Module, samples: list[Sample], weights: Tensor, steps: int, seed: int
) -> None:
    """Trains in place with cross entropy without void."""
    rng = np.random.default_rng(seed)
    order: list[int] = []

    def draw() -> list[tuple[Tensor, Tensor]]:
        nonlocal order
        if len(order) < BATCH:
            order.extend(rng.permutation(len(samples)).tolist())
        chosen, order = order[:BATCH], order[BATCH:]
        return [augment(samples[i], rng) for i in chosen]

    optimize(
        network,
        draw,
        lambda logits, target: F.cross_entropy(logits, target, weights, ignore_index=VOID),
        steps,
    )


def optimize(
    network: nn.Module,
    draw: Callable[[], list[tuple[Tensor, Tensor]]],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    steps: int,
) -> None:
    """Trains in place: AdamW on a one-cycle schedule, bf16.

    Args:
        network: Gives logits.
        draw: Draws a batch: inputs and targets of each sample.
        loss_of: Loss of the logits and the targets of a batch.
        steps: How many.
    """
    network.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-3, total_steps=steps, pct_start=0.1
    )
    start, total = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        inputs, target = (torch.stack(parts) for parts in zip(*draw(), strict=True))
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(inputs.contiguous(memory_format=torch.channels_last))
        loss = loss_of(logits, target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        total += loss.item()
        if step % 50 == 0:
            seconds = time.monotonic() - start
            click.echo(f"step {step}/{steps} loss {total / 50:.3f} {seconds:.0f} s")
            total = 0.0


@torch.inference_mode()
def predict(network: nn.Module, image: Image.Image) -> npt.NDArray[np.uint8]:
    """Returns the (H, W) class ids of a whole photograph."""
    pixels = normalise(np.asarray(image.convert("RGB"), np.float32) / 255)
    with torch.autocast("cpu", torch.bfloat16):
        logits: Tensor = network(pixels[None].contiguous(memory_format=torch.channels_last))
    return logits[0].argmax(0).to(torch.uint8).numpy()


def write_label_map(path: Path, label_map: npt.NDArray[np.uint8]) -> None:
    """Writes a PNG that is either whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".png.partial")
    Image.fromarray(label_map).save(partial, format="PNG")
    partial.replace(path)


def class_iou(confusion: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Returns the IoU of each class that occurs in the labels, from (C, C) counts, labels first."""
    truth, hit = confusion.sum(axis=1), np.diag(confusion)
    iou = hit / np.maximum(truth + confusion.sum(axis=0) - hit, 1)
    return np.asarray(iou[truth > 0], np.float64)


def validate(
    network: nn.Module, folder: Path, out: Path, num_classes: int
) -> npt.NDArray[np.float64]:
    """Writes the label maps of a set; returns the IoU of its classes, from counts over the set."""
    confusion = np.zeros((num_classes, num_classes), np.int64)
    for stem, (image, truth) in read_set(folder):
        label_map, target = predict(network, image), np.asarray(truth, np.int64)
        write_label_map(out / f"{stem}.png", label_map)
        pairs = (target * num_classes + label_map)[target != VOID]
        confusion += np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    return class_iou(confusion)


@click.command()
@click.option(
    "--train", "train_set", type=click.Path(exists=True, path_type=Path), help="Set to train on."
)
@click.option(
    "--val",
    "val_set",
    type=click.Path(exists=True, path_type=Path),
    help="Set to predict and measure.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for weights and label maps.",
)
@click.option(
    "--network", "names", type=click.Choice(list(NETWORKS)), multiple=True, help="Default: all."
)
@click.option(
    "--predict",
    "others",
    multiple=True,
    metavar="IMAGES[=FOLDER]",
    help="Photographs to predict as well.",
)
@click.option(
    "--steps", type=click.IntRange(1), help="Training steps, instead of each network's default."
)
@click.option(
    "--init",
    type=click.Path(exists=True, path_type=Path),
    help="Start from these weights, where they have the same shape.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of weights and augmentation."
)
def main(
    train_set: Path | None,
    val_set: Path | None,
    out: Path,
    names: tuple[str, ...],
    others: tuple[str, ...],
    steps: int | None,
    init: Path | None,
    seed: int,
) -> None:
    """Train coarse segmentation networks and write the label maps they predict."""
    torch.set_num_threads(1)
    for name in names or tuple(NETWORKS):
        build, default_steps = NETWORKS[name]
        weights_file = out / name / "model.safetensors"
        if weights_file.exists():
            with safe_open(weights_file, "pt") as stored:
                num_classes = int(stored.metadata()["num_classes"])
            network = build(num_classes)
            network.load_state_dict(load_file(weights_file))
        elif train_set is None:
            raise click.UsageError(f"{weights_file} does not exist: give --train to make it.")
        else:
            samples = [sample for _, sample in read_set(train_set)]
            ids = {value for _, label_map in samples for value in np.unique(np.asarray(label_map))}
            num_classes = int(max(ids - {VOID})) + 1
            torch.manual_seed(seed)
            network = build(num_classes)
            if init is not None:
                own, found = network.state_dict(), load_file(init)
                own.update({k: v for k, v in found.items() if v.shape == own[k].shape})
                network.load_state_dict(own)
            start = time.monotonic()
            train(
                network, samples, class_weights(samples, num_classes), steps or default_steps, seed
            )
            click.echo(f"{name}: trained in {time.monotonic() - start:.0f} s")
            weights_file.parent.mkdir(parents=True, exist_ok=True)
            state = {key: value.contiguous() for key, value in network.state_dict().items()}
            save_file(state, weights_file, {"num_classes": str(num_classes)})
        network.eval().to(memory_format=torch.channels_last)
        if val_set is not None:
            iou = validate(network, val_set, out / name, num_classes) * 100
            click.echo(
                f"{name}: mIoU {iou.mean():.2f} ({' '.join(f'{value:.1f}' for value in iou)})"
            )
        for other in others:
            images, _, folder = other.partition("=")
            target = out / name / (folder or Path(images).resolve().parent.name)
            for path in sorted(Path(images).iterdir()):
                with Image.open(path) as image:
                    write_label_map(target / f"{path.stem}.png", predict(network, image))


if __name__ == "__main__":
    main()
