"""Folders of files, and which file of one belongs to which of another."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from segfix.errors import FileFormatError, PairingError
from segfix.files.foreign import name_foreign
from segfix.files.reading import check_regular, read_text

KNOWN_SUFFIXES = (
    "_leftImg8bit",
    *(
        f"_gt{quality}_{kind}"
        for quality in ("Fine", "Coarse")
        for kind in (
            *("labelTrainIds", "labelIds", "instanceTrainIds", "instanceIds"),
            *("panoptic", "color"),
        )
    ),
    "_labelTrainIds",
    "_labelIds",
    "_instanceIds",
    "_pixelmaps",
    "_panoptic",
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

KNOWN_PARTS = re.compile(r"(?<![^/])COCO_(?:train|val|test)\d{4}_|_(?:road|lane)(?=_\d{6}$)")
"""What COCO 2014 and KITTI's roads add elsewhere in a stem."""

MAP_SEPARATORS = ("\t", ",", " ")


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


@dataclass(frozen=True, slots=True)
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
    one_per_stem: bool = True,
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
    for folder, below, names, fault in _walk(source, recursive, leave_out):
        if fault:
            entries.append(Entry(folder, below.rstrip("/"), fault))
        by_stem: dict[str, list[str]] = {}
        for name in names:
            stem, suffix = os.path.splitext(name)  # noqa: PTH122 - of a million names
            if suffix.lower() in suffixes:
                by_stem.setdefault(stem, []).append(name)
        for stem, same in by_stem.items():
            if len(same) > 1:
                same.sort(key=lambda name: suffixes.index(Path(name).suffix.lower()))
            for name in same:
                problem = None
                if one_per_stem and name != same[0]:
                    problem = f"{folder / name}: same stem as {same[0]}; rename one of them."
                entries.append(Entry(folder / name, below + stem, problem))
    if not entries:
        children = [child for child in source.iterdir() if not child.name.startswith(".")]
        hints = []
        if not recursive and any(child.is_dir() for child in children):
            hints.append("folders within are read with --recursive")
        others = Counter(child.suffix.lower() for child in children if child.is_file())
        for suffix, count in others.most_common(1):
            # Texts may be anything.
            foreign = None if suffix == ".txt" else name_foreign(Path(f"a{suffix}"))
            words = f", {foreign[0]}: {foreign[1]}" if foreign else ""
            hints.append(f"it holds {count} {suffix}{words}")
        hint = f" ({'; '.join(hints)})" if hints else ""
        raise PairingError(f"{source}: no {what} here ({', '.join(suffixes)}){hint}.")
    return entries


