"""Equipotential lines of EPL: which pixels lie on them, in the target and in the prediction."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from segfix.losses.closed_form import closed_form
from segfix.losses.epl_energies import check_rays, spread_along, sum_along
from segfix.losses.inputs import class_counts

MAX_EXPONENT = 40.0
"""e^-40 is nothing beside the 1 of a pixel on its line, and its square is still a float32."""


class Lines(NamedTuple):
    """The pixels on the lines of the target and of the prediction.

    There are R rows, one for each class present and direction, of L lines each; P pixels lie in
    the region of the lines of either.

    Attributes:
        place: (P,) int64 place of each pixel among those of all rows.
        row: (P,) its row.
        true: (P,) its energy in the target.
        found: (P,) its energy in the prediction.
        on_lines: (P,) bool, whether it lies in the region of the target.
        bounds: (R, T, 2) smallest and largest predicted energy of what is matched, T being 1 for
            whole regions and L for single lines.
        sizes: (R, L) int64 pixels on each line of the target.
    """

    place: Tensor
    row: Tensor
    true: Tensor
    found: Tensor
    on_lines: Tensor
    bounds: Tensor
    sizes: Tensor


def find_lines(
    true: Tensor, found: Tensor, counted: Tensor, num_lines: int, *, regions: bool
) -> Lines:
    """Find the pixels on the lines of the target, and as many in the prediction by their rank.

    Args:
        true: (R, K) energies of the target.
        found: (R, K) energies of the prediction.
        counted: (R, K) bool, whose rays cross no void.
        num_lines: L; line τ is where the energy of the target is τ = 1 … L.
        regions: Whether all lines of a row are matched as one region, instead of each by itself.
    """
    on_lines = counted & (true > 0.5) & (true < num_lines + 0.5)
    beyond = counted & (true > num_lines + 0.5)
    interior = row_counts(counted) - row_counts(on_lines) - row_counts(beyond)
    place = on_lines.flatten().nonzero()[:, 0]
    line = (true.flatten()[place] + 0.5).floor().long() - 1
    line += place // true.shape[1] * num_lines
    sizes = torch.bincount(line, minlength=len(true) * num_lines).view(-1, num_lines)
    ends = interior[:, None] + sizes.cumsum(1)
    starts = ends - sizes
    if regions:
        starts, ends = starts[:, :1], ends[:, -1:]
    ranks = torch.stack([starts, ends - 1], dim=2).clamp(0, true.shape[1] - 1)
    ordered = found.detach().masked_fill(~counted, torch.inf)
    bounds = kth_values(ordered, ranks.flatten(1)).view(ranks.shape)
    # Only the pixels of the two regions matter from here on.
    predicted = (ordered >= bounds[:, 0, :1]) & (ordered <= bounds[:, -1, 1:])
    place = (on_lines | predicted).flatten().nonzero()[:, 0]
    row = place // true.shape[1]
    true, found, on_lines = (maps.flatten()[place] for maps in (true, found, on_lines))
    return Lines(place, row, true, found, on_lines, bounds, sizes)


@closed_form
def lines_of_images(
    probability: Tensor,
    target: Tensor,
    valid: Tensor,
    counted: Tensor,
    width: int,
    splitter: str,
    power: int,
    match: str,
    lines: str,
) -> tuple[Tensor, Tensor]:
    """Compute the line loss of each image, (N,), with its gradient by the probabilities.

    Args:
        probability: (N, C, H, W).
        target: (N, H, W) int64.
        valid: (N, H, W) bool.
        counted: (N, S, H, W) bool, the rays that count.
        width: w.
        splitter: One of `SPLITTERS`.
        power: μ.
        match: "region" or "lines".
        lines: "mean" or "sum".
    """
    rays, factor = check_rays(width, splitter)
    losses, gradient = probability.new_zeros(len(probability)), torch.zeros_like(probability)
    regions = match == "region"
    for image, some in enumerate(class_counts(target, valid, probability.shape[1]) > 0):
        labels, known, number = some.nonzero()[:, 0].tolist(), valid[image], 0
        mask = counted[image].flatten(1)
        # One class at a time: its maps stay in the CPU's cache.
        for label in labels:
            truth = ((target[image] == label) & known).to(probability)
            maps = (truth, probability[image, label] * known)
            true, found = (sum_along(m[None], rays)[0].flatten(1) for m in maps)
            if factor != 1:
                true, found = factor * true, factor * found
            placed = find_lines(true, found, mask, width // 2, regions=regions)
            coefficients, pull = line_losses(placed, power, regions=regions)
            losses[image] += coefficients.sum()
            number += int((placed.sizes > 0).sum())
            by_energy = torch.zeros_like(true)
            by_energy.view(-1)[placed.place] = factor * pull
            by_energy = by_energy.view(1, -1, *known.shape)
            gradient[image, label] = spread_along(by_energy, rays)[0] * known
        shared = max(1, number) if lines == "mean" else len(mask)
        losses[image] /= shared
        gradient[image, labels] /= shared
    return losses, gradient


def line_losses(lines: Lines, power: int, *, regions: bool) -> tuple[Tensor, Tensor]:
    """Compute one minus the equipotential Dice coefficient of each line.

    Args:
        lines: Of `find_lines`, with the same `regions`.
        power: μ.
        regions: Whether sums go over the whole region, instead of over the line alone.

    Returns:
        (R, L) of about 0 to 1, 0 where the target has no such line; and the gradient of their sum
        by the predicted energies, (P,).
    """
    rows, losses, pull = len(lines.sizes), [], torch.zeros_like(lines.found)
    for tau in range(1, lines.sizes.shape[1] + 1):
        truly, interval = lines.on_lines, lines.bounds[lines.row, 0]
        if not regions:
            truly, interval = (lines.true - tau).abs() < 0.5, lines.bounds[lines.row, tau - 1]
        near = (lines.found >= interval[:, 0]) & (lines.found <= interval[:, 1])
        d_true = closeness(lines.true, tau, power) * truly
        d_found = closeness(lines.found, tau, power) * near
        summands = torch.stack([d_true, d_true.square(), d_true * d_found, d_found], dim=1)
        sums = summands.new_zeros(rows, 4).index_add_(0, lines.row, summands)
        of_true, squares, overlap, of_found = sums.unbind(1)
        exists = lines.sizes[:, tau - 1] > 0
        scale = torch.where(exists, 2 * of_true / torch.where(exists, squares, 1), 0)
        total = torch.where(exists, of_true + of_found, 1)
        losses.append(torch.where(exists, 1 - scale * overlap / total, 0))
        by_overlap, by_total = scale / total, scale * overlap / total.square()
        slope = closeness_slope(lines.found, tau, power) * d_found
        pull += slope * (by_total[lines.row] - by_overlap[lines.row] * d_true)
    return torch.stack(losses, dim=1), pull


def closeness_slope(energy: Tensor, tau: int, power: int) -> Tensor:
    """Compute the derivative of `closeness` relative to itself, 0 where it is cut off."""
    apart = energy - tau
    slope = -power * apart ** (power - 1)
    return torch.where(apart.abs() <= MAX_EXPONENT ** (1 / power), slope, 0)


def closeness(energy: Tensor, tau: int, power: int) -> Tensor:
    """Compute exp(-(E - τ)^μ)."""
    # A power that overflows has no gradient, though its exponential is 0.
    apart = (energy - tau).abs().clamp(max=MAX_EXPONENT ** (1 / power))
    return (-(apart**power)).exp()


def check_power(power: int) -> None:
    """Refuse a μ with which lines to one side would be closer than the line itself."""
    if power < 2 or power % 2:
        raise ValueError(f"Expected an even power μ of 2 or more but got {power}.")


def row_counts(rows: Tensor) -> Tensor:
    """Count what is true in each row: (R, K) bool to (R,) int64."""
    # Four bytes a sum: a sum of bool takes 17 times as long on the CPU.
    return rows.view(torch.uint8).sum(dim=1, dtype=torch.int32).long()


def kth_values(rows: Tensor, ranks: Tensor) -> Tensor:
    """Select the values of given ranks in each row, without sorting it.

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
    """Select as `kth_values` does, with one call per column: all rows want the same rank at once.

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
