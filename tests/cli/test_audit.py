"""segfix audit through click's runner."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from segfix.formats import read_offset_map
from tests.cli.commands import flat, pixels, run, run_json
from tests.fuzz.samples import banded_tiff


@pytest.fixture
def audit(work: Path, conditioned_onnx: Path) -> tuple[object, ...]:
    """The command for `work`, where the tiny network says that b is wrong left of its boundary.

    The labels of all change at column 20; the wrong band of b is ten pixels wide and goes right.
    """
    for stem in "abc":
        image = np.zeros((24, 40, 3), np.uint8)
        image[..., 1] = 4 * 16
        if stem != "a":
            image[4 if stem == "b" else 20 :, 10:20, 0] = 255
        Image.fromarray(image).save(f"images/{stem}.png")
    return ("audit", "images", "labels", "--weights", conditioned_onnx)


def test_the_worst_come_first_with_their_regions(audit: tuple[object, ...]) -> None:
    found = run(*audit)
    assert (found.exit_code, found.stdout) == (
        0,
        f"audit: 3 written; {Path('audit', 'audit.html')} shows the worst\n",
    )
    document = json.loads(Path("audit/audit.json").read_text(encoding="utf-8"))
    assert document["sources"] == {"IMAGES": "images", "LABELS": "labels"}
    assert [one["name"] for one in document["maps"]] == ["b", "c", "a"]
    assert document["maps"][2]["score"] == 0
    (region,) = document["maps"][0]["regions"]
    assert region["label"] == 1
    assert region["box"] == [10, 4, 8, 20]
    lines = Path("audit/audit.csv").read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(lines))
    assert [row["name"] for row in rows] == ["b", "c", "a"]
    assert [rows[0][key] for key in ("rank", "x", "y", "width", "height")] == [
        *("1", "10", "4", "8", "20")
    ]
    assert rows[2]["region"] == ""
    page = Path("audit/audit.html").read_text(encoding="utf-8")
    assert page.index("1. b") < page.index("2. c") < page.index("3. a")


def test_masks_of_0_and_255_are_refused_unless_void_is_meant(audit: tuple[object, ...]) -> None:
    for stem in "abc":
        mask = np.where(pixels(Path(f"labels/{stem}.png")) == 2, 255, 0).astype(np.uint8)
        Image.fromarray(mask).save(f"labels/{stem}.png")
    refused = run(*audit)
    assert refused.exit_code == 2
    assert "labels holds 0 and void (255) alone. For masks of 0 and 255 say" in flat(refused.stderr)
    assert not Path("audit").exists()
    assert run(*audit, "--void", "-1").exit_code == 0


def test_what_is_no_label_map_is_passed_over_aloud(audit: tuple[object, ...]) -> None:
    Path("labels/notes.txt").touch()
    run("predict-offsets", "images", "--weights", audit[-1], "-o", "looked")
    Path("looked/a.png").rename("labels/a_looked.png")
    found = run(*audit)
    assert found.exit_code == 0, found.stderr
    assert "3 written, 2 passed over: 1 .txt, 1 offset map" in found.stdout


def test_the_offset_maps_make_the_suspected_corrections(audit: tuple[object, ...]) -> None:
    assert run(*audit).exit_code == 0
    assert read_offset_map(Path("audit/offsets/b.png")).conditioned
    assert run("refine", "labels", "--offsets", "audit/offsets", "-q").exit_code == 0
    changed = pixels(Path("refined/b.png")) != pixels(Path("labels/b.png"))
    assert changed[4:].any()
    assert not changed[:4].any()


def test_a_second_run_does_the_rest(audit: tuple[object, ...]) -> None:
    assert run(*audit).exit_code == 0
    before = Path("audit/audit.json").read_bytes()
    Path("audit/offsets/b.png").unlink()
    found = run(*audit)
    assert found.stdout.startswith("audit: 1 written, 2 already there")
    assert Path("audit/audit.json").read_bytes() == before
    Image.fromarray(np.full((24, 40), 3, np.uint8)).save("labels/b.png")
    found = run(*audit)
    assert found.exit_code == 1
    assert "b.png: exists and is not what this run would make" in flat(found.stderr)
    names = json.loads(Path("audit/audit.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in names["maps"]] == ["c", "a"]
    assert run(*audit, "--overwrite").exit_code == 0


def test_failures_are_named_and_the_rest_is_ranked(audit: tuple[object, ...]) -> None:
    Path("images/a.png").unlink()
    Image.fromarray(np.ones((24, 41), np.uint8)).save("labels/b.png")
    found = run(*audit)
    assert found.exit_code == 1
    assert "audit: 1 written, 2 failed" in found.stdout
    assert f"{Path('labels', 'a.png')}: no photograph of that name; say with --map" in found.stderr
    assert f"but its photograph {Path('images', 'b.png')} is 40×24" in flat(found.stderr)
    page = Path("audit/audit.html").read_text(encoding="utf-8")
    assert "2 failures" in page
    assert "no photograph of that name" in page


def test_shares_write_no_page_until_all_are_there(audit: tuple[object, ...]) -> None:
    for share in ("1/2", "2/2"):
        found = run(*audit, "--shard", share)
        assert found.exit_code == 0
        assert "the same command without --shard writes the page" in found.stdout
        assert not Path("audit/audit.html").exists()
    report = run_json(*audit)
    assert (len(report["done"]), len(report["skipped"])) == (0, 3)
    assert Path("audit/audit.html").exists()


def test_files_of_others_are_not_replaced(audit: tuple[object, ...]) -> None:
    Path("audit").mkdir()
    Path("audit/audit.csv").write_text("mine")
    found = run(*audit)
    assert found.exit_code == 1
    assert "audit.csv: exists and is not as an audit wrote it; --overwrite" in flat(found.stderr)
    assert Path("audit/audit.csv").read_text() == "mine"
    assert not Path("audit/offsets").exists()
    assert run(*audit, "--overwrite").exit_code == 0


def test_what_cannot_be_audited_is_refused(
    audit: tuple[object, ...], tiny_onnx: Path, tmp_path: Path
) -> None:
    found = run("audit", "images", "labels", "--weights", tiny_onnx)
    assert found.exit_code == 1
    assert "look at photographs alone" in flat(found.stderr)
    found = run(*audit, "-o", "labels")
    assert found.exit_code == 2
    assert "labels is the folder of LABELS" in flat(found.stderr)
    Path("found.json").write_text("[]")
    found = run("audit", "images", "found.json")
    assert found.exit_code == 2


def test_label_maps_of_a_stored_photograph_are_turned_with_it(audit: tuple[object, ...]) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = 6
    grey = np.linspace(0, 0.4, 24 * 40, dtype=np.float32).reshape(24, 40)
    Path("images/a.png").unlink()
    Image.fromarray(grey).save("images/a.tif", tiffinfo=tags)
    found = run(*audit)
    assert found.exit_code == 0, found.stderr
    assert read_offset_map(Path("audit/offsets/a.png")).codes.shape == (40, 24)


def test_bands_are_chosen_and_values_scaled(audit: tuple[object, ...]) -> None:
    assert run(*audit).exit_code == 0
    before = Path("audit/audit.csv").read_bytes().replace(b".png,labels", b".tif,labels")
    for stem in "abc":
        image = pixels(Path(f"images/{stem}.png"))
        many = np.dstack([image[..., ::-1], image]) / np.float32(255)
        Path(f"images/{stem}.tif").write_bytes(banded_tiff(many))
        Path(f"images/{stem}.png").unlink()
    assert "--bands" in run(*audit, "-o", "again").stderr
    found = run(*audit, "-o", "again", "--bands", "4,5,6")
    assert found.exit_code == 0, found.stderr
    assert "audit.html shows the worst; values scaled (0–1 × 255 in 3)" in found.stdout
    assert Path("again/audit.csv").read_bytes() == before
    assert read_offset_map(Path("again/offsets/b.png")).source["bands"] == [4, 5, 6]
    assert "3 already there" in run(*audit, "-o", "again", "--bands", "4,5,6").stdout


def test_void_is_not_judged(audit: tuple[object, ...]) -> None:
    labels = pixels(Path("labels/b.png"))
    labels[:, :19] = 255
    Image.fromarray(labels).save("labels/b.png")
    assert run(*audit).exit_code == 0
    maps = json.loads(Path("audit/audit.json").read_text(encoding="utf-8"))["maps"]
    assert {one["name"]: one["score"] for one in maps}["b"] == 0


@pytest.mark.parametrize("command", ["audit", "fix", "refine"])
@pytest.mark.parametrize("folder", [".", "val/aachen"])
def test_of_the_kinds_of_one_ground_truth_a_suffix_takes_one(
    audit: tuple[object, ...], command: str, folder: str
) -> None:
    kinds = ("color", "labelIds", "labelTrainIds")
    for stem in "abc":
        for kind in kinds:
            path = Path("gtFine", folder, f"{stem}_gtFine_{kind}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(f"labels/{stem}.png", path)
    weights = audit[-2:]
    run("predict-offsets", "images", *weights)
    arguments = ("gtFine",) if command == "refine" else ("images", "gtFine", *weights)
    refused = run(command, *arguments, "-r", "-o", "out")
    assert refused.exit_code == 2
    advice = "--suffix _gtFine_color or _gtFine_labelIds or _gtFine_labelTrainIds takes one kind"
    assert advice in flat(refused.stderr)
    assert not Path("out").exists()
    for suffix in ("_gtFine_labelIds", "_labelIds"):
        taken = run(command, *arguments, "-r", "-o", "out", "--overwrite", "--suffix", suffix)
        assert "3 written, 6 passed over: 6 without the --suffix" in taken.stdout
    written = sorted(path.stem for path in Path("out").rglob("*.png"))
    assert written == [f"{stem}_gtFine_labelIds" for stem in "abc"]
