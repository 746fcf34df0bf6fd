from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from segfix.errors import DeviceError, FileFormatError, SegfixError
from segfix.files import Entry
from segfix.files.provenance import content_digest, read_record
from segfix.formats import LabelMap, read_label_map, write_label_map
from segfix.jobs.task import Skipped
from segfix.network.offset_model import OffsetModel
from segfix.network.segmentation_model import (
    SegmentationModel,
    average_probabilities,
    make_label_map,
)
from segfix.network.weights import file_digest
from segfix.tasks.segment import segment_task


@pytest.fixture
def model(segmenter_onnx: Path) -> SegmentationModel:
    return SegmentationModel(segmenter_onnx, "cpu")


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    """(23, 37, 3) of noise."""
    return np.random.default_rng(1).integers(0, 256, (23, 37, 3), dtype=np.uint8)


def resized(picture: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def test_at_one_scale_the_probabilities_are_those_of_the_network(
    model: SegmentationModel, segmenter_onnx: Path, image: NDArray[np.uint8]
) -> None:
    session = onnxruntime.InferenceSession(str(segmenter_onnx))
    (expected,) = session.run(None, {"image": image.transpose(2, 0, 1)[None]})
    assert np.array_equal(model.probabilities(image), expected[0])
    found = average_probabilities(model, image)
    assert found.dtype == np.float32
    assert found.shape == (3, 23, 37)
    assert np.array_equal(found, expected[0])


def test_scales_and_mirror_images_are_averaged(
    model: SegmentationModel, image: NDArray[np.uint8]
) -> None:
    views = []
    for width, height in ((18, 12), (37, 23), (56, 34)):
        picture = resized(image, width, height)
        for mirrored in (False, True):
            planes = model.probabilities(picture[:, ::-1] if mirrored else picture)
            planes = planes[..., ::-1] if mirrored else planes
            views.append([resized(np.ascontiguousarray(plane), 37, 23) for plane in planes])
    found = average_probabilities(model, image, scales=(0.5, 1, 1.5), flip=True)
    np.testing.assert_allclose(found, np.mean(views, axis=0), atol=1e-5)
    one_eyed = average_probabilities(model, image, scales=(0.5, 1, 1.5))
    np.testing.assert_allclose(one_eyed, np.mean(views[::2], axis=0), atol=1e-5)


def test_with_flip_a_mirrored_photograph_gives_the_mirrored_probabilities(
    model: SegmentationModel, image: NDArray[np.uint8]
) -> None:
    mirrored = np.ascontiguousarray(image[:, ::-1])
    both = [average_probabilities(model, i, flip=True) for i in (image, mirrored)]
    assert np.array_equal(both[0][..., ::-1], both[1])
    one_eyed = [average_probabilities(model, i) for i in (image, mirrored)]
    assert not np.allclose(one_eyed[0][..., ::-1], one_eyed[1])


def test_the_smallest_photograph_is_never_scaled_to_nothing(model: SegmentationModel) -> None:
    dot = np.full((1, 1, 3), 255, np.uint8)
    assert average_probabilities(model, dot, scales=(0.1, 3)).shape == (3, 1, 1)


RGB = (10 + 256 * 20 + 256**2 * 30, 200, 255 * 256)
RGBA = tuple(value + 256**3 * 255 for value in RGB)


@pytest.mark.parametrize(
    ("class_ids", "shape", "dtype"),
    [
        ((0, 7, 200), (2, 3), np.uint8),
        ((255, 3, 1), (2, 3), np.uint8),
        ((3, 256, 65535), (2, 3), np.uint16),
        (RGB, (2, 3, 3), np.uint8),
        (RGBA, (2, 3, 4), np.uint8),
    ],
)
def test_ids_come_back_in_a_file_of_their_kind(
    tmp_path: Path, class_ids: tuple[int, ...], shape: tuple[int, ...], dtype: type
) -> None:
    classes = np.array([[0, 1, 2], [2, 2, 0]])
    probabilities = np.eye(3, dtype=np.float32)[classes].transpose(2, 0, 1)
    labels = make_label_map(probabilities, class_ids)
    assert labels.shape == shape
    assert labels.dtype == dtype
    write_label_map(tmp_path / "a.png", LabelMap(labels))
    found = read_label_map(tmp_path / "a.png")
    assert found.array.shape == shape
    assert np.array_equal(found.ids(), np.array(class_ids)[classes])


def entry_of(folder: Path, image: NDArray[np.uint8]) -> Entry:
    path = folder / "a.png"
    Image.fromarray(image).save(path)
    return Entry(path, "a")


def test_a_label_map_file_says_what_made_it(
    tmp_path: Path, model: SegmentationModel, image: NDArray[np.uint8]
) -> None:
    entry, out = entry_of(tmp_path, image), tmp_path / "preds"
    row = segment_task(model, scales=(0.5, 1), flip=True).do(entry, out)
    path = out / "a.png"
    assert row == {"input": str(entry.path), "output": str(path), "pixels": 23 * 37}
    assert [p.name for p in out.iterdir()] == ["a.png"]
    assert json.loads(read_record(path) or "") == {
        "kind": "predicted label map",
        "settings": {"scales": [0.5, 1], "flip": True},
        "source": {
            "weights": "colours",
            "weights_sha256": file_digest(model.path),
            "image": content_digest(entry.path),
        },
    }
    expected = average_probabilities(model, image, scales=(0.5, 1), flip=True).argmax(axis=0)
    assert np.array_equal(read_label_map(path).ids(), np.array([1, 2, 200])[expected])


def test_what_is_done_is_skipped_and_what_differs_is_refused(
    tmp_path: Path, model: SegmentationModel, image: NDArray[np.uint8]
) -> None:
    entry, out = entry_of(tmp_path, image), tmp_path / "preds"
    segment_task(model).do(entry, out)
    with pytest.raises(Skipped):
        segment_task(model).do(entry, out)
    before = (out / "a.png").read_bytes()
    for settings in ({"flip": True}, {"scales": (1.0, 2.0)}):
        with pytest.raises(SegfixError, match="--overwrite replaces it"):
            segment_task(model, **settings).do(entry, out)
    assert (out / "a.png").read_bytes() == before
    segment_task(model, flip=True).do(entry, out, overwrite=True)
    assert (out / "a.png").read_bytes() != before
    (out / "a.png").write_bytes(before[: len(before) // 2])
    segment_task(model).do(entry, out)
    assert (out / "a.png").read_bytes() == before, "one cut short is made anew"
    entry_of(tmp_path, image[::-1])
    with pytest.raises(SegfixError, match="not what this run would make"):
        segment_task(model).do(entry, out)


def test_a_network_that_fails_names_the_photograph(
    tmp_path: Path, model: SegmentationModel, image: NDArray[np.uint8]
) -> None:
    class Broken:
        def run(self, *_: object) -> None:
            raise RuntimeError("Failed to allocate\nand more")

    model.session = Broken()
    entry = entry_of(tmp_path, image)
    with pytest.raises(SegfixError) as caught:
        segment_task(model).do(entry, tmp_path / "preds")
    assert str(caught.value) == (
        f"{entry.path}: the network failed on a picture of 37×23 (Failed to allocate); use "
        "smaller pictures."
    )
    assert not (tmp_path / "preds").exists()


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 6), np.uint8), np.zeros((4, 6, 4), np.uint8), np.zeros((4, 6, 3))]
)
def test_an_array_that_is_no_rgb_image_is_refused(
    model: SegmentationModel, picture: NDArray[np.uint8]
) -> None:
    with pytest.raises(ValueError, match="Expected an"):
        model.probabilities(picture)


