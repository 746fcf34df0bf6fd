"""Convert offset maps from one file format to another."""

from __future__ import annotations

from functools import partial

from segfix.files import Entry
from segfix.files.provenance import CONVERTED_KEY, content_digest
from segfix.formats import read_offset_map, write_offset_map
from segfix.jobs.task import Output, Row, Task
from segfix.tasks.predict_offsets import count_pixels


def convert_task(suffix: str) -> Task[Entry]:
    """Make the task of writing offset map files in another format.

    Args:
        suffix: File name ending of the format, with its dot.
    """
    return Task(convert_file, "map", partial(_name, suffix), processes=True, takes="offset map")


def _name(suffix: str, offsets: Entry) -> str:
    return offsets.stem + suffix


def convert_file(offsets: Entry, output: Output) -> Row:
    """Write one offset map file in the format that the output's name tells.

    Returns:
        The number of pixels and of those on a boundary.
    """
    record = {CONVERTED_KEY: content_digest(offsets.path)}
    output.check(record)
    offset_map = read_offset_map(offsets.path)
    write_offset_map(output.path, offset_map, record=record)
    return count_pixels(offset_map)
