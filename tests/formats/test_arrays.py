from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from segfix.errors import FileFormatError
from segfix.files.provenance import is_whole, read_record
from segfix.formats.arrays import read_npy, read_npz, write_npy, write_npz

Fuzzed = Callable[[bytes], st.SearchStrategy[bytes]]
DTYPES = ("?", "u1", "i1", "<u2", ">i2", "<i4", ">u8", "<f2", ">f4", "<f8", "<c8", "<U3", "S4")


def npy_bytes(array: NDArray[Any], version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version, allow_pickle=True)
    return file.getvalue()


def header_bytes(text: str, data: bytes = b"") -> bytes:
    encoded = text.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(encoded)) + encoded + data


def check_error(path: Path, text: str, **options: Any) -> None:
    reader = read_npz if path.suffix == ".npz" else read_npy
    with pytest.raises(FileFormatError) as caught:
        reader(path, **options)
    assert str(caught.value).startswith(f"{path}: ")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_numpy_come_back(
    tmp_path: Path, dtype: str, order: Any, version: tuple[int, int]
) -> None:
    array = np.asarray(np.arange(24).reshape(2, 3, 4) % 7, dtype, order=order)
    path = tmp_path / "a.npy"
    path.write_bytes(npy_bytes(array, version))
    again = read_npy(path)
    assert np.array_equal(again, array)
    assert again.dtype == array.dtype.newbyteorder("=")
    assert again.flags.writeable


@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 5), (3, 0, 2), (1,) * 20])
def test_odd_shapes_come_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    for order in ("C", "F"):
        array = np.full(shape, 5, np.int16, order=order)
        np.save(tmp_path / "a.npy", array)
        again = read_npy(tmp_path / "a.npy")
        assert again.shape == shape
        assert np.array_equal(again, array)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_of_numpy_come_back(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "a.npz"
    arrays = {dtype.strip("<>?"): np.arange(30).reshape(5, 6).astype(dtype) for dtype in DTYPES}
    save(path, **arrays)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes.txt", "no array")
    again = read_npz(path)
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        assert np.array_equal(again[name], array)


@given(data=st.data())
def test_what_we_write_numpy_reads_and_so_do_we(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    array = data.draw(hnp.arrays(st.sampled_from(["u1", "i4", "f4"]), hnp.array_shapes()))
    array = array.T if data.draw(st.booleans()) else array
    folder = tmp_path_factory.getbasetemp()
    write_npy(folder / "w.npy", array)
    write_npz(folder / "w.npz", {"one": array, "two": array[..., None]})
    for again in (
        np.load(folder / "w.npy"),
        read_npy(folder / "w.npy"),
        np.load(folder / "w.npz")["one"],
        read_npz(folder / "w.npz")["two"][..., 0],
    ):
        assert np.array_equal(again, array, equal_nan=array.dtype.kind == "f")


def test_results_carry_their_record_and_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    array = np.arange(6)
    for number in range(2):
        write_npy(tmp_path / f"{number}.npy", array, record="made so")
        write_npz(tmp_path / f"{number}.npz", {"a": array}, record="made so")
    for suffix in ("npy", "npz"):
        first, second = tmp_path / f"0.{suffix}", tmp_path / f"1.{suffix}"
        assert first.read_bytes() == second.read_bytes()
        assert read_record(first) == "made so"
        assert is_whole(first)


def test_objects_are_neither_read_nor_written(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}, None], object)
    (tmp_path / "o.npy").write_bytes(npy_bytes(objects))
    check_error(tmp_path / "o.npy", "Python objects")
    np.savez(tmp_path / "o.npz", a=objects)
    check_error(tmp_path / "o.npz", "Python objects")
    with pytest.raises(ValueError, match="Object arrays"):
        write_npy(tmp_path / "w.npy", objects)
    with pytest.raises(ValueError, match="Object arrays"):
        write_npz(tmp_path / "w.npz", {"a": objects})
    assert not (tmp_path / "w.npy").exists()
    assert not (tmp_path / "w.npz").exists()


