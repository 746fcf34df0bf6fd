"""An ONNX network in 8-bit integers, their ranges measured on photographs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from segfix.geometry import NO_PREDICTION
from segfix.network.session import DISTANCE
from segfix.training.crop_targets import make_validation_prediction
from segfix.training.layouts import LabelledImage

RANGE_PHOTOGRAPHS = 64
"""So many photographs at most tell the ranges, as many of each data set."""
RANGE_SIZE = 512
"""Of a larger photograph, the middle of this height and width, pixels."""
QUANTIZED = ("Add", "Clip", "Concat", "Conv", "Relu", "Resize")


class CentreCrops(CalibrationDataReader):  # type: ignore[misc]
    """The inputs of the network for one photograph after another, until `get_next` gives None.

    Args:
        images: The photographs.
        conditioned: Whether the network looks at predictions, too: then each photograph comes
            without and with one, a perturbed label map.
    """

    def __init__(self, images: Iterator[LabelledImage], *, conditioned: bool = False) -> None:
        self.looks = self._looks(images, conditioned)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Give (1, 3, H, W) uint8 RGB, and (1, H, W) uint8 distances, by the names of inputs."""
        return next(self.looks, None)

    @staticmethod
    def _looks(
        images: Iterator[LabelledImage], conditioned: bool
    ) -> Iterator[dict[str, NDArray[np.uint8]]]:
        for number, pair in enumerate(images):
            image, labels = pair.read()
            top, left = (max(0, length - RANGE_SIZE) // 2 for length in labels.shape)
            crop = np.s_[top : top + RANGE_SIZE, left : left + RANGE_SIZE]
            shown = {"image": np.ascontiguousarray(image[crop].transpose(2, 0, 1)[None])}
            if not conditioned:
                yield shown
                continue
            distance, _ = make_validation_prediction(labels[crop], seed=number)
            for seen in (np.full_like(distance, NO_PREDICTION), distance):
                yield {**shown, DISTANCE: seen[None]}


def spread_evenly(held_out: Sequence[Sequence[LabelledImage]]) -> list[LabelledImage]:
    """Choose the photographs that tell the ranges: as many of each set, from all over it."""
    count = max(1, RANGE_PHOTOGRAPHS // len(held_out))
    places = [np.linspace(0, len(images), count, endpoint=False, dtype=int) for images in held_out]
    return [
        images[place]
        for images, chosen in zip(held_out, places, strict=True)
        for place in np.unique(chosen)
    ]


def quantize_onnx(path: Path, images: Iterator[LabelledImage]) -> None:
    """Compute all from the first convolution to the last ones in 8 bits, in the file itself.

    The normalisation before, and the upsampling to full size, soft-max and arg-max after, stay in
    float: between the few values of 8-bit logits, sectors would draw.

    Args:
        path: ONNX file of float32.
        images: The photographs whose smallest and largest values are the ranges.
    """
    # onnxruntime leaves what it makes on the way beside the file that it reads.
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "float.onnx"
        model = onnx.load(str(path))
        # Or it would advise on stderr to prepare the network, which torch has done.
        add_pre_process_metadata(model)
        onnx.save(model, str(source))
        quantize_static(
            str(source),
            str(path),
            CentreCrops(images, conditioned=len(model.graph.input) > 1),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            nodes_to_quantize=list_between_convolutions(model.graph),
            per_channel=True,
            # Without VNNI, a CPU adds pairs of products in 16 bits; weights of 7 bits fit.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


def list_between_convolutions(graph: onnx.GraphProto) -> list[str]:
    """List the names of the convolutions, and of all on a way from one to another."""
    behind = find_reachable(graph.node, "input", "output")
    ahead = find_reachable(reversed(graph.node), "output", "input")
    return [node.name for node in graph.node if node.name in behind & ahead]


def find_reachable(nodes: Iterable[onnx.NodeProto], entry: str, exit_: str) -> set[str]:
    """Find the names of the convolutions, and of what can be reached from one of them."""
    values, names = set[str](), set[str]()
    for node in nodes:
        if node.op_type == "Conv" or not values.isdisjoint(getattr(node, entry)):
            # An optional input left out is called "".
            values.update(filter(None, getattr(node, exit_)))
            names.add(node.name)
    return names
