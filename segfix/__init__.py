"""SegFix: cleans up the boundaries of any model's label maps.

`segfix.fix` fixes a prediction, `segfix.compare` shows it before and after:

    fixed = segfix.fix("photo.jpg", "mask.png")         # or arrays, PIL pictures, tensors
    segfix.compare("photo.jpg", "mask.png", fixed)

Or in two steps, where many predictions of one photograph are to be refined: `segfix.load` gives a
network, its `offsets` an offset map, `segfix.refine` applies it:

    offset_map = segfix.load().offsets(image)           # (H, W, 3) uint8 RGB
    refined = segfix.refine(label_map, offset_map)      # (H, W) class ids

`segfix.fix_folder`, `predict_folder` and `refine_folder` do so with folders of files.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# onnxruntime tells its maker how it is used, unless told not to before it is imported, whichever
# part of us, or of a program that uses us, imports it first.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from segfix.formats import OffsetMap, read_offset_map, write_offset_map
    from segfix.network import OffsetModel, load
    from segfix.refinement import refine, refine_masks
    from segfix.report.before_after import compare
    from segfix.tasks.fix import fix_folder
    from segfix.tasks.in_memory import fix
    from segfix.tasks.predict_offsets import predict_folder
    from segfix.tasks.refine import refine_folder

__version__ = "0.2.0"
__all__ = [
    "OffsetMap",
    "OffsetModel",
    "compare",
    "fix",
    "fix_folder",
    "load",
    "predict_folder",
    "read_offset_map",
    "refine",
    "refine_folder",
    "refine_masks",
    "write_offset_map",
]


_HOMES = {
    "compare": "report.before_after",
    "fix": "tasks.in_memory",
    "fix_folder": "tasks.fix",
    "load": "network",
    "OffsetModel": "network",
    "refine": "refinement",
    "refine_masks": "refinement",
    "predict_folder": "tasks.predict_offsets",
    "refine_folder": "tasks.refine",
}


def __getattr__(name: str) -> Any:
    # Deferred, so that `segfix --help` needs neither NumPy nor onnxruntime.
    if name in __all__:
        return getattr(import_module(f"segfix.{_HOMES.get(name, 'formats')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
