"""Predictions in .npy and .npz files: which array is meant, of what kind, and back again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segfix.errors import FileFormatError
from segfix.formats import read_label_map, write_label_map
from segfix.formats.label_maps import likeliest_class

RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 20, (33, 41))


@pytest.mark.parametrize(
    "dtype", [bool, np.uint8, np.int8, np.uint16, np.int16, np.int32, np.int64, np.float16, float]
)
@pytest.mark.parametrize("shape", [(6, 9), (1, 6, 9), (6, 9, 1), (1, 1, 6, 9)])
def test_arrays_of_ids_come_back(tmp_path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
    source, result = tmp_path / "a.npy", tmp_path / "b.npy"
    array = (IDS[:6, :9] % 2).astype(dtype).reshape(shape)
    np.save(source, array)
    label_map = read_label_map(source, masks=True)
    assert label_map.kind == ("masks" if dtype is bool and shape == (1, 6, 9) else "ids")
    assert np.array_equal(label_map.planes.reshape(6, 9), IDS[:6, :9] % 2)
    write_label_map(result, label_map)
    again = np.load(result)
    assert again.dtype == array.dtype
    assert np.array_equal(again, array)


@pytest.mark.parametrize("shape", [(4, 6, 9), (6, 9, 4), (1, 4, 6, 9), (4, 1, 6, 9), (1, 6, 9, 4)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint16])
def test_arrays_of_scores_come_back_and_their_ids_are_the_likeliest_classes(
    tmp_path: Path, dtype: Any, shape: tuple[int, ...]
) -> None:
    source, result = tmp_path / "a.npy", tmp_path / "b.npy"
    array = RNG.permutation(np.arange(216)).reshape(shape).astype(dtype) + dtype(0)
    np.save(source, array)
    label_map = read_label_map(source)
    assert (label_map.kind, label_map.shape) == ("scores", (6, 9))
    assert np.array_equal(label_map.ids(), array.argmax(shape.index(4)).reshape(6, 9))
    write_label_map(result, label_map)
    assert np.load(result).dtype == array.dtype
    assert np.array_equal(np.load(result), array)


def test_an_npz_keeps_the_arrays_that_are_not_refined(tmp_path: Path) -> None:
    source, result = tmp_path / "a.npz", tmp_path / "b.npz"
    arrays: dict[str, Any] = {
        "probabilities": RNG.random((4, 6, 9), np.float32),
        "classes": np.array(["road", "tree"]),
        "scores": np.array([0.5, 0.25]),
    }
    np.savez(source, **arrays)
    label_map = read_label_map(source)
    assert label_map.kind == "scores"
    write_label_map(result, label_map.with_array(label_map.array * 2))
    again = np.load(result)
    assert list(again) == list(arrays)
    assert np.array_equal(again["probabilities"], arrays["probabilities"] * 2)
    assert np.array_equal(again["classes"], arrays["classes"])
    assert np.array_equal(again["scores"], arrays["scores"])


def test_which_array_of_an_npz_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, first=IDS, second=IDS + 1, small=IDS[:3])
    with pytest.raises(FileFormatError, match=r"first and second are equally large; --key"):
        read_label_map(path)
    assert np.array_equal(read_label_map(path, key="second").array, IDS + 1)
    with pytest.raises(FileFormatError, match=r"no array 'third'; it holds first, second, small"):
        read_label_map(path, key="third")
    np.savez(path, numbers=np.arange(3))
    with pytest.raises(FileFormatError, match="no array of two dimensions"):
        read_label_map(path)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(3),
        np.float64(1),
        np.zeros((2, 3, 4, 5)),
        np.zeros((0, 5)),
        np.zeros((3, 4), complex),
        np.full((3, 4), "road"),
    ],
)
def test_arrays_that_are_no_predictions_are_refused(tmp_path: Path, array: NDArray[Any]) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(FileFormatError, match=r"a\.npy: of (shape|type)"):
        read_label_map(tmp_path / "a.npy")


def test_masks_are_no_label_map_unless_asked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", RNG.random((5, 6, 9)) > 0.5)
    with pytest.raises(FileFormatError, match="masks, which may overlap"):
        read_label_map(tmp_path / "a.npy")
    assert read_label_map(tmp_path / "a.npy", masks=True).kind == "masks"


def test_likeliest_of_one_class() -> None:
    assert likeliest_class(np.array([[0.5, 0.51]])).tolist() == [[0, 1]]
    assert likeliest_class(np.array([[-0.1, 0.0, 7.0]])).tolist() == [[0, 0, 1]]
    assert likeliest_class(np.array([[127, 128]], np.uint8)).tolist() == [[0, 1]]
    assert likeliest_class(np.array([[32767, 32768]], np.uint16)).tolist() == [[0, 1]]
    assert likeliest_class(np.array([[np.nan, 0.7]])).tolist() == [[0, 1]]


@pytest.mark.parametrize("bits", [8, 16])
def test_soft_pngs_are_probabilities_of_the_foreground(tmp_path: Path, bits: int) -> None:
    array = RNG.integers(0, 2**bits, (6, 9)).astype(np.uint8 if bits == 8 else np.uint16)
    Image.fromarray(array).save(tmp_path / "a.png")
    label_map = read_label_map(tmp_path / "a.png", soft=True)
    assert label_map.kind == "scores"
    assert np.array_equal(label_map.ids(), array >= 2 ** (bits - 1))
    write_label_map(tmp_path / "b.png", label_map)
    with Image.open(tmp_path / "b.png") as again:
        assert np.array_equal(np.array(again), array)
    Image.fromarray(RNG.integers(0, 256, (6, 9, 3)).astype(np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(FileFormatError, match=r"c\.png: colours, not scores"):
        read_label_map(tmp_path / "c.png", soft=True)


@pytest.mark.parametrize("none", [np.nan, np.inf, -3.4e38])
def test_what_is_no_number_among_ids_is_an_id_of_its_own(tmp_path: Path, none: float) -> None:
    array = IDS.astype(np.float32)
    array[0] = none
    np.save(tmp_path / "a.npy", array)
    label_map = read_label_map(tmp_path / "a.npy")
    assert label_map.kind == "ids"
    assert np.array_equal(label_map.ids()[1:], IDS[1:])
    assert np.unique(label_map.ids()[0]).size == 1
    assert label_map.ids()[0, 0] not in IDS
    write_label_map(tmp_path / "b.npy", label_map)
    assert np.array_equal(np.load(tmp_path / "b.npy"), array, equal_nan=True)
