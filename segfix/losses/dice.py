"""Dice loss, which the papers compare with."""

from __future__ import annotations

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


def dice_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = IGNORE_INDEX,
    reduction: str = "mean",
) -> Tensor:
    """Average 1 - 2Σpg / (Σp + Σg) over the classes present in each image.

    Args:
        logits: (N, C, H, W).
        target: (N, H, W) integers, 0 … C - 1 or `ignore_index`.
        ignore_index: The void id; void pixels are left out of every sum.
        reduction: "none" (one loss for each image), their "sum", or their "mean".

    Returns:
        A scalar in [0, 1], or (N,) of them.

    Raises:
        TypeError: A tensor has the wrong type.
        ValueError: A tensor has the wrong shape, an id is outside the classes, or the
            reduction is none of these.

    Example:
        >>> target = torch.tensor([[[0, 0, 1, 1]]])
        >>> dice_loss(torch.zeros(1, 2, 1, 4), target).item()
        0.5

    Reference:
        Milletari et al., V-Net, 3DV 2016.
    """
    check_choice("reduction", reduction, REDUCTIONS)
    with torch.autocast(logits.device.type, enabled=False):
        logits, target, valid = check_inputs(logits, target, ignore_index)
        losses = dice_of_images(logits.softmax(dim=1), target, valid)
        return reduce_images(losses, valid, reduction)


@closed_form
def dice_of_images(probability: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the loss of each image, (N,), and its gradient by the probabilities."""
    losses, gradient = probability.new_zeros(len(probability)), torch.zeros_like(probability)
    known = valid.to(probability.dtype)
    counts = class_counts(target, valid, probability.shape[1])
    share = 1 / (counts > 0).sum(dim=1).clamp(min=1).to(probability)
    for images, label in class_slices(counts):
        truth = known[images] * (target[images] == label)
        found = probability[images, label] * known[images]
        overlap, size = (found * truth).sum(dim=(1, 2)), (found + truth).sum(dim=(1, 2))
        size = size.clamp(min=1)  # that of a class that is present
        weight = share[images] * (counts[images, label] > 0)
        losses[images] += weight * (1 - 2 * overlap / size)
        by_overlap, by_size = -2 * weight / size, 2 * weight * overlap / size.square()
        gradient[images, label] = (
            truth * by_overlap[:, None, None] + known[images] * by_size[:, None, None]
        )
    return losses, gradient


class DiceLoss(LossModule):
    """Compute `dice_loss` as a module; see there."""

    def __init__(
        self,
        *,
        ignore_index: int | None = IGNORE_INDEX,
        reduction: str = "mean",
        weight: float | str = 1.0,
    ) -> None:
        super().__init__(dice_loss, ignore_index=ignore_index, reduction=reduction, weight=weight)
