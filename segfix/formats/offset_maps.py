"""Offset maps, and their own format: a palette PNG of boundary, direction and confidence."""

from __future__ import annotations

import colorsys
import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfix.errors import FileFormatError
from segfix.files.provenance import CONVERTED_KEY, RECORD_KEY
from segfix.files.reading import open_picture
from segfix.formats.png import save_png
from segfix.geometry import NUM_DIRECTIONS, UNDEFINED, direction_angles, direction_to_offsets

FORMAT_VERSION = 1
NUM_LEVELS = 8
"""Levels of confidence kept in the file (L)."""
WRONG_LABEL = "probability that the pixel's label in the prediction is wrong"
"""`OffsetMap.confidence` of offset maps that were made for one prediction."""


@dataclass(frozen=True)
class OffsetMap:
    """Hold, for each boundary pixel, the direction in which its label is found.

    Attributes:
        codes: (H, W) uint8: 0 interior, otherwise 1 + direction + m · level.
        num_directions: m.
        boundary_width: γ the directions were trained with, pixels.
        lowest_confidence: t0 in [0, 1], the confidence at which level 0 begins.
        num_levels: L; level = floor(L · (c - t0) / (1 - t0)), at most L - 1.
        confidence: What c is, in words.
        source: What made the map (network and digest, label map, …) and with which settings.
    """

    codes: NDArray[np.uint8]
    num_directions: int = 8
    boundary_width: float = 5
    lowest_confidence: float = 0.0
    num_levels: int = NUM_LEVELS
    confidence: str = "1 everywhere"
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def conditioned(self) -> bool:
        """Tell whether it was made for one prediction."""
        return self.confidence == WRONG_LABEL

    @classmethod
    def encode(
        cls,
        boundary_mask: NDArray[np.bool_],
        direction_map: NDArray[np.uint8],
        confidence_map: NDArray[np.floating[Any]] | float = 1.0,
        *,
        num_directions: int = 8,
        lowest_confidence: float = 0.0,
        num_levels: int = NUM_LEVELS,
        **metadata: Any,
    ) -> OffsetMap:
        """Pack boundary, direction and confidence into codes.

        Args:
            boundary_mask: (H, W) bool.
            direction_map: (H, W) uint8 sectors; where undefined (255) the pixel becomes interior.
            confidence_map: (H, W) in [0, 1], or one number for all.
            num_directions: m, one of 4, 8, 16.
            lowest_confidence: t0 in [0, 1].
            num_levels: L, with 1 + m · L ≤ 256.
            metadata: The other attributes of the class.

        Raises:
            TypeError: `direction_map` holds no sectors.
            ValueError: The codes would not fit into 8 bits, or the shapes differ.

        Example:
            >>> mask, sectors = np.array([[True, True, False]]), np.array([[3, 255, 1]], np.uint8)
            >>> OffsetMap.encode(mask, sectors, 0.5).codes
            array([[36,  0,  0]], dtype=uint8)
        """
        if direction_map.dtype.kind not in "iu":
            raise TypeError(
                f"Expected direction_map of sectors but got {direction_map.dtype} (swapped?)."
            )
        if boundary_mask.shape != direction_map.shape:
            raise ValueError(
                f"Expected direction_map of {boundary_mask.shape}, as boundary_mask is, but got "
                f"{direction_map.shape}."
            )
        if 1 + num_directions * num_levels > 256:
            raise ValueError(
                "Expected 1 + num_directions · num_levels to be at most 256 but got "
                f"{1 + num_directions * num_levels}."
            )
        span = 1 - lowest_confidence
        share = (np.asarray(confidence_map) - lowest_confidence) / (span or 1)
        levels = np.clip(np.floor(num_levels * share), 0, num_levels - 1).astype(np.uint8)
        codes = 1 + direction_map + np.uint8(num_directions) * levels
        codes = np.where(boundary_mask & (direction_map != UNDEFINED), codes, 0).astype(np.uint8)
        return cls(
            codes,
            num_directions=num_directions,
            lowest_confidence=lowest_confidence,
            num_levels=num_levels,
            **metadata,
        )

    def boundary_mask(self, min_confidence: float = 0.0) -> NDArray[np.bool_]:
        """Mark boundary pixels whose level begins at `min_confidence` or above: (H, W) bool."""
        levels = np.arange(self.num_levels) / self.num_levels
        floors = self.lowest_confidence + levels * (1 - self.lowest_confidence)
        bold = np.zeros(256, bool)
        bold[1 : 1 + self.num_directions * self.num_levels] = np.repeat(
            floors + 1e-9 >= min_confidence, self.num_directions
        )
        return bold.take(self.codes)

    def confidence_map(self) -> NDArray[np.float32]:
        """Return the middle of each pixel's level: (H, W) float32 in [0, 1], 0 off the boundary."""
        levels = (np.arange(self.num_levels) + 0.5) / self.num_levels
        middles = self.lowest_confidence + levels * (1 - self.lowest_confidence)
        values = np.zeros(256, np.float32)
        values[1 : 1 + self.num_directions * self.num_levels] = np.repeat(
            middles, self.num_directions
        )
        return values.take(self.codes)

    def direction_map(self) -> NDArray[np.uint8]:
        """Return each pixel's sector: (H, W) uint8, 255 off the boundary."""
        sectors = np.full(256, UNDEFINED, np.uint8)
        sectors[1:] = np.arange(255) % self.num_directions
        return sectors.take(self.codes)

    def vectors(self, min_confidence: float = 0.0) -> NDArray[np.int8]:
        """Return the unit offset of each boundary pixel that is confident enough.

        Returns:
            (2, H, W) int8, pixels, rows first, not multiplied by any scale.
        """
        codes = replace(self, codes=np.arange(256, dtype=np.uint8)[None])
        dy, dx = direction_to_offsets(
            codes.boundary_mask(min_confidence), codes.direction_map(), self.num_directions
        )[:, 0]
        return np.stack([dy.take(self.codes), dx.take(self.codes)])


