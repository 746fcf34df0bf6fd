"""`segfix demo` and `segfix weights`, which need no file of the user."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segfix
from tests.cli.commands import pixels, run

DEMO = Path(segfix.__file__).parent / "demo"


def test_weights_describes_the_shipped_network() -> None:
    listed = run("weights")
    assert listed.exit_code == 0
    assert "hrnet_lite0 (default)" in listed.stdout
    assert "research-only data" in listed.stdout


def test_demo_draws_before_and_after_of_every_photograph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("demo", "-q")
    assert result.exit_code == 0
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert [path.stem for path in paths] == ["china", "coffee", "flower"]
    for path in paths:
        with (
            Image.open(path) as picture,
            Image.open(DEMO / f"images/{path.stem}.jpg") as photograph,
        ):
            assert picture.width == 3 * photograph.width + 16
            assert picture.height > photograph.height, "the caption comes on top"
        before = pixels(DEMO / "preds" / path.name)
        after = pixels(Path(f"demo/refined/{path.name}"))
        assert set(np.unique(after)) <= set(np.unique(before))
        assert 0 < np.mean(before != after) < 0.2
    assert run("demo", "-q").exit_code == 0, "a second run finds everything done"


def test_demo_leaves_the_files_of_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    Path("images/coffee.jpg").write_text("mine")
    assert run("demo", "-o", ".", "-q").exit_code == 0
    assert Path("images/coffee.jpg").read_text() == "mine"
