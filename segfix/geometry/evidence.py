"""How far each boundary pixel should reach: a step that fits the label map at hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_DISTANCE = 8
"""Pixels; labels farther away than this are not looked at."""

THIN = 6
"""Pixels; where another label begins within this behind a pixel, its object may be thin."""

CONFIDENT = 0.8
"""Directions surer than this tell how far a label map's boundaries lie from the photograph's."""

TAIL = (3, 6)
"""Distances at which that is counted, pixels: beyond the network's own blur."""

SUREST = 0.97
"""The weights were fitted up to here; surer directions count as this sure."""

TYPICAL_SHARE, TYPICAL_WEIGHT = 0.06, 100.0
"""Share on the wrong side that a map is taken to have until so many pixels say otherwise."""

TYPICAL_WRONG = 0.3
"""Probability of being wrong beside a change of label, likewise."""

MOST_WRONG = 0.65
"""Where more is wrong on average beside a map's changes of label, the network errs, not the map. Of
photographs' label maps moved by 12 pixels or made blocks of 40, at most 0.59 is; of right ones of
dense objects a few pixels wide, up to 0.9."""

TILE_ROWS = 128
"""Rows worked on at a time."""

_FIRST = np.array([(bits & -bits).bit_length() for bits in range(256)], np.int8)
"""Number of the lowest bit that is set, from 1; of 0, 0."""


class Weights(NamedTuple):
    """Log-odds that the next label ahead is right and a pixel's own is wrong.

    Attributes:
        bias: Constant.
        confidence: Times the log-odds of the pixel's confidence.
        distance: Per pixel of distance, times the log of the map's share of wrong pixels.
        thin: Where another label begins close behind the pixel.
        beyond: Times the log-odds of the confidence where the next label begins.
        pixel: Per pixel of distance.
        share: Times the log of the map's share of wrong pixels.
    """

    bias: float
    confidence: float
    distance: float
    thin: float
    beyond: float = 0.0
    pixel: float = 0.0
    share: float = 0.0


WEIGHTS = Weights(0.1, 0.5, 0.135, -0.8)
"""A regression on validation sets (`tests/bench/evidence.py`) gives 0.12, 0.49, 0.12, -0.32; more
caution with distance, and more than twice as much with thin objects, which mIoU counts as much as
large ones, scored better there."""

CONDITIONED_WEIGHTS = Weights(0.65, 0.28, 0.27, -0.51, -0.36, 0.14, 0.43)
"""Where the confidence is the probability that the pixel's own label is wrong. The regression gives
a bias of 1.05; a little more caution harms good maps less and scored better on the mean."""


class Rays(NamedTuple):
    """What each boundary pixel sees along its direction; 0 where a distance is not found.

    Attributes:
        places: (N,) the boundary pixels with another label ahead or behind, in the flattened map.
        step: (N, 2) their unit offsets, pixels, rows first.
        ahead: (N,) unit offsets to the first other label ahead, unless a direction on the way
            opposes the pixel's own: it would lie beyond the object.
        behind: (N,) unit offsets to the first other label behind.
    """

    places: NDArray[np.intp]
    step: NDArray[np.int8]
    ahead: NDArray[np.int8]
    behind: NDArray[np.int8]


def cast_rays(
    label_map: NDArray[np.integer[Any]], vectors: NDArray[np.integer[Any]], reach: int
) -> Rays:
    """Look along the direction of every boundary pixel, to and fro.

    Args:
        label_map: (H, W) ids.
        vectors: (2, H, W) unit offsets, pixels, rows first; (0, 0) off the boundary.
        reach: Unit offsets to look in each direction, 1 to 8.
    """
    height, _ = label_map.shape
    unit = max(1, int(np.abs(vectors).max(initial=0)))
    margin = reach * unit
    labels = np.pad(label_map, margin, mode="edge")
    dy, dx = (np.pad(axis, margin) for axis in vectors)
    stride = labels.shape[1]
    nothing = np.zeros(0, np.int8)
    parts = [Rays(nothing.astype(np.intp), nothing.reshape(0, 2), nothing, nothing)]
    # Tiles of full rows stay in the cache; in a flattened one a step is a step of its index.
    for top in range(0, height, TILE_ROWS):
        rows = slice(top, min(top + TILE_ROWS, height) + 2 * margin)
        tile, tile_dy, tile_dx = (array[rows].ravel() for array in (labels, dy, dx))
        inner = slice(margin * (stride + 1), len(tile) - margin * (stride + 1))
        for down, right in np.ndindex(unit + 1, 2 * unit + 1):
            step = np.array([down, right - unit], np.int8)
            jump = down * stride + right - unit
            if jump <= 0:
                continue
            moving = [(tile_dy[inner] == y) & (tile_dx[inner] == x) for y, x in (step, -step)]
            if not any(mask.any() for mask in moving):
                continue
            before, after = _changes_along(tile, jump, reach)
            after = after[inner]
            before = before[inner.start - reach * jump : inner.stop - reach * jump]
            seen = (before | after) != 0
            for mask, sign, ahead, behind in (
                (moving[0], 1, after, before),
                (moving[1], -1, before, after),
            ):
                places = np.flatnonzero(mask & seen)
                steps = np.broadcast_to(sign * step, (len(places), 2))
                first = (_FIRST.take(bits.take(places)) for bits in (ahead, behind))
                parts.append(Rays(places + (inner.start + top * stride), steps, *first))
    joined: list[Any] = [np.concatenate(part) for part in zip(*parts, strict=True)]
    places, step, ahead, behind = joined
    _stop_at_opposed(ahead, places, step, dy.ravel(), dx.ravel(), stride)
    places -= places // stride * (2 * margin) + margin * (stride - 2 * margin + 1)
    return Rays(places, step, ahead, behind)


