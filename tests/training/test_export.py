"""Networks as ONNX files: what they compute, say and refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from segfix.errors import SegfixError
from segfix.formats import read_image
from segfix.geometry import flip_direction_map
from segfix.network import load
from segfix.training import export, hrnet2x
from segfix.training.checkpoints import write_checkpoint
from segfix.training.export import export_onnx
from segfix.training.offset_networks import SegFixNet, load_checkpoint
from segfix.training.onnx_files import check_parity
from segfix.training.onnx_network import OffsetNetwork
from tests.training.onnx_sessions import (
    OUTPUTS,
    PHOTOGRAPHS,
    open_session,
    photographs,
)

pytestmark = pytest.mark.usefixtures("_small_hrnet")


@pytest.fixture
def module(checkpoint: Path) -> OffsetNetwork:
    network, described = load_checkpoint(checkpoint)
    return OffsetNetwork(network, described["mean"], described["std"]).eval()


@pytest.fixture
def other_checkpoint(checkpoint: Path, tmp_path: Path) -> Path:
    """The same network with its sectors renamed."""
    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
    weights = load_file(checkpoint)
    for name in ("direction_head.3.weight", "direction_head.3.bias"):
        weights[name] = weights[name].roll(1, dims=0)
    path = tmp_path / "other" / "model.safetensors"
    path.parent.mkdir()
    save_file(weights, path, metadata)
    return path


@pytest.mark.parametrize(("height", "width", "count"), [(64, 96, 1), (45, 70, 2), (33, 31, 2)])
def test_onnxruntime_agrees_with_torch_at_any_size_and_batch(
    exported: Path, module: OffsetNetwork, data: Path, height: int, width: int, count: int
) -> None:
    image = photographs(data, height, width, count)
    found = open_session(exported).run(OUTPUTS, {"image": image})
    with torch.inference_mode():
        expected = [output.numpy() for output in module(torch.from_numpy(image))]
    for got, wanted in zip(found, expected, strict=True):
        assert got.shape == (count, height, width)
        assert got.dtype == np.uint8
        assert wanted.std() > 0
    assert np.mean(found[0] != expected[0]) <= 0.002
    for got, wanted in zip(found[1:], expected[1:], strict=True):
        assert np.abs(got.astype(int) - wanted).max() <= 1


def test_inputs_and_outputs_are_bytes_of_any_size(exported: Path) -> None:
    opened = open_session(exported)
    (image,) = opened.get_inputs()
    assert (image.name, image.type) == ("image", "tensor(uint8)")
    batch, channels, height, width = image.shape
    assert channels == 3
    assert all(isinstance(dimension, str) for dimension in (batch, height, width))
    assert [(o.name, o.type) for o in opened.get_outputs()] == [
        (name, "tensor(uint8)") for name in OUTPUTS
    ]


def test_bytes_are_the_rounded_probabilities_of_the_network(
    module: OffsetNetwork, data: Path
) -> None:
    image = torch.from_numpy(photographs(data, 64, 96, 2))
    mean = torch.tensor(module.mean)[:, None, None]
    std = torch.tensor(module.std)[:, None, None]
    with torch.inference_mode():
        sectors, boundary, certainty = module(image)
        boundary_logits, direction_logits = module.network((image / 255 - mean) / std)
    probabilities = direction_logits.double().softmax(dim=1)
    assert torch.equal(sectors.long(), direction_logits.argmax(dim=1))
    for found, expected in (
        (boundary, boundary_logits[:, 0].double().sigmoid()),
        (certainty, probabilities.amax(dim=1)),
    ):
        # Half a byte of rounding, and a little of float32.
        assert (found / 255 - expected).abs().max() < 0.51 / 255


def test_padding_repeats_the_last_row_and_column(module: OffsetNetwork, data: Path) -> None:
    image = photographs(data, 45, 70, 1)
    padded = np.pad(image, ((0, 0), (0, 0), (0, 64 - 45), (0, 96 - 70)), mode="edge")
    with torch.inference_mode():
        small, large = module(torch.from_numpy(image)), module(torch.from_numpy(padded))
    for cut, whole in zip(small, large, strict=True):
        assert torch.equal(cut, whole[:, :45, :70])


def test_the_metadata_tells_inference_all_it_needs(
    exported: Path, checkpoint: Path, data: Path
) -> None:
    _, described = load_checkpoint(checkpoint)
    properties = open_session(exported).get_modelmeta().custom_metadata_map
    assert list(properties) == ["segfix"]
    assert json.loads(properties["segfix"]) == {
        "kind": "segfix network",
        "version": 1,
        "name": "tiny",
        "precision": "fp32",
        "flip": False,
        "backbone": "hrnet_w18_small",
        "num_directions": 8,
        "boundary_width": 3,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "data": {str(Path(*data.parts[-2:])): 1.0},
        "step": 40,
        "scores": described["scores"],
        "license": "CC0",
        "terms": "none",
    }
    assert set(described["scores"]) == {"mask_f", "direction_accuracy"}


def test_the_file_is_valid_alone_and_free_of_paths(exported: Path, data: Path) -> None:
    assert [path.name for path in exported.parent.iterdir()] == ["tiny.onnx"]
    onnx.checker.check_model(str(exported), full_check=True)
    content = exported.read_bytes()
    for path in (Path(export.__file__).parents[2], data, exported.parent):
        assert str(path).encode() not in content


def test_inference_loads_the_file_and_predicts_what_torch_does(
    exported: Path, module: OffsetNetwork, data: Path
) -> None:
    model = load(exported, device="cpu")
    assert model.num_directions == 8
    assert model.source["weights"] == "tiny"
    image = photographs(data, 99, 130, 1)
    offset_map = model.offsets(image[0].transpose(1, 2, 0))
    with torch.inference_mode():
        direction, boundary, _ = (output[0].numpy() for output in module(torch.from_numpy(image)))
    expected = boundary > 127
    assert 0 < expected.mean() < 1
    # A probability of one half may round to either side, and a sector be as likely as another.
    assert np.mean((offset_map.codes > 0) != expected) <= 0.002
    both = expected & (offset_map.codes > 0)
    assert np.mean(((offset_map.codes[both] - 1) % 8) != direction[both]) <= 0.002


def test_16_bits_are_inside_only_and_find_nearly_the_same(
    tmp_path: Path, exported: Path, checkpoint: Path
) -> None:
    out = tmp_path / "half.onnx"
    assert export_onnx(checkpoint, out, precision="fp16")["precision"] == "fp16"
    assert out.stat().st_size < 0.6 * exported.stat().st_size
    graph = onnx.load(str(out)).graph
    floats = [w for w in graph.initializer if w.data_type == onnx.TensorProto.FLOAT]
    assert sum(int(np.prod(w.dims)) for w in floats) < 100
    whole, half = (load(path, device="cpu") for path in (exported, out))
    for path in PHOTOGRAPHS:
        image = read_image(path)
        expected, found = whole.predict(image), half.predict(image)
        assert np.mean(found[0] != expected[0]) < 0.02
        for one, other in zip(found[1:], expected[1:], strict=True):
            assert one.dtype == np.uint8
            assert np.abs(one.astype(int) - other).mean() < 1


def test_with_flip_a_mirrored_photograph_gives_the_mirrored_answer(
    flipping: Path, exported: Path
) -> None:
    # A multiple of the stride, or the padding would lie on another side.
    image = read_image(PHOTOGRAPHS[0])[:160, :224]
    both, one_eyed = (load(path, device="cpu") for path in (flipping, exported))
    apart = {}
    for model in (both, one_eyed):
        found, seen = model.predict(image), model.predict(np.ascontiguousarray(image[:, ::-1]))
        mirrored = (flip_direction_map(seen[0]), seen[1][:, ::-1], seen[2][:, ::-1])
        apart[model] = [
            float(np.mean(np.abs(a.astype(int) - b) > slack))
            for a, b, slack in zip(found, mirrored, (0, 1, 1), strict=True)
        ]
    assert max(apart[both]) < 0.002
    assert max(apart[one_eyed]) > 0.05


def test_parity_accepts_the_own_network_and_refuses_another(
    exported: Path, checkpoint: Path, other_checkpoint: Path, module: OffsetNetwork
) -> None:
    check_parity(module, exported)
    network, _ = load_checkpoint(other_checkpoint)
    with pytest.raises(SegfixError, match=r"torch and onnxruntime disagree on .*% of the pixels"):
        check_parity(OffsetNetwork(network, module.mean, module.std).eval(), exported)


@pytest.mark.parametrize("before", [None, b"an earlier export"])
def test_a_failing_parity_keeps_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    exported: Path,
    other_checkpoint: Path,
    before: bytes | None,
) -> None:
    def write_wrongly(module: object, path: Path, metadata: object) -> None:
        shutil.copy(exported, path)

    out = tmp_path / "out" / "tiny.onnx"
    out.parent.mkdir()
    if before is not None:
        out.write_bytes(before)
    monkeypatch.setattr(export, "write_onnx", write_wrongly)
    with pytest.raises(SegfixError, match="the export is not kept"):
        export_onnx(other_checkpoint, out)
    assert {p.name: p.read_bytes() for p in out.parent.iterdir()} == (
        {} if before is None else {"tiny.onnx": before}
    )


def test_the_name_is_the_stem_unless_given_and_notes_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Path, checkpoint: Path
) -> None:
    def copy(module: object, path: Path, metadata: object) -> None:
        shutil.copy(exported, path)

    monkeypatch.setattr(export, "write_onnx", copy)
    assert export_onnx(checkpoint, tmp_path / "mine.onnx")["name"] == "mine"
    metadata = export_onnx(checkpoint, tmp_path / "b.onnx", name="city", notes={"terms": "any"})
    assert (metadata["name"], metadata["terms"]) == ("city", "any")
    assert "license" not in metadata


@pytest.mark.parametrize("backbone", ["hrnet_w18_small_2x", "hrnet_w18_2x"])
def test_networks_with_a_branch_at_stride_2_are_exported(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, backbone: str
) -> None:
    # The network itself is exported by hand: here its stages are of one block each.
    monkeypatch.setattr(hrnet2x, "BLOCKS", 1)
    monkeypatch.setattr(hrnet2x, "STAGES", tuple((block, 1) for block, _ in hrnet2x.STAGES))
    network = SegFixNet(backbone)
    if network.detail_head is not None:
        for parameter in network.detail_head.logits[-1].parameters():
            torch.nn.init.normal_(parameter)
    _, described = load_checkpoint(checkpoint)
    write_checkpoint(tmp_path, network, {**described, "backbone": backbone})
    out = tmp_path / "fine.onnx"
    assert export_onnx(tmp_path / "model.safetensors", out)["backbone"] == backbone
    assert load(out, device="cpu").predict(np.zeros((50, 70, 3), np.uint8))[0].shape == (
        50,
        70,
    )
