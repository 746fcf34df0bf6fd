"""Train a small instance network and write its predictions: real inputs for `segfix fix`.

    python -m tests.bench.instance_network --train camvid/train --val camvid/val \
        --things 6,8,9,10 --init lite/model.safetensors --steps 400 --out OUT
    segfix fix camvid/val/images OUT/preds.json -o OUT/fixed.json
    segfix evaluate OUT/preds.json OUT/labels.json --against OUT/fixed.json --boundary

In the manner of Panoptic-DeepLab: a U-Net on EfficientNet-Lite0 (`coarse_predictors.py`) gives
classes, a map of instances' centres, and each pixel's way to its own. Pixels of things belong to
the centre that is nearest to where they point; the class is that of most of them. The sets have no
labels of instances: connected regions of a class of things are taken for these, here and in
labels.json, of 50 pixels or more (smaller ones are neither hit nor missed). What --out holds is
gone on with: training stops after --seconds, and the same command trains the rest.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from segfix.files import Entry
from tests.bench.coarse_predictors import (
    BATCH,
    NETWORKS,
    VOID,
    Sample,
    augment,
    class_weights,
    normalise,
    read_set,
)
from tests.bench.instances import regions, write_coco

EXTRA = 3
"""Channels behind the classes: centre, and the way there, rows first."""
SIGMA = 6.0
"""Of a centre's bell, pixels."""
WAY = 32.0
"""Pixels that are one unit of the way."""
CENTRES = 4.0
"""Weight of centres, of which most pixels are none, in the loss."""
LEAST = 0.1
"""Of a centre."""
RATE = 1e-3
WARM_UP = 20


def number_things(sample: Sample, things: list[int]) -> Sample:
    """The photograph, and a map of class + 256 · number of the thing."""
    image, label_map = sample
    ids = np.asarray(label_map, np.int32)
    coded = ids.copy()
    for number, (_, mask) in enumerate(regions(ids, things, whole=False), 1):
        coded[mask] += 256 * number
    return image, Image.fromarray(coded)


