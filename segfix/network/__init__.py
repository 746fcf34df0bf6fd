"""The trained networks on photographs, with onnxruntime alone."""

from segfix.network.offset_model import OffsetModel, load

__all__ = ["OffsetModel", "load"]
