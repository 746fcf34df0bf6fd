"""The trained network on photographs, and its offsets on label maps, with onnxruntime alone."""

from segfix.inference.model import OffsetModel, load
from segfix.inference.refine import refine, refine_masks

__all__ = ["OffsetModel", "load", "refine", "refine_masks"]
