"""The loss of the SegFix network: boundary and direction (ECCV 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segfix.geometry.targets import IGNORE_INDEX


def segfix_loss(
    boundary_logits: Tensor,
    direction_logits: Tensor,
    boundary: Tensor,
    direction: Tensor,
    *,
    class_weights: bool = False,
) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of the boundary, cross-entropy of the direction inside it.

    The direction counts on the pixels that the boundary branch itself marks as boundary, void
    and undefined directions left out. Computed in float32 at least, under autocast as well.

    Args:
        boundary_logits: (N, 1, H, W).
        direction_logits: (N, m, H, W).
        boundary: (N, H, W) integers: 1 boundary, 0 interior, 255 void.
        direction: (N, H, W) integers: sector 0 … m - 1, 255 undefined.
        class_weights: Weigh both classes and all sectors by 1 - their share in the batch, as the
            released code does.

    Returns:
        Two scalars, boundary loss and direction loss; each is a zero with a gradient where no
        pixel counts.

    Example:
        >>> logits = torch.zeros(1, 1, 2, 2), torch.zeros(1, 8, 2, 2)
        >>> target = torch.ones(1, 2, 2, dtype=torch.int64)
        >>> boundary_loss, direction_loss = segfix_loss(*logits, target, target)
        >>> round(float(boundary_loss), 4), float(direction_loss)
        (0.6931, 0.0)

    Reference:
        Yuan et al., SegFix, ECCV 2020, Sections 3.1 and 3.3.
    """
    with torch.autocast(boundary_logits.device.type, enabled=False):
        precision = torch.promote_types(boundary_logits.dtype, torch.float32)
        boundary_logits = boundary_logits[:, 0].to(precision)
        direction_logits = direction_logits.to(precision)
        valid = boundary != IGNORE_INDEX
        inside = valid & (boundary_logits.detach() > 0) & (direction != IGNORE_INDEX)
        target = boundary[valid].to(precision)
        weight = sector_weights = None
        if class_weights:
            share = target.mean()
            weight = torch.where(target > 0, 1 - share, share)
            counts = torch.bincount(direction[inside], minlength=direction_logits.shape[1])
            sector_weights = 1 - counts.to(precision) / counts.sum().clamp(min=1)
        boundary_loss = F.binary_cross_entropy_with_logits(
            boundary_logits[valid], target, weight, reduction="sum"
        ) / valid.sum().clamp(min=1)
        sectors = torch.where(inside, direction, IGNORE_INDEX).long()
        direction_loss = F.cross_entropy(
            direction_logits,
            sectors,
            sector_weights,
            ignore_index=IGNORE_INDEX,
            reduction="sum",
        ) / inside.sum().clamp(min=1)
    return boundary_loss, direction_loss


class SegFixLoss(nn.Module):
    """`segfix_loss` as a module; see there."""

    def __init__(self, *, class_weights: bool = False) -> None:
        super().__init__()
        self.class_weights = class_weights

    def forward(
        self,
        boundary_logits: Tensor,
        direction_logits: Tensor,
        boundary: Tensor,
        direction: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Boundary loss and direction loss."""
        return segfix_loss(
            boundary_logits,
            direction_logits,
            boundary,
            direction,
            class_weights=self.class_weights,
        )
