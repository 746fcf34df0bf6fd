"""AP and PQ on files so small that the scores are known, and what is said of faulty files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from segfix.cli import main
from segfix.errors import FileFormatError, PairingError, SegfixError
from segfix.evaluation import evaluate_instances, is_instance_input

pytest.importorskip("pycocotools", reason="needs the extra: pip install 'segfix-refine[eval]'")
pytest.importorskip(
    "cityscapesscripts", reason="needs the extra: pip install 'segfix-refine[eval]'"
)

SIZE = (60, 80)
CAR, PERSON, TRUCK, ROAD = 26, 24, 27, 7
Box = tuple[int, int, int, int]
"""Top, left, height, width."""

LEFT, RIGHT = (5, 5, 20, 20), (5, 45, 20, 20)
Write = Callable[..., tuple[Path, Path]]


def mask(box: Box) -> NDArray[np.bool_]:
    top, left, height, width = box
    array = np.zeros(SIZE, bool)
    array[top : top + height, left : left + width] = True
    return array


def polygon(box: Box) -> list[list[int]]:
    top, left, height, width = box
    bottom, right = top + height, left + width
    return [[left, top, right, top, right, bottom, left, bottom]]


def runs(array: NDArray[np.bool_]) -> dict[str, Any]:
    """Run lengths, column after column, starting with the background; not compressed."""
    flat = array.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": list(array.shape), "counts": [0, *counts] if flat[0] else counts}


def compressed(array: NDArray[np.bool_]) -> dict[str, Any]:
    from pycocotools import mask as masks

    rle = masks.encode(np.asfortranarray(array, np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def write_json(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


# --- The same objects in each format: (image, class, box[, score]) ---


def write_coco(folder: Path, truth: list[Any], found: list[Any], crowds: list[Any] = []) -> Any:  # noqa: B006
    """A result JSON and an annotation JSON. Ids start at 0, as they may."""
    images = {image for image, *_ in [*truth, *found, *crowds]} | {0}
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "segmentation": runs(mask(box)) if crowd else polygon(box),
            "area": box[2] * box[3],
            "iscrowd": int(crowd),
        }
        for number, (image, category, box, crowd) in enumerate(
            [(*item, False) for item in truth] + [(*item, True) for item in crowds]
        )
    ]
    results = [
        {
            "image_id": image,
            "category_id": category,
            "segmentation": compressed(mask(box)),
            "score": score,
        }
        for image, category, box, score in found
    ]
    labels = {
        "images": [{"id": image, "height": SIZE[0], "width": SIZE[1]} for image in sorted(images)],
        "categories": [
            {"id": CAR, "name": "car"},
            {"id": PERSON, "name": "person"},
            {"id": TRUCK, "name": "truck"},
        ],
        "annotations": annotations,
    }
    folder.mkdir(exist_ok=True)
    return write_json(folder / "preds.json", results), write_json(folder / "labels.json", labels)


def stem(image: int) -> str:
    return f"town_000000_{image:06}"


def write_cityscapes(
    folder: Path,
    truth: list[Any],
    found: list[Any],
    crowds: list[Any] = [],  # noqa: B006
) -> Any:
    preds, labels = folder / "preds", folder / "labels"
    (labels / "town").mkdir(parents=True)
    preds.mkdir()
    for image in {image for image, *_ in [*truth, *found, *crowds]} | {0}:
        ids = np.full(SIZE, ROAD, np.uint16)
        for _, category, box in (item for item in crowds if item[0] == image):
            ids[mask(box)] = category
        for number, (_, category, box) in enumerate(item for item in truth if item[0] == image):
            ids[mask(box)] = category * 1000 + number
        Image.fromarray(ids).save(labels / "town" / f"{stem(image)}_gtFine_instanceIds.png")
        lines = []
        for number, (_, category, box, score) in enumerate(
            item for item in found if item[0] == image
        ):
            name = f"{stem(image)}_{number}.png"
            Image.fromarray(mask(box).astype(np.uint8) * 255).save(preds / name)
            lines.append(f"{name} {category} {score}\n")
        (preds / f"{stem(image)}_leftImg8bit_pred.txt").write_text("".join(lines))
    return preds, labels


def write_panoptic(
    folder: Path,
    truth: list[Any],
    found: list[Any],
    crowds: list[Any] = [],  # noqa: B006
) -> Any:
    """Things are cars, persons and trucks; the rest of the truth is void."""
    folder.mkdir(exist_ok=True)
    paths = []
    for name, objects in (("preds", found), ("labels", [*truth, *crowds])):
        (folder / name).mkdir()
        annotations = []
        for image in sorted({image for image, *_ in [*truth, *found, *crowds]} | {0}):
            ids = np.zeros(SIZE, np.int64)
            segments = []
            for number, item in enumerate(objects):
                if item[0] == image:
                    # Beyond 255, so that all three channels matter.
                    ids[mask(item[2])] = 70_000 + number
                    segments.append(
                        {
                            "id": 70_000 + number,
                            "category_id": item[1],
                            "area": item[2][2] * item[2][3],
                            "iscrowd": int(item in crowds),
                        }
                    )
            rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
            Image.fromarray(rgb).save(folder / name / f"{image}.png")
            annotations.append(
                {"image_id": image, "file_name": f"{image}.png", "segments_info": segments}
            )
        document: dict[str, Any] = {"annotations": annotations}
        if name == "labels":
            document["categories"] = [
                {"id": CAR, "name": "car", "isthing": 1},
                {"id": PERSON, "name": "person", "isthing": 1},
                {"id": TRUCK, "name": "truck", "isthing": 1},
                {"id": ROAD, "name": "road", "isthing": 0},
            ]
        paths.append(write_json(folder / f"{name}.json", document))
    return tuple(paths)


FORMATS = {"coco": write_coco, "cityscapes": write_cityscapes, "panoptic": write_panoptic}
every_format = pytest.mark.parametrize("kind", FORMATS)
with_scores = pytest.mark.parametrize("kind", ["coco", "cityscapes"])


def scored(kind: str, folder: Path, *objects: Any) -> dict[str, Any]:
    write: Write = FORMATS[kind]
    preds, labels = write(folder, *objects)
    assert is_instance_input(preds)
    result = evaluate_instances(preds, labels)
    assert result["kind"] == kind
    json.dumps(result, allow_nan=False)
    return result


# --- Scores known in closed form ---


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


def test_panoptic_of_two_instances_one_is_missed(tmp_path: Path) -> None:
    truth = [(0, CAR, LEFT), (0, CAR, RIGHT)]
    result = scored("panoptic", tmp_path / "x", truth, [(0, CAR, LEFT, 1)])
    assert result["class"]["car"] == pytest.approx({"pq": 2 / 3, "sq": 1, "rq": 2 / 3})
    assert result["mean"]["pq"] == result["mean"]["pq_things"] == pytest.approx(2 / 3)
    assert result["mean"]["pq_stuff"] is None


@with_scores
def test_an_iou_of_0_68_counts_at_thresholds_below_it(kind: str, tmp_path: Path) -> None:
    result = scored(kind, tmp_path / "x", [(0, CAR, (5, 5, 50, 20))], [(0, CAR, (5, 5, 34, 20), 1)])
    assert result["mean"]["ap50"] == pytest.approx(1)
    assert result["mean"]["ap"] == pytest.approx(0.4)
    if kind == "coco":
        assert result["mean"]["ap75"] == 0
        assert result["class"]["car"] == pytest.approx({"ap": 0.4, "ap50": 1, "ap75": 0})


def test_panoptic_quality_is_the_iou_of_what_is_matched(tmp_path: Path) -> None:
    # In the truth all else is void, in which a prediction may end.
    truth, found = [(0, CAR, (5, 5, 50, 20))], [(0, CAR, (5, 5, 34, 20), 1)]
    result = scored("panoptic", tmp_path / "x", truth, found)
    assert result["class"]["car"] == pytest.approx({"pq": 0.68, "sq": 0.68, "rq": 1})


@pytest.mark.parametrize(
    ("kind", "rows", "ap50"),
    [("coco", 25, 1), ("coco", 24, 0), ("cityscapes", 25, 0), ("cityscapes", 26, 1)],
)
def test_an_iou_of_exactly_one_half_is_a_match_on_coco_only(
    kind: str, rows: int, ap50: float, tmp_path: Path
) -> None:
    objects = [(0, CAR, (5, 5, 50, 20))], [(0, CAR, (5, 5, rows, 20), 1)]
    assert scored(kind, tmp_path / "x", *objects)["mean"]["ap50"] == pytest.approx(ap50)


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


def test_a_class_whose_predictions_are_all_ignored_is_missed_on_cityscapes(tmp_path: Path) -> None:
    # The script itself crashes here.
    objects = [(0, CAR, LEFT)], [(0, CAR, RIGHT, 0.9)], [(0, CAR, (0, 40, 60, 40))]
    result = scored("cityscapes", tmp_path / "x", *objects)
    assert result["class"]["car"] == {"ap": 0, "ap50": 0}
    assert result["mean"] == {"ap": 0, "ap50": 0}


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


def test_compressed_runs_of_any_mask_are_whole(tmp_path: Path) -> None:
    from segfix.instances.masks import decode_runs

    rng = np.random.default_rng(1)
    for share in (0, 0.001, 0.01, 0.5, 0.99, 1):
        array = rng.random((70, 900)) < share
        decoded = decode_runs(compressed(array)["counts"]).tolist()
        assert decoded == runs(array)["counts"]


def test_panoptic_files_may_hold_stuff_alone(tmp_path: Path) -> None:
    preds, labels = write_panoptic(tmp_path, [(0, ROAD, LEFT)], [(0, ROAD, LEFT, 1)])
    mean = evaluate_instances(preds, labels)["mean"]
    assert (mean["pq"], mean["pq_things"], mean["pq_stuff"]) == (1, None, 1)


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


# --- Which kind it is ---


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


# --- Faulty files: one line that names the file ---


def fault(preds: Path, labels: Path) -> str:
    with pytest.raises(SegfixError) as caught:
        evaluate_instances(preds, labels)
    text = str(caught.value)
    assert "\n" not in text
    return text


def edited(path: Path, change: Callable[[Any], object]) -> Path:
    document = json.loads(path.read_text())
    change(document)
    return write_json(path, document)


@pytest.fixture
def coco(tmp_path: Path) -> tuple[Path, Path]:
    pair: tuple[Path, Path] = write_coco(tmp_path, [(0, CAR, LEFT)], [(0, CAR, LEFT, 1)])
    return pair


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
        ("image_id", 5, "1 of 1 results are of images that"),
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
    assert result["notes"] == ["1 of 2 results are of unknown categories (99): not counted"]


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
    assert result["notes"] == ["1 annotations state no area: their masks' is taken"]


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
        "2 instances are of class ids that Cityscapes doesn't score (260, 7): not counted"
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
        (0, lambda table: table["annotations"].clear(), "no prediction for 1 of 1 images"),
        (0, lambda table: table["annotations"].extend(table["annotations"]), "two annotations"),
        (0, lambda table: first_segment(table).update(category_id=9), "1 segments are of"),
        (0, lambda table: first_segment(table).pop("id"), "has no 'id'"),
        (0, lambda table: first_segment(table).update(id=8), "its segments aren't those in"),
        (0, lambda table: table["annotations"][0].update(file_name="b.png"), "no such file"),
        (0, lambda table: table["annotations"][0].update(file_name=5), "expected a text"),
        (1, lambda table: table["annotations"][0].update(file_name=["b.png"]), "expected a text"),
        (1, lambda table: table.pop("categories"), "no list 'categories'"),
        (1, lambda table: table["categories"][0].pop("isthing"), "has no 'isthing'"),
        (1, lambda table: table["annotations"].clear(), "nothing to score"),
        (1, lambda table: first_segment(table).update(category_id=9), "1 segments are of"),
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
        "1 predicted images without ground truth (more)"
    ]


def test_results_and_annotations_of_other_kinds_are_told_apart(
    coco: tuple[Path, Path], tmp_path: Path
) -> None:
    preds, labels = write_panoptic(tmp_path / "panoptic", [(0, CAR, LEFT)], [(0, CAR, LEFT, 1)])
    with pytest.raises(FileFormatError):
        evaluate_instances(coco[0], labels)
    with pytest.raises(FileFormatError):
        evaluate_instances(preds, coco[1])


# --- The command ---


def report(preds: Path, labels: Path, against: dict[str, Path], *options: str) -> Result:
    sets = [word for name, path in against.items() for word in ("--against", f"{name}={path}")]
    arguments = ["evaluate", *map(str, (preds, labels)), *sets, *options]
    return CliRunner().invoke(main, arguments)


Sets = tuple[Path, Path, dict[str, Path]]


@pytest.fixture
def sets(tmp_path: Path) -> Sets:
    truth = [(0, CAR, LEFT), (0, PERSON, RIGHT)]
    preds, labels = write_coco(tmp_path, truth, [(0, CAR, LEFT, 1)])
    better, _ = write_coco(tmp_path / "better", truth, [(*item, 1) for item in truth])
    return preds, labels, {"refined": better}


def test_the_table_compares_sets_and_classes(sets: Sets) -> None:
    done = report(*sets)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["1", "images", "PREDS", "refined"]
    assert lines[1] == ["AP", "50.00", "100.00", "+50.00"]
    assert ["AP", "medium", "–", "–"] in lines
    assert ["AP", "of", "PREDS", "refined"] in lines
    assert ["person", "0.00", "100.00", "+100.00"] in lines
    assert ["truck", "–", "–"] in lines


def test_the_json_holds_every_set(sets: Sets) -> None:
    answer = json.loads(report(*sets, "--json").stdout)
    assert answer["failed"] == []
    assert answer["sets"]["refined"]["mean"]["ap"] == pytest.approx(1)
    assert answer["sets"]["PREDS"]["class"]["person"]["ap"] == 0


def test_the_csv_has_a_line_per_set_class_and_score(sets: Sets) -> None:
    rows = list(csv.DictReader(io.StringIO(report(*sets, "--csv").stdout)))
    values = {(row["set"], row["class"], row["score"]): row["value"] for row in rows}
    assert len(values) == len(rows)
    assert float(values["PREDS", "", "ap"]) == pytest.approx(0.5)
    assert float(values["refined", "person", "ap50"]) == pytest.approx(1)
    assert values["PREDS", "", "ap_large"] == ""


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_notes_name_their_set_and_quiet_leaves_them_out(sets: Sets, form: list[str]) -> None:
    preds, labels, against = sets
    write_json(preds, [])
    done = report(preds, labels, against, *form)
    assert done.stderr == "PREDS: 1 of 1 images have no result: their objects are missed\n"
    quiet = report(preds, labels, against, *form, "-q")
    assert (quiet.stdout, quiet.stderr) == (done.stdout, "")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_set_that_fails_leaves_the_others(sets: Sets, options: list[str], tmp_path: Path) -> None:
    preds, labels, against = sets
    broken = tmp_path / "broken.json"
    broken.write_text("[")
    done = report(preds, labels, {"broken": broken, **against}, *options)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"failed: {broken}: ")
    assert "refined" in done.stdout
    if options:
        assert len(json.loads(done.stdout)["failed"]) == 1
    first = report(broken, labels, against, *options)
    assert first.exit_code == 1
    assert "refined" in first.stdout
    assert "+" not in first.stdout


def test_a_missing_file_is_a_usage_error(sets: Sets, tmp_path: Path) -> None:
    preds, labels, _ = sets
    missing = tmp_path / "missing.json"
    for arguments in ((missing, labels), (preds, missing)):
        done = report(*arguments, {})
        assert (done.exit_code, done.stdout) == (2, "")
        assert f"{missing}: no such file" in done.stderr


@pytest.mark.parametrize("option", ["--errors", "--void=0", "--suffix=_mine", "--absent=skip"])
def test_options_of_label_maps_are_refused(sets: Sets, option: str) -> None:
    done = report(*sets, option)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{option.partition('=')[0]} is for label maps" in " ".join(done.stderr.split())


def test_faulty_ground_truth_is_told_once(sets: Sets) -> None:
    preds, labels, against = sets
    labels.write_text("{")
    done = report(preds, labels, against)
    assert (done.exit_code, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1


def test_without_the_extra_the_advice_names_it(sets: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'pycocotools'", name="pycocotools")

    monkeypatch.setattr("segfix.evaluation.evaluate_instances", absent)
    done = report(*sets)
    assert done.exit_code != 0
    assert "pip install 'segfix-refine[eval]'" in done.output
