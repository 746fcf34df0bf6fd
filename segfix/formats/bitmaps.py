"""Codecs of BMP, GIF and PNM label maps: samples as they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfix.errors import FileFormatError
from segfix.files.provenance import recorded_path

NAMES = {".bmp": "BMP", ".gif": "GIF", **dict.fromkeys((".pbm", ".pgm", ".ppm", ".pnm"), "PPM")}
"""Pillow's names of the formats by file name ending."""


def decode_bitmap(path: Path, picture: Image.Image) -> tuple[NDArray[Any], dict[str, Any]]:
    """Decode the samples of an open BMP, GIF or PNM file; see `segfix.formats.png.decode_png`.

    Args:
        path: The file, for messages.
        picture: The same, opened.

    Returns:
        (H, W) bool, uint8 or uint16, or (H, W, C) uint8; and `LabelMap`'s other attributes.

    Raises:
        FileFormatError: Colours of more than 8 bits.
    """
    palette = picture.getpalette()
    rest: dict[str, Any] = {}
    array = np.array(picture)
    if picture.format == "GIF" and palette is not None:
        colours = np.array(palette, np.uint8).reshape(-1, 3)
        used = np.unique(array)
        levels = colours[used]
        # GIF knows no grey: Pillow and others number its levels, rising. Other greys are a palette.
        numbered = np.array_equal(used, np.arange(len(used)))
        rising = (np.diff(levels[:, 0].astype(int)) > 0).all()
        if numbered and rising and (levels == levels[:, :1]).all():
            array, palette = colours[array, 0], None
    if picture.format == "PPM":
        highest = _highest_value(path)
        if array.dtype.kind == "f" or (highest > 255 and array.ndim == 3):
            raise FileFormatError(
                f"{path}: floats or colours of 16 bits; expected 8 bits per channel, or grey."
            )
        if array.dtype != bool and highest not in (255, 65535):
            # Pillow has scaled them to the type's range.
            scale = 65535 if highest > 255 else 255
            array = (array.astype(np.int64) * highest + scale // 2) // scale
        if array.dtype.kind != "b":
            array = array.astype(np.uint16 if highest > 255 else np.uint8)
        rest["highest"] = highest
    return array, {
        "palette": bytes(palette) if palette is not None else None,
        "transparency": picture.info.get("transparency"),
        "rest": rest,
    }


def encode_bitmap(
    path: Path,
    array: NDArray[Any],
    *,
    palette: bytes | None,
    transparency: Any,
    rest: Mapping[str, Any],
    record: str | None,
) -> None:
    """Write samples in the format that the name tells, atomically; see `decode_bitmap`."""
    kind = NAMES[path.suffix.lower()]
    with recorded_path(path, record) as temporary:
        if kind == "PPM" and array.dtype != bool:
            height, width = array.shape[:2]
            highest = max(rest.get("highest", 255), int(array.max(initial=0)))
            samples = array.astype(">u2" if highest > 255 else np.uint8)
            header = f"P{6 if array.ndim == 3 else 5}\n{width} {height}\n{highest}\n"
            temporary.write_bytes(header.encode() + samples.tobytes())
            return
        picture = Image.fromarray(array)
        options: dict[str, Any] = {"optimize": False} if kind == "GIF" else {}
        if palette is None and kind == "GIF":
            # Else Pillow numbers the levels anew, as it does to optimise.
            palette = bytes(level for level in range(256) for _ in range(3))
        if palette is not None:
            picture.putpalette(palette)
        if kind == "GIF" and transparency is not None:
            options["transparency"] = transparency
        picture.save(temporary, format=kind, **options)


def _highest_value(path: Path) -> int:
    """Read the highest value that a PNM file states; 1 of a file of bits."""
    with path.open("rb") as file:
        head = b"".join(line.partition(b"#")[0] + b" " for line in file.read(4096).split(b"\n"))
    fields = head.split(maxsplit=4)
    bits = fields[0] in (b"P1", b"P4")
    return 1 if bits or len(fields) < 4 or not fields[3].isdigit() else int(fields[3])
