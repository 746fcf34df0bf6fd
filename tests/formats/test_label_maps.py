from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from segfix.errors import FileFormatError
from segfix.files.provenance import is_whole, read_record
from segfix.formats import (
    LabelMap,
    OffsetMap,
    read_label_map,
    write_label_map,
    write_offset_map,
)

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}


def png_bytes(
    samples: NDArray[Any],
    bits: int,
    colour_type: int,
    *,
    palette: bytes = b"",
    transparency: bytes = b"",
) -> bytes:
    """A PNG file made by hand, samples as they are (PNG specification, third edition)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    if bits == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    else:
        binary = np.unpackbits(rows.astype(np.uint8)[..., None], axis=2)[..., 8 - bits :]
        lines = [np.packbits(row).tobytes() for row in binary.reshape(height, -1)]
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
        + (chunk(b"PLTE", palette) if palette else b"")
        + (chunk(b"tRNS", transparency) if transparency else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(b"\x00" + line for line in lines)))
        + chunk(b"IEND", b"")
    )


def kind_of(path: Path) -> tuple[int, int]:
    """Bits per sample and colour type of a PNG file."""
    header = path.read_bytes()[:26]
    return header[24], header[25]


def chunks_of(path: Path) -> dict[bytes, bytes]:
    content, position, found = path.read_bytes(), 8, {}
    while position < len(content):
        (length,) = struct.unpack(">I", content[position : position + 4])
        kind = content[position + 4 : position + 8]
        found[kind] = content[position + 8 : position + 8 + length]
        position += 12 + length
    return found


def colours(count: int) -> bytes:
    return np.random.default_rng(1).integers(0, 256, 3 * count, np.uint8).tobytes()


KINDS = [
    pytest.param(1, GREY, {}, id="grey-1"),
    pytest.param(2, GREY, {}, id="grey-2"),
    pytest.param(4, GREY, {}, id="grey-4"),
    pytest.param(8, GREY, {}, id="grey-8"),
    pytest.param(16, GREY, {}, id="grey-16"),
    pytest.param(8, GREY, {"transparency": b"\x00\x07"}, id="grey-8-transparent"),
    pytest.param(2, GREY, {"transparency": b"\x00\x03"}, id="grey-2-transparent"),
    pytest.param(16, GREY, {"transparency": b"\x01\x07"}, id="grey-16-transparent"),
    pytest.param(1, PALETTE, {"palette": colours(2)}, id="palette-1"),
    pytest.param(2, PALETTE, {"palette": colours(4)}, id="palette-2"),
    pytest.param(4, PALETTE, {"palette": colours(16)}, id="palette-4"),
    pytest.param(8, PALETTE, {"palette": colours(256)}, id="palette-8"),
    pytest.param(
        2, PALETTE, {"palette": colours(4), "transparency": b"\x00"}, id="palette-2-transparent"
    ),
    pytest.param(
        4,
        PALETTE,
        {"palette": colours(16), "transparency": b"\xff\x00"},
        id="palette-4-transparent",
    ),
    pytest.param(
        8,
        PALETTE,
        {"palette": colours(256), "transparency": bytes(range(256))},
        id="palette-8-half-transparent",
    ),
    pytest.param(8, RGB, {}, id="rgb"),
    pytest.param(8, RGB, {"transparency": b"\x00\x01\x00\x02\x00\x03"}, id="rgb-transparent"),
    pytest.param(8, RGBA, {}, id="rgba"),
    pytest.param(8, GREY_ALPHA, {}, id="grey-alpha"),
]


@pytest.mark.parametrize(("bits", "colour_type", "extra"), KINDS)
def test_every_kind_of_png_comes_back_to_the_pixel_kind_and_palette(
    tmp_path: Path, bits: int, colour_type: int, extra: dict[str, bytes]
) -> None:
    shape = (9, 13) if CHANNELS[colour_type] == 1 else (9, 13, CHANNELS[colour_type])
    samples = np.random.default_rng(0).integers(0, 2**bits, shape)
    samples.flat[:2] = 0, 2**bits - 1
    source, result = tmp_path / "source.png", tmp_path / "result.png"
    source.write_bytes(png_bytes(samples, bits, colour_type, **extra))

    label_map = read_label_map(source)
    assert np.array_equal(label_map.array, samples)
    assert label_map.palette == extra.get("palette")
    write_label_map(result, label_map)

    assert kind_of(result) == (bits, colour_type)
    again = read_label_map(result)
    assert np.array_equal(again.array, samples)
    assert again.array.dtype == label_map.array.dtype
    assert (again.palette, again.transparency) == (label_map.palette, label_map.transparency)
    found, expected = chunks_of(result), chunks_of(source)
    assert found.get(b"PLTE") == expected.get(b"PLTE")
    assert found.get(b"tRNS") == expected.get(b"tRNS")
    with Image.open(source) as before, Image.open(result) as after:
        assert before.mode == after.mode
        assert before.convert("RGBA").tobytes() == after.convert("RGBA").tobytes()


@pytest.mark.parametrize(("bits", "colour_type"), [(8, PALETTE), (4, PALETTE), (2, PALETTE)])
def test_ids_beyond_the_end_of_the_palette_survive(
    tmp_path: Path, bits: int, colour_type: int
) -> None:
    """Void ids without a colour of their own occur; Pillow would cut their upper bits off."""
    samples = np.array([[0, 1, 2**bits - 1]])
    path, result = tmp_path / "short.png", tmp_path / "result.png"
    path.write_bytes(png_bytes(samples, bits, colour_type, palette=colours(2)))
    write_label_map(result, read_label_map(path))
    again = read_label_map(result)
    assert np.array_equal(again.array, samples)
    assert again.palette is not None
    assert again.palette[:6] == colours(2)


@pytest.mark.parametrize("bits", [2, 4])
def test_other_ids_in_a_grey_map_of_few_bits_take_as_many_bits_as_they_need(
    tmp_path: Path, bits: int
) -> None:
    path = tmp_path / "map.png"
    path.write_bytes(png_bytes(np.array([[0, 1]]), bits, GREY))
    other = np.array([[0, 2**bits]], np.uint8)
    write_label_map(path, read_label_map(path).with_array(other))
    assert np.array_equal(read_label_map(path).array, other)
    assert kind_of(path) == (8, GREY)


def test_other_pixels_keep_palette_and_transparency(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    samples = np.array([[0, 1, 2, 3]])
    path.write_bytes(png_bytes(samples, 2, PALETTE, palette=colours(4), transparency=b"\x00\x10"))
    label_map = read_label_map(path)
    write_label_map(path, label_map.with_array(label_map.array[:, ::-1].copy()))
    again = read_label_map(path)
    assert again.array.tolist() == [[3, 2, 1, 0]]
    assert again.palette == colours(4)
    assert chunks_of(path)[b"tRNS"] == b"\x00\x10"


@given(
    hnp.arrays(
        st.sampled_from([np.bool_, np.uint8, np.uint16]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
    )
)
def test_arrays_come_back_as_they_went(
    tmp_path_factory: pytest.TempPathFactory, array: NDArray[Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "array.png"
    write_label_map(path, LabelMap(array))
    again = read_label_map(path).array
    assert again.dtype == array.dtype
    assert np.array_equal(again, array)


def test_a_jpeg_is_refused_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "labels.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path, format="JPEG")
    with pytest.raises(
        FileFormatError, match=r"labels\.png: expected a PNG label map but got JPEG; its ids have"
    ):
        read_label_map(path)


@pytest.mark.parametrize("colour_type", [RGB, RGBA, GREY_ALPHA])
def test_colours_of_16_bits_are_refused_since_two_of_them_might_become_one(
    tmp_path: Path, colour_type: int
) -> None:
    path = tmp_path / "deep.png"
    samples = np.array([[[0x1201] * 4, [0x1202] * 4]])[..., : CHANNELS[colour_type]]
    path.write_bytes(png_bytes(samples, 16, colour_type))
    with pytest.raises(FileFormatError, match=r"deep\.png: colours of 16 bits"):
        read_label_map(path)


def test_a_text_file_named_png_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "readme.png"
    path.write_text("class ids, see elsewhere\n")
    with pytest.raises(FileFormatError, match=r"readme\.png: not a readable label map"):
        read_label_map(path)


def test_however_a_file_is_cut_it_is_whole_or_an_error(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(0, 256, (6, 9))
    whole = png_bytes(samples, 8, GREY)
    path = tmp_path / "cut.png"
    failures = 0
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        try:
            found = read_label_map(path)
        except FileFormatError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017 - either outcome is right
            failures += 1
        else:
            assert np.array_equal(found.array, samples)
    assert failures > len(whole) - 30


@given(data=st.data())
def test_however_a_file_is_damaged_only_our_error_comes_out(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    samples = np.random.default_rng(0).integers(0, 16, (6, 9))
    content = bytearray(
        png_bytes(samples, 4, PALETTE, palette=colours(16), transparency=b"\x00\x80")
    )
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    path.write_bytes(content)
    try:
        assert read_label_map(path).array.ndim == 2
    except FileFormatError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017 - either outcome is right


# ids


def test_ids_of_grey_and_palette_are_the_array_itself() -> None:
    array = np.array([[0, 255]], np.uint8)
    assert np.array_equal(LabelMap(array, palette=colours(256)).ids(), array)
    assert LabelMap(array.astype(bool)).ids().tolist() == [[0, 1]]
    assert LabelMap(array.astype(bool)).ids().dtype == np.uint8


def test_ids_of_colours_are_those_of_panoptic_files() -> None:
    array = np.array([[[1, 2, 3], [255, 255, 255]]], np.uint8)
    assert LabelMap(array).ids().tolist() == [[1 + 256 * 2 + 65536 * 3, 2**24 - 1]]
    alpha = np.array([[[1, 2, 3, 4]]], np.uint8)
    assert LabelMap(alpha).ids().tolist() == [[1 + 256 * 2 + 65536 * 3 + 2**24 * 4]]


@given(hnp.arrays(np.uint8, (2, 6, 4), elements=st.sampled_from([0, 1, 255])))
def test_ids_are_equal_exactly_where_colours_are(array: NDArray[np.uint8]) -> None:
    ids = LabelMap(array).ids().ravel()
    flat = array.reshape(-1, 4)
    same = (flat[:, None] == flat[None]).all(axis=2)
    assert np.array_equal(ids[:, None] == ids[None], same)


def test_the_size_is_width_by_height() -> None:
    assert LabelMap(np.zeros((3, 5, 4), np.uint8)).size == "5×3"


# Records


@pytest.mark.parametrize("record", ["{}", '{"γ": "5 px · ümläut 图"}', "x" * 10_000])
def test_a_record_comes_back_and_leaves_the_pixels_alone(tmp_path: Path, record: str) -> None:
    path = tmp_path / "map.png"
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_label_map(path, LabelMap(array), record=record)
    assert read_record(path) == record
    assert np.array_equal(read_label_map(path).array, array)


def test_there_is_no_record_in_files_that_are_missing_foreign_or_no_pictures(
    tmp_path: Path,
) -> None:
    path = tmp_path / "map.png"
    assert read_record(path) is None
    write_label_map(path, LabelMap(np.zeros((3, 4), np.uint8)))
    assert read_record(path) is None
    for content in (b"", b"no picture at all", b"\x89PNG\r\n\x1a\n"):
        path.write_bytes(content)
        assert read_record(path) is None


def test_a_file_cut_short_still_has_its_record_but_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    write_label_map(path, LabelMap(np.zeros((3, 4), np.uint8)), record="{}")
    content = path.read_bytes()
    assert is_whole(path)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert not is_whole(path)
    path.write_bytes(content[: content.index(b"IDAT") + 6])
    assert read_record(path) == "{}"


def test_writing_replaces_the_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "new" / "map.png"
    for value in (1, 2):
        write_label_map(path, LabelMap(np.full((2, 2), value, np.uint8)))
    assert read_label_map(path).array.tolist() == [[2, 2], [2, 2]]
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    write_label_map(path, LabelMap(np.ones((2, 2), np.uint8)))
    before = path.read_bytes()
    unfit = LabelMap(np.zeros((2, 2, 4), np.uint8), transparency=3)
    with pytest.raises(FileFormatError, match="transparency"):
        write_label_map(path, unfit)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_offset_map_is_no_label_map(tmp_path: Path) -> None:
    path = tmp_path / "offsets.png"
    write_offset_map(path, OffsetMap(np.zeros((4, 5), np.uint8)))
    with pytest.raises(FileFormatError, match="an offset map, not a label map"):
        read_label_map(path)
