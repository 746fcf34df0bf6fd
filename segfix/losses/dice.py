"""Dice loss, which the papers compare with."""

from __future__ import annotations

import torch
from torch import Tensor

from segfix.geometry.targets import IGNORE_INDEX
from segfix.losses.inputs import check_inputs, present_classes
from segfix.losses.module import LossModule


def dice_loss(logits: Tensor, target: Tensor, *, ignore_index: int | None = IGNORE_INDEX) -> Tensor:
    """Average 1 - 2Σpg / (Σp + Σg) over the classes present in each image.

    Args:
        logits: (N, C, H, W).
        target: (N, H, W) integers, 0 … C - 1 or `ignore_index`.
        ignore_index: The void id; void pixels are left out of every sum.

    Returns:
        A scalar in [0, 1].

    Raises:
        TypeError: A tensor has the wrong type.
        ValueError: A tensor has the wrong shape, or an id is outside the classes.

    Example:
        >>> target = torch.tensor([[[0, 0, 1, 1]]])
        >>> dice_loss(torch.zeros(1, 2, 1, 4), target).item()
        0.5

    Reference:
        Milletari et al., V-Net, 3DV 2016.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits, target, valid = check_inputs(logits, target, ignore_index)
        present = present_classes(logits, target, valid)
        overlap = (present.probability * present.truth).sum(dim=(1, 2))
        sizes = present.probability.sum(dim=(1, 2)) + present.truth.sum(dim=(1, 2))
        # A class that is present has a size of 1 or more.
        return (1 - 2 * overlap / sizes).sum() / max(1, len(sizes))


class DiceLoss(LossModule):
    """Compute `dice_loss` as a module; see there."""

    def __init__(self, *, ignore_index: int | None = IGNORE_INDEX) -> None:
        super().__init__(dice_loss, ignore_index=ignore_index)
