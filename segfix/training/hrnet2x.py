"""HRNet-2×: an HRNet whose finest branch works at stride 2."""

from __future__ import annotations

from typing import Any, cast

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.hrnet import HighResolutionModule
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

STEM_CHANNELS = 64
BLOCKS = 4
STAGES: tuple[tuple[Any, int], ...] = (
    (Bottleneck, 1),
    (BasicBlock, 1),
    (BasicBlock, 4),
    (BasicBlock, 3),
)
"""Kind of block and number of modules, as in HRNet; each stage has one branch more."""


class HRNet2x(nn.Module):
    """The released HRNet-2×: one convolution of stride 2, then stages of two to five branches.

    Args:
        width: Channels of the branch at stride 2; each further one has twice as many.

    Reference:
        Yuan et al., SegFix, ECCV 2020, Section 3.2.
    """

    default_cfg = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}  # noqa: RUF012

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = convolution(3, STEM_CHANNELS, stride=2)
        self.transitions, self.stages = nn.ModuleList(), nn.ModuleList()
        before = [STEM_CHANNELS]
        for branches, (block, modules) in enumerate(STAGES, start=2):
            first = STEM_CHANNELS // 2 if block is Bottleneck else width
            planes = tuple(first * 2**branch for branch in range(branches))
            channels = [block.expansion * plane for plane in planes]
            kept = [
                nn.Identity() if a == b else convolution(a, b)
                for a, b in zip(before, channels, strict=False)
            ]
            added = convolution(before[-1], channels[-1], stride=2)
            self.transitions.append(nn.ModuleList([*kept, added]))
            blocks = (BLOCKS,) * branches
            self.stages.append(
                nn.Sequential(
                    *(
                        HighResolutionModule(branches, block, blocks, [*channels], planes, "SUM")
                        for _ in range(modules)
                    )
                )
            )
            before = channels
        self.channels = before
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute five branches at strides 2 to 32, of width × 1, 2, 4, 8, 16, of (N, 3, H, W)."""
        branches = [self.stem(image)]
        for transition, stage in zip(cast(Any, self.transitions), self.stages, strict=True):
            sources = [*branches, branches[-1]]
            branches = stage([step(x) for step, x in zip(transition, sources, strict=True)])
        return branches


def convolution(channels: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Make a 3×3 convolution, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
