"""A trained SegFix network as one self-contained ONNX file, checked before it is kept."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from segfix.errors import SegfixError
from segfix.formats.files import atomic_path
from segfix.inference.model import METADATA_KEY
from segfix.training.networks import (
    KEPT_METADATA,
    STRIDE,
    SegFixNet,
    load_checkpoint,
    normalized,
)

OPSET = 18
PARITY_SIZES = ((64, 96), (77, 50))
MAX_DISAGREEMENT = {"fp32": (0.002, 1), "fp16": (0.02, 3)}
"""Share of pixels whose sector, or probability by more than so many bytes, may differ."""


class OffsetNetwork(nn.Module):
    """From bytes to bytes: normalisation, padding, network, soft-max.

    Args:
        network: In evaluation mode; of float16, all but normalisation and soft-max is in it.
        mean: Of RGB in [0, 1].
        std: Of RGB in [0, 1].
    """

    def __init__(self, network: SegFixNet, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = mean, std

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Directions, boundaries and certainties at full size.

        Args:
            image: (N, 3, H, W) uint8 RGB, any H and W.

        Returns:
            `direction` (N, H, W) uint8 arg-max sector, `boundary` (N, H, W) uint8 probability
            × 255, `certainty` (N, H, W) uint8 probability of that sector × 255.
        """
        height, width = image.shape[-2:]
        # The last row and column go on to the next multiple of the stride.
        rows = torch.arange((height + STRIDE - 1) // STRIDE * STRIDE, device=image.device)
        cols = torch.arange((width + STRIDE - 1) // STRIDE * STRIDE, device=image.device)
        padded = image[:, :, rows.clamp(max=height - 1)][:, :, :, cols.clamp(max=width - 1)]
        dtype = next(self.network.parameters()).dtype
        pixels = normalized(padded, self.mean, self.std).to(dtype)
        boundary, direction = self.network(pixels)
        boundary = boundary[:, 0, :height, :width].float().sigmoid()
        direction = direction[:, :, :height, :width].float()
        certainty = direction.softmax(dim=1).amax(dim=1)
        return (
            direction.argmax(dim=1).to(torch.uint8),
            (boundary * 255 + 0.5).to(torch.uint8),
            (certainty * 255 + 0.5).to(torch.uint8),
        )


def export_onnx(
    checkpoint: Path,
    out: Path,
    *,
    name: str | None = None,
    notes: dict[str, str] | None = None,
    precision: str = "fp32",
) -> dict[str, Any]:
    """Write a checkpoint as ONNX, after checking torch against onnxruntime.

    Args:
        checkpoint: `model.safetensors` of a training.
        out: The ONNX file to make.
        name: Name of the weights; by default the file's stem.
        notes: More metadata, such as licence and terms of the training data.
        precision: Of weights and arithmetic in the file, "fp32" or "fp16"; bytes go in and come
            out all the same.

    Returns:
        The metadata in the file.

    Raises:
        FileFormatError: The checkpoint can't be read.
        SegfixError: The two engines disagree; nothing is written.
    """
    network, described = load_checkpoint(checkpoint)
    module = OffsetNetwork(network, described["mean"], described["std"]).eval()
    metadata = {
        "kind": "segfix network",
        "version": 1,
        "name": name or out.stem,
        "precision": precision,
        **{key: described[key] for key in KEPT_METADATA},
        **(notes or {}),
    }
    with atomic_path(out) as temporary:
        written = module
        if precision == "fp16":
            written = OffsetNetwork(copy.deepcopy(network).half(), module.mean, module.std).eval()
        write_onnx(written, temporary, metadata)
        check_parity(module, temporary, precision)
    return metadata


def write_onnx(module: nn.Module, path: Path, metadata: dict[str, Any]) -> None:
    """Export with dynamic batch, height and width, and our metadata inside."""
    dims = {
        0: torch.export.Dim("batch"),
        2: torch.export.Dim("height"),
        3: torch.export.Dim("width"),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (torch.zeros(2, 3, 96, 160, dtype=torch.uint8),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["direction", "boundary", "certainty"],
            dynamic_shapes=(dims,),
            verbose=False,
        )
    if program is None:
        raise SegfixError("torch made no ONNX program; update torch and onnxscript.")
    model = program.model_proto
    graph = model.graph
    # torch notes where each node was traced: half a megabyte, with the paths of this machine.
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (model, graph, *graph.node, *values):
        del part.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(metadata, sort_keys=True))
    model.producer_name = "segfix"
    onnx.save(model, str(path))


def check_parity(module: nn.Module, path: Path, precision: str = "fp32") -> None:
    """Compare torch in float32 and onnxruntime on two sizes, one no multiple of the stride."""
    limit, slack = MAX_DISAGREEMENT[precision]
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for height, width in PARITY_SIZES:
        coarse = rng.integers(0, 256, (2, 3, height // 8 + 1, width // 8 + 1), dtype=np.uint8)
        image = coarse.repeat(8, axis=2).repeat(8, axis=3)[:, :, :height, :width]
        with torch.inference_mode():
            expected = [output.numpy() for output in module(torch.from_numpy(image))]
        found = session.run(None, {"image": image})
        # A sector is right or wrong; a probability may round to the next byte.
        for wanted, got, allowed in zip(expected, found, (0, slack, slack), strict=True):
            apart = np.abs(wanted.astype(int) - got.astype(int)) > allowed
            share = float(np.mean(apart))
            if share > limit:
                raise SegfixError(
                    f"torch and onnxruntime disagree on {share:.2%} of the pixels at "
                    f"{width}×{height}; the export is not kept."
                )
