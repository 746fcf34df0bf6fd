"""Run commands in this process and read what they tell and write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result

from segfix.cli import main
from segfix.formats import read_label_map


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    """Run a command; whatever goes wrong, it ends by an exit status and without a traceback."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def run_json(*arguments: object) -> dict[str, Any]:
    """Run a command and return its report."""
    report: dict[str, Any] = json.loads(run(*arguments, "--json", "-q").stdout)
    return report


def flat(text: str) -> str:
    """Join the lines into which click breaks usage errors."""
    return " ".join(text.split())


def pixels(path: Path) -> np.ndarray[Any, Any]:
    """Read the ids of a label map, (H, W), or its colours, (H, W, 3)."""
    return read_label_map(path).array
