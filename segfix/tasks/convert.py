"""Offset maps from one file format to another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segfix.errors import SegfixError
from segfix.files import Entry
from segfix.files.provenance import content_digest
from segfix.formats import read_offset_map, write_offset_map
from segfix.formats.offset_maps import CONVERTED_KEY
from segfix.jobs.run import check_output, output_path


def convert_file(
    offsets: Entry, out: Path, suffix: str, *, overwrite: bool = False
) -> dict[str, Any]:
    """Write one offset map file in another format.

    Args:
        offsets: The offset map.
        out: Folder of the result, named after the offset map.
        suffix: File name ending of the format, with its dot.
        overwrite: Whether to replace an existing result.

    Returns:
        The paths, the number of pixels and of those on a boundary.

    Raises:
        Skipped: The result is there already.
        SegfixError: The offset map is missing or broken.
    """
    if offsets.problem:
        raise SegfixError(offsets.problem)
    path = output_path(out, offsets.stem, suffix)
    record = {CONVERTED_KEY: content_digest(offsets.path)}
    check_output(path, record, record, overwrite)
    offset_map = read_offset_map(offsets.path)
    write_offset_map(path, offset_map, record=record)
    return {
        "input": str(offsets.path),
        "output": str(path),
        "pixels": offset_map.codes.size,
        "boundary": int((offset_map.codes > 0).sum()),
    }
