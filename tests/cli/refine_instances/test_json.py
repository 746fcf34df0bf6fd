"""`segfix refine` on JSON of instances: the same file back, the pixels of the arrays' path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segfix.files.provenance import record_path
from tests.cli.refine_instances.instance_files import (
    IMAGES,
    KINDS,
    SIZE,
    TRUE,
    bounds,
    box,
    compressed,
    every_kind,
    items_of,
    masks_of,
    out_of,
    polygons,
    refined,
    run,
    sam_list,
    write_dataset,
    write_json,
    write_results,
    write_sam,
)


@every_kind
def test_offsets_that_lead_nowhere_give_the_same_file(kind: str) -> None:
    path = KINDS[kind](Path("preds"))
    done = run(path, "--offsets", "zeros")
    assert (done.exit_code, done.stderr) == (0, done.stderr)
    assert "; 0 of " in done.stdout
    # As text, so that the order of keys and the kinds of numbers count.
    before, after = (json.dumps(json.loads(file.read_text())) for file in (path, out_of(path)))
    assert after == before


@every_kind
@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ([], {}),
        (["--scale", "3"], {"scale": 3}),
        (["--scale", "1"], {"scale": 1}),
        (["--iterate", "4"], {"iterate": 4}),
        (["--min-confidence", "0.99"], {"min_confidence": 0.99}),
    ],
)
def test_masks_are_those_of_the_plain_path(
    kind: str, options: list[str], settings: dict[str, Any]
) -> None:
    path = KINDS[kind](Path("preds"))
    done = run(path, *options, "--simplify", 0, "-q")
    assert done.exit_code == 0, done.stderr
    before, after = masks_of(path), masks_of(out_of(path))
    assert len(before) == len(after) == (3 if "a" in path.stem else 5)
    for old, new, item in zip(before, after, items_of(out_of(path)), strict=True):
        assert np.array_equal(new, refined(old, **settings))
        assert settings == {"min_confidence": 0.99} or not np.array_equal(new, old)
        if np.array_equal(new, old):
            continue
        if "bbox" in item:
            assert item["bbox"] == bounds(new)
        if "box" in item:
            left, top, width, height = bounds(new)
            assert list(item["box"].values()) == [left, top, left + width, top + height]
        if "area" in item:
            assert item["area"] == new.sum()


@every_kind
def test_all_else_stays_as_it_is(kind: str) -> None:
    path = KINDS[kind](Path("preds"))
    assert run(path).exit_code == 0
    for old, new in zip(items_of(path), items_of(out_of(path)), strict=True):
        assert list(new) == list(old)
        masked = ("segmentation", "segments", "bbox", "box", "area")
        assert all(new[key] == old[key] for key in new if key not in masked)
        for key in {"bbox", "area"} & set(old):
            kinds = [
                {type(value) for value in (item[key] if key == "bbox" else [item[key]])}
                for item in (old, new)
            ]
            assert kinds[0] == kinds[1], "whole numbers stay whole, others don't"
        assert form_of(new) == form_of(old)


def form_of(item: dict[str, Any]) -> str:
    if "segments" in item:
        return "segments"
    if isinstance(item["segmentation"], list):
        return "polygons"
    return "plain" if isinstance(item["segmentation"]["counts"], list) else "compressed"


@every_kind
@pytest.mark.parametrize("form", ["polygons", "rle"])
def test_all_masks_are_written_in_the_form_asked_for(kind: str, form: str) -> None:
    path = KINDS[kind](Path("preds"))
    assert run(path, "--as", form, "--simplify", 0).exit_code == 0
    before, after = items_of(path), items_of(out_of(path))
    for old, new in zip(before, after, strict=True):
        was = form_of(old)
        if form == "polygons":
            assert form_of(new) == ("segments" if was == "segments" else "polygons")
        else:
            assert form_of(new) == ("plain" if was == "plain" else "compressed")
    run(path, "-o", "plain", "--simplify", 0)
    plain = Path("plain", path.name)
    for one, other in zip(masks_of(plain), masks_of(out_of(path)), strict=True):
        assert np.array_equal(one, other)


def test_the_rest_of_a_dataset_stays_as_it_is() -> None:
    path = write_dataset(Path("preds"))
    run(path)
    before, after = (json.loads(file.read_text()) for file in (path, out_of(path)))
    assert list(before) == list(after)
    assert (before["images"], before["categories"]) == (after["images"], after["categories"])


def test_the_fields_evaluator_reads_the_result_and_finds_it_better() -> None:
    path = write_results(Path("preds"))
    run(path, "--scale", "2")
    truth = json.loads(write_dataset(Path("truth")).read_text())
    truth["annotations"] = [
        {
            "id": 1 + 2 * number + place,
            "image_id": image,
            "category_id": 3,
            "iscrowd": 0,
            "area": int(mask.sum()),
            "segmentation": compressed(mask),
        }
        for number, image in enumerate(IMAGES)
        for place, mask in enumerate(TRUE)
    ]
    labels = write_json(Path("truth/x.json"), truth)
    from segfix.evaluation import evaluate_instances

    before, after = (evaluate_instances(file, labels)["mean"] for file in (path, out_of(path)))
    assert after["ap"] > before["ap"] + 0.1


def test_a_folder_of_files_is_a_batch_that_goes_on_after_failures() -> None:
    write_json(Path("preds/a.json"), sam_list())
    write_json(Path("preds/b.json"), [])
    write_json(Path("preds/c.json"), sam_list())
    Path("preds/broken.json").write_text("[{")
    done = run("preds", "--json")
    report = json.loads(done.stdout)
    assert done.exit_code == 1
    assert [Path(row["output"]).name for row in report["done"]] == ["a.json", "b.json"]
    assert len(report["failed"]) == 2
    assert report["failed"][0].startswith("preds/broken.json: not a whole JSON file")
    assert report["failed"][1].startswith("preds/c.json: image 'c': no offset map of that name; ")
    assert json.loads(Path("refined/b.json").read_text()) == []


@every_kind
def test_a_second_run_skips_and_changes_are_noticed(kind: str) -> None:
    path = KINDS[kind](Path("preds"))
    run(path)
    written = out_of(path).read_bytes()
    assert "0 written, 1 already there" in run(path).stdout
    for options in (["--scale", "2"], ["--empty", "drop"]):
        done = run(path, *options)
        assert done.exit_code == 1
        assert "--overwrite replaces it" in done.stderr
    path.write_text(path.read_text() + "\n")
    assert run(path).exit_code == 1
    assert out_of(path).read_bytes() == written
    assert run(path, "--overwrite", "--scale", "2").exit_code == 0
    assert out_of(path).read_bytes() != written


def test_a_file_that_is_not_ours_is_never_replaced_unasked() -> None:
    path = write_sam(Path("preds"))
    out_of(path).parent.mkdir()
    out_of(path).write_text("precious")
    done = run(path)
    assert done.exit_code == 1
    assert "refined/a.json: exists and is not what this run would make" in done.stderr
    assert out_of(path).read_text() == "precious"


def test_a_result_cut_short_is_made_again() -> None:
    path = write_sam(Path("preds"))
    run(path)
    whole = out_of(path).read_bytes()
    out_of(path).write_bytes(whole[:50])
    assert run(path).exit_code == 0
    assert out_of(path).read_bytes() == whole


def test_dying_while_writing_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sam(Path("preds"))
    run(path)
    before = out_of(path).read_bytes()

    def die(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("segfix.files.provenance.content_digest", die)
        run(path, "--overwrite", "--scale", "2")
    assert out_of(path).read_bytes() == before
    assert sorted(Path("refined").iterdir()) == [record_path(out_of(path)), out_of(path)]


def test_results_never_replace_what_is_read() -> None:
    path = write_sam(Path("preds"))
    assert run(path, "-o", "preds").exit_code == 2


@pytest.mark.parametrize("empty", ["keep", "drop"])
@every_kind
def test_an_instance_that_would_vanish_stays_and_is_flagged_or_is_left_out(
    kind: str, empty: str
) -> None:
    path = KINDS[kind](Path("preds"))
    # A line beside the true object, from which every offset leads away.
    thin = box(8, 9, 16, 1)
    assert not refined(thin).any()
    document = json.loads(path.read_text())
    items = document if isinstance(document, list) else document["annotations"]
    if "segments" in items[1]:
        (polygon,) = polygons(thin)
        items[1]["segments"] = {"x": polygon[::2], "y": polygon[1::2]}
    else:
        form = polygons if isinstance(items[1]["segmentation"], list) else compressed
        items[1]["segmentation"] = form(thin)
    write_json(path, document)
    before = items_of(path)
    done = run(path, "--empty", empty, "--json", "-q")
    report = json.loads(done.stdout)
    assert done.exit_code == 0
    (emptied,) = report["emptied"]
    assert emptied["place"] == 1
    assert emptied["id"] == before[1].get("id")
    after = items_of(out_of(path))
    assert len(after) == len(before) - (empty == "drop")
    assert (before[1] in after) == (empty == "keep")
    text = run(path, "--empty", empty, "--overwrite").stdout
    told = "1 instance would have vanished and stays as it was"
    told = told if empty == "keep" else "1 instance of which nothing was left is left out"
    assert told in text


@pytest.mark.parametrize("empty", ["keep", "drop"])
def test_masks_that_were_empty_stay_unless_dropped(empty: str) -> None:
    items = [*sam_list(), {"segmentation": compressed(np.zeros(SIZE, bool)), "area": 0}]
    items.append({"segmentation": []})
    path = write_json(Path("preds/a.json"), items)
    report = json.loads(run(path, "--empty", empty, "--json", "-q").stdout)
    assert [item["place"] for item in report["emptied"]] == ([3, 4] if empty == "drop" else [])
    assert ("; 2 have no mask" in run(path, "--empty", empty, "--overwrite").stdout) == (
        empty == "keep"
    )
    assert items_of(out_of(path))[3:] == (items[3:] if empty == "keep" else [])
