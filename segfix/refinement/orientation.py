"""Which way up a prediction is whose photograph is stored mirrored or turned (EXIF)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.formats import LabelMap, OffsetMap
from segfix.formats.images import turn_upright
from segfix.refinement.apply import PREDICTION_KEY, made_for_another

CLEAR = 0.1
"""A prediction's boundaries must meet the photograph's so much more often, as a share, one way up
than the other."""

ENOUGH = 50
"""Fewer pixels at a prediction's boundaries tell nothing."""

ASSUMED = "assumed_upright"
"""Key in `LabelMap.rest` where neither way up was clear, and it was taken as displayed."""


def settle_orientation(label_map: LabelMap, offset_map: OffsetMap) -> LabelMap:
    """Turn a prediction of the pixels as they are stored, where its size doesn't tell.

    Mirrored, after half a turn, or square, a prediction of the photograph as it is stored has the
    size of one as it is displayed. It is turned where its boundaries meet the photograph's clearly
    more often then; an offset map that was made for one prediction knows which way up that was.

    Args:
        label_map: Of the offset map's size.
        offset_map: As the photograph is displayed; its `source` says how that is stored.

    Returns:
        The same label map; or, turned, with `turned` in its `rest`, for `write_label_map` to turn
        it back; or, where neither is clear, with `ASSUMED` there.
    """
    orientation = offset_map.source.get("orientation", 1)
    if orientation not in range(2, 9) or label_map.rest.get("turned", 1) != 1:
        return label_map
    upright = label_map.with_planes(turn_upright(label_map.planes, orientation))
    if upright.shape != label_map.shape or np.array_equal(upright.array, label_map.array):
        return label_map
    upright = replace(upright, rest={**label_map.rest, "turned": orientation})
    if offset_map.source.get(PREDICTION_KEY) is not None:
        for one in (label_map, upright):
            if not made_for_another(one, offset_map):
                return one
    boundary = offset_map.codes > 0
    (stays, pixels), (turned, _) = (
        boundary_share(one.layers(), boundary) for one in (label_map, upright)
    )
    if pixels >= ENOUGH and abs(turned - stays) >= CLEAR:
        return upright if turned > stays else label_map
    return replace(label_map, rest={**label_map.rest, ASSUMED: True})


def boundary_share(layers: NDArray[Any], boundary: NDArray[np.bool_]) -> tuple[float, int]:
    """Count how often a prediction's boundaries meet a photograph's.

    Args:
        layers: (H, W) ids or (N, H, W) masks.
        boundary: (H, W) bool.

    Returns:
        The share of changes between neighbouring pixels that have one of the two on `boundary`, and
        the number of changes.

    Example:
        >>> ids = np.array([[1, 1, 2, 2, 3]])
        >>> boundary_share(ids, np.array([[False, True, False, False, False]]))
        (0.5, 2)
    """
    met = changes = 0
    for before, after in (
        (np.s_[..., :-1, :], np.s_[..., 1:, :]),
        (np.s_[..., :-1], np.s_[..., 1:]),
    ):
        change = layers[before] != layers[after]
        changes += int(change.sum())
        met += int((change & (boundary[before] | boundary[after])).sum())
    return met / max(changes, 1), changes
