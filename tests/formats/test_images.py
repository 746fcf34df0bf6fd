from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segfix.errors import FileFormatError
from segfix.formats import IMAGE_SUFFIXES, read_image

COLOURS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)

UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}
"""What each EXIF orientation asks of a viewer (EXIF 2.32, tag 0x0112)."""


def save(picture: Image.Image, path: Path, **options: Any) -> Path:
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".webp"])
def test_lossless_colours_are_read_to_the_byte(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == ".webp" else {}
    image = read_image(save(Image.fromarray(COLOURS), tmp_path / f"a{suffix}", **options))
    assert image.dtype == np.uint8
    assert np.array_equal(image, COLOURS)


@pytest.mark.parametrize("suffix", [one for one in IMAGE_SUFFIXES if one[:3] not in (".he", ".hi")])
def test_every_listed_ending_is_readable_and_keeps_height_and_width(
    tmp_path: Path, suffix: str
) -> None:
    assert read_image(save(Image.fromarray(COLOURS), tmp_path / f"a{suffix}")).shape == (5, 7, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_rotation_is_carried_out(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray(COLOURS), tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(path), UPRIGHT[orientation](COLOURS))


def test_a_jpeg_taken_on_its_side_stands_up(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    left_half_bright = np.zeros((16, 32, 3), np.uint8)
    left_half_bright[:, :16] = 255
    path = save(Image.fromarray(left_half_bright), tmp_path / "a.jpg", exif=exif, quality=95)
    image = read_image(path)
    assert image.shape == (32, 16, 3)
    assert image[:16].min() > 240
    assert image[16:].max() < 15


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    image = read_image(save(Image.fromarray(COLOURS[..., 0]), tmp_path / "a.png"))
    assert np.array_equal(image, np.repeat(COLOURS[..., :1], 3, axis=2))


def test_black_and_white_becomes_0_and_255(tmp_path: Path) -> None:
    image = read_image(save(Image.fromarray(COLOURS[..., 0] > 99), tmp_path / "a.png"))
    assert np.array_equal(image[..., 0], np.where(COLOURS[..., 0] > 99, 255, 0))


def test_alpha_is_dropped_and_colours_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with_alpha = np.concatenate([COLOURS, COLOURS[..., :1]], axis=2)
    assert np.array_equal(read_image(save(Image.fromarray(with_alpha), path)), COLOURS)
    grey_with_alpha = COLOURS[..., :2]
    grey = np.repeat(COLOURS[..., :1], 3, axis=2)
    assert np.array_equal(read_image(save(Image.fromarray(grey_with_alpha), path)), grey)


@pytest.mark.parametrize("transparency", [None, 1, b"\x00\x80\xff"])
def test_a_palette_is_looked_up_also_where_half_transparent(
    tmp_path: Path, transparency: int | bytes | None
) -> None:
    indices = np.array([[0, 1, 2, 1]], np.uint8)
    picture = Image.fromarray(indices)
    palette = COLOURS[0, :3]
    picture.putpalette(palette.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    path = save(picture, tmp_path / "a.png", **options)
    assert np.array_equal(read_image(path), palette[indices])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_of_16_bit_grey_the_upper_8_bits_are_taken(tmp_path: Path, suffix: str) -> None:
    levels = np.array([[0, 255, 256, 4096, 40_000, 65_535]], np.uint16)
    image = read_image(save(Image.fromarray(levels), tmp_path / f"a{suffix}"))
    assert image[0, :, 0].tolist() == [0, 0, 1, 16, 156, 255]
    assert np.array_equal(image, np.repeat(image[..., :1], 3, axis=2))


def test_32_bit_grey_is_read_like_16_bit_and_darkness_below_0_is_refused(tmp_path: Path) -> None:
    levels = np.array([[0, 4096, 65_535]], np.int32)
    image = read_image(save(Image.fromarray(levels), tmp_path / "a.tif"))
    assert image[0, :, 0].tolist() == [0, 16, 255]
    save(Image.fromarray(levels * 16), tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 16, 255]
    save(Image.fromarray(levels - 5), tmp_path / "a.tif")
    with pytest.raises(FileFormatError, match=r"a\.tif: values from -5 to 65530: negative"):
        read_image(tmp_path / "a.tif")


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 0, 255]]], np.uint8)
    path = save(Image.fromarray(inks, mode="CMYK"), tmp_path / "a.tif")
    white, cyan, magenta, black = read_image(path)[0].tolist()
    assert (white, black) == ([255] * 3, [0] * 3)
    assert (cyan, magenta) == ([0, 255, 255], [255, 0, 255])


def test_a_cmyk_jpeg_is_readable(tmp_path: Path) -> None:
    blank = np.zeros((8, 8, 4), np.uint8)
    image = read_image(save(Image.fromarray(blank, mode="CMYK"), tmp_path / "a.jpg"))
    assert image.shape == (8, 8, 3)
    assert image.min() > 250


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_broken_photograph_is_named(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    path = save(Image.fromarray(noise), tmp_path / f"photo{suffix}")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(FileFormatError, match=r"photo\.(png|jpg): broken or truncated image"):
        read_image(path)
    with pytest.raises(FileFormatError, match=r"none\.jpg: no such file"):
        read_image(tmp_path / "none.jpg")
