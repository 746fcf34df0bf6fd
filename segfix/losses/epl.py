"""Contour-aware equipotential learning, EPL (TMM 2022): point loss and line loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segfix.geometry.targets import IGNORE_INDEX
from segfix.losses.epl_energies import EnergySum, Window, check_windows, energies, whole_rays
from segfix.losses.epl_lines import check_power, find_lines, line_losses
from segfix.losses.epl_released import RELEASED_WEIGHTS, released_loss
from segfix.losses.inputs import REDUCTIONS, check_choice, check_inputs, present_classes
from segfix.losses.module import LossModule

WIDTH = 7
POWER = 10
"""The paper's μ for Pascal VOC; 2 for Cityscapes."""
POINT_WEIGHT = 0.1
LINE_WEIGHT = 0.2


def epl_point_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = IGNORE_INDEX,
    width: int = WIDTH,
    splitter: str = "A",
    norm: int = 2,
    reduction: str = "mean",
) -> Tensor:
    """Compare the energies of prediction and target in every direction.

    E_s(x)[p] = Σ_{k=0}^{⌊w/2⌋} x[p + k·s], with the pixels at the frame going on beyond it; a ray
    that crosses void is left out. Computed in float32 at least, under autocast as well.

    Args:
        logits: (N, C, H, W).
        target: (N, H, W) integers, 0 … C - 1 or `ignore_index`.
        ignore_index: The void id.
        width: w, odd.
        splitter: Directions: "A" up, down, left, right; "B" the diagonals; "C" all eight;
            "plain" a w×w box, its sum scaled to the range of a ray.
        norm: p, 1 or 2.
        reduction: "mean" of |E(y) - E(ŷ)|^p over rays and classes; "sum" over them, averaged
            over directions and batch (eq. 3 literally).

    Returns:
        A scalar ≥ 0.

    Raises:
        TypeError: A tensor has the wrong type.
        ValueError: A tensor has the wrong shape, an id is outside the classes, or an option isn't
            one of those above.

    Example:
        >>> target = torch.tensor([[[0, 0, 1, 1]]])
        >>> logits = torch.zeros(1, 2, 1, 4, requires_grad=True)
        >>> loss = epl_point_loss(logits, target, width=3)
        >>> loss.backward()
        >>> loss.item()  # of the rays of two pixels, two end on the other side
        0.875

    Reference:
        Yin et al., Contour-Aware Equipotential Learning, TMM 2022, eq. 2 and 3.
    """
    windows, factor = check_windows(width, splitter)
    check_choice("norm", norm, (1, 2))
    check_choice("reduction", reduction, REDUCTIONS)
    with torch.autocast(logits.device.type, enabled=False):
        logits, target, valid = check_inputs(logits, target, ignore_index)
        size, num_classes = logits.shape[:2]
        known = valid[:, None].to(logits.dtype)
        difference = (logits.softmax(dim=1) * known).scatter_add_(1, target[:, None], -known)
        rays = whole_rays(valid, windows)
        total: Tensor = EnergySum.apply(difference, rays, windows, factor, norm)
    if reduction == "sum":
        return total / (len(windows) * max(1, size))
    return total / (num_classes * rays.sum()).clamp(min=1)


