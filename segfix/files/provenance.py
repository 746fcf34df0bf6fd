"""What made a result: a JSON record inside a PNG file, or in a hidden file beside any other."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from segfix.errors import FileFormatError
from segfix.files.atomic import atomic_path
from segfix.files.reading import DECODE_ERRORS, check_regular, read_text

RECORD_KEY = "segfix"
"""Keyword of the PNG text chunk that holds our record."""

CONVERTED_KEY = "converted_from"
"""Key in the record of a converted offset map: digest of the file it was made from."""

_OTHERS = ("refined label map", "refined mask", "refined panoptic map", "predicted label map")
NOT_TAKEN = {
    "photograph": ("offset map", "shown picture", *_OTHERS),
    "label map": ("offset map", "shown picture"),
    "offset map": ("shown picture", *_OTHERS),
}
"""By what a command works on: kinds of our own files that it leaves; see `own_kind`."""

LONGEST_RECORD = 1 << 20
"""Bytes of a text chunk that is looked into."""

LONGEST_NAME = 255
"""Of a file, bytes, on the usual file systems."""


def record_path(path: Path) -> Path:
    """The hidden file with the record of a result that is no PNG file."""
    name = f".{path.name}.segfix"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f".{hashlib.blake2b(os.fsencode(path.name), digest_size=16).hexdigest()}.segfix"
    return path.with_name(name)


@contextmanager
def recorded_path(path: Path, record: str | None) -> Iterator[Path]:
    """`atomic_path` for a result that is no PNG file, with its record beside it.

    The record holds the result's digest: where one of the two is of another run, it shows.

    Args:
        path: The file to write.
        record: Text for `read_record`; None: none, and that of an earlier file is removed.

    Yields:
        The path to write to.

    Raises:
        FileFormatError: A file can't be written; the message names it.
    """
    beside = record_path(path)
    with atomic_path(path) as temporary:
        yield temporary
        if record is None:
            beside.unlink(missing_ok=True)
        else:
            content = json.dumps(
                {
                    "record": record,
                    "digest": content_digest(temporary),
                    "size": temporary.stat().st_size,
                }
            )
            with atomic_path(beside) as written:
                written.write_text(content, encoding="utf-8")


def read_record(path: Path) -> str | None:
    """The record of a file that we wrote, even one cut short.

    Returns:
        The text; None where there is no file or no record, or it is another file's: of what isn't
        PNG, somebody has changed it.
    """
    text = None
    if path.suffix.lower() == ".png":
        try:
            with Image.open(path, formats=("PNG",)) as picture:
                text = picture.info.get(RECORD_KEY)
        except DECODE_ERRORS:
            return None
    elif path.exists():
        beside = _beside(path)
        # Without a record, the file isn't read.
        if beside and (_is_shorter(path, beside) or beside.get("digest") == content_digest(path)):
            text = beside.get("record")
    return text if isinstance(text, str) else None


def own_kind(path: Path) -> str | None:
    """Tell which of our files a file is by its record, its pixels unread.

    Returns:
        "offset map", "refined label map" and the like; None for any file that isn't ours.
    """
    if path.suffix.lower() == ".png":
        text = _png_record(path)
    else:
        found = _beside(path).get("record") if record_path(path).exists() else None
        text = found if isinstance(found, str) else None
    return kind_of_record(text)


def kind_of_record(text: str | None) -> str | None:
    """Tell what a record says that its file is; None where that is no record of ours."""
    try:
        record = json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    kind = record.get("kind", "offset map" if CONVERTED_KEY in record else None)
    return {"panels": "shown picture"}.get(kind, kind) if isinstance(kind, str) else None


def _png_record(path: Path) -> str | None:
    """Our text in a PNG file, which stands before its pixels."""
    start = RECORD_KEY.encode() + b"\0"
    try:
        with path.open("rb") as file:
            if file.read(8) != b"\x89PNG\r\n\x1a\n":
                return None
            while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
                length = int.from_bytes(head[:4])
                if head[4:] in (b"tEXt", b"iTXt") and length <= LONGEST_RECORD:
                    content = file.read(length)
                    if content.startswith(start):
                        # What isn't Latin-1 is in an iTXt chunk: flags and languages come first.
                        spare = 4 if head[4:] == b"iTXt" else 0
                        return content[len(start) + spare :].decode("utf-8", "replace")
                    length = 0
                file.seek(length + 4, 1)
    except OSError:
        return None
    return None


def is_whole(path: Path) -> bool:
    """Whether a PNG file goes to its end chunk, or any other is as long as its record says."""
    if path.suffix.lower() != ".png":
        return not _is_shorter(path, _beside(path))
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - 12, 0))
        return file.read()[4:8] == b"IEND"


def content_digest(path: Path) -> str:
    """Short digest of a file's bytes, to notice when it has changed.

    Raises:
        FileFormatError: It can't be read, or is no file.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise FileFormatError(f"{path}: can't be read ({error.strerror}).") from error


def _is_shorter(path: Path, beside: dict[str, object]) -> bool:
    size = beside.get("size")
    return isinstance(size, int) and path.stat().st_size < size


def _beside(path: Path) -> dict[str, object]:
    try:
        found = json.loads(read_text(record_path(path)))
    except (FileFormatError, OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
