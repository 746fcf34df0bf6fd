"""Boundary loss (MIDL 2019), which the papers compare with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from segfix.geometry.targets import IGNORE_INDEX, distance_map
from segfix.losses.inputs import check_inputs, mean_where, present_classes
from segfix.losses.module import LossModule


def boundary_loss(
    logits: Tensor, target: Tensor, *, ignore_index: int | None = IGNORE_INDEX
) -> Tensor:
    """Average the probability of each class present × the signed distance to its boundary.

    The distance is positive outside the class and negative inside; the loss can be negative. The
    paper raises its weight during training.

    Args:
        logits: (N, C, H, W).
        target: (N, H, W) integers, 0 … C - 1 or `ignore_index`.
        ignore_index: The void id; void counts as outside for the distances and is left out.

    Returns:
        A scalar, pixels.

    Raises:
        TypeError: A tensor has the wrong type.
        ValueError: A tensor has the wrong shape, or an id is outside the classes.

    Example:
        >>> target = torch.tensor([[[0, 0, 1, 1]]])
        >>> right = 20 * torch.tensor([[[[1.0, 1, 0, 0]], [[0, 0, 1, 1]]]])
        >>> round(boundary_loss(right, target).item(), 4)  # (-2 - 1 + 0 + 0) / 4 for each class
        -0.75

    Reference:
        Kervadec et al., Boundary loss for highly unbalanced segmentation, MIDL 2019, eq. 5.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits, target, valid = check_inputs(logits, target, ignore_index)
        present = present_classes(logits, target, valid)
        distances = signed_distances(present.truth > 0).to(logits.dtype)
        return mean_where(present.probability * distances, valid[present.image])


@torch.compiler.disable  # type: ignore[untyped-decorator]
def signed_distances(masks: Tensor) -> Tensor:
    """Measure to the nearest pixel of the other side, negative inside; 0 where there is none.

    Args:
        masks: (M, H, W) bool.

    Returns:
        (M, H, W) float32, pixels, on the device of `masks`.
    """
    found = torch.zeros(masks.shape)
    for mask, distances in zip(masks.cpu().numpy(), found.numpy(), strict=True):
        apart = distance_map(mask.astype(np.uint8), ignore_index=None)
        distances[:] = np.where(np.isfinite(apart), np.where(mask, -apart, apart), 0)
    return found.to(masks.device)


class BoundaryLoss(LossModule):
    """Compute `boundary_loss` as a module; see there."""

    def __init__(self, *, ignore_index: int | None = IGNORE_INDEX) -> None:
        super().__init__(boundary_loss, ignore_index=ignore_index)
