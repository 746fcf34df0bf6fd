"""EPL computed anew by loops over pixels, and a drawn example, for its tests to compare with."""

from __future__ import annotations

from math import exp, isqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

VOID = 255
Direction = tuple[int, int] | None  # None: the plain box
FOUR: list[Direction] = [(-1, 0), (1, 0), (0, -1), (0, 1)]
DIAGONALS: list[Direction] = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
SPLITTERS: dict[str, list[Direction]] = {
    "A": FOUR,
    "B": DIAGONALS,
    "C": FOUR + DIAGONALS,
    "plain": [None],
}

# A block of one class, three pixels wide, at the upper frame, and its energies at width 5, where
# r = 2, along every direction: 0 … 3.
BLOCK = [[0, 1, 1, 1, 0]] * 3 + [[0] * 5] * 2
ENERGIES: dict[Direction, list[list[int]]] = {
    (-1, 0): [[0, 3, 3, 3, 0]] * 3 + [[0, 2, 2, 2, 0], [0, 1, 1, 1, 0]],
    (1, 0): [[0, 3, 3, 3, 0], [0, 2, 2, 2, 0], [0, 1, 1, 1, 0], [0] * 5, [0] * 5],
    (0, -1): [[0, 1, 2, 3, 2]] * 3 + [[0] * 5] * 2,
    (0, 1): [[2, 3, 2, 1, 0]] * 3 + [[0] * 5] * 2,
    (-1, -1): [[0, 1, 2, 3, 2]] * 3 + [[0, 0, 1, 2, 2], [0, 0, 0, 1, 1]],
    (-1, 1): [[2, 3, 2, 1, 0]] * 3 + [[2, 2, 1, 0, 0], [1, 1, 0, 0, 0]],
    (1, -1): [[0, 1, 2, 3, 2], [0, 1, 2, 2, 1], [0, 1, 1, 1, 0], [0] * 5, [0] * 5],
    (1, 1): [[2, 3, 2, 1, 0], [1, 2, 2, 1, 0], [0, 1, 1, 1, 0], [0] * 5, [0] * 5],
}
# Pixels of the block in the 5×5 window around each pixel, the frame replicated.
WINDOWS = [[rows * columns for columns in (2, 3, 3, 3, 2)] for rows in (5, 4, 3, 2, 1)]


def steps(direction: Direction, r: int) -> list[tuple[int, int]]:
    """Offsets of the pixels that an energy sums: a ray, or the whole box."""
    if direction is None:
        return [(dy, dx) for dy in range(-r, r + 1) for dx in range(-r, r + 1)]
    return [(k * direction[0], k * direction[1]) for k in range(r + 1)]


