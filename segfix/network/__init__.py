"""Trained networks, run on photographs with onnxruntime."""

from segfix.network.offset_model import OffsetModel, load

__all__ = ["OffsetModel", "load"]
