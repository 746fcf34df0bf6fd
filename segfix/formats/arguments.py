"""Arguments of the public functions, told in words where they are something else."""

from __future__ import annotations

import os
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.formats.offset_maps import OffsetMap


def as_array(value: Any, name: str) -> NDArray[Any]:
    """Make an array of numbers of an argument.

    Args:
        value: An array, or what NumPy makes one of: lists, Pillow's pictures, torch's tensors on
            the CPU.
        name: Of the argument.

    Raises:
        TypeError: It is none, or holds no numbers.
        ValueError: It is an array of which a mask hides a part.
    """
    if isinstance(value, OffsetMap):
        raise TypeError(f"Expected {name} as an array but got an OffsetMap (arguments swapped?).")
    if isinstance(value, str | os.PathLike):
        raise TypeError(
            f"Expected {name} as an array but got {str(value)!r}; read the file: "
            "np.array(PIL.Image.open(path))."
        )
    if isinstance(value, np.ma.MaskedArray) and value.mask.any():
        raise ValueError(
            f"Expected {name} without hidden pixels but got a masked array; {name}.filled(ID) "
            "gives them an id."
        )
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        # Of a tensor on a GPU, with a gradient or in bfloat16; of lists of different lengths.
        raise TypeError(
            f"Expected {name} as an array but got {describe(value)}, which NumPy makes none of "
            f"({str(error).partition('. ')[0].rstrip('.')}); a tensor: "
            f"{name}.detach().cpu().float().numpy()."
            if hasattr(value, "__array__")
            else f"Expected {name} as an array but got {describe(value)} of different lengths."
        ) from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"Expected {name} as an array of numbers but got {describe(value)}.")
    return array


def check_offset_map(value: Any) -> None:
    """Raise `TypeError` unless an argument is an offset map."""
    if not isinstance(value, OffsetMap):
        raise TypeError(
            f"Expected offset_map as an OffsetMap but got {describe(value)}; "
            "segfix.load().offsets(image) makes one, and segfix.read_offset_map(path) reads one."
        )
    codes: Any = value.codes
    if not isinstance(codes, np.ndarray) or codes.ndim != 2 or codes.dtype != np.uint8:
        raise TypeError(f"Expected offset_map.codes as (H, W) uint8 but got {describe(codes)}.")


def as_path(value: Any, name: str) -> Path:
    """Make a path of an argument.

    Raises:
        TypeError: It is no path.
        ValueError: It is empty.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"Expected {name} as a path but got {describe(value)}.")
    if not os.fspath(value):
        raise ValueError(f"Expected {name} as a path but got an empty text; '.' is this folder.")
    return value if isinstance(value, Path) else Path(value)


def as_integers(values: Any, name: str, what: str) -> list[int]:
    """Make a list of an argument that holds integers.

    Args:
        values: Any iterable of them, but no text.
        name: Of the argument.
        what: What the integers are, for the message.

    Raises:
        TypeError: It is none.
    """
    try:
        # Python counts True as 1.
        given: list[Any] = [None if isinstance(one, bool) else one for one in values]
        return [index(one) for one in given]
    except TypeError:
        got = f"{values!r}"[:60] if isinstance(values, list | tuple) else describe(values)
        raise TypeError(
            f"Expected {name} as an iterable of {what}, or () for none, but got {got}."
        ) from None


def describe(value: Any) -> str:
    """Describe an argument of the wrong kind, shortly.

    Example:
        >>> describe(np.zeros((2, 3))), describe([1]), describe(None)
        ('an array of (2, 3) float64', 'a list', 'None')
    """
    if isinstance(value, np.ndarray):
        return f"an array of {value.shape} {value.dtype}"
    if value is None:
        return "None"
    if isinstance(value, str | int | float):
        return repr(value)[:60]
    name = type(value).__name__
    return f"an {name}" if name[0] in "AEIOUaeiou" else f"a {name}"
