"""Training of SEMEDA's edge network, before the segmentation network that it judges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segfix.errors import SegfixError
from segfix.losses import EdgeNetwork, edge_network_loss
from segfix.training.checkpoints import holds_training, read_checkpoint
from segfix.training.datasets import CropDataset
from segfix.training.layouts import VOID
from segfix.training.loop import fit
from segfix.training.segmentation_losses import EDGE_OPTIONS
from segfix.training.settings import Optimization, RunSettings

EDGE_METADATA = ("num_classes", "step")
EDGE_OPTIMIZATION = Optimization(steps=600, batch_size=6, learning_rate=5e-3, warmup=50, ema=0.99)
"""Its task is easy."""


def train_edge_network(
    path: Path,
    num_classes: int,
    crops: CropDataset,
    settings: Optimization,
    run: RunSettings,
    **options: Any,
) -> None:
    """Train SEMEDA's edge network on label maps, unless its checkpoint is there.

    Args:
        path: Its `model.safetensors`.
        num_classes: C.
        crops: To train on.
        settings: Of its training.
        run: Of the training that it belongs to.
        options: Of `edge_network_loss`.

    Raises:
        SegfixError: The checkpoint is of a training with other options.
    """
    if path.exists():
        found = read_checkpoint(path, "edge", EDGE_METADATA)[1]
        for name, default in EDGE_OPTIONS.items():
            told, wanted = found.get(name, default), options.get(name, default)
            if told != wanted:
                raise SegfixError(
                    f"{path}: was trained with {name}={told}, not {wanted}; remove its folder to "
                    "train another one."
                )
        if found["step"] >= settings.steps:
            return

    def compute_loss(network: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        loss = edge_network_loss(network, batch["target"].long(), ignore_index=VOID, **options)
        return {"edge_loss": loss}

    torch.manual_seed(settings.seed)
    fit(
        EdgeNetwork(num_classes),
        crops,
        compute_loss,
        replace(settings, freeze_norm_from=None),
        path.parent,
        metadata={"kind": "edge", "num_classes": num_classes, **options},
        run=replace(
            run,
            resume=holds_training(path.parent),
            tensorboard=False,
            compile=False,
            until=None,
        ),
    )


def load_edge_network(path: Path, num_classes: int) -> EdgeNetwork:
    """Read SEMEDA's edge network from its checkpoint, frozen.

    Raises:
        SegfixError: The checkpoint is missing, of something else or for other classes.
    """
    weights, metadata = read_checkpoint(path, "edge", EDGE_METADATA)
    if metadata["num_classes"] != num_classes:
        raise SegfixError(
            f"{path}: an edge network for {metadata['num_classes']} classes, but the label maps "
            f"have {num_classes}; remove it, or name another one."
        )
    network = EdgeNetwork(num_classes)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise SegfixError(f"{path}: its weights don't fit SEMEDA's edge network.") from error
    return network.requires_grad_(requires_grad=False).eval()
