"""What an array is: ids, colours, scores or masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segfix.errors import FileFormatError

Kind = Literal["ids", "colours", "scores", "masks"]

HIGHEST_FLOAT_ID = 2**31
"""Highest id kept as a float."""


def largest_array(path: Path, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Name the array that is the prediction: the largest."""
    maps = {name: array for name, array in arrays.items() if array.ndim >= 2}
    if not maps:
        raise FileFormatError(f"{path}: no array of two dimensions or more among {list(arrays)}.")
    most = max(array.size for array in maps.values())
    first, *others = [name for name, array in maps.items() if array.size == most]
    if others and most == 0 and "masks" in maps:
        return "masks"
    if others:
        raise FileFormatError(
            f"{path}: {first} and {others[0]} are equally large; --key says which is meant."
        )
    return first


def spare_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """List the axes of length 1 to leave out: a batch of one, a single class, a single slice."""
    if len(shape) > 3:
        ones = [axis for axis, length in enumerate(shape) if length == 1]
        return tuple(ones[: len(shape) - 2])
    if len(shape) == 3:
        return (0,) if shape[0] == 1 else (2,) if shape[2] == 1 else ()
    return ()


def kind_of_array(array: NDArray[Any], *, soft: bool = False) -> Kind:
    """Tell what kind of prediction an array is; see `read_label_map`."""
    if soft:
        return "scores"
    if array.ndim == 2:
        if array.dtype.kind != "f":
            return "ids"
        # Ids are also kept as floats, which hold no fraction then, but for what stands for none.
        whole = mark_whole(array)
        none = ~np.isfinite(array) | (abs(array) > _highest_id(array.dtype))
        return "ids" if whole.any() and (whole | none).all() else "scores"
    if array.dtype == np.uint8 and array.shape[2] in (2, 3, 4):
        return "colours"
    return "masks" if _are_masks(array) else "scores"


def mark_whole(array: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """Mark floats that may be ids."""
    with np.errstate(invalid="ignore"):
        whole: NDArray[np.bool_] = (array % 1 == 0) & (abs(array) <= _highest_id(array.dtype))
    return whole


def _highest_id(dtype: np.dtype[Any]) -> float:
    return min(HIGHEST_FLOAT_ID, float(np.finfo(dtype).max))


def _are_masks(array: NDArray[Any]) -> bool:
    """Tell whether (N, H, W) has two values and isn't a one-hot encoding of N classes."""
    if array.dtype == bool or not len(array):
        return True
    highest = array.max()
    if not highest > 0 or not all(((plane == 0) | (plane == highest)).all() for plane in array):
        return False
    return not any(((array != 0).sum(axis) == 1).all() for axis in (0, 2))
