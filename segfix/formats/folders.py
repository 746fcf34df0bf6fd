"""Folders of files, and which file of one belongs to which of another."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
        chosen: Whether the user named this very file, not its folder.
    """

    path: Path
    stem: str
    problem: str | None = None
    chosen: bool = False


@dataclass(frozen=True)
class Pair:
    """A file and its partner in another folder, None where there is none."""

    entry: Entry
    partner: Entry | None


def list_entries(
    source: Path,
    suffixes: Sequence[str],
    *,
    what: str,
    recursive: bool = False,
    leave_out: Sequence[Path] = (),
) -> list[Entry]:
    """List the files of a folder, or the one file given, sorted by name.

    Hidden files and files of other kinds are passed over. Of files that differ in their ending
    alone, the first is kept and the others carry a problem: their results would overwrite it.

    Args:
        source: A folder or a file.
        suffixes: File name endings to take, in lower case.
        what: What the files are ("images"), for messages.
        recursive: Whether to go into folders within, links to folders included.
        leave_out: Folders within that are not entered: where results go.

    Raises:
        PairingError: `source` doesn't exist or holds no such file.
    """
    if source.is_file():
        return [Entry(source, source.stem, chosen=True)]
    if not source.is_dir():
        raise PairingError(f"{source}: no such file or folder.")
    first: dict[str, Path] = {}
    entries = []
    for path in _walk(source, recursive, {folder.resolve() for folder in leave_out}):
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


def _walk(folder: Path, recursive: bool, leave_out: set[Path]) -> Iterator[Path]:
    seen = {folder.resolve()} | leave_out
    for parent, folders, names in os.walk(folder, followlinks=True):
        within = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        folders.clear()
        for name in within:
            # Links may lead to a folder twice, or round in circles.
            real = Path(parent, name).resolve()
            if real not in seen:
                seen.add(real)
                folders.append(name)
        for name in sorted(names):
            path = Path(parent, name)
            if path.is_file():
                yield path


def pair_entries(
    entries: Sequence[Entry],
    partners: Sequence[Entry],
    *,
    suffixes: Sequence[str] = (),
    one_to_one: bool = False,
) -> list[Pair]:
    """Find each entry's partner: by equal stems, else by stems equal without known suffixes.

    Args:
        entries: Files of one folder.
        partners: Files of the other folder.
        suffixes: Stem endings to pass over besides `KNOWN_SUFFIXES`.
        one_to_one: Whether two entries may not share a partner.

    Returns:
        One pair per entry, in their order; an entry that several partners fit gets none, and a
        problem that says so.

    Raises:
        PairingError: Nothing is paired; the message shows two names from each side. Or two
            entries share a partner though `one_to_one`.

    Example:
        >>> left = [Entry(Path("a_leftImg8bit.png"), "a_leftImg8bit")]
        >>> right = [Entry(Path("a_pred.png"), "a_pred")]
        >>> pair_entries(left, right)[0].partner.stem
        'a_pred'
    """
    # Two files that the user named are a pair, whatever their names.
    if len(entries) == len(partners) == 1 and entries[0].chosen and partners[0].chosen:
        return [Pair(entries[0], partners[0])]
    by_stem = {entry.stem: entry for entry in reversed(partners)}
    by_core: dict[str, list[Entry]] = {}
    for entry in by_stem.values():
        by_core.setdefault(_core(entry.stem, suffixes), []).append(entry)
    pairs, owners = [], dict[Path, Entry]()
    for entry in entries:
        fitting = by_core.get(_core(entry.stem, suffixes), [])
        partner = by_stem.get(entry.stem) or next(iter(fitting), None)
        if entry.stem not in by_stem and len(fitting) > 1:
            problem = (
                f"{entry.path}: {fitting[0].path} and {fitting[1].path} both fit; keep one kind "
                "of file in the folder."
            )
            pairs.append(Pair(replace(entry, problem=problem), None))
            continue
        if partner is not None and one_to_one:
            owner = owners.setdefault(partner.path, entry)
            if owner is not entry:
                raise PairingError(
                    f"{owner.path} and {entry.path} both belong to {partner.path}; keep one kind "
                    "of file in the folder."
                )
        pairs.append(Pair(entry, partner))
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
