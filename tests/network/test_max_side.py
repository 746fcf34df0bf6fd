"""Photographs reduced for the network, and offset maps of their full size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from segfix.errors import FileFormatError
from segfix.files import Entry, Pair
from segfix.formats import read_offset_map
from segfix.formats.images import open_photograph, read_image, reduced_size
from segfix.jobs.task import Skipped
from segfix.network import OffsetModel, load
from segfix.network import offset_model as model_module
from segfix.network import tiles as tiles_module
from segfix.network.tiles import enlarge_tile, tile_boxes
from segfix.tasks.predict_offsets import predict_stream, predict_task

# Green is the direction that `tiny_onnx` answers, times 16.
NOISE = np.random.default_rng(0).integers(0, [256, 128, 256], (47, 101, 3)).astype(np.uint8)


@pytest.fixture
def seen(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what networks are shown."""
    shapes: list[tuple[int, ...]] = []
    predict = OffsetModel.predict

    def note(
        model: OffsetModel,
        image: NDArray[np.uint8],
        distance: NDArray[np.uint8] | None = None,
        **outputs: Any,
    ) -> tuple[NDArray[np.uint8], ...]:
        shapes.append(image.shape)
        return predict(model, image, distance, **outputs)

    monkeypatch.setattr(OffsetModel, "predict", note)
    return shapes


@pytest.mark.parametrize(
    ("shape", "max_side", "reduced"),
    [
        ((40, 100), 50, (20, 50)),
        ((101, 47), 50, (50, 23)),
        ((7, 1), 3, (3, 1)),
        ((1, 300), 7, (1, 7)),
        ((300, 2), 299, (299, 2)),
        ((5, 9), 1, (1, 1)),
    ],
)
def test_the_network_sees_less_and_the_map_keeps_its_size(
    tiny_onnx: Path,
    seen: list[tuple[int, ...]],
    shape: tuple[int, int],
    max_side: int,
    reduced: tuple[int, int],
) -> None:
    image = np.full((*shape, 3), (255, 112, 255), np.uint8)
    offset_map = load(tiny_onnx).offsets(image, max_side=max_side)
    assert seen == [(*reduced, 3)]
    assert reduced_size(*shape, max_side) == reduced
    assert offset_map.codes.shape == shape
    assert offset_map.codes.all(), "every pixel comes from the network"
    assert offset_map.source["max_side"] == max_side


@pytest.mark.parametrize("max_side", [101, 102, 10_000, None])
def test_what_is_no_larger_stays_as_it_is(
    tiny_onnx: Path, seen: list[tuple[int, ...]], max_side: int | None
) -> None:
    model = load(tiny_onnx)
    offset_map = model.offsets(NOISE, max_side=max_side)
    assert seen == [NOISE.shape]
    assert offset_map.source == model.source
    assert np.array_equal(offset_map.codes, model.offsets(NOISE).codes)


