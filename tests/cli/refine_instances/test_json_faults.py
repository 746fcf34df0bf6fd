"""`segfix refine` on faulty JSON of instances and with options that do not fit it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.refine_instances.instance_files import (
    FOUND,
    SIZE,
    compressed,
    decoded,
    items_of,
    out_of,
    polygons,
    refined,
    run,
    sam_list,
    write_dataset,
    write_json,
    write_results,
    write_sam,
    write_ultralytics,
)


@pytest.mark.parametrize(
    ("segmentation", "text"),
    [
        ({"size": [40, 60], "counts": [2000]}, "runs of 2000 pixels in all"),
        ({"size": [40, 60], "counts": [2401, -1]}, "broken run lengths"),
        ({"size": [40, 60], "counts": [2**62] * 4}, "a run of 4611686018427387904 pixels"),
        ({"size": [40, 60], "counts": [10**30]}, "broken run lengths"),
        ({"size": [40, 60], "counts": "oooooooooo0"}, "broken run lengths"),
        ({"size": [40, 60], "counts": "é"}, "codec"),
        ({"size": [40, 60], "counts": {}}, "broken run lengths"),
        ({"size": [60, 40], "counts": [2400]}, "40×60 pixels, not 60×40"),
        ({"size": [10**9, 10**9], "counts": [10**18]}, "1000000000×1000000000 pixels, not 60×40"),
        ({"size": 3, "counts": [2400]}, "neither run lengths nor polygons"),
        ({"counts": [2400]}, "neither run lengths nor polygons"),
        ([[1, 1, 5, 5]], "three points or more"),
        ([[1, 1, 5, 5, float("nan"), 2]], "far outside"),
        ([[1, 1, 5, 5, 9, float("inf")]], "beyond 60×40"),
        ([[1, 1, 300, 1, 300, 5]], "polygons up to x = 300, y = 5, beyond 60×40 pixels"),
        ([[[[[1]]]]], "polygon 0 is no list of numbers"),
        ([[1, 1, 5, 5, "a", 2]], "polygon 0 is no list of numbers"),
        ([[1, 1, 5, 1, 5, 5], [1, [2]]], "polygon 1 is no list of numbers"),
        ([[1, 1, 5, 1, 5, 5, 7]], "polygon 0 has 7 numbers, not x and y in turn"),
        ([1, 1, 5, 1, 5, 5], "polygon 0 is no list of numbers"),
        ([[1, 1, 1e308, 1, 300, 5]], "polygons up to x = 1e+308, y = 5, beyond 60×40 pixels"),
        ("text", "neither run lengths nor polygons; expected 'size' and 'counts', or lists"),
        (True, "neither run lengths nor polygons"),
    ],
)
def test_a_broken_mask_is_named_and_other_images_are_done(segmentation: Any, text: str) -> None:
    path = write_results(Path("preds"))
    items = items_of(path)
    items[4]["segmentation"] = segmentation
    write_json(path, items)
    done = run(path)
    assert done.exit_code == 1
    (told,) = (line for line in done.stderr.splitlines() if line.startswith("failed: "))
    assert told.startswith("failed: preds/x.json: image 12: the mask of instance 4 is broken, or")
    assert text in told
    assert "offsets/b.png" in told
    after = items_of(out_of(path))
    assert json.dumps(after[4:]) == json.dumps(items[4:])
    assert np.array_equal(decoded(after[0]["segmentation"]), refined(FOUND[7][0]))
    assert np.array_equal(decoded(after[3]["segmentation"]), refined(FOUND[12][0])), "its neighbour"


def test_polygons_of_a_dataset_of_other_size_are_refused() -> None:
    document = json.loads(write_dataset(Path("preds")).read_text())
    for image in document["images"]:
        image["width"] = 61
    for item in document["annotations"]:
        item["segmentation"] = polygons(decoded(item["segmentation"]))
    done = run(write_json(Path("preds/x.json"), document))
    assert done.exit_code == 1
    assert "61×40 pixels, not 60×40" in done.stderr


def test_normalised_polygons_of_ultralytics_are_refused() -> None:
    path = write_ultralytics(Path("preds"))
    items = items_of(path)
    items[0]["segments"] = {"x": [0.1, 0.5, 0.5], "y": [0.1, 0.1, 0.5]}
    done = run(write_json(path, items))
    assert done.exit_code == 1
    assert "normalize=False" in done.stderr


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "not a whole JSON file"),
        ("[" * 100_000, "not a whole JSON file"),
        ("[1" + "0" * 10_000 + "]", "not a whole JSON file"),
        ("3", "no list 'annotations'"),
        ('{"images": []}', "no list 'annotations'"),
        ("[3]", "results[0] has no 'segmentation'"),
        ('[{"image_id": 7, "bbox": [1, 2, 3, 4]}]', "results[0] has no 'segmentation'"),
        ('[{"segments": {"x": [1, 2], "y": [1]}}]', "results[0] has no 'segmentation'"),
        ('[{"segmentation": [], "image_id": 7}, {"segmentation": []}]', "has no 'image_id'"),
        ('[{"segmentation": [], "image_id": [7]}]', "expected a number or a text"),
        ('{"images": 3, "annotations": [{"segmentation": [], "image_id": 7}]}', "images is no"),
    ],
)
def test_a_faulty_file_is_named(content: str, text: str) -> None:
    write_sam(Path("preds"))
    Path("preds/x.json").write_text(content)
    done = run("preds")
    assert done.exit_code == 1
    (told,) = (line for line in done.stderr.splitlines() if line.startswith("failed: "))
    assert told.startswith("failed: preds/x.json: ")
    assert text in told
    assert Path("refined/a.json").exists()
    assert not Path("refined/x.json").exists()


def test_a_json_nested_deep_in_other_keys_does_not_crash() -> None:
    text = json.dumps(sam_list())
    deep = '"deep": ' + "[" * 900 + "]" * 900 + ", "
    Path("preds").mkdir()
    Path("preds/a.json").write_text(text.replace("[{", "[{" + deep, 1))
    assert run("preds/a.json").exit_code in (0, 1)


def test_max_failures_gives_up_on_the_images_of_a_file() -> None:
    items = [
        {"image_id": number, "segmentation": compressed(FOUND[7][0])} for number in range(100, 130)
    ]
    path = write_json(
        Path("preds/x.json"), [items[0] | {"image_id": 1, "file_name": "a.jpg"}, *items]
    )
    done = run(path, "--max-failures", "2", "--workers", "1")
    assert done.exit_code == 1
    assert "not tried (--max-failures)" in done.stdout


def test_options_that_would_be_ignored_are_refused() -> None:
    write_json(Path("names.json"), {"images": []})
    Path("preds").mkdir()
    Image.new("L", SIZE[::-1]).save("preds/a.png")
    done = run("preds", "--annotations", "names.json")
    assert done.exit_code == 2
    assert "--annotations is not for label maps" in " ".join(done.stderr.split())
    path = write_json(Path("x.json"), [])
    for option in (["--fit", "image"], ["--soft"], ["--argmax"], ["--key", "a"]):
        done = run(path, *option)
        assert done.exit_code == 2
        assert f"{option[0]} is not for files of instances" in " ".join(done.stderr.split())


def test_without_the_extra_the_advice_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'pycocotools'", name="pycocotools")

    monkeypatch.setattr("segfix.instances.photographs.decode_mask", absent)
    done = run(write_sam(Path("preds")))
    assert done.exit_code == 1
    assert "pip install 'segfix-refine[eval]'" in done.stderr
