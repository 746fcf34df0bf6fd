"""What the README and docs/ tell people to type works, and leads somewhere.

Blocks marked `sh`, `console` (with their output) and `python` are run; `bash` needs more than
the bundled pictures.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

import segfix
from segfix.cli import main

ROOT = Path(__file__).parents[1]
CROPS = ROOT / "tests" / "data" / "camvid"
# `.venv`, `build` and the like hold other people's pages.
PAGES = sorted(
    path
    for folder in (".", "docs", "segfix/demo", "tests", "tests/bench", "tests/data", "weights")
    for path in (ROOT / folder).glob("*.md")
)
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}
USED = [name for name in TEXTS if name == "README.md" or name.startswith("docs/")]
# Enough to see the training commands through.
SHORT = ["--steps", "2", "--batch-size", "2", "--crop-size", "64", "--workers", "0"]


def blocks(name: str, *kinds: str) -> list[str]:
    """The fenced blocks of some kinds on a page."""
    return re.findall(rf"```(?:{'|'.join(kinds)})\n(.*?)```", TEXTS[name], re.DOTALL)


def commands(name: str, word: str) -> Iterator[tuple[list[str], str]]:
    """Each command of a page that calls this program, and what the page says it prints."""
    for block in blocks(name, "sh", "console"):
        prompt = "$ " if block.startswith("$ ") else ""
        for part in re.split(r"^\$ " if prompt else r"\n", block, flags=re.MULTILINE):
            line, _, output = part.partition("\n")
            words = shlex.split(line, comments=True)
            if words[:1] == [word]:
                yield words[1:], output


def pages_with(word: str) -> list[str]:
    return [name for name in USED if any(commands(name, word))]


def shape(text: str) -> str:
    """Lines without their digits, as engines and processors round differently."""
    return re.sub(r"\d+", "0", text)


@pytest.mark.parametrize("name", pages_with("segfix"))
def test_every_segfix_command_runs_as_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("images", "labels", "preds"):
        for folder in (".", "mine/train", "mine/val"):
            shutil.copytree(CROPS / kind, Path(folder, kind))
    found = list(commands(name, "segfix"))
    used = {words[0] for words, _ in found if "-o" not in words}
    # Where a page doesn't make them, an earlier one has.
    for command, source, folder in (
        ("predict-offsets", "offsets", "offsets"),
        ("refine", "preds", "refined"),
    ):
        if command not in used:
            shutil.copytree(CROPS / source, folder)
    for words, output in found:
        if words[0] == "export":
            export_at_once(words)
            continue
        extra = SHORT if words[0] == "train" else []
        result = CliRunner().invoke(main, [*words, *extra])
        assert result.exit_code == 0, (words, result.output)
        for part in filter(None, output.split("…\n")):
            assert shape(part) in shape(result.stdout), (words, result.stdout)


def export_at_once(words: list[str]) -> None:
    """Check the command and give the shipped network; tests/cli/test_train.py waits for its own."""
    top = click.Context(main, **main.context_settings)
    given = main.commands["export"].make_context("export", words[1:], parent=top).params
    assert given["checkpoint"].is_file()
    shutil.copy(ROOT / "weights" / "hrnet_w18_small.onnx", given["out"])


def test_the_readme_shows_the_three_steps_and_what_they_print() -> None:
    shown = {words[0]: output for words, output in commands("README.md", "segfix")}
    assert all(shown[command] for command in ("predict-offsets", "refine", "evaluate"))


@pytest.mark.parametrize("name", [name for name in USED if blocks(name, "python")])
def test_the_python_lines_run_as_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stem = sorted(path.name for path in (CROPS / "images").iterdir())[0]
    shutil.copy(CROPS / "images" / stem, "photograph.jpg")
    shutil.copy(CROPS / "preds" / stem, "prediction.png")
    for block in blocks(name, "python"):
        found: dict[str, Any] = {}
        exec(compile(block, name, "exec"), found)
        if "refined" in found:
            refined = found["refined"]
            assert refined.shape == found.get("label_map", found.get("masks", refined)).shape
        if "loss" in found:
            assert all(one.grad is not None for one in found["network"].parameters())


def test_make_targets_named_on_the_pages_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in ("README.md", "CONTRIBUTING.md"):
        named = [words[0] for words, _ in commands(name, "make")]
        assert named
        named += re.findall(r"`make ([\w.-]+)", TEXTS[name])
        for target in named:
            assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target


def test_the_house_is_drawn_as_it_stands(load_script: Callable[[Path], ModuleType]) -> None:
    (house,) = blocks("CONTRIBUTING.md", "text")
    architecture = load_script(ROOT / "tests" / "test_architecture.py")
    drawn = [line.split()[0] for line in house.splitlines()]
    assert drawn == [floor for floor in architecture.FLOORS if floor not in ("", "__main__")]


# Links


def prose(name: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"```.*?```", "", TEXTS[name], flags=re.DOTALL)


def anchors(name: str) -> set[str]:
    """What links to headings of a page may name, as GitHub makes it of them."""
    headings = re.findall(r"^#+ (.+)$", prose(name), re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {word.replace(" ", "-") for word in words}


@pytest.mark.parametrize("name", TEXTS)
def test_relative_links_lead_to_files_and_headings(name: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(name)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, heading = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        if heading:
            assert heading in anchors(str(target.resolve().relative_to(ROOT))), link


def test_the_index_lists_every_page_of_docs() -> None:
    listed = re.findall(r"\]\(([\w-]+\.md)\)", TEXTS["docs/README.md"])
    assert sorted(f"docs/{page}" for page in [*listed, "README.md"]) == sorted(
        name for name in USED if name != "README.md"
    )


# Form


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 150


@pytest.mark.parametrize("name", TEXTS)
def test_lines_of_prose_are_wrapped(name: str) -> None:
    text = prose(name).partition("<!-- All below")[0]
    for line in text.splitlines():
        # A link or a path can't be broken, an indented line is code.
        if not line.startswith(("|", "    ")) and " " in line.strip()[:100]:
            assert len(line) <= 100, line


def test_the_citation_names_this_version_and_the_four_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == segfix.__version__
    titles = [reference["title"] for reference in citation["references"]]
    assert " ".join(titles[0].split()) in " ".join(TEXTS["README.md"].split())
    assert len(titles) == 4
    assert all(title in TEXTS["docs/losses.md"] for title in titles[1:])
