"""What to type instead of a command with an argument too many."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

PHOTOGRAPHS = (".jpg", ".jpeg")
"""Endings that label maps never have."""


def advise(command: str, given: Sequence[str]) -> str:
    """Word what may have been meant, as the end of a sentence; empty where nobody knows.

    Args:
        command: Its name.
        given: All its arguments, of which the last are too many.
    """
    paths = [Path(name) for name in given]
    typed = [shlex.quote(name) for name in given]
    last = typed[-1]
    if command in ("evaluate", "report") and len(given) == 3:
        option = "--images" if command == "report" and _holds_photographs(paths[2]) else "--against"
        return f"; to compare or to show: segfix {command} {typed[0]} {typed[1]} {option} {last}"
    if command == "fix":
        return f"; results go where -o says: segfix fix {' '.join(typed[:2])} -o {last}"
    if command not in ("refine", "predict-offsets", "convert", "targets", "segment", "show"):
        return ""
    if len(given) > 2 and all(path.is_file() for path in paths):
        folder = shlex.quote(str(paths[0].parent))
        return f"; of many files give their folder: segfix {command} {folder}"
    if len(given) != 2:
        return ""
    if command in ("convert", "targets", "segment") or not paths[1].exists():
        return f"; results go where -o says: segfix {command} {typed[0]} -o {last}"
    if command == "show":
        return f"; predictions are drawn by: segfix show {typed[0]} --preds {last}"
    # The photographs come first with predict-offsets, and second, or nowhere, with refine.
    first = command == "predict-offsets" or paths[0].is_file()
    if any(_holds_photographs(path) for path in paths):
        first = _holds_photographs(paths[0])
    elif all(path.is_file() for path in paths):
        first = not _looks_like_photograph(paths[1])
    images, preds = typed if first else typed[::-1]
    if all(path.is_file() for path in paths):
        return f"; a photograph and its mask: segfix fix {images} {preds}"
    if command == "refine" and not first and not _holds_photographs(paths[1]):
        return f"; a folder of offset maps: segfix refine {typed[0]} --offsets {last}"
    return f"; first: segfix predict-offsets {images}; then: segfix refine {preds}"


def _looks_like_photograph(path: Path) -> bool:
    """Tell whether a file can't be a label map since it is a photograph."""
    from segfix.errors import SegfixError
    from segfix.formats import read_label_map
    from segfix.formats.soft_masks import PHOTOGRAPH

    try:
        read_label_map(path)
    except SegfixError as error:
        return error.found == PHOTOGRAPH
    return False


def _holds_photographs(path: Path) -> bool:
    """Tell whether a file, or one in a folder, is a photograph and no label map."""
    found = path.iterdir() if path.is_dir() else [path]
    return any(one.suffix.lower() in PHOTOGRAPHS for one in found)
