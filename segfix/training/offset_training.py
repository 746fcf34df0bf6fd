"""Training of the SegFix network on photographs with label maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from segfix.evaluation.checks import check_void_of
from segfix.files import Entry
from segfix.losses import segfix_loss, wrong_label_loss
from segfix.metrics import offset_counts, offset_scores
from segfix.training.crop_targets import OffsetTargets, make_validation_targets
from segfix.training.datasets import CropDataset, find_sources, sum_shares
from segfix.training.hrnet_lite import ConditionedSegFixNet
from segfix.training.layouts import LabelledImage, find_labelled_images
from segfix.training.loop import fit
from segfix.training.offset_networks import (
    make_network,
    normalize_image,
    pad_to_stride,
    read_normalization,
    start_from,
)
from segfix.training.settings import DataFolder, RunSettings, SegFixSettings, describe_settings


def train_segfix(
    data: Sequence[DataFolder],
    out: Path,
    settings: SegFixSettings | None = None,
    *,
    val: Sequence[Path] = (),
    pretrained: bool | Path = False,
    init: Path | None = None,
    run: RunSettings | None = None,
    void_given: bool = False,
) -> dict[str, float]:
    """Train the SegFix network.

    Args:
        data: Folders whose training split is drawn from.
        out: Folder for checkpoint, state and log.
        settings: Network, targets, data and optimisation.
        val: Folders whose validation split is scored on.
        pretrained: Start from the backbone's ImageNet weights, or from a file of weights.
        init: Start from this checkpoint's weights.
        run: See `fit`.
        void_given: Whether the void id is meant even where a data set holds one other id alone.

    Returns:
        Mask F-score and direction accuracy on `val`, in [0, 1]; empty without `val`.

    Raises:
        SegfixError: Data are missing or broken, or `init` is another network.
        ArgumentError: Labels are masks of 0 and 255, of which 255 would be void.
    """
    settings = settings or SegFixSettings()
    crops, optimization = settings.crops, settings.optimization
    instances = settings.instances
    find = partial(find_labelled_images, ignore_index=crops.ignore_index, instances=instances)
    sources = find_sources(data, find)
    held_out = [pair for folder in val for pair in find(folder, "val")]
    if not void_given:
        check_void_ids(*(source.images for source in sources), ignore_index=crops.ignore_index)
    torch.manual_seed(optimization.seed)
    network = make_network(settings.backbone, settings.num_directions, pretrained=pretrained)
    if init is not None:
        start_from(network, settings.backbone, settings.num_directions, init)
    mean, std = read_normalization(network)
    conditioned = isinstance(network, ConditionedSegFixNet)
    predicted = settings.predicted if conditioned else None
    samples = CropDataset(
        sources,
        optimization.steps * optimization.batch_size,
        targets=OffsetTargets(settings.num_directions, settings.boundary_width, predicted),
        crops=crops,
        seed=optimization.seed,
    )
    evaluate = partial(score_offsets, images=held_out, settings=settings, mean=mean, std=std)
    return fit(
        network,
        samples,
        partial(compute_losses, class_weights=settings.class_weights, mean=mean, std=std),
        optimization,
        out,
        metadata=describe_training(settings, data, mean, std, conditioned=conditioned),
        evaluate=evaluate if held_out else None,
        run=run,
    )


def check_void_ids(*sets: Sequence[LabelledImage], ignore_index: int) -> None:
    """Refuse data sets of masks of 0 and 255, see `check_void_of`; the published have their own."""
    for images in sets:
        plain = [Entry(pair.labels, "") for pair in images if pair.void == (ignore_index,)]
        check_void_of(plain, images[0].labels.parent, ignore_index, given=False)


def describe_training(
    settings: SegFixSettings,
    data: Sequence[DataFolder],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    conditioned: bool,
) -> dict[str, Any]:
    """List what a checkpoint tells of its training: all that a resumed one must share."""
    described = {
        "kind": "segfix",
        **describe_settings(settings),
        "mean": list(mean),
        "std": list(std),
        "data": sum_shares(data),
        "tolerances": [folder.tolerance for folder in data],
        "near": [folder.near if folder.near < math.inf else None for folder in data],
    }
    if not conditioned:
        # Nothing that a network without predictions depends on.
        del described["predicted"], described["near"]
    return described


def compute_losses(
    network: nn.Module,
    batch: Mapping[str, Tensor],
    *,
    class_weights: bool,
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, Tensor]:
    """Compute the losses of a batch by name; one more where it holds predictions."""
    image = normalize_image(batch["image"], mean, std)
    seen = [batch["distance"]] if "distance" in batch else []
    boundary, direction, *wrong = network(image, *seen)
    losses = segfix_loss(
        boundary,
        direction,
        batch["boundary"],
        batch["direction"],
        class_weights=class_weights,
        counted=batch["wrong"] == 1 if seen else None,
    )
    named = {"boundary_loss": losses[0], "direction_loss": losses[1]}
    if seen:
        named["wrong_loss"] = wrong_label_loss(wrong[0], batch["wrong"], *seen)
    return named


@torch.inference_mode()
def score_offsets(
    network: nn.Module,
    images: Sequence[LabelledImage],
    settings: SegFixSettings,
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, float]:
    """Compute mask F-score and direction accuracy over whole photographs."""
    device = next(network.parameters()).device
    counts = np.zeros(5, np.int64)
    for pair in images:
        image, labels = pair.read()
        height, width = labels.shape
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(device)
        boundary, direction, *_ = network(pad_to_stride(normalize_image(pixels, mean, std)))
        true_boundary, true_direction = make_validation_targets(
            labels, num_directions=settings.num_directions, boundary_width=settings.boundary_width
        )
        counts += offset_counts(
            (boundary[0, 0, :height, :width] > 0).cpu().numpy(),
            cast(Any, direction[0, :, :height, :width].argmax(0).to(torch.uint8).cpu().numpy()),
            true_boundary,
            true_direction,
        )
    return offset_scores(counts)
