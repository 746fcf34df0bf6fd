"""Scores of the same objects in each format, known in closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segfix.errors import FileFormatError
from segfix.evaluation import evaluate_instances, is_instance_input
from tests.instances.scenes import (
    CAR,
    FORMATS,
    LEFT,
    PERSON,
    RIGHT,
    Write,
    every_format,
    scored,
    with_scores,
    write_panoptic,
)

pytest.importorskip("pycocotools", reason="needs the extra: pip install 'segfix-refine[eval]'")
pytest.importorskip(
    "cityscapesscripts", reason="needs the extra: pip install 'segfix-refine[eval]'"
)


@every_format
def test_a_perfect_prediction_scores_one(kind: str, tmp_path: Path) -> None:
    truth = [(0, CAR, LEFT), (0, PERSON, RIGHT), (1, CAR, LEFT)]
    result = scored(kind, tmp_path / "x", truth, [(*item, 0.9) for item in truth])
    assert result["images"] == 2
    first = "pq" if kind == "panoptic" else "ap"
    assert result["mean"][first] == pytest.approx(1)
    assert result["class"]["car"][first] == pytest.approx(1)
    assert result["class"]["truck"][first] is None
    assert result["notes"] == []


@with_scores
def test_of_two_instances_one_is_missed(kind: str, tmp_path: Path) -> None:
    truth = [(0, CAR, LEFT), (0, CAR, RIGHT)]
    result = scored(kind, tmp_path / "x", truth, [(0, CAR, LEFT, 0.9)])
    # COCO looks at 101 recalls, of which 51 are up to a half.
    expected = 51 / 101 if kind == "coco" else 0.5
    assert result["mean"]["ap"] == pytest.approx(expected)
    assert result["mean"]["ap50"] == pytest.approx(expected)


@with_scores
def test_an_iou_of_0_68_counts_at_thresholds_below_it(kind: str, tmp_path: Path) -> None:
    result = scored(kind, tmp_path / "x", [(0, CAR, (5, 5, 50, 20))], [(0, CAR, (5, 5, 34, 20), 1)])
    assert result["mean"]["ap50"] == pytest.approx(1)
    assert result["mean"]["ap"] == pytest.approx(0.4)
    if kind == "coco":
        assert result["mean"]["ap75"] == 0
        assert result["class"]["car"] == pytest.approx({"ap": 0.4, "ap50": 1, "ap75": 0})


@pytest.mark.parametrize(
    ("kind", "rows", "ap50"),
    [("coco", 25, 1), ("coco", 24, 0), ("cityscapes", 25, 0), ("cityscapes", 26, 1)],
)
def test_an_iou_of_exactly_one_half_is_a_match_on_coco_only(
    kind: str, rows: int, ap50: float, tmp_path: Path
) -> None:
    objects = [(0, CAR, (5, 5, 50, 20))], [(0, CAR, (5, 5, rows, 20), 1)]
    assert scored(kind, tmp_path / "x", *objects)["mean"]["ap50"] == pytest.approx(ap50)


@every_format
def test_the_wrong_class_is_a_miss_and_a_false_alarm(kind: str, tmp_path: Path) -> None:
    result = scored(
        kind, tmp_path / "x", [(0, CAR, LEFT), (0, PERSON, RIGHT)], [(0, PERSON, LEFT, 0.5)]
    )
    first = "pq" if kind == "panoptic" else "ap"
    assert result["mean"][first] == 0
    assert (result["class"]["car"][first], result["class"]["person"][first]) == (0, 0)
    assert result["class"]["truck"][first] is None


@with_scores
@pytest.mark.parametrize(("score", "ap"), [(0.95, 0.5), (0.5, 1)])
def test_a_false_alarm_costs_only_if_it_is_surer_than_the_hit(
    kind: str, score: float, ap: float, tmp_path: Path
) -> None:
    result = scored(
        kind, tmp_path / "x", [(0, CAR, LEFT)], [(0, CAR, LEFT, 0.9), (0, CAR, RIGHT, score)]
    )
    # Cityscapes has no envelope: half of the way from precision 0 to recall 1 at precision 0.5.
    expected = 0.25 if (kind, ap) == ("cityscapes", 0.5) else ap
    assert result["mean"]["ap50"] == pytest.approx(expected)


@with_scores
def test_of_two_predictions_of_one_object_the_surer_is_the_hit(kind: str, tmp_path: Path) -> None:
    twice = [(0, CAR, LEFT, 0.9), (0, CAR, (6, 5, 20, 20), 0.8)]
    result = scored(kind, tmp_path / "x", [(0, CAR, LEFT), (0, CAR, RIGHT)], twice)
    assert result["mean"]["ap50"] == pytest.approx(51 / 101 if kind == "coco" else 0.5)
    alone = scored(kind, tmp_path / "y", [(0, CAR, LEFT)], twice)
    assert alone["mean"]["ap50"] == pytest.approx(1)


@every_format
def test_predictions_in_a_crowd_are_neither_hits_nor_false_alarms(
    kind: str, tmp_path: Path
) -> None:
    truth, crowds = [(0, CAR, LEFT)], [(0, CAR, (0, 40, 60, 40))]
    found = [(0, CAR, LEFT, 0.5), (0, CAR, RIGHT, 0.9)]
    result = scored(kind, tmp_path / "x", truth, found, crowds)
    assert result["mean"]["pq" if kind == "panoptic" else "ap"] == pytest.approx(1)


@with_scores
def test_every_image_of_the_ground_truth_counts(kind: str, tmp_path: Path) -> None:
    truth = [(image, CAR, LEFT) for image in range(4)]
    result = scored(kind, tmp_path / "x", truth, [(0, CAR, LEFT, 0.9)])
    assert result["images"] == 4
    assert result["mean"]["ap"] == pytest.approx(26 / 101 if kind == "coco" else 0.25)


@every_format
def test_nothing_predicted_scores_zero(kind: str, tmp_path: Path) -> None:
    result = scored(kind, tmp_path / "x", [(0, CAR, LEFT), (1, CAR, LEFT)], [])
    assert result["mean"]["pq" if kind == "panoptic" else "ap"] == 0
    if kind == "coco":
        assert result["notes"] == ["2 of 2 images have no result: their objects are missed"]


@every_format
def test_ground_truth_without_objects_scores_nothing(kind: str, tmp_path: Path) -> None:
    result = scored(kind, tmp_path / "x", [], [])
    assert set(result["mean"].values()) == {None}
    assert "the ground truth holds nothing that counts" in result["notes"]


def test_the_two_instance_evaluators_agree_on_perfect_masks_of_many_scores(tmp_path: Path) -> None:
    # Hits only, so that the two ways to integrate differ by COCO's 101 recalls alone.
    rng = np.random.default_rng(0)
    truth = [(image, CAR, box) for image in range(10) for box in (LEFT, RIGHT)]
    found = [(*item, rng.random()) for item in truth if rng.random() < 0.6]
    ours = [scored(kind, tmp_path / kind, truth, found) for kind in ("coco", "cityscapes")]
    recall = len(found) / len(truth)
    assert ours[1]["mean"]["ap"] == pytest.approx(recall)
    assert ours[0]["mean"]["ap"] == pytest.approx(recall, abs=1 / 101)


def test_threads_change_nothing(tmp_path: Path) -> None:
    truth = [(image, CAR, box) for image in range(5) for box in (LEFT, RIGHT)]
    found = [(image, CAR, LEFT, 0.1 * image) for image in range(5)]
    for kind in ("cityscapes", "panoptic"):
        preds, labels = FORMATS[kind](tmp_path / kind, truth, found)
        assert evaluate_instances(preds, labels) == evaluate_instances(preds, labels, workers=3)


@every_format
def test_nothing_is_printed_or_written(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write: Write = FORMATS[kind]
    write(tmp_path / "x", [(0, CAR, LEFT)], [(0, CAR, LEFT, 0.9)])
    monkeypatch.chdir(tmp_path)
    ending = "" if kind == "cityscapes" else ".json"
    before = sorted(tmp_path.rglob("*"))
    result = evaluate_instances(Path(f"x/preds{ending}"), Path(f"x/labels{ending}"))
    assert result["mean"]["pq" if kind == "panoptic" else "ap"] == pytest.approx(1)
    assert sorted(tmp_path.rglob("*")) == before
    assert capfd.readouterr() == ("", "")


def test_label_maps_are_no_instances(tmp_path: Path) -> None:
    assert not is_instance_input(tmp_path)
    Image.new("L", (4, 4)).save(tmp_path / "a_pred.png")
    assert not is_instance_input(tmp_path)
    assert not is_instance_input(tmp_path / "a_pred.png")
    assert not is_instance_input(tmp_path / "missing")
    (tmp_path / "town").mkdir()
    (tmp_path / "town" / "a_pred.txt").touch()
    assert is_instance_input(tmp_path)
    assert is_instance_input(tmp_path / "missing.json")


def test_results_and_annotations_of_other_kinds_are_told_apart(
    coco: tuple[Path, Path], tmp_path: Path
) -> None:
    preds, labels = write_panoptic(tmp_path / "panoptic", [(0, CAR, LEFT)], [(0, CAR, LEFT, 1)])
    with pytest.raises(FileFormatError):
        evaluate_instances(coco[0], labels)
    with pytest.raises(FileFormatError):
        evaluate_instances(preds, coco[1])
