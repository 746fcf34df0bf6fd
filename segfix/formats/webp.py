"""Codec of lossless WebP files: colours, and the file's metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfix.errors import FileFormatError
from segfix.files.provenance import recorded_path


def decode_webp(path: Path, picture: Image.Image) -> tuple[NDArray[Any], dict[str, Any]]:
    """Decode the colours of an open WebP file; see `segfix.formats.png.decode_png`.

    Returns:
        (H, W, 3 or 4) uint8, and `LabelMap`'s other attributes.

    Raises:
        FileFormatError: A lossy file.
    """
    if not is_lossless(path):
        raise FileFormatError(f"{path}: lossy WebP, in which ids blur; write it lossless.")
    kept = {key: picture.info[key] for key in ("icc_profile", "exif", "xmp") if key in picture.info}
    return np.array(picture), {"rest": kept}


def encode_webp(
    path: Path, array: NDArray[Any], *, rest: Mapping[str, Any], record: str | None
) -> None:
    """Write colours as lossless WebP, atomically; see `segfix.formats.png.encode_png`."""
    with recorded_path(path, record) as temporary:
        # exact: or colours of transparent pixels would change.
        Image.fromarray(array).save(temporary, format="WEBP", lossless=True, exact=True, **rest)


def is_lossless(path: Path) -> bool:
    """Tell whether a WebP file's picture is in a chunk VP8L, not VP8."""
    with path.open("rb") as file:
        file.seek(12)
        while len(header := file.read(8)) == 8:
            if header[:4] in (b"VP8L", b"VP8 "):
                return header[:4] == b"VP8L"
            length = int.from_bytes(header[4:], "little")
            file.seek(length + length % 2, 1)
    return False
