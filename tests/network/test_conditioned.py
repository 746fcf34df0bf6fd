"""Networks that look at the prediction that is to be refined, too."""

from __future__ import annotations

import json
import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import segfix
from segfix.errors import FileFormatError, SegfixError
from segfix.formats import LabelMap
from segfix.formats.label_maps import pixel_digest
from segfix.geometry import label_distance
from segfix.network import offset_model as model_module
from segfix.network.offset_model import CONFIDENCE, OffsetModel, layer_distance, load
from segfix.network.tiles import tile_boxes


@pytest.fixture
def model(conditioned_onnx: Path) -> OffsetModel:
    return load(conditioned_onnx, device="cpu")


def photograph(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Colours that the tiny network has an answer to."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, [256, 128, 256], (height, width, 3)).astype(np.uint8)


def blobs(height: int, width: int) -> NDArray[np.uint8]:
    cells = np.random.default_rng(1).integers(0, 4, (height // 25 + 1, width // 25 + 1))
    return np.kron(cells, np.ones((25, 25), int))[:height, :width].astype(np.uint8)


def test_pixels_whose_label_may_be_wrong_have_an_offset(model: OffsetModel) -> None:
    image = np.zeros((5, 62, 3), np.uint8)
    image[..., 0] = 255
    image[..., 1] = 4 * 16
    image[2, 29] = (64, 3 * 16, 200)
    label_map = np.ones((5, 62), np.uint8)
    label_map[:, 31:] = 2
    found = model.offsets(image, label_map)
    assert found.conditioned
    assert found.lowest_confidence == 0.05
    # Within 12 px of the change of label.
    assert found.boundary_mask()[0].tolist() == [False] * 19 + [True] * 24 + [False] * 19
    assert (found.direction_map()[0, 19:43] == 4).all()
    # 255 - 16, of which red leaves 64: whatever the boundary's own probability is.
    assert found.direction_map()[2, 29] == 3
    level = (found.codes[2, 29] - 1) // 8
    assert level == int(31 * (64 / 255 - 0.05) / 0.95)
    assert found.source["prediction_sha256"] == pixel_digest(label_map)


def test_without_a_prediction_the_network_and_the_rule_are_as_before(
    model: OffsetModel, tiny_onnx: Path
) -> None:
    image = photograph(20, 30)
    found, before = model.offsets(image), load(tiny_onnx).offsets(image)
    assert np.array_equal(found.codes, before.codes)
    assert replace(found, codes=before.codes, source=before.source) == before
    assert found.confidence == CONFIDENCE
    *maps, wrong = model.predict(image)
    assert len(maps) == 3
    assert not wrong.any(), "255 everywhere: no prediction"


def test_maps_of_the_network_are_told(model: OffsetModel) -> None:
    image, distance = photograph(20, 30), label_distance(blobs(20, 30))
    *_, wrong = model.predict(image, distance)
    assert np.array_equal(wrong, image[..., 0] & ~distance)
    bad: list[Any] = [distance[:-1], distance.astype(np.int64)]
    for one in bad:
        with pytest.raises(ValueError, match="Expected distance of"):
            model.predict(image, one)


def with_metadata(path: Path, source: Path, **changed: Any) -> Path:
    network = onnx.load(str(source))
    (entry,) = network.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), **changed})
    onnx.save(network, str(path))
    return path


