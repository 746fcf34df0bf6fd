"""Boundary loss (MIDL 2019), which the papers compare with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from segfix.geometry.targets import IGNORE_INDEX, distance_map
from segfix.losses.closed_form import closed_form
from segfix.losses.inputs import (
    REDUCTIONS,
    check_choice,
    check_inputs,
    class_counts,
    reduce_images,
)
from segfix.losses.module import LossModule


def boundary_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = IGNORE_INDEX,
    reduction: str = "mean",
) -> Tensor:
    """Average the probability of each class present × the signed distance to its boundary.

    The distance is positive outside the class and negative inside; the loss can be negative. The
    paper raises its weight during training.

    Args:
        logits: (N, C, H, W).
        target: (N, H, W) integers, 0 … C - 1 or `ignore_index`.
        ignore_index: The void id; void counts as outside for the distances and is left out.
        reduction: "none" (one loss for each image), their "sum", or their "mean".

    Returns:
        A scalar, pixels, or (N,) of them.

    Raises:
        TypeError: A tensor has the wrong type.
        ValueError: A tensor has the wrong shape, an id is outside the classes, or the
            reduction is none of these.

    Example:
        >>> target = torch.tensor([[[0, 0, 1, 1]]])
        >>> right = 20 * torch.tensor([[[[1.0, 1, 0, 0]], [[0, 0, 1, 1]]]])
        >>> round(boundary_loss(right, target).item(), 4)  # (-2 - 1 + 0 + 0) / 4 for each class
        -0.75

    Reference:
        Kervadec et al., Boundary loss for highly unbalanced segmentation, MIDL 2019, eq. 5.
    """
    check_choice("reduction", reduction, REDUCTIONS)
    with torch.autocast(logits.device.type, enabled=False):
        logits, target, valid = check_inputs(logits, target, ignore_index)
        losses = boundary_of_images(logits.softmax(dim=1), target, valid)
        return reduce_images(losses, valid, reduction)


@closed_form
def boundary_of_images(probability: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the loss of each image, (N,), and its gradient by the probabilities: distances."""
    gradient = torch.zeros_like(probability)
    counts = class_counts(target, valid, probability.shape[1])
    pixels = counts.sum(dim=1) * (counts > 0).sum(dim=1)
    for image, label in counts.nonzero().tolist():
        mask = (target[image] == label) & valid[image]
        distances = signed_distance(mask).to(probability) * valid[image]
        gradient[image, label] = distances / pixels[image]
    return (probability * gradient).sum(dim=(1, 2, 3)), gradient


def signed_distance(mask: Tensor) -> Tensor:
    """Measure to the nearest pixel of the other side, negative inside; 0 where there is none.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) float32, pixels, on the CPU.
    """
    inside = mask.cpu().numpy()
    apart = distance_map(inside.astype(np.uint8), ignore_index=None)
    signed = np.where(np.isfinite(apart), np.where(inside, -apart, apart), 0)
    return torch.from_numpy(signed.astype(np.float32))


class BoundaryLoss(LossModule):
    """Compute `boundary_loss` as a module; see there."""

    def __init__(
        self,
        *,
        ignore_index: int | None = IGNORE_INDEX,
        reduction: str = "mean",
        weight: float | str = 1.0,
    ) -> None:
        super().__init__(
            boundary_loss, ignore_index=ignore_index, reduction=reduction, weight=weight
        )
