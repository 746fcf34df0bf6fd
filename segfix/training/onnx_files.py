"""Networks of torch written as ONNX files, and compared with these."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor
from torch.nn import functional as F

from segfix.errors import SegfixError
from segfix.geometry import NO_PREDICTION
from segfix.network.session import DISTANCE, METADATA_KEY
from segfix.training.checkpoint_model import ProbabilityNetwork
from segfix.training.offset_networks import STRIDE
from segfix.training.onnx_network import OffsetNetwork

OPSET = 18
PARITY_SIZES = ((64, 96), (77, 50))
MAX_DISAGREEMENT = {"fp32": (0.002, 1), "fp16": (0.02, 3)}
"""Share of pixels whose sector or class, or probability by more than so many bytes, may differ."""


def write_onnx(
    module: OffsetNetwork | ProbabilityNetwork, path: Path, metadata: dict[str, Any]
) -> None:
    """Export with dynamic batch, height and width, and our metadata inside."""
    # Padding asks for this minimum, though the file takes smaller pictures, too. Left to find it
    # out, torch traces the whole network, fails, and traces it again.
    height, width = (torch.export.Dim(name, min=STRIDE + 1) for name in ("height", "width"))
    batch = torch.export.Dim("batch")
    examples = {
        "image": (torch.zeros(2, 3, 96, 160, dtype=torch.uint8), {0: batch, 2: height, 3: width}),
        DISTANCE: (torch.zeros(2, 96, 160, dtype=torch.uint8), {0: batch, 1: height, 2: width}),
    }
    arguments, dims = zip(*(examples[name] for name in module.inputs), strict=True)
    with exportable_pooling(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            arguments,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(module.inputs),
            output_names=list(module.outputs),
            dynamic_shapes=dims,
            verbose=False,
        )
    if program is None:
        raise SegfixError("torch made no ONNX program; update torch and onnxscript.")
    model = program.model_proto
    graph = model.graph
    name_outputs(graph)
    # torch notes where each node was traced: half a megabyte, with the paths of this machine.
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (model, graph, *graph.node, *values):
        del part.metadata_props[:]
    set_metadata(model, metadata)
    onnx.save(model, str(path))


def name_outputs(graph: onnx.GraphProto) -> None:
    """Name the dimensions of outputs like those of inputs, where torch says how they come about."""
    for output in graph.output:
        first, *_, rows, cols = output.type.tensor_type.shape.dim
        first.dim_param, rows.dim_param, cols.dim_param = "batch", "height", "width"


@contextmanager
def exportable_pooling() -> Iterator[None]:
    """Replace torch's adaptive pooling by `average_pool`, for all networks until the block ends.

    Torch exports its own for the size of the example alone, and networks of timm and
    segmentation-models-pytorch call it in many places.
    """
    before = F.adaptive_avg_pool2d
    F.adaptive_avg_pool2d = average_pool  # type: ignore[assignment]
    try:
        yield
    finally:
        F.adaptive_avg_pool2d = before


def average_pool(maps: Tensor, output_size: int | tuple[int, int]) -> Tensor:
    """Pool like `F.adaptive_avg_pool2d`, by products with two matrices that hold for any size."""
    rows, cols = (output_size, output_size) if isinstance(output_size, int) else output_size
    if rows == cols == 1:
        return maps.mean((-2, -1), keepdim=True)
    height, width = maps.shape[-2:]
    return bin_shares(height, rows, maps) @ maps @ bin_shares(width, cols, maps).T


def bin_shares(size: int, count: int, like: Tensor) -> Tensor:
    """Compute the (count, size) shares of places in the means over `count` overlapping bins."""
    number, place = torch.arange(count)[:, None], torch.arange(size)
    start, end = number * size // count, ((number + 1) * size + count - 1) // count
    return ((place >= start) & (place < end)).to(like) / (end - start).to(like)


def set_metadata(model: onnx.ModelProto, metadata: dict[str, Any]) -> None:
    """Put our metadata in place of whatever metadata there is."""
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(metadata, sort_keys=True))
    model.producer_name = "segfix"


def check_parity(
    module: OffsetNetwork | ProbabilityNetwork, path: Path, precision: str = "fp32"
) -> None:
    """Compare torch in float32 and onnxruntime on two sizes, one no multiple of the stride.

    Of two pictures, a conditioned network sees the second one without a prediction.
    """
    limit, slack = MAX_DISAGREEMENT[precision]
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for height, width in PARITY_SIZES:
        coarse = rng.integers(0, 256, (2, 4, height // 8 + 1, width // 8 + 1), dtype=np.uint8)
        planes = coarse.repeat(8, axis=2).repeat(8, axis=3)[:, :, :height, :width]
        found_in = {"image": planes[:, :3], DISTANCE: planes[:, 3].copy()}
        found_in[DISTANCE][1] = NO_PREDICTION
        inputs = {name: found_in[name] for name in module.inputs}
        with torch.inference_mode():
            expected = module(*(torch.from_numpy(array) for array in inputs.values()))
        found = session.run(None, inputs)
        if isinstance(expected, Tensor):
            pairs = [(p.argmax(axis=1), 255 * p) for p in (expected.numpy(), found[0])]
        else:
            pairs = [tuple(output.numpy() for output in expected), found]
        # A sector or class is right or wrong; a probability may round to the next byte.
        for place, (wanted, got) in enumerate(zip(*pairs, strict=True)):
            apart = np.abs(wanted.astype(np.float64) - got)
            share = 1 - float(np.mean(apart <= (slack if place else 0)))
            if share > limit:
                raise SegfixError(
                    f"torch and onnxruntime disagree on {share:.2%} of the pixels at "
                    f"{width}×{height}; the export is not kept."
                )
