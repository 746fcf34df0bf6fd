from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from segfix.errors import FileFormatError, SegfixError
from segfix.formats import read_image
from segfix.geometry import flip_direction_map, make_targets
from segfix.network import load
from segfix.training import export, hrnet2x
from segfix.training.calibration import fit_calibration
from segfix.training.checkpoints import write_checkpoint
from segfix.training.export import export_onnx
from segfix.training.layouts import LabelledImage, find_labelled_images
from segfix.training.offset_networks import SegFixNet, load_checkpoint
from segfix.training.onnx_files import check_parity
from segfix.training.onnx_network import OffsetNetwork
from segfix.training.quantize import CentreCrops, quantize_onnx, spread_evenly

WritePair = Callable[..., None]
CROPS = Path(__file__).parents[1] / "data/camvid"
PHOTOGRAPHS = sorted((CROPS / "images").iterdir())
SHIPPED = Path(__file__).parents[2] / "weights/hrnet_w18_small.onnx"
OUTPUTS = ["direction", "boundary", "certainty"]


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


def photographs(data: Path, height: int, width: int, count: int) -> NDArray[np.uint8]:
    """(count, 3, height, width) cut-outs of the scene the network was trained on."""
    image = find_labelled_images(data)[0].read()[0]
    cuts = [image[5 * i : 5 * i + height, 9 * i : 9 * i + width] for i in range(count)]
    return np.ascontiguousarray(np.stack(cuts).transpose(0, 3, 1, 2))


