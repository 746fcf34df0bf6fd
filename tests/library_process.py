"""Tests of other libraries, each in a process of its own and off line."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


def run_with_library(file: str, library: str, folder: Path) -> None:
    """Run the function `run_LIBRARY` of a test file; skip where the library isn't installed.

    Warnings are errors.

    Args:
        file: The test file.
        library: Its package.
        folder: Where the library keeps its settings.
    """
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} isn't installed")
    code = f"import runpy; runpy.run_path({file!r})['run_{library}']()"
    kept = dict.fromkeys(("HF_HOME", "YOLO_CONFIG_DIR"), str(folder))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "true"} | kept,
    )
    assert done.returncode == 0, done.stderr
