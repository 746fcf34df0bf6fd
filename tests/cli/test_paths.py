"""Files, folders and links given to any command: what is read, and what is never replaced."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from segfix.formats import read_offset_map
from tests.cli.commands import pixels, run


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


def test_recursive_mirrors_the_tree(work: Path, tiny_onnx: Path) -> None:
    for folder in ("images", "preds"):
        Path(folder, "town", "day").mkdir(parents=True)
        shutil.move(f"{folder}/b.png", f"{folder}/town/day/b.png")
    run("predict-offsets", "images", "--weights", tiny_onnx, "-r")
    assert read_offset_map(Path("offsets/town/day/b.png")).codes.any()
    assert run("refine", "preds", "-r").exit_code == 0
    assert Path("refined/town/day/b.png").is_file()
    assert Path("refined/a.png").is_file()


def test_single_files_are_a_pair_whatever_their_names(work: Path, tiny_onnx: Path) -> None:
    run("predict-offsets", "images/a.png", "--weights", tiny_onnx)
    shutil.copy("preds/b.png", "mine.png")
    assert run("refine", "mine.png", "--offsets", "offsets/a.png").exit_code == 0
    assert np.array_equal(pixels(Path("refined/mine.png")), pixels(Path("labels/a.png")))


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


@pytest.mark.parametrize("command", [("refine", "preds"), ("show", "images")])
def test_two_files_for_one_offset_map_are_refused(offsets: Path, command: tuple[str, str]) -> None:
    (offsets / "b.flo").write_bytes(b"another program's")
    result = run(*command, "--offsets", "offsets", "-o", "out")
    assert result.exit_code == 2
    assert "offsets/b.flo: same stem as b.png; rename one of them." in result.stderr
    assert not Path("out").exists()
