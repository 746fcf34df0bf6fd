"""AP of Cityscapes on files so small that it is known, and what is said of faulty files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segfix.errors import PairingError
from segfix.evaluation import evaluate_instances
from tests.instances.scenes import (
    CAR,
    LEFT,
    RIGHT,
    ROAD,
    SIZE,
    fault,
    mask,
    scored,
    stem,
    write_cityscapes,
)

pytest.importorskip("pycocotools", reason="needs the extra: pip install 'segfix-refine[eval]'")
pytest.importorskip(
    "cityscapesscripts", reason="needs the extra: pip install 'segfix-refine[eval]'"
)


def test_predictions_in_void_are_no_false_alarms_on_cityscapes(tmp_path: Path) -> None:
    preds, labels = write_cityscapes(
        tmp_path, [(0, CAR, LEFT)], [(0, CAR, LEFT, 0.5), (0, CAR, RIGHT, 0.9)]
    )
    assert evaluate_instances(preds, labels)["mean"]["ap"] == pytest.approx(0.25)
    path = labels / "town" / f"{stem(0)}_gtFine_instanceIds.png"
    ids = np.array(Image.open(path))
    Image.fromarray(np.where(ids == ROAD, 0, ids).astype(np.uint16)).save(path)
    assert evaluate_instances(preds, labels)["mean"]["ap"] == pytest.approx(1)


def test_objects_below_100_pixels_are_ignored_on_cityscapes(tmp_path: Path) -> None:
    truth = [(0, CAR, LEFT), (0, CAR, (5, 45, 9, 11))]
    result = scored("cityscapes", tmp_path / "x", truth, [(0, CAR, LEFT, 0.5)])
    assert result["mean"]["ap"] == pytest.approx(1)


def test_a_class_whose_predictions_are_all_ignored_is_missed_on_cityscapes(tmp_path: Path) -> None:
    # The script itself crashes here.
    objects = [(0, CAR, LEFT)], [(0, CAR, RIGHT, 0.9)], [(0, CAR, (0, 40, 60, 40))]
    result = scored("cityscapes", tmp_path / "x", *objects)
    assert result["class"]["car"] == {"ap": 0, "ap50": 0}
    assert result["mean"] == {"ap": 0, "ap50": 0}


@pytest.fixture
def cityscapes(tmp_path: Path) -> tuple[Path, Path]:
    pair: tuple[Path, Path] = write_cityscapes(
        tmp_path, [(0, CAR, LEFT), (1, CAR, LEFT)], [(0, CAR, LEFT, 1), (1, CAR, LEFT, 1)]
    )
    return pair


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("only.png 26", "line 1 is 'only.png 26'"),
        ("a.png car 0.5", "expected mask, class id and score"),
        ("a.png 26 nan", "expected mask, class id and score"),
        ("a.png 26 0.5", "a.png: no such file."),
        ("../labels/a.png 26 0.5", "lies outside of"),
        ("/etc/a.png 26 0.5", "lies outside of"),
    ],
)
def test_a_faulty_line_is_named(cityscapes: tuple[Path, Path], line: str, text: str) -> None:
    preds, labels = cityscapes
    (preds / f"{stem(0)}_leftImg8bit_pred.txt").write_text(line)
    assert text in fault(preds, labels)


def test_a_mask_twice_is_refused(cityscapes: tuple[Path, Path]) -> None:
    preds, labels = cityscapes
    listed = preds / f"{stem(0)}_leftImg8bit_pred.txt"
    listed.write_text(listed.read_text() * 2)
    assert f"{listed}: line 2" in fault(preds, labels)


def test_lists_may_hold_spaces_blank_lines_and_unknown_classes(
    cityscapes: tuple[Path, Path],
) -> None:
    preds, labels = cityscapes
    (preds / f"{stem(0)}_0.png").rename(preds / "a car.png")
    for name in ("other.png", "road.png"):
        Image.fromarray(mask(RIGHT)).save(preds / name)
    listed = preds / f"{stem(0)}_leftImg8bit_pred.txt"
    listed.write_text("\na car.png 26 0.9\n\nother.png 260 0.5\nroad.png 7 1\n")
    result = evaluate_instances(preds, labels)
    assert result["mean"]["ap"] == pytest.approx(1)
    assert result["notes"] == [
        "2 instances of class ids that Cityscapes doesn't score (260, 7): not counted"
    ]


def test_a_mask_of_another_size_is_refused(cityscapes: tuple[Path, Path]) -> None:
    preds, labels = cityscapes
    path = preds / f"{stem(1)}_0.png"
    Image.new("L", (40, 30)).save(path)
    assert fault(preds, labels).startswith(f"{path}: 40×30, but ")


def test_a_broken_mask_is_named(cityscapes: tuple[Path, Path]) -> None:
    preds, labels = cityscapes
    path = preds / f"{stem(1)}_0.png"
    path.write_bytes(path.read_bytes()[:60])
    assert fault(preds, labels).startswith(f"{path}: ")


def test_a_mask_of_which_the_evaluator_sees_other_pixels_is_refused(
    cityscapes: tuple[Path, Path],
) -> None:
    preds, labels = cityscapes
    path = preds / f"{stem(0)}_0.png"
    picture = Image.fromarray(mask(LEFT).astype(np.uint8)).convert("P")
    picture.putpalette([255, 255, 255, 0, 0, 0])
    picture.save(path)
    assert f"{path}: mode P" in fault(preds, labels)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.save(path)
    assert evaluate_instances(preds, labels)["mean"]["ap"] == pytest.approx(1)


def test_an_image_without_a_list_is_named(cityscapes: tuple[Path, Path]) -> None:
    preds, labels = cityscapes
    (preds / f"{stem(1)}_leftImg8bit_pred.txt").unlink()
    assert f"no prediction for 1 of 2 images of the ground truth ({stem(1)})" in fault(
        preds, labels
    )


def test_a_list_without_ground_truth_is_stated(cityscapes: tuple[Path, Path]) -> None:
    preds, labels = cityscapes
    (preds / "extra_pred.txt").touch()
    assert evaluate_instances(preds, labels)["notes"] == ["1 lists without ground truth (extra)"]


def test_two_lists_of_one_image_are_refused(cityscapes: tuple[Path, Path]) -> None:
    preds, labels = cityscapes
    (preds / f"{stem(1)}_pred.txt").touch()
    assert "are of one image" in fault(preds, labels)


def test_names_need_not_be_those_of_cityscapes(tmp_path: Path) -> None:
    preds, labels = write_cityscapes(tmp_path, [(0, CAR, LEFT)], [(0, CAR, LEFT, 1)])
    (preds / f"{stem(0)}_leftImg8bit_pred.txt").rename(preds / "my photo_pred.txt")
    truth = labels / "town" / f"{stem(0)}_gtFine_instanceIds.png"
    truth.rename(labels / "my photo_instanceIds.png")
    assert evaluate_instances(preds, labels)["mean"]["ap"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.full(SIZE, 50_001, np.uint16), "holds class 50"),
        (np.zeros((*SIZE, 3), np.uint8), "colours; expected instance ids"),
        (b"no picture", "not a readable instance map"),
    ],
)
def test_a_faulty_instance_map_is_named(
    cityscapes: tuple[Path, Path], array: Any, text: str
) -> None:
    preds, labels = cityscapes
    path = labels / "town" / f"{stem(0)}_gtFine_instanceIds.png"
    if isinstance(array, bytes):
        path.write_bytes(array)
    else:
        Image.fromarray(array).save(path)
    told = fault(preds, labels)
    assert told.startswith(f"{path}: ")
    assert text in told


def test_folders_without_instances_are_named(
    cityscapes: tuple[Path, Path], coco: tuple[Path, Path]
) -> None:
    preds, labels = cityscapes
    assert "no instances of Cityscapes here" in fault(preds, preds)
    assert "no instances of Cityscapes here" in fault(preds, coco[1])
    with pytest.raises(PairingError):
        evaluate_instances(preds, labels / "missing")
