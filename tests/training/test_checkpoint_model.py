"""Segmentation networks from their checkpoint, and exported to ONNX."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from segfix.cli import main
from segfix.errors import DeviceError, FileFormatError, SegfixError
from segfix.files import Entry
from segfix.formats import read_image, read_label_map
from segfix.network.segmentation_model import SegmentationModel, average_probabilities
from segfix.tasks.segment import segment_task
from segfix.training.checkpoint_model import CheckpointModel, ProbabilityNetwork, find_device
from segfix.training.checkpoints import write_checkpoint
from segfix.training.export import export_onnx
from segfix.training.offset_networks import normalize_image
from segfix.training.onnx_files import average_pool, check_parity, exportable_pooling
from segfix.training.segmentation_networks import Segmenter, load_segmenter

PHOTOGRAPH = sorted((Path(__file__).parents[1] / "data/camvid/images").iterdir())[0]
SEGFIX = Path(__file__).parents[2] / "weights/hrnet_w18_small.safetensors"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def write_segmenter(out: Path, name: str, class_ids: tuple[int, ...], seed: int = 0) -> Path:
    """The checkpoint of a network that has learnt nothing."""
    torch.manual_seed(seed)
    metadata = {
        "kind": "segmentation",
        "network": name,
        "backbone": "resnet10t",
        "class_ids": list(class_ids),
        "mean": MEAN,
        "std": STD,
        "data": {"streets": 1.0},
        "step": 7,
        "scores": {"miou": 0.5},
        "losses": {"epl": 1.0},
    }
    write_checkpoint(out, Segmenter(name, "resnet10t", len(class_ids)), metadata)
    return out / "model.safetensors"


@pytest.fixture(scope="module")
def pspnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with adaptive pooling, which torch alone exports for one size only."""
    return write_segmenter(tmp_path_factory.mktemp("pspnet"), "pspnet", (0, 7, 200))


@pytest.fixture(scope="module")
def pspnet_onnx(tmp_path_factory: pytest.TempPathFactory, pspnet: Path) -> Path:
    out = tmp_path_factory.mktemp("onnx") / "psp.onnx"
    export_onnx(pspnet, out, notes={"license": "CC0", "terms": "none"})
    return out


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    """A photograph whose sides are no multiples of the stride."""
    return read_image(PHOTOGRAPH)[:111, :141]


def labels_of(network: Any, image: Path, out: Path, **settings: Any) -> NDArray[Any]:
    segment_task(network, **settings).do(Entry(image, image.stem), out, overwrite=True)
    return np.asarray(read_label_map(out / f"{image.stem}.png").array)


def test_checkpoint_and_onnx_file_give_the_same_label_map(
    tmp_path: Path, pspnet: Path, pspnet_onnx: Path
) -> None:
    networks = CheckpointModel(pspnet, "cpu"), SegmentationModel(pspnet_onnx, "cpu")
    for settings in ({}, {"scales": (0.5, 1.2), "flip": True}):
        first, second = (
            labels_of(network, PHOTOGRAPH, tmp_path / str(number), **settings)
            for number, network in enumerate(networks)
        )
        assert first.dtype == np.uint8
        assert np.mean(first != second) < 0.002
        assert len(np.unique(first)) > 1
        assert set(np.unique(first)) <= {0, 7, 200}


def test_probabilities_are_those_of_the_network_in_any_size(
    pspnet: Path, pspnet_onnx: Path, image: NDArray[np.uint8]
) -> None:
    network, _ = load_segmenter(pspnet)
    checkpoint, file = CheckpointModel(pspnet, "cpu"), SegmentationModel(pspnet_onnx, "cpu")
    for height, width in ((111, 141), (33, 20), (1, 70)):
        part = np.ascontiguousarray(image[:height, :width])
        with torch.inference_mode():
            pixels = torch.from_numpy(part).permute(2, 0, 1)[None]
            expected = network(normalize_image(pixels, MEAN, STD))[0].double().softmax(0).numpy()
        assert expected.shape == (3, height, width)
        for found in (checkpoint.probabilities(part), file.probabilities(part)):
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_file_says_what_it_holds(pspnet_onnx: Path) -> None:
    network = onnx.load(str(pspnet_onnx))
    onnx.checker.check_model(network, full_check=True)
    (output,) = network.graph.output
    assert output.name == "probability"
    assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    (entry,) = network.metadata_props
    assert json.loads(entry.value) == {
        "kind": "segmentation network",
        "version": 1,
        "name": "psp",
        "precision": "fp32",
        "flip": False,
        "network": "pspnet",
        "backbone": "resnet10t",
        "class_ids": [0, 7, 200],
        "mean": MEAN,
        "std": STD,
        "data": {"streets": 1.0},
        "step": 7,
        "scores": {"miou": 0.5},
        "license": "CC0",
        "terms": "none",
    }
    assert SegmentationModel(pspnet_onnx, "cpu").class_ids == (0, 7, 200)


