"""Energies of EPL: sums of class maps along rays, with their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from segfix.losses.inputs import check_choice

AXES = ((-1, 0), (1, 0), (0, -1), (0, 1))
DIAGONALS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
SPLITTERS: dict[str, tuple[tuple[int, int], ...]] = {
    "A": AXES,
    "B": DIAGONALS,
    "C": (*AXES, *DIAGONALS),
    "plain": (),
}
"""Directions (dy, dx) of the anisotropic convolution; plain is a box, for comparison."""

Window = tuple[tuple[int, int], ...]
"""The pixels that a direction adds up, as shifts (dy, dx)."""


def check_windows(width: int, splitter: str) -> tuple[tuple[Window, ...], float]:
    """Find the window of each direction of a splitter, and the factor of its sums."""
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


def whole_rays(valid: Tensor, windows: tuple[Window, ...]) -> Tensor:
    """Find where rays cross no void: (N, H, W) bool to (N, S, H, W) bool."""
    void = energies((~valid).float(), windows)
    return void == 0


def energies(fields: Tensor, windows: tuple[Window, ...], beyond: str = "edge") -> Tensor:
    """Sum class maps over windows of shifts: the anisotropic convolution.

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
    """Sum (K, H, W) maps over each window, to (K, S, H, W)."""
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
    """Sum (K, S, H, W) gradients of `_window_sums` to those of its maps, (K, H, W)."""
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
