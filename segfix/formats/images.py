"""Codec of photographs: RGB arrays, turned upright."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from segfix.errors import FileFormatError
from segfix.files.reading import DECODE_ERRORS, open_picture
from segfix.formats.deep_values import DeepValues, find_deep_values, open_tiff

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"),
    *(".jpe", ".jfif", ".gif", ".jp2", ".j2k", ".jpf", ".jpx", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".hif"),
)
"""File name endings of photographs."""

ORIENTATION = 274
"""EXIF and TIFF tag of the orientation, 1 … 8; 1: displayed as stored."""


def read_image(path: Path, bands: Sequence[int] | None = None) -> NDArray[np.uint8]:
    """Read a photograph as it is displayed: an EXIF rotation is carried out.

    Args:
        path: Any picture Pillow reads, and TIFF of any bands. Values that aren't bytes are scaled,
            see `segfix.formats.brightness`.
        bands: Numbers of the bands that are red, green and blue, or of one that is grey, from 1 on;
            None: what the file says.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        FileFormatError: The file is missing, not a picture, several pictures, or truncated; or how
            bright its values are, or which bands are meant, can't be known.
    """
    with open_photograph(path, bands) as photograph:
        return photograph[:, :]


@dataclass
class Photograph:
    """Hold an open photograph and decode parts of it: a whole large one would take too much memory.

    Attributes:
        picture: As Pillow holds it: not decoded and as it is stored, or decoded and upright.
        path: The file, for messages.
        deep: What isn't bytes yet; `picture` isn't used before it has become so.
        scaling: What was done to its values as it was decoded; "": nothing.
    """

    picture: Image.Image
    path: Path | None = None
    deep: DeepValues | None = None
    scaling: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (H, W, 3), as displayed."""
        height, width = self.deep.size if self.deep else self.picture.size[::-1]
        return (width, height, 3) if self._turn >= 5 else (height, width, 3)

    @property
    def orientation(self) -> int:
        """Return how the file says that it is to be turned, 1 … 8, as EXIF counts."""
        return (self.deep and self.deep.orientation) or orientation_of(self.picture)

    @property
    def _turn(self) -> int:
        # Pillow tells the size of TIFF as displayed, and turns it as it decodes.
        return 1 if self.picture.format == "TIFF" else self.orientation

    def decode(self) -> None:
        """Decode values that aren't bytes, unless it has been done; other pictures wait.

        Raises:
            FileFormatError: They are broken, or their scale can't be known.
        """
        if self.deep is None:
            return
        turn = self._turn
        try:
            array, self.scaling = self.deep.decode()
        except ValueError as error:
            raise FileFormatError(f"{self.path}: {error}.") from error
        self.deep = None
        self.picture = Image.fromarray(np.ascontiguousarray(turn_upright(array, turn)))

    def __getitem__(self, part: tuple[slice, slice]) -> NDArray[np.uint8]:
        """Return (rows, columns, 3) uint8 RGB; the file is decoded on the first call."""
        self.decode()
        picture = self.picture
        picture.load()
        try:
            ImageOps.exif_transpose(picture, in_place=True)
        except DECODE_ERRORS:  # of EXIF that is broken, and is not to be asked again
            with suppress(*DECODE_ERRORS):
                picture.getexif().pop(ORIENTATION, None)
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
        self.decode()
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
    if picture.mode == "P":
        # Straight to RGB, Pillow warns where colours are half transparent.
        picture = picture.convert("RGBA")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


@contextmanager
def open_photograph(path: Path, bands: Sequence[int] | None = None) -> Iterator[Photograph]:
    """Open a photograph to read parts of it, upright; see `read_image`."""
    with open_tiff(path, bands) as deep:
        if deep:
            yield Photograph(Image.new("1", (1, 1)), path, deep)
            return
    with open_picture(path, "image") as picture:
        yield Photograph(picture, path, find_deep_values(picture, path, bands))


def orientation_of(picture: Image.Image) -> int:
    """Read the EXIF orientation of an open picture, 1 … 8; 1 where there is none."""
    try:
        found = picture.getexif().get(ORIENTATION)
    except DECODE_ERRORS:
        return 1
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


def turn_transform(
    transform: Sequence[float], size: tuple[int, int], orientation: int
) -> list[float]:
    """Turn an affine transform of stored pixels to one of pixels as they are displayed.

    Args:
        transform: See `segfix.files.georeference.read_georeference`.
        size: Height and width as displayed.
        orientation: 1 … 8, as EXIF counts.

    Example:
        >>> turn_transform([1, 0, 100, 0, -1, 50], (2, 3), 3)
        [-1.0, 0.0, 103.0, 0.0, 1.0, 48.0]
    """
    a, b, c, d, e, f = transform
    (height, width), stored = size, size if orientation < 5 else size[::-1]
    x, y = np.meshgrid((0, stored[1]), (0, stored[0]))
    corners = turn_upright(np.stack([a * x + b * y + c, d * x + e * y + f], axis=-1), orientation)
    across = (corners[0, 1] - corners[0, 0]) / width
    down = (corners[1, 0] - corners[0, 0]) / height
    return np.stack([across, down, corners[0, 0]], axis=1).ravel().tolist()


def turn_back(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn displayed pixels as they are stored: the inverse of `turn_upright`."""
    return turn_upright(array, {6: 8, 8: 6}.get(orientation, orientation))
