"""The picture of before and after."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import segfix
from segfix.report.overlay import CHANGED
from segfix.report.sheet import GAP


def panels(picture: Image.Image, width: int) -> list[NDArray[np.uint8]]:
    drawn = np.asarray(picture)
    assert picture.mode == "RGB"
    assert drawn.shape[1] == 3 * width + 2 * GAP
    return [drawn[:, k * (width + GAP) :][:, :width] for k in range(3)]


def test_three_panels_of_the_photograph(half_plane: NDArray[np.uint8]) -> None:
    height, width = half_plane.shape
    photograph = np.full((height, width, 3), 128, np.uint8)
    after = np.roll(half_plane, 1, axis=1)
    before, refined, changed = panels(segfix.compare(photograph, half_plane, after), width)
    marked = (changed == CHANGED).all(axis=2)
    assert np.array_equal(marked[-height:], half_plane != after)
    assert not np.array_equal(before, refined)
    assert segfix.compare(photograph, half_plane, half_plane)._repr_png_()


def test_large_photographs_are_reduced_and_masks_numbered() -> None:
    photograph = np.zeros((100, 200, 3), np.uint8)
    masks = np.zeros((2, 100, 200), bool)
    masks[0, :50] = masks[1, 25:75, :100] = True
    picture = segfix.compare(photograph, masks, ~masks, max_side=50)
    *_, changed = panels(picture, 50)
    assert (changed[-25:] == CHANGED).all()
    assert panels(segfix.compare(photograph, masks, masks, max_side=None), 200)
    _, _, same = panels(segfix.compare(photograph, masks, masks > 0, max_side=50), 50)
    assert not (same[-25:] == CHANGED).all(axis=2).any()
