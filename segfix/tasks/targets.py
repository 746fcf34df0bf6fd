"""From label maps to ground-truth offset map files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segfix.errors import SegfixError
from segfix.files import Entry
from segfix.files.provenance import content_digest
from segfix.formats import OffsetMap, read_label_map
from segfix.geometry import make_targets
from segfix.jobs.run import check_output, png_path
from segfix.tasks.predict_offsets import write_row


def target_file(
    labels: Entry,
    out: Path,
    *,
    num_directions: int,
    boundary_width: int,
    ignore_index: int,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Make the ground-truth offset map of one label map file; see `predict_file`."""
    if labels.problem:
        raise SegfixError(labels.problem)
    path = png_path(labels, out)
    source = {
        "labels": content_digest(labels.path),
        "num_directions": num_directions,
        "boundary_width": boundary_width,
        "ignore_index": ignore_index,
    }
    check_output(path, {"source": source}, ("source",), overwrite)
    targets = make_targets(
        read_label_map(labels.path).ids(),
        num_directions=num_directions,
        boundary_width=boundary_width,
        ignore_index=ignore_index,
    )
    offset_map = OffsetMap.encode(
        targets.boundary_map == 1,
        targets.direction_map,
        num_directions=num_directions,
        lowest_confidence=1.0,
        num_levels=1,
        boundary_width=boundary_width,
        source=source,
    )
    return write_row(labels.path, path, offset_map)
