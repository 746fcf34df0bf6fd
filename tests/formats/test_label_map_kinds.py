"""TIFF, WebP, PNG and turned files: what comes in goes out, judged by other readers than ours."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, TiffImagePlugin

from segfix.errors import FileFormatError
from segfix.files import tiff_tags
from segfix.files.provenance import is_whole, read_record, record_path
from segfix.formats import LabelMap, read_label_map, write_label_map
from segfix.formats.images import turn_upright

RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 20, (33, 41))

GEO_TAGS = [
    (33550, "d", 3, (0.5, 0.25, 0.0), True),
    (33922, "d", 6, (0.0, 0.0, 0.0, 4.123456789e5, 5e6, 0.0), True),
    (34735, "H", 8, (1, 1, 0, 1, 1024, 0, 1, 1), True),
    (34736, "d", 1, (6378137.0,), True),
    (34737, "s", 0, "WGS 84|", True),
    (42112, "s", 0, "<GDALMetadata><Item>ü</Item></GDALMetadata>".encode(), True),
    (42113, "s", 0, "255", True),
    (270, "s", 0, "land cover", True),
    (65000, "B", 4, (1, 2, 3, 4), True),
]
"""Tags of GeoTIFF and GDAL, a description, and one of nobody's."""


def write_tiff(path: Path, array: NDArray[Any], *, byteorder: Any = "<", **options: Any) -> None:
    bigtiff = options.pop("bigtiff", False)
    options.setdefault("photometric", "minisblack" if array.ndim == 2 else "rgb")
    with tifffile.TiffWriter(path, byteorder=byteorder, bigtiff=bigtiff) as file:
        file.write(array, extratags=GEO_TAGS, metadata=None, **options)


def tags_of(path: Path) -> dict[int, Any]:
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == 1
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        return {tag.code: tag.value for tag in page.tags.values()}


COLOURMAP = np.repeat(RNG.integers(0, 256, (3, 256)), 1, 0).astype(np.uint16) * 256

TIFFS = [
    pytest.param(IDS.astype(np.uint8), {}, id="8"),
    pytest.param(IDS.astype(np.uint8), {"compression": "zlib"}, id="8-deflate"),
    pytest.param(IDS.astype(np.uint8), {"compression": "zlib", "predictor": True}, id="predictor"),
    pytest.param(IDS.astype(np.uint8), {"tile": (16, 16)}, id="8-tiles"),
    pytest.param(IDS.astype(np.uint8), {"bigtiff": True}, id="8-big"),
    pytest.param(IDS.astype(np.uint8), {"photometric": "miniswhite"}, id="8-white-is-zero"),
    pytest.param((IDS * 3000).astype(np.uint16), {}, id="16"),
    pytest.param((IDS * 3000).astype(np.uint16), {"byteorder": ">"}, id="16-big-endian"),
    pytest.param((IDS * 3000).astype(np.uint16), {"compression": "zlib"}, id="16-deflate"),
    pytest.param((IDS * 10**8).astype(np.int32), {}, id="32"),
    pytest.param((IDS * 10**8).astype(np.int32), {"byteorder": ">"}, id="32-big-endian"),
    pytest.param(IDS > 10, {}, id="1"),
    pytest.param(
        IDS.astype(np.uint8), {"photometric": "palette", "colormap": COLOURMAP}, id="palette"
    ),
    pytest.param(RNG.integers(0, 256, (33, 41, 3)).astype(np.uint8), {}, id="rgb"),
    pytest.param(
        RNG.integers(0, 256, (33, 41, 4)).astype(np.uint8),
        {"extrasamples": ["unassalpha"]},
        id="rgba",
    ),
    pytest.param(RNG.random((33, 41), np.float32), {}, id="float"),
]


@pytest.mark.parametrize(("array", "options"), TIFFS)
def test_a_tiff_comes_back_with_pixels_kind_and_geo_tags(
    tmp_path: Path, array: NDArray[Any], options: dict[str, Any]
) -> None:
    source, result = tmp_path / "a.tif", tmp_path / "b.tif"
    write_tiff(source, array, **options)
    write_label_map(result, read_label_map(source))
    again = tifffile.imread(result)
    assert np.array_equal(again, tifffile.imread(source))
    assert again.dtype == array.dtype
    before, after = tags_of(source), tags_of(result)
    for tag, *_ in GEO_TAGS:
        assert after[tag] == before[tag], tag
    # Compression, meaning of the samples, predictor, bits per sample.
    for tag in (259, 262, 317, 258):
        assert after.get(tag) == before.get(tag), tag
    with Image.open(source) as first, Image.open(result) as second:
        assert first.mode.replace("16B", "16") == second.mode
        assert first.getpalette() == second.getpalette()


