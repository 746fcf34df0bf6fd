"""The level set loss (WACV 2019): the probability of each class as a level set function."""

from __future__ import annotations

from collections.abc import Callable
from math import pi

import torch
from torch import Tensor

from segfix.geometry.targets import IGNORE_INDEX
from segfix.losses.closed_form import closed_form
from segfix.losses.inputs import (
    REDUCTIONS,
    check_choice,
    check_inputs,
    class_counts,
    class_slices,
    reduce_images,
)
from segfix.losses.module import LossModule

EPSILON = 1 / 20
LEVEL_SET_WEIGHT = 0.67
"""λ beside the cross-entropy for the mean over pixels: the paper's 4e-4 · 41² output pixels."""

HEAVISIDES: dict[str, Callable[[Tensor, float], Tensor]] = {
    # ½(1 + tanh(z / ε)), which as written underflows to 0 for a uniform soft-max.
    "mahf": lambda z, epsilon: torch.sigmoid(2 * z / epsilon),
    "ahf": lambda z, epsilon: 0.5 + torch.atan(z / epsilon) / pi,
    # A step has no slope; the graph is kept all the same.
    "hf": lambda z, _: (z >= 0).to(z.dtype),
}
SLOPES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "ahf": lambda z, epsilon: epsilon / (pi * (epsilon**2 + z.square())),
    "hf": lambda z, _: torch.zeros_like(z),
}
PIXELS = ("mean", "sum")


def level_set_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = IGNORE_INDEX,
    heaviside: str = "mahf",
    epsilon: float = EPSILON,
    pixels: str = "mean",
    reduction: str = "mean",
) -> Tensor:
    """Compute the energy of the level sets φ = P - 1/2 of the classes present in each image.

    E = Σ_l Σ_px (G - c1)² H(φ) + (G - c2)² (1 - H(φ)), where G is the mask of class l, c1 its
    mean inside the contour and c2 outside. Computed in float32 at least, under autocast as well.

    Args:
        logits: (N, C, H, W).
        target: (N, H, W) integers, 0 … C - 1 or `ignore_index`.
        ignore_index: The void id; void pixels are left out of every sum.
        heaviside: "mahf" (tanh), "ahf" (arc tangent) or "hf" (a step: no gradient).
        epsilon: ε, the width of the Heaviside function.
        pixels: "mean" over the valid pixels of an image, or "sum" (eq. 4 literally, with which the
            paper's λ of 4e-4 goes).
        reduction: "none" (one loss for each image), their "sum", or their "mean".

    Returns:
        A scalar ≥ 0, or (N,) of them.

    Raises:
        TypeError: A tensor has the wrong type.
        ValueError: A tensor has the wrong shape, an id is outside the classes, or an option isn't
            one of those above.

    Example:
        >>> target = torch.tensor([[[0, 0, 1, 1]]])
        >>> logits = torch.zeros(1, 2, 1, 4, requires_grad=True)
        >>> loss = level_set_loss(logits, target)
        >>> loss.backward()
        >>> round(loss.item(), 4)  # nothing known: two masks of variance 1/4
        0.5

    Reference:
        Kim et al., CNN-based Semantic Segmentation using Level Set Loss, WACV 2019, eq. 4 to 8.
    """
    check_choice("heaviside", heaviside, HEAVISIDES)
    check_choice("pixels", pixels, PIXELS)
    check_choice("reduction", reduction, REDUCTIONS)
    if not epsilon > 0:
        raise ValueError(f"Expected epsilon > 0 but got {epsilon}.")
    with torch.autocast(logits.device.type, enabled=False):
        logits, target, valid = check_inputs(logits, target, ignore_index)
        energy = level_set_energy(logits.softmax(dim=1), target, valid, heaviside, float(epsilon))
        if pixels == "mean":
            energy = energy / valid.flatten(1).sum(dim=1).clamp(min=1)
        return reduce_images(energy, valid, reduction)


@closed_form
def level_set_energy(
    probability: Tensor, target: Tensor, valid: Tensor, heaviside: str, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Compute E of each image, (N,), and its gradient by the probabilities: eq. 4 and 7."""
    energy, gradient = probability.new_zeros(len(probability)), torch.zeros_like(probability)
    known = valid.to(probability.dtype)
    tiny = torch.finfo(probability.dtype).tiny
    for images, label in class_slices(class_counts(target, valid, probability.shape[1])):
        truth = known[images] * (target[images] == label)
        other = known[images] - truth
        inside, outside, slope = level_sides(probability[images, label] - 0.5, heaviside, epsilon)
        means = []
        for side in (inside, outside):
            hits, misses = (dot(side, mask) for mask in (truth, other))
            means.append(hits / (hits + misses).clamp(min=tiny))
            # Σ (G - c)² H of a binary G with the mean c.
            energy[images] += means[-1] * misses
        c1, c2 = (mean[:, None, None] for mean in means)
        of_truth, of_other = (1 - c1).square() - (1 - c2).square(), c1.square() - c2.square()
        force = truth.mul_(of_truth).addcmul_(other, of_other)
        torch.mul(force, slope, out=gradient[images, label])
    return energy, gradient


def dot(one: Tensor, other: Tensor) -> Tensor:
    """Sum the products of (N, H, W) maps of each image."""
    total: Tensor = torch.linalg.vecdot(one.flatten(1), other.flatten(1))
    return total


def level_sides(phi: Tensor, heaviside: str, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Compute H(φ) and 1 - H(φ), both with all their digits, and the slope δ(φ) of H."""
    if heaviside == "mahf":
        inside, outside = (torch.sigmoid(phi * (sign * 2 / epsilon)) for sign in (1, -1))
        return inside, outside, inside * outside * (2 / epsilon)
    slope = SLOPES[heaviside](phi, epsilon)
    if heaviside == "hf":
        inside = HEAVISIDES[heaviside](phi, epsilon)
        return inside, 1 - inside, slope
    # 1 - H loses all digits where H is close to 1.
    below = phi < 0
    small = HEAVISIDES[heaviside](-phi.abs(), epsilon)
    return torch.where(below, small, 1 - small), torch.where(below, 1 - small, small), slope


class LevelSetLoss(LossModule):
    """Compute `level_set_loss` as a module; see there."""

    def __init__(
        self,
        *,
        ignore_index: int | None = IGNORE_INDEX,
        heaviside: str = "mahf",
        epsilon: float = EPSILON,
        pixels: str = "mean",
        reduction: str = "mean",
        weight: float | str = 1.0,
    ) -> None:
        super().__init__(
            level_set_loss,
            ignore_index=ignore_index,
            heaviside=heaviside,
            epsilon=epsilon,
            pixels=pixels,
            reduction=reduction,
            weight=weight,
        )
