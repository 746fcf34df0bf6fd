"""The SegFix network: an HRNet of timm with a boundary head and a direction head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segfix.errors import FileFormatError, SegfixError
from segfix.training.checkpoints import read_checkpoint
from segfix.training.encoders import load_encoder
from segfix.training.heads import HEAD_CHANNELS, DetailHead, head, resize_maps
from segfix.training.hrnet2x import HRNet2x
from segfix.training.hrnet_lite import ENCODERS, ConditionedSegFixNet

WIDTHS_2X = {"hrnet_w18_2x": 18, "hrnet_w20_2x": 20}
HRNETS = (
    *("hrnet_w18_small", "hrnet_w18", "hrnet_w32", "hrnet_w48"),
    *("hrnet_w18_small_2x", *WIDTHS_2X),
)
BACKBONES = (*HRNETS, *ENCODERS)
GROWN_FROM = {"hrnet_w18_small_2x": "hrnet_w18_small"}
"""Networks that are another one with a `DetailHead` added, and start from its weights."""
KEPT_METADATA = (
    "backbone",
    "num_directions",
    "boundary_width",
    "mean",
    "std",
    "data",
    "step",
    "scores",
)
STRIDE = 32
"""Height and width of the network's input must be multiples of this."""


class SegFixNet(nn.Module):
    """HRNet branches at strides 4 to 32, upsampled to stride 4 and concatenated, and two heads.

    Args:
        backbone: One of `HRNETS`: timm name of an HRNet; `hrnet_w18_2x`, `hrnet_w20_2x`, with
            a branch and the heads at stride 2; `hrnet_w18_small_2x`, which adds a `DetailHead`
            to `hrnet_w18_small`.
        num_directions: m, one of 4, 8, 16.
        pretrained: Whether timm loads its ImageNet weights (from the network or its cache), or a
            file of weights.
        head_channels: Width of both heads.

    Raises:
        SegfixError: There is no such backbone, or its pretrained weights can't be had.

    Reference:
        Yuan et al., SegFix, ECCV 2020, Section 3.2.
    """

    def __init__(
        self,
        backbone: str = "hrnet_w18_small",
        num_directions: int = 8,
        *,
        pretrained: bool | Path = False,
        head_channels: int = HEAD_CHANNELS,
    ) -> None:
        super().__init__()
        self.backbone, widths = make_backbone(backbone, pretrained=pretrained)
        stem = widths.pop(0) if backbone in GROWN_FROM else 0
        self.boundary_head = head(sum(widths), head_channels, 1)
        self.direction_head = head(sum(widths), head_channels, num_directions)
        self.detail_head = DetailHead(stem, sum(widths), 1 + num_directions) if stem else None

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits at full size.

        Args:
            image: (N, 3, H, W) float, normalised; H and W multiples of 32.

        Returns:
            Boundary logits (N, 1, H, W) and direction logits (N, m, H, W).
        """
        branches = self.backbone(image)
        stem = branches.pop(0) if self.detail_head is not None else None
        size, full = branches[0].shape[-2:], image.shape[-2:]
        features = torch.cat([branches[0], *(resize_maps(b, size) for b in branches[1:])], dim=1)
        boundary = resize_maps(self.boundary_head(features), full)
        direction = resize_maps(self.direction_head(features), full)
        if self.detail_head is None:
            return boundary, direction
        detail = resize_maps(self.detail_head(stem, features), full)
        return boundary + detail[:, :1], direction + detail[:, 1:]


def make_network(
    backbone: str, num_directions: int, *, pretrained: bool | Path = False
) -> SegFixNet | ConditionedSegFixNet:
    """Make the network of a backbone, one of `BACKBONES`; see its class.

    Raises:
        SegfixError: There is no such backbone, or its pretrained weights can't be had.
    """
    if backbone not in BACKBONES:
        raise SegfixError(f"backbone {backbone!r}: expected one of {', '.join(BACKBONES)}.")
    network = ConditionedSegFixNet if backbone in ENCODERS else SegFixNet
    return network(backbone, num_directions, pretrained=pretrained)


def make_backbone(name: str, *, pretrained: bool | Path) -> tuple[nn.Module, list[int]]:
    """Make an HRNet; list the channels of its branches, finest first, the stem's among them."""
    if name not in HRNETS:
        raise SegfixError(f"backbone {name!r}: expected one of {', '.join(HRNETS)}.")
    if name in WIDTHS_2X:
        if pretrained:
            raise SegfixError(f"timm has no ImageNet weights for {name}: train --from-scratch.")
        network = HRNet2x(WIDTHS_2X[name])
        return network, network.channels
    timm_name = GROWN_FROM.get(name, name)
    try:
        module: Any = timm.create_model(
            timm_name,
            pretrained=pretrained is True,
            features_only=True,
            feature_location="",
            out_indices=(0, 1, 2, 3, 4) if name in GROWN_FROM else (1, 2, 3, 4),
        )
    except Exception as error:
        if not pretrained:
            raise
        raise SegfixError(
            f"timm can't load ImageNet weights for {timm_name} ({type(error).__name__}): they "
            "are downloaded once; go online, or train without --pretrained."
        ) from error
    if isinstance(pretrained, Path):
        load_encoder(module, timm_name, pretrained)
    return module, module.feature_info.channels()


