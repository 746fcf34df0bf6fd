"""How much the file of a stranger may take: a small one may unpack to any size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from segfix.errors import FileFormatError


@dataclass
class Limits:
    """What this process reads at most; of pictures, Pillow's own limit holds.

    Attributes:
        max_bytes: That the arrays of one file may take in memory, and a photograph from standard
            input; texts and JSON, which take many times their size, may have half of it.
    """

    max_bytes: int = 1 << 30


limits = Limits()
"""One for all, as Pillow's `MAX_IMAGE_PIXELS` is: the command line sets both."""


def most_pixels() -> float:
    """What a picture may have: twice Pillow's limit, as Pillow itself counts."""
    return math.inf if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def check_pixels(shape: Sequence[int], name: str) -> None:
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


def check_bytes(nbytes: int, name: str, limit: int | None = None) -> None:
    """Raise `FileFormatError` if a file would take more than `limit`, by default `max_bytes`."""
    limit = limits.max_bytes if limit is None else limit
    if nbytes > limit:
        raise FileFormatError(
            f"{name}: {nbytes} bytes once unpacked, more than the {limit} allowed; --max-bytes "
            "allows more, or split the file."
        )
