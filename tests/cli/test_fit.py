"""`segfix refine --fit` with masks that hold padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segfix import write_offset_map
from segfix.formats import read_label_map
from tests.cli.commands import pixels, run
from tests.refinement.test_fits import edges, padded, scene


@pytest.fixture
def boxed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A photograph's label map; in `preds` it is letterboxed, 256×160 of 240×135."""
    monkeypatch.chdir(tmp_path)
    ids = scene(135, 240)
    write_offset_map(Path("offsets/a.png"), edges(ids))
    Path("preds").mkdir()
    Image.fromarray(padded("letterbox", ids, (160, 256))).save("preds/a.png")
    return ids


@pytest.mark.parametrize("options", [(), ("--fit", "image"), ("--fit", "labels")])
def test_padding_is_named_and_nothing_stretched(boxed: np.ndarray, options: tuple[str]) -> None:
    done = run("refine", "preds", *options)
    assert done.exit_code == 1
    assert (
        "preds/a.png: 256×160, but its offset map offsets/a.png is 240×135; another aspect ratio: "
        "padding on both sides would fit best, --fit letterbox ("
    ) in done.stderr
    assert not Path("refined").exists()


def test_letterbox_gives_the_photographs_size_and_label_map(boxed: np.ndarray) -> None:
    assert run("refine", "preds", "--fit", "letterbox", "--scale", "0").exit_code == 0
    right = pixels(Path("refined/a.png"))
    assert right.shape == boxed.shape
    assert (right == boxed).mean() > 0.99
    assert (
        run("refine", "preds", "--fit", "stretch-image", "--scale", "0", "-o", "x").exit_code == 0
    )
    assert (pixels(Path("x/a.png")) == boxed).mean() < 0.95


def test_what_leaves_the_predictions_size_writes_it(boxed: np.ndarray) -> None:
    for fit in ("crop", "stretch-labels"):
        assert run("refine", "preds", "--fit", fit, "-o", fit).exit_code == 0
        assert pixels(Path(fit, "a.png")).shape == (160, 256)


def test_a_palette_and_masks_of_arrays_are_fitted_too(boxed: np.ndarray) -> None:
    picture = Image.open("preds/a.png").convert("P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save("preds/a.png")
    masks = np.stack([np.array(picture) == k for k in (1, 2, 3)])
    np.save("preds/a.npy", masks)
    assert run("refine", "preds", "--fit", "letterbox").exit_code == 0
    found = read_label_map(Path("refined/a.png"))
    assert found.palette is not None
    assert found.shape == np.load("refined/a.npy").shape[1:] == boxed.shape
