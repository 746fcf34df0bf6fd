"""COCO results and annotations of one object."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.instances.scenes import (
    CAR,
    LEFT,
    write_coco,
)


@pytest.fixture
def coco(tmp_path: Path) -> tuple[Path, Path]:
    pair: tuple[Path, Path] = write_coco(tmp_path, [(0, CAR, LEFT)], [(0, CAR, LEFT, 1)])
    return pair
