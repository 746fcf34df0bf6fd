"""Energies of EPL: sums of class maps along rays, with their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from segfix.losses.closed_form import closed_form
from segfix.losses.inputs import check_choice

AXES = ((1, 0), (0, 1))
DIAGONALS = ((1, 1), (1, -1))
SPLITTERS: dict[str, tuple[tuple[int, int], ...]] = {
    "A": AXES,
    "B": DIAGONALS,
    "C": (*AXES, *DIAGONALS),
    "plain": (),
}
"""Directions (dy, dx) of the anisotropic convolution, each with its opposite; plain is a box, for
comparison."""


class Rays(NamedTuple):
    """The pixels that a direction and its opposite add up, or those of a box.

    Sums begin at the pixels of the image and at those up to `reach` before them: the ray of the
    opposite direction that ends in a pixel is the ray that begins there, shifted.

    Attributes:
        reach: Pixels by which maps are padded.
        shifts: Where in the padded maps the first summand of all sums lies, the second, …
        longer: Rows and columns that the sums have more than the image.
        starts: Row and column of the sums at which those of each direction start.
    """

    reach: int
    shifts: tuple[tuple[int, int], ...]
    longer: tuple[int, int]
    starts: tuple[tuple[int, int], ...]


def check_rays(width: int, splitter: str) -> tuple[tuple[Rays, ...], float]:
    """Find the rays of the directions of a splitter, and the factor of their sums."""
    if width < 3 or width % 2 == 0:
        raise ValueError(f"Expected an odd width of 3 or more but got {width}.")
    check_choice("splitter", splitter, SPLITTERS)
    reach = width // 2
    if splitter == "plain":
        box = tuple((y, x) for y in range(width) for x in range(width))
        return (Rays(reach, box, (0, 0), ((0, 0),)),), (reach + 1) / width**2
    found = []
    for dy, dx in SPLITTERS[splitter]:
        first = (0 if dy else reach, 0 if dx > 0 else reach)
        shifts = tuple((first[0] + k * dy, first[1] + k * dx) for k in range(reach + 1))
        starts = ((reach * dy, reach * max(dx, 0)), (0, reach * max(-dx, 0)))
        found.append(Rays(reach, shifts, (reach * dy, reach * abs(dx)), starts))
    return tuple(found), 1.0


def whole_rays(valid: Tensor, rays: Sequence[Rays]) -> Tensor:
    """Find where rays cross no void: (N, H, W) bool to (N, S, H, W) bool."""
    return sum_along((~valid).float(), rays) == 0


def energies(fields: Tensor, rays: Sequence[Rays], beyond: str = "edge") -> Tensor:
    """Sum class maps along rays: the anisotropic convolution.

    Args:
        fields: (K, H, W) float.
        rays: Of S directions.
        beyond: What lies beyond the frame: the pixel at the "edge", or "zero".

    Returns:
        (K, S, H, W).
    """
    summed: Tensor = RaySums.apply(fields, rays, beyond)
    return summed


class RaySums(torch.autograd.Function):
    """`energies`: a linear map and its transpose as sums of slices.

    A convolution with w×w kernels takes some 19 times as long on the CPU: a ray has few pixels of
    the kernel.
    """

    @staticmethod
    def forward(ctx: Any, fields: Tensor, rays: Sequence[Rays], beyond: str) -> Tensor:  # noqa: D102
        ctx.rays, ctx.beyond = rays, beyond
        return sum_along(fields, rays, beyond)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: D102
        return spread_along(gradient, ctx.rays, ctx.beyond), None, None


def sum_along(fields: Tensor, rays: Sequence[Rays], beyond: str = "edge") -> Tensor:
    """Compute `energies` without a graph."""
    size = fields.shape[-2:]
    padded = pad(fields, rays[0].reach, beyond)
    maps = []
    for one in rays:
        sums = sum_shifts(padded, one, size)
        maps += [sums[..., y : y + size[0], x : x + size[1]] for y, x in one.starts]
    return torch.stack(maps, dim=1)


def spread_along(gradient: Tensor, rays: Sequence[Rays], beyond: str = "edge") -> Tensor:
    """Turn (K, S, H, W) gradients by `energies` into those by their maps, (K, H, W)."""
    size, reach = gradient.shape[-2:], rays[0].reach
    padded = gradient.new_zeros(len(gradient), size[0] + 2 * reach, size[1] + 2 * reach)
    directions = iter(gradient.unbind(1))
    for one in rays:
        sums = place_directions([next(directions) for _ in one.starts], one)
        spread_shifts(sums, one, padded)
    return fold_padding(padded, reach, beyond)


def pad(fields: Tensor, reach: int, beyond: str = "edge") -> Tensor:
    """Extend (K, H, W) maps by `reach` pixels on each side."""
    # An empty batch has nothing to go on at the edge.
    mode = "replicate" if beyond == "edge" and fields.numel() else "constant"
    return F.pad(fields[:, None], (reach,) * 4, mode=mode)[:, 0]


def fold_padding(padded: Tensor, reach: int, beyond: str = "edge") -> Tensor:
    """Do the transpose of `pad`; `padded` is changed."""
    if beyond == "edge":
        padded[:, reach] += padded[:, :reach].sum(1)
        padded[:, -reach - 1] += padded[:, -reach:].sum(1)
        padded[..., reach] += padded[..., :reach].sum(-1)
        padded[..., -reach - 1] += padded[..., -reach:].sum(-1)
    return padded[:, reach:-reach, reach:-reach].contiguous()


def sum_shifts(padded: Tensor, rays: Rays, size: Sequence[int]) -> Tensor:
    """Sum padded maps along rays, from all pixels where one begins in either direction."""
    height, width = (length + more for length, more in zip(size, rays.longer, strict=True))
    (y, x), *others = rays.shifts
    sums = padded[:, y : y + height, x : x + width].clone()
    for y, x in others:
        sums += padded[:, y : y + height, x : x + width]
    return sums


def spread_shifts(sums: Tensor, rays: Rays, padded: Tensor) -> None:
    """Add what belongs to sums to the padded pixels that they add up."""
    height, width = sums.shape[-2:]
    for y, x in rays.shifts:
        padded[:, y : y + height, x : x + width] += sums


def place_directions(maps: Sequence[Tensor], rays: Rays) -> Tensor:
    """Add up (K, H, W) maps of the directions where their sums are, the longer (K, H', W')."""
    height, width = maps[0].shape[-2:]
    placed = maps[0].new_zeros(len(maps[0]), height + rays.longer[0], width + rays.longer[1])
    for one, (y, x) in zip(maps, rays.starts, strict=True):
        placed[:, y : y + height, x : x + width] += one
    return placed


@closed_form
def sum_points(
    probability: Tensor,
    target: Tensor,
    valid: Tensor,
    counted: Tensor,
    width: int,
    splitter: str,
    norm: int,
) -> tuple[Tensor, Tensor]:
    """Sum |E(y) - E(ŷ)|^p over the classes and rays of each image, (N,), with its gradient.

    Args:
        probability: (N, C, H, W).
        target: (N, H, W) int64.
        valid: (N, H, W) bool.
        counted: (N, S, H, W) bool, the rays that count.
        width: w.
        splitter: One of `SPLITTERS`.
        norm: p.
    """
    rays, factor = check_rays(width, splitter)
    totals, gradient = probability.new_zeros(len(probability)), torch.empty_like(probability)
    labels = torch.arange(probability.shape[1], device=target.device)[:, None, None]
    # On the CPU one class at a time: its maps stay in the cache.
    step = 1 if probability.is_cpu else max(1, probability.shape[1])
    for image, (maps, known) in enumerate(zip(probability, valid.to(probability), strict=True)):
        directions = iter(counted[image].to(maps) * factor**norm)
        weights = [place_directions([next(directions)[None] for _ in r.starts], r) for r in rays]
        for first in range(0, len(maps), step):
            some = slice(first, first + step)
            apart = pad((maps[some] - (target[image] == labels[some]).to(maps)) * known, width // 2)
            spread = torch.zeros_like(apart)
            for one, weight in zip(rays, weights, strict=True):
                sums = sum_shifts(apart, one, maps.shape[-2:])
                outer = weight * (sums if norm == 2 else sums.sign())
                totals[image] += torch.dot(outer.flatten(), sums.flatten())
                spread_shifts(outer, one, spread)
            gradient[image, some] = fold_padding(spread, width // 2) * known * norm
    return totals, gradient
