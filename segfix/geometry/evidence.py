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


class Weights(NamedTuple):
    """Log-odds that the next label ahead is right and a pixel's own is wrong.

    Attributes:
        bias: Constant.
        confidence: Times the log-odds of the direction.
        distance: Per pixel of distance, times the log of the share on the wrong side.
        thin: Where another label begins close behind the pixel.
    """

    bias: float
    confidence: float
    distance: float
    thin: float


WEIGHTS = Weights(0.1, 0.5, 0.135, -0.8)
"""A regression on validation sets (`tests/bench/evidence.py`) gives 0.12, 0.49, 0.12, -0.32; more
caution with distance, and more than twice as much with thin objects, which mIoU counts as much as
large ones, scored better there."""


class Rays(NamedTuple):
    """What each boundary pixel sees along its direction; 0 where a distance is not found.

    Attributes:
        rows, cols: (N,) the boundary pixels that see another label ahead or behind.
        step: (N, 2) their unit offsets, pixels, rows first.
        ahead: (N,) unit offsets to the first other label ahead, unless a direction on the way
            opposes the pixel's own: it would lie beyond the object.
        behind: (N,) unit offsets to the first other label behind.
    """

    rows: NDArray[np.intp]
    cols: NDArray[np.intp]
    step: NDArray[np.intp]
    ahead: NDArray[np.intp]
    behind: NDArray[np.intp]


def cast_rays(
    label_map: NDArray[np.integer[Any]], offset_map: NDArray[np.integer[Any]], reach: int
) -> Rays:
    """Look along the direction of every boundary pixel, to and fro.

    Args:
        label_map: (H, W) ids.
        offset_map: (2, H, W) unit offsets, pixels, rows first; (0, 0) off the boundary.
        reach: Unit offsets to look in each direction.
    """
    unit = max(1, int(np.abs(offset_map).max(initial=0)))
    margin = reach * unit
    # Only pixels near a change of label can see one.
    moving = ((offset_map[0] != 0) | (offset_map[1] != 0)) & _near_change(label_map, margin)
    rows, cols = np.nonzero(moving)
    step = offset_map[:, moving].T.astype(np.intp)
    labels = np.pad(label_map, margin, mode="edge").ravel()
    dy, dx = (np.pad(axis, margin).ravel() for axis in offset_map)
    stride = label_map.shape[1] + 2 * margin
    here = (rows + margin) * stride + cols + margin
    jump = step[:, 0] * stride + step[:, 1]
    own = labels[here]
    ahead, behind = np.zeros(len(here), np.intp), np.zeros(len(here), np.intp)
    forth = back = np.arange(len(here))
    for k in range(1, reach + 1):
        there = here[forth] + k * jump[forth]
        within = dy[there] * step[forth, 0] + dx[there] * step[forth, 1] >= 0
        other = labels[there] != own[forth]
        ahead[forth[within & other]] = k
        forth = forth[within & ~other]
        other = labels[here[back] - k * jump[back]] != own[back]
        behind[back[other]] = k
        back = back[~other]
    return Rays(rows, cols, step, ahead, behind)


def _near_change(label_map: NDArray[Any], reach: int) -> NDArray[np.bool_]:
    """(H, W) bool: True where another label is within `reach` pixels, and here and there beyond."""
    height, width = label_map.shape
    changes = np.zeros(label_map.shape, bool)
    changes[:, 1:] |= label_map[:, 1:] != label_map[:, :-1]
    changes[1:] |= label_map[1:] != label_map[:-1]
    # By blocks of that size and their neighbours: exact filters take longer than they save.
    rows, cols = np.arange(0, height, reach), np.arange(0, width, reach)
    blocks = np.logical_or.reduceat(np.logical_or.reduceat(changes, rows, 0), cols, 1)
    # A filter of SciPy's would do; importing it takes longer than the rest of a small run.
    for axis in (0, 1):
        first, last = (np.roll(blocks, step, axis) for step in (1, -1))
        np.moveaxis(first, axis, 0)[0] = np.moveaxis(last, axis, 0)[-1] = False
        blocks = blocks | first | last
    near: NDArray[np.bool_] = blocks.repeat(reach, 0).repeat(reach, 1)
    return near[:height, :width]


def share_on_wrong_side(rays: Rays, confidence: NDArray[np.floating[Any]], unit: int) -> float:
    """Of the sure pixels a few pixels from a change of label, the share that points across it.

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
    far = np.iinfo(np.intp).max // 2
    ahead, behind = (np.where(d > 0, d * unit, far) for d in (rays.ahead, rays.behind))
    across = ahead <= behind
    distance = np.minimum(ahead, behind)
    counted = (confidence > CONFIDENT) & (distance >= nearest) & (distance <= farthest)
    wrong, total = (counted & across).sum(), counted.sum()
    return float((wrong + TYPICAL_WEIGHT * TYPICAL_SHARE) / (total + TYPICAL_WEIGHT))


def fit_offsets(
    label_map: NDArray[np.integer[Any]],
    offset_map: NDArray[np.integer[Any]],
    confidence_map: NDArray[np.floating[Any]],
) -> NDArray[np.int8]:
    """Stretch each unit offset to the next other label, where that label is likelier right.

    From each boundary pixel the nearest other label along its direction is looked up. It is
    likelier right than the pixel's own the surer the direction is and the nearer that label; how
    fast the odds fall with the distance t is told by the label map, from the share w of its pixels
    on the wrong side:

        log-odds = b + β · logit(confidence) + α · log w · t - [another label close behind] · c

    So a map that follows the photograph is changed little and a coarse one by long steps; what
    lies beyond a thin object, where directions from both its sides meet, is never taken.

    Args:
        label_map: (H, W) ids.
        offset_map: (2, H, W) unit offsets, pixels, rows first; (0, 0) off the boundary.
        confidence_map: (H, W) in [0, 1], probability that the offset leads to the interior.

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
    if offset_map.shape != (2, *shape) or confidence_map.shape != shape:
        raise ValueError(
            f"Expected offset_map of shape {(2, *shape)} and confidence_map of {shape} but got "
            f"{offset_map.shape} and {confidence_map.shape}."
        )
    unit = max(1, int(np.abs(offset_map).max(initial=0)))
    rays = cast_rays(label_map, offset_map, MAX_DISTANCE // unit)
    confidence = np.clip(confidence_map[rays.rows, rays.cols], 1 - SUREST, SUREST)
    share = share_on_wrong_side(rays, confidence, unit)
    odds = (
        WEIGHTS.bias
        + WEIGHTS.confidence * np.log(confidence / (1 - confidence))
        + WEIGHTS.distance * np.log(share) * rays.ahead * unit
        + WEIGHTS.thin * ((rays.behind > 0) & (rays.behind * unit <= THIN))
    )
    taken = (rays.ahead > 0) & (odds > 0)
    fitted = np.zeros(offset_map.shape, np.int8)
    fitted[:, rays.rows, rays.cols] = np.where(taken, rays.ahead, 0) * rays.step.T
    return fitted