def test_ids_of_a_tiff_are_the_samples(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", (IDS * 3000).astype(np.uint16), byteorder=">")
    assert np.array_equal(read_label_map(tmp_path / "a.tif").ids(), IDS * 3000)


def test_a_tiff_of_whole_floats_holds_ids_and_of_fractions_scores(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", IDS.astype(np.float32))
    assert np.array_equal(read_label_map(tmp_path / "a.tif").ids(), IDS)
    write_tiff(tmp_path / "b.tif", (IDS / 20).astype(np.float32))
    assert np.array_equal(read_label_map(tmp_path / "b.tif").ids(), IDS > 10)


def test_the_other_pages_of_a_tiff_are_refused_unless_they_are_overviews(tmp_path: Path) -> None:
    path, ids = tmp_path / "a.tif", IDS.astype(np.uint8)
    with tifffile.TiffWriter(path) as file:
        file.write(ids, metadata=None)
        file.write(ids[::2, ::2], subfiletype=1, metadata=None)
    label_map = read_label_map(path)
    assert np.array_equal(label_map.array, ids)
    write_label_map(tmp_path / "b.tif", label_map)
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif"), ids)
    with tifffile.TiffWriter(path, append=True) as file:
        file.write(ids, metadata=None)
    with pytest.raises(FileFormatError, match=r"a\.tif: several pages"):
        read_label_map(path)


def test_of_very_many_pages_few_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in range(300):
            file.write(IDS.astype(np.uint8), subfiletype=int(page > 0), metadata=None)
    read_pages, pages = tiff_tags.read_pages, []

    def watched(file: IO[bytes]) -> Iterator[tiff_tags.Page]:
        for page in read_pages(file):
            pages.append(page)
            yield page

    monkeypatch.setattr(tiff_tags, "read_pages", watched)
    with pytest.raises(FileFormatError, match=r"a\.tif: several pages"):
        read_label_map(tmp_path / "a.tif")
    assert 0 < len(pages) < 100


def test_lossy_or_premultiplied_tiffs_are_refused(tmp_path: Path) -> None:
    Image.fromarray(IDS.astype(np.uint8)).save(tmp_path / "a.tif", compression="jpeg")
    with pytest.raises(FileFormatError, match=r"a\.tif: lossy compression"):
        read_label_map(tmp_path / "a.tif")
    colours = RNG.integers(0, 256, (33, 41, 4)).astype(np.uint8)
    write_tiff(tmp_path / "b.tif", colours, extrasamples=["assocalpha"])
    with pytest.raises(FileFormatError, match=r"b\.tif: colours multiplied by their alpha"):
        read_label_map(tmp_path / "b.tif")


def low_bit_tiff(samples: NDArray[np.uint8]) -> bytes:
    """A TIFF file with 4-bit grey, made by hand."""
    height, width = samples.shape
    data = (samples[:, ::2] * 16 + samples[:, 1::2]).tobytes()
    data += b"\0" * (len(data) % 2)
    entries = {256: width, 257: height, 258: 4, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    fields = [(tag, 1, value) for tag, value in (*entries.items(), (279, height * width // 2))]
    directory = struct.pack("<H", len(fields))
    directory += b"".join(struct.pack("<HHII", tag, 4, *rest) for tag, *rest in fields)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + b"\0\0\0\0"


SEVERAL = np.stack([IDS, 2 * IDS, 3 * IDS, 255 - IDS], -1).astype(np.uint8)


@pytest.mark.parametrize(
    ("array", "options", "text"),
    [
        ((SEVERAL[..., :3] * np.uint16(300)), {}, "16 bits per sample"),
        (SEVERAL, {"extrasamples": ["unspecified"]}, "4 bands"),
        (SEVERAL[..., :2], {"photometric": "minisblack", "planarconfig": "contig"}, "2 bands"),
        (SEVERAL, {"photometric": "separated"}, "colours as CMYK"),
        (IDS.astype(np.uint32) + np.uint32(2**31), {}, "ids of 2147483648 or more"),
        ((IDS - 3).astype(np.int8), {}, "negative numbers of 8 bits"),
    ],
)
def test_a_tiff_of_which_bands_or_bits_would_be_lost_is_refused(
    tmp_path: Path, array: NDArray[Any], options: dict[str, Any], text: str
) -> None:
    write_tiff(tmp_path / "a.tif", array, **options)
    with pytest.raises(FileFormatError, match=rf"a\.tif: {text}"):
        read_label_map(tmp_path / "a.tif")


def test_a_tiff_of_grey_that_pillow_spreads_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(low_bit_tiff(np.arange(16, dtype=np.uint8).reshape(4, 4)))
    with Image.open(tmp_path / "a.tif") as picture:
        assert np.array(picture)[0, 1] == 17
    with pytest.raises(FileFormatError, match=r"a\.tif: grey of 4 bits"):
        read_label_map(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("tag", "value", "kind", "wrong"),
    # Of a number for the document's name, libtiff makes an address.
    [(317, 1, 3, 11), (269, "name", 2, 4)],
)
def test_a_tag_of_a_type_that_it_cannot_have_is_left_out(
    tmp_path: Path, tag: int, value: object, kind: int, wrong: int
) -> None:
    source, result = tmp_path / "a.tif", tmp_path / "b.tif"
    ids = Image.fromarray(IDS.astype(np.uint8))
    ids.save(source, compression="tiff_adobe_deflate", tiffinfo={tag: value, 305: "program"})
    content = source.read_bytes()
    entry = content.index(struct.pack("<HH", tag, kind))
    source.write_bytes(content[:entry] + struct.pack("<HHI", tag, wrong, 1) + content[entry + 8 :])
    code = (
        "import sys; from pathlib import Path; from segfix.formats import *; "
        "write_label_map(Path(sys.argv[2]), read_label_map(Path(sys.argv[1])))"
    )
    subprocess.run([sys.executable, "-c", code, str(source), str(result)], check=True)
    with Image.open(result) as picture:
        assert isinstance(picture, TiffImagePlugin.TiffImageFile)
        assert picture.tag_v2[305] == "program"
        assert tag not in picture.tag_v2
    assert np.array_equal(read_label_map(result).array, IDS)


# WebP


@pytest.mark.parametrize("channels", [3, 4])
def test_a_lossless_webp_comes_back(tmp_path: Path, channels: int) -> None:
    source, result = tmp_path / "a.webp", tmp_path / "b.webp"
    colours = RNG.integers(0, 256, (20, 30, channels)).astype(np.uint8)
    Image.fromarray(colours).save(source, lossless=True, exact=True)
    write_label_map(result, read_label_map(source))
    with Image.open(result) as picture:
        assert picture.format == "WEBP"
        assert np.array_equal(np.array(picture), colours)
    assert np.array_equal(read_label_map(result).array, colours)


def test_a_lossless_webp_keeps_its_profile(tmp_path: Path) -> None:
    source, result = tmp_path / "a.webp", tmp_path / "b.webp"
    picture = Image.fromarray(RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8))
    picture.save(source, lossless=True, icc_profile=b"profile", xmp=b"<x/>")
    write_label_map(result, read_label_map(source))
    with Image.open(result) as again:
        assert again.info["icc_profile"] == b"profile"
        assert again.info["xmp"] == b"<x/>"


@pytest.mark.parametrize("options", [{}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}])
def test_a_lossy_webp_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    picture = Image.fromarray(RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8))
    picture.save(tmp_path / "a.webp", lossless=False, **options)
    with pytest.raises(FileFormatError, match=r"a\.webp: lossy WebP"):
        read_label_map(tmp_path / "a.webp")


def test_animations_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(RNG.integers(0, 256, (9, 9, 3)).astype(np.uint8)) for _ in range(2)]
    for name in ("a.webp", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        with pytest.raises(FileFormatError, match="an animation"):
            read_label_map(tmp_path / name)


@pytest.mark.parametrize(("name", "kind"), [("a.png", "TIFF"), ("a.tif", "PNG"), ("a.webp", "PNG")])
def test_a_name_that_belies_the_content_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    Image.fromarray(IDS.astype(np.uint8)).save(tmp_path / name, format=kind)
    with pytest.raises(FileFormatError, match=f"label map but got {kind}"):
        read_label_map(tmp_path / name)


# PNG


def interlaced(samples: NDArray[np.uint8]) -> bytes:
    """An 8-bit grey PNG file in Adam7 order, made by hand."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
    data = b""
    for row, column, down, right in (*passes, (1, 0, 2, 1)):
        part = samples[row::down, column::right]
        data += b"".join(b"\0" + line.tobytes() for line in part) if part.size else b""
    height, width = samples.shape
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1))
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("shape", [(33, 41), (1, 1), (3, 9)])
def test_an_interlaced_png_is_read(tmp_path: Path, shape: tuple[int, int]) -> None:
    samples = RNG.integers(0, 256, shape).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(interlaced(samples))
    assert np.array_equal(read_label_map(tmp_path / "a.png").array, samples)


def test_a_png_keeps_its_texts_profile_and_resolution(tmp_path: Path) -> None:
    source, result = tmp_path / "a.png", tmp_path / "b.png"
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Model", "U-Net")
    texts.add_itxt("Autor", "Jürgen", lang="de")
    texts.add_text("Long", "x" * 5000, zip=True)
    Image.fromarray(IDS.astype(np.uint8)).save(
        source, pnginfo=texts, dpi=(300, 300), icc_profile=b"profile"
    )
    write_label_map(result, read_label_map(source), record="{}")
    with Image.open(source) as first, Image.open(result) as second:
        first.load()
        second.load()
        assert isinstance(first, PngImagePlugin.PngImageFile)
        assert isinstance(second, PngImagePlugin.PngImageFile)
        assert second.text == {**first.text, "segfix": "{}"}
        assert second.info["dpi"] == first.info["dpi"]
        assert second.info["icc_profile"] == b"profile"


# Orientation


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_label_map_is_read_upright_and_written_as_it_was(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    source, result = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    stored = RNG.integers(0, 256, (6, 9, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(stored).save(source, exif=exif, **options)
    with Image.open(source) as picture:
        from PIL import ImageOps

        displayed = np.array(ImageOps.exif_transpose(picture))
    label_map = read_label_map(source)
    assert np.array_equal(label_map.array, displayed)
    write_label_map(result, label_map)
    if suffix == ".tif":
        assert np.array_equal(tifffile.imread(result), stored)
        assert tags_of(result).get(274, 1) == orientation
    else:
        with Image.open(result) as again:
            assert again.getexif().get(274, 1) == orientation
            assert np.array_equal(np.array(again), stored)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_turned_tiff_of_one_band_without_compression_is_read_upright(
    tmp_path: Path, orientation: int, dtype: Any
) -> None:
    stored = IDS.astype(dtype)
    Image.fromarray(stored).save(tmp_path / "a.tif", tiffinfo={274: orientation})
    label_map = read_label_map(tmp_path / "a.tif")
    assert np.array_equal(label_map.array, turn_upright(stored, orientation))
    write_label_map(tmp_path / "b.tif", label_map)
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif"), stored)


# Records


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.tif", "a.webp"])
def test_the_record_lies_beside_what_is_no_png(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    colours = RNG.integers(0, 256, (6, 9, 3)).astype(np.uint8)
    write_label_map(path, LabelMap(colours), record='{"γ": 5}')
    assert read_record(path) == '{"γ": 5}'
    assert is_whole(path)
    assert sorted(tmp_path.iterdir()) == sorted([path, record_path(path)])
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_whole(path)
    write_label_map(path, LabelMap(colours))
    assert read_record(path) is None
    assert list(tmp_path.iterdir()) == [path]


def test_a_changed_result_is_not_ours_any_more_but_one_cut_short_is(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    write_label_map(path, LabelMap(np.zeros((4, 5), np.uint8)), record="{}")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\x01")
    assert read_record(path) is None
    path.write_bytes(content[:-2])
    assert (read_record(path), is_whole(path)) == ("{}", False)
    path.write_bytes(content)
    assert (read_record(path), is_whole(path)) == ("{}", True)


def test_the_longest_name_has_a_record_too(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 251 + ".npy")
    write_label_map(path, LabelMap(np.zeros((4, 5), np.uint8)), record="{}")
    assert read_record(path) == "{}"


# Damage


def samples_of_every_kind(folder: Path) -> list[Path]:
    colours = RNG.integers(0, 256, (6, 9, 3)).astype(np.uint8)
    ids = IDS[:6, :9].astype(np.uint8)
    write_tiff(folder / "a.tif", ids)
    write_tiff(folder / "b.tif", ids, compression="zlib")
    Image.fromarray(colours).save(folder / "a.webp", lossless=True)
    np.save(folder / "a.npy", ids)
    np.savez(folder / "a.npz", ids=ids)
    np.savez_compressed(folder / "b.npz", ids=ids, scores=np.arange(5.0))
    return sorted(folder.iterdir())


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(data=st.data())
def test_however_a_file_of_any_kind_is_damaged_only_our_error_comes_out(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "kinds"
    if not folder.exists():
        folder.mkdir()
        samples_of_every_kind(folder)
    source = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = bytearray(source.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged{source.suffix}"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        label_map = read_label_map(path, masks=True)
    except FileFormatError as error:
        assert str(error).startswith(f"{path}")  # noqa: PT017 - either outcome is right
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert label_map.array.ndim in (2, 3)
