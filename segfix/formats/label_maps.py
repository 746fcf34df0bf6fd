"""Codec of label maps and soft predictions: written back in the kind that they were read in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import FileFormatError
from segfix.files.provenance import RECORD_KEY
from segfix.files.reading import open_picture
from segfix.formats.array_kinds import Kind, kind_of_array, largest_array, mark_whole, spare_axes
from segfix.formats.arrays import read_npy, read_npz, write_npy, write_npz
from segfix.formats.bitmaps import NAMES, decode_bitmap, encode_bitmap
from segfix.formats.images import orientation_of, turn_back, turn_upright
from segfix.formats.png import decode_png, encode_png
from segfix.formats.soft_masks import check_hard
from segfix.formats.tiff import decode_tiff, encode_tiff, nodata_of
from segfix.formats.webp import decode_webp, encode_webp

LOSSY = ("JPEG", "MPO", "JPEG2000", "AVIF")
"""Formats in which ids blur."""

NO_ID = -(2**31) - 1
"""Id of NaN and other floats that are none (GDAL's -3.4e38)."""

DIGEST_ROWS = 256
"""Rows of ids that are digested at a time."""

DECODERS = {
    "PNG": decode_png,
    "TIFF": decode_tiff,
    "WEBP": decode_webp,
    **dict.fromkeys(NAMES.values(), decode_bitmap),
}
PICTURE_FORMATS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP"} | NAMES
ARRAY_SUFFIXES = (".npy", ".npz")

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".webp", *ARRAY_SUFFIXES, *NAMES)
"""File name endings of label maps, lossless, or boundaries would blur; the first of those that a
folder has for one stem is taken where one is wanted."""


@dataclass(frozen=True)
class LabelMap:
    """Hold a label map or soft prediction, and what is needed to write it back in the same kind.

    Attributes:
        array: (H, W) ids or scores, (H, W, C) colours or scores, (C, H, W) scores or masks.
        kind: "ids"; "colours"; "scores": probabilities or logits, of C classes or, (H, W), of the
            foreground; "masks": bool, of C instances that may overlap.
        palette: RGB bytes of a palette file's colours, else None.
        transparency: The palette's or the colour's transparency as Pillow gives it, else None.
        bits: Bits per pixel of the file; 2 and 4 of a grey one are kept.
        channels_first: Whether `array` is (C, H, W).
        rest: What else the file holds, by names of its format's module.
    """

    array: NDArray[Any]
    kind: Kind = "ids"
    palette: bytes | None = None
    transparency: Any = None
    bits: int = 8
    channels_first: bool = False
    rest: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind == "ids" and self.array.ndim == 3:
            object.__setattr__(self, "kind", "colours")

    @property
    def planes(self) -> NDArray[Any]:
        """Return (H, W) or (H, W, C), a view of the array."""
        return np.moveaxis(self.array, 0, -1) if self.channels_first else self.array

    @property
    def shape(self) -> tuple[int, int]:
        """Return height and width, pixels."""
        height, width = self.planes.shape[:2]
        return height, width

    @property
    def size(self) -> str:
        """Return width × height, for messages."""
        return f"{self.shape[1]}×{self.shape[0]}"

    @property
    def nodata(self) -> float | None:
        """Return the value of pixels without data, where a GeoTIFF file states one."""
        return nodata_of(self.rest.get("tags", {}))

    def with_array(self, array: NDArray[Any]) -> LabelMap:
        """Return the same kind of label map with another array."""
        return replace(self, array=array)

    def with_planes(self, planes: NDArray[Any]) -> LabelMap:
        """Return the same kind of label map with other `planes`."""
        return replace(self, array=np.moveaxis(planes, -1, 0) if self.channels_first else planes)

    def ids(self) -> NDArray[np.integer[Any]]:
        """Return one integer per pixel.

        Returns:
            (H, W): the class id; R + 256·G + 256²·B (+ 256³·A) of a colour; the class of the
            highest score, or, of scores of the foreground alone, 1 where it is likelier than not.

        Raises:
            ValueError: Masks, which may overlap.
        """
        if self.kind == "masks":
            raise ValueError(
                "Expected a label map but got masks, which may overlap: refine_masks takes them."
            )
        if self.kind == "scores":
            unknown = self.unknown_scores() if self.nodata is not None else None
            known = self.planes if unknown is None else np.where(unknown, np.nan, self.planes)
            return likeliest_class(known)
        if self.array.ndim == 2:
            if self.array.dtype.kind == "f":
                ids = np.full(self.array.shape, NO_ID, np.int64)
                whole = mark_whole(self.array)
                ids[whole] = self.array[whole]
                return ids
            return self.array.astype(np.uint8) if self.array.dtype == bool else self.array
        packed = np.zeros(self.array.shape[:2], np.int64)
        for place in range(self.array.shape[2]):
            # One by one: all at once would take four times the memory.
            packed += self.array[..., place].astype(np.int64) << 8 * place
        return packed

    def unknown_scores(self) -> NDArray[np.bool_] | None:
        """Mark, (H, W), pixels whose scores are NaN or the nodata value; None if there are none."""
        planes = self.planes
        if planes.dtype.kind != "f" or not planes.size:
            return None
        unknown = np.zeros(planes.shape, np.bool_)
        # Of NaN and others, the highest is NaN.
        if np.isnan(planes.max()):
            unknown |= np.isnan(planes)
        if self.nodata is not None:
            unknown |= planes == planes.dtype.type(self.nodata)
        if not unknown.any():
            return None
        return np.asarray(unknown.any(axis=2)) if unknown.ndim == 3 else unknown

    def layers(self) -> NDArray[Any]:
        """Return what has boundaries of its own: (H, W) `ids`, or (N, H, W) bool masks."""
        return np.moveaxis(self.planes, -1, 0) != 0 if self.kind == "masks" else self.ids()


