"""Codec of offset maps in every format: PNG, the released .mat, .npz, optical flow's .flo."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from segfix.errors import FileFormatError
from segfix.files.limits import check_bytes, check_pixels
from segfix.files.provenance import RECORD_KEY, recorded_path
from segfix.formats.arguments import as_path, check_offset_map
from segfix.formats.arrays import open_bytes, read_npz, write_npz
from segfix.formats.mat_files import read_mat, write_mat
from segfix.formats.offset_maps import (
    OffsetMap,
    metadata_record,
    parse_metadata,
    read_offset_png,
    write_offset_png,
)
from segfix.geometry import UNDEFINED, unit_offsets

VECTORS_KEY = "mat"
"""Name of the vectors in released files: (H, W, 2), rows first."""
CODES_KEY = "codes"
FLOW_MAGIC = b"PIEH"

_Value = TypeVar("_Value")


def read_offset_map(path: Path | str) -> OffsetMap:
    """Read an offset map of any format, told by the file name ending.

    Args:
        path: .png, .mat, .npz: what `write_offset_map` made comes back as it was. Other .mat and
            .npz: vectors (rows, columns) in pixels named "mat", or the only array, of any numeric
            type, (H, W, 2) or (2, H, W). .flo: vectors (x, y). The vectors are the eight
            neighbours (read as m = 8) or end on the ring at Chebyshev radius 2 (m = 16), (0, 0)
            off the boundary; confidence is 1 everywhere.

    Raises:
        TypeError: `path` is none.
        FileFormatError: The file is missing, broken, or no offset map of a version we know.
    """
    path = as_path(path, "path")
    return pick_by_suffix(READERS, path)(path)


def write_offset_map(
    path: Path | str, offset_map: OffsetMap, *, record: Mapping[str, Any] | None = None
) -> None:
    """Write an offset map, atomically, in the format that the file name ending tells.

    Args:
        path: .png, .mat and .npz hold all of it, and the latter two vectors as the released code
            reads them; .flo holds the vectors alone.
        offset_map: Codes and metadata.
        record: What `read_record` gives back, for a PNG file beside the metadata.

    Raises:
        TypeError: `path` is none, or `offset_map` no offset map.
        FileFormatError: The file can't be written, or the ending is another.
    """
    path = as_path(path, "path")
    check_offset_map(offset_map)
    pick_by_suffix(WRITERS, path)(path, offset_map, record)


def pick_by_suffix(table: Mapping[str, _Value], path: Path) -> _Value:
    """Pick the entry of a table by a path's file name ending."""
    try:
        return table[path.suffix.lower()]
    except KeyError as error:
        raise FileFormatError(
            f"{path}: not an offset map; expected a file name ending in {', '.join(table)}."
        ) from error


def parse_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> OffsetMap:
    """Parse the offset map in a file's arrays: one of ours, or vectors alone."""
    if arrays.keys() >= {VECTORS_KEY, CODES_KEY, RECORD_KEY}:
        text = str(arrays[RECORD_KEY])
        offset_map = parse_metadata(path, arrays[CODES_KEY], text, what="arrays")
        if not np.array_equal(arrays[VECTORS_KEY], released_vectors(offset_map)):
            raise FileFormatError(
                f"{path}: its vectors have changed, its {CODES_KEY!r} haven't; make it again, or "
                f"save {VECTORS_KEY!r} alone."
            )
        return offset_map
    if VECTORS_KEY not in arrays and len(arrays) != 1:
        names = ", ".join(repr(name[:40]) for name in list(arrays)[:4]) or "nothing"
        raise FileFormatError(
            f"{path}: no offset map (it holds {names}); name the vectors {VECTORS_KEY!r}."
        )
    vectors = arrays[VECTORS_KEY if VECTORS_KEY in arrays else next(iter(arrays))]
    if vectors.ndim == 3 and vectors.shape[2] == 2:
        vectors = np.moveaxis(vectors, 2, 0)
    return encode_vectors(path, vectors)


