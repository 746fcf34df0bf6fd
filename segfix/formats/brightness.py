"""Brightness of photographs whose values aren't 0 … 255: scaled where the scale is known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

ROWS = 256
"""Rows that are looked at at a time."""

HALF = 0.5
"""Of a step of 8 bits: so little beyond the ends is rounding."""

LEAST_OF_255 = 16
"""Highest value of floats in 0 … 255; those that end between it and 1 may be anything."""

AS_BYTES = "save the photograph as 8 bits"


def scale_to_bytes(
    values: NDArray[np.number], *, stated_bits: int | None = None, nodata: float | None = None
) -> tuple[NDArray[np.uint8], str]:
    """Scale the values of a photograph to 0 … 255.

    Integers are divided by the power of two that their bit depth asks for: the stated one, or the
    least that holds the highest value. Floats in 0 … 1 are multiplied by 255; those in 0 … 255
    stay, and whole numbers above count as integers.

    Args:
        values: (H, W) or (H, W, C) integers or floats.
        stated_bits: Bit depth that the file states, if it does.
        nodata: Value of pixels that are none; these, NaN and infinity become 0.

    Returns:
        uint8 of the same shape, and in words what was done; "" where nothing was.

    Raises:
        ValueError: The scale can't be known; the text says why and what to do.

    Example:
        >>> scale_to_bytes(np.array([[0, 2048, 4095]], np.uint16))
        (array([[  0, 128, 255]], dtype=uint8), '12 bits ÷ 16')
        >>> scale_to_bytes(np.array([[0.0, 0.5, 1.0]]))
        (array([[  0, 128, 255]], dtype=uint8), '0–1 × 255')
    """
    low, high, whole, missing = measure_values(values, nodata)
    fractions = values.dtype.kind == "f" and not (whole and high > 1)
    unit = fractions and 255 * high <= 255 + HALF
    if low < (-HALF / 255 if unit else -HALF if fractions else 0):
        raise ValueError(f"values from {low:.6g} to {high:.6g}: negative brightness; {AS_BYTES}")
    bits = 8 if fractions else max(stated_bits or 0, int(high).bit_length(), 8)
    factor = 255.0 if unit else 1.0
    words = "0–1 × 255" if unit else f"{bits} bits ÷ {2 ** (bits - 8)}" if bits > 8 else ""
    if fractions and not unit and not LEAST_OF_255 <= high <= 255 + HALF:
        raise ValueError(
            f"fractions from {low:.6g} to {high:.6g}, neither 0–1 nor 0–255; {AS_BYTES}"
        )
    if missing:
        words += f"{', ' * bool(words)}{100 * missing / values.size:.2g} % without a value: 0"
    scaled = np.empty(values.shape, np.uint8)
    for rows, known in known_values(values, nodata):
        part = np.where(known, values[rows], 0)
        if fractions:
            part = np.rint(part * factor).clip(0, 255)
        elif bits > 8:
            # Cut, not rounded: 255.9 would be 256.
            part = part // 2 ** (bits - 8)
        scaled[rows] = part
    return scaled, words


def measure_values(
    values: NDArray[np.number], nodata: float | None
) -> tuple[float, float, bool, int]:
    """Measure the lowest and the highest value, whether all are whole, and how many are none.

    Raises:
        ValueError: There is none.
    """
    low, high, whole, missing = np.inf, -np.inf, True, 0
    for rows, known in known_values(values, nodata):
        found = values[rows][known]
        missing += known.size - found.size
        if found.size:
            low, high = min(low, float(found.min())), max(high, float(found.max()))
            whole = whole and (values.dtype.kind in "ui" or bool((found % 1 == 0).all()))
    if missing == values.size:
        raise ValueError(f"no pixel has a value; {AS_BYTES}")
    return low, high, whole, missing


def known_values(
    values: NDArray[np.number], nodata: float | None
) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
    """List some rows after the other, and where they hold values: finite ones, not `nodata`."""
    if nodata is not None and values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            nodata = float(np.array(nodata).astype(values.dtype))
    for top in range(0, len(values), ROWS):
        rows = slice(top, top + ROWS)
        known = np.isfinite(values[rows])
        if nodata is not None:
            known &= values[rows] != nodata
        yield rows, known
