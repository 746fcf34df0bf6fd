"""Codec of TIFF files: one band or colours, and the tags that are kept, geo-references included."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffTags

from segfix.errors import FileFormatError
from segfix.files.provenance import recorded_path
from segfix.files.reading import DECODE_ERRORS

if TYPE_CHECKING:
    from PIL import TiffImagePlugin

ORIENTATION, PREDICTOR, SUBFILE_TYPE, ALPHA = 274, 317, 254, 338
BITS, BANDS, SAMPLE_FORMAT = 258, 277, 339
LAYOUT_TAGS = {
    *(SUBFILE_TYPE, 255, 256, 257, 258, 259, 266, 273, 277, 278, 279, 280, 281, 284),
    *(320, 322, 323, 324, 325, 330, ALPHA, 339, 340, 341),
    *(ORIENTATION, 34665, 34853, 40965),
}
"""Tags of the file's layout: the writer makes its own."""

GEO_REFERENCE = {33550, 33922, 34264}
"""Tags that say where each pixel lies: valid for one size of picture alone."""

NODATA = 42113
"""GDAL's tag of the value of pixels without data, a text."""

WHOLE_TYPES, FRACTION_TYPES = {1, 3, 4, 6, 8, 9, 16, 17}, {5, 10, 11, 12}
NUMBER_TYPES = WHOLE_TYPES | FRACTION_TYPES
"""Codes of numeric types; the others are texts and bytes."""

LOSSY = ("jpeg", "tiff_jpeg", "webp")


def decode_tiff(path: Path, picture: Image.Image) -> tuple[NDArray[Any], dict[str, Any]]:
    """Decode the samples of an open TIFF file; see `segfix.formats.png.decode_png`.

    Raises:
        FileFormatError: Lossy compression, or colours multiplied by alpha.
    """
    # Here and below: it takes as long to import as a small file to be refined.
    from PIL import TiffImagePlugin

    assert isinstance(picture, TiffImagePlugin.TiffImageFile)
    compression = str(picture.info.get("compression", "raw"))
    if compression in LOSSY:
        raise FileFormatError(f"{path}: lossy compression, in which ids blur; write it without.")
    if picture.tag_v2.get(ALPHA) in (1, (1,)):
        raise FileFormatError(
            f"{path}: colours multiplied by their alpha; write them unassociated."
        )
    # Pillow turns the samples upright, and forgets that it did.
    orientation = int(picture.tag_v2.get(ORIENTATION, 1))
    tags = {
        tag: (picture.tag_v2.tagtype[tag], value)
        for tag, value in picture.tag_v2.items()
        if tag not in LAYOUT_TAGS and is_of_its_type(tag, picture.tag_v2.tagtype[tag], value)
    }
    if compression == "raw":
        tags.pop(PREDICTOR, None)
    palette = picture.getpalette()
    array = np.array(picture)
    check_samples(path, picture, array)
    return array.astype(array.dtype.newbyteorder("="), copy=False), {
        "palette": bytes(palette) if palette is not None else None,
        "rest": {"tags": tags, "compression": compression, "orientation": orientation},
    }


def nodata_of(tags: Mapping[int, tuple[int, Any]]) -> float | None:
    """Read the value of pixels without data from a file's tags; None where there is none."""
    with suppress(ValueError, KeyError):
        return float(str(tags[NODATA][1]).strip(" \0"))
    return None


def is_of_its_type(tag: int, kind: int, value: Any) -> bool:
    """Tell whether a tag's value is of the type that its number asks for, or libtiff crashes.

    Args:
        tag: Its number.
        kind: Type of the value in the file.
        value: As Pillow gives it.
    """
    known = TiffTags.lookup(tag)
    if not known.type:
        return tag not in TiffTags.LIBTIFF_CORE
    count = len(value) if isinstance(value, tuple) else 1
    counted = kind in NUMBER_TYPES and known.length
    same = any({kind, known.type} <= kinds for kinds in ({kind}, WHOLE_TYPES, FRACTION_TYPES))
    return same and (not counted or count == known.length)


def check_samples(path: Path, picture: TiffImagePlugin.TiffImageFile, array: NDArray[Any]) -> None:
    """Refuse a picture of which Pillow drops bands or bits, or counts ids otherwise than the file.

    Args:
        path: The file, for messages.
        picture: The same, opened.
        array: What Pillow makes of it.
    """
    bands = int(picture.tag_v2.get(BANDS, 1))
    bits = max(picture.tag_v2.get(BITS, (1,)))
    signed = picture.tag_v2.get(SAMPLE_FORMAT, (1,))[0] == 2
    fault = None
    if picture.mode in ("CMYK", "YCbCr", "LAB"):
        fault = f"colours as {picture.mode}, not RGB"
    elif bands != (array.shape[2] if array.ndim == 3 else 1):
        fault = f"{bands} bands, of which some would be lost"
    elif bits > 8 * array.itemsize:
        fault = f"{bits} bits per sample, of which some would be lost"
    elif picture.mode == "L" and bits < 8:
        fault = f"grey of {bits} bits, which isn't read"
    elif bits == 8 and signed and array.max(initial=0) > 127:
        fault = "negative numbers of 8 bits, which aren't read"
    elif bits == 32 and not signed and array.dtype.kind == "i" and array.min(initial=0) < 0:
        fault = "ids of 2147483648 or more, which aren't read"
    if fault:
        raise FileFormatError(
            f"{path}: {fault}; expected one band of ids of 1, 8, 16 or (signed) 32 bits, or RGB or "
            "RGBA of 8 bits."
        )


def encode_tiff(
    path: Path,
    array: NDArray[Any],
    *,
    palette: bytes | None,
    rest: Mapping[str, Any],
    record: str | None,
) -> None:
    """Write samples as TIFF, atomically; see `segfix.formats.png.encode_png`."""
    from PIL import TiffImagePlugin

    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, (kind, value) in rest.get("tags", {}).items():
        # Pillow reads text byte by byte, and would write question marks for what isn't ASCII.
        text = kind == TiffTags.ASCII and isinstance(value, str)
        info[tag] = value.encode("latin-1") if text else value
        info.tagtype[tag] = kind
    if rest.get("orientation", 1) != 1:
        info[ORIENTATION] = rest["orientation"]
    picture = Image.fromarray(array)
    if palette is not None:
        picture.putpalette(palette)
    # In memory: into files, Pillow writes less than all on a full disk and says nothing.
    content = io.BytesIO()
    try:
        picture.save(
            content,
            format="TIFF",
            tiffinfo=info,
            compression=rest.get("compression", "tiff_adobe_deflate"),
        )
    except DECODE_ERRORS as error:
        raise FileFormatError(
            f"{path}: its tags can't be written ({error}); replace the label map."
        ) from error
    with recorded_path(path, record) as temporary:
        temporary.write_bytes(content.getvalue())
