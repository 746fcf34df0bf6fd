"""`segfix segment`: label maps of a network, what is skipped, wrong networks."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.commands import pixels, run, run_json


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
