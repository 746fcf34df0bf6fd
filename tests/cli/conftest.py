"""Offset maps of the tiny network, and what the network that looks at predictions is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import run


@pytest.fixture
def offsets(work: Path, tiny_onnx: Path) -> Path:
    """The folder `offsets` beside those of `work`, of the tiny network."""
    assert run("predict-offsets", "images", "--weights", tiny_onnx).exit_code == 0
    return work / "offsets"