@pytest.mark.parametrize("dtype", [[("a", "i4")], "M8[s]", "V3"])
def test_types_that_are_no_numbers_are_named(tmp_path: Path, dtype: Any) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3, dtype))
    check_error(tmp_path / "a.npy", "save plain numbers")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "not a NumPy array"),
        (b"\x93NUMPY", "not a NumPy array"),
        (b"\x93NUMPY\x04\x00" + bytes(80), "not a NumPy array"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "header of 4294967295 bytes"),
        (header_bytes("("), "no header"),
        (header_bytes("(" * 9000), "no header"),
        (header_bytes("-" * 60_000 + "1"), "no header"),
        (header_bytes("\\xff"), "no header"),
        (header_bytes("[]"), "no header"),
        (header_bytes("{'descr': '<i4', 'shape': (3,)}"), "no header"),
        (header_bytes("{'descr': '<i4', 'shape': (-3,), 'fortran_order': False}"), "header"),
        (header_bytes("{'descr': '<i4', 'shape': (True,), 'fortran_order': False}"), "header"),
        (header_bytes("{'descr': '<i4', 'shape': 3, 'fortran_order': False}"), "header"),
        (header_bytes("{'descr': '<i4', 'shape': (3,), 'fortran_order': 0}"), "header"),
        (header_bytes("{'descr': '<i3', 'shape': (3,), 'fortran_order': False}"), "plain"),
        (header_bytes("{'descr': 3, 'shape': (3,), 'fortran_order': False}"), "plain"),
        (header_bytes("{'descr': '<i4', 'shape': (3,), 'fortran_order': False}"), "promises 12"),
        (
            header_bytes("{'descr': '<i4', 'shape': (1,), 'fortran_order': False}", bytes(5)),
            "promises 4 bytes, 5 are",
        ),
        (
            header_bytes("{'descr': '<f8', 'shape': (9" + "9" * 20 + ",), 'fortran_order': False}"),
            "once unpacked",
        ),
        (
            header_bytes(f"{{'descr': '<i4', 'shape': (0, {10**30}), 'fortran_order': False}}"),
            "broken NumPy array (shape",
        ),
        (
            header_bytes(f"{{'descr': '|i1', 'shape': {(1,) * 99}, 'fortran_order': False}}", b"1"),
            "broken NumPy array (shape",
        ),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "broken.npy"
    path.write_bytes(content)
    check_error(path, text)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    check_error(tmp_path / "none.npy", "no such file")
    check_error(tmp_path / "none.npz", "no such file")
    (tmp_path / "folder.npz").mkdir()
    check_error(tmp_path / "folder.npz", "can't be read")


def test_odd_archives_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"text")
    check_error(path, "broken or truncated .npz file")
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("a.npy", npy_bytes(np.zeros(3)))
        check_error(path, "'a' is compressed in an unusual way")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", "text")
    check_error(path, "'a': not a NumPy array")
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        content[content.find(signature) + place] |= 1
    path.write_bytes(content)
    check_error(path, "encrypted")


def peak_of(path: Path, text: str, **options: int) -> int:
    tracemalloc.start()
    try:
        check_error(path, text, **options)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def zip_bomb(path: Path, header: bytes, declared: int | None = None) -> None:
    """64 MiB of zeros behind a header, in 64 KiB; `declared` for the size that the archive says."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("a.npy", header + bytes(64 << 20))
        size = archive.infolist()[0].file_size
    if declared is not None:
        path.write_bytes(
            path.read_bytes().replace(struct.pack("<I", size), struct.pack("<I", declared))
        )


def test_zip_bombs_take_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    honest = header_bytes(f"{{'descr': '|u1', 'shape': ({64 << 20},), 'fortran_order': False}}")
    small = header_bytes("{'descr': '|u1', 'shape': (8,), 'fortran_order': False}")
    zip_bomb(path, honest)
    assert peak_of(path, "once unpacked", limit_bytes=16 << 20) < 1 << 20
    zip_bomb(path, small)
    assert peak_of(path, "promises 8 bytes") < 1 << 20
    # A size that lies: the stream goes on, the array doesn't.
    zip_bomb(path, small, declared=len(small) + 8)
    assert peak_of(path, "Bad CRC-32") < 1 << 20
    zip_bomb(path, honest, declared=8)
    assert peak_of(path, "Bad CRC-32") < 1 << 20


def sample(suffix: str) -> bytes:
    file = io.BytesIO()
    array = np.arange(60, dtype=np.float32).reshape(3, 20)
    if suffix == ".npy":
        np.save(file, array)
    else:
        np.savez_compressed(file, a=array, b=array > 3)
    return file.getvalue()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@given(data=st.data())
@settings(max_examples=300)
def test_any_bytes_give_arrays_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, fuzzed: Fuzzed, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzzed{suffix}"
    path.write_bytes(data.draw(fuzzed(sample(suffix))))
    try:
        read_npz(path, limit_bytes=1 << 20) if suffix == ".npz" else read_npy(path)
    except FileFormatError as error:
        message = str(error)
    else:
        return
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


@given(text=st.text(max_size=60))
@example("{'\\d': 0}")
def test_any_header_gives_our_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "header.npy"
    path.write_bytes(header_bytes(text))
    check_error(path, "NumPy array")
