"""ImageNet features of an EfficientNet-Lite, joined by the fusion modules of an HRNet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.models.hrnet import HighResolutionModule
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from segfix.geometry.label_distance import DISTANCE_STEPS, NO_PREDICTION
from segfix.training.encoders import load_encoder, replace_convolutions
from segfix.training.heads import DetailHead, double_size, fold_norm

ENCODERS = {f"hrnet_lite{size}": f"tf_efficientnet_lite{size}" for size in range(3)}
WIDTHS = (16, 32, 64, 128)
"""Channels at strides 4 to 32, as in `hrnet_w18_small`; of multiples of 16 a CPU makes more."""
FUSION_MODULES = 2
BLOCKS = 2
"""Of each branch in each fusion module."""
HIDDEN_CHANNELS = 96
"""Of the hidden layer that all heads share."""
DETAIL_HIDDEN = 32
CONDITION_CHANNELS = 16
DECAYS = (1.5, 6.0, 24.0)
"""Pixels over which the planes of the distance to a change of label fall to 1/e."""


class HRNetLite(nn.Module):
    """EfficientNet-Lite's features at strides 4 to 32, fused; those at stride 2 as they are.

    Args:
        name: A key of `ENCODERS`.
        pretrained: Whether the encoder has its ImageNet weights, or a file of weights, see
            `load_encoder`.
    """

    def __init__(self, name: str, *, pretrained: bool | Path = False) -> None:
        super().__init__()
        encoder = cast(Any, timm.create_model(ENCODERS[name], features_only=True))
        self.encoder, self.default_cfg = encoder, encoder.default_cfg
        if pretrained:
            load_encoder(self.encoder, ENCODERS[name], pretrained)
        replace_convolutions(self.encoder)
        self.stem_channels, *channels = encoder.feature_info.channels()
        self.narrow = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True))
            for a, b in zip(channels, WIDTHS, strict=True)
        )
        self.fusion = nn.Sequential(
            *(
                HighResolutionModule(
                    len(WIDTHS), BasicBlock, (BLOCKS,) * len(WIDTHS), [*WIDTHS], WIDTHS, "SUM"
                )
                for _ in range(FUSION_MODULES)
            )
        )

    def forward(self, image: Tensor, added: Sequence[Tensor] = ()) -> list[Tensor]:
        """Compute features at strides 2 to 32.

        Args:
            image: (N, 3, H, W) float, normalised; H and W multiples of 32.
            added: What is added to the features at strides 2 and 4, before they are fused.

        Returns:
            (N, stem_channels, H/2, W/2), then the branches of `WIDTHS` channels.
        """
        stem, *features = self.encoder(image)
        branches = [narrow(x) for narrow, x in zip(self.narrow, features, strict=True)]
        if added:
            stem, branches[0] = stem + added[0], branches[0] + added[1]
        return [stem, *self.fusion(branches)]


class Condition(nn.Module):
    """What the network is told of the prediction: maps to add to its features; at first nothing.

    Args:
        channels: Of the features at strides 2 and 4.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        width = CONDITION_CHANNELS
        self.fine = nn.Sequential(
            nn.Conv2d(len(DECAYS) + 1, width, 3, 2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.coarse = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, 2, padding=1), nn.ReLU(inplace=True)
        )
        self.added = nn.ModuleList(
            nn.Conv2d(a, b, 1) for a, b in zip((width, 2 * width), channels, strict=True)
        )
        for parameter in self.added.parameters():
            nn.init.zeros_(parameter)

    def forward(self, distance: Tensor) -> list[Tensor]:
        """Turn (N, H, W) uint8 of `segfix.geometry.label_distance` into maps at strides 2 and 4."""
        fine = self.fine(distance_planes(distance).to(next(self.parameters()).dtype))
        return [self.added[0](fine), self.added[1](self.coarse(fine))]


def distance_planes(distance: Tensor) -> Tensor:
    """Compute how near a change of label is, on several scales, and whether one is known.

    Args:
        distance: (N, H, W) uint8 of `segfix.geometry.label_distance`.

    Returns:
        (N, 1 + scales, H, W) float32 in [0, 1]; zeros without a prediction.
    """
    present = (distance != NO_PREDICTION).float()
    pixels = distance.float() / DISTANCE_STEPS
    planes = [present, *(present * (-pixels / decay).exp() for decay in DECAYS)]
    return torch.stack(planes, dim=1)


class ConditionedSegFixNet(nn.Module):
    """A SegFix network that also takes the prediction's boundaries, and says what is wrong there.

    Args:
        backbone: A key of `ENCODERS`.
        num_directions: m, one of 4, 8, 16.
        pretrained: Whether the encoder has its ImageNet weights, or a file of them.

    Raises:
        SegfixError: They can't be had.

    Reference:
        Yuan et al., SegFix, ECCV 2020, Section 3.2; the second input and the third head are ours.
    """

    def __init__(
        self,
        backbone: str = "hrnet_lite0",
        num_directions: int = 8,
        *,
        pretrained: bool | Path = False,
        head_channels: int = HIDDEN_CHANNELS,
    ) -> None:
        super().__init__()
        outputs = 2 + num_directions
        self.backbone = HRNetLite(backbone, pretrained=pretrained)
        stem = self.backbone.stem_channels
        self.condition = Condition((stem, WIDTHS[0]))
        self.hidden = nn.ModuleList(nn.Conv2d(w, head_channels, 1, bias=False) for w in WIDTHS)
        self.head = nn.Sequential(nn.BatchNorm2d(head_channels), nn.ReLU(inplace=True))
        self.logits = nn.Conv2d(head_channels, outputs, 1)
        self.detail_head = DetailHead(stem, head_channels, outputs, hidden=DETAIL_HIDDEN)

    def forward(
        self, image: Tensor, distance: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute logits at full size.

        Args:
            image: (N, 3, H, W) float, normalised; H and W multiples of 32.
            distance: (N, H, W) uint8 of `segfix.geometry.label_distance`; None: no prediction.

        Returns:
            Boundary logits (N, 1, H, W), direction logits (N, m, H, W), and logits (N, 1, H, W)
            that a pixel's own label in the prediction is wrong.
        """
        if distance is None:
            size = (len(image), *image.shape[-2:])
            distance = image.new_full(size, NO_PREDICTION, dtype=torch.uint8)
        stem, *branches = self.backbone(image, self.condition(distance))
        # A 1×1 convolution of all branches together: it commutes with upsampling.
        hidden = self.hidden[-1](branches[-1])
        for layer, branch in zip(reversed(self.hidden[:-1]), reversed(branches[:-1]), strict=True):
            hidden = layer(branch) + double_size(hidden)
        hidden = self.head(hidden)
        detail = self.detail_head(stem, hidden)
        logits = double_size(double_size(self.logits(hidden)) + detail)
        return logits[:, :1], logits[:, 1:-1], logits[:, -1:]

    def fold(self) -> None:
        """Put the batch norm behind the sum into what is summed up."""
        self.head[0] = fold_norm([*self.hidden], self.head[0])
