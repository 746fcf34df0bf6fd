"""What the README tells people to type works."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
CROPS = ROOT / "tests" / "data" / "camvid"
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Enough to see the training commands through.
SHORT = ["--steps", "2", "--batch-size", "2", "--crop-size", "64", "--workers", "0"]


def commands(word: str) -> list[list[str]]:
    """The lines of all sh blocks that call this program, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line[:1] == [word]]


def test_every_segfix_command_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("images", "labels", "preds"):
        shutil.copytree(CROPS / kind, kind)
        shutil.copytree(CROPS / kind, Path("mine", "train", kind))
        shutil.copytree(CROPS / kind, Path("mine", "val", kind))
    found = commands("segfix")
    assert {line[1] for line in found} >= {"predict-offsets", "refine", "evaluate", "train"}
    for line in found:
        extra = SHORT if line[1] == "train" else []
        # Offsets of other weights are not replaced unasked.
        if line[1] == "predict-offsets" and "--weights" in line:
            extra = ["--overwrite"]
        program = str(Path(sys.executable).with_name("segfix"))
        result = subprocess.run(
            [program, *line[1:], *extra], capture_output=True, text=True, check=False, timeout=600
        )
        assert result.returncode == 0, (line, result.stderr)
    assert len(list(Path("refined").glob("*.png"))) == 3


def test_the_python_lines_run_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stem = sorted(path.name for path in (CROPS / "images").iterdir())[0]
    shutil.copy(CROPS / "images" / stem, "photograph.jpg")
    shutil.copy(CROPS / "preds" / stem, "prediction.png")
    found: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        names: dict[str, Any] = {}
        exec(compile(block, "README.md", "exec"), names)
        found |= names
    assert found["refined"].shape == found["label_map"].shape
    assert {"EPLLoss", "LevelSetLoss"} <= found.keys()
    assert all(p.grad is not None for p in found["network"].decoder.parameters())


def test_make_targets_named_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = commands("make")
    assert named
    for line in named:
        assert re.search(rf"^{line[1]}:", makefile, re.MULTILINE)


def test_relative_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)[^)]*\)", README):
        assert (ROOT / target).exists(), target