def find_targets(numbers: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """(H, W) bells around the centres of things, and (2, H, W) ways there."""
    grid: NDArray[Any] = np.indices(numbers.shape)
    rows, cols = grid
    bells, ways = np.zeros(numbers.shape), np.zeros((2, *numbers.shape))
    for number in np.unique(numbers[numbers > 0]):
        mask = numbers == number
        row, col = rows[mask].mean(), cols[mask].mean()
        square = (rows - row) ** 2 + (cols - col) ** 2
        bells = np.maximum(bells, np.exp(-square / (2 * SIGMA**2)))
        ways[:, mask] = (row - rows[mask]) / WAY, (col - cols[mask]) / WAY
    return torch.from_numpy(bells).float(), torch.from_numpy(ways).float()


def train(
    network: nn.Module, samples: list[Sample], weights: Tensor, steps: int, limit: float, file: Path
) -> bool:
    """Train in place, on from the file; return whether all steps are done."""
    network.train().to(memory_format=torch.channels_last)
    # It knows the photographs' kind already; training all takes two thirds longer.
    network.get_submodule("network.encoder").requires_grad_(requires_grad=False).eval()
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-2)
    first = 0
    parts: dict[str, Any] = {"network": network, "optimizer": optimizer}
    if file.exists():
        stored = torch.load(file, weights_only=True)
        first = stored.pop("step")
        for name, part in parts.items():
            part.load_state_dict(stored[name])
    start, step = time.monotonic(), first
    while step < steps and time.monotonic() - start < limit:
        step += 1
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(step / WARM_UP, 1 - (step - 1) / steps)
        rng = np.random.default_rng(step)
        pairs = [augment(samples[k], rng) for k in rng.choice(len(samples), BATCH, replace=False)]
        images = torch.stack([image for image, _ in pairs])
        coded = torch.stack([ids for _, ids in pairs])
        with torch.autocast("cpu", torch.bfloat16):
            found = network(images.contiguous(memory_format=torch.channels_last))
        targets = [find_targets(one.numpy() // 256) for one in coded]
        bells, ways = (torch.stack(list(planes)) for planes in zip(*targets, strict=True))
        losses = (
            F.cross_entropy(found[:, :-EXTRA], coded % 256, weights, ignore_index=VOID),
            CENTRES * (F.mse_loss(found[:, -3], bells, reduction="none") * (1 + 9 * bells)).mean(),
            ((found[:, -2:] - ways).abs().sum(1) * (coded >= 256)).sum()
            / (coded >= 256).sum().clamp(1),
        )
        optimizer.zero_grad()
        sum(losses, torch.zeros(())).backward()
        optimizer.step()
        if step % 10 == 0:
            told = " ".join(f"{loss.item():.3f}" for loss in losses)
            click.echo(f"step {step}/{steps} {told} {time.monotonic() - start:.0f} s")
    state = {name: part.state_dict() for name, part in parts.items()}
    torch.save({"step": step, **state}, file.with_suffix(".partial"))
    file.with_suffix(".partial").replace(file)
    return step >= steps


@torch.inference_mode()
def predict(
    network: nn.Module, image: Image.Image, things: list[int]
) -> list[tuple[int, float, NDArray[np.bool_]]]:
    """Class, score and mask of each thing found."""
    pixels = normalise(np.asarray(image.convert("RGB"), np.float32) / 255)
    with torch.autocast("cpu", torch.bfloat16):
        found: Tensor = network(pixels[None].contiguous(memory_format=torch.channels_last))
    soft = found[0, :-EXTRA].softmax(0).numpy()
    heat, ways = found[0, -3], found[0, -2:].numpy() * WAY
    highest = F.max_pool2d(heat[None, None], 7, 1, 3)[0, 0]
    centres = np.argwhere(((heat == highest) & (heat > LEAST)).numpy())
    ids = soft.argmax(0)
    rows, cols = np.nonzero(np.isin(ids, things))
    if not (len(centres) and len(rows)):
        return []
    ends = np.stack([rows, cols], 1) + ways[:, rows, cols].T
    owners = ((ends[:, None] - centres) ** 2).sum(2).argmin(1)
    result = []
    for number, (row, col) in enumerate(centres):
        here = owners == number
        if not here.any():
            continue
        category = int(np.bincount(ids[rows[here], cols[here]]).argmax())
        mask = np.zeros(ids.shape, bool)
        mask[rows[here], cols[here]] = True
        sure = float(soft[category][mask].mean() * heat[row, col].clamp(0, 1))
        result.append((category, sure, mask))
    return result


@click.command()
@click.option("--train", "train_set", type=click.Path(path_type=Path), required=True)
@click.option("--val", "val_set", type=click.Path(path_type=Path), required=True)
@click.option("--things", required=True, help="Class ids, between commas.")
@click.option("--init", type=click.Path(path_type=Path), required=True, help="Of `lite`.")
@click.option("--steps", default=400, show_default=True)
@click.option("--seconds", default=800.0, show_default=True, help="Of training, at once.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(
    train_set: Path,
    val_set: Path,
    things: str,
    init: Path,
    steps: int,
    seconds: float,
    out: Path,
) -> None:
    """Train and predict."""
    from pycocotools import mask as masks

    torch.set_num_threads(1)
    torch.manual_seed(0)
    of_things = [int(one) for one in things.split(",")]
    found = load_file(init)
    head = [name for name in found if name.endswith("segmentation_head.0.bias")]
    classes = len(found[head[0]])
    network = NETWORKS["lite"][0](classes + EXTRA)
    own = network.state_dict()
    for name, value in found.items():
        # The head's channels of classes come first; the others begin anew.
        own[name].view(-1)[: value.numel()] = value.view(-1)
    network.load_state_dict(own)
    out.mkdir(parents=True, exist_ok=True)
    plain = [sample for _, sample in read_set(train_set)]
    samples = [number_things(sample, of_things) for sample in plain]
    weights = class_weights(plain, classes)
    if not train(network, samples, weights, steps, seconds, out / "training.pt"):
        click.echo("more steps to do: run it again")
        return
    network.eval()
    stems, items = [], list[dict[str, Any]]()
    for stem, (image, _) in read_set(val_set):
        stems.append(stem)
        for category, score, mask in predict(network, image, of_things):
            rle = masks.encode(np.asfortranarray(mask, np.uint8))
            segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
            known = {"image_id": len(stems), "file_name": f"{stem}.jpg", "category_id": category}
            items.append({**known, "score": score, "segmentation": segmentation})
    (out / "preds.json").write_text(json.dumps(items))
    truth = [(stem, Entry(val_set / "labels" / f"{stem}.png", stem)) for stem in stems]
    write_coco(out / "labels.json", truth, of_things, whole=False, truth=True)
    click.echo(f"{len(items)} instances on {len(stems)} photographs")


if __name__ == "__main__":
    main()
