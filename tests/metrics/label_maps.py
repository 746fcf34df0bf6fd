"""Real and drawn pairs of a prediction and its ground truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

VOID = 255
CROPS = Path(__file__).parents[1] / "data" / "camvid"
STEMS = sorted(path.stem for path in (CROPS / "labels").glob("*.png"))


def crop(stem: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A real prediction and its ground truth, void 255."""
    found, true = (
        np.array(Image.open(CROPS / kind / f"{stem}.png")) for kind in ("preds", "labels")
    )
    return found, true


@st.composite
def predictions(draw: st.DrawFn) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A predicted map, with an id outside the four classes, and a true one with void."""
    shape = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    found = hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, 9, VOID]))
    true = hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, VOID]))
    return draw(found), draw(true)


mask_pairs = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(
    lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
)


def blobs(seed: int, shape: tuple[int, int] = (40, 50)) -> NDArray[np.bool_]:
    """Discs, cut by the frame."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    mask = np.zeros(shape, bool)
    for _ in range(4):
        cy, cx, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(2, 12)
        mask ^= np.hypot(y - cy, x - cx) < radius
    return mask
