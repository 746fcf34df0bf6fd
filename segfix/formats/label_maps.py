"""Label maps: PNG files of class ids, palettes or colours, given back in the kind they came in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from segfix.errors import FileFormatError
from segfix.formats.files import atomic_path, open_picture
from segfix.formats.records import RECORD_KEY

LABEL_SUFFIXES = (".png",)
"""File name endings of label maps: lossless, or boundaries would blur."""

GREY_STEPS = {2: 85, 4: 17}
"""Pillow spreads grey of 2 and 4 bits over 0 … 255; this is the step between two ids there."""


@dataclass(frozen=True)
class LabelMap:
    """A label map and what is needed to write it back in the same kind.

    Attributes:
        array: (H, W) bool, uint8, uint16 or int32 ids, or (H, W, C) uint8 colours.
        palette: RGB bytes of a palette file's colours, else None.
        transparency: The palette's or the colour's transparency as Pillow gives it, else None.
        bits: Bits per pixel of the file; 2 and 4 of a grey one are kept.
    """

    array: NDArray[Any]
    palette: bytes | None = None
    transparency: Any = None
    bits: int = 8

    @property
    def size(self) -> str:
        """Width × height, for messages."""
        return f"{self.array.shape[1]}×{self.array.shape[0]}"

    def with_array(self, array: NDArray[Any]) -> LabelMap:
        """The same kind of label map with other pixels."""
        return replace(self, array=array)

    def ids(self) -> NDArray[np.integer[Any]]:
        """One integer per pixel: the class id, or R + 256·G + 256²·B (+ 256³·A) of a colour.

        Returns:
            (H, W) integers, equal where the labels are equal.
        """
        if self.array.ndim == 2:
            return self.array.astype(np.uint8) if self.array.dtype == bool else self.array
        weights = 256 ** np.arange(self.array.shape[2], dtype=np.int64)
        packed: NDArray[np.int64] = self.array.astype(np.int64) @ weights
        return packed


def read_label_map(path: Path) -> LabelMap:
    """Read a label map, ids as they are stored: palettes are not expanded, nothing is rescaled.

    Args:
        path: A PNG file: grey (1, 2, 4, 8, 16 bit), palette, or colour-coded RGB or RGBA.

    Returns:
        The label map.

    Raises:
        FileFormatError: The file is missing, broken, lossy, or of a kind that holds no labels.
    """
    with open_picture(path, "label map") as picture:
        if picture.format != "PNG":
            raise FileFormatError(
                f"{path}: expected a PNG label map but got {picture.format}; convert it, "
                "without loss, to PNG."
            )
        with path.open("rb") as file:
            bits = file.read(25)[24]
        if bits == 16 and not picture.mode.startswith("I"):
            raise FileFormatError(
                f"{path}: colours of 16 bits, of which half would be lost; expected 8 bits per "
                "channel, or 16-bit grey."
            )
        # What `segfix.formats.offset_maps` writes looks like a palette label map.
        if '"offset map"' in str(picture.info.get(RECORD_KEY, "")):
            raise FileFormatError(f"{path}: an offset map, not a label map; give another folder.")
        palette = picture.getpalette()
        array = np.array(picture)
        if picture.mode == "L":
            array //= GREY_STEPS.get(bits, 1)
        return LabelMap(
            array,
            bytes(palette) if palette is not None else None,
            picture.info.get("transparency"),
            bits,
        )


def write_label_map(path: Path, label_map: LabelMap, *, record: str | None = None) -> None:
    """Write a label map as PNG, atomically.

    Args:
        path: The file to make or replace.
        label_map: Pixels, palette and transparency.
        record: Text kept in the file beside the pixels; `read_record` gives it back.
    """
    array, palette, options = label_map.array, label_map.palette, {}
    highest = int(array.max(initial=0))
    step = GREY_STEPS.get(label_map.bits)
    if step and palette is None and array.ndim == 2 and highest * step <= 255:
        array = array * np.uint8(step)
        options["bits"] = label_map.bits
    picture = Image.fromarray(array)
    if palette is not None:
        # Pillow takes as few bits per pixel as the palette has colours, whatever the ids.
        picture.putpalette(palette.ljust(3 * (highest + 1), b"\0"))
    save_png(path, picture, record=record, transparency=label_map.transparency, **options)


def save_png(
    path: Path, picture: Image.Image, *, record: str | None, transparency: Any, **options: Any
) -> None:
    """Save a picture as PNG with our record, atomically."""
    text = PngImagePlugin.PngInfo()
    if record is not None:
        text.add_text(RECORD_KEY, record)
    if transparency is not None:
        options["transparency"] = transparency
    with atomic_path(path) as temporary:
        # Level 1: a fifth of the time for a tenth more bytes on label maps.
        picture.save(temporary, format="PNG", pnginfo=text, compress_level=1, **options)
