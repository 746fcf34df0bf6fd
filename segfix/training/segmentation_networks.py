"""Segmentation networks: those of segmentation-models-pytorch, FCN, DeepLab-LargeFOV and HRNet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from segfix.errors import FileFormatError, SegfixError
from segfix.training.checkpoints import read_checkpoint
from segfix.training.encoders import PACKAGED, load_encoder, replace_convolutions
from segfix.training.heads import HEAD_CHANNELS, head, resize_maps
from segfix.training.offset_networks import make_backbone, pad_to_stride

LARGE_FOV_CHANNELS, LARGE_FOV_DILATION = 1024, 12
SEGMENTER_METADATA = ("network", "backbone", "class_ids", "mean", "std", "data", "step", "scores")


class Segmenter(nn.Module):
    """A segmentation network for pictures of any size.

    Args:
        name: One of `NETWORKS`.
        backbone: Name of a timm backbone; for "hrnet" one of `offset_networks.HRNETS`.
        num_classes: C.
        pretrained: Whether the backbone has its ImageNet weights, or a file of weights, see
            `load_encoder`.

    Raises:
        SegfixError: There is no such network or backbone, they don't go together, or the
            pretrained weights can't be had.
    """

    def __init__(
        self,
        name: str,
        backbone: str,
        num_classes: int,
        *,
        pretrained: bool | Path = False,
    ) -> None:
        super().__init__()
        if name not in NETWORKS:
            raise SegfixError(f"network {name!r}: expected one of {', '.join(NETWORKS)}.")
        if name != "hrnet" and not timm.is_model(backbone):
            raise SegfixError(f"backbone {backbone!r}: timm has no such model.")
        try:
            by_timm = pretrained is True and backbone not in PACKAGED
            self.network = NETWORKS[name](backbone, num_classes, by_timm)
        except SegfixError:
            raise
        except Exception as error:
            # timm and smp refuse a backbone with all kinds of exceptions.
            reason = str(error).partition("\n")[0] or type(error).__name__
            hint = "; without --pretrained no weights are downloaded" if pretrained else ""
            raise SegfixError(
                f"network {name} can't be built on backbone {backbone} ({reason}){hint}."
            ) from error
        encoder: Any = self.network
        encoder = encoder.encoder.model if hasattr(encoder, "encoder") else encoder.backbone
        if pretrained and not by_timm:
            load_encoder(encoder, backbone, pretrained)
        if backbone in PACKAGED:
            replace_convolutions(encoder)

    def forward(self, image: Tensor) -> Tensor:
        """Compute (N, C, H, W) logits of (N, 3, H, W) normalised pictures of any size."""
        height, width = image.shape[-2:]
        logits: Tensor = self.network(pad_to_stride(image))
        return logits[..., :height, :width]


class FCN(nn.Module):
    """Scores of the last branches of a backbone, added up from the coarsest to the finest.

    Args:
        backbone: Name of a timm backbone.
        num_classes: C.
        strides: Of the branches, such as 8, 16, 32 for FCN-8s.
        pretrained: Whether timm loads its ImageNet weights.

    Reference:
        Long et al., Fully convolutional networks for semantic segmentation, CVPR 2015.
    """

    def __init__(
        self, backbone: str, num_classes: int, strides: tuple[int, ...], *, pretrained: bool
    ) -> None:
        super().__init__()
        probe: Any = timm.create_model(backbone, features_only=True)
        found = probe.feature_info.reduction()
        missing = [stride for stride in strides if stride not in found]
        if missing:
            raise SegfixError(f"backbone {backbone}: it has no branch at stride {missing[0]}.")
        places = tuple(max(i for i, r in enumerate(found) if r == stride) for stride in strides)
        branches: Any = timm.create_model(
            backbone, pretrained=pretrained, features_only=True, out_indices=places
        )
        self.backbone = branches
        self.scores = nn.ModuleList(
            nn.Conv2d(channels, num_classes, 1) for channels in branches.feature_info.channels()
        )

    def forward(self, image: Tensor) -> Tensor:
        """Compute (N, C, H, W) logits of (N, 3, H, W) pictures."""
        branches = self.backbone(image)
        scores = [score(branch) for score, branch in zip(self.scores, branches, strict=True)]
        total = scores.pop()
        while scores:
            finer = scores.pop()
            total = finer + resize_maps(total, finer.shape[-2:])
        return resize_maps(total, image.shape[-2:])


class LargeFOV(nn.Module):
    """A backbone at stride 8 and a dilated 3×3 convolution: DeepLab-LargeFOV's way.

    Args:
        backbone: Name of a timm backbone that takes `output_stride`.
        num_classes: C.
        pretrained: Whether timm loads its ImageNet weights.

    Reference:
        Chen et al., Semantic image segmentation with deep convolutional nets and fully connected
        CRFs, ICLR 2015.
    """

    def __init__(self, backbone: str, num_classes: int, *, pretrained: bool) -> None:
        super().__init__()
        last: Any = timm.create_model(
            backbone, pretrained=pretrained, features_only=True, output_stride=8, out_indices=(-1,)
        )
        self.backbone = last
        (channels,) = last.feature_info.channels()
        self.head = nn.Sequential(
            nn.Conv2d(
                channels,
                LARGE_FOV_CHANNELS,
                3,
                padding=LARGE_FOV_DILATION,
                dilation=LARGE_FOV_DILATION,
            ),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.5),
            nn.Conv2d(LARGE_FOV_CHANNELS, LARGE_FOV_CHANNELS, 1),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.5),
            nn.Conv2d(LARGE_FOV_CHANNELS, num_classes, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Compute (N, C, H, W) logits of (N, 3, H, W) pictures."""
        (features,) = self.backbone(image)
        return resize_maps(self.head(features), image.shape[-2:])


