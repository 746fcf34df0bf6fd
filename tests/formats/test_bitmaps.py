"""Label maps in BMP, GIF and PNM files: ids as they are stored, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segfix.errors import FileFormatError
from segfix.formats import read_label_map, write_label_map

IDS = np.random.default_rng(0).integers(0, 5, (23, 31)).astype(np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (768,)).astype(np.uint8)


def palette_picture() -> Image.Image:
    picture = Image.fromarray(IDS)
    picture.putpalette(COLOURS.tobytes())
    return picture


def grey_palette_picture() -> Image.Image:
    picture = Image.fromarray(IDS)
    picture.putpalette([level for level in range(200, 0, -20) for _ in range(3)])
    return picture


def pictures() -> dict[str, tuple[Image.Image, NDArray[np.generic]]]:
    grey, bits, colours = IDS * 60, IDS > 2, np.stack([IDS * 3, IDS, IDS * 60], axis=2)
    return {
        "palette.bmp": (palette_picture(), IDS),
        "palette.gif": (palette_picture(), IDS),
        **{f"grey{ending}": (Image.fromarray(grey), grey) for ending in (".bmp", ".gif", ".pgm")},
        "two.gif": (Image.fromarray(bits), np.where(bits, 255, 0)),
        "falling.gif": (grey_palette_picture(), IDS),
        "bits.bmp": (Image.fromarray(bits), bits),
        "bits.pbm": (Image.fromarray(bits), bits),
        "colours.bmp": (Image.fromarray(colours), colours),
        "colours.ppm": (Image.fromarray(colours), colours),
        "wide.pgm": (Image.fromarray(IDS.astype(np.uint16) * 1000), IDS.astype(np.uint16) * 1000),
    }


@pytest.mark.parametrize("name", pictures())
def test_samples_are_read_as_they_are_stored_and_come_back(tmp_path: Path, name: str) -> None:
    picture, expected = pictures()[name]
    picture.save(tmp_path / name)
    read = read_label_map(tmp_path / name)
    assert np.array_equal(read.array, expected)
    (tmp_path / "out").mkdir()
    write_label_map(tmp_path / "out" / name, read, record="{}")
    again = read_label_map(tmp_path / "out" / name)
    assert np.array_equal(again.array, expected)
    assert (again.array.dtype, again.palette) == (read.array.dtype, read.palette)
    with Image.open(tmp_path / name) as before, Image.open(tmp_path / "out" / name) as after:
        assert before.format == after.format
        # A grey GIF's levels may be numbered otherwise.
        assert before.mode == after.mode or name == "grey.gif"
        assert np.array_equal(np.asarray(before.convert("RGB")), np.asarray(after.convert("RGB")))


@pytest.mark.parametrize("highest", [4, 20, 1000])
def test_pgm_ids_are_not_scaled_to_the_range(tmp_path: Path, highest: int) -> None:
    path, samples = tmp_path / "a.pgm", IDS.astype(">u2" if highest > 255 else np.uint8)
    path.write_bytes(b"P5\n# made by hand\n31 23\n%d\n" % highest + samples.tobytes())
    read = read_label_map(path)
    assert np.array_equal(read.array, IDS)
    write_label_map(tmp_path / "b.pgm", read)
    assert (tmp_path / "b.pgm").read_bytes() == b"P5\n31 23\n%d\n" % highest + samples.tobytes()
    text = " ".join(map(str, IDS.ravel()))
    (tmp_path / "c.pgm").write_text(f"P2 31 23 {highest}\n{text}\n")
    assert np.array_equal(read_label_map(tmp_path / "c.pgm").array, IDS)


def test_an_animated_gif_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    palette_picture().save(path, save_all=True, append_images=[Image.fromarray(IDS[::-1])])
    with pytest.raises(FileFormatError, match=r"a\.gif: an animation"):
        read_label_map(path)


def test_colours_of_16_bits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.ppm").write_bytes(b"P6 31 23 65535\n" + bytes(31 * 23 * 6))
    with pytest.raises(FileFormatError, match=r"a\.ppm: floats or colours of 16 bits"):
        read_label_map(tmp_path / "a.ppm")


@pytest.mark.parametrize("content", [b"P5", b"P5 31 23", b"P5 3 2 x\n", b"P5 3 2 0\n      "])
def test_broken_pgm_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pgm").write_bytes(content)
    with pytest.raises(FileFormatError, match=r"a\.pgm: "):
        read_label_map(tmp_path / "a.pgm")
