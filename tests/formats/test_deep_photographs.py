"""Photographs whose values aren't bytes, and of more bands than three."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from segfix.errors import FileFormatError
from segfix.files.limits import limit_reading
from segfix.formats import read_image
from segfix.formats.brightness import scale_to_bytes
from segfix.formats.images import open_photograph
from segfix.formats.tiff_samples import COMPRESSIONS
from tests.fuzz.samples import banded_tiff, deep_png

RGB = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
RGB[0, 0] = 255
GREY = RGB[..., 0]
EIGHT = np.dstack([RGB[..., ::-1], RGB, RGB[..., :2]])


def read(path: Path, **options: Any) -> tuple[NDArray[np.uint8], str]:
    with open_photograph(path, **options) as photograph:
        shape = photograph.shape
        image = photograph[:, :]
        assert image.shape == shape
        assert photograph[3:5, 2:9].tolist() == image[3:5, 2:9].tolist()
        return image, photograph.scaling


def write(path: Path, array: NDArray[Any], **options: Any) -> Path:
    kind = "rgb" if array.ndim == 3 else "minisblack"
    tifffile.imwrite(path, array, **{"photometric": kind, **options})
    return path


@pytest.mark.parametrize(("bits", "words"), [(10, "10 bits ÷ 4"), (12, "12 bits ÷ 16")])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_fewer_bits_in_16_are_told_by_the_highest_value(
    tmp_path: Path, bits: int, words: str, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(GREY.astype(np.uint16) << bits - 8).save(path)
    image, scaling = read(path)
    assert np.array_equal(image[..., 0], GREY)
    assert scaling == words


def test_values_of_8_bits_in_16_or_32_stay(tmp_path: Path) -> None:
    arrays: tuple[NDArray[Any], ...] = (GREY.astype(np.uint16), RGB.astype(np.int32))
    for number, array in enumerate(arrays):
        write(tmp_path / f"{number}.tif", array)
        image, scaling = read(tmp_path / f"{number}.tif")
        assert scaling == ""
        assert np.array_equal(image[..., 0], GREY)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("shift", [0, 4, 6, 8])
def test_png_colours_of_16_bits_keep_their_lower_byte(
    tmp_path: Path, channels: int, shift: int
) -> None:
    alpha = np.full((37, 53, channels - 3), 255, np.uint8)
    deep = np.dstack([RGB, alpha]).astype(np.uint16) << shift
    deep[..., 3:] = 65_535
    (tmp_path / "a.png").write_bytes(deep_png(deep))
    image, scaling = read(tmp_path / "a.png")
    assert np.array_equal(image, RGB)
    assert scaling == (f"{8 + shift} bits ÷ {2**shift}" if shift else "")


def test_dark_16_bit_grey_with_alpha_is_refused(tmp_path: Path) -> None:
    pair = np.dstack([GREY, GREY | 255]).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(deep_png(pair << 8))
    assert np.array_equal(read_image(tmp_path / "a.png")[..., 0], GREY)
    (tmp_path / "a.png").write_bytes(deep_png(pair << 4))
    with pytest.raises(FileFormatError, match=r"a\.png: dark grey of 16 bits with alpha"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
@pytest.mark.parametrize("array", [RGB, GREY], ids=["rgb", "grey"])
def test_floats_of_0_to_1_are_scaled(tmp_path: Path, kind: str, array: NDArray[np.uint8]) -> None:
    write(tmp_path / "a.tif", (array / 255).astype(kind))
    image, scaling = read(tmp_path / "a.tif")
    assert np.array_equal(image[..., 0], GREY)
    assert scaling == "0–1 × 255"


def test_floats_of_0_to_255_stay_and_whole_ones_above_are_integers(tmp_path: Path) -> None:
    for values, words in ((RGB + np.float32(0.2), ""), (RGB * np.float32(16), "12 bits ÷ 16")):
        write(tmp_path / "a.tif", values)
        image, scaling = read(tmp_path / "a.tif")
        assert np.array_equal(image, RGB)
        assert scaling == words


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (RGB / np.float32(127.5) - 1, "values from -1 to 1: negative brightness"),
        (RGB / np.float32(255) * 1.3, "fractions from 0 to 1.3, neither 0–1 nor 0–255"),
        (RGB * np.float32(3.3), "neither 0–1 nor 0–255"),
        (RGB.astype(np.int16) - 1024, "values from -1024 to -769: negative"),
        (RGB * np.float32(np.nan), "no pixel has a value"),
    ],
    ids=["-1 to 1", "reflectance", "other floats", "Hounsfield", "NaN"],
)
def test_what_cannot_be_known_is_refused(tmp_path: Path, values: NDArray[Any], fault: str) -> None:
    write(tmp_path / "a.tif", values)
    with pytest.raises(FileFormatError) as caught:
        read_image(tmp_path / "a.tif")
    assert str(caught.value).startswith(f"{tmp_path / 'a.tif'}: ")
    assert fault in str(caught.value)
    assert "save the photograph as 8 bits" in str(caught.value)


def test_rounding_beyond_the_ends_is_cut_off() -> None:
    values = np.array([[-0.001, 0.0, 0.5, 1.001]], np.float32)
    assert scale_to_bytes(values)[0].tolist() == [[0, 0, 128, 255]]
    assert scale_to_bytes(values * 255)[0].tolist() == [[0, 0, 128, 255]]


def test_pixels_without_a_value_become_black_and_are_counted(tmp_path: Path) -> None:
    values = (RGB / np.float32(255)).copy()
    values[:4], values[4:6] = np.nan, np.inf
    write(tmp_path / "a.tif", values)
    image, scaling = read(tmp_path / "a.tif")
    assert not image[:6].any()
    assert np.array_equal(image[6:], RGB[6:])
    assert scaling == "0–1 × 255, 16 % without a value: 0"
    values[:6] = -9999
    write(tmp_path / "a.tif", values, extratags=[(42113, 2, 6, "-9999", True)])
    assert np.array_equal(read(tmp_path / "a.tif")[0], image)


@pytest.mark.parametrize("nodata", ["-9999", "nan", "1.8e308", "-3.402823466e+38", "0", "none"])
@pytest.mark.parametrize("kind", ["u2", "f4"])
def test_every_nodata_is_understood(tmp_path: Path, nodata: str, kind: str) -> None:
    values = (RGB / 255 if kind == "f4" else RGB).astype(kind)
    if kind == "f4" and nodata.startswith("-3"):
        values[0, 1] = np.finfo(np.float32).min
    write(tmp_path / "a.tif", values, extratags=[(42113, 2, len(nodata) + 1, nodata, True)])
    image, _ = read(tmp_path / "a.tif")
    assert np.array_equal(image[1:], RGB[1:])


def test_the_bit_depth_that_a_tiff_file_states_counts(tmp_path: Path) -> None:
    stated = [(281, 3, 1, 4095, True)]
    write(tmp_path / "a.tif", GREY.astype(np.uint16), extratags=stated)
    image, scaling = read(tmp_path / "a.tif")
    assert np.array_equal(image[..., 0], GREY >> 4)
    assert scaling == "12 bits ÷ 16"


def test_white_as_the_lowest_value_is_inverted(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", ~(GREY.astype(np.uint16) * 257), photometric="miniswhite")
    assert np.array_equal(read(tmp_path / "a.tif")[0][..., 0], GREY)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_deep_values_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    for number, array in enumerate((RGB, RGB.astype(np.uint16) * 257)):
        tag = [(274, 3, 1, orientation, True)]
        write(tmp_path / f"{number}.tif", array, extratags=tag)
    first, second = (read_image(tmp_path / f"{number}.tif") for number in (0, 1))
    assert np.array_equal(first, second)


LAYOUTS = [*itertools.product("<>", [None, (16, 32)], ["contig", "separate"], [False, True])]


@pytest.mark.parametrize(("order", "tile", "planar", "predictor"), LAYOUTS)
@pytest.mark.parametrize("kind", ["u1", "u2", "i4", "f4"])
def test_bands_are_read_from_every_layout(
    tmp_path: Path,
    kind: str,
    order: str,
    tile: tuple[int, int] | None,
    planar: Any,
    predictor: bool,
) -> None:
    values = (EIGHT / 255 if kind == "f4" else EIGHT).astype(kind)
    if kind == "f4" and predictor:
        pytest.skip("tifffile needs another package to write it")
    write(
        tmp_path / "a.tif",
        np.moveaxis(values, 2, 0) if planar == "separate" else values,
        byteorder=order,
        tile=tile,
        rowsperstrip=None if tile else 5,
        planarconfig=planar,
        photometric="minisblack",
        compression="zlib" if predictor else None,
        predictor=predictor,
    )
    assert np.array_equal(read(tmp_path / "a.tif", bands=(3, 2, 1))[0], RGB)
    grey = read(tmp_path / "a.tif", bands=(7,))[0]
    assert np.array_equal(grey, np.repeat(RGB[..., :1], 3, axis=2))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize("predictor", [1, 2, 3])
def test_floats_are_read_from_every_compression(
    tmp_path: Path, compression: str, predictor: int
) -> None:
    predictor = 1 if compression == "packbits" else predictor
    values = Image.fromarray(GREY / np.float32(255))
    values.save(tmp_path / "a.tif", compression=compression, tiffinfo={317: predictor})
    assert np.array_equal(read(tmp_path / "a.tif")[0][..., 0], GREY)


def test_many_bands_are_named_and_no_log_line_appears(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    names = ["Coastal", "Red", "Green", "Blue"]
    text = "".join(
        f'<Item name="DESCRIPTION" sample="{band}" role="description">{name}</Item>'
        for band, name in enumerate(names)
    )
    text = f"<GDALMetadata>{text}</GDALMetadata>"
    path = tmp_path / "a.tif"
    for tags, listed, example in (
        ([], "", "4,3,2"),
        ([(42112, 2, len(text) + 1, text, True)], " (1 Coastal, 2 Red, 3 Green, 4 Blue)", "2,3,4"),
    ):
        write(path, EIGHT, photometric="minisblack", planarconfig="contig", extratags=tags)
        with pytest.raises(FileFormatError) as caught:
            read_image(path)
        assert str(caught.value) == (
            f"{path}: 8 bands of 8-bit numbers{listed}; say which are red, green and blue, such as "
            f"--bands {example}; commands without that option need files of RGB."
        )
    with pytest.raises(FileFormatError, match="no band 9"):
        read_image(path, (9, 2, 1))
    assert not caplog.records


def test_three_bands_that_are_no_colours_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(banded_tiff(RGB.astype(np.uint16) * 257))
    with pytest.raises(FileFormatError, match=r"3 bands of 16-bit numbers.*--bands 3,2,1"):
        read_image(path)
    assert np.array_equal(read_image(path, (1, 2, 3)), RGB)
    path.write_bytes(banded_tiff(RGB.astype(np.uint16) * 257, {262: 2}))
    assert np.array_equal(read_image(path), RGB)


def test_bands_of_other_pictures_are_chosen_too(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", (3, 2, 1)), RGB[..., ::-1])
    with pytest.raises(FileFormatError, match=r"a\.png: 3 bands, no band 4; leave --bands out"):
        read_image(tmp_path / "a.png", (4, 3, 2))


@pytest.mark.parametrize(
    ("tag", "value", "fault"),
    [
        (259, 7, f"compressed as number 7; expected {COMPRESSIONS[1]}"),
        (259, 5, "broken or truncated image"),
        (273, 1 << 30, "broken or truncated image"),
        (339, 5, "5 bands of 16 bits, which aren't read"),
        (256, 1 << 30, "more than 500000000 pixels"),
    ],
)
def test_faults_of_many_bands_are_told(tmp_path: Path, tag: int, value: int, fault: str) -> None:
    content = banded_tiff(EIGHT[..., :5].astype(np.uint16), {tag: value})
    (tmp_path / "a.tif").write_bytes(content)
    with limit_reading(max_pixels=500_000_000), pytest.raises(FileFormatError) as caught:
        read_image(tmp_path / "a.tif", (3, 2, 1))
    assert fault in str(caught.value)


def test_the_decoded_size_is_known_before(tmp_path: Path) -> None:
    tags = dict.fromkeys((256, 257), 20_000)
    (tmp_path / "a.tif").write_bytes(banded_tiff(RGB.astype(np.uint16), tags | {262: 2}))
    with open_photograph(tmp_path / "a.tif") as photograph:
        assert photograph.shape == (20_000, 20_000, 3)
    most = limit_reading(max_pixels=500_000_000)
    with most, pytest.raises(FileFormatError, match=r"2400000000 bytes once unpacked.*--max-bytes"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["P", "1", "CMYK", "LA"])
def test_bands_of_every_mode_are_those_of_what_is_displayed(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(RGB).convert(mode).save(path)
    plain = read_image(path)
    assert np.array_equal(read_image(path, (1,)), np.repeat(plain[..., :1], 3, axis=2))


def test_pages_of_deep_values_are_refused(tmp_path: Path) -> None:
    stack = np.stack([GREY, 255 - GREY]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", imagej=True)
    with pytest.raises(FileFormatError, match="several pages"):
        read_image(tmp_path / "a.tif")


def test_exif_that_is_broken_leaves_the_photograph(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path, exif=b"Exif\0\0garbage")
    assert np.array_equal(read_image(path), RGB)
    Image.fromarray(RGB).save(path.with_suffix(".webp"), lossless=True, exif=b"Exif\0\0garbage")
    assert np.array_equal(read_image(path.with_suffix(".webp")), RGB)
