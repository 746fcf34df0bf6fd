"""SEMEDA (2019): soft-max and target compared in the layers of a small edge network; Sobel, too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segfix.geometry.targets import IGNORE_INDEX
from segfix.losses.inputs import (
    REDUCTIONS,
    check_choice,
    check_ids,
    check_inputs,
    choose_quarter,
    class_maps,
    mean_where,
    reduce_images,
)
from segfix.losses.module import LossModule

CHANNELS = (16, 32, 2)
SEMEDA_WEIGHTS = (4.0, 2.0, 0.0)
"""The paper's λ1, λ2, λ3 for Cityscapes; 2, 4, 0 for Pascal VOC."""
SOBEL_WEIGHT = 4.0
"""The paper's λ of the Sobel baseline."""
EDGE_VOID = 255


class EdgeNetwork(nn.Module):
    """Finds the edges of a label map given as class maps: three 3×3 convolutions.

    Trained on ground truth with `edge_network_loss`, then frozen and used by `semeda_loss`.

    Args:
        num_classes: C, the channels of the class maps.

    Reference:
        Chen et al., SEMEDA, 2019, Section 3.4.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3)
            for before, after in zip((num_classes, *CHANNELS), CHANNELS, strict=False)
        )

    def features(
        self, maps: Tensor, layers: int = len(CHANNELS), *, frozen: bool = False
    ) -> list[Tensor]:
        """Compute the outputs ψ_1 … of the first layers, after their activation.

        Args:
            maps: (N, C, H, W), one-hot or soft-max, 0 on void.
            layers: How many, 1 to 3.
            frozen: Whether the parameters get no gradient.

        Returns:
            (N, 16, H, W) and (N, 32, H, W), both after ReLU, and (N, 2, H, W) after soft-max.
        """
        found: list[Tensor] = []
        for place in range(layers):
            logits = self._convolve(place, found[-1] if found else maps, frozen=frozen)
            found.append(logits.relu() if place < len(CHANNELS) - 1 else logits.softmax(dim=1))
        return found

    def forward(self, maps: Tensor) -> Tensor:
        """Turn (N, C, H, W) class maps into (N, 2, H, W) logits of no edge and edge."""
        last = len(CHANNELS) - 1
        return self._convolve(last, self.features(maps, last)[-1], frozen=False)

    def _convolve(self, place: int, maps: Tensor, *, frozen: bool) -> Tensor:
        weight, bias = (p.to(maps.dtype) for p in self.convolutions[place].parameters())
        if frozen:
            weight, bias = weight.detach(), bias.detach()
        return F.conv2d(_replicate_frame(maps), weight, bias)


def _replicate_frame(maps: Tensor) -> Tensor:
    # Zeros beyond the frame would draw an edge along it.
    if not torch.compiler.is_compiling():
        return F.pad(maps, (1, 1, 1, 1), mode="replicate")
    # Inductor takes the gradient of that for one of another memory format, and fails.
    maps = torch.cat((maps[..., :1, :], maps, maps[..., -1:, :]), -2)
    return torch.cat((maps[..., :1], maps, maps[..., -1:]), -1)


def edge_map(target: Tensor, *, ignore_index: int | None = IGNORE_INDEX) -> Tensor:
    """Find where the eight neighbours are not all of the pixel's own label.

    Args:
        target: (N, H, W) integer class ids.
        ignore_index: The void id.

    Returns:
        (N, H, W) uint8: 1 edge, 0 none, 255 on void and beside it. Neighbours outside the frame
        are none.

    Example:
        >>> edge_map(torch.tensor([[[0, 0, 0, 1, 1, 255]]]))
        tensor([[[  0,   0,   1,   1, 255, 255]]], dtype=torch.uint8)
    """
    ids = target.double()[:, None]
    differs = F.max_pool2d(ids, 3, 1, 1) != -F.max_pool2d(-ids, 3, 1, 1)
    edges = differs[:, 0].to(torch.uint8)
    if ignore_index is None:
        return edges
    return torch.where(away_from_void(target != ignore_index, 1), edges, EDGE_VOID)


def edge_network_loss(
    network: nn.Module,
    target: Tensor,
    *,
    ignore_index: int | None = IGNORE_INDEX,
    soften: float = 0.0,
    balanced: bool = True,
) -> Tensor:
    """Compute the cross-entropy of an `EdgeNetwork`; edges and the rest weigh the same.

    Args:
        network: (N, C, H, W) class maps to (N, 2, H, W) logits.
        target: (N, H, W) integers, 0 … C - 1 or `ignore_index`.
        ignore_index: The void id.
        soften: Largest share in [0, 1], different for each image, of `soften_maps` in the class
            maps, such as 0.5: the network will see soft ones. With 0, as the paper has it, it sees
            one-hot maps alone.
        balanced: Whether edges weigh as much as the rest. Without, it is the plain cross-entropy
            of eq. 7, to which edges, some 5 % of the pixels, matter little.

    Returns:
        A scalar: the mean over the two classes that occur of their mean cross-entropy.

    Raises:
        ValueError: An id is outside the classes, or the share outside [0, 1].

    Reference:
        Chen et al., SEMEDA, 2019, eq. 7.
    """
    if not 0 <= soften <= 1:
        raise ValueError(f"Expected soften from 0 to 1 but got {soften}.")
    valid = torch.ones_like(target, dtype=torch.bool)
    if ignore_index is not None:
        valid = target != ignore_index
    num_classes: int = getattr(network, "module", network).num_classes  # type: ignore[assignment]
    check_ids(torch.where(valid, target, 0), num_classes, ignore_index)
    maps = F.one_hot(torch.where(valid, target, 0).long(), num_classes).movedim(-1, 1).float()
    edges = edge_map(target, ignore_index=ignore_index)
    with torch.autocast(target.device.type, enabled=False):
        if soften:
            share = soften * torch.rand(len(maps), 1, 1, 1, device=maps.device)
            maps = maps + share * (soften_maps(maps, valid) - maps)
        logits = network(maps * valid[:, None])
        entropy = F.cross_entropy(logits, edges.long(), ignore_index=EDGE_VOID, reduction="none")
        means = [mean_where(entropy, edges == kind) for kind in (0, 1)]
        if not balanced:
            return mean_where(entropy, edges != EDGE_VOID)
        occurring = sum((edges == kind).any().long() for kind in (0, 1))
    return (means[0] + means[1]) / occurring.clamp(min=1)  # type: ignore[union-attr]


def soften_maps(maps: Tensor, valid: Tensor) -> Tensor:
    """Blur class maps over 5×5 pixels, and make half of them equal for all classes.

    Args:
        maps: (N, C, H, W).
        valid: (N, H, W) bool; void is left out of the means.
    """
    known = valid[:, None].to(maps.dtype)
    total, share = (
        F.avg_pool2d(F.pad(each, (2, 2, 2, 2), mode="replicate"), 5, 1)
        for each in (maps * known, known)
    )
    blurred = total / share.clamp(min=1 / 25)
    return (blurred + 1 / maps.shape[1]) / 2


def semeda_loss(
    logits: Tensor,
    target: Tensor,
    edge_network: EdgeNetwork,
    *,
    ignore_index: int | None = IGNORE_INDEX,
    weights: Sequence[float] = SEMEDA_WEIGHTS,
    normalized: bool = False,
    quarter: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Sum λ_l · mean |ψ_l(P) - ψ_l(G)| over the layers of a frozen edge network.

    Computed in float32 at least, under autocast as well. Outputs of layer l within l pixels of
    void are left out.

    Args:
        logits: (N, C, H, W).
        target: (N, H, W) integers, 0 … C - 1 or `ignore_index`.
        edge_network: Trained for C classes; its parameters get no gradient.
        ignore_index: The void id.
        weights: λ_1, λ_2, λ_3.
        normalized: Whether the differences of a layer are relative to its mean ψ_l(G); the paper
            leaves open how large the outputs are, on which the effect of λ_l depends.
        quarter: Whether to look at a random quarter of the images instead, the same on average
            (normalized, about the same) but sooner computed.
        reduction: "none" (one loss for each image), their "sum", or their "mean".

    Returns:
        A scalar ≥ 0, or (N,) of them.

    Raises:
        TypeError: A tensor has the wrong type.
        ValueError: A tensor has the wrong shape, an id is outside the classes, or the edge network
            was made for another number of classes.

    Example:
        >>> logits = torch.randn(2, 5, 16, 16, requires_grad=True)
        >>> target = torch.randint(0, 5, (2, 16, 16))
        >>> semeda_loss(logits, target, EdgeNetwork(5)).backward()

    Reference:
        Chen et al., SEMEDA: Enhancing Segmentation Precision with Semantic Edge Aware Loss, 2019,
        eq. 4 and 5.
    """
    if len(weights) != len(CHANNELS) or not all(weight >= 0 for weight in weights):
        raise ValueError(f"Expected three weights λ of 0 or more but got {tuple(weights)}.")
    if edge_network.num_classes != logits.shape[1]:
        raise ValueError(
            f"Expected an edge network for {logits.shape[1]} classes, as the logits have, but got "
            f"one for {edge_network.num_classes}."
        )
    layers = max((place for place, weight in enumerate(weights, start=1) if weight), default=0)
    check_choice("reduction", reduction, REDUCTIONS)
    with torch.autocast(logits.device.type, enabled=False):
        logits, target, valid = check_inputs(logits, target, ignore_index)
        part = choose_quarter(logits, target, valid, layers, whole=not quarter)
        probability, truth = class_maps(part.logits, part.target, part.valid)
        with torch.no_grad():
            wanted = edge_network.features(truth, layers)
        found = edge_network.features(probability, layers, frozen=True)
        losses = 0 * probability.sum(dim=(1, 2, 3))
        for place, (psi, psi_true) in enumerate(zip(found, wanted, strict=True)):
            if not weights[place]:
                continue
            far = away_from_void(part.valid, place + 1) & part.counted
            whole = far if part.share == 1 else away_from_void(valid, place + 1)
            apart = sum_where((psi - psi_true).abs().mean(dim=1), far)
            layer = apart / (part.share * whole.flatten(1).sum(dim=1)).clamp(min=1)
            if normalized:
                size = sum_where(psi_true.mean(dim=1), far) / far.flatten(1).sum(dim=1).clamp(min=1)
                layer = layer / size.clamp(min=torch.finfo(size.dtype).eps)
            losses = losses + weights[place] * layer
        return reduce_images(losses, valid, reduction)


