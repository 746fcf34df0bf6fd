"""Networks in 8 bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from segfix.errors import SegfixError
from segfix.formats import read_image
from segfix.network import load
from segfix.training import export
from segfix.training.export import export_onnx
from segfix.training.layouts import LabelledImage, find_labelled_images
from segfix.training.onnx_files import name_outputs
from segfix.training.quantize import CentreCrops, quantize_onnx, spread_evenly
from tests.training.onnx_sessions import (
    CROPS,
    OUTPUTS,
    PHOTOGRAPHS,
    SHIPPED,
    open_session,
    optimize,
    photographs,
)

WritePair = Callable[..., None]


@pytest.fixture(scope="session")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped network in 8 bits, alone in its folder.

    Of its own file in float, as exporting it anew takes a minute: that this is the network of the
    checkpoint is checked on the way.
    """

    def write(module: object, path: Path, metadata: object) -> None:
        model = onnx.load(str(SHIPPED))
        name_outputs(model.graph)
        onnx.save(model, str(path))

    out = tmp_path_factory.mktemp("quantized") / "small.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "write_onnx", write)
        checkpoint = SHIPPED.with_suffix(".safetensors")
        export_onnx(checkpoint, out, precision="int8", calibrate_on=[CROPS])
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
        for opened in (open_session(quantized), open_session(SHIPPED))
        for ports in (opened.get_inputs(), opened.get_outputs())
    ]
    assert ports[:2] == ports[2:]
    (image,), maps = open_session(quantized).get_inputs(), open_session(quantized).get_outputs()
    assert image.shape == ["batch", 3, "height", "width"]
    assert all(port.shape == ["batch", "height", "width"] for port in maps)
    both = photographs(data, 45, 70, 2)
    together = open_session(quantized).run(OUTPUTS, {"image": both})
    for place in range(2):
        alone = open_session(quantized).run(OUTPUTS, {"image": both[place : place + 1]})
        for one, other in zip(alone, together, strict=True):
            assert np.array_equal(one[0], other[place])


def test_onnxruntime_computes_every_convolution_in_8_bits(quantized: Path, tmp_path: Path) -> None:
    kinds = [node.op_type for node in optimize(quantized, tmp_path).node]
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


@pytest.mark.usefixtures("_small_hrnet")
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


def test_with_flip_and_8_bits_both_looks_are_in_8_bits(
    tmp_path: Path, flipping: Path, data: Path
) -> None:
    path = Path(shutil.copy(flipping, tmp_path))
    quantize_onnx(path, iter(find_labelled_images(data)))
    kinds = [node.op_type for node in optimize(path, tmp_path).node]
    assert "Conv" not in kinds
    convolutions = [node for node in onnx.load(str(flipping)).graph.node if node.op_type == "Conv"]
    assert kinds.count("QLinearConv") == len(convolutions) > 100
