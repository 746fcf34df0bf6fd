"""Where a label map is wrong, and what refinement made of each pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

RIGHT, FIXED, BROKEN, WRONG, RELABELLED, VOID = range(6)
"""Codes of an error map: right before and after; wrong before only; wrong after only; wrong before
and after, with the same label or with another one; void in the ground truth."""

ERROR_NAMES = ("right", "fixed", "broken", "wrong", "still wrong, relabelled", "void")
"""What to call each code."""

ERROR_COLOURS = (
    (255, 255, 255),
    (0, 125, 225),
    (230, 75, 0),
    (70, 70, 70),
    (150, 85, 140),
    (165, 165, 165),
)
"""RGB of each code, on a pale background: told apart with any colour vision."""


def error_map(
    preds: NDArray[np.integer[Any]],
    target: NDArray[np.integer[Any]],
    refined: NDArray[np.integer[Any]] | None = None,
    *,
    ignore_index: int = 255,
) -> NDArray[np.uint8]:
    """Compare a label map, and what refinement made of it, with the ground truth.

    Args:
        preds: (H, W) class ids.
        target: (H, W) class ids of the ground truth.
        refined: (H, W) class ids after refinement; None: there was none.
        ignore_index: Void id of `target`.

    Returns:
        (H, W) codes. Every pixel has one of `RIGHT`, `FIXED`, `BROKEN`, `WRONG`, `RELABELLED`,
        `VOID`; without `refined` it is `RIGHT`, `WRONG` or `VOID`.

    Raises:
        ValueError: The sizes differ.

    Example:
        >>> preds, target = np.array([[1, 2, 2, 2, 3, 1]]), np.array([[1, 1, 2, 1, 1, 255]])
        >>> error_map(preds, target)
        array([[0, 3, 0, 3, 3, 5]], dtype=uint8)
        >>> error_map(preds, target, np.array([[1, 1, 1, 2, 2, 2]]))
        array([[0, 1, 2, 3, 4, 5]], dtype=uint8)
    """
    after = preds if refined is None else refined
    if not preds.shape == target.shape == after.shape:
        raise ValueError(
            "Expected label maps of one size but got "
            f"{preds.shape}, {target.shape} and {after.shape}."
        )
    wrong_before, wrong_after = preds != target, after != target
    codes: NDArray[np.uint8] = wrong_before * np.uint8(FIXED) + wrong_after * np.uint8(BROKEN)
    codes += (codes == WRONG) & (preds != after)
    codes[target == ignore_index] = VOID
    return codes
