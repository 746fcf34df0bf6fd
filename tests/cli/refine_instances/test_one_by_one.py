"""`segfix refine` on JSON of which some instances are broken, boxes alone, or have parts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segfix import read_offset_map, write_offset_map
from segfix.formats.images import turn_back, turn_upright
from tests.cli.refine_instances.instance_files import (
    FOUND,
    box,
    compressed,
    decoded,
    items_of,
    out_of,
    polygons,
    refined,
    run,
    write_dataset,
    write_json,
    write_results,
    write_ultralytics,
)


def test_a_degenerate_polygon_is_named_by_its_id_and_leaves_the_rest_alone() -> None:
    path = write_dataset(Path("preds"))
    document = json.loads(path.read_text())
    items = document["annotations"]
    items[1]["segmentation"] = [[5, 5, 9, 9]]
    done = run(write_json(path, document))
    assert done.exit_code == 1
    (told,) = (line for line in done.stderr.splitlines() if line.startswith("failed: "))
    assert told.startswith("failed: preds/x.json: image 7: the mask of instance 1 (id 2) is broken")
    assert "no polygon of three points or more" in told
    after = items_of(out_of(path))
    assert after[1] == items[1]
    for place in (0, 2, 3, 4):
        before = decoded(items[place]["segmentation"])
        assert np.array_equal(decoded(after[place]["segmentation"]), refined(before))
    # Told again, until it is mended.
    assert run(path).exit_code == 1
    items[1]["segmentation"] = polygons(FOUND[7][1])
    assert run(write_json(path, document), "--overwrite").exit_code == 0
    assert "0 written, 1 already there" in run(path).stdout


def test_where_all_are_broken_the_image_fails_once() -> None:
    path = write_results(Path("preds"))
    items = items_of(path)
    for item in items[:3]:
        item["segmentation"] = [[5, 5, 9, 9]]
    done = run(write_json(path, items))
    assert done.exit_code == 1
    assert done.stderr.count("failed: ") == 1
    assert items_of(out_of(path))[:3] == items[:3]


def test_boxes_without_masks_stay_and_have_not_vanished() -> None:
    path = write_results(Path("preds"))
    items = items_of(path)
    del items[1]["segmentation"]
    items[2]["segmentation"] = []
    items[3]["segmentation"] = None
    done = run(write_json(path, items))
    assert done.exit_code == 0
    assert "; 3 have no mask" in done.stdout
    assert "vanished" not in done.stdout
    assert items_of(out_of(path))[1:4] == items[1:4]


def test_empty_segments_of_ultralytics_have_not_vanished() -> None:
    path = write_ultralytics(Path("preds"))
    items = items_of(path)
    items[0]["segments"] = {"x": [], "y": []}
    done = run(write_json(path, items))
    assert "; 1 has no mask" in done.stdout
    assert "vanished" not in done.stdout
    assert items_of(out_of(path))[0] == items[0]


def test_broken_segments_among_whole_ones_are_named() -> None:
    path = write_ultralytics(Path("preds"))
    items = items_of(path)
    items[0]["segments"] = {"x": [1, 2, 3], "y": [1]}
    done = run(write_json(path, items))
    assert done.exit_code == 1
    assert "the mask of instance 0 is broken" in done.stderr
    assert items_of(out_of(path))[1] != items[1]


@pytest.mark.parametrize("holes", [False, True])
def test_polygons_with_parts_and_holes_come_back_as_polygons(holes: bool) -> None:
    path = write_dataset(Path("preds"))
    document = json.loads(path.read_text())
    mask = box(8, 10, 16, 18) | box(7, 36, 20, 18)
    outlines = polygons(box(8, 10, 16, 18)) + polygons(box(7, 36, 20, 18))
    if holes:
        mask &= ~box(12, 14, 6, 8)
        # A cut to the hole and back.
        outlines[0] += [10, 8, 14, 12, 14, 18, 22, 18, 22, 12, 14, 12, 10, 8]
    document["annotations"][0]["segmentation"] = outlines
    assert np.array_equal(decoded(outlines), mask)
    assert run(write_json(path, document), "--simplify", 0).exit_code == 0
    after = items_of(out_of(path))[0]
    expected = refined(mask)
    assert not np.array_equal(expected, mask)
    assert all(value == int(value) for part in after["segmentation"] for value in part)
    assert np.array_equal(decoded(after["segmentation"]), expected)
    assert len(after["segmentation"]) == 2
    assert after["area"] == expected.sum()
    # The same again: what was traced is read as it was written.
    again = run(out_of(path), "-o", "again", "--offsets", "zeros")
    assert again.exit_code == 0
    assert items_of(Path("again/x.json"))[0] == after


def test_a_part_of_two_points_is_passed_over() -> None:
    path = write_dataset(Path("preds"))
    document = json.loads(path.read_text())
    document["annotations"][0]["segmentation"] = [*polygons(FOUND[7][0]), [3, 3, 5, 5]]
    assert run(write_json(path, document), "--simplify", 0).exit_code == 0
    after = items_of(out_of(path))[0]["segmentation"]
    assert np.array_equal(decoded(after), refined(FOUND[7][0]))


# Mirrored from left to right, the scene is nearly the same.
@pytest.mark.parametrize("orientation", [3, 4])
def test_masks_of_the_stored_pixels_are_turned_and_back(orientation: int) -> None:
    path = write_results(Path("preds"))
    assert run(path, "-o", "upright").exit_code == 0
    for stem in "ab":
        offset_map = read_offset_map(Path(f"offsets/{stem}.png"))
        source = {**offset_map.source, "orientation": orientation}
        write_offset_map(Path(f"offsets/{stem}.png"), replace(offset_map, source=source))
    items = items_of(path)
    for item in items:
        item["segmentation"] = compressed(turn_back(decoded(item["segmentation"]), orientation))
    done = run(write_json(path, items))
    assert "2 turned as EXIF says of the photographs, and back" in done.stdout
    upright = items_of(Path("upright/x.json"))
    for old, new in zip(upright, items_of(out_of(path)), strict=True):
        turned = turn_upright(decoded(new["segmentation"]), orientation)
        assert np.array_equal(turned, decoded(old["segmentation"]))
