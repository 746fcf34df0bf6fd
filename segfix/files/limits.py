"""Limit what the file of a stranger may take: a small one may unpack to any size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from PIL import Image

from segfix.errors import FileFormatError


@dataclass(frozen=True)
class Limits:
    """What is read at most.

    Attributes:
        max_pixels: Of a picture, a frame or two axes of an array; None: no limit.
        max_bytes: That the arrays of one file may take in memory, and a photograph from standard
            input; texts and JSON, which take many times their size, may have half of it.
    """

    max_pixels: int | None = None
    max_bytes: int = 1 << 30


_MAX_BYTES: ContextVar[int] = ContextVar("max_bytes", default=Limits.max_bytes)


@contextmanager
def limit_reading(*, max_pixels: int | None = None, max_bytes: int | None = None) -> Iterator[None]:
    """Set the limits of everything that is read while the block lasts.

    The limit of pixels is Pillow's own, and that is one for the whole process: Pillow checks it
    while it opens a file, before anybody else could. Outside of any block it is as Pillow has it.

    Args:
        max_pixels: See `Limits`; None: as it is.
        max_bytes: See `Limits`; None: as it is.
    """
    pixels = Image.MAX_IMAGE_PIXELS
    token = None if max_bytes is None else _MAX_BYTES.set(max_bytes)
    if max_pixels is not None:
        # Pillow refuses what has more than twice its limit.
        Image.MAX_IMAGE_PIXELS = max_pixels // 2
    try:
        yield
    finally:
        if max_pixels is not None:
            Image.MAX_IMAGE_PIXELS = pixels
        if token is not None:
            _MAX_BYTES.reset(token)


def current_limits() -> Limits:
    """Tell the limits that hold here, to take them to another process."""
    pixels = most_pixels()
    return Limits(None if math.isinf(pixels) else int(pixels), _MAX_BYTES.get())


def most_pixels() -> float:
    """Tell how many pixels a picture may have: twice Pillow's limit, as Pillow itself counts."""
    return math.inf if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def check_pixels(shape: Sequence[int], name: object) -> None:
    """Refuse arrays and frames that would be too large a picture, as Pillow refuses pictures.

    Args:
        shape: Of which the two longest axes are taken to be height and width.
        name: Begins the message.

    Raises:
        FileFormatError: They are too large.
    """
    if math.prod(sorted(shape)[-2:]) > most_pixels():
        raise FileFormatError(
            f"{name}: of shape {tuple(shape)}, more than {most_pixels():.0f} pixels; --max-pixels "
            "allows more, or cut it into tiles."
        )


def check_bytes(nbytes: int, name: object, limit: int | None = None) -> None:
    """Raise `FileFormatError` if a file would take more than `limit`, by default `max_bytes`."""
    limit = _MAX_BYTES.get() if limit is None else limit
    if nbytes > limit:
        raise FileFormatError(
            f"{name}: {nbytes} bytes once unpacked, more than the {limit} allowed; --max-bytes "
            "allows more, or split the file."
        )