def test_16_bits_and_the_mirror_image_can_be_in_the_file(
    tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    checkpoint = write_segmenter(tmp_path, "fcn32s", (3, 300))
    out = tmp_path / "half.onnx"
    metadata = export_onnx(checkpoint, out, precision="fp16", flip=True)
    assert (metadata["precision"], metadata["flip"]) == ("fp16", True)
    assert out.stat().st_size < 0.6 * checkpoint.stat().st_size
    half = SegmentationModel(out, "cpu")
    found = half.probabilities(image)
    assert found.dtype == np.float32
    expected = average_probabilities(CheckpointModel(checkpoint, "cpu"), image, flip=True)
    np.testing.assert_allclose(found, expected, atol=0.02)
    mirrored = half.probabilities(np.ascontiguousarray(image[:, ::-1]))
    np.testing.assert_allclose(mirrored[..., ::-1], found, atol=1e-3)
    labels = labels_of(half, PHOTOGRAPH, tmp_path / "preds")
    assert labels.dtype == np.uint16
    assert set(np.unique(labels)) <= {3, 300}


def test_a_wrong_export_is_not_kept(tmp_path: Path, pspnet_onnx: Path) -> None:
    network, _ = load_segmenter(write_segmenter(tmp_path, "pspnet", (0, 7, 200), seed=1))
    with pytest.raises(SegfixError, match=r"torch and onnxruntime disagree on .*% of the pixels"):
        check_parity(ProbabilityNetwork(network, MEAN, STD).eval(), pspnet_onnx)


def test_what_is_no_number_is_a_disagreement(pspnet: Path, pspnet_onnx: Path) -> None:
    network, _ = load_segmenter(pspnet)
    for parameter in network.parameters():
        parameter.data.fill_(torch.nan)
    with pytest.raises(SegfixError, match="disagree on"):
        check_parity(ProbabilityNetwork(network, MEAN, STD).eval(), pspnet_onnx)


@pytest.mark.parametrize("size", [1, 2, 6, (3, 5)])
@pytest.mark.parametrize("shape", [(4, 4), (12, 7), (13, 31)])
def test_pooling_as_matrices_is_adaptive_pooling(
    size: int | tuple[int, int], shape: tuple[int, int]
) -> None:
    maps = torch.randn(2, 3, *shape, dtype=torch.float64)
    torch.testing.assert_close(average_pool(maps, size), F.adaptive_avg_pool2d(maps, size))


def test_torch_has_its_own_pooling_again_whatever_happens() -> None:
    own = F.adaptive_avg_pool2d
    with exportable_pooling():
        assert F.adaptive_avg_pool2d is average_pool
    with pytest.raises(ZeroDivisionError), exportable_pooling():
        raise ZeroDivisionError
    assert F.adaptive_avg_pool2d is own


def test_there_is_no_confidence_to_calibrate(tmp_path: Path, pspnet: Path, data: Path) -> None:
    out = tmp_path / "never.onnx"
    with pytest.raises(SegfixError, match="only a SegFix network has a confidence"):
        export_onnx(pspnet, out, calibrate_on=[data])
    with pytest.raises(SegfixError, match=r"only a SegFix network has .* an int8 form"):
        export_onnx(pspnet, out, precision="int8", calibrate_on=[data])
    assert not out.exists()


def test_what_torch_can_not_export_is_left_to_the_checkpoint(
    tmp_path: Path, pspnet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("96 not in VR[97, int_oo]\nand much more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(SegfixError) as caught:
        export_onnx(pspnet, tmp_path / "never.onnx")
    assert str(caught.value) == (
        f"{pspnet}: torch can't export pspnet for pictures of all sizes (RuntimeError); "
        "'segfix segment' takes the checkpoint itself."
    )
    assert not list(tmp_path.iterdir())


def test_checkpoints_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="but not of a segmentation network; expected the"):
        CheckpointModel(SEGFIX, "cpu")
    (tmp_path / "text.safetensors").write_text("no checkpoint")
    with pytest.raises(FileFormatError, match="not a safetensors file"):
        CheckpointModel(tmp_path / "text.safetensors", "cpu")


def test_devices_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert find_device("cpu") == find_device("auto") == "cpu"
    with pytest.raises(DeviceError, match="'cuda:1': torch finds no such GPU here"):
        find_device("cuda:1")
    with pytest.raises(DeviceError, match="'segfix export' makes an ONNX file for the others"):
        find_device("tensorrt")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [find_device(d) for d in ("auto", "cuda", "cuda:1")] == ["cuda:0", "cuda:0", "cuda:1"]
    with pytest.raises(DeviceError, match="'cuda:2'"):
        find_device("cuda:2")


def test_train_segment_refine_evaluate(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_pair: Callable[..., None],
    blobs: NDArray[np.uint8],
    tiny_onnx: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    for place, name in enumerate("abc"):
        part = blobs[20 * place : 20 * place + 70, :90]
        write_pair(Path(), name, np.array([3, 300, 301], np.uint16)[part])
        # Of `tiny_onnx`, green is the sector × 16.
        image = np.array(Image.open(f"images/{name}.png"))
        image[..., 1] //= 2
        Image.fromarray(image).save(f"images/{name}.png")

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.output

    small = ("--network", "fcn8s", "--backbone", "resnet10t", "--crop-size", 64, "--workers", 0)
    run("train", "--loss", "level-set", "--steps", 2, "--batch-size", 2, *small, "-q")
    assert "weights runs/segmentation/model.safetensors on " in run("segment", "images/")
    run("predict-offsets", "images/", "--weights", tiny_onnx)
    assert "refined: 3 written" in run("refine", "preds/")
    assert "mIoU" in run("evaluate", "refined/", "labels/")
    for path in sorted(Path("preds").iterdir()):
        labels = read_label_map(path).array
        assert labels.shape == (70, 90)
        assert labels.dtype == np.uint16
        assert set(np.unique(labels)) <= {3, 300, 301}
    assert len(list(Path("refined").iterdir())) == 3