@pytest.mark.parametrize("max_side", [0, -5])
def test_a_side_without_pixels_is_refused(tiny_onnx: Path, max_side: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1 but got {max_side}"):
        load(tiny_onnx).offsets(NOISE, max_side=max_side)


@pytest.mark.parametrize("weights", ["hrnet_w18_small", "hrnet_w18_small_int8"])
@pytest.mark.parametrize("column", [150, 153])
def test_an_edge_stays_in_its_place(weights: str, column: int) -> None:
    noise = np.random.default_rng(0).normal(0, 4, (180, 320, 3))
    level = np.where(np.arange(320) < column, 60, 180)[None, :, None]
    image = np.clip(level + noise, 0, 255).astype(np.uint8)
    right = load(weights, device="cpu").offsets(image, max_side=160).vectors()[1]
    rows = slice(40, 140)
    # From there on they point to the right, before to the left.
    assert (right[rows, column - 7 : column - 2] == -1).mean() > 0.95
    assert (right[rows, column + 2 : column + 7] == 1).mean() > 0.95
    assert not right[rows, : column - 25].any()
    assert not right[rows, column + 25 :].any()


def test_sectors_come_from_the_nearest_pixel_and_probabilities_lie_between(
    tiny_onnx: Path,
) -> None:
    """Halved, each pair of columns is one pixel, and the boundary's probability falls in steps."""
    levels = np.array([255, 255, 255, 255, 0, 0, 0, 0], np.uint8)
    sectors = np.array([1, 1, 2, 2, 3, 3, 5, 5], np.uint8)
    maps = tuple(np.repeat(row[None, ::2], 3, axis=0) for row in (sectors, levels, levels))
    whole = (slice(0, 3), slice(0, 4))
    ((part, (direction, boundary, certainty)),) = enlarge_tile(maps, whole, whole, (3, 4), (6, 8))
    assert part == (slice(0, 6), slice(0, 8))
    assert direction.tolist() == [sectors.tolist()] * 6
    assert boundary.tolist() == [[255, 255, 255, 191, 64, 0, 0, 0]] * 6
    assert np.array_equal(boundary, certainty)


@pytest.mark.parametrize("full", [(141, 401), (140, 400), (70, 200), (71, 901)])
def test_tiles_of_a_reduced_picture_give_what_the_whole_gives(
    monkeypatch: pytest.MonkeyPatch, full: tuple[int, int]
) -> None:
    small = (70, 200)
    maps = np.random.default_rng(0).integers(0, 256, (3, *small)).astype(np.uint8)
    everything = (slice(0, 70), slice(0, 200))
    ((_, whole),) = enlarge_tile([*maps], everything, everything, small, full)
    monkeypatch.setattr(tiles_module, "TILE", 64)
    monkeypatch.setattr(tiles_module, "MARGIN", 0)
    tiled = np.zeros((3, *full), np.uint8)
    filled = np.zeros(full, int)
    pieces = 0
    boxes = [*tile_boxes(*small, tile=32, margin=32)]
    for look, keep in boxes:
        for part, found in enlarge_tile([*maps[:, *look]], look, keep, small, full):
            tiled[:, *part] = found
            filled[part] += 1
            pieces += 1
    assert (filled == 1).all()
    assert pieces > len(boxes) > 3
    # Where the middle of a pixel falls between two, either is the nearest.
    assert (tiled[0] != whole[0]).mean() < 0.02
    assert np.abs(tiled[1:].astype(int) - np.stack(whole[1:])).max() <= 1


def test_a_photograph_in_tiles_after_reduction(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch, seen: list[tuple[int, ...]]
) -> None:
    image = np.repeat(np.repeat(NOISE, 3, axis=0), 4, axis=1)
    model = load(tiny_onnx)
    whole = model.offsets(image, max_side=202)
    boxes = [*tile_boxes(70, 202, tile=32, margin=32)]
    monkeypatch.setattr(model_module, "tile_boxes", lambda *_: boxes)
    tiled = model.offsets(image, max_side=202)
    assert len(seen) == 1 + len(boxes) > 3
    assert tiled.source == whole.source
    assert (tiled.codes != whole.codes).mean() < 0.005


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "I;16", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_a_reduced_photograph_is_upright_and_in_colour(
    tmp_path: Path, mode: str, orientation: int
) -> None:
    if mode == "I;16":
        picture = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(NOISE).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    exif = Image.Exif()
    exif[274] = orientation
    picture.save(path, exif=exif)
    whole = read_image(path)
    height, width = reduced_size(whole.shape[0], whole.shape[1], 50)
    expected = Image.fromarray(whole).resize((width, height), Image.Resampling.BILINEAR)
    with open_photograph(path) as photograph:
        assert photograph.shape == whole.shape
        reduced = photograph.reduce(50)
    # Along which axis first makes a difference of one.
    assert np.abs(reduced.astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("size", [(320, 200), (319, 201)])
def test_a_jpeg_is_decoded_no_larger_than_needed(
    tmp_path: Path, size: tuple[int, int], orientation: int
) -> None:
    width, height = size
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([255 * x / width, 255 * y / height, 128 + 100 * np.sin(x / 20)], axis=2)
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(smooth.astype(np.uint8)).save(path, quality=95, exif=exif)
    whole = read_image(path)
    small = reduced_size(whole.shape[0], whole.shape[1], 75)
    expected = Image.fromarray(whole).resize(small[::-1], Image.Resampling.BILINEAR)
    with open_photograph(path) as photograph:
        reduced = photograph.reduce(75)
        assert max(photograph.picture.size) == 80, "a quarter"
    assert reduced.shape == (*small, 3)
    assert np.abs(reduced.astype(int) - np.asarray(expected)).max() <= 6


def test_files_and_streams_record_it(tmp_path: Path, tiny_onnx: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(NOISE).save(path)
    model = load(tiny_onnx)
    predict_task(model, max_side=40).do(Pair(Entry(path, "photo"), None), tmp_path / "out")
    written = read_offset_map(tmp_path / "out" / "photo.png")
    assert written.source["max_side"] == 40
    assert np.array_equal(written.codes, model.offsets(NOISE, max_side=40).codes)
    streamed, _ = predict_stream(model, path.read_bytes(), max_side=40)
    assert streamed == (tmp_path / "out" / "photo.png").read_bytes()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_photograph_cut_short_is_named(tmp_path: Path, tiny_onnx: Path, suffix: str) -> None:
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(NOISE).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(FileFormatError, match=rf"photo\{suffix}: "):
        predict_task(load(tiny_onnx), max_side=40).do(
            Pair(Entry(path, "photo"), None), tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_what_is_done_is_not_decoded_again(
    tmp_path: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(NOISE).save(path)
    model = load(tiny_onnx)
    predict_task(model, max_side=40).do(Pair(Entry(path, "photo"), None), tmp_path / "out")
    monkeypatch.setattr(JpegImageFile, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(Skipped):
        predict_task(model, max_side=40).do(Pair(Entry(path, "photo"), None), tmp_path / "out")
