"""Offset maps of the tiny network, and predictions for the one that looks at them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.cli.commands import run


@pytest.fixture
def offsets(work: Path, tiny_onnx: Path) -> Path:
    """The folder `offsets` beside those of `work`, of the tiny network."""
    assert run("predict-offsets", "images", "--weights", tiny_onnx).exit_code == 0
    return work / "offsets"


@pytest.fixture
def predict(work: Path, conditioned_onnx: Path) -> tuple[object, ...]:
    """The command for the photographs of `work`, by a network that can look at predictions."""
    return ("predict-offsets", "images", "--weights", conditioned_onnx)


@pytest.fixture
def pred() -> NDArray[np.uint8]:
    """The prediction of `work`."""
    array = np.ones((24, 40), np.uint8)
    array[:, 22:] = 2
    return array
