"""Read a file safely: text, and pictures whose every fault names the file."""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from segfix.errors import OUT_OF_MEMORY, FileFormatError, PassedOverError
from segfix.files.foreign import name_foreign
from segfix.files.limits import current_limits
from segfix.files.tiff_tags import BANDS, SUBFILE_TYPE, holds_several, read_pages

PICTURES = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000", "AVIF", "PPM")
"""What is opened as a picture, whatever it is called. For others, of which EPS is one, Pillow runs
programs, or they hold no photographs."""


METADATA = (b"iCCP", b"iTXt", b"zTXt", b"tEXt")
"""Chunks of PNG files with colour profiles and texts."""

MOST_BANDS = 6
"""Of a picture that Pillow reads: colours, and what may be beside them."""

LARGEST_PACKED, MOST_METADATA = 1 << 20, 1 << 26
"""Of one such chunk that is packed, unpacked, and of all together, bytes: Pillow reads no file that
has more."""
HEIF = re.compile(rb".{4}ftyp.{0,40}?(?:hei[cxms]|hev[cx])", re.DOTALL)
"""How HEIF photographs begin, the usual ones of telephones."""

LONGEST_PATH = 4096
"""Of a name in a file, characters."""


# What Pillow and its decoders raise on broken or hostile files.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def path_within(
    folder: Path, name: str, root: Path, where: str, *, inside: Sequence[Path] = ()
) -> Path:
    """The absolute path of a file that another file names, and that must not lead elsewhere.

    Args:
        folder: What the name is relative to.
        name: As it stands in the file.
        root: Folder that it must not leave.
        where: The file, for the message.
        inside: Folders of which one must hold what the name leads to, also by links; without any,
            links may lead anywhere: a folder may be put together of them.

    Raises:
        FileFormatError: The name is absolute, leads out of the folder, can't be one, or is that of
            a pipe or a device.
    """
    try:
        if "\0" in name:
            raise ValueError("a zero byte")
        if len(name) > LONGEST_PATH:
            raise ValueError(f"{len(name)} characters")
        os.fsencode(name)
    except ValueError as error:
        raise FileFormatError(f"{where}: {name[:200]!r} is no file name ({error}).") from error
    path, above = (os.path.abspath(place) for place in (folder / name, root))  # noqa: PTH100
    if Path(name).is_absolute() or not Path(path).is_relative_to(above) or path == above:
        raise FileFormatError(
            f"{where}: {name} lies outside of {root}; expected a path from {folder}."
        )
    real = os.path.realpath(path)
    if inside and not any(Path(real).is_relative_to(os.path.realpath(one)) for one in inside):
        raise FileFormatError(
            f"{where}: {name} is a link to {real}, outside of {inside[0]}; copy that file there."
        )
    check_regular(Path(path))
    return Path(path)


def check_regular(path: Path) -> None:
    """Refuse what is there and no file: to open a pipe waits for ever, a device may never end."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return  # Who opens it tells.
    if not stat.S_ISREG(mode):
        raise FileFormatError(f"{path}: can't be read (a folder, a pipe or a device, no file).")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a mark at its beginning.

    Raises:
        FileNotFoundError: There is none.
        FileFormatError: It is too large, or can't be read.
        UnicodeDecodeError: It is no text.
    """
    return read_bytes(path).decode("utf-8-sig")


def read_bytes(path: Path) -> bytes:
    """The bytes of a file that takes many times their number once it is read.

    Raises:
        FileNotFoundError: There is none.
        FileFormatError: It is too large, or can't be read.
    """
    most = current_limits().max_bytes // 2
    check_regular(path)
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileFormatError(f"{path}: can't be read ({error.strerror or error}).") from error
    if len(content) > most:
        raise FileFormatError(
            f"{path}: more than {most} bytes; --max-bytes of twice its size allows it, or split "
            "the file."
        )
    return content


def _register_heif(path: Path) -> None:
    """Let Pillow open HEIF.

    Raises:
        PassedOverError: The extra isn't installed.
    """
    if "HEIF" in Image.OPEN:
        return
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise PassedOverError(
            "HEIF, which needs the extra 'heif'",
            kind=path.suffix.lower(),
            path=path,
            advice="pip install 'segfix-refine[heif]', or export it as JPEG",
        ) from error
    register_heif_opener()


