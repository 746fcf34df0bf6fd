"""Photographs whose values aren't bytes, or whose bands are to be chosen: opened, then decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfix.files.reading import DECODE_ERRORS, check_pages, open_picture
from segfix.formats.arrays import open_bytes
from segfix.formats.brightness import scale_to_bytes
from segfix.formats.tiff_samples import read_tiff_samples

Scaled = tuple[NDArray[np.uint8], str]
"""(H, W) or (H, W, 3) bytes, and what `scale_to_bytes` says that it did."""


@dataclass(frozen=True)
class DeepValues:
    """Hold values that are still in their file.

    Attributes:
        size: Height and width as stored.
        orientation: How they are to be turned, 1 … 8; None: as the picture's EXIF says.
        sample_type: As NumPy calls it.
        decode: Reads and scales them; raises `ValueError` without the file's name.
    """

    size: tuple[int, int]
    orientation: int | None
    sample_type: str
    decode: Callable[[], Scaled]


@contextmanager
def open_tiff(path: Path, bands: Sequence[int] | None) -> Iterator[DeepValues | None]:
    """Open a TIFF file that Pillow doesn't read whole; None: it does, or there is none.

    Raises:
        FileFormatError: It can't be read, or doesn't tell which bands are meant.
    """
    with open_bytes(path) as file:
        try:
            samples = read_tiff_samples(path, file, bands)
            if samples:
                check_pages(file, path, "image")
                places, size, turn = samples.choose(bands), samples.stored, samples.orientation
        except ValueError:
            samples = None  # Pillow tells.
        if samples is None:
            yield None
            return

        def decode() -> Scaled:
            try:
                values = samples.read(places)
            except DECODE_ERRORS as error:
                raise ValueError(
                    f"broken or truncated image ({error}); replace the file"
                ) from error
            array, words = scale_to_bytes(
                values, stated_bits=samples.stated_bits, nodata=samples.nodata
            )
            array = 255 - array if samples.inverted else array
            return array[..., 0] if len(places) == 1 else array, words

        kind = samples.dtype.newbyteorder("=").name
        yield DeepValues(size, turn, kind, decode)


def find_deep_values(
    picture: Image.Image, path: Path, bands: Sequence[int] | None
) -> DeepValues | None:
    """Find out whether an open picture's values aren't bytes, or bands are asked for."""
    tile: Any = next(iter(getattr(picture, "tile", None) or ()), None)
    raw = _raw_mode(tile)
    colours = raw in ("RGB;16B", "RGBA;16B", "LA;16B")
    if not (colours or picture.mode[0] in "IF" or bands):
        return None
    # What Pillow stretches to 16 bits as it decodes, and what it doesn't.
    stated = {"PPM": 16, "JPEG2000": 16}.get(str(picture.format), 12 if raw == "I;12" else None)

    def decode() -> Scaled:
        values: NDArray[Any]
        if colours:
            values = _colours_of_16_bits(picture, path, tile)
        elif kind == "uint8":
            plain = picture.mode in ("L", "LA", "RGB", "RGBA")
            values = np.asarray(picture if plain else picture.convert("RGB"))
        else:
            values = np.asarray(picture)
        if bands:
            values = _choose_bands(values, bands)
        if values.dtype == np.uint8:
            return values.astype(np.uint8, copy=False), "16 bits ÷ 256" if colours else ""
        return scale_to_bytes(values, stated_bits=stated)

    kinds = {"F": "float32", "I": "int32", "I;16": "uint16", "I;16B": "uint16"}
    kind = "uint16" if colours else kinds.get(picture.mode, "uint8")
    return DeepValues(picture.size[::-1], None, kind, decode)


def _raw_mode(tile: Any) -> str:
    """Tell how the samples of a picture are stored, as Pillow calls it."""
    arguments = tile[3] if tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _colours_of_16_bits(picture: Image.Image, path: Path, tile: Any) -> NDArray[Any]:
    """Decode colours of 16 bits without alpha; where all 16 are needed, the upper 8 are enough."""
    upper = np.asarray(picture)[..., :3]
    if upper.max(initial=0) >= 128:
        return upper
    if _raw_mode(tile) == "LA;16B":
        raise ValueError("dark grey of 16 bits with alpha; save it without alpha")
    with open_picture(path, "image") as again:
        # Read as if the other byte came first.
        tiles: Any = [tile._replace(args=_raw_mode(tile).replace("16B", "16L"))]
        again.tile = tiles  # type: ignore[attr-defined]
        lower = np.asarray(again)[..., :3]
    both: NDArray[Any] = np.bitwise_or(upper.astype(np.uint16) << 8, lower)
    return both


def _choose_bands(values: NDArray[Any], bands: Sequence[int]) -> NDArray[Any]:
    planes = values if values.ndim == 3 else values[..., None]
    count = planes.shape[2]
    if max(bands) > count:
        raise ValueError(
            f"{count} band{'s' * (count > 1)}, no band {max(bands)}; leave --bands out for it"
        )
    chosen: NDArray[Any] = planes[..., [band - 1 for band in bands]]
    return chosen[..., 0] if len(bands) == 1 else chosen
