"""Shapes that LabelMe and CVAT hold together by a group are one object."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.cli import commands

shapely = pytest.importorskip(
    "shapely", reason="needs the extra: pip install 'segfix-refine[polygons]'"
)

from tests.cli.refine_instances.instance_files import Mask, box, out_of, refined  # noqa: E402
from tests.cli.refine_instances.tool_files import (  # noqa: E402
    Shape,
    corners,
    mask_of,
    read_shapes,
    write_cvat,
    write_labelme,
    write_text,
)

run = partial(commands.run, "refine")
Write = Callable[[list[Shape], list[int]], Path]


def labelme(shapes: list[Shape], groups: list[int]) -> Path:
    path = write_labelme(shapes)
    document = json.loads(path.read_text(encoding="utf-8"))
    for shape, group in zip(document["shapes"][1:-1], groups, strict=True):
        shape["group_id"] = group or None
    return write_text(path, json.dumps(document))


def cvat(shapes: list[Shape], groups: list[int]) -> Path:
    path, numbers = write_cvat(shapes), iter(groups)
    text = re.sub(
        r"<(polygon|mask) ",
        lambda found: f'<{found[1]} group_id="{next(numbers)}" ',
        path.read_text(encoding="utf-8"),
    )
    return write_text(path, text)


every_tool = pytest.mark.parametrize("write", [labelme, cvat])


def masks(path: Path) -> list[Mask]:
    return [mask_of(shape) for shape in read_shapes(path)]


@every_tool
def test_two_halves_of_one_object_keep_the_border_that_they_have_in_common(write: Write) -> None:
    halves: list[Shape] = [corners(9, 12, 16, 9), corners(9, 21, 16, 9)]
    rivals: list[Shape] = [corners(6, 33, 20, 9), corners(6, 42, 20, 12)]
    path = write([*halves, *rivals], [5, 5, 0, 0])
    assert run(path, "--simplify", 0).exit_code == 0
    after = masks(out_of(path))
    whole = mask_of(halves[0]) | mask_of(halves[1])
    assert np.array_equal(after[0] | after[1], refined(whole))
    assert not (after[0] & after[1]).any()
    inside = (slice(12, 20), slice(15, 27))
    for half, old in zip(after[:2], halves, strict=True):
        assert np.array_equal(half[inside], mask_of(old)[inside])
    shared = [{tuple(point) for point in shape} for shape in read_shapes(out_of(path))[:2]]
    assert len(shared[0] & shared[1]) >= 2


@every_tool
def test_parts_apart_stay_parts_and_those_that_overlap_go_on_doing_so(write: Write) -> None:
    shapes: list[Shape] = [corners(9, 12, 16, 12), corners(9, 18, 16, 12), corners(6, 33, 20, 21)]
    path = write(shapes, [1, 1, 1])
    assert "3 of 3 instances changed" in run(path, "--simplify", 0).stdout
    after, before = masks(out_of(path)), [mask_of(shape) for shape in shapes]
    whole = refined(before[0] | before[1] | before[2])
    assert np.array_equal(after[0] | after[1] | after[2], whole)
    for mask, old in zip(after, before, strict=True):
        assert np.array_equal(mask & old, whole & old)
    assert not (after[2] & (after[0] | after[1])).any()


@every_tool
def test_masks_of_a_group_are_one_object(write: Write) -> None:
    shapes: list[Shape] = [box(9, 12, 16, 9), box(9, 21, 16, 9)]
    path = write(shapes, [2, 2])
    assert run(path).exit_code == 0
    after = masks(out_of(path))
    assert np.array_equal(after[0] | after[1], refined(mask_of(shapes[0]) | mask_of(shapes[1])))


@every_tool
def test_other_labels_and_other_groups_are_other_objects(write: Write) -> None:
    halves: list[Shape] = [corners(9, 12, 16, 9), corners(9, 21, 16, 9)]
    alone = write(halves, [0, 0])
    run(alone, "-o", "alone")
    path = write(halves, [1, 1])
    text = path.read_text(encoding="utf-8")
    label = text.rindex('"car"', 0, text.rindex("points")) + 1
    run(write_text(path, text[:label] + "bus" + text[label + 3 :]), "-o", "labels")
    run(write(halves, [1, 2]), "-o", "groups")
    expected = masks(Path("alone", path.name))
    for folder in ("labels", "groups"):
        assert np.array_equal(masks(Path(folder, path.name)), expected)


def test_a_part_of_which_nothing_is_left_stays_or_is_left_out() -> None:
    shapes: list[Shape] = [corners(8, 9, 16, 1), corners(6, 33, 20, 21)]
    path = labelme(shapes, [4, 4])
    assert "1 instance would have vanished and stays as it was" in run(path).stdout
    assert np.array_equal(masks(out_of(path))[0], mask_of(shapes[0]))
    run(path, "--empty", "drop", "-o", "left")
    assert len(read_shapes(Path("left", path.name))) == 1