def sum_where(values: Tensor, counted: Tensor) -> Tensor:
    """Sum the elements of (N, H, W) maps that count: (N,)."""
    return (values * counted).sum(dim=(1, 2))


def sobel_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = IGNORE_INDEX,
    reduction: str = "mean",
) -> Tensor:
    """Average the difference of the Sobel gradients of soft-max and target: SEMEDA's baseline.

    Args:
        logits: (N, C, H, W).
        target: (N, H, W) integers, 0 … C - 1 or `ignore_index`.
        ignore_index: The void id; pixels beside void are left out.
        reduction: "none" (one loss for each image), their "sum", or their "mean".

    Returns:
        A scalar in [0, 1], or (N,) of them.

    Raises:
        TypeError: A tensor has the wrong type.
        ValueError: A tensor has the wrong shape, or an id is outside the classes.

    Example:
        >>> target = torch.tensor([[[0, 0, 1, 1]]])
        >>> sobel_loss(torch.zeros(1, 2, 1, 4), target).item()  # half of the pixels, one kernel
        0.125

    Reference:
        Chen et al., SEMEDA, 2019, Section 4.2.
    """
    check_choice("reduction", reduction, REDUCTIONS)
    with torch.autocast(logits.device.type, enabled=False):
        logits, target, valid = check_inputs(logits, target, ignore_index)
        probability, truth = class_maps(logits, target, valid)
        smooth, slope = logits.new_tensor([1, 2, 1]) / 4, logits.new_tensor([-1, 0, 1]) / 2
        kernels = torch.stack([smooth.outer(slope), slope.outer(smooth)])[:, None]
        difference = _replicate_frame((probability - truth).flatten(0, 1)[:, None])
        gradient = F.conv2d(difference, kernels).view(*probability.shape[:2], 2, *target.shape[1:])
        far = away_from_void(valid, 1)
        losses = sum_where(gradient.abs().mean(dim=(1, 2)), far) / far.sum(dim=(1, 2)).clamp(min=1)
        return reduce_images(losses, valid, reduction)