def read_normalization(network: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Read mean and standard deviation of RGB in [0, 1] that the backbone expects."""
    config = cast(Any, network.backbone).default_cfg
    return cast(tuple[float, ...], config["mean"]), cast(tuple[float, ...], config["std"])


def normalize_image(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn (N, 3, H, W) uint8 RGB into the floats that a backbone expects."""
    shift, factor = (image.new_tensor(v, dtype=torch.float32)[:, None, None] for v in (mean, std))
    return ((image.float() / 255 - shift) / factor).contiguous(memory_format=torch.channels_last)


def pad_to_stride(image: Tensor) -> Tensor:
    """Pad (N, C, H, W) to multiples of `STRIDE`: the last row and column go on."""
    rows, cols = ((size + STRIDE - 1) // STRIDE * STRIDE - size for size in image.shape[-2:])
    return F.pad(image, (0, cols, 0, rows), mode="replicate")


def start_from(network: nn.Module, backbone: str, num_directions: int, checkpoint: Path) -> None:
    """Give a network the weights of a checkpoint of the same network, or of what it grew from.

    Args:
        network: Its parameters that the checkpoint lacks stay as they are.
        backbone: Of the network.
        num_directions: Of the network.
        checkpoint: `model.safetensors` of a training.

    Raises:
        SegfixError: The checkpoint is of another network.
    """
    start, described = load_checkpoint(checkpoint)
    fitting = (backbone, GROWN_FROM.get(backbone))
    if described["backbone"] not in fitting or described["num_directions"] != num_directions:
        raise SegfixError(
            f"{checkpoint}: {described['backbone']} with {described['num_directions']} "
            "directions; train the same network, or without --init."
        )
    network.load_state_dict({**network.state_dict(), **start.state_dict()})


def load_checkpoint(path: Path) -> tuple[SegFixNet | ConditionedSegFixNet, dict[str, Any]]:
    """Read `model.safetensors` of a training.

    Returns:
        The network in evaluation mode, and what the training wrote about it.

    Raises:
        FileFormatError: The file is not a checkpoint of ours, or its weights don't fit.
    """
    weights, metadata = read_checkpoint(path, "segfix", KEPT_METADATA)
    try:
        network = make_network(metadata["backbone"], metadata["num_directions"])
    except SegfixError as error:
        raise FileFormatError(f"{path}: {error}") from error
    try:
        network.load_state_dict({name: value.float() for name, value in weights.items()})
    except RuntimeError as error:
        raise FileFormatError(f"{path}: its weights don't fit {metadata['backbone']}.") from error
    return network.eval(), metadata
