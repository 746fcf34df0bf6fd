"""`segfix fix` on folders as data sets have them: what is taken, what is counted, what is said."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.cli.commands import flat, run, run_json


@pytest.fixture
def weights(conditioned_onnx: Path) -> tuple[object, ...]:
    return ("--weights", conditioned_onnx)


def write_coco(path: Path, *stems: str) -> None:
    """Write the right half of each photograph of `work` as COCO's annotations."""
    ring = [22, 0, 40, 0, 40, 24, 22, 24]
    items = [
        {"id": n, "image_id": n, "category_id": 1, "iscrowd": 0, "segmentation": [ring]}
        for n, _ in enumerate(stems)
    ]
    images: list[dict[str, Any]] = [
        {"id": n, "file_name": f"{stem}.png", "width": 40, "height": 24}
        for n, stem in enumerate(stems)
    ]
    categories = [{"id": 1, "name": "x"}]
    document = {"images": images, "annotations": items, "categories": categories}
    path.write_text(json.dumps(document))


def test_coco_json_may_lie_beside_its_photographs(work: Path, weights: tuple[object, ...]) -> None:
    pytest.importorskip("pycocotools")
    write_coco(Path("images/_annotations.coco.json"), *"abc")
    Path("images/readme.txt").touch()
    done = run("fix", "images", "images", *weights)
    assert (done.exit_code, done.stdout) == (
        0,
        "fixed: 1 written, 1 passed over: 1 .txt; 3 of 3 instances changed\n",
    )
    for split, stems in (("train", "ab"), ("valid", "c")):
        Path("data", split).mkdir(parents=True)
        for stem in stems:
            shutil.copy(f"images/{stem}.png", f"data/{split}")
        write_coco(Path("data", split, "_annotations.coco.json"), *stems)
    done = run("fix", "data", "data", "-r", *weights, "-o", "again")
    assert done.stdout == "again: 2 written; 3 of 3 instances changed\n"
    made = run("predict-offsets", "images", "--preds", "images", *weights)
    assert made.stdout == "offsets: 3 written, 1 passed over: 1 .txt\n"
    assert "images holds instances" in run("audit", "images", "images", *weights).stderr


def test_label_maps_in_a_folder_with_json_stay_label_maps(
    work: Path, weights: tuple[object, ...]
) -> None:
    for stem in "abc":
        shutil.copy(f"preds/{stem}.png", f"images/{stem}_pred.png")
    write_coco(Path("images/all.json"), *"abc")
    Path("images/readme.txt").touch()
    done = run("fix", "images", "images", *weights)
    assert "6 written, 2 passed over: 1 .json, 1 .txt" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_what_lies_beside_instances_is_counted(work: Path, weights: tuple[object, ...]) -> None:
    pytest.importorskip("shapely", reason="needs the extra: pip install 'segfix-refine[polygons]'")
    Path("labelme").mkdir()
    points = [[22, 0], [40, 0], [40, 24], [22, 24]]
    shape = {"label": "x", "points": points, "shape_type": "polygon"}
    document = {"version": "5.5.0", "shapes": [shape], "imagePath": "a.png"}
    Path("labelme/a.json").write_text(json.dumps(document))
    shutil.copy("images/a.png", "labelme/a.png")
    Path("labelme/readme.txt").touch()
    Path("labelme/b.json").symlink_to("nowhere.json")
    told = " 2 passed over: 1 .txt, 1 dangling link"
    assert told in run("fix", "images", "labelme", *weights).stdout
    told = f"1 written,{told}"
    assert told in run("fix", "labelme", "labelme", *weights, "-o", "again").stdout
    assert run("predict-offsets", "images", *weights).exit_code == 0
    assert told in run("refine", "labelme").stdout


def test_photographs_without_a_prediction_are_counted(
    work: Path, weights: tuple[object, ...]
) -> None:
    for stem in "bc":
        for folder in ("preds", "labels"):
            Path(folder, f"{stem}.png").unlink()
    done = run("fix", "images", "preds", *weights, "--keep-offsets", "kept")
    assert (done.exit_code, done.stderr) == (0, "weights conditioned on cpu\n")
    assert done.stdout.startswith(
        "fixed: 1 written, 2 photographs without a prediction (b.png, c.png); 5.00%"
    )
    audited = run("audit", "images", "labels", *weights)
    assert audited.stdout.startswith(
        "audit: 1 written, 2 photographs without a label map (b.png, c.png); "
    )
    # Neither results of ours, nor predictions among the photographs, nor those of one file.
    shutil.copy("kept/a.png", "images/a_offsets.png")
    shutil.copytree("preds", "images/preds")
    report = run_json("fix", "images", "images/preds", "-r", *weights, "-o", "again")
    assert (len(report["done"]), report["unpaired"]) == (1, 2)
    assert report["unpaired_names"] == [f"{Path('images', name)}" for name in ("b.png", "c.png")]
    assert "without" not in run("fix", "images", "preds/a.png", *weights).stdout


