"""The harness, and its scene in the current folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def faults(load_script: Callable[[Path], ModuleType]) -> ModuleType:
    """`faults.py`."""
    return load_script(Path(__file__).with_name("faults.py"))


@pytest.fixture(scope="session")
def made_scene(faults: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `make_scene`, seven photographs."""
    folder = tmp_path_factory.mktemp("faults") / "scene"
    faults.make_scene(folder, 7)
    return folder


@pytest.fixture
def scene(made_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it as the current folder."""
    folder = Path(shutil.copytree(made_scene, tmp_path / "scene"))
    monkeypatch.chdir(folder)
    return folder
