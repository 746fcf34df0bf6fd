"""Export of networks that look at a prediction, too: two inputs, 8 and 16 bits, both looks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from segfix.errors import SegfixError
from segfix.geometry import NO_PREDICTION, flip_direction_map, label_distance
from segfix.geometry.label_distance import DISTANCE_STEPS, WRONG_WITHIN
from segfix.network import load
from segfix.network.offset_model import OffsetModel
from segfix.training import calibration, export
from segfix.training.calibration import Measured, compare_scores, measure
from segfix.training.crop_targets import make_validation_prediction
from segfix.training.export import export_onnx
from segfix.training.heads import fold_norms
from segfix.training.hrnet_lite import ConditionedSegFixNet
from segfix.training.layouts import find_labelled_images
from segfix.training.offset_networks import load_checkpoint
from segfix.training.onnx_files import check_parity
from segfix.training.onnx_network import OffsetNetwork
from segfix.training.quantize import CentreCrops, quantize_onnx

Maps = Sequence[NDArray[np.uint8]]
CROPS = Path(__file__).parents[1] / "data/camvid"
pytestmark = pytest.mark.usefixtures("_small_lite")


@pytest.fixture
def network(trained_lite: Any) -> OffsetNetwork:
    found, described = load_checkpoint(trained_lite.out / "model.safetensors")
    return OffsetNetwork(found, described["mean"], described["std"]).eval()


@pytest.fixture(scope="session")
def quantized_lite(
    tmp_path_factory: pytest.TempPathFactory, exported_lite: Path, data: Path
) -> Path:
    """The tiny network in 8 bits."""
    path = Path(shutil.copy(exported_lite, tmp_path_factory.mktemp("quantized-lite")))
    quantize_onnx(path, iter(find_labelled_images(data)))
    return path


def scene(data: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The photograph that the network has learnt, and how far a prediction's boundaries are."""
    image, labels = find_labelled_images(data)[0].read()
    return image, make_validation_prediction(labels, seed=5)[0]


def differ(found: Maps, expected: Maps) -> list[float]:
    """Share of other sectors, and by how many bytes the rest differs on average."""
    apart = [np.abs(a.astype(int) - b) for a, b in zip(found, expected, strict=True)]
    return [float(np.mean(apart[0] > 0)), *(float(one.mean()) for one in apart[1:])]


def test_inputs_and_outputs_are_bytes_of_any_size(exported_lite: Path) -> None:
    opened = ort.InferenceSession(str(exported_lite), providers=["CPUExecutionProvider"])
    image, distance = opened.get_inputs()
    assert (image.name, distance.name) == ("image", "distance")
    assert (image.type, distance.type) == ("tensor(uint8)", "tensor(uint8)")
    assert distance.shape == [image.shape[0], *image.shape[2:]]
    assert all(isinstance(dimension, str) for dimension in distance.shape)
    names = [output.name for output in opened.get_outputs()]
    assert names == ["direction", "boundary", "certainty", "wrong"]
    metadata = json.loads(opened.get_modelmeta().custom_metadata_map["segfix"])
    assert metadata["conditioned"] is True
    assert metadata["backbone"] == "hrnet_lite0"


@pytest.mark.parametrize("size", [(64, 96), (45, 70), (33, 31)])
def test_onnxruntime_agrees_with_torch_with_and_without_a_prediction(
    exported_lite: Path, network: OffsetNetwork, data: Path, size: tuple[int, int]
) -> None:
    model = OffsetModel(exported_lite, "cpu")
    image, distance = (array[: size[0], : size[1]] for array in scene(data))
    none = np.full_like(distance, NO_PREDICTION)
    looks = []
    for seen, given in ((none, None), (distance, distance)):
        with torch.inference_mode():
            inputs = image.transpose(2, 0, 1)[None].copy(), seen[None].copy()
            expected = [one[0].numpy() for one in network(*map(torch.from_numpy, inputs))]
        found = model.predict(image, given)
        assert all(one.shape == size for one in found)
        sectors, *bytes_apart = differ(found, expected)
        assert sectors <= 0.002
        assert max(bytes_apart) < 0.1
        looks.append(found)
    assert differ(*looks)[1] > 1, "it looks at the prediction"