@contextmanager
def open_picture(path: Path, what: str) -> Iterator[Image.Image]:
    """Open a picture with Pillow; every fault becomes a `FileFormatError` that names the file.

    Args:
        path: The file.
        what: What it should be ("image", "label map"), for the message.

    Yields:
        The picture, not yet decoded; decode it inside the block.

    Raises:
        FileFormatError: The file is missing, not a picture, several pictures (an animation or
            pages), truncated or too large.
    """
    check_regular(path)
    try:
        # By its bytes: of a path Pillow maps the file into memory, in the stored rows and columns
        # even where a TIFF file says that it is displayed a quarter turn from there.
        with path.open("rb") as file:
            check_pages(file, path, what)
            check_bands(file, path)
            formats = (*PICTURES, "HEIF") if HEIF.match(file.peek(64)[:64]) else PICTURES
            if "HEIF" in formats:
                _register_heif(path)
            with Image.open(leave_metadata_out(file), formats=formats) as picture:
                # Of JPEG, what follows is a preview, a second view or a map of brightness.
                if picture.format not in ("TIFF", "MPO") and getattr(picture, "is_animated", False):
                    raise FileFormatError(
                        f"{path}: an animation, of which only the first frame would be taken; "
                        f"expected one {what} per file: write its frames as PNG, numbered"
                        f"{', or as a video' * (what == 'image')}."
                    )
                yield picture
    except FileNotFoundError as error:
        raise FileFormatError(f"{path}: no such file.") from error
    except UnidentifiedImageError as error:
        kind, advice = name_foreign(path) or ("", "expected a picture file")
        found = f"not a readable {what}" + f", but {kind}" * bool(kind)
        raise FileFormatError(f"{path}: {found}; {advice}.") from error
    except Image.DecompressionBombError as error:
        raise FileFormatError(
            f"{path}: too large a picture; --max-pixels allows more, or cut it into tiles."
        ) from error
    except MemoryError as error:
        raise FileFormatError(f"{path}: {OUT_OF_MEMORY}") from error
    except DECODE_ERRORS as error:
        if isinstance(error, OSError) and error.errno:
            # The system's own; a decoder's has no number.
            raise FileFormatError(f"{path}: can't be read ({error.strerror}).") from error
        raise FileFormatError(
            f"{path}: broken or truncated {what} ({error}); replace the file."
        ) from error


def check_pages(file: IO[bytes], path: Path, what: str) -> None:
    """Refuse a TIFF file of several pages, or of a preview; a broken one, Pillow refuses."""
    several = preview = False
    with suppress(ValueError):
        several = holds_several(file, masks=what == "image")
        preview = any(page.number(SUBFILE_TYPE) & 1 for page in islice(read_pages(file), 1))
    file.seek(0)
    if preview:
        raise FileFormatError(
            f"{path}: of a camera's raw file the preview alone would be taken; export it as TIFF "
            "or JPEG."
        )
    if several:
        raise FileFormatError(
            f"{path}: several pages, of which only the first would be taken; expected one {what} "
            "per file: write each page as a file (tiffsplit)."
        )


def check_bands(file: IO[bytes], path: Path) -> None:
    """Refuse a TIFF file of more bands than any picture has, before Pillow logs it."""
    with suppress(ValueError):
        for page in islice(read_pages(file), 1):
            if (bands := page.number(BANDS, 1)) > MOST_BANDS:
                raise FileFormatError(
                    f"{path}: {bands} bands; expected one or colours, or .npy for scores of "
                    "classes."
                )
    file.seek(0)


def leave_metadata_out(file: IO[bytes]) -> IO[bytes]:
    """Leave out what is too large of a PNG file's metadata, not the picture.

    Returns:
        The file itself, at its start; if something is left out, a copy in memory.
    """
    kept, start, place, total = [], 0, 8, 0
    if file.read(8) == b"\x89PNG\r\n\x1a\n":
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            length, kind = int.from_bytes(head[:4]), head[4:]
            size = _unpacked_size(kind, length, file) if kind in METADATA else 0
            total += size
            if total > MOST_METADATA or (size > LARGEST_PACKED and size != length):
                kept.append((start, place))
                start, total = place + length + 12, total - size
            place = file.seek(place + length + 12)
    file.seek(0)
    if not kept:
        return file
    content = file.read()
    return io.BytesIO(b"".join(content[begin:end] for begin, end in [*kept, (start, None)]))


def _unpacked_size(kind: bytes, length: int, file: IO[bytes]) -> int:
    """Tell how many bytes a chunk takes once unpacked, if these are many; else `length`."""
    # Deflate makes a thousandth of it at best.
    if kind == b"tEXt" or length > MOST_METADATA or 1100 * length < LARGEST_PACKED:
        return length
    packed = file.read(length).partition(b"\0")[2]
    if kind == b"iTXt":
        # Flag and method, language, translated keyword.
        packed = packed[2:].split(b"\0", 2)[-1] if packed[:1] == b"\1" else b""
    try:
        text = zlib.decompressobj().decompress(packed[kind != b"iTXt" :], LARGEST_PACKED + 1)
    except zlib.error:
        return length
    # One more than the chunk where noise was packed, to tell it from one that isn't.
    return max(len(text), length + 1) if len(text) > LARGEST_PACKED else length
