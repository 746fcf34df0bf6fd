"""EPL as its released code computes it, which differs from the paper."""

from __future__ import annotations

import torch
from torch import Tensor

from segfix.losses.epl_energies import check_rays, energies
from segfix.losses.epl_lines import check_power, closeness, kth_values
from segfix.losses.inputs import check_choice, check_inputs, class_maps

RELEASED_WEIGHTS = (0.02, 0.2)


def released_loss(
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
    """Compute `epl_loss` with `released`; see there."""
    rays, factor = check_rays(width, splitter)
    check_choice("norm", norm, (1, 2))
    check_power(power)
    num_lines = width // 2
    with torch.autocast(logits.device.type, enabled=False):
        logits, target, valid = check_inputs(logits, target, ignore_index)
        maps = [m.flatten(0, 1) for m in class_maps(logits, target, valid)]
        point = line = logits.new_zeros(())
        outer = [[factor * energies(m, rays, beyond) for m in maps] for beyond in ("edge", "zero")]
        num_directions = outer[0][0].shape[1]
        for direction in range(num_directions):
            (found, true), beyond_zero = ([m[:, direction] for m in pair] for pair in outer)
            apart = (found - true).square() if norm == 2 else (found - true).abs()
            point = point + apart.sum() / max(1, apart.numel())
            found, true = (m.flatten(1) for m in beyond_zero)
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
    return (weights[0] * point + weights[1] * line) / num_directions
