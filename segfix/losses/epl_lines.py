"""Equipotential lines of EPL: which pixels lie on them, in the target and in the prediction."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MAX_EXPONENT = 40.0
"""e^-40 is nothing beside the 1 of a pixel on its line, and its square is still a float32."""


class Lines(NamedTuple):
    """The pixels on the lines of the target and of the prediction.

    There are R rows, one for each class present and direction, of L lines each; P pixels lie in
    the region of the lines of either.

    Attributes:
        row: (P,) int64 row of each pixel.
        true: (P,) its energy in the target.
        found: (P,) its energy in the prediction.
        on_lines: (P,) bool, whether it lies in the region of the target.
        bounds: (R, T, 2) smallest and largest predicted energy of what is matched, T being 1 for
            whole regions and L for single lines.
        sizes: (R, L) int64 pixels on each line of the target.
    """

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
    return Lines(row, true, found, on_lines, bounds, sizes)


def line_losses(lines: Lines, power: int, *, regions: bool) -> Tensor:
    """Compute one minus the equipotential Dice coefficient of each line.

    Args:
        lines: Of `find_lines`, with the same `regions`.
        power: μ.
        regions: Whether sums go over the whole region, instead of over the line alone.

    Returns:
        (R, L) of about 0 to 1; 0 where the target has no such line.
    """
    num_lines = lines.sizes.shape[1]
    per_row = []
    for tau in range(1, num_lines + 1):
        truly, interval = lines.on_lines, lines.bounds[lines.row, 0]
        if not regions:
            truly, interval = (lines.true - tau).abs() < 0.5, lines.bounds[lines.row, tau - 1]
        near = (lines.found >= interval[:, 0]) & (lines.found <= interval[:, 1])
        d_true = closeness(lines.true, tau, power) * truly
        d_found = closeness(lines.found, tau, power) * near
        per_row += [d_true, d_true.square(), d_true * d_found, d_found]
    sums = lines.true.new_zeros(len(lines.sizes), len(per_row))
    sums = sums.index_add(0, lines.row, torch.stack(per_row, dim=1))
    d_true, squares, overlap, d_found = sums.view(-1, num_lines, 4).unbind(2)
    exists = lines.sizes > 0
    scale = d_true / torch.where(exists, squares, 1)
    coefficient = 2 * scale * overlap / torch.where(exists, d_true + d_found, 1)
    return torch.where(exists, 1 - coefficient, 0)


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


@torch.compiler.disable  # type: ignore[untyped-decorator]
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
