"""`segfix fix` with the options and the conduct that it shares with other commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

import segfix
from tests.cli.commands import flat, pixels, run


@pytest.fixture
def weights(conditioned_onnx: Path) -> tuple[str, Path]:
    return ("--weights", conditioned_onnx)


def test_ids_that_are_not_known_neither_give_nor_take(
    work: Path, weights: tuple[str, Path], pred: NDArray[np.uint8]
) -> None:
    void = int(pred.max())
    found = run("fix", "images", "preds", *weights, "--keep", void)
    assert f"kept {void} in 3 of 3" in found.stdout
    assert np.array_equal(pixels(work / "fixed/a.png") == void, pred == void)
    kept = segfix.fix("images/a.png", pred, weights=weights[1], keep=[void])
    assert np.array_equal(kept, pixels(work / "fixed/a.png"))


@pytest.mark.parametrize("conditioned", [True, False])
def test_padded_predictions(
    work: Path,
    weights: tuple[str, Path],
    tiny_onnx: Path,
    pred: NDArray[np.uint8],
    conditioned: bool,
) -> None:
    if not conditioned:
        weights = ("--weights", tiny_onnx)
    for stem in "abc":
        Image.fromarray(np.pad(pred, ((8, 8), (0, 0)))).save(f"preds/{stem}.png")
    found = run("fix", "images", "preds", *weights)
    assert found.exit_code == 1
    told = "preds/a.png: 40×40, but its photograph images/a.png is 40×24; another aspect ratio"
    assert told in found.stderr
    assert "--fit letterbox" in found.stderr
    assert not Path("fixed").exists() or not list(Path("fixed").iterdir())
    fitted = run("fix", "images", "preds", *weights, "--fit", "letterbox")
    assert (fitted.exit_code, "other predictions" in fitted.stderr) == (0, False)
    assert pixels(Path("fixed/a.png")).shape == pred.shape


def test_predictions_of_the_middle(
    work: Path, weights: tuple[str, Path], pred: NDArray[np.uint8]
) -> None:
    run("fix", "images", "preds", *weights, "-o", "whole")
    for stem in "abc":
        Image.fromarray(pred[6:-6, 10:-10]).save(f"preds/{stem}.png")
    assert run("fix", "images", "preds", *weights, "--fit", "crop").exit_code == 0
    found = pixels(work / "fixed/a.png")
    assert found.shape == (12, 20)
    assert (found != pred[6:-6, 10:-10]).any()


def test_bands_of_a_photograph(work: Path, weights: tuple[str, Path]) -> None:
    image = np.asarray(Image.open("images/a.png").convert("RGB")).astype(np.uint16) * 16
    shutil.rmtree("images")
    Path("images").mkdir()
    many = np.concatenate([image[..., ::-1], image[..., :2]], axis=2)
    tifffile.imwrite("images/a.tif", many, photometric="minisblack", planarconfig="contig")
    assert "--bands" in flat(run("fix", "images/a.tif", "preds/a.png", *weights).stderr)
    found = run("fix", "images/a.tif", "preds/a.png", *weights, "--bands", "3,2,1")
    assert found.exit_code == 0, found.stderr
    assert "values scaled" in found.stdout


def test_what_is_passed_over_is_counted(work: Path, weights: tuple[str, Path]) -> None:
    Path("images/notes.txt").write_text("-")
    Path("preds/gone.png").symlink_to("nowhere")
    found = run("fix", "images", "preds", *weights)
    assert "3 written, 2 passed over: 1 .txt, 1 dangling link;" in found.stdout
    again = run("fix", "images", "preds", *weights, "-o", "other", "--json")
    assert json.loads(again.stdout)["passed_over"] == {".txt": 1, "dangling link": 1}
    # Our own files are no photographs.
    run("predict-offsets", "images", *weights, "-o", "maps")
    mixed = run("fix", "maps", "preds", *weights, "-o", "none")
    assert (mixed.exit_code, "an offset map, not a photograph" in mixed.stderr) == (1, True)


def test_names_that_differ_are_linked_aloud(work: Path, weights: tuple[str, Path]) -> None:
    for stem in "abc":
        Path("preds", f"{stem}.png").rename(f"preds/{stem}_gt.png")
    found = run("fix", "images", "preds", *weights)
    assert found.exit_code == 0
    assert "names differ; 3 files are paired like preds/a_gt.png with images/a.png" in found.stderr


def test_an_argument_too_many_is_told_what_to_type(work: Path) -> None:
    found = run("fix", "images/a.png", "preds/a.png", "out.png")
    assert found.exit_code == 2
    assert "segfix fix images/a.png preds/a.png -o out.png" in flat(found.stderr)
