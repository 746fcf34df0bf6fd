"""`segfix evaluate` and `segfix report` on files that aren't what they are taken for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.cli.commands import flat, pixels, run, run_json

both = pytest.mark.parametrize("command", ["evaluate", "report"])


def rewrite(folder: str, change: Callable[[NDArray[Any]], NDArray[Any] | Image.Image]) -> None:
    """Write every label map of a folder of `work` anew."""
    for stem in "abc":
        path = Path(folder, f"{stem}.png")
        changed = change(pixels(path))
        picture = Image.fromarray(changed) if isinstance(changed, np.ndarray) else changed
        picture.save(path)


def to_mask(ids: NDArray[Any]) -> NDArray[np.uint8]:
    return np.where(ids == 2, 255, 0).astype(np.uint8)


def told(command: str, *arguments: str) -> str:
    """What a run that succeeds says: of a report, the page."""
    option = "--overwrite" if command == "report" else "--errors"
    done = run(command, "preds", "labels", *arguments, option)
    assert done.exit_code == 0, done.output
    if command == "evaluate":
        return done.stderr
    return Path("report.html").read_text(encoding="utf-8").replace("&#39;", "'")


@both
@pytest.mark.parametrize("coloured", [False, True])
def test_masks_of_0_and_255_are_refused_unless_void_is_meant(
    work: Path, command: str, coloured: bool
) -> None:
    for folder in ("preds", "labels"):
        rewrite(folder, to_mask)
        if coloured:
            rewrite(folder, lambda ids: np.repeat(ids[..., None], 3, 2))
    refused = run(command, "preds", "labels")
    assert refused.exit_code == 2
    assert "labels holds 0 and void (255) alone. For masks of 0 and 255 say --void -1" in flat(
        refused.stderr
    )
    assert not Path("report.html").exists()
    told(command, "--void", "255")
    told(command, "--void", "-1")
    assert "90.45" in run("evaluate", "preds", "labels", "--void", "-1").stdout


@pytest.mark.parametrize(
    "command", [("targets", "labels"), ("show", "images", "--labels", "labels")]
)
def test_masks_of_0_and_255_are_not_void_unasked_where_nothing_is_scored(
    work: Path, command: tuple[str, ...]
) -> None:
    original = pixels(Path("labels/a.png"))
    rewrite("labels", to_mask)
    refused = run(*command, "-o", "out")
    assert refused.exit_code == 2
    assert "labels holds 0 and void (255) alone. For masks of 0 and 255 say --void -1" in flat(
        refused.stderr
    )
    assert not Path("out").exists()
    for void in ("-1", "255"):
        assert run(*command, "-o", void, "--void", void).exit_code == 0
    # Of one object and void where others show that there are more.
    Image.fromarray(original).save("labels/a.png")
    assert run(*command, "-o", "out").exit_code == 0


def test_a_broken_label_map_is_told_by_the_work_itself(work: Path) -> None:
    Path("labels/a.png").write_bytes(b"no picture")
    done = run("targets", "labels", "-o", "out")
    assert done.exit_code == 1
    assert "a.png" in done.stderr
    assert len(list(Path("out").glob("*.png"))) == 2


@both
def test_grey_stored_as_colours_is_ids(work: Path, command: str) -> None:
    expected = run_json("evaluate", "preds", "labels")["sets"]
    rewrite("preds", lambda ids: np.repeat(ids[..., None], 3, 2))
    rewrite("labels", lambda ids: np.dstack([ids, ids, ids, np.full_like(ids, 255)]))
    assert run_json("evaluate", "preds", "labels")["sets"] == expected
    assert told(command) is not None


@both
@pytest.mark.parametrize("folder", ["preds", "labels"])
def test_colours_against_ids_are_refused(work: Path, command: str, folder: str) -> None:
    rewrite(folder, lambda ids: np.stack([ids, 7 * ids, 0 * ids], 2))
    done = run(command, "preds", "labels")
    assert done.exit_code == 1
    assert f"{folder}/a.png: colour-coded; scores need class ids" in done.stderr


@both
def test_ids_off_by_one_are_told(work: Path, command: str) -> None:
    rewrite("preds", lambda ids: ids - 1)
    text = told(command)
    assert "PREDS: 95% of the pixels would be right as their id + 1" in text
    rewrite("preds", lambda ids: ids + 2)
    assert "would be right as their id - 1" in told(command)


@both
def test_palettes_with_the_colours_elsewhere_are_told(work: Path, command: str) -> None:
    def painted(ids: NDArray[Any], *colours: int) -> Image.Image:
        picture = Image.fromarray(ids)
        picture.putpalette(colours)
        return picture

    red, green, black = (255, 0, 0), (0, 255, 0), (0, 0, 0)
    rewrite("labels", lambda ids: painted(ids, *black, *red, *green))
    rewrite("preds", lambda ids: painted(ids, *black, *red, *green))
    assert "renumbered" not in told(command)
    rewrite("preds", lambda ids: painted(3 - ids, *black, *green, *red))
    assert "PREDS: in 3 images the palette gives colours of LABELS to other ids" in told(command)
    # Other colours altogether say nothing.
    rewrite("preds", lambda ids: painted(3 - ids, *black, 1, 2, 3, 4, 5, 6))
    assert "renumbered" not in told(command)


@both
def test_copies_of_the_ground_truth_are_told(work: Path, command: str) -> None:
    shutil.rmtree("preds")
    shutil.copytree("labels", "preds")
    assert "PREDS: not a pixel differs from LABELS: copies of the ground truth?" in told(command)


@both
def test_a_set_that_equals_the_first_is_told(work: Path, command: str) -> None:
    shutil.copytree("preds", "refined")
    assert "refined: not a label differs from PREDS" in told(command, "--against", "refined")


@both
def test_results_as_ground_truth_are_told(work: Path, tiny_onnx: Path, command: str) -> None:
    assert run("predict-offsets", "images", "--weights", tiny_onnx).exit_code == 0
    assert run("refine", "preds", "-o", "refined").exit_code == 0
    shutil.rmtree("labels")
    shutil.copytree("refined", "labels")
    assert "3 files of LABELS are results of 'segfix refine': PREDS and LABELS swapped?" in told(
        command
    )


@both
def test_masks_of_0_and_255_beside_0_and_1_are_told(work: Path, command: str) -> None:
    rewrite("labels", lambda ids: ids - 1)
    rewrite("preds", to_mask)
    assert "masks of 0 and 255 beside labels of 0 and 1? write both alike" in told(command)


@both
def test_good_files_raise_no_doubt(work: Path, command: str) -> None:
    text = told(command)
    for word in ("would be right", "renumbered", "not a pixel", "not a label", "swapped"):
        assert word not in text


def test_class_names_are_no_formulas_in_csv(work: Path) -> None:
    Path("classes.txt").write_text("1 =HYPERLINK(1)\n2 @road\n3 +x\n4 -y\n")
    options = ("--class-names", "classes.txt", "--against", "truth=labels", "--csv", "-q")
    lines = run("evaluate", "preds", "labels", *options).stdout.splitlines()
    names = {line.split(",")[2] for line in lines[1:]}
    assert names >= {"'=HYPERLINK(1)", "'@road"}
    assert not any(name.startswith(("=", "@", "+", "-")) for name in names)