def pixel_digest(layers: Iterable[NDArray[Any]], shape: Sequence[int] | None = None) -> str:
    """Compute the SHA-256 in hex of a prediction's pixels, whatever its file format.

    Args:
        layers: Of `LabelMap.layers`: ids count as int64, little endian, row by row, masks as packed
            bits; then the shape, as int64, too.
        shape: (N, H, W), where `layers` is no array: masks one after the other.
    """
    digest = hashlib.sha256()
    if isinstance(layers, np.ndarray):
        shape = layers.shape
        layers = layers if layers.ndim == 3 else [layers]
    for part in layers:
        if part.dtype == bool:
            digest.update(np.packbits(part).tobytes())
            continue
        for top in range(0, len(part), DIGEST_ROWS):
            digest.update(part[top : top + DIGEST_ROWS].astype("<i8").tobytes())
    digest.update(np.array(shape, "<i8").tobytes())
    return digest.hexdigest()


def likeliest_class(scores: NDArray[Any]) -> NDArray[np.integer[Any]]:
    """Pick the class of the highest score; of (H, W) scores, 1 where foreground is likelier.

    Args:
        scores: (H, W) or (H, W, C) probabilities, logits or, of integers, shares of the type's
            highest value.

    Returns:
        (H, W) uint8, or uint16 of more than 256 classes.

    Example:
        >>> likeliest_class(np.array([[0.2, 0.7]])), likeliest_class(np.array([[-3.0, 2.0]]))
        (array([[0, 1]], dtype=uint8), array([[0, 1]], dtype=uint8))
    """
    if scores.ndim == 3:
        best: NDArray[np.integer[Any]] = scores.argmax(2)
        return best.astype(np.uint8 if scores.shape[2] <= 256 else np.uint16)
    if scores.dtype.kind in "iu":
        return (scores > np.iinfo(scores.dtype).max // 2).astype(np.uint8)
    # NaN is neither.
    lowest = np.fmin.reduce(scores, axis=None, initial=0)
    probabilities = lowest >= 0 and np.fmax.reduce(scores, axis=None, initial=0) <= 1
    return (scores > (0.5 if probabilities else 0)).astype(np.uint8)


def read_label_map(
    path: Path,
    *,
    soft: bool = False,
    key: str | None = None,
    masks: bool = False,
    shape: tuple[int, int] | None = None,
) -> LabelMap:
    """Read a label map, ids as they are stored: palettes are not expanded, nothing is rescaled.

    Args:
        path: A PNG (grey of 1 to 16 bits, palette, colours), TIFF (one band or colours),
            lossless WebP, BMP, GIF or PNM file; or .npy or .npz: (H, W) ids, (C, H, W) or
            (H, W, C) scores of any type, (H, W) scores of floats, (H, W, 3 or 4) uint8 colours,
            (N, H, W) masks: bool, or numbers of which there are two (0 and 1, 0 and 255), if they
            aren't one-hot classes.
        soft: Whether integers are scores, too, not ids, colours or masks.
        key: The array of an .npz file that is meant; None: the largest.
        masks: Whether masks are wanted, too.
        shape: Height and width of the photograph: the largest of the arrays with that, if any.

    Returns:
        The label map, upright as its file says that it is displayed.

    Raises:
        FileFormatError: The file is missing, broken, lossy, or of a kind that holds no labels.
    """
    if path.suffix.lower() in ARRAY_SUFFIXES:
        label_map = _read_array(path, soft, key, shape)
        if label_map.kind == "masks" and not masks:
            raise FileFormatError(f"{path}: masks, which may overlap; expected a label map.")
        return label_map
    with open_picture(path, "label map") as picture:
        expected = PICTURE_FORMATS.get(path.suffix.lower(), "PNG")
        if picture.format != expected:
            advice = (
                "its ids have blurred, and converting it doesn't bring them back: write PNG "
                "instead (a mask of two values can be saved: magick mask.jpg -threshold 50% "
                "mask.png)"
                if picture.format in LOSSY
                else "give the file the ending of what it is, if that is one of "
                f"{', '.join(LABEL_SUFFIXES)}"
            )
            raise FileFormatError(
                f"{path}: expected a {expected} label map but got {picture.format}; {advice}."
            )
        decode = DECODERS[expected]
        # What `segfix.formats.offset_maps` writes looks like a palette label map.
        if '"offset map"' in str(picture.info.get(RECORD_KEY, "")):
            raise FileFormatError(f"{path}: an offset map, not a label map; give another folder.")
        array, attributes = decode(path, picture)
        rest = attributes["rest"]
        if "orientation" not in rest:
            rest["orientation"] = orientation_of(picture)
            array = turn_upright(array, rest["orientation"])
        rest["turned"] = rest["orientation"]
    if soft and array.ndim == 3:
        raise FileFormatError(
            f"{path}: colours, not scores; expected one band, or .npy for several classes."
        )
    if not soft and attributes.get("palette") is None:
        check_hard(path, array)
    return LabelMap(array, kind_of_array(array, soft=soft), **attributes)


def peek_label_map(
    path: Path, *, key: str | None = None, shape: tuple[int, int] | None = None
) -> LabelMap:
    """Read no more of a label map than its size, to refuse those of another one in time.

    Args:
        path: See `read_label_map`.
        key: See there.
        shape: See there.

    Returns:
        What has the shape of the label map, with zeros that take no memory. Of three axes, it is
        "scores", whose layout isn't known yet.

    Raises:
        FileFormatError: As `read_label_map`, as far as the file's beginning shows it.
    """
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return _read_array(path, soft=False, key=key, shape_wanted=shape, hollow=True)
    with open_picture(path, "label map") as picture:
        turn = orientation_of(picture)
        # Pillow tells the size of TIFF as displayed.
        swapped = turn >= 5 and picture.format != "TIFF"
        size = picture.size if swapped else picture.size[::-1]
        return LabelMap(np.broadcast_to(np.uint8(0), size), rest={"turned": turn})


def write_label_map(path: Path, label_map: LabelMap, *, record: str | None = None) -> None:
    """Write a label map in the format that its name tells, atomically.

    Args:
        path: The file to make or replace, ending in one of `LABEL_SUFFIXES`.
        label_map: What `read_label_map` gave, or a new one.
        record: Text kept in a PNG file, or beside any other; `read_record` gives it back.
    """
    rest, suffix = label_map.rest, path.suffix.lower()
    stored = label_map.with_planes(turn_back(label_map.planes, rest.get("turned", 1))).array
    array = np.ascontiguousarray(np.expand_dims(stored, rest.get("axes", ())))
    if suffix == ".npy":
        write_npy(path, array, record=record)
    elif suffix == ".npz":
        key = rest.get("key", "arr_0")
        write_npz(path, {**rest.get("arrays", {}), key: array}, record=record)
    elif suffix == ".webp":
        encode_webp(path, array, rest=rest, record=record)
    elif suffix in (".tif", ".tiff"):
        encode_tiff(path, array, palette=label_map.palette, rest=rest, record=record)
    elif suffix in NAMES:
        encode_bitmap(
            path,
            array,
            palette=label_map.palette,
            transparency=label_map.transparency,
            rest=rest,
            record=record,
        )
    else:
        encode_png(
            path,
            array,
            palette=label_map.palette,
            transparency=label_map.transparency,
            bits=label_map.bits,
            rest=rest,
            record=record,
        )


def _read_array(
    path: Path,
    soft: bool,
    key: str | None,
    shape_wanted: tuple[int, int] | None,
    *,
    hollow: bool = False,
) -> LabelMap:
    rest: dict[str, Any] = {}
    if path.suffix.lower() == ".npy":
        array = read_npy(path, hollow=hollow)
    else:
        arrays = read_npz(path, hollow=hollow)
        fitting = {
            name: array
            for name, array in arrays.items()
            if shape_wanted in (array.shape[-2:], array.shape[-3:-1])
        }
        rest["key"] = key or largest_array(path, fitting or arrays)
        if rest["key"] not in arrays:
            raise FileFormatError(f"{path}: no array {key!r}; it holds {', '.join(arrays)}.")
        array = arrays[rest["key"]]
        # In its place, so that it keeps it.
        rest["arrays"] = arrays
    if array.dtype.kind not in "biuf":
        raise FileFormatError(f"{path}: of type {array.dtype}; expected numbers.")
    shape = array.shape
    rest["axes"] = spare_axes(shape)
    if rest["axes"] == (0,) and (array.dtype == bool or rest.get("key") == "masks"):
        rest["axes"] = ()  # a single instance
    array = array.squeeze(rest["axes"])
    # Of no instance at all: nothing was found.
    none = array.ndim == 3 and not len(array) and all(array.shape[1:])
    if array.ndim not in (2, 3) or not (array.size or none):
        raise FileFormatError(
            f"{path}: of shape {shape}; expected (H, W) ids, or (C, H, W) or (H, W, C) scores."
        )
    if hollow:
        return LabelMap(array, "scores" if array.ndim == 3 else "ids", rest=rest)
    kind = kind_of_array(array, soft=soft)
    if kind in ("ids", "colours"):
        check_hard(path, array)
    # Of scores, the shorter axis; who knows the photograph's size can tell better.
    shorter = array.ndim == 3 and array.shape[0] <= array.shape[2]
    first = kind == "masks" or (kind == "scores" and shorter)
    return LabelMap(array, kind, channels_first=first, rest=rest)
