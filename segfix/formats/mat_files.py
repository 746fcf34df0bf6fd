"""Codec of MATLAB's .mat files: arrays of numbers, and texts.

Not read by SciPy, which trusts the sizes that such a file declares.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import FileFormatError, one_line
from segfix.files.limits import check_bytes, check_pixels
from segfix.files.provenance import recorded_path
from segfix.formats.arrays import open_bytes

# Codes of the format: types of data elements, and classes of arrays.
MATRIX, COMPRESSED = 14, 15
NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
TEXTS = {1: "utf-8", 2: "utf-8", 16: "utf-8", 4: "utf-16-{}", 17: "utf-16-{}"}
TEXT_CLASS, NUMBER_CLASSES = 4, range(6, 16)
OTHER_CLASSES = {1: "a cell array", 2: "a struct", 3: "an object", 5: "a sparse matrix"}
COMPLEX_FLAG = 1 << 11
HEADER, MOST_AXES = 128, 64
DESCRIPTION = b"MATLAB 5.0 MAT-file, segfix".ljust(116)


def read_mat(path: Path, *, limit_bytes: int | None = None) -> dict[str, NDArray[Any]]:
    """Read the variables of a .mat file of level 5 (MATLAB's -v6 and -v7, SciPy's default).

    Args:
        path: The file.
        limit_bytes: The most that all variables together may take; None: `Limits.max_bytes`.

    Returns:
        By name: arrays of the numeric type that the file holds, texts as arrays without an index.

    Raises:
        FileFormatError: The file is missing, broken, of another level, too large, or it holds
            anything but numbers and texts.
    """
    with open_bytes(path) as file:
        check_bytes(file.seek(0, 2), path, limit_bytes)
        file.seek(0)
        content = memoryview(file.read())
    start = bytes(content[:HEADER])
    if start.startswith((b"MATLAB 7.3", b"\x89HDF")):
        raise FileFormatError(
            f"{path}: a MATLAB 7.3 file (HDF5), which isn't read; save it with -v7."
        )
    if len(start) == HEADER and 0 in start[:4]:
        raise FileFormatError(
            f"{path}: a .mat file of level 4, which can't hold offsets, or none; save it with -v7."
        )
    order = {b"IM": "<", b"MI": ">"}.get(start[126:])
    if order is None:
        raise FileFormatError(f"{path}: not a .mat file; expected one of MATLAB or SciPy.")
    variables = {}
    try:
        for element in unpack_variables(content[HEADER:], order, limit_bytes, path):
            name, array = parse_matrix(element, order, path)
            variables[name] = array
    except (struct.error, ValueError, OverflowError, zlib.error, EOFError) as error:
        reason = one_line(error) or type(error).__name__
        raise FileFormatError(
            f"{path}: broken or truncated .mat file ({reason}); replace the file."
        ) from error
    return variables


def write_mat(
    path: Path, variables: Mapping[str, NDArray[Any] | str], *, record: str | None = None
) -> None:
    """Write variables as compressed .mat, atomically; `record` as `recorded_path` takes it."""
    import scipy.io

    with recorded_path(path, record) as temporary, temporary.open("wb") as file:
        scipy.io.savemat(file, dict(variables), do_compression=True)
        # Without the date that SciPy writes there: equal variables make equal files.
        file.seek(0)
        file.write(DESCRIPTION)


def unpack_variables(
    content: memoryview, order: str, limit_bytes: int | None, path: Path
) -> Iterator[memoryview]:
    """Unpack the bytes of each variable of a file."""
    taken = 0
    while content:
        kind, length = struct.unpack_from(order + "II", content)
        body, content = content[8 : 8 + length], content[8 + length :]
        if len(body) < length:
            raise EOFError("it ends early")
        if kind == COMPRESSED:
            unpacker = zlib.decompressobj()
            kind, length = struct.unpack(order + "II", unpacker.decompress(body, 8))
            check_bytes(taken + length, path, limit_bytes)
            # One byte more would show that there are more than it says.
            body = memoryview(unpacker.decompress(unpacker.unconsumed_tail, length + 1))
            if len(body) != length or not unpacker.eof:
                raise EOFError("a variable isn't as long as it says")
        if kind != MATRIX:
            raise ValueError(f"element of type {kind}")
        taken += len(body)
        yield body


def parse_matrix(content: memoryview, order: str, path: Path) -> tuple[str, NDArray[Any]]:
    """Parse the name and value of one variable."""
    elements = parse_elements(content, order)
    flags = struct.unpack_from(order + "I", take_element(elements)[1])[0]
    sizes = take_element(elements)[1]
    if len(sizes) > 4 * MOST_AXES:
        raise ValueError(f"a variable of {len(sizes) // 4} axes")
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    name = bytes(take_element(elements)[1]).decode("utf-8")
    kind = flags & 255
    if flags & COMPLEX_FLAG or kind not in (TEXT_CLASS, *NUMBER_CLASSES):
        found = OTHER_CLASSES.get(kind, "no array of real numbers")
        raise FileFormatError(
            f"{path}: {name[:40]!r} is {found}, which isn't read; save plain numbers."
        )
    stored, data = take_element(elements)
    if kind == TEXT_CLASS:
        if stored not in TEXTS:
            raise ValueError(f"text of type {stored}")
        encoding = TEXTS[stored].format("le" if order == "<" else "be")
        return name, np.array(bytes(data).decode(encoding))
    if stored not in NUMBERS:
        raise ValueError(f"numbers of type {stored}")
    dtype = np.dtype(order + NUMBERS[stored])
    if min(shape, default=-1) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{name[:40]!r} of shape {shape} in {len(data)} bytes")
    check_pixels(shape, f"{path}: {name[:40]!r}")
    array: NDArray[Any] = np.frombuffer(data, dtype).reshape(shape, order="F")
    return name, array.astype(dtype.newbyteorder("="), copy=False)


def parse_elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Parse the type and data of each element of a variable."""
    while content:
        kind, length = struct.unpack_from(order + "II", content)
        if kind >> 16:
            # Up to 4 bytes take the place of their own length.
            kind, length, start, end = kind & 0xFFFF, kind >> 16, 4, 8
        else:
            start, end = 8, 8 + -(-length // 8) * 8
        data = content[start : start + length]
        if len(data) < length or (start == 4 and length > 4):
            raise EOFError("a variable ends early")
        yield kind, data
        content = content[end:]


def take_element(elements: Iterator[tuple[int, memoryview]]) -> tuple[int, memoryview]:
    """Take the next element; there must be one."""
    for element in elements:
        return element
    raise EOFError("a variable ends early")
