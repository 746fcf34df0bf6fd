from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segfix.formats.images import open_photograph, read_image
from segfix.network import load
from segfix.network import offset_model as model_module
from segfix.network.tiles import STRIDE, tile_boxes

SIZES = st.integers(1, 700)


@given(SIZES, SIZES, st.sampled_from([32, 64, 96]), st.sampled_from([0, 32]))
def test_every_pixel_is_kept_once_with_its_surroundings(
    height: int, width: int, tile: int, margin: int
) -> None:
    kept = np.zeros((height, width), int)
    for look, keep in tile_boxes(height, width, tile=tile, margin=margin):
        kept[keep] += 1
        for seen, own, size in zip(look, keep, (height, width), strict=True):
            assert seen.start == max(own.start - margin, 0)
            assert seen.stop == min(own.stop + margin, size)
            assert seen.start % STRIDE == 0
            assert own.stop - own.start <= tile + 2 * margin
    assert (kept == 1).all()


def test_what_fits_into_one_tile_is_one() -> None:
    assert len([*tile_boxes(2048, 2048)]) == 1
    assert len([*tile_boxes(2049, 2048)]) == 2


def test_tiles_give_what_the_whole_gives(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny network looks at single pixels."""
    image = np.random.default_rng(0).integers(0, 128, (70, 200, 3)).astype(np.uint8)
    model = load(tiny_onnx)
    whole = model.offsets(image)
    boxes = [*tile_boxes(70, 200, tile=32, margin=32)]
    assert len(boxes) == 4
    monkeypatch.setattr(model_module, "tile_boxes", lambda *_: boxes)
    tiled = model.offsets(image)
    assert np.array_equal(tiled.codes, whole.codes)
    assert tiled.lowest_confidence == whole.lowest_confidence


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "I;16", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_parts_of_a_photograph_are_parts_of_its_array(
    tmp_path: Path, mode: str, orientation: int
) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    if mode == "I;16":
        picture = Image.fromarray(colours[..., 0].astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(colours).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    exif = Image.Exif()
    exif[274] = orientation
    picture.save(path, exif=exif)
    whole = read_image(path)
    with open_photograph(path) as photograph:
        assert photograph.shape == whole.shape
        for part in (np.s_[:, :], np.s_[3:9, 5:30], np.s_[30:, :10], np.s_[0:40, 0:40]):
            assert np.array_equal(photograph[part], whole[part])
