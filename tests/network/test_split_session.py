"""Networks in two parts: the graph of an ONNX file, and what is kept of photographs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import segfix
from segfix.geometry import NO_PREDICTION
from segfix.network import session as session_module
from segfix.network import split_session
from segfix.network.offset_model import OffsetModel, load
from segfix.network.onnx_graph import OnnxGraph, write_number
from segfix.network.split_session import SplitSession
from segfix.network.weights import find_weights

OUTPUTS = ("direction", "boundary", "certainty", "wrong")


def look(height: int, width: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A smooth photograph, in colours that the tiny network has an answer to, and distances."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, [256, 128, 256], (height // 8 + 1, width // 8 + 1, 3))
    image = image.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return image.astype(np.uint8), rng.integers(0, 129, (height, width), dtype=np.uint8)


class Counted:
    """A session that counts its runs."""

    def __init__(self, session: Any) -> None:
        self.session, self.runs = session, 0

    def run_with_ort_values(self, names: Sequence[str], inputs: dict[str, Any]) -> Any:
        self.runs += 1
        return self.session.run_with_ort_values(names, inputs)


@pytest.fixture
def counted(conditioned_onnx: Path) -> tuple[OffsetModel, Counted]:
    """A network, and how often it has looked at photographs."""
    model = load(conditioned_onnx, device="cpu")
    assert isinstance(model.session, SplitSession)
    model.session._first = first = Counted(model.session._first)
    return model, first


@pytest.mark.parametrize("weights", ["hrnet_lite0", "hrnet_lite0_int8"])
def test_two_parts_compute_what_the_whole_network_does(weights: str) -> None:
    path = find_weights(weights)
    whole = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    model = OffsetModel(path, "cpu")
    whole_too = not isinstance(model.session, SplitSession)
    assert whole_too == ("int8" in weights)
    for (height, width), given in (((96, 128), True), ((77, 50), True), ((50, 64), False)):
        image, distance = look(height, width)
        shown = distance if given else np.full_like(distance, NO_PREDICTION)
        inputs = {"image": image.transpose(2, 0, 1)[None].copy(), "distance": shown[None]}
        expected = dict(zip(OUTPUTS, (one[0] for one in whole.run(OUTPUTS, inputs)), strict=True))
        for names in (OUTPUTS, ("direction", "wrong"), OUTPUTS[:3]):
            found = model.predict(image, distance if given else None, outputs=names)
            for name, one in zip(names, found, strict=True):
                apart = np.abs(one.astype(int) - expected[name])
                # Sums are rounded in another order.
                assert (apart > 0).mean() <= (0 if whole_too else 1e-3)
                assert name == "direction" or apart.max() <= 1


@pytest.mark.parametrize("weights", ["hrnet_lite0", "hrnet_lite0_int8"])
def test_a_second_look_gives_what_a_first_one_would(weights: str) -> None:
    model, other = (OffsetModel(find_weights(weights), "cpu") for _ in range(2))
    image, distance = look(64, 96)
    model.predict(image)
    for found, expected in zip(
        model.predict(image, distance), other.predict(image, distance), strict=True
    ):
        assert np.array_equal(found, expected)


def test_a_photograph_is_looked_at_once_for_all_its_predictions(
    counted: tuple[OffsetModel, Counted],
) -> None:
    model, first = counted
    image, label_map = look(40, 60)
    fixed = [segfix.fix(image, label_map + k, weights=model) for k in (0, 0, 9)]
    assert np.array_equal(fixed[0] + 9, fixed[2])
    model.offsets(image)
    assert first.runs == 1
    model.offsets(image[:, ::-1])
    model.offsets(image.reshape(60, 40, 3))
    assert first.runs == 3, "another photograph, if of the same bytes"
    image[0, 0] ^= 1
    model.offsets(image)
    assert first.runs == 4


def test_no_more_pixels_are_kept_than_there_is_room_for(
    counted: tuple[OffsetModel, Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, first = counted
    monkeypatch.setattr(split_session, "KEPT_PIXELS", 2 * 40 * 60)
    images = [look(40, 60, seed)[0] for seed in range(3)]
    for number, runs in ((0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (1, 4)):
        model.predict(images[number])
        assert first.runs == runs
        assert len(model.session._kept) <= 2
    large = look(80, 61)[0]
    for runs in (5, 6):
        model.predict(large)
        assert (first.runs, len(model.session._kept)) == (runs, 0)


def test_networks_that_look_at_photographs_alone_stay_whole(tiny_onnx: Path) -> None:
    assert not isinstance(load(tiny_onnx, device="cpu").session, SplitSession)


def test_a_part_of_a_graph_is_a_file_of_its_own(conditioned_onnx: Path) -> None:
    graph = OnnxGraph(conditioned_onnx.read_bytes())
    assert [*graph.inputs, *graph.outputs] == ["image", "distance", *OUTPUTS]
    assert graph.find_shared("image", "distance") == ["blue_plane", "green_plane", "red_plane"]
    first = onnx.load_from_string(graph.extract(["red_plane", "wrong"]))
    assert [node.name for node in first.graph.output] == ["red_plane", "wrong"]
    assert [node.name for node in first.graph.input] == ["image", "distance"]
    assert [node.op_type for node in first.graph.node] == ["Gather", "BitwiseNot", "BitwiseAnd"]
    assert [weight.name for weight in first.graph.initializer] == ["red"]
    second = onnx.load_from_string(graph.extract(["wrong"], {"red_plane": "tensor(uint8)"}))
    assert {node.name for node in second.graph.input} == {"distance", "red_plane"}
    assert [entry.key for entry in second.metadata_props] == ["segfix"]


@pytest.mark.parametrize("cut", [1, 50, 200])
def test_broken_files_are_told(conditioned_onnx: Path, cut: int) -> None:
    content = conditioned_onnx.read_bytes()
    with pytest.raises(ValueError, match="broken"):
        OnnxGraph(content[:-cut])
    for number in (0, 127, 128, 300, 2**35):
        tag = onnx.TensorProto(int64_data=[number]).SerializeToString()
        assert tag.endswith(write_number(number))


@pytest.mark.parametrize(("found", "opened"), [("cuda:0", 1), ("cpu", 3)])
def test_a_network_on_a_gpu_is_opened_once(
    conditioned_onnx: Path, monkeypatch: pytest.MonkeyPatch, found: str, opened: int
) -> None:
    devices = []

    def open_session(path: Path, content: bytes, device: str, threads: int, **how: Any) -> Any:
        devices.append(device)
        session, _ = session_module.open_session(path, content, "cpu", threads, **how)
        return session, found

    monkeypatch.setattr(split_session, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(split_session, "open_session", open_session)
    model = OffsetModel(conditioned_onnx, "auto")
    model.predict(look(40, 60)[0])
    assert (model.device, isinstance(model.session, SplitSession)) == (found, found == "cpu")
    assert devices == ["auto", "cpu", "cpu"][:opened]
