"""Codec of TIFF photographs that Pillow doesn't read whole: many bands, more bits, floats."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import FileFormatError
from segfix.files import tiff_tags as tags
from segfix.files.limits import check_bytes, check_pixels

NONE, GREY_INVERTED, GREY, RGB = 1, 0, 1, 2
COMPRESSIONS = {
    NONE: "none",
    5: "LZW",
    8: "Deflate",
    32946: "Deflate",
    32773: "PackBits",
    34925: "LZMA",
    50000: "Zstandard",
}
UNPREDICTED = (NONE, 32773)
"""Where the tag of the predictor means nothing."""

KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}
"""Sample formats: unsigned, signed, floats, not said."""

PIECE = 1 << 24
"""Bytes that strips are unpacked by, about."""


@dataclass(frozen=True)
class TiffSamples:
    """Hold what the tags of a TIFF file say of its samples.

    Attributes:
        path: The file, for messages.
        page: Tags of its first picture.
        bands: How many samples a pixel has.
        dtype: Their type, in the file's byte order.
    """

    path: Path
    page: tags.Page
    bands: int
    dtype: np.dtype[Any]

    @property
    def stored(self) -> tuple[int, int]:
        """Return height and width as stored."""
        return self.page.number(tags.HEIGHT), self.page.number(tags.WIDTH)

    @property
    def inverted(self) -> bool:
        """Tell whether the lowest value is white."""
        return self.page.number(tags.PHOTOMETRIC, GREY) == GREY_INVERTED

    @property
    def orientation(self) -> int:
        """Return the orientation, 1 … 8."""
        found = self.page.number(tags.ORIENTATION, 1)
        return found if 1 <= found <= 8 else 1

    @property
    def stated_bits(self) -> int | None:
        """Return how many bits the highest possible value has, if the file says less than all."""
        highest = self.page.number(tags.MAX_SAMPLE)
        whole = self.dtype.kind == "u" and 255 < highest < np.iinfo(self.dtype).max
        return highest.bit_length() if whole else None

    @property
    def nodata(self) -> float | None:
        """Return the value of pixels that are none (GDAL), if the file says it."""
        try:
            return float(self.page.text(tags.GDAL_NODATA))
        except ValueError:
            return None

    def choose(self, bands: Sequence[int] | None) -> list[int]:
        """Choose the bands that are grey, or red, green and blue.

        Args:
            bands: Numbers from 1 on; None: what the file says.

        Returns:
            Their places, one or three.

        Raises:
            FileFormatError: There are no such bands, or the file doesn't say.
        """
        if bands:
            if max(bands) > self.bands:
                raise FileFormatError(
                    f"{self.path}: {self.named_bands()}, no band {max(bands)}; --bands names those "
                    "that are red, green and blue."
                )
            return [band - 1 for band in bands]
        if self.page.number(tags.PHOTOMETRIC, GREY) == RGB and self.bands >= 3:
            return [0, 1, 2]
        alpha = self.bands == 2 and self.page.number(tags.EXTRA) in (1, 2)
        if self.bands == 1 or alpha:
            return [0]
        example = "4,3,2" if self.bands > 3 else ",".join("321"[-self.bands :])
        raise FileFormatError(
            f"{self.path}: {self.named_bands()}; say which are red, green and blue, such as "
            f"--bands {self.suggest_bands() or example}; commands without that option need files "
            "of RGB."
        )

    def named_bands(self) -> str:
        """Return "4 bands (1 blue, 2 green, …)", with the names that GDAL keeps."""
        names = self._names()
        listed = ", ".join(f"{band + 1} {names[band][:20]}" for band in sorted(names)[:12])
        kind = f"{8 * self.dtype.itemsize}-bit {'floats' if self.dtype.kind == 'f' else 'numbers'}"
        return f"{self.bands} band{'s' * (self.bands > 1)} of {kind}{f' ({listed})' * bool(listed)}"

    def suggest_bands(self) -> str | None:
        """Return the numbers of bands called red, green and blue."""
        numbers = {name.strip().lower(): band + 1 for band, name in self._names().items()}
        if numbers.keys() >= {"red", "green", "blue"}:
            return ",".join(str(numbers[name]) for name in ("red", "green", "blue"))
        return None

    def _names(self) -> dict[int, str]:
        found = re.findall(
            r'sample="(\d{1,4})"[^>]*role="description"[^>]*>([^<]+)',
            self.page.text(tags.GDAL_METADATA),
        )
        return {int(band): name for band, name in found if int(band) < self.bands}

    def read(self, places: Sequence[int]) -> NDArray[Any]:
        """Read bands of the picture.

        Returns:
            (H, W, len(places)) numbers, as stored.

        Raises:
            FileFormatError: The file is too large.
            ValueError, OSError: It is broken.
        """
        height, width = self.stored
        shape = height, width, len(places)
        check_pixels((height, width), self.path)
        check_bytes(height * width * len(places) * self.dtype.itemsize, self.path)
        out = np.empty(shape, self.dtype.newbyteorder("="))
        separate = self.page.number(tags.PLANAR, 1) == 2
        # Planes by where they are packed, and there: band by band, or all in one.
        planes = [(place, [0]) for place in places] if separate else [(0, list(places))]
        for number, (plane, bands) in enumerate(planes):
            target = out[..., number : number + len(bands)]
            for top, left, values in self._pieces(1 if separate else self.bands, plane):
                rows, cols = slice(top, top + len(values)), slice(left, left + values.shape[1])
                target[rows, cols] = values[..., bands]
        return out

    def _pieces(self, samples: int, plane: int) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Unpack tiles, or strips some at a time: where they begin, (h, w, samples) numbers."""
        height, width = self.stored
        tiled = tags.TILE_OFFSETS in self.page.tags
        if tiled:
            high, wide = (self.page.number(tag) for tag in (tags.TILE_HEIGHT, tags.TILE_WIDTH))
        else:
            high, wide = min(self.page.number(tags.ROWS_PER_STRIP, height), height), width
        if not (high > 0 and wide > 0):
            raise ValueError("tiles of no size")
        # What one tile or strip takes, which may be far more than the picture.
        size = high * wide * samples * self.dtype.itemsize
        check_bytes(size, self.path)
        offsets, lengths = (
            self.page.values(tag)
            for tag in (
                (tags.TILE_OFFSETS, tags.TILE_BYTES)
                if tiled
                else (tags.STRIP_OFFSETS, tags.STRIP_BYTES)
            )
        )
        down, across = ceil(height / high), ceil(width / wide)
        first, last = plane * down * across, (plane + 1) * down * across
        if min(len(offsets), len(lengths)) < last:
            raise ValueError("tiles are missing")
        group = 1 if tiled else max(1, PIECE // size)
        for start in range(first, last, group):
            numbers = range(start, min(start + group, last))
            down_by, left = divmod(start - first, across)
            top = down_by * high
            rows = high if tiled else min(high * len(numbers), height - top)
            packed = [
                self._packed(int(offsets[number]), int(lengths[number])) for number in numbers
            ]
            row_bytes = wide * samples * self.dtype.itemsize
            unpacked = self._unpack(packed, rows, row_bytes, high)
            values = self._undo_predictor(unpacked, samples)
            yield top, left * wide, values[: height - top, : width - left * wide]

    def _packed(self, offset: int, length: int) -> bytes:
        file = self.page.file
        if offset + length > file.seek(0, 2):
            raise ValueError("it ends early")
        file.seek(offset)
        return file.read(length)

    def _unpack(self, packed: list[bytes], rows: int, row: int, high: int) -> NDArray[np.uint8]:
        """Unpack strips, or one tile, to (rows, row) bytes."""
        compression = self.page.number(tags.COMPRESSION, NONE)
        if compression == NONE:
            data = b"".join(packed)
            return np.frombuffer(data, np.uint8, rows * row).reshape(rows, row)
        # It takes as long to import as a small file to be refined.
        from PIL import TiffImagePlugin

        # Pillow unpacks it as grey pixels, one for each byte.
        starts = np.cumsum([0, *map(len, packed)])
        entries: dict[int, Sequence[int]] = {
            tags.WIDTH: [row],
            tags.HEIGHT: [rows],
            tags.BITS: [8],
            tags.COMPRESSION: [compression],
            tags.PHOTOMETRIC: [GREY],
            tags.STRIP_OFFSETS: starts[:-1].tolist(),
            tags.BANDS: [1],
            tags.ROWS_PER_STRIP: [high],
            tags.STRIP_BYTES: [len(part) for part in packed],
        }
        content = grey_tiff(entries, b"".join(packed))
        # Not Image.open, which would count these bytes as pixels: the picture's are counted.
        with TiffImagePlugin.TiffImageFile(io.BytesIO(content)) as picture:
            return np.asarray(picture)

    def _undo_predictor(self, rows: NDArray[np.uint8], samples: int) -> NDArray[Any]:
        """Turn rows of bytes into (h, w, samples) numbers; predictors keep differences of them."""
        height, item = len(rows), self.dtype.itemsize
        predictor = self.page.number(tags.PREDICTOR, 1)
        if self.page.number(tags.COMPRESSION, NONE) in UNPREDICTED:
            predictor = 1
        if predictor == 3:
            summed = np.add.accumulate(rows.reshape(height, -1, samples), axis=1, dtype=np.uint8)
            # First all highest bytes of a row, last all lowest.
            planes = summed.reshape(height, item, -1).transpose(0, 2, 1)
            values = np.ascontiguousarray(planes).view(self.dtype.newbyteorder(">"))
            return values.reshape(height, -1, samples)
        values = np.ascontiguousarray(rows).view(self.dtype).reshape(height, -1, samples)
        if predictor == 2:
            whole = values.view(f"{self.dtype.byteorder}u{item}")
            native = whole.dtype.newbyteorder("=")
            return np.add.accumulate(whole, axis=1, dtype=native).view(
                values.dtype.newbyteorder("=")
            )
        return values


def grey_tiff(entries: dict[int, Sequence[int]], data: bytes) -> bytes:
    """Make a TIFF file of tags, in order, and strips whose offsets are counted in `data`."""
    start = 8 + 2 + 12 * len(entries) + 4
    lists = b""
    directory = struct.pack("<H", len(entries))
    begin = start + 4 * sum(len(values) for values in entries.values() if len(values) > 1)
    for tag, values in entries.items():
        stored = [value + begin for value in values] if tag == tags.STRIP_OFFSETS else list(values)
        packed = struct.pack(f"<{len(stored)}I", *stored)
        if len(stored) > 1:
            lists, packed = lists + packed, struct.pack("<I", start + len(lists))
        directory += struct.pack("<HHI", tag, 4, len(stored)) + packed
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + lists + data


def read_tiff_samples(
    path: Path, file: IO[bytes], bands: Sequence[int] | None
) -> TiffSamples | None:
    """Read what the tags say of a photograph's samples, if Pillow can't tell all of it.

    Args:
        path: The file, for messages.
        file: The same, open as long as samples are read.
        bands: Whether bands are asked for; see `TiffSamples.choose`.

    Returns:
        None for other files, and for those that Pillow reads without loss.

    Raises:
        FileFormatError: The samples are of a kind that nobody reads.
        ValueError, OSError: The file is broken.
    """
    page = next(tags.read_pages(file), None)
    if page is None:
        return None
    count = max(page.number(tags.BANDS, 1), 1)
    depths = set(page.values(tags.BITS, [1])[:count].tolist())
    kinds = set(page.values(tags.SAMPLE_FORMAT, [1])[:count].tolist())
    photometric = page.number(tags.PHOTOMETRIC, GREY)
    alpha = count == 2 and page.number(tags.EXTRA) in (1, 2)
    plain = count == 1 or alpha or (photometric == RGB and count <= 6) or photometric > RGB
    if plain and max(depths) <= 8 and kinds <= {1, 4} and not (bands and photometric <= RGB):
        return None
    compression = page.number(tags.COMPRESSION, NONE)
    bits, kind = max(depths), KINDS.get(min(kinds), "")
    readable = bits in ((16, 32, 64) if kind == "f" else (8, 16, 32)) and kind
    if photometric <= RGB and len(depths) == len(kinds) == 1 and readable:
        if compression in COMPRESSIONS:
            return TiffSamples(path, page, count, np.dtype(f"{page.order}{kind}{bits // 8}"))
        if plain and bits <= 8:
            return None
        what = f"compressed as number {compression}"
        expected = ", ".join(dict.fromkeys(COMPRESSIONS.values()))
    elif plain and count <= 6 and bits <= 16:
        return None
    else:
        what = f"{count} band{'s' * (count > 1)} of {bits} bits, which aren't read"
        expected = "8, 16 or 32 bits, or floats"
    raise FileFormatError(f"{path}: {what}; expected {expected}: write it anew.")
