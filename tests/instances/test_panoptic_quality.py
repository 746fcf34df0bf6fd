"""PQ on files so small that it is known, and what is said of faulty files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from segfix.evaluation import evaluate_instances
from tests.instances.scenes import (
    CAR,
    LEFT,
    RIGHT,
    ROAD,
    SIZE,
    edited,
    fault,
    scored,
    write_panoptic,
)

pytest.importorskip("pycocotools", reason="needs the extra: pip install 'segfix-refine[eval]'")
pytest.importorskip(
    "cityscapesscripts", reason="needs the extra: pip install 'segfix-refine[eval]'"
)


def test_panoptic_of_two_instances_one_is_missed(tmp_path: Path) -> None:
    truth = [(0, CAR, LEFT), (0, CAR, RIGHT)]
    result = scored("panoptic", tmp_path / "x", truth, [(0, CAR, LEFT, 1)])
    assert result["class"]["car"] == pytest.approx({"pq": 2 / 3, "sq": 1, "rq": 2 / 3})
    assert result["mean"]["pq"] == result["mean"]["pq_things"] == pytest.approx(2 / 3)
    assert result["mean"]["pq_stuff"] is None


def test_panoptic_quality_is_the_iou_of_what_is_matched(tmp_path: Path) -> None:
    # In the truth all else is void, in which a prediction may end.
    truth, found = [(0, CAR, (5, 5, 50, 20))], [(0, CAR, (5, 5, 34, 20), 1)]
    result = scored("panoptic", tmp_path / "x", truth, found)
    assert result["class"]["car"] == pytest.approx({"pq": 0.68, "sq": 0.68, "rq": 1})


def test_panoptic_files_may_hold_stuff_alone(tmp_path: Path) -> None:
    preds, labels = write_panoptic(tmp_path, [(0, ROAD, LEFT)], [(0, ROAD, LEFT, 1)])
    mean = evaluate_instances(preds, labels)["mean"]
    assert (mean["pq"], mean["pq_things"], mean["pq_stuff"]) == (1, None, 1)


@pytest.fixture
def panoptic(tmp_path: Path) -> tuple[Path, Path]:
    pair: tuple[Path, Path] = write_panoptic(tmp_path, [(0, CAR, LEFT)], [(0, CAR, LEFT, 1)])
    return pair


def first_segment(document: Any) -> Any:
    return document["annotations"][0]["segments_info"][0]


@pytest.mark.parametrize(
    ("side", "change", "text"),
    [
        (0, lambda table: table.pop("annotations"), "no list 'annotations'"),
        (0, lambda table: table["annotations"].clear(), "no prediction for 1 of 1 image"),
        (0, lambda table: table["annotations"].extend(table["annotations"]), "two annotations"),
        (0, lambda table: first_segment(table).update(category_id=9), "1 segment of categories"),
        (0, lambda table: first_segment(table).pop("id"), "has no 'id'"),
        (0, lambda table: first_segment(table).update(id=8), "its segments aren't those in"),
        (0, lambda table: table["annotations"][0].update(file_name="b.png"), "no such file"),
        (0, lambda table: table["annotations"][0].update(file_name=5), "expected a text"),
        (1, lambda table: table["annotations"][0].update(file_name=["b.png"]), "expected a text"),
        (1, lambda table: table.pop("categories"), "no list 'categories'"),
        (1, lambda table: table["categories"][0].pop("isthing"), "has no 'isthing'"),
        (1, lambda table: table["annotations"].clear(), "nothing to score"),
        (1, lambda table: first_segment(table).update(category_id=9), "1 segment of categories"),
        (1, lambda table: first_segment(table).pop("area"), "has no 'area'"),
        (1, lambda table: first_segment(table).update(area=5000), "exceed 80×60 pixels"),
        (1, lambda table: first_segment(table).update(area="big"), "not a number"),
        (1, lambda table: first_segment(table).update(area=0), "aren't those of its segments"),
        (1, lambda table: table["annotations"][0].update(segments_info=4), "is no list"),
    ],
)
def test_a_faulty_panoptic_file_is_named(
    panoptic: tuple[Path, Path], side: int, change: Callable[[Any], object], text: str
) -> None:
    edited(panoptic[side], change)
    told = fault(*panoptic)
    assert told.startswith(str(panoptic[side].with_suffix("")))
    assert text in told


@pytest.mark.parametrize(
    ("picture", "text"),
    [
        (Image.new("RGB", (40, 30)), "40×30, but"),
        (Image.new("P", SIZE[::-1]), "mode P; expected a panoptic PNG in RGB"),
        (None, "panoptic map"),
    ],
)
def test_a_faulty_panoptic_picture_is_named(
    panoptic: tuple[Path, Path], picture: Image.Image | None, text: str
) -> None:
    path = panoptic[0].with_suffix("") / "0.png"
    if picture is None:
        path.write_bytes(path.read_bytes()[:60])
    else:
        picture.save(path)
    told = fault(*panoptic)
    assert told.startswith(f"{path}: ")
    assert text in told


@pytest.mark.parametrize("name", ["0.png/", "./0.png", "0.png/../0.png"])
@pytest.mark.parametrize("side", [0, 1])
def test_panoptic_pictures_are_found_by_every_name_that_is_theirs(
    panoptic: tuple[Path, Path], name: str, side: int
) -> None:
    expected = evaluate_instances(*panoptic)
    edited(panoptic[side], lambda table: table["annotations"][0].update(file_name=name))
    assert evaluate_instances(*panoptic) == expected


def test_predicted_panoptic_images_without_ground_truth_are_stated(
    panoptic: tuple[Path, Path],
) -> None:
    preds, labels = panoptic
    edited(
        preds,
        lambda table: table["annotations"].append(table["annotations"][0] | {"image_id": "more"}),
    )
    assert evaluate_instances(preds, labels)["notes"] == [
        "1 predicted image without ground truth (more)"
    ]
