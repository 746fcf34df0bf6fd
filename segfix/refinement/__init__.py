"""Offset maps applied to label maps."""

from segfix.refinement.apply import refine, refine_masks

__all__ = ["refine", "refine_masks"]
