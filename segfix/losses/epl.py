"""Contour-aware equipotential learning, EPL (TMM 2022): point loss and line loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from segfix.geometry.targets import IGNORE_INDEX
from segfix.losses.inputs import (
    REDUCTIONS,
    check_choice,
    check_inputs,
    class_maps,
    present_classes,
)

AXES = ((-1, 0), (1, 0), (0, -1), (0, 1))
DIAGONALS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
SPLITTERS: dict[str, tuple[tuple[int, int], ...]] = {
    "A": AXES,
    "B": DIAGONALS,
    "C": (*AXES, *DIAGONALS),
    "plain": (),
}
"""Directions (dy, dx) of the anisotropic convolution; plain is a box, for comparison."""

WIDTH = 7
POWER = 10
"""The paper's μ for Pascal VOC; 2 for Cityscapes."""
POINT_WEIGHT = 0.1
LINE_WEIGHT = 0.2
RELEASED_WEIGHTS = (0.02, 0.2)
MAX_EXPONENT = 40.0
"""e^-40 is nothing beside the 1 of a pixel on its line, and its square is still a float32."""

Window = tuple[tuple[int, int], ...]


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
    """Difference of the energies of prediction and target, in every direction.

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
    """One minus the equipotential Dice coefficient of each line of each class present.

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
    num_lines = width // 2
    with torch.autocast(logits.device.type, enabled=False):
        logits, target, valid = check_inputs(logits, target, ignore_index)
        present = present_classes(logits, target, valid)
        # One row for each class present and direction.
        true = factor * energies(present.truth, windows).flatten(0, 1).flatten(1)
        found = factor * energies(present.probability, windows).flatten(0, 1).flatten(1)
        counted = whole_rays(valid, windows)[present.image].flatten(0, 1).flatten(1)
        on_lines = counted & (true > 0.5) & (true < num_lines + 0.5)
        beyond = counted & (true > num_lines + 0.5)
        interior = row_counts(counted) - row_counts(on_lines) - row_counts(beyond)
        place = on_lines.flatten().nonzero()[:, 0]
        line = (true.flatten()[place] + 0.5).floor().long() - 1
        line += place // true.shape[1] * num_lines
        sizes = torch.bincount(line, minlength=len(true) * num_lines).view(-1, num_lines)
        ends = interior[:, None] + sizes.cumsum(1)
        starts = ends - sizes
        if match == "region":
            starts, ends = starts[:, :1], ends[:, -1:]
        ranks = torch.stack([starts, ends - 1], dim=2).clamp(0, true.shape[1] - 1)
        ordered = found.detach().masked_fill(~counted, torch.inf)
        bounds = kth_values(ordered, ranks.flatten(1)).view(ranks.shape)
        # Only the pixels of the two regions matter from here on.
        predicted = (ordered >= bounds[:, 0, :1]) & (ordered <= bounds[:, -1, 1:])
        place = (on_lines | predicted).flatten().nonzero()[:, 0]
        row = place // true.shape[1]
        true, found = true.flatten()[place], found.flatten()[place]
        on_lines = on_lines.flatten()[place]
        per_row = []
        for tau in range(1, num_lines + 1):
            truly, interval = on_lines, bounds[row, 0]
            if match == "lines":
                truly, interval = (true - tau).abs() < 0.5, bounds[row, tau - 1]
            near = (found >= interval[:, 0]) & (found <= interval[:, 1])
            d_true = closeness(true, tau, power) * truly
            d_found = closeness(found, tau, power) * near
            per_row += [d_true, d_true.square(), d_true * d_found, d_found]
        sums = logits.new_zeros(len(sizes), len(per_row))
        sums = sums.index_add(0, row, torch.stack(per_row, dim=1))
        d_true, squares, overlap, d_found = sums.view(-1, num_lines, 4).unbind(2)
        exists = sizes > 0
        scale = d_true / torch.where(exists, squares, 1)
        coefficient = 2 * scale * overlap / torch.where(exists, d_true + d_found, 1)
        loss = torch.where(exists, 1 - coefficient, 0).sum()
    if reduction == "sum":
        return loss / (len(windows) * max(1, len(logits)))
    return loss / exists.sum().clamp(min=1)


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
    """λ1 · point loss + λ2 · line loss.

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
    if released:
        return _released_loss(
            logits,
            target,
            ignore_index=ignore_index,
            width=width,
            splitter=splitter,
            norm=norm,
            power=power,
            weights=(point_weight, line_weight),
        )
    shared: dict[str, Any] = {
        "ignore_index": ignore_index,
        "width": width,
        "splitter": splitter,
        "reduction": reduction,
    }
    point = epl_point_loss(logits, target, norm=norm, **shared)
    line = epl_line_loss(logits, target, power=power, match=match, **shared)
    return point_weight * point + line_weight * line


def _released_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None,
    width: int,
    splitter: str,
    norm: int,
    power: int,
    weights: tuple[float, float],
) -> Tensor:
    windows, factor = check_windows(width, splitter)
    check_choice("norm", norm, (1, 2))
    check_power(power)
    num_lines = width // 2
    with torch.autocast(logits.device.type, enabled=False):
        logits, target, valid = check_inputs(logits, target, ignore_index)
        maps = [m.flatten(0, 1) for m in class_maps(logits, target, valid)]
        point = line = logits.new_zeros(())
        for window in windows:
            found, true = (factor * energies(m, (window,))[:, 0] for m in maps)
            apart = (found - true).square() if norm == 2 else (found - true).abs()
            point = point + apart.sum() / max(1, apart.numel())
            found, true = (
                factor * energies(m, (window,), beyond="zero")[:, 0].flatten(1) for m in maps
            )
            on_lines = (true >= 1) & (true <= num_lines)
            starts, ends = (true < 1).sum(1), (true < num_lines + 1).sum(1)
            bounds = kth_values(
                found.detach(), torch.stack([starts, ends - 1], dim=1).clamp(0, true.shape[1] - 1)
            )
            predicted = (
                (found >= bounds[:, :1]) & (found <= bounds[:, 1:]) & (ends > starts)[:, None]
            )
            found, true = torch.where(predicted, found, 0), torch.where(on_lines, true, 0)
            for tau in range(1, num_lines + 1):
                if not bool(((true - tau).abs() < 0.5).any()):
                    # 0 / 0 there.
                    continue
                d_true, d_found = closeness(true, tau, power), closeness(found, tau, power)
                overlap = 2 * ((d_true * d_found).sum() + 1) * d_true.sum()
                sizes = (d_true.sum() + d_found.sum() + 1) * d_true.square().sum()
                line = line + 1 - overlap / sizes
    return (weights[0] * point + weights[1] * line) / len(windows)


def closeness(energy: Tensor, tau: int, power: int) -> Tensor:
    """exp(-(E - τ)^μ)."""
    # A power that overflows has no gradient, though its exponential is 0.
    apart = (energy - tau).abs().clamp(max=MAX_EXPONENT ** (1 / power))
    return (-(apart**power)).exp()


def check_windows(width: int, splitter: str) -> tuple[tuple[Window, ...], float]:
    """The pixels that each direction adds up, as shifts (dy, dx), and the factor of the sum."""
    if width < 3 or width % 2 == 0:
        raise ValueError(f"Expected an odd width of 3 or more but got {width}.")
    check_choice("splitter", splitter, SPLITTERS)
    reach = width // 2
    if splitter == "plain":
        span = range(-reach, reach + 1)
        return (tuple((dy, dx) for dy in span for dx in span),), (reach + 1) / width**2
    rays = tuple(
        tuple((k * dy, k * dx) for k in range(reach + 1)) for dy, dx in SPLITTERS[splitter]
    )
    return rays, 1.0


def check_power(power: int) -> None:
    """Refuse a μ with which lines to one side would be closer than the line itself."""
    if power < 2 or power % 2:
        raise ValueError(f"Expected an even power μ of 2 or more but got {power}.")


def whole_rays(valid: Tensor, windows: tuple[Window, ...]) -> Tensor:
    """Where the rays cross no void: (N, H, W) bool to (N, S, H, W) bool."""
    void = energies((~valid).float(), windows)
    return void == 0


def row_counts(rows: Tensor) -> Tensor:
    """How many of each row are true: (R, K) bool to (R,) int64."""
    # Four bytes a sum: a sum of bool takes 17 times as long on the CPU.
    return rows.view(torch.uint8).sum(dim=1, dtype=torch.int32).long()


def energies(fields: Tensor, windows: tuple[Window, ...], beyond: str = "edge") -> Tensor:
    """Anisotropic convolution: sums over a window of shifts, for each window.

    Args:
        fields: (K, H, W) float.
        windows: S tuples of shifts (dy, dx), pixels.
        beyond: What lies beyond the frame: the pixel at the "edge", or "zero".

    Returns:
        (K, S, H, W).
    """
    summed: Tensor = WindowSums.apply(fields, windows, beyond)
    return summed


class WindowSums(torch.autograd.Function):
    """`energies`: a linear map and its transpose as sums of slices.

    A convolution with w×w kernels takes some 19 times as long on the CPU: a ray has few pixels of
    the kernel.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, fields: Tensor, windows: tuple[Window, ...], beyond: str
    ) -> Tensor:
        ctx.windows, ctx.beyond = windows, beyond
        return _window_sums(fields, windows, beyond)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: D102
        return _transposed_sums(gradient, ctx.windows, ctx.beyond), None, None