class HRNet(nn.Module):
    """All branches of an HRNet at its finest stride, and a head of 1×1 convolutions.

    Args:
        backbone: One of `segfix.training.offset_networks.HRNETS`.
        num_classes: C.
        pretrained: Whether timm loads its ImageNet weights.

    Reference:
        Wang et al., Deep high-resolution representation learning, TPAMI 2020.
    """

    def __init__(self, backbone: str, num_classes: int, *, pretrained: bool) -> None:
        super().__init__()
        self.backbone, widths = make_backbone(backbone, pretrained=pretrained)
        self.head = head(sum(widths), HEAD_CHANNELS, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Compute (N, C, H, W) logits of (N, 3, H, W) pictures."""
        branches = self.backbone(image)
        size = branches[0].shape[-2:]
        features = torch.cat([branches[0], *(resize_maps(b, size) for b in branches[1:])], dim=1)
        return resize_maps(self.head(features), image.shape[-2:])


Build = Callable[[str, int, bool], nn.Module]


def smp_network(architecture: str) -> Build:
    """Choose a network of segmentation-models-pytorch on a timm backbone."""

    def build(backbone: str, num_classes: int, pretrained: bool) -> nn.Module:
        network: nn.Module = smp.create_model(
            architecture,
            encoder_name=f"tu-{backbone}",
            encoder_weights=True if pretrained else None,
            classes=num_classes,
        )
        return network

    return build


def fcn(*strides: int) -> Build:
    """Choose an FCN with scores at these strides."""
    return lambda backbone, num_classes, pretrained: FCN(
        backbone, num_classes, strides, pretrained=pretrained
    )


NETWORKS: dict[str, Build] = {
    **{
        name: smp_network(name)
        for name in (
            *("unet", "unetplusplus", "fpn", "pspnet", "deeplabv3", "deeplabv3plus", "upernet"),
            *("linknet", "manet", "pan", "segformer"),
        )
    },
    "fcn32s": fcn(32),
    "fcn16s": fcn(16, 32),
    "fcn8s": fcn(8, 16, 32),
    "deeplab-largefov": lambda backbone, num_classes, pretrained: LargeFOV(
        backbone, num_classes, pretrained=pretrained
    ),
    "hrnet": lambda backbone, num_classes, pretrained: HRNet(
        backbone, num_classes, pretrained=pretrained
    ),
}


def picture_statistics(backbone: str) -> tuple[list[float], list[float]]:
    """Read mean and standard deviation of RGB in [0, 1] that a backbone expects."""
    config: Any = timm.get_pretrained_cfg(backbone)
    mean = getattr(config, "mean", None) or timm.data.IMAGENET_DEFAULT_MEAN
    std = getattr(config, "std", None) or timm.data.IMAGENET_DEFAULT_STD
    return list(mean), list(std)


def load_segmenter(path: Path) -> tuple[Segmenter, dict[str, Any]]:
    """Read `model.safetensors` of the training of a segmentation network.

    Returns:
        The network in evaluation mode, and what the training wrote about it.

    Raises:
        FileFormatError: The file is not a checkpoint of ours, or its weights don't fit.
    """
    weights, metadata = read_checkpoint(path, "segmentation", SEGMENTER_METADATA)
    name, backbone = metadata["network"], metadata["backbone"]
    try:
        network = Segmenter(name, backbone, len(metadata["class_ids"]))
    except SegfixError as error:
        raise FileFormatError(f"{path}: {error}") from error
    try:
        network.load_state_dict({key: value.float() for key, value in weights.items()})
    except RuntimeError as error:
        raise FileFormatError(f"{path}: its weights don't fit {name} on {backbone}.") from error
    return network.eval(), metadata


def start_segmenter_from(network: Segmenter, name: str, backbone: str, checkpoint: Path) -> None:
    """Give a network the weights of a checkpoint; layers for other classes stay as they are.

    Raises:
        SegfixError: The checkpoint is of another network.
    """
    start, described = load_segmenter(checkpoint)
    if (described["network"], described["backbone"]) != (name, backbone):
        raise SegfixError(
            f"{checkpoint}: {described['network']} on {described['backbone']}; train the same "
            "network, or without --init."
        )
    own = network.state_dict()
    fitting = {k: v for k, v in start.state_dict().items() if v.shape == own[k].shape}
    network.load_state_dict({**own, **fitting})
