"""Codec of PNG files: samples as they are stored, and the file's metadata."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from segfix.errors import FileFormatError
from segfix.files.atomic import atomic_path
from segfix.files.provenance import RECORD_KEY

GREY_STEPS = {2: 85, 4: 17}
"""Factor by which Pillow scales grey of 2 and 4 bits to 0 … 255."""


def decode_png(path: Path, picture: Image.Image) -> tuple[NDArray[Any], dict[str, Any]]:
    """Decode the samples of an open PNG file, not rescaled, palettes not expanded.

    Args:
        path: The file, for messages.
        picture: The same, opened.

    Returns:
        (H, W) bool, uint8 or uint16, or (H, W, C) uint8; and `LabelMap`'s other attributes.

    Raises:
        FileFormatError: Colours of 16 bits.
    """
    assert isinstance(picture, PngImagePlugin.PngImageFile)
    with path.open("rb") as file:
        bits = file.read(25)[24]
    if bits == 16 and not picture.mode.startswith("I"):
        raise FileFormatError(
            f"{path}: colours of 16 bits, of which half would be lost; expected 8 bits per "
            "channel, or 16-bit grey."
        )
    palette = picture.getpalette()
    array = np.array(picture)
    if picture.mode == "L":
        array //= GREY_STEPS.get(bits, 1)
    kept = {key: picture.info[key] for key in ("dpi", "icc_profile", "exif") if key in picture.info}
    text = {key: value for key, value in picture.text.items() if key != RECORD_KEY}
    return array, {
        "palette": bytes(palette) if palette is not None else None,
        "transparency": picture.info.get("transparency"),
        "bits": bits,
        "rest": {**kept, "text": text},
    }


def encode_png(
    path: Path,
    array: NDArray[Any],
    *,
    palette: bytes | None,
    transparency: Any,
    bits: int,
    rest: Mapping[str, Any],
    record: str | None,
) -> None:
    """Write samples as PNG, atomically.

    Args:
        path: The file to make or replace.
        array: As `decode_png` gives it.
        palette: See `segfix.formats.LabelMap`.
        transparency: See there.
        bits: See there.
        rest: See there.
        record: Text kept in the file beside the pixels; `read_record` gives it back.
    """
    options = {key: rest[key] for key in ("dpi", "icc_profile", "exif") if key in rest}
    highest = int(array.max(initial=0))
    step = GREY_STEPS.get(bits)
    if step and palette is None and array.ndim == 2 and highest * step <= 255:
        array = array * np.uint8(step)
        options["bits"] = bits
    if array.ndim == 2 and array.dtype == np.uint8:
        # Of ids, nothing but runs: smaller than Pillow's best, as fast as its fastest.
        options["compress_type"] = zlib.Z_RLE
    picture = Image.fromarray(array)
    if palette is not None:
        # Pillow takes as few bits per pixel as the palette has colours, whatever the ids.
        picture.putpalette(palette.ljust(3 * (highest + 1), b"\0"))
    save_png(
        path,
        picture,
        record=record,
        transparency=transparency,
        text=rest.get("text", {}),
        **options,
    )


def save_png(
    path: Path,
    picture: Image.Image,
    *,
    record: str | None,
    transparency: Any = None,
    text: Mapping[str, str | PngImagePlugin.iTXt] | None = None,
    **options: Any,
) -> None:
    """Save a picture as PNG with our record, atomically.

    Args:
        path: The file to make or replace.
        picture: What to save.
        record: Text kept in the file beside the pixels.
        transparency: As Pillow gives it.
        text: Other texts kept in the file, by keyword.
        options: Of Pillow's writer.
    """
    chunks = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        chunks.add_text(key, value)
    if record is not None:
        chunks.add_text(RECORD_KEY, record)
    if transparency is not None:
        options["transparency"] = transparency
    with atomic_path(path) as temporary:
        # Level 1: a fifth of the time for a tenth more bytes on label maps.
        picture.save(temporary, format="PNG", pnginfo=chunks, compress_level=1, **options)
