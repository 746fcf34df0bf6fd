"""Folders of files, and which file of one belongs to which of another."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from segfix.errors import PairingError

KNOWN_SUFFIXES = (
    "_leftImg8bit",
    "_gtFine_labelTrainIds",
    "_gtFine_labelIds",
    "_gtFine_instanceIds",
    "_gtFine_color",
    "_gtCoarse_labelIds",
    "_prediction",
    "_offsets",
    "_labels",
    "_label",
    "_pred",
    "_mask",
    "_seg",
    "_L",
)
"""Stem endings that data sets and tools add to one picture's several files."""


@dataclass(frozen=True)
class Entry:
    """A file of a folder.

    Attributes:
        path: The file.
        stem: Its path below the folder, without the file name ending, with "/" on every system.
        problem: Why it can't be worked on, if so.
    """

    path: Path
    stem: str
    problem: str | None = None


@dataclass(frozen=True)
class Pair:
    """A file and its partner in another folder, None where there is none."""

    entry: Entry
    partner: Entry | None


def list_entries(
    source: Path, suffixes: Sequence[str], *, what: str, recursive: bool = False
) -> list[Entry]:
    """List the files of a folder, or the one file given, sorted by name.

    Hidden files and files of other kinds are passed over. Of files that differ in their ending
    alone, the first is kept and the others carry a problem: their results would overwrite it.

    Args:
        source: A folder or a file.
        suffixes: File name endings to take, in lower case.
        what: What the files are ("images"), for messages.
        recursive: Whether to go into folders within.

    Raises:
        PairingError: `source` doesn't exist or holds no such file.
    """
    if source.is_file():
        return [Entry(source, source.stem)]
    if not source.is_dir():
        raise PairingError(f"{source}: no such file or folder.")
    first: dict[str, Path] = {}
    entries = []
    for path in _walk(source, recursive):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        stem = path.relative_to(source).with_suffix("").as_posix()
        problem = None
        if stem in first:
            problem = f"{path}: same stem as {first[stem].name}; rename one of them."
        first.setdefault(stem, path)
        entries.append(Entry(path, stem, problem))
    if not entries:
        below = any(child.is_dir() for child in source.iterdir())
        hint = " (folders within are read with --recursive)" if below and not recursive else ""
        raise PairingError(f"{source}: no {what} here ({', '.join(suffixes)}){hint}.")
    return entries


def _walk(folder: Path, recursive: bool) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".")) if recursive else []
        for name in sorted(names):
            path = Path(parent, name)
            if path.is_file():
                yield path


def pair_entries(
    entries: Sequence[Entry], partners: Sequence[Entry], *, suffixes: Sequence[str] = ()
) -> list[Pair]:
    """Find each entry's partner: by equal stems, else by stems equal without known suffixes.

    Args:
        entries: Files of one folder.
        partners: Files of the other folder.
        suffixes: Stem endings to pass over besides `KNOWN_SUFFIXES`.

    Returns:
        One pair per entry, in their order.

    Raises:
        PairingError: Nothing is paired; the message shows two names from each side.

    Example:
        >>> left = [Entry(Path("a_leftImg8bit.png"), "a_leftImg8bit")]
        >>> right = [Entry(Path("a_pred.png"), "a_pred")]
        >>> pair_entries(left, right)[0].partner.stem
        'a_pred'
    """
    # A single file on each side is a pair, whatever the names: the user has chosen both.
    if len(entries) == len(partners) == 1:
        return [Pair(entries[0], partners[0])]
    by_stem = {entry.stem: entry for entry in reversed(partners)}
    by_core: dict[str, Entry | None] = {}
    for entry in by_stem.values():
        core = _core(entry.stem, suffixes)
        by_core[core] = None if core in by_core else entry
    pairs = [
        Pair(entry, by_stem.get(entry.stem) or by_core.get(_core(entry.stem, suffixes)))
        for entry in entries
    ]
    if not any(pair.partner for pair in pairs):
        raise PairingError(
            "no file has a partner: "
            f"{_sample(entries)} on one side, {_sample(partners)} on the other; names must be "
            "equal up to a known suffix (--suffix adds one)."
        )
    return pairs


def _core(stem: str, suffixes: Sequence[str]) -> str:
    for suffix in (*suffixes, *KNOWN_SUFFIXES):
        if suffix and stem.endswith(suffix) and not stem.endswith("/" + suffix):
            return stem[: -len(suffix)]
    return stem


def _sample(entries: Sequence[Entry]) -> str:
    return ", ".join(str(entry.path) for entry in entries[:2])
