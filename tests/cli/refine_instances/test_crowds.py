"""Crowd regions and void are neither refined, nor do they give or take a pixel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segfix import refine_masks
from segfix.formats import read_offset_map
from tests.cli.commands import flat
from tests.cli.refine_instances.instance_files import (
    FOUND,
    box,
    decoded,
    items_of,
    out_of,
    plain,
    polygons,
    run,
    write_dataset,
    write_json,
)
from tests.cli.refine_instances.test_panoptic import segment_ids, write_panoptic

CROWD = box(5, 26, 22, 12)
"""Beside the first object and over a part of the second one."""


def write_crowd(form: Any = plain) -> Path:
    path = write_dataset(Path("preds"))
    document = json.loads(path.read_text())
    document["annotations"][1] |= {
        "iscrowd": 1,
        "segmentation": form(CROWD),
        "area": int(CROWD.sum()) + 5,
    }
    return write_json(path, document)


@pytest.mark.parametrize("form", [plain, polygons])
def test_crowd_regions_of_coco_stay_and_what_they_cover(form: Any) -> None:
    path = write_crowd(form)
    done = run(path)
    assert done.exit_code == 0
    assert "; 1 crowd region kept unchanged (--keep none refines such, too)" in done.stdout
    before, after = items_of(path), items_of(out_of(path))
    assert after[1] == before[1], "not even its area, which is not that of its pixels"
    offset_map = read_offset_map(Path("offsets/a.png"))
    expected = refine_masks(np.stack([FOUND[7][0], CROWD, FOUND[7][2]]), offset_map, keep=[1])
    for item, mask, was in zip(after[:3], expected, before[:3], strict=True):
        assert np.array_equal(decoded(item["segmentation"]), mask)
        gained = mask & ~decoded(was["segmentation"])
        assert not (gained & CROWD).any()
    assert after[0] != before[0]


def test_keep_none_refines_crowd_regions_too() -> None:
    path = write_crowd()
    done = run(path, "--keep", "none")
    assert (done.exit_code, "crowd" in done.stdout) == (0, False)
    assert items_of(out_of(path))[1] != items_of(path)[1]
    assert "exists and is not what this run would make" in run(path).stderr


def test_ids_are_not_for_instances() -> None:
    done = run(write_crowd(), "--keep", "255")
    assert done.exit_code == 2
    assert "--keep lists ids of label maps; of instances, crowd regions" in flat(done.stderr)


def test_crowd_segments_and_void_of_panoptic_maps_stay() -> None:
    path = write_panoptic(Path("preds"))
    document = json.loads(path.read_text())
    for annotation in document["annotations"]:
        annotation["segments_info"][2]["iscrowd"] = 1
    write_json(path, document)
    done = run(path)
    said = "; 2 crowd regions and 2 voids kept unchanged (--keep none refines such, too)"
    assert (done.exit_code, said in done.stdout) == (0, True)
    segments = json.loads(out_of(path).read_text())["annotations"]
    for stem, annotation, original in zip("ab", segments, document["annotations"], strict=True):
        before, after = (segment_ids(Path(one, f"{stem}.png")) for one in ("preds/x", "refined/x"))
        for kept in (0, 70_001):
            assert np.array_equal(before == kept, after == kept)
        assert (before != after).any()
        assert annotation["segments_info"][2] == original["segments_info"][2]
    assert run(path, "--keep", "none", "--overwrite").exit_code == 0
    before, after = (segment_ids(Path(one, "a.png")) for one in ("preds/x", "refined/x"))
    assert ((before == 0) != (after == 0)).any()


def test_id_0_that_is_a_segment_is_no_void() -> None:
    path = write_panoptic(Path("preds"))
    document = json.loads(path.read_text())
    for annotation in document["annotations"]:
        annotation["segments_info"].append({"id": 0, "category_id": 0})
    done = run(write_json(path, document))
    assert (done.exit_code, "kept unchanged" in done.stdout) == (0, False)
    before, after = (segment_ids(Path(one, "a.png")) for one in ("preds/x", "refined/x"))
    assert ((before == 0) != (after == 0)).any()