def _window_sums(fields: Tensor, windows: tuple[Window, ...], beyond: str) -> Tensor:
    """(K, H, W) to (K, S, H, W)."""
    height, width = fields.shape[-2:]
    reach = _reach(windows)
    # An empty batch has nothing to go on at the edge.
    mode = "replicate" if beyond == "edge" and fields.numel() else "constant"
    padded = F.pad(fields[:, None], (reach,) * 4, mode=mode)[:, 0]
    sums = fields.new_empty(len(fields), len(windows), height, width)
    for place, window in enumerate(windows):
        for number, (dy, dx) in enumerate(window):
            shifted = padded[:, reach + dy :, reach + dx :][:, :height, :width]
            if number:
                sums[:, place] += shifted
            else:
                sums[:, place] = shifted
    return sums


def _transposed_sums(gradient: Tensor, windows: tuple[Window, ...], beyond: str) -> Tensor:
    """(K, S, H, W) to (K, H, W): what `_window_sums` does to gradients."""
    height, width = gradient.shape[-2:]
    reach = _reach(windows)
    padded = gradient.new_zeros(len(gradient), height + 2 * reach, width + 2 * reach)
    for place, window in enumerate(windows):
        for dy, dx in window:
            padded[:, reach + dy :, reach + dx :][:, :height, :width] += gradient[:, place]
    if beyond == "edge":
        padded[:, reach] += padded[:, :reach].sum(1)
        padded[:, -reach - 1] += padded[:, -reach:].sum(1)
        padded[..., reach] += padded[..., :reach].sum(-1)
        padded[..., -reach - 1] += padded[..., -reach:].sum(-1)
    return padded[:, reach:-reach, reach:-reach].contiguous()


