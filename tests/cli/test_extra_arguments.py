"""What a command with an argument too many says instead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.commands import flat, run


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("images/a.jpg", "preds/a.png", "preds/b.png", "preds/c.png", "offsets/a.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    for name in ("photo.jpg", "mask.png", "my photo.jpg", "photo.png"):
        Path(name).touch()


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("refine", "photo.jpg", "mask.png"), "segfix fix photo.jpg mask.png"),
        (("refine", "mask.png", "photo.jpg"), "segfix fix photo.jpg mask.png"),
        (("refine", "photo.png", "mask.png"), "segfix fix photo.png mask.png"),
        (("refine", "my photo.jpg", "mask.png"), "segfix fix 'my photo.jpg' mask.png"),
        (("predict-offsets", "photo.jpg", "mask.png"), "segfix fix photo.jpg mask.png"),
        (("predict-offsets", "mask.png", "photo.jpg"), "segfix fix photo.jpg mask.png"),
        (
            ("refine", "preds", "images"),
            "first: segfix predict-offsets images; then: segfix refine preds",
        ),
        (
            ("refine", "images", "preds"),
            "first: segfix predict-offsets images; then: segfix refine preds",
        ),
        (
            ("predict-offsets", "images", "preds"),
            "first: segfix predict-offsets images; then: segfix refine preds",
        ),
        (("refine", "preds", "offsets"), "segfix refine preds --offsets offsets"),
        (
            ("refine", "preds/a.png", "preds/b.png", "preds/c.png"),
            "of many files give their folder: segfix refine preds",
        ),
        (("predict-offsets", "images", "out"), "segfix predict-offsets images -o out"),
        (("convert", "offsets", "out"), "segfix convert offsets -o out"),
        (("show", "images", "preds"), "segfix show images --preds preds"),
        (("evaluate", "preds", "preds", "x"), "segfix evaluate preds preds --against x"),
        (("report", "preds", "preds", "images"), "segfix report preds preds --images images"),
        (("refine", "a", "b", "c"), "Got unexpected extra arguments (b c)"),
        (("doctor", "x"), "Got unexpected extra argument (x)"),
    ],
)
def test_it_says_what_to_type(arguments: tuple[str, ...], advice: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert advice in flat(done.stderr)
    assert not Path("refined").exists()


def test_a_photograph_is_known_by_its_pixels() -> None:
    rows, columns = np.mgrid[:64, :400]
    wave = 128 + 60 * np.sin(columns / 20) + 60 * np.sin(rows / 20)
    Image.fromarray(wave.astype(np.uint8)).save("photo.png")
    Image.fromarray((wave > 128).astype(np.uint8)).save("mask.png")
    for command in ("refine", "predict-offsets"):
        for given in (("mask.png", "photo.png"), ("photo.png", "mask.png")):
            assert "segfix fix photo.png mask.png" in flat(run(command, *given).stderr)


def test_options_that_do_not_exist_are_still_refused() -> None:
    done = run("refine", "preds", "--colour", "red")
    assert done.exit_code == 2
    assert "No such option" in done.stderr
