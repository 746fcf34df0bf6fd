"""Lines along the boundaries of many masks at once, and how much of one lies near another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def boundary_lines(
    numbers: NDArray[np.integer[Any]],
) -> tuple[NDArray[np.intp], NDArray[np.unsignedinteger[Any]]]:
    """Find pixels whose right, lower or lower right neighbour differs, in up to 64 masks at once.

    Args:
        numbers: (H, W) class numbers from 0 to 63, or -1 where no class is.

    Returns:
        (N,) their places in the flattened array, ascending, and (N,) words: bit k is set where the
        mask of class k has its line, as DAVIS's `seg2bmap` draws it.

    Example:
        >>> boundary_lines(np.array([[0, 0, 2, -1]]))
        (array([1, 2]), array([5, 4], dtype=uint8))
    """
    height, width = numbers.shape
    differs = np.zeros((3, height, width), bool)
    steps = ((0, 1), (1, 0), (1, 1))
    for there, (down, right) in zip(differs, steps, strict=True):
        here = np.s_[: height - down, : width - right]
        there[here] = numbers[here] != numbers[down:, right:]
    places = np.flatnonzero(differs[0] | differs[1] | differs[2])
    # A word as short as the classes allow; class -1 takes the last entry.
    word = np.min_scalar_type(1 << int(numbers.max(initial=0)))
    bits = np.append(np.uint64(1) << np.arange(64, dtype=np.uint64), np.uint64(0)).astype(word)
    flat = numbers.ravel()
    own, lines = bits[flat[places]], np.zeros(len(places), word)
    for there, (down, right) in zip(differs, steps, strict=True):
        # Of two labels that differ, both masks have an edge.
        edge = np.flatnonzero(there.ravel()[places])
        lines[edge] |= own[edge] | bits[flat[places[edge] + (down * width + right)]]
    return places, lines


def count_matches(
    lines: tuple[NDArray[np.intp], NDArray[np.unsignedinteger[Any]]],
    others: tuple[NDArray[np.intp], NDArray[np.unsignedinteger[Any]]],
    shape: tuple[int, int],
    radii: Sequence[float],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count, for each class, the pixels of its line, and those with the other line near.

    Args:
        lines: Of `boundary_lines`.
        others: The lines to be met, of the same image.
        shape: Its height and width.
        radii: R ascending tolerances, pixels (Euclidean).

    Returns:
        (64,) pixels and (64, R) pixels met.
    """
    # No farther than the frame: of an image of one row, the circle would take up its square.
    high, wide = (min(int(radii[-1]), max(length - 1, 0)) for length in shape)
    stride = shape[1] + 2 * wide
    padded = np.zeros((shape[0] + 2 * high) * stride, others[1].dtype)

    def padded_places(places: NDArray[np.intp]) -> NDArray[np.intp]:
        return places + places // shape[1] * (2 * wide) + high * stride + wide

    padded[padded_places(others[0])] = others[1]
    places, missing = padded_places(lines[0]), lines[1]
    steps = np.mgrid[-high : high + 1, -wide : wide + 1].reshape(2, -1)
    squares = (steps**2).sum(axis=0)
    met, done = [], -1.0
    for radius in radii:
        near: NDArray[Any] = np.zeros(len(places), padded.dtype)
        for down, right in steps[:, (squares > done) & (squares <= radius**2)].T:
            near |= padded.take(places + (down * stride + right))
        done = radius**2
        found = missing & near
        met.append(_count_bits(found))
        # What is met within one radius is met within all larger ones.
        left = np.flatnonzero(missing != found)
        places, missing = places[left], (missing ^ found)[left]
    return _count_bits(lines[1]), np.cumsum(met, axis=0).T


def _count_bits(words: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.int64]:
    """Count (64,) how often each bit is set in (N,) words."""
    counts = np.zeros(64, np.int64)
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    octets = words.astype(words.dtype.newbyteorder("<"))[:, None].view(np.uint8)
    for place, values in enumerate(octets.T):
        counts[8 * place : 8 * place + 8] = np.bincount(values, minlength=256) @ bits
    return counts