def test_a_folded_network_computes_what_it_did(network: OffsetNetwork) -> None:
    torch.manual_seed(0)
    lite = network.network
    assert isinstance(lite, ConditionedSegFixNet)
    image = torch.randn(1, 3, 64, 96)
    distance = torch.randint(0, 256, (1, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        before = lite(image, distance)
    lite.fold()
    lite.detail_head.fold()
    fold_norms(lite)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in lite.modules())
    with torch.inference_mode():
        for found, expected in zip(lite(image, distance), before, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_batch_norm_is_computed_nowhere(exported_lite: Path) -> None:
    graph = onnx.load(str(exported_lite)).graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}


def test_parity_is_told_with_and_without_a_prediction(
    exported_lite: Path, network: OffsetNetwork
) -> None:
    check_parity(network, exported_lite)
    lite: Any = network.network
    first = lite.condition.fine[0].weight
    for planes in (slice(None), slice(1, None)):
        before = first.data.clone()
        first.data[:, planes] += 1
        with pytest.raises(SegfixError, match="torch and onnxruntime disagree"):
            check_parity(network, exported_lite)
        first.data = before
    # What counts without a prediction alone: the maps of all zeros.
    for bias in (lite.condition.added[0].bias, lite.condition.added[1].bias):
        bias.data += 3
    with pytest.raises(SegfixError, match="torch and onnxruntime disagree"):
        check_parity(network, exported_lite)


def test_16_bits_and_flip_look_at_the_mirrored_prediction_too(
    tmp_path: Path, trained_lite: Any, exported_lite: Path, data: Path
) -> None:
    out = tmp_path / "flip.onnx"
    metadata = export_onnx(trained_lite.out / "model.safetensors", out, precision="fp16", flip=True)
    assert (metadata["precision"], metadata["flip"]) == ("fp16", True)
    assert out.stat().st_size < 0.6 * exported_lite.stat().st_size
    both, whole = OffsetModel(out, "cpu"), OffsetModel(exported_lite, "cpu")
    # A multiple of the stride, or the padding would lie on another side.
    image, distance = (array[:96, :128] for array in scene(data))
    for given in (None, distance):
        mirror = None if given is None else given[:, ::-1].copy()
        apart = []
        for model in (both, whole):
            seen = model.predict(image[:, ::-1].copy(), mirror)
            mirrored = [flip_direction_map(seen[0]), *(one[:, ::-1] for one in seen[1:])]
            apart.append(differ(model.predict(image, given), mirrored))
        assert apart[0][0] < 0.005
        assert max(apart[0][1:]) < 0.2
        assert apart[1][0] > 0.02
        assert max(apart[1][1:]) > 1


def test_every_convolution_is_in_8_bits(
    quantized_lite: Path, exported_lite: Path, tmp_path: Path
) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(str(quantized_lite), options, providers=["CPUExecutionProvider"])
    kinds, before = (
        [node.op_type for node in onnx.load(str(path)).graph.node]
        for path in (options.optimized_model_filepath, exported_lite)
    )
    assert "Conv" not in kinds
    assert kinds.count("QLinearConv") == before.count("Conv") > 50
    assert "Clip" not in kinds, "the range of 8 bits ends where the activation is cut"


def test_8_bits_find_nearly_the_same_with_and_without_a_prediction(
    quantized_lite: Path, exported_lite: Path, data: Path
) -> None:
    whole, small = (OffsetModel(path, "cpu") for path in (exported_lite, quantized_lite))
    image, distance = scene(data)
    for given in (None, distance):
        expected, found = whole.predict(image, given), small.predict(image, given)
        mask, boundary = found[1] > 127, expected[1] > 127
        assert 0.05 < boundary.mean() < 0.95
        # A network of a few dozen steps has many pixels near the edge.
        assert np.mean(mask != boundary) < 0.1
        assert np.mean((found[0] != expected[0])[mask & boundary]) < 0.2
        # Without a prediction, `wrong` means nothing.
        assert differ(found, expected)[3] < 6 or given is None


def test_ranges_are_told_with_and_without_a_prediction() -> None:
    images = find_labelled_images(CROPS)[:2]
    reader = CentreCrops(iter(images), conditioned=True)
    for number, pair in enumerate(images):
        image, labels = pair.read()
        without, with_one = reader.get_next(), reader.get_next()
        assert without is not None
        assert with_one is not None
        assert (without["distance"] == NO_PREDICTION).all()
        assert np.array_equal(
            with_one["distance"][0], make_validation_prediction(labels, seed=number)[0]
        )
        for inputs in (without, with_one):
            assert np.array_equal(inputs["image"][0].transpose(1, 2, 0), image)
            assert inputs["distance"].shape == (1, *labels.shape)
    assert reader.get_next() is None


def test_a_known_prediction_is_perturbed_labels_and_wrong_where_these_differ() -> None:
    labels = np.zeros((60, 80), np.int64)
    labels[:, 40:] = 3
    labels[50:] = -1
    some_wrong = 0
    for seed in range(8):
        distance, wrong = make_validation_prediction(labels, seed=seed)
        again = make_validation_prediction(labels, seed=seed)
        assert np.array_equal(distance, again[0])
        assert np.array_equal(wrong, again[1])
        assert set(np.unique(wrong)) <= {0, 1, 255}
        assert np.array_equal(wrong == 255, labels == -1)
        some_wrong += int((wrong == 1).any())
        if not (wrong == 1).any():
            # Whatever became of void, the boundary that is known is where it was.
            assert (distance[:40, 39:41] == DISTANCE_STEPS).all()
    assert some_wrong >= 4
    constant = np.full((9, 9), 2)
    assert np.array_equal(make_validation_prediction(constant, seed=0)[0], label_distance(constant))


def test_measuring_shows_predictions_to_networks_that_look(
    exported_lite: Path, exported: Path, data: Path
) -> None:
    images = find_labelled_images(data)
    (found,) = measure(exported_lite, [images], ["scene"], quiet=True)
    image, labels = images[0].read()
    distance, is_wrong = make_validation_prediction(labels, seed=0)
    wrong = OffsetModel(exported_lite, "cpu").predict(image, distance)[3]
    near = (distance <= WRONG_WITHIN * DISTANCE_STEPS) | (is_wrong == 1)
    assert found.wrong[:, 1].sum() == (is_wrong == 1).sum()
    assert found.wrong[:, 0].sum() == (near & (is_wrong == 0)).sum()
    ranks = wrong[is_wrong == 1].astype(int)[:, None] - wrong[near & (is_wrong == 0)].astype(int)
    scores = found.scores()
    assert scores["wrong_auc"] == pytest.approx(float(((np.sign(ranks) + 1) / 2).mean()))
    assert scores["wrong_auc"] > 0.55
    assert scores["conditioned_mask_f"] != scores["mask_f"]
    (before,) = measure(exported, [images], ["scene"], quiet=True)
    assert before.scores().keys() == {"mask_f", "direction_accuracy"}


def measured(right: Sequence[int], wrong: Sequence[int]) -> Measured:
    """Of a network that gives these bytes to pixels whose label is right, and wrong."""
    counts = np.array([9, 10, 10, 5, 10])
    table = np.stack([np.bincount(bytes_, minlength=256) for bytes_ in (right, wrong)], axis=1)
    return Measured(counts, np.zeros((50, 2), np.int64), counts, table)


@pytest.mark.parametrize(
    ("right", "wrong", "auc"),
    [([0, 1], [2, 255], 1), ([2, 255], [0, 1], 0), ([7], [7, 7], 0.5), ([0, 3], [3, 200], 7 / 8)],
)
def test_wrong_labels_are_told_from_right_ones(
    right: Sequence[int], wrong: Sequence[int], auc: float
) -> None:
    assert measured(right, wrong).scores()["wrong_auc"] == pytest.approx(auc)


def test_8_bits_that_tell_wrong_labels_worse_are_refused() -> None:
    good, bad = measured([0] * 9 + [3], [2] * 10), measured([0] * 8 + [3] * 2, [2] * 10)
    assert compare_scores([good], [good], ["set"])["set"]["int8"]["wrong_auc"] == 0.9
    assert compare_scores([bad], [good], ["set"])
    with pytest.raises(SegfixError, match=r"on set: wrong auc falls from 90\.0% to 80\.0%"):
        compare_scores([good], [bad], ["set"])


def test_an_export_in_8_bits_says_what_they_cost_with_predictions(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trained_lite: Any,
    exported_lite: Path,
    data: Path,
) -> None:
    def copy(module: object, path: Path, metadata: object) -> None:
        shutil.copy(exported_lite, path)

    monkeypatch.setattr(export, "write_onnx", copy)
    # Two crops don't make a network that is sure of anything.
    monkeypatch.setattr(calibration, "MAX_LOSS", 0.05)
    out = tmp_path / "small.onnx"
    checkpoint = trained_lite.out / "model.safetensors"
    export_onnx(checkpoint, out, precision="int8", calibrate_on=[data])
    model = load(out, device="cpu")
    assert model.conditioned
    (scores,) = model.metadata["precision_scores"].values()
    expected = {"mask_f", "direction_accuracy"}
    expected |= {f"conditioned_{name}" for name in expected} | {"wrong_auc"}
    assert scores["fp32"].keys() == scores["int8"].keys() == expected


WritePair = Callable[..., None]


def test_a_prediction_may_be_all_one_label(
    tmp_path: Path, write_pair: WritePair, exported_lite: Path
) -> None:
    write_pair(tmp_path, "flat", np.zeros((40, 50), np.uint8))
    path = Path(shutil.copy(exported_lite, tmp_path / "lite.onnx"))
    quantize_onnx(path, iter(find_labelled_images(tmp_path)))
    (found,) = measure(path, [find_labelled_images(tmp_path)], ["flat"], quiet=True)
    assert found.scores().keys() == {"mask_f", "direction_accuracy"}
