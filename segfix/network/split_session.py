"""Conditioned networks on a CPU: what depends on the photograph alone is kept for its next look."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from numpy.typing import NDArray

from segfix.network.onnx_graph import OnnxGraph
from segfix.network.session import (
    DISTANCE,
    has_nvidia_driver,
    import_runtime,
    open_session,
)

QUANTIZED = b"DequantizeLinear"
"""In files of networks in 8 bits. Taken apart they would be slower, as values change their layout
where parts meet, and save but a quarter."""
KEPT_PIXELS = 2048 * 2048
"""Of all photographs whose features are kept; as many as the largest tile has."""


def open_network(path: Path, content: bytes, device: str, threads: int) -> tuple[Any, str]:
    """Open a SegFix network, a conditioned one of floats on a CPU in two parts; see `open_session`.

    Returns:
        Its session or `SplitSession`, and the name of the device.
    """
    whole = None
    if device != "cpu" and (device != "auto" or has_nvidia_driver()):
        whole = open_session(path, content, device, threads)
        if whole[1] != "cpu":
            # Features would travel to the CPU and back.
            return whole
    graph = None
    # Of a broken file, onnxruntime tells.
    with suppress(ValueError):
        graph = None if QUANTIZED in content else OnnxGraph(content)
    if graph is None or graph.inputs.keys() != {"image", DISTANCE}:
        return whole or open_session(path, content, "cpu", threads)
    # What both parts need at different times is the same memory.
    open_part = partial(open_session, path, device="cpu", threads=threads, shared_arena=True)
    first, device = open_part(graph.extract(graph.find_shared("image", DISTANCE)))
    return SplitSession(graph, first, open_part), device


def list_names(values: Iterable[str]) -> list[SimpleNamespace]:
    """List values as a session of onnxruntime lists its inputs and outputs, by name alone."""
    return [SimpleNamespace(name=name) for name in values]


class SplitSession:
    """Run a network in two parts, so that another look at a photograph takes the second alone.

    Args:
        graph: Of the network.
        first: Session of the part that gives what `OnnxGraph.find_shared` tells.
        open_part: Opens a session of the bytes of another part.
    """

    def __init__(
        self, graph: OnnxGraph, first: Any, open_part: Callable[[bytes], tuple[Any, str]]
    ) -> None:
        self._graph, self._first, self._open_part = graph, first, open_part
        self._types = {node.name: node.type for node in first.get_outputs()}
        self._second: dict[tuple[str, ...], Any] = {}
        self._kept: dict[tuple[tuple[int, ...], bytes], dict[str, Any]] = {}
        self.get_modelmeta = first.get_modelmeta
        self.get_inputs = partial(list_names, graph.inputs)
        self.get_outputs = partial(list_names, graph.outputs)

    def run(self, names: Sequence[str] | None, inputs: Mapping[str, NDArray[Any]]) -> list[Any]:
        """Compute outputs as a session of onnxruntime does, without what the others would take.

        Args:
            names: Of the outputs; None: all.
            inputs: "image" and "distance".
        """
        wanted = tuple(names or self._graph.outputs)
        if wanted not in self._second:
            part = self._graph.extract(wanted, self._types)
            self._second[wanted], _ = self._open_part(part)
        second, make_value = self._second[wanted], import_runtime().OrtValue.ortvalue_from_numpy
        values = {**self._find_features(inputs["image"]), DISTANCE: make_value(inputs[DISTANCE])}
        fed = {node.name: values[node.name] for node in second.get_inputs()}
        return [value.numpy() for value in second.run_with_ort_values(wanted, fed)]

    def _find_features(self, image: NDArray[Any]) -> dict[str, Any]:
        """Compute what depends on a photograph alone, or give what was kept."""
        key = image.shape, hashlib.sha256(image.data).digest()
        found = self._kept.pop(key, None)
        if found is None:
            # Room is made before there is more.
            while self._kept and prod(image.shape) > 3 * KEPT_PIXELS - sum(
                prod(shape) for shape, _ in self._kept
            ):
                del self._kept[next(iter(self._kept))]
            shown = {"image": import_runtime().OrtValue.ortvalue_from_numpy(image)}
            values = self._first.run_with_ort_values([*self._types], shown)
            found = dict(zip(self._types, values, strict=True))
        if prod(image.shape) <= 3 * KEPT_PIXELS:
            self._kept[key] = found
        return found