def session(path: Path) -> Any:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_a_checkpoint_is_loaded_ready_to_predict(checkpoint: Path) -> None:
    network, metadata = load_checkpoint(checkpoint)
    assert not network.training
    assert metadata["kind"] == "segfix"
    saved = load_file(checkpoint)
    assert all(torch.equal(value, saved[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("height", "width", "count"), [(64, 96, 1), (45, 70, 2), (33, 31, 2)])
def test_onnxruntime_agrees_with_torch_at_any_size_and_batch(
    exported: Path, module: OffsetNetwork, data: Path, height: int, width: int, count: int
) -> None:
    image = photographs(data, height, width, count)
    found = session(exported).run(OUTPUTS, {"image": image})
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
    opened = session(exported)
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
    properties = session(exported).get_modelmeta().custom_metadata_map
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


@pytest.fixture(scope="session")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped network in 8 bits, alone in its folder."""
    out = tmp_path_factory.mktemp("quantized") / "small.onnx"
    export_onnx(SHIPPED.with_suffix(".safetensors"), out, precision="int8", calibrate_on=[CROPS])
    return out


def test_8_bits_are_inside_only_and_find_nearly_the_same(quantized: Path) -> None:
    assert [path.name for path in quantized.parent.iterdir()] == ["small.onnx"]
    assert quantized.stat().st_size < 0.3 * SHIPPED.stat().st_size
    onnx.checker.check_model(str(quantized), full_check=True)
    assert str(CROPS).encode() not in quantized.read_bytes()
    whole, small = (load(path, device="cpu") for path in (SHIPPED, quantized))
    for path in PHOTOGRAPHS:
        for height, width in ((180, 240), (101, 77), (1, 1)):
            cut = read_image(path)[:height, :width]
            expected, found = whole.predict(cut), small.predict(cut)
            assert all(one.shape == (height, width) for one in found)
            assert all(one.dtype == np.uint8 for one in found)
            mask, boundary = found[1] > 127, expected[1] > 127
            assert np.mean(mask != boundary) < 0.02
            assert np.mean((found[0] != expected[0])[mask & boundary] if mask.any() else 0) < 0.08


def test_8_bits_take_a_batch_and_name_their_inputs_like_float(quantized: Path, data: Path) -> None:
    ports = [
        [(port.name, port.type, len(port.shape)) for port in ports]
        for opened in (session(quantized), session(SHIPPED))
        for ports in (opened.get_inputs(), opened.get_outputs())
    ]
    assert ports[:2] == ports[2:]
    (image,), maps = session(quantized).get_inputs(), session(quantized).get_outputs()
    assert image.shape == ["batch", 3, "height", "width"]
    assert all(port.shape == ["batch", "height", "width"] for port in maps)
    both = photographs(data, 45, 70, 2)
    together = session(quantized).run(OUTPUTS, {"image": both})
    for place in range(2):
        alone = session(quantized).run(OUTPUTS, {"image": both[place : place + 1]})
        for one, other in zip(alone, together, strict=True):
            assert np.array_equal(one[0], other[place])


def optimized(path: Path, folder: Path) -> onnx.GraphProto:
    """What onnxruntime makes of the network before it runs it."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    # The file is for this machine alone, says a warning.
    options.log_severity_level = 4
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath).graph


def test_onnxruntime_computes_every_convolution_in_8_bits(quantized: Path, tmp_path: Path) -> None:
    kinds = [node.op_type for node in optimized(quantized, tmp_path).node]
    assert "Conv" not in kinds
    assert kinds.count("QLinearConv") == 75
    assert {"Resize", "ArgMax", "Exp"} <= set(kinds)


def test_weights_of_7_bits_fit_cpus_that_add_in_16(quantized: Path) -> None:
    weights = [
        numpy_helper.to_array(values)
        for values in onnx.load(str(quantized)).graph.initializer
        if values.data_type == onnx.TensorProto.INT8 and len(values.dims) == 4
    ]
    assert weights
    assert max(int(np.abs(w.astype(int)).max()) for w in weights) <= 64


def test_the_metadata_tells_what_8_bits_cost(quantized: Path) -> None:
    metadata = load(quantized, device="cpu").metadata
    assert (metadata["precision"], metadata["calibrated_on"]) == ("int8", ["data/camvid"])
    scores = metadata["precision_scores"]["data/camvid"]
    assert set(scores) == {"fp32", "int8"}
    for key in ("mask_f", "direction_accuracy"):
        assert 0.4 < scores["fp32"][key] < 1
        assert abs(scores["fp32"][key] - scores["int8"][key]) <= 0.01
    slope, _ = metadata["calibration"]
    assert 1 < slope < 10


def test_8_bits_of_the_same_photographs_are_the_same_file(tmp_path: Path) -> None:
    for name in ("one.onnx", "other.onnx"):
        shutil.copy(SHIPPED, tmp_path / name)
        quantize_onnx(tmp_path / name, iter(find_labelled_images(CROPS)))
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()


def test_a_network_that_8_bits_spoil_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(module: object, path: Path, metadata: object) -> None:
        shutil.copy(SHIPPED, path)

    def quantize_badly(path: Path, images: object) -> None:
        model = onnx.load(str(path))
        for values in model.graph.initializer:
            if values.name == "network.boundary_head.3.bias":
                worse = numpy_helper.to_array(values) - 1
                values.CopyFrom(numpy_helper.from_array(worse, values.name))
        onnx.save(model, str(path))

    monkeypatch.setattr(export, "write_onnx", write)
    monkeypatch.setattr(export, "quantize_onnx", quantize_badly)
    out = tmp_path / "small.onnx"
    with pytest.raises(SegfixError, match=r"loses too much on data/camvid: .* from .*%") as caught:
        export_onnx(
            SHIPPED.with_suffix(".safetensors"), out, precision="int8", calibrate_on=[CROPS]
        )
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_8_bits_need_data(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(SegfixError, match="int8 needs data sets"):
        export_onnx(checkpoint, tmp_path / "tiny.onnx", precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_ranges_are_told_by_as_many_photographs_of_each_set() -> None:
    sets = [
        [LabelledImage(Path(f"{name}{place}.jpg"), Path("none")) for place in range(count)]
        for name, count in (("a", 100), ("b", 5))
    ]
    chosen = [pair.image.name for pair in spread_evenly(sets)]
    assert len(chosen) == len(set(chosen)) == 32 + 5
    assert {"a0.jpg", "a50.jpg", "b0.jpg", "b4.jpg"} <= set(chosen)


def test_only_the_middle_of_a_large_photograph_tells_the_ranges(
    tmp_path: Path, write_pair: WritePair
) -> None:
    image = np.arange(700 * 900 * 3, dtype=np.uint32).reshape(700, 900, 3).astype(np.uint8)
    write_pair(tmp_path, "large", np.zeros((700, 900), np.uint8), image)
    reader = CentreCrops(iter(find_labelled_images(tmp_path)))
    crop = reader.get_next()
    assert crop is not None
    assert np.array_equal(crop["image"][0], image[94:606, 194:706].transpose(2, 0, 1))
    assert reader.get_next() is None


@pytest.fixture(scope="session")
def flipping(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """The tiny network that looks at the mirrored image, too."""
    out = tmp_path_factory.mktemp("flipping") / "flip.onnx"
    assert export_onnx(checkpoint, out, flip=True)["flip"] is True
    return out


def test_with_flip_and_8_bits_both_looks_are_in_8_bits(
    tmp_path: Path, flipping: Path, data: Path
) -> None:
    path = Path(shutil.copy(flipping, tmp_path))
    quantize_onnx(path, iter(find_labelled_images(data)))
    kinds = [node.op_type for node in optimized(path, tmp_path).node]
    assert "Conv" not in kinds
    assert kinds.count("QLinearConv") == 2 * 75


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


def test_calibration_finds_the_line_that_the_counts_follow() -> None:
    middles = (np.arange(50) + 0.5) / 50
    count = np.full(50, 1_000_000)
    right = count / (1 + np.exp(-(3.0 * middles - 1.0)))
    slope, intercept = fit_calibration([np.stack([count, right.astype(int)], 1)])
    assert slope == pytest.approx(3.0, abs=0.01)
    assert intercept == pytest.approx(-1.0, abs=0.01)


@pytest.mark.parametrize("right", [0, 20])
def test_a_few_pixels_all_right_or_all_wrong_are_not_believed_for_ever(right: int) -> None:
    counts = np.zeros((50, 2), np.int64)
    counts[10], counts[40] = (20, right), (20, 20 - right)
    slope, intercept = fit_calibration([counts])
    assert 0 <= slope < 50
    assert abs(intercept) < 50


def test_each_set_counts_the_same_for_calibration() -> None:
    small, large = (np.zeros((50, 2), np.int64) for _ in range(2))
    small[25], large[25] = (10, 9), (1_000_000, 500_000)
    slope, intercept = fit_calibration([small, large])
    assert 1 / (1 + np.exp(-(slope * 0.51 + intercept))) == pytest.approx(0.7, abs=0.01)


def test_without_any_boundary_there_is_nothing_to_calibrate_on() -> None:
    with pytest.raises(SegfixError, match="nothing to calibrate on"):
        fit_calibration([np.zeros((50, 2), np.int64)])


def test_confidence_in_offset_maps_is_calibrated_on_the_data_given(
    tmp_path: Path, checkpoint: Path, data: Path
) -> None:
    out = tmp_path / "calibrated.onnx"
    metadata = export_onnx(checkpoint, out, calibrate_on=[data])
    assert metadata["calibrated_on"] == [f"{data.parent.name}/{data.name}"]
    model = load(out, device="cpu")
    assert model.metadata["calibration"] == metadata["calibration"]
    image, labels = find_labelled_images(data)[0].read()
    offset_map = model.offsets(image)
    direction, boundary, certainty = model.predict(image)
    slope, intercept = metadata["calibration"]
    expected = 1 / (1 + np.exp(-(slope * boundary * (certainty / 255**2) + intercept)))
    found = offset_map.codes > 0
    step = (1 - offset_map.lowest_confidence) / offset_map.num_levels
    assert np.abs(offset_map.confidence_map() - expected)[found].max() <= step / 2 + 1e-3
    # On the very data that it was fitted on, the mean confidence is the share that is right.
    targets = make_targets(labels).direction_map
    turn = (direction.astype(int) - targets) % 8
    near = found & (targets != 255)
    right = np.minimum(turn, 8 - turn)[near] <= 1
    assert expected[near].mean() == pytest.approx(right.mean(), abs=0.05)


def test_a_checkpoint_in_16_bits_is_loaded_in_32(tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "half.safetensors"
    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
    save_file(
        {n: v.half() if v.is_floating_point() else v for n, v in load_file(checkpoint).items()},
        path,
        metadata,
    )
    half, whole = (load_checkpoint(p)[0].state_dict() for p in (path, checkpoint))
    for name, value in whole.items():
        assert half[name].dtype == value.dtype
        torch.testing.assert_close(half[name], value, rtol=1e-3, atol=1e-5)


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


def test_a_text_file_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("not a checkpoint")
    with pytest.raises(FileFormatError, match="not a safetensors file") as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="not a safetensors file") as caught:
        load_checkpoint(tmp_path / "missing.safetensors")
    assert str(tmp_path / "missing.safetensors") in str(caught.value)


def test_half_a_checkpoint_is_no_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "half.safetensors"
    content = checkpoint.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(FileFormatError, match="not a safetensors file"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, {"segfix": '{"kind": "semeda"}'}, {"segfix": "no JSON"}]
)
def test_safetensors_of_something_else_are_no_checkpoint(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path, metadata)
    with pytest.raises(FileFormatError) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "segfix train" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_are_an_error_in_one_line(tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "unfit.safetensors"
    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
    weights = load_file(checkpoint)
    weights["boundary_head.3.weight"] = torch.zeros(2, 256, 1, 1)
    save_file(weights, path, metadata)
    with pytest.raises(FileFormatError, match="don't fit hrnet_w18_small") as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


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
