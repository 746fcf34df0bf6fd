"""Codec of photographs: RGB arrays, turned upright."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from segfix.files.reading import open_picture

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"),
    *(".jpe", ".jfif", ".gif", ".jp2", ".j2k", ".jpf", ".jpx", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".hif"),
)
"""File name endings of photographs."""

ORIENTATION = 274
"""EXIF and TIFF tag of the orientation, 1 … 8; 1: displayed as stored."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read a photograph as it is displayed: an EXIF rotation is carried out.

    Args:
        path: Any picture Pillow reads. Of 16-bit pictures the upper 8 bits are taken.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        FileFormatError: The file is missing, not a picture, or truncated.
    """
    with open_photograph(path) as photograph:
        return photograph[:, :]


@dataclass(frozen=True)
class Photograph:
    """Hold an open photograph and decode parts of it: a whole large one would take too much memory.

    Attributes:
        picture: As Pillow holds it: not decoded and as it is stored, or decoded and upright.
    """

    picture: Image.Image

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (H, W, 3), as displayed."""
        height, width = self.picture.height, self.picture.width
        return (width, height, 3) if self._turn >= 5 else (height, width, 3)

    @property
    def _turn(self) -> int:
        # Pillow tells the size of TIFF as displayed, and turns it as it decodes.
        return 1 if self.picture.format == "TIFF" else orientation_of(self.picture)

    def __getitem__(self, part: tuple[slice, slice]) -> NDArray[np.uint8]:
        """Return (rows, columns, 3) uint8 RGB; the file is decoded on the first call."""
        ImageOps.exif_transpose(self.picture, in_place=True)
        picture = self.picture
        (top, bottom, _), (left, right, _) = (
            places.indices(size) for places, size in zip(part, self.shape[:2], strict=True)
        )
        if (bottom - top, right - left) != self.shape[:2]:
            picture = picture.crop((left, top, right, bottom))
        return np.array(_to_rgb(picture))

    def reduce(self, max_side: int) -> NDArray[np.uint8]:
        """Reduce the whole photograph; call it once, as the rest of a JPEG is lost afterwards.

        Args:
            max_side: Height or width of the result, whichever is more, pixels.

        Returns:
            (h, w, 3) uint8 RGB, each pixel a weighted mean of those in its place.
        """
        picture, turn = self.picture, self._turn
        height, width = reduced_size(picture.height, picture.width, max_side)
        # JPEG decodes straight to a half, a quarter or an eighth of its size, in less time.
        _, box = picture.draft(None, (width, height)) or (None, None)
        picture.load()
        small = _to_rgb(picture).resize((width, height), Image.Resampling.BILINEAR, box)
        return turn_upright(np.asarray(small), turn)


def reduced_size(height: int, width: int, max_side: int) -> tuple[int, int]:
    """Compute height and width of a picture whose longer side is reduced to `max_side` pixels.

    Example:
        >>> reduced_size(375, 1242, 621)
        (188, 621)
    """
    longer = max(height, width)
    return max(1, round(height * max_side / longer)), max(1, round(width * max_side / longer))


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        grey = np.clip(np.asarray(picture) >> 8, 0, 255).astype(np.uint8)
        picture = Image.fromarray(grey)
    if picture.mode == "P":
        # Straight to RGB, Pillow warns where colours are half transparent.
        picture = picture.convert("RGBA")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


@contextmanager
def open_photograph(path: Path) -> Iterator[Photograph]:
    """Open a photograph to read parts of it, upright; see `read_image`."""
    with open_picture(path, "image") as picture:
        yield Photograph(picture)


def orientation_of(picture: Image.Image) -> int:
    """Read the EXIF orientation of an open picture, 1 … 8; 1 where there is none."""
    found = picture.getexif().get(ORIENTATION)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def turn_upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn stored pixels as they are displayed.

    Args:
        array: (H, W) or (H, W, C).
        orientation: 1 … 8, as EXIF counts.

    Returns:
        A view, (W, H) or (W, H, C) for 5 … 8.

    Example:
        >>> turn_upright(np.array([[1, 2, 3]]), 6)
        array([[1],
               [2],
               [3]])
    """
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array[::-1] if orientation in (3, 4, 7, 8) else array


def turn_back(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn displayed pixels as they are stored: the inverse of `turn_upright`."""
    return turn_upright(array, {6: 8, 8: 6}.get(orientation, orientation))
