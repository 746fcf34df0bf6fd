"""The SegFix network: an HRNet of timm with a boundary head and a direction head."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from segfix.errors import FileFormatError, SegfixError
from segfix.files.reading import check_regular
from segfix.geometry import NUM_DIRECTIONS
from segfix.network.session import METADATA_KEY, are_numbers
from segfix.training.heads import HEAD_CHANNELS, DetailHead, head, resized
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
KINDS = {
    "segfix": ("a SegFix network", "segfix"),
    "segmentation": ("a segmentation network", "level-set|semeda|epl"),
    "edge": ("SEMEDA's edge network", "semeda"),
}
"""Of checkpoints: what they hold, and the --loss that makes them."""
MOST_CLASSES = 1 << 16
"""Of a segmentation network, in a checkpoint."""
STRIDE = 32
"""Height and width of the network's input must be multiples of this."""


class SegFixNet(nn.Module):
    """HRNet branches at strides 4 to 32, upsampled to stride 4 and concatenated, and two heads.

    Args:
        backbone: One of `HRNETS`: timm name of an HRNet; `hrnet_w18_2x`, `hrnet_w20_2x`, with
            a branch and the heads at stride 2; `hrnet_w18_small_2x`, which adds a `DetailHead`
            to `hrnet_w18_small`.
        num_directions: m, one of 4, 8, 16.
        pretrained: Whether timm loads its ImageNet weights (from the network or its cache).
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
        pretrained: bool = False,
        head_channels: int = HEAD_CHANNELS,
    ) -> None:
        super().__init__()
        self.backbone, widths = make_backbone(backbone, pretrained=pretrained)
        stem = widths.pop(0) if backbone in GROWN_FROM else 0
        self.boundary_head = head(sum(widths), head_channels, 1)
        self.direction_head = head(sum(widths), head_channels, num_directions)
        self.detail_head = DetailHead(stem, sum(widths), 1 + num_directions) if stem else None

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits at full size.

        Args:
            image: (N, 3, H, W) float, normalised; H and W multiples of 32.

        Returns:
            Boundary logits (N, 1, H, W) and direction logits (N, m, H, W).
        """
        branches = self.backbone(image)
        stem = branches.pop(0) if self.detail_head is not None else None
        size, full = branches[0].shape[-2:], image.shape[-2:]
        features = torch.cat([branches[0], *(resized(b, size) for b in branches[1:])], dim=1)
        boundary = resized(self.boundary_head(features), full)
        direction = resized(self.direction_head(features), full)
        if self.detail_head is None:
            return boundary, direction
        detail = resized(self.detail_head(stem, features), full)
        return boundary + detail[:, :1], direction + detail[:, 1:]


def make_network(
    backbone: str, num_directions: int, *, pretrained: bool = False
) -> SegFixNet | ConditionedSegFixNet:
    """Make the network of a backbone, one of `BACKBONES`; see its class.

    Raises:
        SegfixError: There is no such backbone, or its pretrained weights can't be had.
    """
    if backbone not in BACKBONES:
        raise SegfixError(f"backbone {backbone!r}: expected one of {', '.join(BACKBONES)}.")
    network = ConditionedSegFixNet if backbone in ENCODERS else SegFixNet
    return network(backbone, num_directions, pretrained=pretrained)


def make_backbone(name: str, *, pretrained: bool) -> tuple[nn.Module, list[int]]:
    """An HRNet and the channels of its branches, finest first; the stem's where it is one."""
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
            pretrained=pretrained,
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
    return module, module.feature_info.channels()


def normalization(network: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of RGB in [0, 1] that the backbone expects."""
    config = cast(Any, network.backbone).default_cfg
    return cast(tuple[float, ...], config["mean"]), cast(tuple[float, ...], config["std"])


def normalized(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(N, 3, H, W) uint8 RGB to the floats a backbone expects."""
    shift, factor = (image.new_tensor(v, dtype=torch.float32)[:, None, None] for v in (mean, std))
    return ((image.float() / 255 - shift) / factor).contiguous(memory_format=torch.channels_last)


def padded(image: Tensor) -> Tensor:
    """(N, C, H, W) up to multiples of `STRIDE`: the last row and column go on."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")


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


def checkpoint_metadata(path: Path) -> Any:
    """What a training wrote about a checkpoint; None where the file says nothing of ours.

    Raises:
        FileFormatError, OSError, SafetensorError, ValueError: The file is no safetensors file.
    """
    check_regular(path)
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(METADATA_KEY, "null")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its metadata is nested too deeply") from error


def checkpoint_kind(path: Path) -> str | None:
    """What a checkpoint holds, a key of `KINDS`; None where it is no checkpoint of ours."""
    try:
        metadata = checkpoint_metadata(path)
    except (SegfixError, OSError, SafetensorError, ValueError):
        return None
    return metadata.get("kind") if isinstance(metadata, dict) else None


def read_checkpoint(
    path: Path, kind: str, keys: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights and the metadata of a training.

    Args:
        path: `model.safetensors`.
        kind: What the metadata must say it is, a key of `KINDS`.
        keys: What else the metadata must have.

    Raises:
        FileFormatError: The file is not such a checkpoint of ours.
    """
    what, loss = KINDS[kind]
    made_by = f"expected the model.safetensors of 'segfix train --loss {loss}'"
    try:
        metadata = checkpoint_metadata(path)
        weights = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise FileFormatError(f"{path}: not a safetensors file ({error}); {made_by}.") from error
    known = isinstance(metadata, dict) and metadata.get("kind") == kind
    if not known or not metadata.keys() >= set(keys) or not can_be_used(metadata):
        raise FileFormatError(f"{path}: a safetensors file, but not of {what}; {made_by}.")
    for name, value in weights.items():
        if not value.is_complex() and bool(value.isfinite().all()):
            continue
        raise FileFormatError(f"{path}: {name} holds what is no finite number; {made_by}.")
    return weights, metadata


def can_be_used(metadata: Mapping[str, Any]) -> bool:
    """Whether what a checkpoint says of itself can be so: who made it may be anybody."""
    ids = metadata.get("class_ids", [0])
    texts = (metadata.get(key, "") for key in ("network", "backbone"))
    counts = (metadata.get(key, 1) for key in ("step", "num_classes"))
    tables = (metadata.get(key, {}) for key in ("data", "scores"))
    triples = (metadata.get(key, [1, 1, 1]) for key in ("mean", "std"))
    return (
        all(isinstance(text, str) for text in texts)
        and all(type(count) is int and count >= 0 for count in counts)
        and all(isinstance(table, dict) for table in tables)
        and all(isinstance(score, int | float) for score in metadata.get("scores", {}).values())
        and all(
            isinstance(three, list) and len(three) == 3 and are_numbers(three) for three in triples
        )
        and all(metadata.get("std", [1]))
        and type(metadata.get("num_directions", NUM_DIRECTIONS[0])) is int
        and metadata.get("num_directions", NUM_DIRECTIONS[0]) in NUM_DIRECTIONS
        and are_numbers([metadata.get("boundary_width", 1)])
        and metadata.get("boundary_width", 1) > 0
        and isinstance(ids, list)
        and 0 < len(ids) <= MOST_CLASSES
        and all(type(identity) is int and 0 <= identity < 256**4 for identity in ids)
    )
