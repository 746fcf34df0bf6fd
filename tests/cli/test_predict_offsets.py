"""`segfix predict-offsets` on photographs: what is skipped, weights, limits, the longer side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segfix.formats import read_offset_map
from segfix.network import offset_model as model_module
from tests.cli.commands import run, run_json


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


def test_the_unwritable_output_is_named(work: Path, tiny_onnx: Path) -> None:
    Path("offsets").write_text("a file where the folder should be")
    result = run("predict-offsets", "images", "--weights", tiny_onnx)
    assert result.exit_code in (1, 2)
    assert "offsets" in result.stderr


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


def test_pictures_beyond_the_limit_are_refused(work: Path, tiny_onnx: Path) -> None:
    arguments = ["images", "--weights", tiny_onnx, "--max-pixels", "900"]
    result = run("predict-offsets", *arguments)
    assert result.exit_code == 1
    assert "images/a.png: too large a picture; --max-pixels allows more" in result.stderr
    assert run("predict-offsets", "images", "--weights", tiny_onnx).exit_code == 0


@pytest.mark.parametrize("option", ["--address", "--num-cpus", "--num-gpus"])
def test_an_option_of_ray_without_ray_is_refused(work: Path, option: str) -> None:
    result = run("predict-offsets", "images", option, "1")
    assert result.exit_code == 2
    assert f"{option} is for --engine ray" in result.stderr


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
