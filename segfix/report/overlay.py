"""Label maps drawn on photographs."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from numpy.typing import NDArray

GOLDEN_RATIO = 0.618034
CHANGED = (255, 0, 255)


def label_colours(ids: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """A colour for each id, the same wherever the id occurs.

    Args:
        ids: Any shape, ids ≥ 0.

    Returns:
        The same shape and 3 for RGB.
    """
    known, index = np.unique(ids, return_inverse=True)
    colours = [
        colorsys.hsv_to_rgb((0.05 + GOLDEN_RATIO * int(k)) % 1, 0.75, 0.6 + 0.4 * (int(k) % 3 == 0))
        for k in known
    ]
    table = np.rint(np.array(colours) * 255).astype(np.uint8)
    drawn: NDArray[np.uint8] = table[index.reshape(ids.shape)]
    return drawn


def overlay(
    image: NDArray[np.uint8], ids: NDArray[np.integer[Any]], *, opacity: float = 0.45
) -> NDArray[np.uint8]:
    """Blend the colours of a label map over a photograph and draw its boundaries in white.

    Args:
        image: (H, W, 3) uint8 RGB.
        ids: (H, W) ids ≥ 0.
        opacity: Of the colours, in [0, 1].

    Returns:
        (H, W, 3) uint8 RGB.
    """
    blended = (1 - opacity) * image + opacity * label_colours(ids)
    lines = np.zeros(ids.shape, bool)
    lines[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    lines[:-1] |= ids[:-1] != ids[1:]
    blended[lines] = 255
    return np.rint(blended).astype(np.uint8)


def before_after(
    image: NDArray[np.uint8],
    before: NDArray[np.integer[Any]],
    after: NDArray[np.integer[Any]],
) -> NDArray[np.uint8]:
    """Three panels beside each other: before, after, and the changed pixels in magenta.

    Args:
        image: (H, W, 3) uint8 RGB.
        before: (H, W) ids ≥ 0.
        after: (H, W) ids ≥ 0.

    Returns:
        (H, 3·W + 16, 3) uint8 RGB.
    """
    changed = (0.5 * image + 64).astype(np.uint8)
    changed[before != after] = CHANGED
    gap = np.full((image.shape[0], 8, 3), 255, np.uint8)
    return np.concatenate(
        [overlay(image, before), gap, overlay(image, after), gap, changed], axis=1
    )