def epl_line_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = IGNORE_INDEX,
    width: int = WIDTH,
    splitter: str = "A",
    power: int = POWER,
    match: str = "region",
    reduction: str = "mean",
) -> Tensor:
    """Average one minus the equipotential Dice coefficient over lines and classes present.

    Line τ is where the energy of the target is τ = 1 … ⌊w/2⌋; with d = exp(-(E(y) - τ)^μ) on the
    line region and d̂ likewise on as many predicted points, EDC = 2·C·Σ(d·d̂) / (Σd + Σd̂), where
    C = Σd / Σd². The predicted points are those whose rank by energy is that of the region in the
    target. Lines that the target lacks are left out.

    Args:
        logits: (N, C, H, W).
        target: (N, H, W) integers, 0 … C - 1 or `ignore_index`.
        ignore_index: The void id.
        width: As for `epl_point_loss`, like `splitter`.
        splitter: See there.
        power: μ, even.
        match: "region": both sums over the region of all lines and as many predicted points;
            "lines": for each τ over that line and as many (eq. 4).
        reduction: "mean" over classes present, directions and lines; "sum" over them, averaged
            over directions and batch (Algorithm 1 literally).

    Returns:
        A scalar, about 0 (prediction equals target) to 1.

    Raises:
        TypeError: A tensor has the wrong type.
        ValueError: A tensor has the wrong shape, an id is outside the classes, or an option isn't
            one of those above.

    Example:
        >>> target = torch.tensor([[[0, 0, 0, 1, 1, 1]]])
        >>> right = 20 * torch.nn.functional.one_hot(target).movedim(-1, 1).float()
        >>> abs(round(epl_line_loss(right, target, width=3).item(), 4))
        0.0

    Reference:
        Yin et al., Contour-Aware Equipotential Learning, TMM 2022, eq. 4 and Algorithm 1.
    """
    windows, factor = check_windows(width, splitter)
    check_power(power)
    check_choice("match", match, ("region", "lines"))
    check_choice("reduction", reduction, REDUCTIONS)
    with torch.autocast(logits.device.type, enabled=False):
        logits, target, valid = check_inputs(logits, target, ignore_index)
        true, found, counted = class_energies(logits, target, valid, windows)
        regions = match == "region"
        lines = find_lines(factor * true, factor * found, counted, width // 2, regions=regions)
        loss = line_losses(lines, power, regions=regions).sum()
    if reduction == "sum":
        return loss / (len(windows) * max(1, len(logits)))
    return loss / (lines.sizes > 0).sum().clamp(min=1)


def class_energies(
    logits: Tensor, target: Tensor, valid: Tensor, windows: tuple[Window, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum target and soft-max along rays: one row for each class present and direction.

    Returns:
        (R, H·W) energies of the target, (R, H·W) of the prediction, and (R, H·W) bool, whose rays
        cross no void.
    """
    present = present_classes(logits, target, valid)
    true, found = (
        energies(fields, windows).flatten(0, 1).flatten(1)
        for fields in (present.truth, present.probability)
    )
    return true, found, whole_rays(valid, windows)[present.image].flatten(0, 1).flatten(1)


def epl_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = IGNORE_INDEX,
    width: int = WIDTH,
    splitter: str = "A",
    norm: int = 2,
    power: int = POWER,
    match: str = "region",
    point_weight: float | None = None,
    line_weight: float | None = None,
    reduction: str = "mean",
    released: bool = False,
) -> Tensor:
    """Compute λ1 · point loss + λ2 · line loss.

    Args:
        logits: (N, C, H, W).
        target: (N, H, W) integers, 0 … C - 1 or `ignore_index`.
        ignore_index: The void id.
        width: See `epl_point_loss`, as for `splitter` and `norm`.
        splitter: See there.
        norm: See there.
        power: See `epl_line_loss`, as for `match`.
        match: See there.
        point_weight: λ1; by default POINT_WEIGHT.
        line_weight: λ2; by default LINE_WEIGHT.
        reduction: See both.
        released: Compute what the released code does instead: rays across void count, beyond the
            frame lies 0 for the line loss, all classes and images share one coefficient per line
            with 1 added to overlap and sizes, energies off the lines count as 0 rather than not at
            all, and the weights are 0.02 and 0.2 by default. `match` and `reduction` play no part.

    Returns:
        A scalar.

    Raises:
        TypeError: A tensor has the wrong type.
        ValueError: A tensor has the wrong shape, an id is outside the classes, or an option isn't
            one of those above.

    Example:
        >>> logits = torch.randn(2, 5, 16, 16, requires_grad=True)
        >>> target = torch.randint(0, 5, (2, 16, 16))
        >>> epl_loss(logits, target).backward()

    Reference:
        Yin et al., Contour-Aware Equipotential Learning, TMM 2022, eq. 5.
    """
    weights = RELEASED_WEIGHTS if released else (POINT_WEIGHT, LINE_WEIGHT)
    point_weight = weights[0] if point_weight is None else point_weight
    line_weight = weights[1] if line_weight is None else line_weight
    rays: dict[str, Any] = {"ignore_index": ignore_index, "width": width, "splitter": splitter}
    if released:
        rays["weights"] = point_weight, line_weight
        return released_loss(logits, target, norm=norm, power=power, **rays)
    rays["reduction"] = reduction
    point = epl_point_loss(logits, target, norm=norm, **rays)
    line = epl_line_loss(logits, target, power=power, match=match, **rays)
    return point_weight * point + line_weight * line


class EPLPointLoss(LossModule):
    """Compute `epl_point_loss` as a module; see there."""

    def __init__(
        self,
        *,
        ignore_index: int | None = IGNORE_INDEX,
        width: int = WIDTH,
        splitter: str = "A",
        norm: int = 2,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            epl_point_loss,
            ignore_index=ignore_index,
            width=width,
            splitter=splitter,
            norm=norm,
            reduction=reduction,
        )


class EPLLineLoss(LossModule):
    """Compute `epl_line_loss` as a module; see there."""

    def __init__(
        self,
        *,
        ignore_index: int | None = IGNORE_INDEX,
        width: int = WIDTH,
        splitter: str = "A",
        power: int = POWER,
        match: str = "region",
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            epl_line_loss,
            ignore_index=ignore_index,
            width=width,
            splitter=splitter,
            power=power,
            match=match,
            reduction=reduction,
        )


class EPLLoss(LossModule):
    """Compute `epl_loss` as a module; see there."""

    def __init__(
        self,
        *,
        ignore_index: int | None = IGNORE_INDEX,
        width: int = WIDTH,
        splitter: str = "A",
        norm: int = 2,
        power: int = POWER,
        match: str = "region",
        point_weight: float | None = None,
        line_weight: float | None = None,
        reduction: str = "mean",
        released: bool = False,
    ) -> None:
        super().__init__(
            epl_loss,
            ignore_index=ignore_index,
            width=width,
            splitter=splitter,
            norm=norm,
            power=power,
            match=match,
            point_weight=point_weight,
            line_weight=line_weight,
            reduction=reduction,
            released=released,
        )