def test_photographs_without_instances_are_counted(work: Path, weights: tuple[object, ...]) -> None:
    pytest.importorskip("pycocotools")
    write_coco(Path("coco.json"), "a", "b")
    document = json.loads(Path("coco.json").read_text())
    del document["annotations"][1]
    Path("coco.json").write_text(json.dumps(document))
    # Of b, it is known that it has none.
    done = run("fix", "images", "coco.json", *weights)
    told = "1 written, 1 photograph without a prediction (c.png); 1 of 1 instance"
    assert done.stdout.startswith(f"coco_fixed.json: {told}")


def test_a_data_set_of_ultralytics_is_read_with_its_folders(
    work: Path, weights: tuple[object, ...]
) -> None:
    pytest.importorskip("shapely", reason="needs the extra: pip install 'segfix-refine[polygons]'")
    for split, stems in (("train", "ab"), ("val", "c")):
        for folder in ("images", "labels"):
            Path("set", folder, split).mkdir(parents=True)
        for stem in stems:
            shutil.copy(f"images/{stem}.png", f"set/images/{split}")
            Path(f"set/labels/{split}/{stem}.txt").write_text("0 0.55 0 1 0 1 1 0.55 1\n")
    for command in (("fix", "set", "set"), ("fix", "set/images", "set"), ("refine", "set")):
        done = run(*command)
        assert (done.exit_code, done.stdout) == (2, "")
        advice = "take set/labels, or add data.yaml."
        told = f"set: YOLO's labels lie in set/labels, and no data.yaml is here; {advice}"
        assert done.stderr.replace("\\", "/") == f"segfix: {told}\n"
    Path("set/data.yaml").write_text("names: {0: x}\n")
    told = "3 written; 3 of 3 instances changed"
    for images in ("set", "set/images"):
        done = run("fix", images, "set", *weights, "-o", f"fixed_{len(images)}")
        assert (done.exit_code, told in done.stdout) == (0, True), done.output
    assert run("predict-offsets", "set/images", "-r", *weights).exit_code == 0
    done = run("refine", "set")
    assert (done.exit_code, told in done.stdout) == (0, True), done.output
    assert Path("refined/labels/val/c.txt").is_file()


def test_one_thing_is_told_in_the_singular(work: Path, weights: tuple[object, ...]) -> None:
    pytest.importorskip("pycocotools")
    write_coco(Path("images/a.json"), "a")
    done = run("fix", "images/a.png", "images/a.json", *weights, "--keep-offsets", "offsets")
    assert "1 of 1 instance changed" in done.stdout
    Path("preds/b.png").unlink()
    Path("preds/c.png").unlink()
    done = run("refine", "preds")
    told = "1 of 1 offset map was made for other predictions, such as that of preds"
    assert told in done.stderr


def test_videos_are_sent_to_the_command_that_takes_them(
    work: Path, weights: tuple[object, ...]
) -> None:
    Path("clip.mp4").touch()
    for command in ("fix", "audit"):
        done = run(command, "clip.mp4", "preds", *weights)
        assert done.exit_code == 2
        assert "clip.mp4: a video, not a photograph; 'segfix predict-offsets" in flat(done.stderr)
    shutil.copy("clip.mp4", "images")
    told = run("fix", "images", "preds", *weights).stdout
    assert "1 .mp4 (videos go to predict-offsets)" in told


@pytest.mark.parametrize("name", ["{}_mask", "lab_{}"])
def test_label_maps_beside_their_photographs_are_not_taken_for_these(
    work: Path, weights: tuple[object, ...], name: str
) -> None:
    Path("all").mkdir()
    for number, stem in enumerate("abc"):
        Image.open(f"images/{stem}.png").save(f"all/{number}.jpg")
        shutil.copy(f"preds/{stem}.png", f"all/{name.format(number)}.png")
    done = run("fix", "all", "all", *weights)
    assert done.exit_code == 0, done.stderr
    assert "fixed: 3 written; " in done.stdout
    for number in range(3):
        label_map = f"{name.format(number)}.png"
        done = run("fix", f"all/{number}.jpg", f"all/{label_map}", "-o", "alone", *weights)
        assert done.exit_code == 0, done.stderr
        assert Path("fixed", label_map).read_bytes() == Path("alone", label_map).read_bytes()
    done = run("fix", "preds", "preds", *weights, "-o", "none")
    assert done.exit_code == 2
    assert "these are the same files" in done.stderr


def test_a_file_without_instances_is_written_as_it_is(
    work: Path, weights: tuple[object, ...]
) -> None:
    pytest.importorskip("pycocotools")
    write_coco(Path("empty.json"), *"abc")
    document = {**json.loads(Path("empty.json").read_text()), "annotations": []}
    Path("empty.json").write_text(json.dumps(document))
    Path("results.json").write_text("[]")
    Path("a.txt").write_text("")
    for preds in ("empty.json", "results.json", "a.txt"):
        done = run("fix", "images/a.png", preds, *weights, "-o", f"fixed/{preds}")
        assert done.exit_code == 0, done.stderr
        assert "1 written; 0 of 0 instances changed" in done.stdout
        assert Path("fixed", preds).read_bytes() == Path(preds).read_bytes()