@functools.cache
def colour_wheel(num_directions: int, num_levels: int) -> bytes:
    """Compute the codes' palette: black interior, hue = direction, brightness = confidence."""
    colours = [(0.0, 0.0, 0.0)]
    for level in range(num_levels):
        value = 0.4 + 0.6 * (level + 1) / num_levels
        for angle in direction_angles(num_directions):
            colours.append(colorsys.hsv_to_rgb((angle + 180) / 360, 0.85, value))
    return bytes(np.rint(np.array(colours) * 255).astype(np.uint8))


def is_colour_wheel(palette: bytes, offset_map: OffsetMap) -> bool:
    """Tell whether a palette is that of the codes; it may be shorter or longer."""
    wheel = colour_wheel(offset_map.num_directions, offset_map.num_levels)
    length = min(len(palette), len(wheel))
    return palette[:length] == wheel[:length]


def metadata_record(offset_map: OffsetMap) -> dict[str, Any]:
    """Return what the file says of the map beside its pixels, ready for JSON."""
    metadata = asdict(offset_map)
    del metadata["codes"]
    height, width = offset_map.codes.shape
    return {"kind": "offset map", "version": FORMAT_VERSION, "size": [width, height], **metadata}


def write_offset_png(
    path: Path, offset_map: OffsetMap, record: Mapping[str, Any] | None = None
) -> None:
    """Write an offset map as a palette PNG, atomically.

    Args:
        path: The file to make or replace.
        offset_map: Codes and metadata.
        record: Entries to keep beside the metadata.
    """
    picture = Image.fromarray(offset_map.codes)
    picture.putpalette(colour_wheel(offset_map.num_directions, offset_map.num_levels))
    text = json.dumps({**metadata_record(offset_map), **(record or {})}, sort_keys=True)
    save_png(path, picture, record=text, transparency=None)


def read_offset_png(path: Path) -> OffsetMap:
    """Read an offset map that `write_offset_png` made.

    Raises:
        FileFormatError: The file is missing, broken, or no offset map of a version we know.
    """
    with open_picture(path, "offset map") as picture:
        codes = np.array(picture)
        text, palette = picture.info.get(RECORD_KEY), picture.getpalette() or []
    offset_map = parse_metadata(path, codes, text or "", what="a picture")
    # Programs that shrink PNG files may have renumbered the codes.
    if not is_colour_wheel(bytes(palette), offset_map):
        raise damage_error(path)
    return offset_map


def parse_metadata(path: Path, codes: NDArray[Any], text: str, *, what: str) -> OffsetMap:
    """Parse a file's codes and record into an offset map.

    Args:
        path: The file, for messages.
        codes: As the file holds them, whatever they are.
        text: JSON of `metadata_record`, as the file holds it.
        what: What the file is for certain ("a picture").

    Raises:
        FileFormatError: They are no offset map of a version we know.
    """
    try:
        record = json.loads(text)
        if record["kind"] != "offset map":
            raise ValueError(record["kind"])
        version, _ = record.pop("version"), record.pop("kind")
        if version != FORMAT_VERSION:
            raise FileFormatError(
                f"{path}: offset map of format version {version}, expected {FORMAT_VERSION}; "
                "make it again with 'segfix predict-offsets'."
            )
        width, height = record.pop("size")
        record.pop(CONVERTED_KEY, None)
        offset_map = OffsetMap(codes, **record)
        most = 1 + offset_map.num_directions * offset_map.num_levels
        valid = (
            codes.shape == (height, width)
            and codes.dtype == np.uint8
            and type(offset_map.num_directions) is type(offset_map.num_levels) is int
            and offset_map.num_directions in NUM_DIRECTIONS
            and type(offset_map.source) is dict
            and offset_map.boundary_width > 0
            and 0 <= offset_map.lowest_confidence <= 1
            and 1 < most <= 256
            and int(codes.max(initial=0)) < most
        )
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise FileFormatError(
            f"{path}: {what}, but not an offset map; make offset maps with "
            "'segfix predict-offsets'."
        ) from error
    if not valid:
        raise damage_error(path)
    return offset_map


def damage_error(path: Path) -> FileFormatError:
    """Make the error for a file whose parts contradict each other."""
    return FileFormatError(
        f"{path}: damaged offset map (its pixels don't fit its metadata); make it again."
    )
