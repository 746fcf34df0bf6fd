from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segfix.errors import SegfixError
from segfix.files import Entry, Pair
from segfix.files.provenance import read_record
from segfix.formats import OffsetMap, read_label_map, write_offset_map
from segfix.geometry import make_targets
from segfix.jobs.run import Batch
from segfix.jobs.task import Skipped
from segfix.refinement import refine, refine_masks
from segfix.refinement.apply import RefineSettings
from segfix.tasks.refine import refine_task


def arrows(height: int, width: int, sector: int) -> OffsetMap:
    """All boundary, all in one direction."""
    return OffsetMap.encode(
        np.ones((height, width), bool), np.full((height, width), sector, np.uint8)
    )


def test_scale_is_the_number_of_steps() -> None:
    labels = np.arange(10)[None]
    assert refine(labels, arrows(1, 10, 4), scale=3).tolist() == [[3, 4, 5, 6, 7, 8, 9, 9, 9, 9]]
    assert refine(labels, arrows(1, 10, 4), scale=0).tolist() == labels.tolist()


def test_iterate_goes_to_the_first_pixel_off_the_boundary() -> None:
    boundary = np.array([[True, True, True, False, False]])
    offset_map = OffsetMap.encode(boundary, np.full((1, 5), 4, np.uint8))
    labels = np.arange(5)[None]
    assert refine(labels, offset_map, iterate=10).tolist() == [[3, 3, 3, 3, 4]]
    assert refine(labels, offset_map, iterate=2).tolist() == [[2, 3, 3, 3, 4]]


def test_colours_are_looked_up_like_ids() -> None:
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    colours = np.stack([ids, 255 - ids, ids * 3], axis=-1)
    offset_map = arrows(3, 4, 6)
    refined = refine(colours, offset_map)
    assert np.array_equal(refined[..., 0], refine(ids, offset_map))
    assert np.array_equal(refined[..., 1], 255 - refined[..., 0])


def test_soft_predictions_take_the_step_of_their_most_likely_class() -> None:
    labels = np.zeros((12, 30), np.uint8)
    labels[:, 17:] = 2
    soft = np.full((12, 30, 3), 0.1, np.float32)
    np.put_along_axis(soft, labels[..., None].astype(int), 0.8, axis=2)
    soft += np.random.default_rng(0).random(soft.shape, np.float32) / 10
    true = np.zeros((12, 30), np.uint8)
    true[:, 14:] = 1
    targets = make_targets(true)
    offset_map = OffsetMap.encode(targets.boundary_map == 1, targets.direction_map)
    refined = refine(soft, offset_map)
    assert np.array_equal(refined.argmax(axis=2), refine(labels, offset_map))
    assert np.array_equal(refined.argmax(axis=2), 2 * true)
    # Looked up whole, never mixed.
    assert {*map(bytes, refined.reshape(-1, 3))} <= {*map(bytes, soft.reshape(-1, 3))}


def files(folder: Path) -> Pair:
    labels = folder / "in" / "x.png"
    labels.parent.mkdir()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(labels)
    write_offset_map(folder / "offsets" / "x.png", arrows(8, 8, 4))
    return Pair(Entry(labels, "x"), Entry(folder / "offsets" / "x.png", "x"))


def test_a_second_run_skips_and_a_changed_input_is_noticed(tmp_path: Path) -> None:
    pair = files(tmp_path)
    out, task = tmp_path / "out", refine_task()
    row = task.do(pair, out)
    assert (row["pixels"], row["changed"]) == (64, 56), "the last column stays at the frame"
    written = (out / "x.png").read_bytes()
    with pytest.raises(Skipped):
        task.do(pair, out)
    with pytest.raises(SegfixError, match="--overwrite"):
        refine_task(RefineSettings(scale=1)).do(pair, out)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(pair.entry.path)
    with pytest.raises(SegfixError, match="--overwrite"):
        task.do(pair, out)
    assert (out / "x.png").read_bytes() == written
    task.do(pair, out, overwrite=True)
    assert not read_label_map(out / "x.png").array.any()
    record = json.loads(read_record(out / "x.png") or "")
    assert record["settings"] == {
        "scale": None,
        "iterate": 0,
        "min_confidence": 0.0,
        "keep": None,
        "soft": False,
        "key": None,
        "fit": None,
        "argmax": False,
        "drop_empty": False,
    }


def test_a_result_cut_short_is_made_again(tmp_path: Path) -> None:
    pair = files(tmp_path)
    refine_task().do(pair, tmp_path / "out")
    result = tmp_path / "out" / "x.png"
    whole = result.read_bytes()
    for length in (0, whole.index(b"IDAT") + 8, len(whole) - 3):
        result.write_bytes(whole[:length])
        refine_task().do(pair, tmp_path / "out")
        assert result.read_bytes() == whole


def test_a_file_that_is_not_ours_is_never_replaced_unasked(tmp_path: Path) -> None:
    pair = files(tmp_path)
    (tmp_path / "out").mkdir()
    for content in (b"precious", pair.entry.path.read_bytes()):
        (tmp_path / "out" / "x.png").write_bytes(content)
        with pytest.raises(SegfixError, match="exists"):
            refine_task().do(pair, tmp_path / "out")
        assert (tmp_path / "out" / "x.png").read_bytes() == content


def test_a_batch_goes_on_after_failures_and_stops_at_the_limit() -> None:
    def work(number: int) -> dict[str, object]:
        if number % 2:
            raise SegfixError(f"{number} is odd")
        if number == 4:
            raise Skipped("4")
        return {"output": number}

    summary = Batch(range(8), work, "number").run(quiet=True)
    assert [row["output"] for row in summary.done] == [0, 2, 6]
    assert summary.skipped == ["4"]
    assert summary.failed == ["1 is odd", "3 is odd", "5 is odd", "7 is odd"]
    limited = Batch(range(100), work, "number").run(quiet=True, max_failures=2)
    assert len(limited.failed) in (2, 3), "one more may be under way"
    done = len(limited.done) + len(limited.failed) + len(limited.skipped)
    assert limited.left == 100 - done > 90


def test_tensors_are_taken_as_arrays_and_wrong_shapes_are_named() -> None:
    offset_map = arrows(4, 6, 4)
    scores: Any = torch.rand(3, 4, 6)
    found = refine(scores, offset_map, scale=1)
    assert np.array_equal(found, refine(scores.numpy(), offset_map, scale=1))
    masks: Any = torch.rand(2, 4, 6) > 0.5
    found = refine_masks(masks, offset_map, scale=1)
    assert np.array_equal(found, refine_masks(masks.numpy(), offset_map, scale=1))
    for shape in ((2, 3, 4, 6), (3, 2, 3), (4, 5), (6, 4)):
        with pytest.raises(ValueError, match=r"Expected label_map of \(4, 6\), \(C, 4, 6\) or"):
            refine(np.zeros(shape), offset_map)
    with pytest.raises(ValueError, match="refine_masks takes them"):
        refine(np.ones((2, 4, 6), bool), offset_map)
