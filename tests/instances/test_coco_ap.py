"""What AP on COCO reads, and what is said of faulty files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segfix.evaluation import evaluate_instances
from tests.instances.scenes import (
    CAR,
    LEFT,
    PERSON,
    SIZE,
    Box,
    edited,
    fault,
    mask,
    polygon,
    runs,
    write_coco,
    write_json,
)

pytest.importorskip("pycocotools", reason="needs the extra: pip install 'segfix-refine[eval]'")


def test_areas_are_those_of_masks_though_the_results_hold_boxes(tmp_path: Path) -> None:
    preds, labels = write_coco(tmp_path, [(0, CAR, LEFT)], [(0, CAR, LEFT, 1)])
    results = json.loads(preds.read_text())
    results[0]["bbox"] = [0, 0, 4000, 4000]
    write_json(preds, results)
    mean = evaluate_instances(preds, labels)["mean"]
    assert mean["ap_small"] == pytest.approx(1)
    assert mean["ap_medium"] is None


@pytest.mark.parametrize("write", [polygon, lambda box: runs(mask(box))])
def test_results_may_be_polygons_or_plain_run_lengths(
    write: Callable[[Box], Any], tmp_path: Path
) -> None:
    preds, labels = write_coco(tmp_path, [(0, CAR, LEFT)], [(0, CAR, LEFT, 1)])
    results = json.loads(preds.read_text())
    results[0]["segmentation"] = write(LEFT)
    assert evaluate_instances(write_json(preds, results), labels)["mean"]["ap"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("score", None, "results[0] has no 'score'"),
        ("score", math.nan, "not a number"),
        ("score", "high", "not a number"),
        ("score", True, "not a number"),
        pytest.param("score", 10**400, "not a number", id="score-huge"),
        ("segmentation", None, "results[0] has no 'segmentation'"),
        ("segmentation", [], "empty list"),
        ("segmentation", [[1, 2, 3, 4]], "three points or more"),
        ("segmentation", [[1, 2, 3, 4, 5, 1e9]], "far outside"),
        ("segmentation", [[1, 2, 3, 4, 5, math.nan]], "far outside"),
        ("segmentation", 7, "can't be used"),
        ("segmentation", {"size": [60, 80]}, "can't be used ('counts')"),
        ("segmentation", {"size": [80, 60], "counts": [4800]}, "[80, 60] high and wide"),
        ("segmentation", {"size": [60, 80], "counts": [4000]}, "runs of 4000 pixels in all"),
        ("segmentation", {"size": [60, 80], "counts": [4801, -1]}, "broken run lengths"),
        ("segmentation", {"size": [60, 80], "counts": "garbage!!"}, "broken run lengths"),
        ("segmentation", {"size": [60, 80], "counts": ""}, "broken run lengths"),
        ("segmentation", {"size": [60, 80], "counts": "oooooooooo0"}, "broken run lengths"),
        ("image_id", 5, "1 of 1 result is of images that"),
        ("image_id", [0], "expected a number or a text"),
    ],
)
def test_a_faulty_result_is_named(coco: tuple[Path, Path], key: str, value: Any, text: str) -> None:
    preds, labels = coco
    told = fault(edited(preds, lambda results: results[0].update({key: value})), labels)
    assert told.startswith(f"{preds}: ")
    assert text in told


def test_run_lengths_cut_short_do_not_hang(coco: tuple[Path, Path]) -> None:
    preds, labels = coco

    def cut(results: list[Any]) -> None:
        results[0]["segmentation"]["counts"] = results[0]["segmentation"]["counts"][:-3]

    assert "pixels in all, but the image has 4800" in fault(edited(preds, cut), labels)


def test_unknown_categories_of_results_are_counted_and_stated(coco: tuple[Path, Path]) -> None:
    preds, labels = coco
    edited(preds, lambda results: results.append(results[0] | {"category_id": 99}))
    result = evaluate_instances(preds, labels)
    assert result["mean"]["ap"] == pytest.approx(1)
    assert result["notes"] == ["1 of 2 results is of unknown categories (99): not counted"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda labels: labels.pop("images"), "no list 'images'"),
        (lambda labels: labels["images"][0].pop("height"), "images[0] has no 'height'"),
        (lambda labels: labels["images"][0].update(width=1.5), "whole numbers of pixels"),
        # pycocotools would crash, or run for ever.
        (lambda labels: labels["images"][0].update(width=65536), "at most 65535"),
        (lambda labels: labels["annotations"][0].update(image_id=4), "has image_id 4"),
        (lambda labels: labels["annotations"][0].update(category_id=4), "has category_id 4"),
        (lambda labels: labels["annotations"][0].update(segmentation=[]), "empty list"),
        (lambda labels: labels["annotations"][0].update(area="big"), "not a number"),
        (lambda labels: labels["annotations"][0].update(segments_info=[]), "panoptic, but"),
    ],
)
def test_faulty_annotations_are_named(
    coco: tuple[Path, Path], change: Callable[[Any], object], text: str
) -> None:
    preds, labels = coco
    told = fault(preds, edited(labels, change))
    assert told.startswith(f"{labels}: ")
    assert text in told


def test_annotations_may_leave_out_area_and_crowd(coco: tuple[Path, Path]) -> None:
    preds, labels = coco

    def strip(document: Any) -> None:
        del document["annotations"][0]["area"], document["annotations"][0]["iscrowd"]

    result = evaluate_instances(preds, edited(labels, strip))
    assert result["mean"]["ap_small"] == pytest.approx(1)
    assert result["notes"] == ["no area is stated in 1 annotation: the mask's is taken"]


def test_ids_may_be_texts_and_names_may_repeat(coco: tuple[Path, Path]) -> None:
    preds, labels = coco

    def rename(document: Any) -> None:
        document["images"] = [{"id": "x7", "height": SIZE[0], "width": SIZE[1]}]
        document["images"].append({"id": 7, "height": SIZE[0], "width": SIZE[1]})
        document["annotations"][0]["image_id"] = "x7"
        document["categories"][1]["name"] = "car"

    edited(labels, rename)
    edited(preds, lambda results: results[0].update(image_id="x7"))
    result = evaluate_instances(preds, labels)
    assert result["class"][f"car ({CAR})"]["ap"] == pytest.approx(1)
    assert result["class"][f"car ({PERSON})"]["ap"] is None


def test_annotations_are_predictions_without_a_score(coco: tuple[Path, Path]) -> None:
    preds, labels = coco
    expected = evaluate_instances(preds, labels)
    document = json.loads(labels.read_text())
    document["annotations"] = json.loads(preds.read_text())
    for item in document["annotations"]:
        del item["score"]
    preds.write_text(json.dumps(document))
    found = evaluate_instances(preds, labels)
    assert found["mean"] == expected["mean"]
    assert found["notes"][0].startswith("annotations, not results: without a score, an instance")
    edited(preds, lambda table: table["annotations"].insert(1, 7))
    assert fault(preds, labels).startswith(f"{preds}: results[1] has no 'image_id'")


@pytest.mark.parametrize("text", ["", "[1, 2", "[\x80", '"text"', "[" * 100_000])
def test_broken_json_is_named(coco: tuple[Path, Path], text: str) -> None:
    preds, labels = coco
    preds.write_bytes(text.encode("latin-1"))
    assert fault(preds, labels).startswith(f"{preds}: ")
    if text[:1] == "[":
        preds.write_text("[]")
        labels.write_bytes(text.encode("latin-1"))
        assert fault(preds, labels).startswith(f"{labels}: ")


def test_a_file_that_is_not_there_is_named(coco: tuple[Path, Path], tmp_path: Path) -> None:
    preds, labels = coco
    missing = tmp_path / "missing.json"
    assert fault(missing, labels) == f"{missing}: no such file."
    assert fault(preds, missing) == f"{missing}: no such file."
    assert "a folder" in fault(preds, tmp_path)
