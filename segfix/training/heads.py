"""What makes logits of a network's features."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from timm.models.resnet import BasicBlock
from torch import Tensor, nn
from torch.nn import functional as F

from segfix.training.hrnet2x import convolution

HEAD_CHANNELS = 256
DETAIL_CHANNELS = 16
DETAIL_HIDDEN = 64
"""Of the branch at stride 2, and of the layer where it meets the other branches."""


class DetailHead(nn.Module):
    """What a branch at stride 2 adds to the logits of the heads at stride 4; at first nothing.

    Heads of the usual width at stride 2 cost as much as the rest of a small network many times
    over; this one is narrow, and leaves those at stride 4 as they are.

    Args:
        stem: Channels at stride 2.
        channels: Of the concatenated branches at stride 4.
        outputs: Logits of all heads.
        hidden: Channels where both meet.

    Reference:
        Yuan et al., SegFix, ECCV 2020, Section 3.2: HRNet-2×, made light.
    """

    def __init__(
        self, stem: int, channels: int, outputs: int, *, hidden: int = DETAIL_HIDDEN
    ) -> None:
        super().__init__()
        width = DETAIL_CHANNELS
        self.branch = nn.Sequential(*convolution(stem, width), BasicBlock(width, width))
        # Together a 1×1 convolution of all branches at stride 2: it commutes with upsampling.
        self.fine = nn.Conv2d(width, hidden, 1, bias=False)
        self.coarse = nn.Conv2d(channels, hidden, 1, bias=False)
        self.logits = nn.Sequential(
            nn.BatchNorm2d(hidden), nn.ReLU(inplace=True), nn.Conv2d(hidden, outputs, 1)
        )
        # So that a network started from weights without this head computes what it did before.
        for parameter in self.logits[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, stem: Tensor, features: Tensor) -> Tensor:
        """Compute (N, outputs, H/2, W/2) of (N, stem, H/2, W/2) and (N, channels, H/4, W/4)."""
        fine = self.fine(self.branch(stem))
        logits: Tensor = self.logits(fine + double_size(self.coarse(features)))
        return logits

    def fold(self) -> None:
        """Put the batch norm behind the sum into what is summed up."""
        self.logits[0] = fold_norm((self.coarse, self.fine), self.logits[0])


def head(channels: int, hidden: int, outputs: int) -> nn.Sequential:
    """Make a 1×1 convolution, batch norm, ReLU and a 1×1 convolution."""
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, outputs, 1),
    )


def fold_norm(summed: Sequence[nn.Module], norm: nn.Module) -> nn.Identity:
    """Give convolutions without bias the factors of a batch norm behind their sum.

    Args:
        summed: The convolutions; the last one gets a bias.
        norm: In evaluation mode.

    Returns:
        What takes the place of `norm`.
    """
    convolutions, norm = cast(Sequence[nn.Conv2d], summed), cast(nn.BatchNorm2d, norm)
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    factor = norm.weight.detach() / (variance + norm.eps).sqrt()
    for layer in convolutions:
        layer.weight.data *= factor[:, None, None, None]
    convolutions[-1].bias = nn.Parameter(norm.bias.detach() - mean * factor)
    return nn.Identity()


def fold_norms(network: nn.Module) -> None:
    """Give convolutions the factors of the batch norms defined right behind them.

    Args:
        network: One whose such convolutions have no bias; changed.
    """
    for module in [*network.modules()]:
        for (_, conv), (name, norm) in pairwise(module.named_children()):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                fold_norm([conv], norm)
                # Those of an EfficientNet are activations, too.
                setattr(module, name, getattr(norm, "act", nn.Identity()))


def double_size(maps: Tensor) -> Tensor:
    """Double the size of (N, C, H, W) maps bilinearly, in the way onnxruntime does fastest."""
    return F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)


def resize_maps(maps: Tensor, size: torch.Size) -> Tensor:
    """Resize (N, C, h, w) maps bilinearly."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
