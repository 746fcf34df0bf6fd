"""Names that a terminal would obey, hide or not know, and links that lead in circles."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from segfix.cli import main
from segfix.formats import OffsetMap, write_offset_map

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")

NAMES = [
    *(b"a\nb", b"tab\tb", b"\xff", b"half\xc3", b"-rf", b"--help", b"x" * 240, "😀".encode()),
    *("é" * 100).encode().split(), *(b"dots..", b"blank ", b" lead", b"\x1b[31mred", b"back\rb"),
    *(b'"q,u"', b"'", b"$(x)", b"%s", b"{stem}", b"#c", b"[a]", b"*", "\x85".encode()),
    *("line\u2028b".encode(), "\u202emirrored".encode()),
]  # fmt: skip
BROKEN = {name: b"bad" + name for name in NAMES if len(name) < 200}


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    check_lines(result.stderr)
    return result


def check_lines(text: str) -> None:
    """A line begins as ours do, and says all."""
    assert "Traceback" not in text
    beginnings = ("failed: ", "segfix: ", "Error: ", "Usage: ", "Try ", "… and ", "weights ")
    for line in text.split("\n"):
        if line.startswith("\r"):
            continue  # a progress bar
        assert not line or line.startswith(beginnings), line
        assert line.isprintable(), line


@pytest.fixture
def odd(work: Path) -> Path:
    """The scene of `work` under all of these names, and as many broken files in `images`."""
    for folder in ("images", "preds", "labels"):
        good = Path(folder, "a.png").read_bytes()
        shutil.rmtree(folder)
        Path(folder).mkdir()
        for name in NAMES:
            Path(folder, os.fsdecode(name + b".png")).write_bytes(good)
    for name in BROKEN.values():
        Path("images", os.fsdecode(name + b".png")).write_bytes(b"broken")
    return work


@pytest.fixture
def offset_maps(odd: Path) -> Path:
    """An offset map of each of the names."""
    for name in NAMES:
        path = Path("offsets", os.fsdecode(name + b".png"))
        write_offset_map(path, OffsetMap(np.zeros((24, 40), np.uint8)))
    return Path("offsets")


def test_every_photograph_is_worked_on_and_told_on_one_line(odd: Path, tiny_onnx: Path) -> None:
    arguments = ("predict-offsets", "images", "--weights", tiny_onnx, "-q")
    predicted = json.loads(run(*arguments, "--json").stdout)
    assert len(predicted["done"]) == len(NAMES)
    assert len(predicted["failed"]) == len(BROKEN)
    assert run(*arguments, "-o", "again").stderr.count("\n") == 21


def test_every_map_is_worked_on_and_told_on_one_line(odd: Path, offset_maps: Path) -> None:
    refined = json.loads(run("refine", "preds", "--json", "-q").stdout)
    assert (len(refined["done"]), refined["failed"]) == (len(NAMES), [])
    assert {Path(row["output"]).name for row in refined["done"]} == {
        path.name for path in Path("preds").iterdir()
    }
    scored = json.loads(run("evaluate", "refined", "labels", "--json", "-q").stdout)
    assert scored["images"] == len(NAMES)
    for command in (
        ("convert", "offsets", "--format", "npz"),
        ("show", "images", "--preds", "preds"),
        ("targets", "labels", "-o", "targets"),
    ):
        assert len(json.loads(run(*command, "--json", "-q").stdout)["done"]) == len(NAMES)
    paged = run("report", "preds", "labels", "--images", "images", "-o", "page\n.html")
    assert (paged.exit_code, paged.stdout.count("\n")) == (0, 1)


def test_names_in_a_map_pair_files(odd: Path, offset_maps: Path) -> None:
    stems = ["-rf", "blank ", "[a]", "\u202emirrored", "😀"]
    for stem, other in pairwise(stems):
        Path("map.txt").write_text(f"{stem}.png\t{other}.png\n", encoding="utf-8")
        # Without an offset map of its own name, it has the one of the list alone.
        Path("offsets", f"{stem}.png").unlink()
        result = run("refine", f"preds/{stem}.png", "--map", "map.txt", "-q")
        assert result.exit_code == 0, result.stderr
    assert {path.stem for path in Path("refined").iterdir()} == {*stems[:-1]}


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_process_tells_any_name_in_any_locale(work: Path, locale: str) -> None:
    Path("preds", "bad\udcff\n😀.png").write_bytes(b"broken")
    shutil.copytree("preds", "offsets\udcff")
    result = subprocess.run(
        [
            str(Path(sys.executable).with_name("segfix")),
            *("refine", "preds", "--offsets", "offsets\udcff", "--json", "-q"),
        ],
        capture_output=True,
        check=False,
        timeout=120,
        env=os.environ | {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )
    assert result.returncode == 1
    assert len(json.loads(result.stdout)["failed"]) == 4
    assert len(result.stderr.splitlines()) == 4
    assert all(line.startswith(b"failed: ") for line in result.stderr.splitlines())
    assert rb"bad\udcff\n" in result.stderr


def test_links_in_circles_are_told(work: Path, tiny_onnx: Path) -> None:
    assert run("predict-offsets", "images", "--weights", tiny_onnx, "-q").exit_code == 0
    Path("circle").symlink_to("circle")
    for arguments in (
        ("preds", "-o", "circle"),
        ("preds", "--offsets", "circle"),
        ("circle",),
        ("preds", "--map", "circle"),
    ):
        assert run("refine", *arguments, "-q").exit_code in (1, 2), arguments
    Path("refined").mkdir()
    Path("refined", "b.png").symlink_to("b.png")
    assert run("refine", "preds", "-q").exit_code == 0
    assert not Path("refined", "b.png").is_symlink()


@pytest.mark.parametrize(
    "arguments",
    [
        ("refine", "file:///a%00b"),
        ("refine", "preds", "-o", "file:///a%00b"),
        ("refine", "preds", "--map", "file:///a%00b"),
        ("evaluate", "preds", "file:///%00"),
        ("predict-offsets", "x" * 5000),
        ("refine", "preds", "--offsets", "x" * 300),
        ("evaluate", "preds", "x/" * 3000),
    ],
)
def test_what_can_be_no_name_is_told(work: Path, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code in (1, 2)
    assert result.stderr


def test_what_is_no_file_is_never_replaced(work: Path, tiny_onnx: Path) -> None:
    assert run("predict-offsets", "images", "--weights", tiny_onnx, "-q").exit_code == 0
    Path("refined").mkdir()
    os.mkfifo("refined/b.png")
    Path("refined", "c.png").symlink_to("/dev/null")
    for extra in ([], ["--overwrite"]):
        result = run("refine", "preds", "-q", *extra)
        assert result.exit_code == 1
        assert result.stderr.count("a folder, a pipe or a device, no file") == 2
    assert Path("refined/b.png").is_fifo()
    assert Path("refined/c.png").is_symlink()
