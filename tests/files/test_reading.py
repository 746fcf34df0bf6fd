"""Pictures that are several, whose metadata is too large, or that are other things."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from segfix.errors import FileFormatError, PairingError
from segfix.files import list_entries
from segfix.files.foreign import ENDINGS
from segfix.formats import read_image, read_label_map, write_label_map
from segfix.formats.arrays import read_npy, read_npz
from tests.fuzz.samples import png_chunk

IDS = np.random.default_rng(0).integers(0, 4, (20, 30)).astype(np.uint8)
OTHER = Image.fromarray(3 - IDS)
LARGE = bytes(5 << 20)
READERS: tuple[Callable[[Path], Any], ...] = (read_image, read_label_map)


@pytest.mark.parametrize("suffix", [".png", ".gif", ".webp", ".avif"])
@pytest.mark.parametrize("read", READERS)
def test_animations_are_refused(tmp_path: Path, suffix: str, read: Callable[[Path], Any]) -> None:
    path = tmp_path / f"a{suffix}"
    first, second = (Image.fromarray(ids * 80) for ids in (IDS, 3 - IDS))
    first.save(path, save_all=True, append_images=[second])
    with pytest.raises(FileFormatError, match="an animation, of which only the first frame"):
        read(path)


@pytest.mark.parametrize("read", READERS)
def test_pages_are_refused_and_reduced_copies_are_not(
    tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    path = tmp_path / "a.tif"
    for second, options in ((IDS, {}), (IDS[:, :7], {}), (IDS, {"subfiletype": 2})):
        tifffile.imwrite(path, IDS, metadata=None)
        tifffile.imwrite(path, second, append=True, metadata=None, **options)  # type: ignore[arg-type]
        with pytest.raises(FileFormatError, match="several pages, of which only the first"):
            read(path)
    for second, options in ((IDS[::2, ::2], {}), (IDS, {"subfiletype": 1})):
        tifffile.imwrite(path, IDS, metadata=None)
        tifffile.imwrite(path, second, append=True, metadata=None, **options)  # type: ignore[arg-type]
        read(path)


def test_a_mask_of_transparency_is_no_page_of_a_photograph(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IDS, metadata=None)
    mask: dict[str, Any] = {"subfiletype": 4, "photometric": "mask"}
    tifffile.imwrite(tmp_path / "a.tif", IDS > 1, append=True, metadata=None, **mask)
    assert np.array_equal(read_image(tmp_path / "a.tif")[..., 0], IDS)
    with pytest.raises(FileFormatError, match="several pages"):
        read_label_map(tmp_path / "a.tif")


def test_previews_of_raw_files_are_refused_and_those_of_telephones_passed_over(
    tmp_path: Path,
) -> None:
    tifffile.imwrite(tmp_path / "a.dng", IDS, metadata=None, subfiletype=1)
    with pytest.raises(FileFormatError, match="raw file the preview alone would be taken"):
        read_image(tmp_path / "a.dng")
    Image.fromarray(IDS).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[OTHER])
    assert abs(read_image(tmp_path / "a.jpg")[..., 0].astype(int) - IDS).max() < 9


def international(text: bytes, *, packed: bool) -> bytes:
    flag, text = (b"\1", zlib.compress(text)) if packed else (b"\0", text)
    return b"XML:com.adobe.xmp\0" + flag + b"\0en\0\0" + text


NOISE = np.random.default_rng(0).bytes(3 << 20)
METADATA = {
    "profile": (b"iCCP", b"icc\0\0" + zlib.compress(NOISE)),
    "profile of zeros": (b"iCCP", b"icc\0\0" + zlib.compress(LARGE)),
    "XMP": (b"iTXt", international(LARGE, packed=True)),
    "text": (b"zTXt", b"comment\0\0" + zlib.compress(LARGE)),
    "text that isn't packed": (b"tEXt", b"comment\0" + bytes(70 << 20).replace(b"\0", b"a")),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("kind", METADATA)
def test_too_large_metadata_of_png_is_left_out_not_the_picture(
    tmp_path: Path, kind: str, behind: bool
) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "kept")
    file = BytesIO()
    Image.fromarray(IDS).save(file, "PNG", pnginfo=info, dpi=(300, 300))
    content, chunk = file.getvalue(), png_chunk(*METADATA[kind])
    place = len(content) - 12 if behind else 33
    path = tmp_path / "a.png"
    path.write_bytes(content[:place] + chunk + content[place:])
    label_map = read_label_map(path)
    assert np.array_equal(label_map.array, IDS)
    assert np.array_equal(read_image(path)[..., 0], IDS)
    write_label_map(tmp_path / "b.png", label_map)
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.info["Comment"] == "kept"
        assert round(picture.info["dpi"][0]) == 300
    assert (tmp_path / "b.png").stat().st_size < 2000


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (b"iTXt", international(b"a" * (5 << 20), packed=False)),
        (b"tEXt", b"long\0" + b"a" * (5 << 20)),
        (b"eXIf", b"II*\0" + LARGE),
    ],
)
def test_large_texts_that_are_not_packed_stay(tmp_path: Path, kind: bytes, data: bytes) -> None:
    file = BytesIO()
    Image.fromarray(IDS).save(file, "PNG")
    content = file.getvalue()
    (tmp_path / "a.png").write_bytes(content[:33] + png_chunk(kind, data) + content[33:])
    label_map = read_label_map(tmp_path / "a.png")
    assert np.array_equal(label_map.array, IDS)
    assert len(label_map.rest.get("exif") or next(iter(label_map.rest["text"].values()))) >= 5 << 20


def archive(name: str) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr(name, b"x" * 50)
    return file.getvalue()


def numpy_file(array: NDArray[Any]) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
FOREIGN = {
    "pointer.png": (LFS, "a pointer of Git LFS, not the file itself; git lfs pull fetches it"),
    "results.pkl": (pickle.dumps([IDS]), "a pickle, which may run code"),
    "old.pkl": (pickle.dumps([IDS], protocol=0), "a pickle, which may run code"),
    "pickle.png": (pickle.dumps([IDS]), "a pickle, which may run code"),
    "predictions.pth": (archive("archive/data.pkl"), "a PyTorch file, which may run code"),
    "volume.nii": (bytes(344) + b"n+1\0", "a NIfTI volume"),
    "volume.nii.gz": (zlib.compress(bytes(9)), "a volume"),
    "yolo.txt": (b"0 0.1 0.2 0.3 0.4 0.5 0.6\n", "text, of YOLO perhaps"),
    "cvat.xml": (b'<?xml version="1.0"?>\n<annotations>\n', "annotations of CVAT"),
    "voc.xml": (b"<annotation><folder>a</folder>", "boxes in Pascal VOC's XML"),
    "scan.dcm": (bytes(128) + b"DICM", "DICOM"),
    "volume.nrrd": (b"NRRD0004\n", "an NRRD volume"),
    "stars.png": (b"SIMPLE  =   T", "FITS"),
    "arrays.h5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "arrays.mat": (b"MATLAB 5.0 MAT-file", "MATLAB arrays"),
    "layers.psd": (b"8BPS\0\1", "a Photoshop file"),
    "drawing.svg": (b'<svg xmlns="a">', "SVG; save it as PNG"),
    "drawing.png": (b'<?xml version="1.0"?><!DOCTYPE svg PUBLIC "a"><svg>', "SVG"),
    "page.jpg": (b"<!DOCTYPE html>\n<html>", "a web page, as failed downloads leave"),
    "ids.png": (numpy_file(IDS), "a NumPy array; as a label map, give it the ending .npy"),
    "ids.tif": (archive("arr_0.npy"), "NumPy arrays; name it .npz"),
    "paper.png": (b"%PDF-1.7", "a PDF file"),
    "film.png": (bytes(4) + b"ftypisom", "a video"),
    "nothing.png": (b"", "an empty file"),
    "complex.tif": (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "TIFF of bands or bits that aren't read"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_tools_are_called_what_they_are(tmp_path: Path, name: str) -> None:
    content, words = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    for read, what in ((read_image, "image"), (read_label_map, "label map")):
        with pytest.raises(FileFormatError) as caught:
            read(tmp_path / name)
        assert str(caught.value).startswith(
            f"{tmp_path / name}: not a readable {what}, but {words}"
        )


@pytest.mark.parametrize(("read", "what"), [(read_npy, "a NumPy array"), (read_npz, "an .npz")])
def test_arrays_that_are_other_things_are_called_what_they_are(
    tmp_path: Path, read: Callable[[Path], Any], what: str
) -> None:
    path = tmp_path / ("a.npy" if read is read_npy else "a.npz")
    path.write_bytes(LFS)
    with pytest.raises(FileFormatError, match=f"not {what}.*, but a pointer of Git LFS"):
        read(path)


def test_a_folder_of_nothing_else_says_what_it_holds(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.pkl").write_bytes(b"")
    with pytest.raises(PairingError, match=r"it holds 3 \.pkl.*a pickle.*COCO JSON"):
        list_entries(tmp_path, (".png",), what="predictions")


def test_every_kind_comes_with_an_advice() -> None:
    assert all(found and advice for found, advice in ENDINGS.values())


def test_jpeg_masks_are_refused_with_a_way_out(tmp_path: Path) -> None:
    Image.fromarray(IDS).save(tmp_path / "a.jpg")
    with pytest.raises(FileFormatError, match=r"its ids have blurred.*-threshold 50%"):
        read_label_map(tmp_path / "a.jpg")