def _reach(windows: tuple[Window, ...]) -> int:
    return max(max(abs(dy), abs(dx)) for window in windows for dy, dx in window)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def kth_values(rows: Tensor, ranks: Tensor) -> Tensor:
    """The values of given ranks in each row, without sorting it.

    Args:
        rows: (R, K) float.
        ranks: (R, T) integers, 0 the smallest.

    Returns:
        (R, T) values.
    """
    if rows.device.type != "cpu":
        return _kth_values_padded(rows, ranks)
    found = torch.empty_like(ranks, dtype=rows.dtype)
    arrays = zip(rows.numpy(), ranks.numpy(), found.numpy(), strict=True)
    for row, places, values in arrays:
        values[:] = np.partition(row, places)[places]
    return found


def _kth_values_padded(rows: Tensor, ranks: Tensor) -> Tensor:
    """`kth_values` with one call per column: all rows at once want the same rank.

    Smaller values put before a row raise its ranks.
    """
    found = []
    for column in ranks.unbind(1):
        highest = int(column.max()) if column.numel() else 0
        spare = highest - column
        places = torch.arange(int(spare.max()) if spare.numel() else 0, device=rows.device)
        filling = torch.where(places < spare[:, None], -torch.inf, torch.inf).to(rows.dtype)
        found.append(torch.cat([filling, rows], dim=1).kthvalue(highest + 1, dim=1).values)
    return torch.stack(found, dim=1)


class EnergySum(torch.autograd.Function):
    """Σ |E_s|^p over the rays that count; the gradient is made on the way and kept instead of E."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        maps: Tensor,
        rays: Tensor,
        windows: tuple[Window, ...],
        factor: float,
        norm: int,
    ) -> Tensor:
        total = maps.new_zeros(())
        gradient = torch.empty_like(maps) if ctx.needs_input_grad[0] else None
        # One image at a time, in place: the energies are several times the class maps.
        for place, (fields, whole) in enumerate(zip(maps, rays.to(maps.dtype), strict=True)):
            energy = _window_sums(fields, windows, "edge").mul_(whole * factor)
            total += energy.square().sum() if norm == 2 else energy.abs().sum()
            if gradient is not None:
                outer = energy.mul_(2 * factor) if norm == 2 else energy.sign_().mul_(factor)
                gradient[place] = _transposed_sums(outer, windows, "edge")
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        (gradient,) = ctx.saved_tensors
        return gradient * outer, None, None, None, None


class EPLPointLoss(nn.Module):
    """`epl_point_loss` as a module; see there."""

    def __init__(
        self,
        *,
        ignore_index: int | None = IGNORE_INDEX,
        width: int = WIDTH,
        splitter: str = "A",
        norm: int = 2,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "ignore_index": ignore_index,
            "width": width,
            "splitter": splitter,
            "norm": norm,
            "reduction": reduction,
        }

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of (N, C, H, W) logits for an (N, H, W) target."""
        return epl_point_loss(logits, target, **self.options)


class EPLLineLoss(nn.Module):
    """`epl_line_loss` as a module; see there."""

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
        super().__init__()
        self.options: dict[str, Any] = {
            "ignore_index": ignore_index,
            "width": width,
            "splitter": splitter,
            "power": power,
            "match": match,
            "reduction": reduction,
        }

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of (N, C, H, W) logits for an (N, H, W) target."""
        return epl_line_loss(logits, target, **self.options)


class EPLLoss(nn.Module):
    """`epl_loss` as a module; see there."""

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
        super().__init__()
        self.options: dict[str, Any] = {
            "ignore_index": ignore_index,
            "width": width,
            "splitter": splitter,
            "norm": norm,
            "power": power,
            "match": match,
            "point_weight": point_weight,
            "line_weight": line_weight,
            "reduction": reduction,
            "released": released,
        }

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of (N, C, H, W) logits for an (N, H, W) target."""
        return epl_loss(logits, target, **self.options)
