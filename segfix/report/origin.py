"""Where the numbers of a page are from: files, weights and settings, named as they can be sent."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from segfix.errors import SegfixError
from segfix.files.provenance import read_record
from segfix.formats.class_names import read_class_names

MOST_READ = 200
"""Files of a set whose records are looked at."""

NAME_FILES = ("classes.txt", "class_names.txt")
"""Lists of class names that data sets have."""

CITYSCAPES = {
    "labelTrainIds": "road sidewalk building wall fence pole traffic_light traffic_sign vegetation "
    "terrain sky person rider car truck bus train motorcycle bicycle",
    "labelIds": "unlabeled ego_vehicle rectification_border out_of_roi static dynamic ground road "
    "sidewalk parking rail_track building wall fence guard_rail bridge tunnel pole polegroup "
    "traffic_light traffic_sign vegetation terrain sky person rider car truck bus caravan trailer "
    "train motorcycle bicycle",
}
"""Names of Cityscapes' ids from 0 on, by the ending of its files."""


def shorten(path: Path | str) -> str:
    """Name a file or folder without the absolute path that it has here.

    Returns:
        The path below the working directory; else the last two names.

    Example:
        >>> shorten("/home/me/camvid/val"), shorten("preds")
        ('…/camvid/val', 'preds')
    """
    path = Path(path)
    if path.is_absolute():
        if not path.is_relative_to(Path.cwd()):
            return "/".join(["…", *path.parts[1:][-2:]])
        path = path.relative_to(Path.cwd())
    return path.as_posix()


def shorten_command(arguments: Sequence[str]) -> str:
    """Write down a command, absolute paths shortened."""
    words = ["segfix"]
    for argument in arguments:
        name, equals, value = argument.rpartition("=")
        local = Path(value).is_absolute()
        words.append(shlex.quote(f"{name}{equals}{shorten(value)}" if local else argument))
    return " ".join(words)


def without_folders(text: str, folders: Iterable[Path | str]) -> str:
    """Take the absolute paths of folders out of a message."""
    for folder in sorted(map(str, folders), key=len, reverse=True):
        if Path(folder).is_absolute():
            text = text.replace(folder, shorten(folder))
    return text.replace(f"{Path.cwd()}{os.sep}", "")


def link_file(path: Path, page: Path) -> str | None:
    """Write the address of a file in a page.

    Returns:
        A relative one; None where it would tell of folders beyond that of the page and the
        working directory.
    """
    path, folder = (Path(os.path.normpath(one.absolute())) for one in (path, page.parent))
    near = all(one.is_relative_to(Path.cwd()) for one in (path, folder))
    if not near and not path.is_relative_to(folder):
        return None
    return quote(os.fsencode(Path(os.path.relpath(path, folder)).as_posix()))


def describe_results(paths: Iterable[Path]) -> str:
    """Tell with which weights and settings the files of a set were made, by their records.

    Returns:
        A text; empty where they aren't ours.
    """
    found = dict.fromkeys(describe_record(read_record(path)) for path in [*paths][:MOST_READ])
    told = [text for text in found if text]
    return "; or ".join(told[:3]) + ("; …" if told[3:] else "")


def describe_record(text: str | None) -> str:
    """Tell weights and settings of a record; nothing where it is none of ours."""
    try:
        record: Any = json.loads(text or "null")
    except (ValueError, RecursionError):
        return ""
    if not isinstance(record, dict):
        return ""
    source, settings = (record.get(key) or {} for key in ("source", "settings"))
    if not isinstance(source, dict) or not isinstance(settings, dict):
        return ""
    told = []
    if "weights" in source:
        told.append(f"{source['weights']} {str(source.get('weights_sha256', ''))[:8]}")
    # Those of instances hold the settings of masks.
    masks = settings.get("masks")
    flat = {**settings, **masks} if isinstance(masks, dict) else settings
    changed = [
        f"{key} {value}"
        for key, value in flat.items()
        if value not in (None, False, 0) and not isinstance(value, dict)
    ]
    if settings:
        told += changed or ["default settings"]
    return ", ".join(told)


def find_class_names(labels: Path, stems: Sequence[str]) -> tuple[dict[int, str], str]:
    """Find the class names that a data set brings along.

    Args:
        labels: Folder of the ground truth.
        stems: Names of its files, without ending.

    Returns:
        Names by id, and where they are from, or why a list is no good; empty where there is none.
    """
    for folder in (labels, labels.parent) if labels.is_dir() else ():
        for name in NAME_FILES:
            if (folder / name).is_file():
                try:
                    return read_class_names(folder / name), name
                except SegfixError as error:
                    return {}, f"not of {without_folders(str(error), [folder])}"
    for ending, names in CITYSCAPES.items():
        if stems and all(stem.endswith(f"_{ending}") for stem in stems):
            words = (word.replace("_", " ") for word in names.split())
            return dict(enumerate(words)), "Cityscapes"
    return {}, ""
