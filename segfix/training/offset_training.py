"""Training of the SegFix network on photographs with label maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segfix.geometry.targets import BOUNDARY_WIDTH, IGNORE_INDEX
from segfix.losses import segfix_loss, wrong_label_loss
from segfix.metrics import offset_counts, offset_scores
from segfix.training.datasets import (
    Augmentation,
    CropDataset,
    DataFolder,
    OffsetTargets,
    Source,
    data_shares,
    known_targets,
)
from segfix.training.hrnet_lite import ConditionedSegFixNet
from segfix.training.layouts import LabelledImage, find_labelled_images
from segfix.training.loop import Settings, fit
from segfix.training.offset_networks import (
    STRIDE,
    make_network,
    normalization,
    normalized,
    start_from,
)


@dataclass(frozen=True)
class SegFixSettings:
    """What the SegFix network and its targets are.

    Attributes:
        backbone: See `SegFixNet`.
        num_directions: m.
        boundary_width: γ, pixels.
        crop_size: Pixels, a multiple of 32.
        class_weights: See `segfix.losses.segfix_loss`.
        ignore_index: Void id of plain folders; published data sets have their own.
        instances: Whether every instance is a region of its own, by the instance maps.
        ignore_frame: See `CropDataset`.
        scales: See `Augmentation`, as for the rest.
        jitter: Of light and colours.
        brightness: Of 255.
        blur: Share of crops.
        jpeg: Share of crops.
        predicted: Share of crops seen with a prediction, by networks that take one.
    """

    backbone: str = "hrnet_w18_small"
    num_directions: int = 8
    boundary_width: int = BOUNDARY_WIDTH
    crop_size: int = 256
    class_weights: bool = False
    ignore_index: int = IGNORE_INDEX
    instances: bool = False
    ignore_frame: int = 4
    scales: tuple[float, float] = (0.5, 2.0)
    jitter: float = 0.3
    brightness: float = 0.0
    blur: float = 0.2
    jpeg: float = 0.2
    predicted: float = 0.75


def train_segfix(
    data: Sequence[DataFolder],
    out: Path,
    *,
    val: Sequence[Path] = (),
    segfix: SegFixSettings | None = None,
    settings: Settings | None = None,
    pretrained: bool = False,
    init: Path | None = None,
    **options: Any,
) -> dict[str, float]:
    """Train the SegFix network.

    Args:
        data: Folders whose training split is drawn from.
        out: Folder for checkpoint, state and log.
        val: Folders whose validation split is scored on.
        segfix: Network and targets.
        settings: Of the optimisation.
        pretrained: Start from timm's ImageNet weights.
        init: Start from this checkpoint's weights.
        options: Passed on to `fit`.

    Returns:
        Mask F-score and direction accuracy on `val`, in [0, 1]; empty without `val`.

    Raises:
        SegfixError: Data are missing or broken, or `init` is another network.
    """
    segfix, settings = segfix or SegFixSettings(), settings or Settings()

    def find(folder: Path, split: str) -> list[LabelledImage]:
        return find_labelled_images(
            folder, split, ignore_index=segfix.ignore_index, instances=segfix.instances
        )

    sources = [Source(find(d.path, "train"), d.weight, d.tolerance, d.near) for d in data]
    held_out = [pair for folder in val for pair in find(folder, "val")]
    torch.manual_seed(settings.seed)
    network = make_network(segfix.backbone, segfix.num_directions, pretrained=pretrained)
    conditioned = isinstance(network, ConditionedSegFixNet)
    if init is not None:
        start_from(network, segfix.backbone, segfix.num_directions, init)
    mean, std = normalization(network)
    dataset = CropDataset(
        sources,
        settings.steps * settings.batch_size,
        crop_size=segfix.crop_size,
        targets=OffsetTargets(
            segfix.num_directions,
            segfix.boundary_width,
            segfix.predicted if conditioned else None,
        ),
        ignore_frame=segfix.ignore_frame,
        augmentation=Augmentation(
            scales=segfix.scales,
            jitter=segfix.jitter,
            brightness=segfix.brightness,
            blur=segfix.blur,
            jpeg=segfix.jpeg,
        ),
        seed=settings.seed,
    )
    metadata = {
        "kind": "segfix",
        "backbone": segfix.backbone,
        "num_directions": segfix.num_directions,
        "boundary_width": segfix.boundary_width,
        "crop_size": segfix.crop_size,
        "class_weights": segfix.class_weights,
        "ignore_index": segfix.ignore_index,
        "instances": segfix.instances,
        "ignore_frame": segfix.ignore_frame,
        "scales": list(segfix.scales),
        "jitter": segfix.jitter,
        "brightness": segfix.brightness,
        "blur": segfix.blur,
        "jpeg": segfix.jpeg,
        "mean": list(mean),
        "std": list(std),
        "data": data_shares(data),
        "tolerances": [folder.tolerance for folder in data],
    }
    if conditioned:
        metadata["predicted"] = segfix.predicted
        metadata["near"] = [folder.near if folder.near < math.inf else None for folder in data]

    def compute_loss(network: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        image = normalized(batch["image"], mean, std)
        seen = [batch["distance"]] if conditioned else []
        boundary, direction, *wrong = network(image, *seen)
        losses = segfix_loss(
            boundary,
            direction,
            batch["boundary"],
            batch["direction"],
            class_weights=segfix.class_weights,
            counted=batch["wrong"] == 1 if conditioned else None,
        )
        named = {"boundary_loss": losses[0], "direction_loss": losses[1]}
        if conditioned:
            named["wrong_loss"] = wrong_label_loss(wrong[0], batch["wrong"], *seen)
        return named

    def evaluate(network: nn.Module) -> dict[str, float]:
        return score_offsets(network, held_out, segfix, mean, std)

    return fit(
        network,
        dataset,
        compute_loss,
        settings,
        out,
        metadata=metadata,
        evaluate=evaluate if held_out else None,
        **options,
    )


@torch.inference_mode()
def score_offsets(
    network: nn.Module,
    images: Sequence[LabelledImage],
    segfix: SegFixSettings,
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, float]:
    """Mask F-score and direction accuracy over whole photographs."""
    device = next(network.parameters()).device
    counts = np.zeros(5, np.int64)
    for pair in images:
        image, labels = pair.read()
        height, width = labels.shape
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(device)
        padding = (0, -width % STRIDE, 0, -height % STRIDE)
        boundary, direction, *_ = network(
            F.pad(normalized(pixels, mean, std), padding, mode="replicate")
        )
        true_boundary, true_direction = known_targets(
            labels, num_directions=segfix.num_directions, boundary_width=segfix.boundary_width
        )
        counts += offset_counts(
            (boundary[0, 0, :height, :width] > 0).cpu().numpy(),
            cast(Any, direction[0, :, :height, :width].argmax(0).to(torch.uint8).cpu().numpy()),
            true_boundary,
            true_direction,
        )
    return offset_scores(counts)
