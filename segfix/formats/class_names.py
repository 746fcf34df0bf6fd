"""Codec of text files that name classes."""

from __future__ import annotations

import re
from pathlib import Path

from segfix.errors import FileFormatError
from segfix.files.reading import read_text

MAX_CLASSES = 1024
"""Most classes that are scored; a longer list names something else."""


def read_class_names(path: Path) -> dict[int, str]:
    """Read the names of class ids from a text file.

    One class per line: `id name` (also with ":", "," or ";" or a tab between) on every line, or
    the name alone, ids then counting from 0. Empty lines and lines that start with "#" are passed
    over.

    Args:
        path: The file, UTF-8.

    Returns:
        Names by ascending id.

    Raises:
        FileFormatError: The file is missing, not text, has no class or more than 1024, an id
            twice, or ids on some lines alone.
    """
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path}: not a text file in UTF-8; one class per line.") from error
    except OSError as error:
        raise FileFormatError(f"{path}: can't be read ({error.strerror}).") from error
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise FileFormatError(f"{path}: no class names; one per line, or 'id name'.")
    if len(lines) > MAX_CLASSES:
        raise FileFormatError(
            f"{path}: {len(lines)} lines; expected a class name per line, at most {MAX_CLASSES}."
        )
    numbered = [re.fullmatch(r"(\d{1,9})\s*[\s:,;]\s*(\S.*)", line) for line in lines]
    if not any(numbered):
        return dict(enumerate(lines))
    if not all(numbered):
        line = lines[numbered.index(None)]
        raise FileFormatError(
            f"{path}: {line!r} has no id, but other lines have; write ids on every line or on none."
        )
    names: dict[int, str] = {}
    for match in numbered:
        assert match is not None
        number, name = int(match[1]), match[2]
        if number in names:
            raise FileFormatError(f"{path}: id {number} is there twice; one line per class.")
        names[number] = name
    return dict(sorted(names.items()))