def _changes_along(
    labels: NDArray[Any], jump: int, reach: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Mark where labels change along steps of `jump` entries: bit k - 1 for the k-th step.

    Args:
        labels: (N,) a flattened label map.
        jump: Entries per step, positive.
        reach: Steps, 1 to 8.

    Returns:
        For backward steps, of the entries from `reach · jump` on; and for forward steps, of the
        entries from 0 on: (N - reach · jump,) each.
    """
    before = after = (labels[jump:] != labels[:-jump]).view(np.uint8)
    done = 1
    while done < reach:
        more = min(done, reach - done)
        # NumPy multiplies bytes ten times as fast as it shifts them.
        shifted = np.uint8(1 << more)
        before = before[more * jump :] | (before[: -more * jump] * shifted)
        after = after[: -more * jump] | (after[more * jump :] * shifted)
        done += more
    return before, after


def _stop_at_opposed(
    ahead: NDArray[np.int8],
    places: NDArray[np.intp],
    step: NDArray[np.int8],
    dy: NDArray[np.integer[Any]],
    dx: NDArray[np.integer[Any]],
    stride: int,
) -> None:
    """Set `ahead` to 0 where a direction on the way, or at its end, opposes the pixel's own."""
    rays = np.flatnonzero(ahead)
    step = step[rays]
    there, jump = places[rays], step @ np.array([stride, 1])
    for k in range(1, int(ahead.max(initial=0)) + 1):
        there = there + jump
        turn = dy[there] * step[:, 0] + dx[there] * step[:, 1]
        ahead[rays[turn < 0]] = 0
        left = np.flatnonzero(ahead[rays] > k)
        rays, there, jump, step = rays[left], there[left], jump[left], step[left]


def share_on_wrong_side(rays: Rays, confidence: NDArray[np.floating[Any]], unit: int) -> float:
    """Estimate the share of sure pixels near a change of label that point across it.

    A direction leads away from the photograph's boundary, so where a label map follows the
    photograph hardly any pixel points at another label nearby; the farther its boundaries have
    strayed, the more do.

    Args:
        rays: Of `cast_rays`.
        confidence: (N,) of their directions, in [0, 1].
        unit: Pixels per unit offset.

    Returns:
        In (0, 1); near `TYPICAL_SHARE` where there is little to count.
    """
    nearest, farthest = TAIL
    sure = np.flatnonzero(confidence > CONFIDENT)
    far = np.int16(farthest + 1)
    ahead, behind = (
        np.where(steps[sure] > 0, steps[sure] * np.int16(unit), far)
        for steps in (rays.ahead, rays.behind)
    )
    across = ahead <= behind
    distance = np.minimum(ahead, behind)
    counted = (distance >= nearest) & (distance <= farthest)
    wrong, total = (counted & across).sum(), counted.sum()
    return float((wrong + TYPICAL_WEIGHT * TYPICAL_SHARE) / (total + TYPICAL_WEIGHT))


def share_wrong_at_changes(
    label_map: NDArray[np.integer[Any]], confidence_map: NDArray[np.floating[Any]]
) -> float:
    """Average the probability of being wrong over the pixels beside a change of label.

    Args:
        label_map: (H, W) ids.
        confidence_map: (H, W) in [0, 1], probability that the pixel's own label is wrong.

    Returns:
        In (0, 1); near `TYPICAL_WRONG` where there is little to count.
    """
    beside = mark_changes(label_map)
    total = float(confidence_map[beside].sum(dtype=np.float64))
    return (total + TYPICAL_WEIGHT * TYPICAL_WRONG) / (int(beside.sum()) + TYPICAL_WEIGHT)


def mark_changes(label_map: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark the pixels, (H, W), beside a change of label: one of four neighbours has another."""
    beside = np.zeros(label_map.shape, np.bool_)
    for axis in (0, 1):
        here, there = (np.moveaxis(array, axis, 0) for array in (label_map, beside))
        change = here[1:] != here[:-1]
        there[1:] |= change
        there[:-1] |= change
    return beside


def fit_offsets(
    label_map: NDArray[np.integer[Any]],
    vectors: NDArray[np.integer[Any]],
    confidence_map: NDArray[np.floating[Any]],
    *,
    conditioned: bool = False,
) -> NDArray[np.int8]:
    """Stretch each unit offset to the next other label, where that label is likelier right.

    From each boundary pixel the nearest other label along its direction is looked up. It is
    likelier right than the pixel's own the surer the direction is and the nearer that label; how
    fast the odds fall with the distance t is told by the label map, from the share w of its pixels
    on the wrong side:

        log-odds = b + β · logit(confidence) + α · log w · t - [another label close behind] · c

    So a map that follows the photograph is changed little and a coarse one by long steps; what
    lies beyond a thin object, where directions from both its sides meet, is never taken.

    Of a network that has seen this label map the confidence is the probability that the pixel's own
    label is wrong. Then w is its mean at the map's boundaries, and where the next label begins it
    counts against the move, other weights of the same kind with it (`CONDITIONED_WEIGHTS`). Above
    `MOST_WRONG` nothing moves.

    Args:
        label_map: (H, W) ids.
        vectors: (2, H, W) unit offsets, pixels, rows first; (0, 0) off the boundary.
        confidence_map: (H, W) in [0, 1], probability that the offset leads to the interior.
        conditioned: Whether it is the probability that the pixel's own label is wrong.

    Returns:
        (2, H, W) int8 offsets, pixels, for `apply_offsets` at scale 1; (0, 0) where a pixel keeps
        its label.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> labels = np.array([[1, 1, 1, 1, 2, 2, 2, 2]])
        >>> right = np.array([[[0] * 8], [[0, 0, 1, 1, 1, 1, 0, 0]]])
        >>> fit_offsets(labels, right, np.full((1, 8), 0.95))[1]
        array([[0, 0, 2, 1, 0, 0, 0, 0]], dtype=int8)
    """
    shape = label_map.shape
    if vectors.shape != (2, *shape) or confidence_map.shape != shape:
        raise ValueError(
            f"Expected vectors of shape {(2, *shape)} and confidence_map of {shape} but got "
            f"{vectors.shape} and {confidence_map.shape}."
        )
    fitted = np.zeros(vectors.shape, np.int8)
    if not fitted.size:
        return fitted
    unit = max(1, int(np.abs(vectors).max(initial=0)))
    rays = cast_rays(label_map, vectors, MAX_DISTANCE // unit)
    confidence = confidence_map.ravel().take(rays.places)
    if conditioned:
        weights, share = CONDITIONED_WEIGHTS, share_wrong_at_changes(label_map, confidence_map)
        if share > MOST_WRONG:
            return fitted
    else:
        weights, share = WEIGHTS, share_on_wrong_side(rays, confidence, unit)
    near = np.flatnonzero(rays.ahead)
    rays = Rays(rays.places[near], rays.step[near], rays.ahead[near], rays.behind[near])
    places, step, ahead, behind = rays
    odds = (
        weights.bias
        + weights.share * np.log(share)
        + weights.confidence * logit(confidence[near])
        + (weights.pixel + weights.distance * np.log(share)) * ahead * unit
        + weights.thin * ((behind > 0) & (behind * unit <= THIN))
    )
    if weights.beyond:
        odds += weights.beyond * logit(confidence_map.ravel().take(ends(rays, shape)))
    fitted.reshape(2, -1)[:, places] = np.where(odds > 0, ahead, 0) * step.T
    return fitted


def ends(rays: Rays, shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Find (N,) where the next label ahead begins, in the flattened map of this (H, W)."""
    rows, cols = np.divmod(rays.places, shape[1])
    rows += rays.ahead.astype(np.int16) * rays.step[:, 0]
    cols += rays.ahead.astype(np.int16) * rays.step[:, 1]
    inside = np.clip(rows, 0, shape[0] - 1), np.clip(cols, 0, shape[1] - 1)
    return np.ravel_multi_index(inside, shape)


def logit(confidence: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Compute log-odds, of confidences up to `SUREST`, and as far from 0."""
    confidence = np.clip(confidence, 1 - SUREST, SUREST)
    return np.log(confidence / (1 - confidence))
