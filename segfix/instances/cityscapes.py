"""Cityscapes' instance predictions: lists `*_pred.txt` of masks with class and score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segfix.errors import FileFormatError, PairingError
from segfix.files import Entry
from segfix.files.reading import path_within, read_text

PREDICTION_LIST = "_pred.txt"
INSTANCE_MAP = "_instanceIds.png"


def holds_lists(preds: Path) -> bool:
    """Tell whether predictions are a list `*_pred.txt`, or a folder with some in or right below."""
    if not preds.is_dir():
        return preds.name.endswith(PREDICTION_LIST)
    patterns = (f"*{PREDICTION_LIST}", f"*/*{PREDICTION_LIST}")
    return any(True for pattern in patterns for _ in preds.glob(pattern))


def sort_by_name(entries: Sequence[Entry], folder: Path) -> dict[str, Path]:
    """Sort files by the name of their image, wherever they lie.

    Raises:
        PairingError: Two are of one image, or there is none.
    """
    found: dict[str, Path] = {}
    for entry in entries:
        ending = PREDICTION_LIST if entry.path.suffix == ".txt" else INSTANCE_MAP
        if not entry.path.name.endswith(ending):
            continue
        name = entry.path.name.removesuffix(ending)
        for suffix in ("_leftImg8bit", "_gtFine", "_gtCoarse"):
            name = name.removesuffix(suffix)
        other = found.setdefault(name, entry.path)
        if other != entry.path:
            raise PairingError(f"{other} and {entry.path} are of one image; keep one of them.")
    if not found:
        raise PairingError(
            f"{folder}: no instances of Cityscapes here; expected *{PREDICTION_LIST} and masks in "
            f"PREDS, *_gtFine{INSTANCE_MAP} in LABELS."
        )
    return found


def read_list(path: Path, root: Path) -> dict[str, dict[str, Any]]:
    """Read class and score by mask, in the form of cityscapesScripts.

    Args:
        path: The list.
        root: Folder that the masks must lie in.

    Raises:
        FileFormatError: The list is missing, a line is broken, or a mask stands there twice.
    """
    try:
        lines = read_text(path).splitlines()
    except FileNotFoundError as error:
        raise FileFormatError(f"{path}: no such file.") from error
    except ValueError as error:
        raise FileFormatError(
            f"{path}: not a text file; expected lines 'mask.png 26 0.9'."
        ) from error
    entries: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        parts = line.rsplit(maxsplit=2)
        try:
            name, identity, score = parts[0], int(float(parts[1])), float(parts[2])
        except (IndexError, ValueError, OverflowError):
            name, identity, score = "", 0, math.nan
        if not math.isfinite(score):
            raise FileFormatError(
                f"{path}: line {number} is {line!r}; expected mask, class id and score, as in "
                "'mask.png 26 0.9'."
            )
        where = f"{path}: line {number}"
        mask = str(path_within(path.parent, name, root, where, inside=(root, path.parent)))
        if mask in entries:
            raise FileFormatError(
                f"{path}: line {number}: {name} a second time; the evaluator knows one class and "
                "score per mask."
            )
        entries[mask] = {"labelID": identity, "conf": score}
    return entries
