"""Photographs, shipped weights and sessions of onnxruntime, for the tests of export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from segfix.training.layouts import find_labelled_images

CROPS = Path(__file__).parents[1] / "data/camvid"
PHOTOGRAPHS = sorted((CROPS / "images").iterdir())
SHIPPED = Path(__file__).parents[2] / "weights/hrnet_w18_small.onnx"
OUTPUTS = ["direction", "boundary", "certainty"]


def photographs(data: Path, height: int, width: int, count: int) -> NDArray[np.uint8]:
    """(count, 3, height, width) cut-outs of the scene the network was trained on."""
    image = find_labelled_images(data)[0].read()[0]
    cuts = [image[5 * i : 5 * i + height, 9 * i : 9 * i + width] for i in range(count)]
    return np.ascontiguousarray(np.stack(cuts).transpose(0, 3, 1, 2))


def open_session(path: Path) -> Any:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def optimize(path: Path, folder: Path) -> onnx.GraphProto:
    """What onnxruntime makes of the network before it runs it."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    # The file is for this machine alone, says a warning.
    options.log_severity_level = 4
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath).graph
