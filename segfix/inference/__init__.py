"""The trained network on photographs, and its offsets on label maps, with onnxruntime alone."""

from segfix.formats import OffsetMap, read_offset_map, write_offset_map
from segfix.inference.model import OffsetModel, load
from segfix.inference.refine import refine, refine_masks

__all__ = [
    "OffsetMap",
    "OffsetModel",
    "load",
    "read_offset_map",
    "refine",
    "refine_masks",
    "write_offset_map",
]
