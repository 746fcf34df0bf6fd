"""`segfix evaluate`: which images and ids count, void, names of sets."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.commands import pixels, run, run_json


def test_evaluate_prints_json_with_every_class(work: Path) -> None:
    report = run_json("evaluate", "preds", "labels", "--against", "truth=labels")
    assert [entry["id"] for entry in report["classes"]] == [1, 2]
    scores = report["sets"]["PREDS"]
    assert scores["class"]["iou"] == pytest.approx([20 / 22, 18 / 20])
    assert scores["mean"]["iou"] == pytest.approx((20 / 22 + 18 / 20) / 2)
    assert (scores["mean"]["f_1px"], scores["mean"]["f_2px"]) == (0, 1), "it is 2 px off"
    assert report["sets"]["truth"]["mean"]["iou"] == 1
    difference = report["changes"]["truth"]["mean"]["iou"][0]
    assert difference == pytest.approx(1 - scores["mean"]["iou"])
    assert sum(report["changes"]["truth"]["bands"]["fixed"]) == 3 * 24 * 2
    assert report["failed"] == []


def test_evaluate_never_scores_a_missing_prediction(work: Path) -> None:
    Path("preds/b.png").unlink()
    Image.fromarray(np.zeros((3, 3), np.uint8)).save("preds/c.png")
    result = run("evaluate", "preds", "labels")
    assert result.exit_code == 1
    assert "labels/b.png: no prediction of that name" in result.stderr
    assert "preds/c.png: 3×3, but its label map labels/c.png is 40×24" in result.stderr


def test_evaluate_counts_ids_that_no_label_map_holds_as_wrong(work: Path) -> None:
    Image.fromarray(np.full((24, 40), 9, np.uint8)).save("preds/a.png")
    result = run("evaluate", "preds", "labels")
    assert "PREDS: 960 pixels predicted as ids that are no class in LABELS (9)" in result.stderr


def test_evaluate_counts_what_no_id_is_as_wrong(work: Path) -> None:
    found = pixels(Path("preds/a.png")).astype(np.float32)
    found[0, :2] = np.nan
    found[0, 2] = -1
    Path("preds/a.png").unlink()
    np.save("preds/a.npy", found)
    result = run("evaluate", "preds", "labels")
    assert result.exit_code == 0, result.stderr
    assert "PREDS: 3 pixels predicted as ids that are no class in LABELS (NaN, -1)" in result.stderr
    np.save("labels/a.npy", found)
    Path("labels/a.png").unlink()
    result = run("evaluate", "preds", "labels")
    assert result.exit_code == 1
    assert "labels/a.npy" in result.stderr


def test_evaluate_names_colour_coded_label_maps(work: Path) -> None:
    Image.new("RGB", (40, 24), (128, 64, 128)).save("preds/b.png")
    result = run("evaluate", "preds", "labels")
    assert result.exit_code == 1
    assert "preds/b.png: colour-coded; scores need class ids" in result.stderr


def test_evaluate_refuses_two_sets_of_one_name(work: Path) -> None:
    result = run("evaluate", "preds", "labels", "--against", "x=labels", "--against", "x=preds")
    assert result.exit_code == 2
    assert "two sets are called 'x'" in result.stderr
    assert run("evaluate", "preds", "labels", "--against", "PREDS=labels").exit_code == 2


def test_evaluate_compares_sets_on_the_images_that_all_have(work: Path) -> None:
    Image.fromarray(np.full((24, 40), 2, np.uint8)).save("preds/a.png")
    shutil.copytree("labels", "part")
    Path("part/a.png").unlink()
    result = run("evaluate", "preds", "labels", "--against", "part")
    assert result.exit_code == 1
    assert "1 of 3 images failed and counts in no set" in result.stderr
    assert "failed: labels/a.png: no prediction of that name" in result.stderr
    assert "2 images" in result.stdout
    assert "100.00 +9.55 [+9.55 +9.55]" in result.stdout


def test_evaluate_accepts_folders_with_an_equals_sign(work: Path) -> None:
    shutil.copytree("labels", "scale=2")
    for against in ("scale=2", "mine=scale=2"):
        assert run("evaluate", "preds", "labels", "--against", against).exit_code == 0


def test_masks_of_0_and_255_get_advice_on_void(work: Path) -> None:
    for folder in ("preds", "labels"):
        for stem in "abc":
            ids = pixels(Path(folder, f"{stem}.png"))
            Image.fromarray(np.where(ids == 2, 255, 0).astype(np.uint8)).save(
                f"{folder}/{stem}.png"
            )
    refused = run("evaluate", "preds", "labels")
    assert refused.exit_code == 2
    assert "labels holds 0 and void (255) alone. For masks" in refused.stderr
    assert run("evaluate", "preds", "labels", "--void", "255").exit_code == 0
    scored = run("evaluate", "preds", "labels", "--void", "-1")
    assert "--void -1" not in scored.stderr
    assert "90.45" in scored.stdout
