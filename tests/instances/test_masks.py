"""The mask of an instance in JSON: run lengths and polygons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from segfix.instances.masks import decode_mask, decode_runs, read_polygons, run_lengths, with_mask
from tests.instances.scenes import compressed, runs

masks = pytest.importorskip(
    "pycocotools.mask", reason="needs the extra: pip install 'segfix-refine[eval]'"
)

SQUARE = [1.0, 1, 4, 1, 4, 4, 1, 4]

small_masks = arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40)))


@given(small_masks)
def test_run_lengths_of_any_mask_are_whole_and_come_back(mask: NDArray[np.bool_]) -> None:
    segmentation = compressed(mask)
    counts = decode_runs(segmentation["counts"]).tolist()
    assert sum(counts) == mask.size
    for form in (segmentation, {"counts": counts, "size": list(mask.shape)}):
        item = {"segmentation": form}
        assert np.array_equal(decode_mask(item, *mask.shape), mask)
        again = with_mask(item, mask)
        assert json.dumps(again) == json.dumps(item)


@given(st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=30))
def test_any_text_is_whole_run_lengths_or_refused(counts: str) -> None:
    try:
        rle = run_lengths({"size": [6, 7], "counts": counts}, 6, 7)
    except ValueError:
        return
    assert masks.decode(rle).shape == (6, 7)


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([2**62] * 4, "a run of"),
        ([10**30], "broken"),
        ([21.0, 21.0], "broken"),
        ([[42]], "broken"),
        ([], "broken"),
        ([40, 1, 2], "runs of 43"),
    ],
)
def test_run_lengths_that_do_not_fill_the_image_are_refused(counts: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        run_lengths({"size": [6, 7], "counts": counts}, 6, 7)


def test_a_polygon_to_and_fro_does_not_fill_the_memory() -> None:
    zigzag = [number for row in range(20_000) for number in (-300.0 if row % 2 else 30.0, row % 20)]
    with pytest.raises(ValueError, match="an outline of 6600"):
        run_lengths([zigzag], 20, 30)


def test_polygons_are_filled_and_merged() -> None:
    item = {"segmentation": [[1, 1, 4, 1, 4, 3, 1, 3], [5, 0, 7, 0, 7, 6, 5, 6]]}
    expected = np.zeros((6, 7), int)
    expected[1:3, 1:4] = expected[:, 5:] = 1
    assert decode_mask(item, 6, 7).tolist() == expected.tolist()
    assert decode_mask({"segmentation": []}, 6, 7).sum() == 0


def test_segments_of_ultralytics_become_run_lengths_in_their_place() -> None:
    item = {
        "name": "cat",
        "box": {"x1": 1, "y1": 1, "x2": 4, "y2": 3},
        "segments": {"x": [1, 4, 4, 1], "y": [1, 1, 3, 3]},
        "track_id": 5,
    }
    mask = decode_mask(item, 6, 7)
    assert mask.sum() == 6
    mask[4, 6] = 1
    after = with_mask(item, mask)
    assert list(after) == ["name", "box", "segmentation", "track_id"]
    assert after["box"] == {"x1": 1, "y1": 1, "x2": 7, "y2": 5}
    assert np.array_equal(masks.decode(after["segmentation"]), mask)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("area", 3, 6),
        ("area", 3.5, 6.0),
        ("area", None, None),
        ("bbox", [0, 0, 1, 1], [1, 1, 3, 2]),
        ("bbox", [0, 0.5, 1, 1], [1.0, 1.0, 3.0, 2.0]),
        ("bbox", None, None),
        ("bbox", [], []),
        ("bbox", "none", "none"),
        ("box", {"x1": 1}, {"x1": 1}),
    ],
)
def test_area_and_box_are_measured_in_their_own_kind(key: str, value: Any, expected: Any) -> None:
    mask = np.zeros((6, 7), bool)
    mask[1:3, 1:4] = True
    after = with_mask({"segmentation": compressed(mask), key: value}, mask)
    assert json.dumps(after[key]) == json.dumps(expected)


def test_compressed_runs_of_any_mask_are_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for share in (0, 0.001, 0.01, 0.5, 0.99, 1):
        array = rng.random((70, 900)) < share
        decoded = decode_runs(compressed(array)["counts"]).tolist()
        assert decoded == runs(array)["counts"]


@pytest.mark.parametrize(
    ("polygons", "number"),
    [
        ([SQUARE], 1),
        ([SQUARE, SQUARE], 2),
        ([SQUARE, [1, 1, 5, 5]], 1),  # two points
        ([SQUARE, [3, 3]], 1),
        ([SQUARE, []], 1),
        ([[]], 0),
        ([], 0),
    ],
)
def test_parts_that_enclose_nothing_are_passed_over(polygons: Any, number: int) -> None:
    assert len(read_polygons(polygons)) == number
    if number:
        assert decode_mask({"segmentation": polygons}, 9, 9).sum() == 9


@pytest.mark.parametrize(
    ("polygons", "text"),
    [
        ([[1, 1, 5, 5]], "no polygon of three points or more"),
        ([[1, 1], [2, 2, 3, 3]], "no polygon of three points or more"),
        ([SQUARE, [1, 2, 3]], "polygon 1 has 3 numbers"),
        ([SQUARE, "1 2 3"], "polygon 1 is no list of numbers"),
        ([[1, 1, 5, 1, None, 5]], "polygon 0 is no list of numbers"),
        ([[[1, 1], [5, 1], [5, 5]]], "polygon 0 is no list of numbers"),
        (SQUARE, "polygon 0 is no list of numbers"),
        ([{"counts": [1]}], "polygon 0 is no list of numbers"),
    ],
)
def test_broken_polygons_are_named(polygons: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        decode_mask({"segmentation": polygons}, 9, 9)


def test_three_points_on_a_line_enclose_nothing() -> None:
    assert decode_mask({"segmentation": [[1, 1, 5, 5, 9, 9]]}, 12, 12).sum() < 12


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"segmentation": None},
        {"segmentation": []},
        {"segmentation": [[]]},
        {"segments": {"x": [], "y": []}},
        {"segments": None},
    ],
)
def test_an_instance_without_a_mask_has_no_pixels(item: Any) -> None:
    assert decode_mask(item, 9, 9).sum() == 0