@pytest.mark.parametrize(
    "changed",
    [
        {"conditioned": False},
        {"conditioned": 1},
    ],
)
def test_metadata_that_cannot_be_so_are_named(
    conditioned_onnx: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    path = with_metadata(tmp_path / "odd.onnx", conditioned_onnx, **changed)
    with pytest.raises(FileFormatError, match=r"odd\.onnx: an ONNX file, but not one of"):
        load(path)


def test_a_file_without_the_second_input_is_not_conditioned(
    tiny_onnx: Path, tmp_path: Path
) -> None:
    path = with_metadata(tmp_path / "odd.onnx", tiny_onnx, conditioned=True)
    with pytest.raises(FileFormatError, match=r"odd\.onnx: an ONNX file, but not one of"):
        load(path)


def test_old_weights_are_named_with_the_way_out(tiny_onnx: Path) -> None:
    model, image = load(tiny_onnx), photograph(4, 6)
    assert not model.conditioned
    match = "^weights tiny look at photographs alone; leave the predictions out, or use --weights"
    with pytest.raises(SegfixError, match=match):
        model.offsets(image, np.zeros((4, 6), np.uint8))
    with pytest.raises(SegfixError, match=match):
        model.predict(image, np.zeros((4, 6), np.uint8))


def test_a_prediction_of_another_size_is_refused(model: OffsetModel) -> None:
    for label_map in (np.zeros((4, 5), np.uint8), np.zeros(24), LabelMap(np.zeros((6, 4), int))):
        with pytest.raises(ValueError, match=r"Expected label_map of \(4, 6\)"):
            model.offsets(photograph(4, 6), label_map)


def test_tiles_give_what_the_whole_gives(
    model: OffsetModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, label_map = photograph(140, 400), blobs(140, 400)
    whole = model.offsets(image, label_map)
    boxes = [*tile_boxes(140, 400, tile=32, margin=0)]
    assert len(boxes) == 5 * 13
    for look, _ in boxes:
        distance = layer_distance(label_map[None], look)
        assert np.array_equal(distance, label_distance(label_map)[look])
    monkeypatch.setattr(model_module, "tile_boxes", lambda *_: boxes)
    assert np.array_equal(model.offsets(image, label_map).codes, whole.codes)


def test_a_reduced_photograph_is_looked_at_with_the_reduced_prediction(
    model: OffsetModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[NDArray[np.uint8]] = []
    predict = OffsetModel.predict

    def note(
        model: OffsetModel,
        image: NDArray[np.uint8],
        distance: NDArray[np.uint8] | None = None,
        **outputs: Any,
    ) -> tuple[NDArray[np.uint8], ...]:
        assert distance is not None
        shown.append(distance)
        return predict(model, image, distance, **outputs)

    monkeypatch.setattr(OffsetModel, "predict", note)
    label_map = blobs(60, 200)
    found = model.offsets(photograph(60, 200), label_map, max_side=100)
    assert np.array_equal(shown[0], label_distance(label_map[1::2, 1::2]))
    assert found.codes.shape == (60, 200)
    assert found.source["prediction_sha256"] == pixel_digest(label_map)


def test_masks_are_their_boundaries_together(model: OffsetModel) -> None:
    image, masks = photograph(120, 200), np.zeros((4, 120, 200), bool)
    masks[0, 10:60, 10:60] = True
    masks[1, 40:90, 40:110] = True
    masks[2] = True
    distance = np.min([label_distance(mask) for mask in masks], axis=0)
    wrong = image[..., 0] & ~distance
    found = model.offsets(image, masks)
    assert np.array_equal(found.codes > 0, (wrong / 255 > 0.05) & (distance <= 12 * 8))
    for look, _ in tile_boxes(120, 200, tile=32, margin=0):
        nearest = np.min([label_distance(mask)[look] for mask in masks], axis=0)
        assert np.array_equal(layer_distance(masks, look), nearest)
    none = model.offsets(image, masks[:0])
    assert not (none.codes[wrong == 0] > 0).any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segfix.refine_masks(masks, found)
        segfix.refine_masks(masks.astype(np.uint8) * 255, found)
        segfix.refine_masks(masks[:0], none)
    with pytest.warns(UserWarning, match="made for another prediction"):
        segfix.refine_masks(masks[1:], found)


def test_two_masks_that_are_two_classes_are_no_other_prediction(model: OffsetModel) -> None:
    one = blobs(40, 60) > 1
    masks = np.array([one, ~one], np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segfix.refine_masks(masks, model.offsets(photograph(40, 60), masks))


@pytest.mark.parametrize("kind", ["ids", "wide", "colours", "first", "last"])
def test_what_refine_takes_is_looked_at(model: OffsetModel, kind: str) -> None:
    image, ids = photograph(40, 60), blobs(40, 60)
    label_map: NDArray[Any] = ids
    if kind == "wide":
        label_map = ids.astype(np.uint16)
    elif kind == "colours":
        label_map = np.stack([ids, 0 * ids, 0 * ids], axis=-1)
    elif kind in ("first", "last"):
        label_map = np.where(ids == np.arange(4)[:, None, None], 0.7, 0.1)
        label_map = np.moveaxis(label_map, 0, -1) if kind == "last" else label_map
    found, expected = model.offsets(image, label_map), model.offsets(image, ids)
    assert np.array_equal(found.codes, expected.codes)
    assert found.source == expected.source
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refined = segfix.refine(label_map, found)
    assert refined.shape == label_map.shape


def test_refining_another_prediction_warns_once_where_it_was_asked(model: OffsetModel) -> None:
    label_map = blobs(40, 60)
    offset_map = model.offsets(photograph(40, 60), label_map)
    with pytest.warns(UserWarning, match="^the offset map was made for another prediction") as told:
        segfix.refine(label_map + 1, offset_map)
    assert [Path(one.filename) for one in told] == [Path(__file__)]


def test_a_digest_is_of_pixels_and_shape() -> None:
    ids = np.arange(600).reshape(300, 2)
    assert pixel_digest(ids) == pixel_digest(ids.astype(np.uint16))
    assert pixel_digest(ids) == pixel_digest(np.asfortranarray(ids))
    assert pixel_digest(ids) != pixel_digest(ids.reshape(2, 300))
    masks = np.zeros((2, 3, 4), bool)
    assert pixel_digest(masks) != pixel_digest(masks.reshape(4, 3, 2))


def test_a_pickled_network_is_still_conditioned(model: OffsetModel) -> None:
    image, label_map = photograph(20, 30), blobs(20, 30)
    copy = pickle.loads(pickle.dumps(model))
    assert np.array_equal(
        copy.offsets(image, label_map).codes, model.offsets(image, label_map).codes
    )
