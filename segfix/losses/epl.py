"""Contour-aware equipotential learning, EPL (TMM 2022): point loss and line loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segfix.geometry.targets import IGNORE_INDEX
from segfix.losses.epl_energies import check_rays, sum_points, whole_rays
from segfix.losses.epl_lines import check_power, lines_of_images
from segfix.losses.epl_released import RELEASED_WEIGHTS, released_loss
from segfix.losses.inputs import (
    REDUCTIONS,
    Quarter,
    check_choice,
    check_inputs,
    choose_quarter,
    reduce_images,
)
from segfix.losses.module import LossModule

WIDTH = 7
"""The paper's w for Pascal VOC; 9 to 13 for Cityscapes (Tables I and II)."""
POWER = 10
"""The paper's μ for Pascal VOC; 2 for Cityscapes (Table IV)."""
POINT_WEIGHT = 0.1
LINE_WEIGHT = 0.2
SUMMED_LINE_WEIGHT = 0.01
"""The paper's λ2 (Section IV-B), for lines summed up."""
SUMS = ("mean", "sum")


def epl_point_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = IGNORE_INDEX,
    width: int = WIDTH,
    splitter: str = "A",
    norm: int = 2,
    pixels: str = "mean",
    quarter: bool = False,
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
        pixels: "mean" of |E(y) - E(ŷ)|^p over rays and classes; "sum" over them, averaged over
            directions (eq. 3 literally).
        quarter: Whether to look at a random quarter of the images instead, the same on average
            but sooner computed.
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
        >>> loss = epl_point_loss(logits, target, width=3)
        >>> loss.backward()
        >>> loss.item()  # of the rays of two pixels, two end on the other side
        0.875

    Reference:
        Yin et al., Contour-Aware Equipotential Learning, TMM 2022, eq. 2 and 3.
    """
    check_rays(width, splitter)
    check_choice("norm", norm, (1, 2))
    check_choice("pixels", pixels, SUMS)
    check_choice("reduction", reduction, REDUCTIONS)
    with torch.autocast(logits.device.type, enabled=False):
        logits, target, valid = check_inputs(logits, target, ignore_index)
        part = choose_quarter(logits, target, valid, width // 2, whole=not quarter)
        probability, counted = part.logits.softmax(dim=1), count_rays(part, width, splitter)
        losses = point_losses(probability, part, counted, valid, width, splitter, norm, pixels)
        return reduce_images(losses, valid, reduction)


def count_rays(part: Quarter, width: int, splitter: str) -> Tensor:
    """Mark the rays that count, (N, S, h, w): without void, and beginning in the part itself."""
    return whole_rays(part.valid, check_rays(width, splitter)[0]) & part.counted


def point_losses(
    probability: Tensor,
    part: Quarter,
    counted: Tensor,
    valid: Tensor,
    width: int,
    splitter: str,
    norm: int,
    pixels: str,
) -> Tensor:
    """Compute the point loss of each image, (N,); `valid` is that of whole images."""
    totals = (
        sum_points(probability, part.target, part.valid, counted, width, splitter, norm)
        / part.share
    )
    if pixels == "sum":
        return totals / counted.shape[1]
    whole = counted if part.share == 1 else whole_rays(valid, check_rays(width, splitter)[0])
    return totals / (probability.shape[1] * whole.flatten(1).sum(dim=1)).clamp(min=1)


def epl_line_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = IGNORE_INDEX,
    width: int = WIDTH,
    splitter: str = "A",
    power: int = POWER,
    match: str = "region",
    lines: str = "mean",
    quarter: bool = False,
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
        lines: "mean" over an image's classes present, directions and lines; "sum" over classes and
            lines, averaged over directions (Algorithm 1 literally).
        quarter: Whether to look at a random quarter of the images instead; its lines are its own.
        reduction: "none" (one loss for each image), their "sum", or their "mean".

    Returns:
        A scalar, about 0 (prediction equals target) to 1, or to the number of lines where these
        are summed up; or (N,) of them.

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
    check_rays(width, splitter)
    check_power(power)
    check_choice("match", match, ("region", "lines"))
    check_choice("lines", lines, SUMS)
    check_choice("reduction", reduction, REDUCTIONS)
    with torch.autocast(logits.device.type, enabled=False):
        logits, target, valid = check_inputs(logits, target, ignore_index)
        part = choose_quarter(logits, target, valid, width // 2, whole=not quarter)
        probability, counted = part.logits.softmax(dim=1), count_rays(part, width, splitter)
        losses = lines_of_images(
            probability, part.target, part.valid, counted, width, splitter, power, match, lines
        )
        return reduce_images(losses, valid, reduction)


def choose_weights(
    point_weight: float | None, line_weight: float | None, lines: str, released: bool
) -> tuple[float, float]:
    """Choose the weights of `epl_loss` that are None."""
    summed = SUMMED_LINE_WEIGHT if lines == "sum" else LINE_WEIGHT
    weights = RELEASED_WEIGHTS if released else (POINT_WEIGHT, summed)
    return (
        weights[0] if point_weight is None else point_weight,
        weights[1] if line_weight is None else line_weight,
    )


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
    pixels: str = "mean",
    lines: str = "mean",
    quarter: bool = False,
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
        line_weight: λ2; by default LINE_WEIGHT, of summed lines SUMMED_LINE_WEIGHT.
        pixels: See `epl_point_loss`.
        lines: See `epl_line_loss`.
        quarter: See both, as for `reduction`.
        reduction: See there.
        released: Compute what the released code does instead: rays across void count, beyond the
            frame lies 0 for the line loss, all classes and images share one coefficient per line
            with 1 added to overlap and sizes, energies off the lines count as 0 rather than not at
            all, and the weights are 0.02 and 0.2 by default. `match` and the options
            before `released` play no part.

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
    point_weight, line_weight = choose_weights(point_weight, line_weight, lines, released)
    for name, weight in (("point_weight", point_weight), ("line_weight", line_weight)):
        if weight < 0:
            raise ValueError(f"Expected {name} >= 0 but got {weight}.")
    if released:
        if quarter or reduction != "mean":
            raise ValueError("Expected no quarter and reduction='mean' with released.")
        rays: dict[str, Any] = {"ignore_index": ignore_index, "width": width, "splitter": splitter}
        rays["weights"] = point_weight, line_weight
        return released_loss(logits, target, norm=norm, power=power, **rays)
    check_rays(width, splitter)
    check_power(power)
    for name, value, choices in (
        ("norm", norm, (1, 2)),
        ("match", match, ("region", "lines")),
        ("pixels", pixels, SUMS),
        ("lines", lines, SUMS),
        ("reduction", reduction, REDUCTIONS),
    ):
        check_choice(name, value, choices)
    with torch.autocast(logits.device.type, enabled=False):
        logits, target, valid = check_inputs(logits, target, ignore_index)
        part = choose_quarter(logits, target, valid, width // 2, whole=not quarter)
        probability, counted = part.logits.softmax(dim=1), count_rays(part, width, splitter)
        losses = 0 * probability[:, :, :1, :1].sum(dim=(1, 2, 3))
        if point_weight:
            losses = losses + point_weight * point_losses(
                probability, part, counted, valid, width, splitter, norm, pixels
            )
        if line_weight:
            losses = losses + line_weight * lines_of_images(
                probability, part.target, part.valid, counted, width, splitter, power, match, lines
            )
        return reduce_images(losses, valid, reduction)


class EPLPointLoss(LossModule):
    """Compute `epl_point_loss` as a module; see there."""

    def __init__(
        self,
        *,
        ignore_index: int | None = IGNORE_INDEX,
        width: int = WIDTH,
        splitter: str = "A",
        norm: int = 2,
        pixels: str = "mean",
        quarter: bool = False,
        reduction: str = "mean",
        weight: float | str = 1.0,
    ) -> None:
        super().__init__(
            epl_point_loss,
            ignore_index=ignore_index,
            width=width,
            splitter=splitter,
            norm=norm,
            pixels=pixels,
            quarter=quarter,
            reduction=reduction,
            weight=weight,
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
        lines: str = "mean",
        quarter: bool = False,
        reduction: str = "mean",
        weight: float | str = 1.0,
    ) -> None:
        super().__init__(
            epl_line_loss,
            ignore_index=ignore_index,
            width=width,
            splitter=splitter,
            power=power,
            match=match,
            lines=lines,
            quarter=quarter,
            reduction=reduction,
            weight=weight,
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
        pixels: str = "mean",
        lines: str = "mean",
        quarter: bool = False,
        reduction: str = "mean",
        released: bool = False,
        weight: float | str = 1.0,
    ) -> None:
        point_weight, line_weight = choose_weights(point_weight, line_weight, lines, released)
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
            pixels=pixels,
            lines=lines,
            quarter=quarter,
            reduction=reduction,
            released=released,
            weight=weight,
        )
