"""segfix report through click's runner."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from tests.cli import commands

run = partial(commands.run, "report")


def test_a_report_is_one_file(work: Path) -> None:
    result = run("preds", "labels", "--images", "images", "--against", "truth=labels")
    assert result.exit_code == 0, result.output
    assert "report.html: 3 images scored, 3 shown, " in result.stdout
    page = Path("report.html").read_text(encoding="utf-8")
    assert "truth against PREDS" in page
    assert page.count('<div class="handle">') == 3
    assert page.count('class="photograph"') == 3
    for folder in ("preds", "labels", "images"):
        assert f"<dd>{folder}</dd>" in page


def test_an_existing_page_is_not_replaced_unasked(work: Path) -> None:
    arguments = ("preds", "labels", "-o", "deep/page.html", "-q")
    first = run(*arguments)
    assert (first.exit_code, first.output) == (0, "")
    Path("deep/page.html").write_text("mine")
    refused = run(*arguments)
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr
    assert Path("deep/page.html").read_text() == "mine"
    assert run(*arguments, "--overwrite").exit_code == 0
    assert "mine" not in Path("deep/page.html").read_text(encoding="utf-8")[:10]


@pytest.mark.parametrize("name", ["preds/a.png", "labels/b.png", "images/c.png", "classes.txt"])
def test_an_input_is_never_replaced(work: Path, name: str) -> None:
    Path("classes.txt").write_text("1 road\n2 sky\n")
    content = Path(name).read_bytes()
    inputs = ("preds", "labels", "--images", "images", "--class-names", "classes.txt")
    result = run(*inputs, "-o", name, "--overwrite")
    assert result.exit_code == 2
    assert "would replace an input" in result.stderr
    assert Path(name).read_bytes() == content


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have text alone as names")
def test_names_that_are_no_text_are_shown_as_far_as_they_are(work: Path) -> None:
    for folder in ("preds", "labels"):
        Path(folder, "a.png").rename(os.fsdecode(folder.encode() + b"/a\xff.png"))
    assert run("preds", "labels").exit_code == 0
    assert "<h4>a?</h4>" in Path("report.html").read_text(encoding="utf-8")


def test_failures_are_listed_and_the_rest_is_done(work: Path) -> None:
    Path("preds/a.png").unlink()
    Path("images/b.png").unlink()
    Image.new("RGB", (3, 3)).save("images/c.png")
    result = run("preds", "labels", "--images", "images", "--against", "truth=labels")
    assert result.exit_code == 1
    assert "2 images scored, 2 shown" in result.stdout
    failures = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert [line.split(":")[1].strip() for line in failures] == [
        "labels/a.png",
        "labels/b.png",
        "images/c.png",
    ]
    assert "3 failures" in Path("report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("nowhere", "labels"), "nowhere"),
        (("preds", "labels", "--images", "nowhere"), "nowhere"),
        (("preds", "labels", "--against", "PREDS=labels"), "two sets are called 'PREDS'"),
        (("preds", "labels", "--examples", "-1"), "--examples"),
    ],
)
def test_bad_arguments_are_usage_errors(work: Path, arguments: tuple[str, ...], text: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert text in result.stderr
    assert not Path("report.html").exists()


def test_without_jinja2_the_extra_is_named(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    result = run("preds", "labels")
    assert result.exit_code == 1
    assert "pip install 'segfix-refine[report]'" in result.stderr
