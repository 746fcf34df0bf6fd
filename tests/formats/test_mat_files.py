from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from segfix.errors import FileFormatError
from segfix.formats.mat_files import read_mat, write_mat

Fuzzed = Callable[[bytes], st.SearchStrategy[bytes]]
DTYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "?")
HEADER = b"MATLAB 5.0".ljust(124) + b"\x00\x01IM"


def saved(variables: dict[str, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, variables, **options)
    return file.getvalue()


def check_error(path: Path, text: str, **options: int) -> None:
    with pytest.raises(FileFormatError) as caught:
        read_mat(path, **options)
    assert str(caught.value).startswith(f"{path}: ")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_scipy_come_back(tmp_path: Path, dtype: str, compressed: bool) -> None:
    array = (np.arange(24).reshape(2, 3, 4) % 3).astype(dtype)
    path = tmp_path / "a.mat"
    variables = {"a": array, "b" * 31: array[0], "one": array[:1, 0, 0], "none": array[:0]}
    path.write_bytes(saved({**variables, "text": "γ ≤ 1"}, do_compression=compressed))
    again = read_mat(path)
    assert str(again.pop("text")) == "γ ≤ 1"
    loaded = scipy.io.loadmat(path)
    assert again.keys() == variables.keys()
    for name, value in again.items():
        assert np.array_equal(value, loaded[name])
        assert value.dtype.isnative


def element(kind: int, data: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "II", kind, len(data)) + data + bytes(-len(data) % 8)


def packed(content: bytes) -> bytes:
    data = zlib.compress(content, 9)
    return struct.pack("<II", 15, len(data)) + data


def variable(
    shape: tuple[int, ...] = (1, 2),
    data: bytes = b"\1\2",
    *,
    kind: int = 8,
    stored: int = 1,
    order: str = "<",
) -> bytes:
    body = element(6, struct.pack(order + "II", kind, 0), order)
    body += element(5, struct.pack(f"{order}{len(shape)}i", *shape), order)
    body += element(1, b"mat", order) + element(stored, data, order)
    return element(14, body, order)


def test_both_byte_orders_and_numbers_stored_in_a_smaller_type(tmp_path: Path) -> None:
    # As MATLAB saves small integers that are doubles.
    path = tmp_path / "a.mat"
    path.write_bytes(HEADER + variable((1, 2), struct.pack("<2h", 3, -2), kind=6, stored=3))
    assert read_mat(path)["mat"].tolist() == [[3, -2]]
    swapped = b"MATLAB 5.0".ljust(124) + b"\x01\x00MI"
    path.write_bytes(
        swapped + variable((2, 1), struct.pack(">2h", 3, -2), kind=10, stored=3, order=">")
    )
    assert read_mat(path)["mat"].tolist() == [[3], [-2]]
    path.write_bytes(HEADER + variable((1, 2), "aβ".encode("utf-16-le"), kind=4, stored=4))
    assert str(read_mat(path)["mat"]) == "aβ"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.array([[1, "text"]], object), "a cell array"),
        ({"a": 1}, "a struct"),
        (scipy.sparse.csc_array(np.eye(3)), "a sparse matrix"),
        (np.ones((2, 2), complex), "no array of real numbers"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_what_is_no_array_of_numbers_is_named(
    tmp_path: Path, value: object, text: str, compressed: bool
) -> None:
    path = tmp_path / "a.mat"
    path.write_bytes(saved({"mat": value}, do_compression=compressed))
    check_error(path, f"'mat' is {text}, which isn't read")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "not a .mat file"),
        (b"text", "not a .mat file"),
        (bytes(500), "level 4"),
        (saved({"mat": np.ones((3, 4))}, format="4").ljust(128), "level 4"),
        (b"MATLAB 7.3 MAT-file, Platform".ljust(600), "save it with -v7"),
        (b"\x89HDF\r\n\x1a\n" + bytes(200), "save it with -v7"),
        (HEADER + b"1234", "broken or truncated"),
        (HEADER + element(9, bytes(8)), "element of type 9"),
        (HEADER + element(15, b"no zlib data"), "broken or truncated"),
        (HEADER + packed(b""), "broken or truncated"),
        (HEADER + packed(element(15, bytes(8))), "element of type 15"),
        (HEADER + element(15, zlib.compress(variable())[:-6]), "as long as it says"),
        (HEADER + packed(variable()[:-8]), "as long as it says"),
        (HEADER + struct.pack("<II", 14, 2**32 - 1), "ends early"),
        (HEADER + element(14, b""), "ends early"),
        (HEADER + variable((1, 3)), "shape (1, 3) in 2 bytes"),
        (HEADER + variable((2**31 - 1,) * 30), "in 2 bytes"),
        (HEADER + variable((-1, -2)), "shape (-1, -2)"),
        (HEADER + variable((1,) * 99, b"\1"), "broken or truncated"),
        (HEADER + variable(stored=14), "numbers of type 14"),
        (HEADER + variable(kind=4, stored=9), "broken or truncated"),
        (HEADER + variable((1, 1), b"\xff", kind=4, stored=16), "broken or truncated"),
        (HEADER + variable(kind=17), "no array of real numbers"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "broken.mat"
    path.write_bytes(content)
    check_error(path, text)


def test_missing_files_are_named(tmp_path: Path) -> None:
    check_error(tmp_path / "none.mat", "no such file")


def test_what_is_packed_small_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.mat"
    for bomb, text in (
        (variable((64 << 20, 1), bytes(64 << 20)), "once unpacked"),
        (struct.pack("<II", 14, 48) + bytes(64 << 20), "as long as it says"),
    ):
        path.write_bytes(HEADER + packed(bomb))
        assert path.stat().st_size < 80_000
        tracemalloc.start()
        check_error(path, text, limit_bytes=1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()
    # As many axes as there are pixels elsewhere, whose product would have millions of digits.
    path.write_bytes(HEADER + packed(variable((2,) * (1 << 20))))
    tracemalloc.start()
    check_error(path, "1048576 axes")
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    # Many small ones add up.
    path.write_bytes(HEADER + packed(variable((1 << 18, 1), bytes(1 << 18))) * 5)
    check_error(path, "once unpacked", limit_bytes=1 << 20)
    assert read_mat(path, limit_bytes=2 << 20)["mat"].shape == (1 << 18, 1)


def test_what_we_write_scipy_reads_and_so_do_we(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.mat"
    array = np.arange(24, dtype=np.int8).reshape(3, 4, 2)
    write_mat(path, {"mat": array, "text": "{}"}, record="made so")
    assert np.array_equal(scipy.io.loadmat(path)["mat"], array)
    again = read_mat(path)
    assert np.array_equal(again["mat"], array)
    assert again["mat"].dtype == np.int8
    assert str(again["text"]) == "{}"


@pytest.mark.parametrize("compressed", [False, True])
@given(data=st.data())
@settings(max_examples=300)
def test_any_bytes_give_arrays_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, compressed: bool, fuzzed: Fuzzed, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.mat"
    variables = {"mat": np.ones((5, 6, 2), np.int16), "text": "abc"}
    path.write_bytes(data.draw(fuzzed(saved(variables, do_compression=compressed))))
    try:
        read_mat(path, limit_bytes=1 << 20)
    except FileFormatError as error:
        message = str(error)
    else:
        return
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
