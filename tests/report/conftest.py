"""Folders of small scenes for the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CLASSES = ("<img src=x onerror=alert(1)>", "road & kerb", "never seen", "car", "tree")


def make_scenes(folder: Path, names: list[str]) -> None:
    """`images`, `labels`, `preds` and `refined` of 64×48 pixels, four classes and some void.

    Predictions lie 4 px right of the truth; refined ones 2 px, but in every third image 6 px.
    """
    for kind in ("images", "labels", "preds", "refined"):
        (folder / kind).mkdir(parents=True)
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        present = np.array([0, 1, 3, 4])
        blocks = present[rng.integers(0, 4, (3, 4))]
        blocks[0] = present
        truth = blocks.repeat(16, axis=0).repeat(16, axis=1).astype(np.uint8)
        shift = 6 if number % 3 == 2 else 2
        arrays = {
            "images": np.stack([truth * 50 + 20] * 3, axis=2),
            "labels": truth.copy(),
            "preds": np.roll(truth, 4, axis=1),
            "refined": np.roll(truth, shift, axis=1),
        }
        arrays["labels"][:4, :4] = 255
        for kind, array in arrays.items():
            Image.fromarray(array).save(folder / kind / f"{name}.png")
    lines = [f"{number} {name}" for number, name in enumerate(CLASSES)]
    (folder / "classes.txt").write_text("\n".join(lines))


@pytest.fixture
def scenes(tmp_path: Path) -> Callable[[list[str]], Path]:
    """Makes the folders of `make_scenes` and returns the folder that they are in."""

    def make(names: list[str]) -> Path:
        make_scenes(tmp_path, names)
        return tmp_path

    return make


@pytest.fixture(scope="session")
def many_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five hundred, one with a hostile name."""
    folder = tmp_path_factory.mktemp("scenes")
    make_scenes(folder, ["0<b onmouseover=alert(2)>&\"'", *(f"s{n:03}" for n in range(499))])
    return folder
