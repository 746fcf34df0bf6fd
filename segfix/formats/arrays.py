"""Codec of NumPy's array files (.npy, .npz): memory is bounded, nothing is unpickled."""

from __future__ import annotations

import ast
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import FileFormatError, one_line
from segfix.files.foreign import name_foreign
from segfix.files.limits import check_bytes, check_pixels
from segfix.files.provenance import recorded_path
from segfix.files.reading import check_regular

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 1 << 16
CHUNK = 1 << 20

ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,
    NotImplementedError,
)
"""Raised by zipfile and its decoders on broken or hostile files."""


def read_npy(path: Path, *, limit_bytes: int | None = None, hollow: bool = False) -> NDArray[Any]:
    """Read the array of a .npy file.

    Args:
        path: A file as `np.save` writes it, of format version 1, 2 or 3 and either order.
        limit_bytes: The most that the array may take; None: `Limits.max_bytes`.
        hollow: Whether to read no more than shape and type: the array is of zeros, and takes no
            memory.

    Returns:
        A new array of booleans, numbers or text, in this machine's byte order.

    Raises:
        FileFormatError: The file is missing, no array file, not as long as its header says, too
            large, or it holds Python objects.
    """
    with open_bytes(path) as file:
        foreign = None if file.read(len(MAGIC)) == MAGIC else name_foreign(path)
        if foreign:
            raise FileFormatError(f"{path}: not a NumPy array, but {'; '.join(foreign)}.")
        size = file.seek(0, 2)
        file.seek(0)
        return read_array(file, size, limit_bytes, f"{path}", hollow=hollow)


def read_npz(
    path: Path, *, limit_bytes: int | None = None, hollow: bool = False
) -> dict[str, NDArray[Any]]:
    """Read the arrays of a .npz file, stored or deflated.

    Args:
        path: A file as `np.savez` or `np.savez_compressed` writes it.
        limit_bytes: The most that all arrays together may take; None: `Limits.max_bytes`.
        hollow: See `read_npy`.

    Returns:
        By name, as `read_npy` gives them. Members that are no arrays are passed over.

    Raises:
        FileFormatError: As `read_npy`.
    """
    with open_bytes(path) as file:
        foreign = None if file.read(2) == b"PK" else name_foreign(path)
        if foreign:
            raise FileFormatError(f"{path}: not an .npz file, but {'; '.join(foreign)}.")
        try:
            with zipfile.ZipFile(file) as archive:
                members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
                check_bytes(sum(info.file_size for info in members), path, limit_bytes)
                arrays = {}
                for info in members:
                    name = info.filename.removesuffix(".npy")
                    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        raise FileFormatError(
                            f"{path}: {name!r} is compressed in an unusual way; save it again "
                            "with np.savez_compressed."
                        )
                    with archive.open(info) as member:
                        where = f"{path}: {name!r}"
                        arrays[name] = read_array(
                            member, info.file_size, limit_bytes, where, hollow=hollow
                        )
        except ZIP_ERRORS as error:
            reason = one_line(error) or type(error).__name__
            raise FileFormatError(
                f"{path}: broken or truncated .npz file ({reason}); replace the file."
            ) from error
    return arrays


def write_npy(path: Path, array: NDArray[Any], *, record: str | None = None) -> None:
    """Write an array as .npy, atomically; `record` as `recorded_path` takes it."""
    with recorded_path(path, record) as temporary, temporary.open("wb") as file:
        # NumPy's own way into real files, `tofile`, may lose the last bytes on a full disk and say
        # nothing, so it isn't shown that this is one.
        hidden: Any = SimpleNamespace(write=file.write)
        np.lib.format.write_array(hidden, array, allow_pickle=False)


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]], *, record: str | None = None) -> None:
    """Write named arrays as deflated .npz, atomically; `record` as `recorded_path` takes it."""
    with (
        recorded_path(path, record) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name, array in arrays.items():
            # The length isn't known before, hence zip64 at once.
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to read bytes; an `OSError` inside becomes a `FileFormatError` that names it."""
    check_regular(path)
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise FileFormatError(f"{path}: no such file.") from error
    except OSError as error:
        raise FileFormatError(f"{path}: can't be read ({error.strerror or error}).") from error


def read_array(
    file: IO[bytes], size: int, limit_bytes: int | None, name: str, *, hollow: bool = False
) -> NDArray[Any]:
    """Read the array in the next `size` bytes of a file; `name` begins the messages."""
    start = file.read(len(MAGIC) + 2)
    if start[: len(MAGIC)] != MAGIC or len(start) < len(MAGIC) + 2 or start[-2] not in (1, 2, 3):
        raise FileFormatError(f"{name}: not a NumPy array; write one with np.save.")
    width = 2 if start[-2] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > LONGEST_HEADER:
        raise FileFormatError(f"{name}: broken NumPy array (header of {length} bytes); replace it.")
    header = file.read(length)
    dtype, shape, fortran_order = parse_header(header, name)
    nbytes = math.prod(shape) * dtype.itemsize
    check_bytes(nbytes, name, limit_bytes)
    check_pixels(shape, name)
    left = size - len(start) - width - len(header)
    if nbytes != left:
        raise FileFormatError(
            f"{name}: broken or truncated NumPy array (its header promises {nbytes} bytes, "
            f"{left} are there); replace the file."
        )
    if hollow and nbytes:
        return np.broadcast_to(np.zeros((), dtype), shape)
    data = np.empty(nbytes, np.uint8)
    filled = data.data
    while filled:
        got = file.read(min(len(filled), CHUNK))
        if not got:
            raise FileFormatError(f"{name}: truncated NumPy array; replace the file.")
        filled[: len(got)] = got
        filled = filled[len(got) :]
    try:
        array = data.view(dtype) if nbytes else np.empty(math.prod(shape), dtype)
        array = array.reshape(shape, order="F" if fortran_order else "C")
    except (ValueError, OverflowError, MemoryError) as error:
        raise FileFormatError(f"{name}: broken NumPy array (shape {shape}); replace it.") from error
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def parse_header(header: bytes, name: str) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """Parse a .npy header: element type, shape, and whether the first index runs fastest."""
    # Not np.lib.format's readers: odd headers make them warn on the terminal, end in TokenError or
    # IndexError, or pass with axes of -1 or True; for version 3 there is none that is public.
    try:
        if b"\\" in header:
            # Python warns of odd escapes, and no header of ours has any.
            raise ValueError("backslash")
        found = ast.literal_eval(header.decode("utf-8").strip())
        descr, shape, fortran_order = found["descr"], found["shape"], found["fortran_order"]
        valid = (
            isinstance(shape, tuple)
            and all(type(number) is int and number >= 0 for number in shape)
            and isinstance(fortran_order, bool)
        )
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise FileFormatError(f"{name}: broken NumPy array (no header); replace it.") from error
    if not valid:
        raise FileFormatError(f"{name}: broken NumPy array (its header); replace it.")
    try:
        # Nothing but plain types: no objects, no records of several fields.
        if not re.fullmatch(r"[<>|=]?[biufcSU]\d{1,9}", descr):
            raise TypeError(descr)
        return np.dtype(descr), shape, fortran_order
    except TypeError as error:
        kind = "Python objects" if str(descr).strip("|") == "O" else f"type {str(descr)[:40]!r}"
        raise FileFormatError(
            f"{name}: an array of {kind}, which isn't read; save plain numbers."
        ) from error