def away_from_void(valid: Tensor, pixels: int) -> Tensor:
    """Find where a square of so many pixels around holds no void: (N, H, W) bool to the same."""
    void = F.max_pool2d((~valid).float()[:, None], 2 * pixels + 1, 1, pixels)
    return void[:, 0] == 0


class SemedaLoss(LossModule):
    """Compute `semeda_loss` as a module; see there. The edge network is frozen."""

    def __init__(
        self,
        edge_network: EdgeNetwork,
        *,
        ignore_index: int | None = IGNORE_INDEX,
        weights: Sequence[float] = SEMEDA_WEIGHTS,
        normalized: bool = False,
        quarter: bool = False,
        reduction: str = "mean",
        weight: float | str = 1.0,
    ) -> None:
        super().__init__(
            semeda_loss,
            ignore_index=ignore_index,
            weights=tuple(weights),
            normalized=normalized,
            quarter=quarter,
            reduction=reduction,
            weight=weight,
        )
        self.edge_network = edge_network.requires_grad_(requires_grad=False).eval()

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss without its weight."""
        return semeda_loss(logits, target, self.edge_network, **self.options)


class SobelLoss(LossModule):
    """Compute `sobel_loss` as a module; see there."""

    def __init__(
        self,
        *,
        ignore_index: int | None = IGNORE_INDEX,
        reduction: str = "mean",
        weight: float | str = 1.0,
    ) -> None:
        super().__init__(sobel_loss, ignore_index=ignore_index, reduction=reduction, weight=weight)
