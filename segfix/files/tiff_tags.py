"""Tags of TIFF files, read before anything is unpacked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

STARTS = {
    b"II*\0": ("<", False),
    b"MM\0*": (">", False),
    b"II+\0": ("<", True),
    b"MM\0+": (">", True),
}
"""First bytes: byte order, and whether offsets have 64 bits."""

TYPES = {1: "u1", 2: "u1", 3: "u2", 4: "u4", 12: "f8", 16: "u8"}
"""Types of values that are read; texts are bytes."""

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
ORIENTATION, BANDS, ROWS_PER_STRIP, MAX_SAMPLE, PLANAR, PREDICTOR = 274, 277, 278, 281, 284, 317
STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES = 273, 279, 324, 325
TILE_WIDTH, TILE_HEIGHT, EXTRA, SAMPLE_FORMAT = 322, 323, 338, 339
SUBFILE_TYPE, GDAL_METADATA, GDAL_NODATA = 254, 42112, 42113

MOST_TAGS, MOST_PAGES = 4096, 64
"""Most pages that are looked at: each overview has half the rows of the one before."""


@dataclass(frozen=True)
class Page:
    """Hold the tags of one picture of a TIFF file.

    Attributes:
        order: "<" or ">".
        tags: Where values of each known type are: type code, count, offset.
        file: Open, to read values from.
    """

    order: str
    tags: dict[int, tuple[int, int, int]]
    file: IO[bytes]

    def values(self, tag: int, default: Any = ()) -> NDArray[Any]:
        """Return the values of a tag; raises `ValueError` where the file ends before."""
        if tag not in self.tags:
            return np.array(default)
        kind, count, offset = self.tags[tag]
        dtype = np.dtype(self.order + TYPES[kind])
        size = self.file.seek(0, 2)
        if offset + count * dtype.itemsize > size:
            raise ValueError(f"tag {tag} ends after the file")
        self.file.seek(offset)
        return np.frombuffer(self.file.read(count * dtype.itemsize), dtype)

    def number(self, tag: int, default: int = 0) -> int:
        """Return the first value of a tag."""
        found = self.values(tag)
        return int(found[0]) if len(found) else default

    def text(self, tag: int) -> str:
        """Return the text of a tag, byte by byte."""
        return self.values(tag, np.zeros(0, np.uint8)).tobytes().decode("latin-1").strip("\0 ")


def read_pages(file: IO[bytes]) -> Iterator[Page]:
    """Read the directories of a TIFF file, at most `MOST_PAGES`; of any other file there is none.

    Raises:
        ValueError: The file is broken.
    """
    file.seek(0)
    start = file.read(16)
    if start[:4] not in STARTS:
        return
    order, big = STARTS[start[:4]]
    byte_order: Any = "little" if order == "<" else "big"
    wide = 8 if big else 4
    place, seen = int.from_bytes(start[wide : 2 * wide], byte_order), set[int]()
    while place and place not in seen and len(seen) < MOST_PAGES:
        seen.add(place)
        file.seek(place)
        # Of a count, as many entries, and the place of the next directory.
        count = int.from_bytes(file.read(8 if big else 2), byte_order)
        length = 20 if big else 12
        if not 0 < count <= MOST_TAGS:
            raise ValueError(f"{count} tags")
        place += 8 if big else 2
        entries = file.read(count * length + wide)
        if len(entries) < count * length + wide:
            raise ValueError("its tags end after the file")
        tags = {}
        for number in range(count):
            entry = entries[number * length : (number + 1) * length]
            tag, kind = (int.from_bytes(entry[k : k + 2], byte_order) for k in (0, 2))
            if kind not in TYPES:
                continue
            many = int.from_bytes(entry[4 : 4 + wide], byte_order)
            inline = many * np.dtype(TYPES[kind]).itemsize <= wide
            there = int.from_bytes(entry[4 + wide :], byte_order)
            tags[tag] = (kind, many, place + number * length + 4 + wide if inline else there)
        yield Page(order, tags, file)
        place = int.from_bytes(entries[count * length :], byte_order)


def holds_several(file: IO[bytes], *, masks: bool = False) -> bool:
    """Tell whether a TIFF file has pages that aren't reduced copies of the first.

    Args:
        file: Open for reading.
        masks: Whether masks of transparency are passed over, too.

    Raises:
        ValueError: The file is broken.
    """
    first = (0, 0)
    for place, page in enumerate(read_pages(file)):
        high, wide = page.number(HEIGHT), page.number(WIDTH)
        if not place:
            first = high, wide
            continue
        # Not all writers flag them.
        alike = abs(high * first[1] - wide * first[0]) <= sum(first)
        small = alike and max(high, wide) < max(first)
        flagged = page.number(SUBFILE_TYPE) & (5 if masks else 1)
        if not (small or flagged) or place + 1 == MOST_PAGES:
            return True
    return False