def test_a_network_of_the_other_kind_is_told_its_command(
    tiny_onnx: Path, segmenter_onnx: Path
) -> None:
    with pytest.raises(FileFormatError, match=r"a SegFix network, for 'segfix predict-offsets';"):
        SegmentationModel(tiny_onnx, "cpu")
    with pytest.raises(FileFormatError, match=r"a segmentation network, for 'segfix segment';"):
        OffsetModel(segmenter_onnx, "cpu")


@pytest.mark.parametrize(
    "changed",
    [
        {"class_ids": [1, 2]},
        {"class_ids": [1, 2, -1]},
        {"class_ids": [1, 2, 2**32]},
        {"class_ids": 3},
        {"class_ids": ["1", "2", "3"]},
        {"version": 2},
        {"name": None},
        {"kind": ["segmentation network"]},
        {"kind": "segmentation"},
    ],
)
def test_metadata_that_do_not_fit_are_refused(
    tmp_path: Path, segmenter_onnx: Path, changed: dict[str, object]
) -> None:
    network = onnx.load(str(segmenter_onnx))
    (entry,) = network.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), **changed})
    onnx.save(network, str(tmp_path / "odd.onnx"))
    with pytest.raises(FileFormatError, match=r"odd\.onnx: an ONNX file, but not one of a segm"):
        SegmentationModel(tmp_path / "odd.onnx", "cpu")


def test_an_output_of_another_shape_is_refused(tmp_path: Path, segmenter_onnx: Path) -> None:
    network = onnx.load(str(segmenter_onnx))
    network.graph.output[0].type.tensor_type.shape.dim.add(dim_value=7)
    onnx.save(network, str(tmp_path / "odd.onnx"))
    with pytest.raises(FileFormatError, match=r"odd\.onnx: an ONNX file, but not one of a segm"):
        SegmentationModel(tmp_path / "odd.onnx", "cpu")


def test_files_that_are_none_of_ours_are_named(tmp_path: Path, foreign_onnx: Path) -> None:
    with pytest.raises(FileFormatError, match=r"foreign\.onnx: an ONNX file, but not one of"):
        SegmentationModel(foreign_onnx, "cpu")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(FileFormatError, match=r"text\.onnx: not a readable ONNX file"):
        SegmentationModel(tmp_path / "text.onnx", "cpu")


def test_an_unknown_device_is_refused(segmenter_onnx: Path) -> None:
    with pytest.raises(DeviceError, match="expected auto, cpu, cuda"):
        SegmentationModel(segmenter_onnx, "gpu")
