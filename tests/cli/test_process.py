"""The installed command as a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("segfix")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COMMAND), *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )


@pytest.fixture(autouse=True)
def installed() -> None:
    assert COMMAND.exists(), "install the package first: make install"


def test_predict_and_refine_as_a_user_types_them(work: Path, tiny_onnx: Path) -> None:
    predicted = run("predict-offsets", "images/", "--weights", tiny_onnx)
    assert predicted.returncode == 0, predicted.stderr
    assert predicted.stdout == "offsets: 3 written\n"
    refined = run("refine", "preds/", "--offsets")
    assert refined.returncode == 0, refined.stderr
    assert refined.stdout == "refined: 3 written; 5.00% of the pixels changed their label\n"


def test_errors_are_one_line_without_a_traceback(work: Path) -> None:
    result = run("refine", "preds")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == "segfix: offsets: no such file or folder.\n"


def test_a_failure_gives_exit_status_one_and_a_line_on_stderr(work: Path, tiny_onnx: Path) -> None:
    shutil.copy("images/a.png", "images/z.png")
    Path("images/z.png").write_bytes(Path("images/a.png").read_bytes()[:60])
    result = run("predict-offsets", "images", "--weights", tiny_onnx, "-q")
    assert result.returncode == 1
    assert result.stderr.startswith("failed: images/z.png: ")
    assert result.stderr.count("\n") == 1