def encode_vectors(path: Path, vectors: NDArray[Any]) -> OffsetMap:
    """Make the offset map that has these vectors, with confidence 1 everywhere.

    Args:
        path: Of the file, for messages.
        vectors: (2, H, W) numbers, pixels, rows first.

    Raises:
        FileFormatError: It is another shape, or they are other vectors.
    """
    if (
        vectors.ndim != 3
        or len(vectors) != 2
        or not vectors.size
        or vectors.dtype.kind not in "iuf"
    ):
        raise FileFormatError(
            f"{path}: {vectors.dtype} of shape {vectors.shape}; expected offsets as numbers of "
            "shape (height, width, 2)."
        )
    # Comparisons are false for NaN.
    if not ((vectors >= -2) & (vectors <= 2)).all():
        raise vectors_error(path)
    steps = vectors.astype(np.int8)
    if not (steps == vectors).all():
        raise vectors_error(path)
    radius = np.abs(steps).max(axis=0)
    num_directions = 16 if (radius == 2).any() else 8
    sectors = np.full((5, 5), UNDEFINED, np.uint8)
    dy, dx = unit_offsets(num_directions).T
    sectors[dy, dx] = np.arange(num_directions)
    direction_map = sectors[steps[0], steps[1]]
    if (radius[direction_map == UNDEFINED] != 0).any():
        raise vectors_error(path)
    return OffsetMap.encode(
        radius > 0,
        direction_map,
        num_directions=num_directions,
        lowest_confidence=1.0,
        num_levels=1,
    )


def vectors_error(path: Path) -> FileFormatError:
    """Make the error for vectors that aren't those of SegFix."""
    return FileFormatError(
        f"{path}: its vectors are no offsets of SegFix; expected steps to the eight neighbours or "
        "to the ring at distance 2, in pixels, not scaled."
    )


def released_vectors(offset_map: OffsetMap) -> NDArray[np.int8]:
    """Return the vectors as released files hold them: (H, W, 2) int8."""
    return np.ascontiguousarray(np.moveaxis(offset_map.vectors(), 0, 2))


def read_flow(path: Path) -> OffsetMap:
    """Read an offset map from a .flo file."""
    with open_bytes(path) as file:
        start = file.read(12)
        if len(start) < 12 or start[:4] != FLOW_MAGIC:
            raise FileFormatError(f"{path}: not a .flo file; replace it.")
        width, height = struct.unpack("<ii", start[4:])
        nbytes = 8 * max(width, 0) * max(height, 0)
        left = file.seek(0, 2) - len(start)
        if nbytes != left:
            raise FileFormatError(
                f"{path}: broken or truncated .flo file ({width}×{height} in {left} bytes); "
                "replace the file."
            )
        check_bytes(nbytes, path)
        check_pixels((height, width), path)
        file.seek(len(start))
        flow = np.frombuffer(file.read(), "<f4")
    return encode_vectors(path, np.moveaxis(flow.reshape(height, width, 2)[..., ::-1], 2, 0))


def write_flow(path: Path, offset_map: OffsetMap, record: Mapping[str, Any] | None) -> None:
    """Write the vectors of an offset map as a .flo file."""
    height, width = offset_map.codes.shape
    flow = released_vectors(offset_map)[..., ::-1].astype("<f4")
    with recorded_path(path, dump_record(record)) as temporary:
        temporary.write_bytes(FLOW_MAGIC + struct.pack("<ii", width, height) + flow.tobytes())


def to_arrays(offset_map: OffsetMap) -> dict[str, NDArray[Any]]:
    """Return the arrays that our .mat and .npz files hold, by name."""
    return {
        VECTORS_KEY: released_vectors(offset_map),
        CODES_KEY: offset_map.codes,
        RECORD_KEY: np.array(json.dumps(metadata_record(offset_map), sort_keys=True)),
    }


def dump_record(record: Mapping[str, Any] | None) -> str | None:
    """Convert a record to JSON, as `recorded_path` takes it."""
    return None if record is None else json.dumps(record, sort_keys=True)


READERS: dict[str, Callable[[Path], OffsetMap]] = {
    ".png": read_offset_png,
    ".mat": lambda path: parse_arrays(path, read_mat(path)),
    ".npz": lambda path: parse_arrays(path, read_npz(path)),
    ".flo": read_flow,
}
WRITERS: dict[str, Callable[[Path, OffsetMap, Mapping[str, Any] | None], None]] = {
    ".png": write_offset_png,
    ".mat": lambda path, offset_map, record: write_mat(
        path, to_arrays(offset_map), record=dump_record(record)
    ),
    ".npz": lambda path, offset_map, record: write_npz(
        path, to_arrays(offset_map), record=dump_record(record)
    ),
    ".flo": write_flow,
}
OFFSET_SUFFIXES = tuple(READERS)
"""File name endings of offset maps."""
