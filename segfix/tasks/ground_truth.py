"""Make ground-truth offset map files from label maps."""

from __future__ import annotations

from functools import partial

from segfix.files import Entry
from segfix.files.provenance import content_digest
from segfix.formats import OffsetMap, read_label_map, write_offset_map
from segfix.geometry import make_targets
from segfix.jobs.task import Output, Row, Task
from segfix.tasks.predict_offsets import count_pixels


def target_task(*, num_directions: int, boundary_width: int, ignore_index: int) -> Task[Entry]:
    """Make the task of making ground-truth offset maps; see `segfix.geometry.make_targets`."""
    settings = {
        "num_directions": num_directions,
        "boundary_width": boundary_width,
        "ignore_index": ignore_index,
    }
    work = partial(target_file, settings=settings)
    return Task(work, "map", processes=True, takes="label map")


def target_file(labels: Entry, output: Output, settings: dict[str, int]) -> Row:
    """Make the ground-truth offset map of one label map file.

    Returns:
        The number of pixels and of those on a boundary.
    """
    source = {"labels": content_digest(labels.path), **settings}
    output.check({"source": source})
    targets = make_targets(read_label_map(labels.path).ids(), **settings)
    offset_map = OffsetMap.encode(
        targets.boundary_map == 1,
        targets.direction_map,
        num_directions=settings["num_directions"],
        lowest_confidence=1.0,
        num_levels=1,
        boundary_width=settings["boundary_width"],
        source=source,
    )
    write_offset_map(output.path, offset_map)
    return count_pixels(offset_map)
