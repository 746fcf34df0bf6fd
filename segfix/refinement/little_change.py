"""Why refinement has changed almost nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segfix.formats import LabelMap, OffsetMap
from segfix.geometry import apply_offsets
from segfix.geometry.evidence import MOST_WRONG, mark_changes, share_wrong_at_changes

LITTLE, LITTLE_OF_BOUNDARY = 0.002, 0.02
"""Shares of all pixels, and of those beside a change of label, below which it is almost nothing."""

FEW = 0.2
"""Share of those beside a change below which something holds for few of them."""


def explain_little_change(
    label_map: LabelMap,
    offset_map: OffsetMap,
    min_confidence: float,
    changed: int,
    kept: NDArray[np.bool_] | None = None,
) -> str | None:
    """Say why almost nothing changed.

    Args:
        label_map: Before refinement, no masks.
        offset_map: Of the same size.
        min_confidence: Of `RefineSettings`.
        changed: Number of pixels that changed their label.
        kept: (H, W) pixels that neither gave nor took.

    Returns:
        The reason; None where more has changed.
    """
    if changed > LITTLE * offset_map.codes.size:
        return None
    ids = label_map.ids()
    beside = mark_changes(ids)
    if changed > LITTLE_OF_BOUNDARY * int(beside.sum()):
        return None
    if not beside.any():
        return "one label holds the whole map"
    if kept is not None and (beside & ~kept & ~mark_changes(kept)).sum() < FEW * beside.sum():
        return "the boundaries are those of kept ids"
    if (offset_map.codes[beside] > 0).mean() < FEW:
        return (
            "the offset maps mark no boundary where the label maps have theirs (of other "
            "photographs, or of too small or too blurred ones?)"
        )
    bold = offset_map.boundary_mask(min_confidence) & beside
    if bold.sum() < FEW * beside.sum():
        return (
            f"the offsets at the boundaries are less sure than --min-confidence {min_confidence:g}"
        )
    if offset_map.conditioned and (
        share_wrong_at_changes(ids, offset_map.confidence_map()) > MOST_WRONG
    ):
        return (
            "the network takes nearly all boundaries for wrong, which is unlikely (objects of a "
            "few pixels?); predict-offsets without --preds makes offset maps that fit any"
        )
    across = apply_offsets(ids, offset_map.vectors(min_confidence), scale=1) != ids
    if offset_map.conditioned or across[bold].mean() < FEW:
        return "the boundaries are already where the photographs' are"
    return "the directions at the boundaries are too unsure (--scale 2 follows all of them)"
