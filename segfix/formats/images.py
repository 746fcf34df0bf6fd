"""Photographs to RGB arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

from segfix.formats.files import open_picture

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
"""File name endings of photographs."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read a photograph as it is displayed: an EXIF rotation is carried out.

    Args:
        path: Any picture Pillow reads. Of 16-bit pictures the upper 8 bits are taken.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        FileFormatError: The file is missing, not a picture, or truncated.
    """
    with open_picture(path, "image") as picture:
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I"):
            grey = np.clip(np.asarray(upright) >> 8, 0, 255).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if upright.mode == "P":
            # Straight to RGB, Pillow warns where colours are half transparent.
            upright = upright.convert("RGBA")
        return np.array(upright.convert("RGB"))
