"""The level set loss (WACV 2019): the probability of each class as a level set function."""

from __future__ import annotations

from collections.abc import Callable
from math import pi

import torch
from torch import Tensor

from segfix.geometry.targets import IGNORE_INDEX
from segfix.losses.inputs import REDUCTIONS, check_choice, check_inputs, present_classes
from segfix.losses.module import LossModule

EPSILON = 1 / 20
LEVEL_SET_WEIGHT = 0.67
"""λ beside the cross-entropy for the mean over pixels: the paper's 4e-4 · 41² output pixels."""

HEAVISIDES: dict[str, Callable[[Tensor, float], Tensor]] = {
    # ½(1 + tanh(z / ε)), which as written underflows to 0 for a uniform soft-max.
    "mahf": lambda z, epsilon: torch.sigmoid(2 * z / epsilon),
    "ahf": lambda z, epsilon: 0.5 + torch.atan(z / epsilon) / pi,
    # A step has no slope; the graph is kept all the same.
    "hf": lambda z, _: (z >= 0).to(z.dtype) + 0 * z,
}


def level_set_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = IGNORE_INDEX,
    heaviside: str = "mahf",
    epsilon: float = EPSILON,
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
        reduction: "mean" over the valid pixels of the batch, or "sum", the paper's literal form,
            averaged over the batch.

    Returns:
        A scalar ≥ 0.

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
    check_choice("reduction", reduction, REDUCTIONS)
    if not epsilon > 0:
        raise ValueError(f"Expected epsilon > 0 but got {epsilon}.")
    with torch.autocast(logits.device.type, enabled=False):
        logits, target, valid = check_inputs(logits, target, ignore_index)
        present = present_classes(logits, target, valid)
        inside, outside = level_sides(present.probability - 0.5, heaviside, epsilon)
        hits, misses = (
            torch.stack([(side * mask).sum(dim=(1, 2)) for side in (inside, outside)])
            for mask in (present.truth, present.other)
        )
        # Σ (G - c)² H of a binary G with the mean c.
        tiny = torch.finfo(hits.dtype).tiny
        energy = (hits * misses / (hits + misses).clamp(min=tiny)).sum()
    return energy / (valid.sum().clamp(min=1) if reduction == "mean" else max(1, len(logits)))


def level_sides(phi: Tensor, heaviside: str, epsilon: float) -> tuple[Tensor, Tensor]:
    """Compute H(φ) and 1 - H(φ), both with all their digits."""
    if heaviside == "hf":
        inside = HEAVISIDES[heaviside](phi, epsilon)
        return inside, 1 - inside
    # 1 - H loses all digits where H is close to 1, and with them the slope; that of -|φ| would
    # be lost at 0.
    below = phi < 0
    small = HEAVISIDES[heaviside](torch.where(below, phi, -phi), epsilon)
    return torch.where(below, small, 1 - small), torch.where(below, 1 - small, small)


class LevelSetLoss(LossModule):
    """Compute `level_set_loss` as a module; see there."""

    def __init__(
        self,
        *,
        ignore_index: int | None = IGNORE_INDEX,
        heaviside: str = "mahf",
        epsilon: float = EPSILON,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            level_set_loss,
            ignore_index=ignore_index,
            heaviside=heaviside,
            epsilon=epsilon,
            reduction=reduction,
        )