def counted(
    labels: NDArray[np.int64], direction: Direction, width: int
) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Pixels whose ray (or box), clipped to the frame, is free of void, each with that ray."""
    height, length = labels.shape
    rays = {}
    for y in range(height):
        for x in range(length):
            ray = [
                (min(max(y + dy, 0), height - 1), min(max(x + dx, 0), length - 1))
                for dy, dx in steps(direction, width // 2)
            ]
            if all(labels[pixel] != VOID for pixel in ray):
                rays[y, x] = ray
    return rays


def energy(field: NDArray[Any], ray: list[tuple[int, int]], direction: Direction) -> float:
    """The sum over a ray, or over a box, scaled to the same range 0 … r + 1."""
    total = sum(float(field[pixel]) for pixel in ray)
    if direction is not None:
        return total
    r = (isqrt(len(ray)) - 1) // 2
    return (r + 1) / len(ray) * total


def softmax(logits: Tensor) -> NDArray[np.float64]:
    """(N, C, H, W) probabilities in float64."""
    values = logits.detach().double().numpy()
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def point_reference(
    logits: Tensor, target: Tensor, width: int, splitter: str, norm: int, pixels: str
) -> float:
    preds, labels = softmax(logits), target.numpy()
    losses = []
    for n in range(len(preds)):
        total, rays_counted = 0.0, 0
        for direction in SPLITTERS[splitter]:
            rays = counted(labels[n], direction, width)
            rays_counted += len(rays)
            for k in range(preds.shape[1]):
                for ray in rays.values():
                    true = energy(labels[n] == k, ray, direction)
                    error = abs(true - energy(preds[n, k], ray, direction))
                    total += error if norm == 1 else error * error
        classes: int = preds.shape[1]
        by = len(SPLITTERS[splitter]) if pixels == "sum" else classes * (rays_counted or 1)
        losses.append(total / by)
    return sum(losses) / len(losses)


def line_reference(
    logits: Tensor,
    target: Tensor,
    width: int,
    splitter: str,
    power: int,
    match: str,
    lines: str,
) -> float:
    preds, labels = softmax(logits), target.numpy()
    r = width // 2
    losses = []
    for n in range(len(preds)):
        terms: list[float] = []
        for k in range(preds.shape[1]):
            if not (labels[n] == k).any():
                continue
            for direction in SPLITTERS[splitter]:
                rays = counted(labels[n], direction, width).values()
                true = [energy(labels[n] == k, ray, direction) for ray in rays]
                pred = [energy(preds[n, k], ray, direction) for ray in rays]
                terms += line_terms(true, pred, r, power, match)
        by = len(SPLITTERS[splitter]) if lines == "sum" else len(terms) or 1
        losses.append(sum(terms) / by)
    return sum(losses) / len(losses)


def line_terms(true: list[float], pred: list[float], r: int, power: int, match: str) -> list[float]:
    """Algorithm 1 for one class of one image and one direction: 1 − EDC of every line."""
    ranked = sorted(pred)
    zeros = sum(e < 0.5 for e in true)
    on_line = {line: [abs(e - line) < 0.5 for e in true] for line in range(1, r + 1)}
    terms = []
    for line in range(1, r + 1):
        if not any(on_line[line]):
            continue
        if match == "region":
            region = [0.5 <= e < r + 0.5 for e in true]
            first = zeros
        else:
            region = on_line[line]
            first = zeros + sum(sum(on_line[lower]) for lower in range(1, line))
        low, high = ranked[first], ranked[first + sum(region) - 1]
        d = [
            exp(-min((e - line) ** power, 40)) if r_ else 0.0
            for e, r_ in zip(true, region, strict=True)
        ]
        d_hat = [exp(-min((e - line) ** power, 40)) if low <= e <= high else 0.0 for e in pred]
        scale = sum(d) / sum(v * v for v in d)
        overlap = sum(v * w for v, w in zip(d, d_hat, strict=True))
        terms.append(1 - 2 * scale * overlap / (sum(d) + sum(d_hat)))
    return terms


def columns(*class_1: float) -> Tensor:
    """(1, 2, 5, 5) logits in float64, every row with these probabilities of class 1."""
    preds = torch.tensor(class_1, dtype=torch.float64).expand(5, 5)
    return torch.stack((1 - preds, preds)).log()[None]


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Logits that are sure of these labels."""
    return 200.0 * torch.nn.functional.one_hot(labels, classes).movedim(-1, 1)


EDGE = torch.tensor([0, 0, 0, 1, 1]).expand(1, 5, 5)


def released_reference(
    probability: NDArray[np.float64],
    truth: NDArray[np.float64],
    *,
    width: int,
    splitter: str,
    norm: int,
    power: int,
) -> tuple[float, float]:
    """Point and line loss as the released code has them, by loops and a full sort."""
    r = width // 2
    rows = len(probability) * len(probability[0])
    point = line = 0.0
    for direction in SPLITTERS[splitter]:
        ray = steps(direction, r)
        fields = {}
        for name, maps in (("found", probability), ("true", truth)):
            for beyond in ("edge", "constant"):
                pads = ((0, 0), (0, 0), (r, r), (r, r))
                wide = np.pad(maps, pads, mode=beyond)
                energies = np.zeros(maps.shape)
                for y, x in np.ndindex(maps.shape[2:]):
                    for dy, dx in ray:
                        energies[:, :, y, x] += wide[:, :, y + r + dy, x + r + dx]
                fields[name, beyond] = energies * (1 if direction else (r + 1) / len(ray))
        apart = abs(fields["found", "edge"] - fields["true", "edge"])
        point += float((apart**norm).mean())
        found = fields["found", "constant"].reshape(rows, -1)
        true = fields["true", "constant"].reshape(rows, -1)
        for one, other in zip(found, true, strict=True):
            order = np.argsort(one)
            off = np.ones(len(one), bool)
            off[order[(other < 1).sum() : (other < r + 1).sum()]] = False
            one[off] = 0
            other[(other < 1) | (other > r)] = 0
        for tau in range(1, r + 1):
            if not (abs(true - tau) < 0.5).any():
                continue
            d_found, d_true = (np.exp(-((e - tau) ** power)) for e in (found, true))
            overlap = 2 * ((d_found * d_true).sum() + 1) * d_true.sum()
            sizes = (d_found.sum() + d_true.sum() + 1) * (d_true**2).sum()
            line += float(1 - overlap / sizes)
    return point / len(SPLITTERS[splitter]), line / len(SPLITTERS[splitter])
