"""JSON documents of the kind COCO's are, read, checked and written."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segfix.errors import FileFormatError, PairingError
from segfix.files.provenance import recorded_path
from segfix.files.reading import check_regular, read_text


def read_json(path: Path, *, peek: bool = False) -> Any:
    """Read a JSON document; with `peek` only [] or {}, by its first character.

    Raises:
        PairingError: The file is missing.
        FileFormatError: It can't be read, or isn't whole.
    """
    try:
        if not peek:
            return json.loads(read_text(path))
        check_regular(path)
        with path.open(encoding="utf-8-sig") as file:
            start = file.read(1000).lstrip()[:1]
    except FileNotFoundError as error:
        raise PairingError(f"{path}: no such file.") from error
    except OSError as error:
        raise FileFormatError(f"{path}: can't be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        raise FileFormatError(
            f"{path}: not a whole JSON file ({error}); write it again."
        ) from error
    if start not in ("[", "{"):
        raise FileFormatError(
            f"{path}: neither a JSON list (COCO results) nor an object (COCO panoptic)."
        )
    return [] if start == "[" else {}


def write_json(path: Path, document: Any, *, record: str) -> None:
    """Write a JSON document, atomically, with its record beside it.

    Raises:
        FileFormatError: It can't be written.
    """
    try:
        text = json.dumps(document)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: can't be written as JSON ({error}).") from error
    with recorded_path(path, record) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_table(path: Path, table: Any, keys: Sequence[str]) -> None:
    """Refuse a document that is no object with these lists."""
    for key in keys:
        if not isinstance(table, dict) or not isinstance(table.get(key), list):
            raise FileFormatError(
                f"{path}: no list {key!r}; expected a JSON object with {', '.join(keys)} "
                "(instances: results as a list, and their annotations; panoptic: both as objects)."
            )


def check_items(path: Path, where: str, items: Any, keys: Sequence[str]) -> None:
    """Refuse items that lack one of these keys, or whose id or file name is of another type."""
    if not isinstance(items, list):
        raise FileFormatError(f"{path}: {where} is no list.")
    for number, item in enumerate(items):
        for key in keys:
            if not isinstance(item, dict) or item.get(key) is None:
                raise FileFormatError(
                    f"{path}: {where}[{number}] has no {key!r}; expected {', '.join(keys)}."
                )
            if key.endswith("id") and not isinstance(item[key], int | str):
                raise FileFormatError(
                    f"{path}: {where}[{number}] has {key!r} {item[key]!r}; expected a number or "
                    "a text."
                )
            if key == "file_name" and not isinstance(item[key], str):
                raise FileFormatError(
                    f"{path}: {where}[{number}] has {key!r} {item[key]!r}; expected a text."
                )


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number, or not given."""
    # Whole numbers in a file may have thousands of digits.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (number and abs(value) <= sys.float_info.max)
