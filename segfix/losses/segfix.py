"""The loss of the SegFix network: boundary and direction (ECCV 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segfix.geometry.label_distance import DISTANCE_STEPS, WRONG_WITHIN
from segfix.geometry.targets import IGNORE_INDEX


def segfix_loss(
    boundary_logits: Tensor,
    direction_logits: Tensor,
    boundary: Tensor,
    direction: Tensor,
    *,
    class_weights: bool = False,
    counted: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the cross-entropies of the boundary, and of the direction inside it.

    The direction counts on the pixels that the boundary branch itself marks as boundary, void
    and undefined directions left out. Computed in float32 at least, under autocast as well.

    Args:
        boundary_logits: (N, 1, H, W).
        direction_logits: (N, m, H, W).
        boundary: (N, H, W) integers: 1 boundary, 0 interior, 255 void.
        direction: (N, H, W) integers: sector 0 … m - 1, 255 undefined.
        class_weights: Weigh both classes and all sectors by 1 - their share in the batch, as the
            released code does.
        counted: (N, H, W) bool, where the direction counts as well, boundary or not.

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
        inside = valid & (boundary_logits.detach() > 0)
        if counted is not None:
            inside |= counted
        inside &= direction != IGNORE_INDEX
        target = boundary[valid].to(precision)
        weight = sector_weights = None
        if class_weights:
            weight, sector_weights = rarity_weights(
                target, direction[inside], direction_logits.shape[1]
            )
        boundary_loss = F.binary_cross_entropy_with_logits(
            boundary_logits[valid], target, weight, reduction="sum"
        ) / valid.sum().clamp(min=1)
        sectors = torch.where(inside, direction, IGNORE_INDEX).long()
        direction_loss = F.cross_entropy(
            direction_logits, sectors, sector_weights, ignore_index=IGNORE_INDEX, reduction="sum"
        ) / inside.sum().clamp(min=1)
    return boundary_loss, direction_loss


def rarity_weights(target: Tensor, sectors: Tensor, num_sectors: int) -> tuple[Tensor, Tensor]:
    """Compute one minus the share of each pixel's class, and of each sector.

    Args:
        target: (K,) float, 1 boundary, 0 interior.
        sectors: (L,) integers, 0 … num_sectors - 1.
        num_sectors: m.

    Returns:
        (K,) and (m,) weights of the type of `target`.
    """
    share = target.mean()
    counts = torch.bincount(sectors, minlength=num_sectors)
    weights = 1 - counts.to(target.dtype) / counts.sum().clamp(min=1)
    return torch.where(target > 0, 1 - share, share), weights


def wrong_label_loss(logits: Tensor, wrong: Tensor, distance: Tensor) -> Tensor:
    """Compute the cross-entropy of where a prediction is wrong, over what may be changed.

    Far from the prediction's boundaries nearly all is right and easy to tell; there only what is
    wrong counts. Computed in float32 at least, under autocast as well.

    Args:
        logits: (N, 1, H, W).
        wrong: (N, H, W) integers: 1 wrong, 0 right, 255 unknown.
        distance: (N, H, W) uint8 of `segfix.geometry.label_distance`.

    Returns:
        A scalar; a zero with a gradient where no pixel counts.

    Example:
        >>> one = torch.ones(1, 2, 2, dtype=torch.uint8)
        >>> round(float(wrong_label_loss(torch.zeros(1, 1, 2, 2), one, 8 * one)), 4)
        0.6931
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits[:, 0].to(torch.promote_types(logits.dtype, torch.float32))
        within = distance <= WRONG_WITHIN * DISTANCE_STEPS
        counted = (wrong != IGNORE_INDEX) & (within | (wrong == 1))
        target = wrong[counted].to(logits.dtype)
        total = F.binary_cross_entropy_with_logits(logits[counted], target, reduction="sum")
        return total / counted.sum().clamp(min=1)


class SegFixLoss(nn.Module):
    """Compute `segfix_loss` as a module; see there."""

    def __init__(self, *, class_weights: bool = False) -> None:
        super().__init__()
        self.class_weights = class_weights

    def extra_repr(self) -> str:
        """List the option, as it would be written in a call."""
        return f"class_weights={self.class_weights}"

    def forward(
        self,
        boundary_logits: Tensor,
        direction_logits: Tensor,
        boundary: Tensor,
        direction: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Compute boundary loss and direction loss."""
        return segfix_loss(
            boundary_logits,
            direction_logits,
            boundary,
            direction,
            class_weights=self.class_weights,
        )
