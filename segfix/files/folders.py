"""Folders of files: which of them are worked on, and how many are passed over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from segfix.errors import PairingError
from segfix.files.foreign import ENDINGS
from segfix.files.reading import check_regular

DANGLING = "dangling link"

HINTS = {
    **{name: f"{kind}: {advice}" for name, (kind, advice) in ENDINGS.items()},
    # These may be anything.
    **dict.fromkeys((".txt", ".json", ".xml", ".geojson", ".gpkg"), ""),
    **dict.fromkeys((".heic", ".heif", ".hif"), "pip install 'segfix-refine[heif]' reads them"),
    **dict.fromkeys((".jpg", ".jpeg", ".jfif", ".jp2", ".avif"), "lossy: export label maps as PNG"),
    **dict.fromkeys((".mp4", ".mov", ".mkv", ".avi", ".webm"), "videos go to predict-offsets"),
}
"""What helps to read files of an ending that are passed over."""


@dataclass(frozen=True, slots=True)
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

    @property
    def entry(self) -> Entry:
        """Itself: jobs are entries, or have one."""
        return self


def list_entries(
    source: Path,
    suffixes: Sequence[str],
    *,
    what: str,
    recursive: bool = False,
    leave_out: Sequence[Path] = (),
    one_per_stem: bool = True,
    passed_over: Counter[str] | None = None,
) -> list[Entry]:
    """List the files of a folder, or the one file given, sorted by name.

    Hidden files and files of other kinds are passed over. Files that differ in their ending alone
    come in the order of `suffixes`.

    Args:
        source: A folder or a file.
        suffixes: File name endings to take, in lower case.
        what: What the files are ("images"), for messages.
        recursive: Whether to go into folders within, links to folders included.
        leave_out: Folders within that are not entered: where results go.
        one_per_stem: Whether the others of these carry a problem, since their results would have
            the name of the first one's.
        passed_over: Receives the numbers of files of other kinds by ending, and of dangling links.

    Raises:
        PairingError: `source` doesn't exist, can't be listed or holds no such file. (A folder
            within that can't be listed is an entry with a problem.)
        FileFormatError: `source` is a pipe or a device.
    """
    if source.is_file():
        return [Entry(source, source.stem, chosen=True)]
    if not source.is_dir():
        check_regular(source)
        raise PairingError(f"{source}: no such file or folder.")
    entries: list[Entry] = []
    others = Counter[str]() if passed_over is None else passed_over
    for folder, below, names, fault in _walk(source, recursive, leave_out, others):
        if fault:
            entries.append(Entry(folder, below.rstrip("/"), fault))
        by_stem: dict[str, list[str]] = {}
        for name in names:
            stem, suffix = os.path.splitext(name)  # noqa: PTH122 - of a million names
            if suffix.lower() in suffixes:
                by_stem.setdefault(stem, []).append(name)
            else:
                others[suffix.lower() or "without ending"] += 1
        for stem, same in by_stem.items():
            if len(same) > 1:
                same.sort(key=lambda name: suffixes.index(Path(name).suffix.lower()))
            for name in same:
                problem = None
                if one_per_stem and name != same[0]:
                    problem = f"{folder / name}: same stem as {same[0]}; rename one of them."
                entries.append(Entry(folder / name, below + stem, problem))
    if not entries:
        hints = []
        if not recursive and any(
            child.is_dir() for child in source.iterdir() if not child.name.startswith(".")
        ):
            hints.append("folders within are read with --recursive")
        if others:
            hints.append(f"it holds {describe_passed(others)}")
        told = "; ".join([f"{source}: no {what} here ({', '.join(suffixes)})", *hints])
        raise PairingError(f"{told}.")
    return entries


def describe_passed(counts: Mapping[str, int]) -> str:
    """Word how many files of which kinds are passed over, and what would help to read them.

    Example:
        >>> describe_passed({".txt": 2, ".heic": 3})
        "3 .heic (pip install 'segfix-refine[heif]' reads them), 2 .txt"
    """
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(
        f"{count} {kind}{'s' * (kind[0] != '.' and kind[:4] != 'with' and count > 1)}"
        + (f" ({HINTS[kind]})" if HINTS.get(kind) else "")
        for kind, count in ordered
    )


def _walk(
    source: Path, recursive: bool, leave_out: Sequence[Path], others: Counter[str]
) -> Iterator[tuple[Path, str, list[str], str | None]]:
    """Folders, how they are called below the first one, the names of their files, or a fault."""
    # Links may lead to a folder twice, or round in circles.
    seen = set(map(os.path.realpath, (source, *leave_out)))
    waiting = [(source, "")]
    while waiting:
        folder, below = waiting.pop()
        folders, names = [], []
        try:
            with os.scandir(folder) as found:
                for child in found:
                    if child.name.startswith("."):
                        continue
                    with suppress(OSError):  # a link to itself
                        if child.is_file():
                            names.append(child.name)
                            continue
                        if child.is_dir():
                            folders.append(child.name)
                            continue
                    others[DANGLING if child.is_symlink() else "special file"] += 1
        except OSError as error:
            fault = f"{folder}: can't be listed ({error.strerror or error})."
            if folder == source:
                raise PairingError(fault) from error
            yield folder, below, [], fault
            continue
        yield folder, below, sorted(names), None
        for name in sorted(folders, reverse=True) if recursive else ():
            if (real := os.path.realpath(folder / name)) not in seen:
                seen.add(real)
                waiting.append((folder / name, f"{below}{name}/"))
