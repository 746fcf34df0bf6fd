"""The commands through click's runner: results, conduct, bad input."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import segfix.cli as main_module
from segfix.cli import main
from segfix.formats import OffsetMap, read_label_map, read_offset_map, write_offset_map
from segfix.network import offset_model as model_module

DEMO = Path(main_module.__file__).parents[1] / "demo"


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def run_json(*arguments: object) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(run(*arguments, "--json", "-q").stdout)
    return report


def pixels(path: Path) -> np.ndarray[Any, Any]:
    return read_label_map(path).array


@pytest.fixture
def offsets(work: Path, tiny_onnx: Path) -> Path:
    assert run("predict-offsets", "images", "--weights", tiny_onnx).exit_code == 0
    return work / "offsets"


def test_the_main_job_needs_no_option(work: Path, tiny_onnx: Path) -> None:
    predicted = run("predict-offsets", "images", "--weights", tiny_onnx)
    assert predicted.exit_code == 0
    assert "offsets: 3 written" in predicted.stdout
    assert "weights tiny on cpu" in predicted.stderr
    refined = run("refine", "preds", "--offsets")
    assert refined.exit_code == 0
    assert "refined: 3 written; 5.00% of the pixels changed" in refined.stdout
    for stem in "abc":
        truth = pixels(work / "labels" / f"{stem}.png")
        assert np.array_equal(pixels(work / "refined" / f"{stem}.png"), truth)
    scored = run("evaluate", "preds", "labels", "--against", "refined")
    assert scored.exit_code == 0
    assert "100.00 +9.55 [+9.55 +9.55]" in scored.stdout


def test_offsets_may_be_left_out_or_given_before_preds(offsets: Path) -> None:
    assert run("refine", "preds").exit_code == 0
    assert run("refine", "--offsets", offsets, "preds", "-o", "other").exit_code == 0


def test_a_bare_offsets_option_that_swallows_preds_is_explained(offsets: Path) -> None:
    result = run("refine", "--offsets", "preds")
    assert result.exit_code == 2
    assert "--offsets took 'preds' as its folder; write PREDS first" in " ".join(
        result.stderr.split()
    )
    assert run("refine").exit_code == 2


def test_a_second_run_skips_and_overwrite_redoes(offsets: Path, tiny_onnx: Path) -> None:
    before = (offsets / "a.png").stat().st_mtime_ns
    again = run_json("predict-offsets", "images", "--weights", tiny_onnx)
    assert (again["done"], len(again["skipped"])) == ([], 3)
    assert (offsets / "a.png").stat().st_mtime_ns == before
    redone = run_json("predict-offsets", "images", "--weights", tiny_onnx, "--overwrite")
    assert len(redone["done"]) == 3


def test_an_interrupted_run_is_completed(offsets: Path, tiny_onnx: Path) -> None:
    (offsets / "b.png").unlink()
    report = run_json("predict-offsets", "images", "--weights", tiny_onnx)
    assert [row["output"] for row in report["done"]] == ["offsets/b.png"]
    assert report["skipped"] == ["offsets/a.png", "offsets/c.png"]


def test_offsets_of_other_weights_are_not_replaced_unasked(offsets: Path) -> None:
    content = (offsets / "a.png").read_bytes()
    result = run("predict-offsets", "images")
    assert result.exit_code == 1
    assert "--overwrite replaces it" in result.stderr
    assert (offsets / "a.png").read_bytes() == content


def test_one_broken_image_fails_alone(work: Path, tiny_onnx: Path) -> None:
    whole = (work / "images" / "b.png").read_bytes()
    (work / "images" / "b.png").write_bytes(whole[: len(whole) // 2])
    (work / "images" / "text.jpg").write_text("no picture")
    (work / "images" / "empty.png").write_bytes(b"")
    result = run("predict-offsets", "images", "--weights", tiny_onnx, "--json", "-q")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [Path(row["output"]).name for row in report["done"]] == ["a.png", "c.png"]
    assert len(report["failed"]) == 3
    for text, name in zip(report["failed"], ("b.png", "empty.png", "text.jpg"), strict=True):
        assert text.startswith(f"images/{name}: ")
        assert "\n" not in text
    assert sorted(path.name for path in (work / "offsets").iterdir()) == ["a.png", "c.png"]


def test_max_failures_gives_up(work: Path, tiny_onnx: Path) -> None:
    for number in range(20):
        (work / "images" / f"a{number}.png").write_bytes(b"")
    result = run("predict-offsets", "images", "--weights", tiny_onnx, "--max-failures", 2)
    assert result.exit_code == 1
    assert "not tried (--max-failures)" in result.stdout


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("labels of another size", (10, 12), "sizes"),
        ("no label map", b"text", "not a readable label map"),
        ("truncated", None, "broken or truncated"),
    ],
)
def test_one_bad_label_map_fails_alone(
    offsets: Path, name: str, content: tuple[int, int] | bytes | None, reason: str
) -> None:
    path = Path("preds/b.png")
    if content is None:
        path.write_bytes(path.read_bytes()[:55])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(np.zeros(content, np.uint8)).save(path)
    result = run("refine", "preds")
    assert result.exit_code == 1
    assert "2 written, 1 failed" in result.stdout
    assert "failed: preds/b.png: " in result.stderr
    if reason != "sizes":
        assert reason in result.stderr
    else:
        assert "12×10" in result.stderr
        assert "40×24" in result.stderr
    assert sorted(path.name for path in Path("refined").iterdir()) == ["a.png", "c.png"]


def test_an_offset_file_that_is_none_is_named(offsets: Path) -> None:
    shutil.copy("labels/a.png", offsets / "a.png")
    result = run("refine", "preds")
    assert result.exit_code == 1
    assert "offsets/a.png: a picture, but not an offset map" in result.stderr
    assert "2 written, 1 failed" in result.stdout


def test_a_label_map_without_partner_is_a_failure(offsets: Path) -> None:
    (offsets / "b.png").unlink()
    result = run("refine", "preds")
    assert result.exit_code == 1
    assert "preds/b.png: no offset map of that name" in result.stderr


def test_nothing_paired_shows_two_names_of_each_side(offsets: Path) -> None:
    for stem in "abc":
        Path(f"preds/{stem}.png").rename(f"preds/{stem}_mine.png")
    result = run("refine", "preds")
    assert result.exit_code == 2
    for name in ("preds/a_mine.png", "preds/b_mine.png", "offsets/a.png", "offsets/b.png"):
        assert name in result.stderr
    assert run("refine", "preds", "--suffix", "_mine").exit_code == 0


@pytest.mark.parametrize("command", ["predict-offsets", "refine", "targets"])
def test_missing_and_empty_folders_are_usage_errors(
    offsets: Path, command: str, tiny_onnx: Path
) -> None:
    Path("empty/within").mkdir(parents=True)
    extra = ("--weights", tiny_onnx) if command == "predict-offsets" else ()
    missing = run(command, "nowhere", *extra, "-o", "out")
    assert missing.exit_code == 2
    assert "nowhere: no such file or folder" in missing.stderr
    empty = run(command, "empty", *extra, "-o", "out")
    assert empty.exit_code == 2
    assert "empty: no " in empty.stderr
    assert "--recursive" in empty.stderr
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict-offsets", "images", "-o", "images"),
        ("predict-offsets", "images/a.png", "-o", "images"),
        ("predict-offsets", "images", "-o", "preds/../images"),
        ("refine", "preds", "-o", "preds"),
        ("refine", "preds", "-o", "offsets"),
        ("targets", "labels", "-o", "labels"),
    ],
)
def test_the_folder_that_is_read_is_never_written(
    offsets: Path, arguments: tuple[str, ...]
) -> None:
    before = Path("images/a.png").read_bytes(), (offsets / "a.png").read_bytes()
    result = run(*arguments, "--overwrite")
    assert result.exit_code == 2
    assert "choose another one with -o" in " ".join(result.stderr.split())
    assert (Path("images/a.png").read_bytes(), (offsets / "a.png").read_bytes()) == before


def test_weights_that_are_none_are_named(work: Path, foreign_onnx: Path) -> None:
    Path("text.onnx").write_text("no network")
    for weights, reason in (
        ("text.onnx", "not a readable ONNX file"),
        (foreign_onnx, "not one of a SegFix network"),
        ("nowhere", "no such weights"),
    ):
        result = run("predict-offsets", "images", "--weights", weights)
        assert result.exit_code == 1
        assert reason in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_a_missing_device_has_its_own_exit_status(work: Path, tiny_onnx: Path) -> None:
    arguments = ("predict-offsets", "images", "--weights", tiny_onnx, "--device")
    result = run(*arguments, "tensorrt:99")
    assert result.exit_code == 3
    assert "device 'tensorrt:99'" in result.stderr
    assert result.stdout == ""
    assert run(*arguments, "tpu").exit_code == 2
    assert not Path("offsets").exists()


def test_recursive_mirrors_the_tree(work: Path, tiny_onnx: Path) -> None:
    for folder in ("images", "preds"):
        Path(folder, "town", "day").mkdir(parents=True)
        shutil.move(f"{folder}/b.png", f"{folder}/town/day/b.png")
    run("predict-offsets", "images", "--weights", tiny_onnx, "-r")
    assert read_offset_map(Path("offsets/town/day/b.png")).codes.any()
    assert run("refine", "preds", "-r").exit_code == 0
    assert Path("refined/town/day/b.png").is_file()
    assert Path("refined/a.png").is_file()


def test_files_of_one_stem_are_told_apart(work: Path, tiny_onnx: Path) -> None:
    Image.open("images/a.png").save("images/a.bmp")
    result = run("predict-offsets", "images", "--weights", tiny_onnx)
    assert result.exit_code == 1
    assert "3 written, 1 failed" in result.stdout
    assert "images/a.bmp: same stem as a.png" in result.stderr


def test_hidden_and_foreign_files_are_passed_over(work: Path, tiny_onnx: Path) -> None:
    Path("images/.DS_Store").write_text("x")
    Path("images/._a.png").write_text("x")
    Path("images/notes.txt").write_text("x")
    assert run("predict-offsets", "images", "--weights", tiny_onnx).exit_code == 0


def test_single_files_are_a_pair_whatever_their_names(work: Path, tiny_onnx: Path) -> None:
    run("predict-offsets", "images/a.png", "--weights", tiny_onnx)
    shutil.copy("preds/b.png", "mine.png")
    assert run("refine", "mine.png", "--offsets", "offsets/a.png").exit_code == 0
    assert np.array_equal(pixels(Path("refined/mine.png")), pixels(Path("labels/a.png")))


def test_the_unwritable_output_is_named(work: Path, tiny_onnx: Path) -> None:
    Path("offsets").write_text("a file where the folder should be")
    result = run("predict-offsets", "images", "--weights", tiny_onnx)
    assert result.exit_code in (1, 2)
    assert "offsets" in result.stderr


def test_label_maps_come_back_in_their_kind(offsets: Path) -> None:
    ids = pixels(Path("preds/a.png"))
    palette = Image.fromarray(ids)
    palette.putpalette([0, 0, 0, 200, 10, 10, 10, 200, 10])
    palette.save("preds/a.png")
    Image.fromarray(ids.astype(np.uint16) * 1000).save("preds/b.png")
    colours = np.stack([ids * 100, ids * 50, 255 - ids], axis=-1)
    Image.fromarray(colours).save("preds/c.png")
    assert run("refine", "preds").exit_code == 0
    truth = pixels(Path("labels/a.png"))
    with Image.open("refined/a.png") as picture:
        assert picture.mode == "P"
        assert (picture.getpalette() or [])[3:9] == [200, 10, 10, 10, 200, 10]
    assert np.array_equal(pixels(Path("refined/a.png")), truth)
    assert np.array_equal(pixels(Path("refined/b.png")), truth.astype(np.uint16) * 1000)
    assert np.array_equal(pixels(Path("refined/c.png"))[..., 0], truth * 100)


def test_min_confidence_leaves_unsure_pixels_alone(work: Path) -> None:
    sectors = np.full((24, 40), 4, np.uint8)
    confidence = np.where(np.arange(24) < 12, 0.9, 0.3)[:, None] * np.ones((1, 40))
    moving = np.zeros((24, 40), bool)
    moving[:, 20:22] = True
    for stem in "abc":
        write_offset_map(Path(f"offsets/{stem}.png"), OffsetMap.encode(moving, sectors, confidence))
    assert run("refine", "preds", "--min-confidence", 0.5).exit_code == 0
    refined = pixels(Path("refined/a.png"))
    assert np.array_equal(refined[:12], pixels(Path("labels/a.png"))[:12])
    assert np.array_equal(refined[12:], pixels(Path("preds/a.png"))[12:])


def test_targets_mend_predictions_near_the_truth(work: Path) -> None:
    assert run("targets", "labels").exit_code == 0
    assert "already there" in run("targets", "labels").stdout
    result = run("refine", "preds", "--offsets", "targets", "--scale", 3)
    assert result.exit_code == 0
    assert np.array_equal(pixels(Path("refined/a.png")), pixels(Path("labels/a.png")))


def test_the_step_fits_the_label_map_unless_a_number_is_given(work: Path) -> None:
    run("targets", "labels")
    assert run("refine", "preds", "--offsets", "targets", "-o", "fitted").exit_code == 0
    assert run("refine", "preds", "--offsets", "targets", "--scale", "auto").exit_code == 0
    fitted, auto = Path("fitted/a.png"), Path("refined/a.png")
    assert fitted.read_bytes() == auto.read_bytes()
    # Two pixels off: one step is too short.
    assert np.array_equal(pixels(fitted), pixels(Path("labels/a.png")))
    for scale in (0.5, 1):
        out = f"by-{scale}"
        run("refine", "preds", "--offsets", "targets", "--scale", scale, "-o", out)
        assert not np.array_equal(pixels(Path(out) / "a.png"), pixels(Path("labels/a.png")))
    refused = run("refine", "preds", "--scale", "much", "-o", "never")
    assert refused.exit_code == 2
    assert "much" in refused.stderr


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


def test_weights_describes_the_shipped_network() -> None:
    listed = run("weights")
    assert listed.exit_code == 0
    assert "hrnet_w18_small (default)" in listed.stdout
    assert "research-only data" in listed.stdout


def test_demo_draws_before_and_after_of_every_photograph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("demo", "-q")
    assert result.exit_code == 0
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert [path.stem for path in paths] == ["china", "coffee", "flower"]
    for path in paths:
        with (
            Image.open(path) as picture,
            Image.open(DEMO / f"images/{path.stem}.jpg") as photograph,
        ):
            assert picture.width == 3 * photograph.width + 16
            assert picture.height > photograph.height, "the caption comes on top"
        before = pixels(DEMO / "preds" / path.name)
        after = pixels(Path(f"demo/refined/{path.name}"))
        assert set(np.unique(after)) <= set(np.unique(before))
        assert 0 < np.mean(before != after) < 0.2
    assert run("demo", "-q").exit_code == 0, "a second run finds everything done"


@pytest.mark.parametrize("option", ["--scale", "--min-confidence"])
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_numbers_that_are_none_are_refused(offsets: Path, option: str, number: str) -> None:
    assert run("refine", "preds", option, number).exit_code == 2
    assert not Path("refined").exists()


def test_offsets_from_ground_truth_are_fully_confident(work: Path) -> None:
    run("targets", "labels")
    assert run("refine", "preds", "--offsets", "targets", "--min-confidence", 1).exit_code == 0
    assert (pixels(Path("refined/a.png")) != pixels(Path("preds/a.png"))).any()


def test_a_second_recursive_run_does_not_read_its_own_results(work: Path, tiny_onnx: Path) -> None:
    for command in (
        ("predict-offsets", ".", "--weights", tiny_onnx),
        ("targets", "."),
    ):
        for _ in range(2):
            assert run(*command, "-r", "-o", "results").exit_code == 0
        assert not Path("results/results").exists()
        shutil.rmtree("results")


def test_results_never_replace_inputs_in_folders_within(offsets: Path) -> None:
    Path("preds/in/in").mkdir(parents=True)
    for path in ("preds/in/a.png", "preds/in/in/a.png"):
        shutil.copy("preds/a.png", path)
    shutil.copytree("offsets", "offsets/in")
    # The result for preds/in/in/a.png would be preds/in/a.png, which is read as well.
    result = run("refine", "preds/in", "-r", "-o", "preds", "--overwrite")
    assert result.exit_code == 2
    assert "preds/in/a.png would replace an input" in " ".join(result.stderr.split())
    assert Path("preds/in/a.png").read_bytes() == Path("preds/a.png").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_an_input_is_where_its_link_leads_a_result_takes_the_place_of_one(offsets: Path) -> None:
    before = Path("preds/a.png").read_bytes()
    Path("links").mkdir()
    Path("links/a.png").symlink_to("../preds/a.png")
    result = run("refine", "links", "-o", "preds", "--overwrite")
    assert result.exit_code == 2
    assert "preds/a.png would replace an input" in " ".join(result.stderr.split())
    assert run("refine", "preds/a.png", "-o", "links", "--overwrite").exit_code == 0
    assert not Path("links/a.png").is_symlink()
    assert Path("preds/a.png").read_bytes() == before


def test_the_folder_of_inputs_is_known_by_any_of_its_names(offsets: Path) -> None:
    if not Path("PREDS").exists():
        pytest.skip("a and A are two names here")
    result = run("refine", "preds", "-o", "PREDS", "--overwrite")
    assert result.exit_code == 2
    assert "PREDS is the folder of PREDS" in " ".join(result.stderr.split())


def test_the_current_folder_is_refined_like_any(
    offsets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("preds")
    assert run("refine", ".", "--offsets", "../offsets", "-o", "../refined").exit_code == 0
    assert {path.name for path in Path("../refined").iterdir()} == {"a.png", "b.png", "c.png"}


@pytest.mark.parametrize(
    "arguments",
    [("refine", ""), ("refine", "preds", "-o", ""), ("evaluate", "preds", "")],
)
def test_an_empty_path_is_refused(offsets: Path, arguments: tuple[str, ...]) -> None:
    before = {path.name for path in Path().iterdir()}
    result = run(*arguments)
    assert result.exit_code == 2
    assert "an empty path; . is the current folder" in result.stderr
    assert {path.name for path in Path().iterdir()} == before


def test_file_urls_are_taken_whole_or_refused(offsets: Path) -> None:
    for name in ("a#b", "a?b", "a b"):
        shutil.copytree("preds", name)
        url = f"file://{Path(name).absolute().as_posix()}".replace(" ", "%20")
        assert run("refine", url, "-o", f"{name} refined").exit_code == 0
    for url in ("file://preds", "file://host/preds", "file://", "file://["):
        result = run("refine", url)
        assert result.exit_code == 2
        assert f"{url}: expected file:///FOLDER" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_that_is_read_is_not_replaced_either(offsets: Path) -> None:
    Path("preds/in").mkdir()
    shutil.copy("preds/a.png", "preds/in/a.png")
    Path("in").mkdir()
    Path("in/a.png").symlink_to("../offsets/a.png")
    result = run("refine", "preds", "-r", "--offsets", "in", "-o", ".", "--overwrite")
    assert result.exit_code == 2
    assert "in/a.png would replace an input" in " ".join(result.stderr.split())
    assert Path("in/a.png").is_symlink()


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
    assert "1 of 3 images failed and count in no set" in result.stderr
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


def test_demo_leaves_the_files_of_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    Path("images/coffee.jpg").write_text("mine")
    assert run("demo", "-o", ".", "-q").exit_code == 0
    assert Path("images/coffee.jpg").read_text() == "mine"


def test_a_network_that_fails_fails_one_picture(
    work: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save("images/b.png")
    real = model_module.OffsetModel.__init__

    def fails_at_thirty(self: Any, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **options)
        session = self.session

        class Session:
            def run(self, names: list[str], feed: dict[str, Any]) -> Any:
                if feed["image"].shape[2] == 30:
                    raise RuntimeError("Failed to allocate memory\nand much more")
                return session.run(names, feed)

        self.session = Session()

    monkeypatch.setattr(model_module.OffsetModel, "__init__", fails_at_thirty)
    result = run("predict-offsets", "images", "--weights", tiny_onnx)
    assert result.exit_code == 1
    assert "2 written, 1 failed" in result.stdout
    assert "images/b.png: the network failed on a picture of 30×30 (Failed to allocate" in (
        result.stderr
    )


def test_a_scale_that_would_be_ignored_is_refused(offsets: Path) -> None:
    result = run("refine", "preds", "--iterate", "5", "--scale", "3")
    assert result.exit_code == 2
    assert "--scale has no effect with --iterate" in result.stderr


def test_evaluate_names_colour_coded_label_maps(work: Path) -> None:
    Image.fromarray(np.zeros((24, 40, 3), np.uint8)).save("preds/b.png")
    result = run("evaluate", "preds", "labels")
    assert result.exit_code == 1
    assert "preds/b.png: colour-coded; scores need class ids" in result.stderr


@pytest.fixture
def colourful(work: Path) -> Path:
    """The folder `work`, whose photographs are red left of column 20 and green right of it."""
    image = np.zeros((24, 40, 3), np.uint8)
    image[:, :20, 0] = image[:, 20:, 1] = 255
    for stem in "abc":
        Image.fromarray(image).save(f"images/{stem}.png")
    shutil.rmtree("preds")
    return work


def test_segment_writes_label_maps_that_can_be_scored(
    colourful: Path, segmenter_onnx: Path
) -> None:
    result = run("segment", "images/", "--weights", segmenter_onnx)
    assert (result.exit_code, result.stdout) == (0, "preds: 3 written\n")
    assert f"weights {segmenter_onnx} on cpu" in result.stderr
    # Its network looks one pixel to the right.
    assert pixels(Path("preds/a.png")).tolist() == [[1] * 19 + [2] * 20 + [1]] * 24
    report = run_json("evaluate", "preds", "labels")
    assert [entry["id"] for entry in report["classes"]] == [1, 2]


def test_segment_skips_what_is_done_with_the_same_settings(
    colourful: Path, segmenter_onnx: Path
) -> None:
    command = ("segment", "images", "--weights", segmenter_onnx)
    assert len(run_json(*command)["done"]) == 3
    Path("preds/b.png").unlink()
    again = run_json(*command, "--scale", 1)
    assert ([row["output"] for row in again["done"]], len(again["skipped"])) == (["preds/b.png"], 2)
    other = (*command, "--scale", 1, "--scale", 2, "--flip")
    assert len(run_json(*other)["failed"]) == 3
    report = run_json(*other, "--overwrite")
    assert len(report["done"]) == 3
    assert report["weights"]["weights"] == "colours"
    assert report["device"] == "cpu"


def test_segment_takes_the_network_that_was_trained_here(
    colourful: Path, segmenter_onnx: Path
) -> None:
    missing = run("segment", "images")
    assert missing.exit_code == 2
    assert "train a network first (segfix train --loss level-set)" in " ".join(
        missing.stderr.split()
    )
    folder = Path("runs/segmentation")
    folder.mkdir(parents=True)
    onnx_file, checkpoint = folder / "model.onnx", folder / "model.safetensors"
    shutil.copy(segmenter_onnx, onnx_file)
    checkpoint.write_bytes(b"")
    os.utime(checkpoint, (1, 1))
    result = run("segment", "images")
    assert (result.exit_code, result.stdout) == (0, "preds: 3 written\n")
    assert "weights runs/segmentation/model.onnx on " in result.stderr
    assert "older" not in result.stderr
    os.utime(onnx_file, (0, 0))
    assert f"{onnx_file} is older than model.safetensors; export again" in (
        run("segment", "images").stderr
    )


def test_segment_and_predict_offsets_refuse_each_others_networks(
    colourful: Path, tiny_onnx: Path, segmenter_onnx: Path, foreign_onnx: Path
) -> None:
    for command, weights, reason in (
        ("segment", tiny_onnx, "a SegFix network, for 'segfix predict-offsets'"),
        ("predict-offsets", segmenter_onnx, "a segmentation network, for 'segfix segment'"),
        ("segment", foreign_onnx, "not one of a segmentation network"),
    ):
        result = run(command, "images", "--weights", weights)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"segfix: {weights}: ")
        assert reason in result.stderr
        assert result.stderr.count("\n") == 1
    assert run("segment", "images", "--weights", "nowhere.onnx").exit_code == 2
    assert not Path("preds").exists()


def test_segment_never_writes_what_it_reads(colourful: Path, segmenter_onnx: Path) -> None:
    before = Path("images/a.png").read_bytes()
    command = ("segment", "images", "--weights", segmenter_onnx, "--overwrite")
    assert run(*command, "-o", "images").exit_code == 2
    shutil.copytree("images", "images/in/in")
    nested = run("segment", "images/in", *command[2:], "-r", "-o", "images/in/in/..")
    assert nested.exit_code == 2
    assert Path("images/a.png").read_bytes() == before


def test_segment_checks_its_options(colourful: Path, segmenter_onnx: Path) -> None:
    command = ("segment", "images", "--weights", segmenter_onnx)
    for wrong in (("--scale", 0), ("--scale", "nan"), ("--scale", 17), ("--device", "tpu")):
        assert run(*command, *wrong).exit_code == 2
    assert run(*command, "--device", "tensorrt:99").exit_code == 3
    Path("images/b.png").write_text("no picture")
    result = run(*command)
    assert result.exit_code == 1
    assert "failed: images/b.png: not a readable image" in result.stderr
    assert "2 written, 1 failed" in result.stdout


def test_a_checkpoint_without_torch_is_told_the_extra(
    colourful: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("model.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("segment", "images", "--weights", "model.safetensors")
    assert result.exit_code == 1
    assert "pip install 'segfix-refine[train]'" in result.stderr


def test_convert_goes_round_and_every_format_refines_alike(offsets: Path) -> None:
    assert run("refine", "preds", "-o", "expected").exit_code == 0
    source = "offsets"
    for file_format in ("mat", "npz", "png"):
        result = run("convert", source, "-o", file_format, "--format", file_format)
        assert (result.exit_code, result.stdout) == (0, f"{file_format}: 3 written\n")
        again = run_json("convert", source, "-o", file_format, "--format", file_format)
        assert (again["done"], len(again["skipped"])) == ([], 3)
        for options in (("-o", f"by-{file_format}"), ("-o", f"2-{file_format}", "--scale", 2)):
            assert run("refine", "preds", "--offsets", file_format, *options).exit_code == 0
        source = file_format
    for stem in "abc":
        before, after = offsets / f"{stem}.png", Path("png") / f"{stem}.png"
        assert np.array_equal(read_offset_map(after).codes, read_offset_map(before).codes)
        assert read_offset_map(after).source == read_offset_map(before).source
        for folder in ("by-mat", "by-npz", "by-png"):
            assert np.array_equal(
                pixels(Path(folder) / f"{stem}.png"), pixels(Path(f"expected/{stem}.png"))
            )
    assert run("show", "images", "--offsets", "mat").exit_code == 0
    assert run("convert", "npz", "-o", "flo", "--format", "flo").exit_code == 0
    assert run("refine", "preds", "--offsets", "flo", "--scale", 2, "-o", "2-flo").exit_code == 0
    assert np.array_equal(pixels(Path("2-flo/a.png")), pixels(Path("2-mat/a.png")))


def test_convert_redoes_what_changed_only_when_told(offsets: Path) -> None:
    run("convert", "offsets", "-o", "mat", "--format", "mat")
    shutil.copy(offsets / "a.png", "a.png")
    write_offset_map(offsets / "a.png", OffsetMap(np.zeros((24, 40), np.uint8)))
    result = run("convert", "offsets", "-o", "mat", "--format", "mat")
    assert result.exit_code == 1
    assert "failed: mat/a.mat: exists and is not what this run would make" in result.stderr
    assert run("convert", "offsets", "-o", "mat", "--format", "mat", "--overwrite").exit_code == 0
    assert not read_offset_map(Path("mat/a.mat")).codes.any()


def test_convert_names_what_is_broken_and_never_writes_where_it_reads(offsets: Path) -> None:
    (offsets / "b.png").rename(offsets / "b.mat")
    shutil.copy("labels/c.png", offsets / "c.png")
    result = run("convert", "offsets", "-o", "npz", "--format", "npz")
    assert result.exit_code == 1
    assert "failed: offsets/b.mat: not a .mat file" in result.stderr
    assert "failed: offsets/c.png: a picture, but not an offset map" in result.stderr
    assert sorted(path.name for path in Path("npz").iterdir()) == [".a.npz.segfix", "a.npz"]
    for arguments in (("-o", "offsets"), ("-o", "npz", "--format", "tiff")):
        assert run("convert", "offsets", *arguments).exit_code == 2


def test_each_frame_of_a_video_gets_an_offset_map(clip: Path, tiny_onnx: Path) -> None:
    result = run("predict-offsets", clip, "--weights", tiny_onnx)
    assert (result.exit_code, result.stdout) == (0, "offsets: 5 written\n")
    names = [f"{number:06d}.png" for number in range(1, 6)]
    assert sorted(path.name for path in Path("offsets").iterdir()) == names
    run("predict-offsets", "images", "--weights", tiny_onnx, "-o", "still")
    still = read_offset_map(Path("still/a.png"))
    for number, name in enumerate(names, 1):
        offset_map = read_offset_map(Path("offsets", name))
        assert np.array_equal(offset_map.codes, still.codes)
        assert offset_map.source["frame"] == number
        shutil.copy("preds/a.png", f"preds/{name}")
    for stem in "abc":
        Path(f"preds/{stem}.png").unlink()
    assert run("refine", "preds").exit_code == 0
    assert np.array_equal(pixels(Path("refined/000005.png")), pixels(Path("labels/a.png")))


def test_frames_that_are_done_are_skipped(clip: Path, tiny_onnx: Path) -> None:
    run("predict-offsets", clip, "--weights", tiny_onnx)
    Path("offsets/000003.png").unlink()
    again = run_json("predict-offsets", clip, "--weights", tiny_onnx)
    assert [row["output"] for row in again["done"]] == ["offsets/000003.png"]
    assert len(again["skipped"]) == 4
    clip.write_bytes(clip.read_bytes() + bytes(9))
    result = run("predict-offsets", clip, "--weights", tiny_onnx, "--max-failures", 2)
    assert result.exit_code == 1
    assert "offsets/000001.png: exists and is not what this run would make" in result.stderr
    assert (
        len(run_json("predict-offsets", clip, "--weights", tiny_onnx, "--overwrite")["done"]) == 5
    )


def test_a_broken_video_keeps_the_frames_before(clip: Path, tiny_onnx: Path) -> None:
    content = clip.read_bytes()
    Path("cut.mkv").write_bytes(content[: len(content) * 3 // 4])
    result = run("predict-offsets", "cut.mkv", "--weights", tiny_onnx, "-q")
    assert result.exit_code == 1
    count = len(list(Path("offsets").iterdir()))
    assert 0 < count < 5
    assert result.stderr.startswith(f"failed: cut.mkv: broken after frame {count} (cut off)")
    assert result.stderr.count("\n") == 1
    Path("text.mp4").write_text("no video")
    result = run("predict-offsets", "text.mp4", "--weights", tiny_onnx, "-o", "none")
    assert result.exit_code == 1
    assert result.stderr.startswith("segfix: text.mp4: not a readable video (")
    assert not Path("none").exists()


def test_a_video_without_the_extra_is_advised(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    result = run("predict-offsets", clip)
    assert result.exit_code == 1
    assert "pip install 'segfix-refine[video]'" in result.stderr


def run_stream(content: bytes, *arguments: object) -> Result:
    result = CliRunner().invoke(main, ["predict-offsets", "-", *map(str, arguments)], input=content)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_a_photograph_streams_through(offsets: Path, tiny_onnx: Path) -> None:
    result = run_stream(Path("images/a.png").read_bytes(), "--weights", tiny_onnx)
    assert (result.exit_code, result.stderr) == (0, "weights tiny on cpu\n")
    assert result.stdout_bytes == (offsets / "a.png").read_bytes()


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
def test_a_broken_stream_gives_one_line_and_no_output(
    work: Path, tiny_onnx: Path, content: bytes
) -> None:
    result = run_stream(content, "--weights", tiny_onnx, "-q")
    assert (result.exit_code, result.stdout_bytes) == (1, b"")
    assert result.stderr.startswith("segfix: standard input: ")
    assert result.stderr.count("\n") == 1


def test_a_photograph_beyond_the_limit_of_bytes_is_told(work: Path, tiny_onnx: Path) -> None:
    result = run_stream(bytes(101), "--weights", tiny_onnx, "-q", "--max-bytes", "100")
    assert (result.exit_code, result.stdout_bytes) == (1, b"")
    assert result.stderr == (
        "segfix: standard input: more than 100 bytes; --max-bytes allows more.\n"
    )


def test_a_stream_has_no_folder_and_no_json(work: Path, tiny_onnx: Path) -> None:
    for arguments in (("-o", "out"), ("--json",)):
        result = run_stream(b"", "--weights", tiny_onnx, *arguments)
        assert (result.exit_code, result.stdout_bytes) == (2, b"")
        assert f"{arguments[0]} has no use with -" in result.stderr


@pytest.mark.parametrize("command", [("refine", "preds"), ("show", "images")])
def test_two_files_for_one_offset_map_are_refused(offsets: Path, command: tuple[str, str]) -> None:
    (offsets / "b.flo").write_bytes(b"another program's")
    result = run(*command, "--offsets", "offsets", "-o", "out")
    assert result.exit_code == 2
    assert "offsets/b.flo: same stem as b.png; rename one of them." in result.stderr
    assert not Path("out").exists()


def test_pictures_beyond_the_limit_are_refused(work: Path, tiny_onnx: Path) -> None:
    arguments = ["images", "--weights", tiny_onnx, "--max-pixels", "900"]
    result = run("predict-offsets", *arguments)
    assert result.exit_code == 1
    assert "images/a.png: too large a picture; --max-pixels allows more" in result.stderr
    assert run("predict-offsets", "images", "--weights", tiny_onnx).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["refine", "preds"], "interrupted; the same command does the rest."),
        (["evaluate", "preds", "labels"], "interrupted."),
    ],
)
def test_an_interruption_says_how_to_go_on(
    offsets: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], advice: str
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for room in ("files", "tasks.refine"):
        monkeypatch.setattr(f"segfix.{room}.list_entries", stop)
    result = run(*arguments)
    assert result.exit_code == 130
    assert result.stderr.endswith(f"segfix: {advice}\n")


def test_refining_again_is_said(offsets: Path) -> None:
    assert "before" not in run("refine", "preds").stdout
    assert "; 3 had been refined before" in run("refine", "refined", "-o", "again").stdout


def test_shares_of_a_folder_and_of_a_video_make_the_whole(clip: Path, tiny_onnx: Path) -> None:
    for source, whole in (("images", ["a", "b", "c"]), (clip, [f"{n:06d}" for n in range(1, 6)])):
        made: list[str] = []
        for share in ("1/2", "2/2"):
            out = f"{Path(source).stem}-{share[0]}"
            result = run(
                *("predict-offsets", source, "-o", out, "--weights", tiny_onnx, "--shard", share)
            )
            assert result.exit_code == 0
            made += [path.stem for path in Path(out).iterdir()]
        assert sorted(made) == whole
    last = run("predict-offsets", "images", "-o", "n", "--weights", tiny_onnx, "--shard", "9/9")
    assert (last.exit_code, last.stdout) == (0, "n: 0 written\n")


@pytest.mark.parametrize("share", ["0/2", "3/2", "1", "1/0", "-1/2", "1/2/3", "a/b"])
def test_a_share_that_is_none_is_refused(work: Path, share: str) -> None:
    result = run("refine", "preds", "--shard", share)
    assert result.exit_code == 2
    assert "expected I/N with I from 1 to N" in " ".join(result.stderr.split())


@pytest.mark.parametrize("option", ["--address", "--num-cpus", "--num-gpus"])
def test_an_option_of_ray_without_ray_is_refused(work: Path, option: str) -> None:
    result = run("predict-offsets", "images", option, "1")
    assert result.exit_code == 2
    assert f"{option} is for --engine ray" in result.stderr


def test_a_video_is_not_for_ray(clip: Path) -> None:
    result = run("predict-offsets", clip, "--engine", "ray")
    assert result.exit_code == 2
    assert "share it among machines with --shard" in " ".join(result.stderr.split())


def test_max_side_is_a_setting_of_its_own(offsets: Path, tiny_onnx: Path) -> None:
    before = (offsets / "a.png").read_bytes()
    # The photographs are 40 pixels wide: nothing is reduced, nothing differs.
    again = run_json("predict-offsets", "images", "--weights", tiny_onnx, "--max-side", 40)
    assert len(again["skipped"]) == 3
    smaller = ("predict-offsets", "images", "--weights", tiny_onnx, "--max-side", 20)
    result = run(*smaller)
    assert result.exit_code == 1
    assert "offsets/a.png: exists and is not what this run would make" in result.stderr
    assert (offsets / "a.png").read_bytes() == before
    assert len(run_json(*smaller, "--overwrite")["done"]) == 3
    assert len(run_json(*smaller)["skipped"]) == 3
    offset_map = read_offset_map(offsets / "a.png")
    assert offset_map.codes.shape == (24, 40)
    assert offset_map.source["max_side"] == 20
    assert run("refine", "preds").exit_code == 0


@pytest.mark.parametrize("value", ["0", "-3", "1.5", "half", ""])
def test_bad_sides_are_refused_in_one_line(work: Path, tiny_onnx: Path, value: str) -> None:
    result = run("predict-offsets", "images", "--weights", tiny_onnx, f"--max-side={value}")
    assert result.exit_code == 2
    assert len([line for line in result.stderr.splitlines() if "Error: " in line]) == 1
    assert "Invalid value for '--max-side'" in result.stderr
    assert not (work / "offsets").exists()


def test_frames_and_streams_are_reduced_too(clip: Path, tiny_onnx: Path) -> None:
    options = ("--weights", tiny_onnx, "--max-side", 20)
    assert run("predict-offsets", clip, *options).exit_code == 0
    run("predict-offsets", "images", *options, "-o", "still")
    frame, still = (read_offset_map(Path(name)) for name in ("offsets/000002.png", "still/a.png"))
    assert np.array_equal(frame.codes, still.codes)
    assert frame.source["max_side"] == still.source["max_side"] == 20
    assert len(run_json("predict-offsets", clip, *options)["skipped"]) == 5
    streamed = run_stream(Path("images/a.png").read_bytes(), *options)
    assert streamed.stdout_bytes == Path("still/a.png").read_bytes()