def _walk(
    source: Path, recursive: bool, leave_out: Sequence[Path]
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
                        elif recursive and child.is_dir():
                            folders.append(child.name)
        except OSError as error:
            fault = f"{folder}: can't be listed ({error.strerror or error})."
            if folder == source:
                raise PairingError(fault) from error
            yield folder, below, [], fault
            continue
        yield folder, below, sorted(names), None
        for name in sorted(folders, reverse=True):
            if (real := os.path.realpath(folder / name)) not in seen:
                seen.add(real)
                waiting.append((folder / name, f"{below}{name}/"))


def pair_entries(
    entries: Sequence[Entry],
    partners: Sequence[Entry],
    *,
    suffixes: Sequence[str] = (),
    name_map: Mapping[str, Sequence[str]] | None = None,
    one_to_one: bool = False,
) -> list[Pair]:
    """Find each entry's partner.

    In turn by `name_map`, by equal stems, by stems equal without known suffixes, and, of files in
    folders within, by their names alone where they occur once on either side.

    Args:
        entries: Files of one folder.
        partners: Files of the other folder.
        suffixes: Stem endings to pass over besides `KNOWN_SUFFIXES`. Where several partners fit,
            those with such an ending are meant.
        name_map: Stems of partners by stem, see `read_name_map`.
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
    partners = meant_entries(partners, suffixes)
    by_stem = {entry.stem: entry for entry in reversed(partners)}
    by_core: dict[str, list[Entry]] = {}
    by_name: dict[str, list[Entry]] = {}
    for entry in by_stem.values():
        core = _core(entry.stem, suffixes)
        by_core.setdefault(core, []).append(entry)
        by_name.setdefault(_name(core), []).append(entry)
    cores = [_core(entry.stem, suffixes) for entry in entries]
    names = Counter(map(_name, cores))
    pairs, owners = [], dict[Path, Entry]()
    for entry, core in zip(entries, cores, strict=True):
        name = _name(core)
        mapped = (name_map or {}).get(entry.stem)
        if mapped is not None:
            # Said to belong elsewhere, it has no other partner, of whatever name.
            fitting = [by_stem[stem] for stem in mapped if stem in by_stem]
        elif entry.stem in by_stem:
            fitting = [by_stem[entry.stem]]
        else:
            fitting = by_core.get(core, [])
            if not fitting and names[name] == 1:
                fitting = by_name.get(name, [])
        if len(fitting) > 1:
            problem = (
                f"{entry.path}: {fitting[0].path} and {fitting[1].path} both fit; --suffix with "
                "the ending of one kind takes that."
            )
            pairs.append(Pair(replace(entry, problem=problem), None))
            continue
        if not fitting and mapped:
            problem = f"{entry.path}: belongs to {mapped[0]!r} by --map, which isn't there."
            pairs.append(Pair(replace(entry, problem=entry.problem or problem), None))
            continue
        partner = fitting[0] if fitting else None
        if partner is not None and one_to_one:
            owner = owners.setdefault(partner.path, entry)
            if owner is not entry:
                raise PairingError(
                    f"{owner.path} and {entry.path} both belong to {partner.path}; --suffix with "
                    "the ending of one kind takes that."
                )
        pairs.append(Pair(entry, partner))
    _check_paired(pairs, partners, name_map or {})
    return pairs


def _check_paired(
    pairs: Sequence[Pair], partners: Sequence[Entry], name_map: Mapping[str, Sequence[str]]
) -> None:
    """Raise `PairingError` if `name_map` is of other files, or nothing is paired."""
    entries = [pair.entry for pair in pairs]
    if name_map and not any(entry.stem in name_map for entry in (*entries, *partners)):
        raise PairingError(
            f"--map names none of the files: neither {_sample(entries)} nor {_sample(partners)}."
        )
    if not any(pair.partner or pair.entry.problem for pair in pairs):
        raise PairingError(
            "no file has a partner: "
            f"{_sample(entries)} on one side, {_sample(partners)} on the other; names must be "
            "equal up to a known suffix (--suffix adds one, --map pairs any names)."
        )


def meant_entries(entries: Sequence[Entry], suffixes: Sequence[str]) -> list[Entry]:
    """The entries without those of images of which another one has an ending of `suffixes`.

    Example:
        >>> several = [Entry(Path(stem), stem) for stem in ("a_labelIds", "a_panoptic", "b_mask")]
        >>> [entry.stem for entry in meant_entries(several, ["_labelIds"])]
        ['a_labelIds', 'b_mask']
    """
    endings = tuple(suffix for suffix in suffixes if suffix)
    if not endings:
        return list(entries)
    meant = {_core(entry.stem, suffixes) for entry in entries if entry.stem.endswith(endings)}
    return [
        entry
        for entry in entries
        if _core(entry.stem, suffixes) not in meant or entry.stem.endswith(endings)
    ]


def read_name_map(path: Path) -> dict[str, list[str]]:
    """Read a text file of two names per line, of files that belong together.

    Args:
        path: Columns are separated by a tab, a comma or blanks. Names are paths below the folders,
            with or without their ending; the order of the two doesn't matter, and empty lines and
            those that begin with # are passed over.

    Returns:
        Stems by stem, both ways.

    Raises:
        FileFormatError: The file can't be read, or a line isn't two names.
    """
    try:
        lines = read_text(path).splitlines()
    except FileNotFoundError as error:
        raise FileFormatError(f"{path}: no such file.") from error
    except ValueError as error:
        raise FileFormatError(f"{path}: not a text file of two names per line.") from error
    # Of dicts, since a name may belong to very many.
    found: dict[str, dict[str, None]] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        separator = next((mark for mark in MAP_SEPARATORS if mark in text), " ")
        row = text.split(separator)
        if '"' in text:
            try:
                (row,) = csv.reader([text], delimiter=separator, skipinitialspace=True)
            except (csv.Error, ValueError):
                row = []
        names = [name.strip() for name in row if name.strip()]
        if len(names) != 2:
            raise FileFormatError(
                f"{path}: line {number} is {line[:200]!r}; expected two names, separated by a tab, "
                "a comma or blanks."
            )
        first, second = map(stem_of_name, names)
        for name, other in ((first, second), (second, first)):
            found.setdefault(name, {})[other] = None
    return {name: list(others) for name, others in found.items()}


def stem_of_name(name: str) -> str:
    """A file's path without its ending, whatever system wrote it."""
    path = PurePosixPath(name.replace("\\", "/"))
    # Only what is a file name ending: names may hold dots of their own.
    known = re.fullmatch(r"\.[A-Za-z]{2,4}\d?", path.suffix)
    return (path.with_suffix("") if known else path).as_posix()


def _core(stem: str, suffixes: Sequence[str]) -> str:
    known = KNOWN_SUFFIXES if stem.endswith(KNOWN_SUFFIXES) else ()
    for suffix in (*suffixes, *known):
        if suffix and stem.endswith(suffix) and not stem.endswith("/" + suffix):
            stem = stem[: -len(suffix)]
            break
    return KNOWN_PARTS.sub("", stem)


def _name(core: str) -> str:
    return core.rpartition("/")[2]


def _sample(entries: Sequence[Entry]) -> str:
    return ", ".join(f"{entry.path}" for entry in entries[:2])
