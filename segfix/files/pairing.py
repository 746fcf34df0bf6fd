"""Which file of one folder belongs to which of another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from segfix.errors import PairingError
from segfix.files.folders import Entry
from segfix.files.naming import (
    GROUND_TRUTH_SUFFIXES,
    MappedNames,
    core_of,
    link_names,
    name_of,
    propose_suffixes,
)
from segfix.files.provenance import own_kind


@dataclass(frozen=True, slots=True)
class Pair:
    """A file and its partner in another folder, None where there is none.

    Attributes:
        entry: The file.
        partner: What it belongs to.
        linked: Whether this is by words in their names or by their folders, see `link_names`.
    """

    entry: Entry
    partner: Entry | None
    linked: bool = False


@dataclass(frozen=True, slots=True)
class Partners:
    """Files that others are to find, in order for many calls of `pair_entries`.

    Attributes:
        entries: The files, see `meant_entries`.
        by_stem: The first of each stem.
        by_core: Those of each stem without known suffixes.
        by_name: The same without folders.
    """

    entries: Sequence[Entry]
    by_stem: Mapping[str, Entry]
    by_core: Mapping[str, list[Entry]]
    by_name: Mapping[str, list[Entry]]


def index_partners(entries: Sequence[Entry], suffixes: Sequence[str] = ()) -> Partners:
    """Put files in order by their names, see `Partners` and `pair_entries`."""
    partners = meant_entries(entries, suffixes)
    by_stem = {entry.stem: entry for entry in reversed(partners)}
    by_core: dict[str, list[Entry]] = {}
    by_name: dict[str, list[Entry]] = {}
    for entry in by_stem.values():
        core = core_of(entry.stem, suffixes)
        by_core.setdefault(core, []).append(entry)
        by_name.setdefault(name_of(core), []).append(entry)
    return Partners(partners, by_stem, by_core, by_name)


def pair_entries(
    entries: Sequence[Entry],
    partners: Sequence[Entry] | Partners,
    *,
    suffixes: Sequence[str] = (),
    name_map: Mapping[str, Sequence[str]] | None = None,
    one_to_one: bool = False,
    leave: Sequence[str] = (),
    link: bool = True,
    itself: bool = False,
) -> list[Pair]:
    """Find each entry's partner.

    In turn by `name_map`, by equal stems, by stems equal without known suffixes, and, of files in
    folders within, by their names alone where they occur once on either side. If that finds none
    for any entry, by what links the names of all, see `link_names`.

    Args:
        entries: Files of one folder.
        partners: Files of the other folder, or what `index_partners` makes of them with the same
            `suffixes`.
        suffixes: Stem endings to pass over besides `KNOWN_SUFFIXES`. Where several partners fit,
            those with such an ending are meant.
        name_map: Stems of partners by stem, see `read_name_map`.
        one_to_one: Whether two entries may not share a partner.
        leave: Kinds of our own files that are no partners, see `own_kind`; they are looked into
            only where several partners fit.
        link: Whether to look for links between names that differ otherwise.
        itself: Whether a file may be its own partner.

    Returns:
        One pair per entry, in their order; an entry that several partners fit gets none, and a
        problem that says so.

    Raises:
        PairingError: Nothing is paired; the message shows two names from each side, and what they
            differ by. Or two entries share a partner though `one_to_one`.

    Example:
        >>> left = [Entry(Path("a_leftImg8bit.png"), "a_leftImg8bit")]
        >>> right = [Entry(Path("a_pred.png"), "a_pred")]
        >>> pair_entries(left, right)[0].partner.stem
        'a_pred'
    """
    index = partners if isinstance(partners, Partners) else index_partners(partners, suffixes)
    own = frozenset[Path]() if itself else _paths_of_both(entries, index.entries)
    # Two files that the user named are a pair, whatever their names.
    if len(entries) == len(index.entries) == 1 and entries[0].chosen and index.entries[0].chosen:
        if index.entries[0].path in own:
            raise PairingError(f"{entries[0].path}: one file can't be both of a pair.")
        return [Pair(entries[0], index.entries[0])]
    mapped = MappedNames(name_map) if name_map else None
    fitting = _find_fitting(entries, index, suffixes, mapped, own)
    pairs = []
    for entry, several in zip(entries, fitting, strict=True):
        found = several
        if len(several) > 1 and leave:
            found = [one for one in several if own_kind(one.path) not in leave]
        if len(found) > 1:
            advice = _advise_choice(found, suffixes)
            problem = f"{entry.path}: {found[0].path} and {found[1].path} both fit; {advice}."
            pairs.append(Pair(replace(entry, problem=problem), None))
        else:
            pairs.append(Pair(entry, found[0] if found else None))
    if mapped:
        pairs = _name_missing(pairs, index.entries, mapped)
    elif link and not any(fitting):
        others = [one for one in index.by_stem.values() if not own or one.path not in own]
        linked = link_names(entries, others)
        if linked:
            pairs = [Pair(*both, linked=True) for both in zip(entries, linked, strict=True)]
    if one_to_one:
        _check_one_to_one(pairs, suffixes)
    if not any(pair.partner for pair in pairs):
        _refuse_unpaired(pairs, index, fitting, suffixes, propose=link)
    return pairs


def _find_fitting(
    entries: Sequence[Entry],
    partners: Partners,
    suffixes: Sequence[str],
    mapped: MappedNames | None,
    own: Set[Path],
) -> list[list[Entry]]:
    """Find all partners that fit each entry; see `pair_entries` and `_paths_of_both`."""

    def others(listed: Sequence[Entry | None], entry: Entry) -> list[Entry]:
        found = [one for one in listed if one]
        if not own:
            return found
        # In a folder of both, what looks for a partner is hardly one.
        apart = [one for one in found if one.path not in own]
        return apart or [one for one in found if one.path != entry.path]

    cores = [core_of(entry.stem, suffixes) for entry in entries]
    names = Counter(map(name_of, cores))
    fitting = []
    for entry, core in zip(entries, cores, strict=True):
        named = mapped.of(entry) if mapped else None
        if mapped and named is not None:
            # Said to belong elsewhere, it has no other partner, of whatever name.
            found = others([mapped.find(name, partners.by_stem) for name in named], entry)
        elif not (found := others([partners.by_stem.get(entry.stem)], entry)):
            found = others(partners.by_core.get(core, []), entry)
            if not found and names[name := name_of(core)] == 1:
                found = others(partners.by_name.get(name, []), entry)
        fitting.append(found)
    return fitting


def _paths_of_both(entries: Sequence[Entry], partners: Sequence[Entry]) -> Set[Path]:
    """Paths of entries, of which some may be partners, too; none if their folders differ.

    Folders are asked first: to hash the paths of a million files takes seconds.
    """
    if _folders(entries).isdisjoint(_folders(partners)):
        return frozenset()
    return {entry.path for entry in entries}


def _folders(entries: Sequence[Entry]) -> Set[Path]:
    one_of_each = {entry.stem.rpartition("/")[0]: entry for entry in entries}
    return {entry.path.parent for entry in one_of_each.values()}


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
    meant = {core_of(entry.stem, suffixes) for entry in entries if entry.stem.endswith(endings)}
    return [
        entry
        for entry in entries
        if core_of(entry.stem, suffixes) not in meant or entry.stem.endswith(endings)
    ]


def choose_kind(
    entries: Sequence[Entry],
    *,
    suffixes: Sequence[str] = (),
    name_map: Mapping[str, Sequence[str]] | None = None,
    passed_over: Counter[str] | None = None,
) -> list[Entry]:
    """Choose the entries that are meant, where each is to have a result; see `meant_entries`.

    Predictions of several networks may have one photograph; kinds of one ground truth may not.

    Args:
        entries: Label maps.
        suffixes: Of `pair_entries`.
        name_map: Of `pair_entries`.
        passed_over: Receives how many are left out.

    Raises:
        PairingError: Neither `suffixes` nor `name_map` says which kind of ground truth is meant.
    """
    chosen = meant_entries(entries, suffixes)
    if passed_over is not None and len(chosen) < len(entries):
        passed_over["without the --suffix"] += len(entries) - len(chosen)
    named = tuple(filter(None, suffixes))
    kinds: dict[str, dict[str, Entry]] = {}
    for entry in () if name_map else chosen:
        if entry.stem.endswith(GROUND_TRUTH_SUFFIXES) and not entry.stem.endswith(named):
            kinds.setdefault(core_of(entry.stem), {})[entry.stem] = entry
    for several in kinds.values():
        if len(several) > 1:
            found = list(several.values())
            raise PairingError(
                f"several label maps are of one photograph, such as {_sample(found)}; "
                f"{_advise_choice(found)}."
            )
    return chosen


def _name_missing(
    pairs: Sequence[Pair], partners: Sequence[Entry], mapped: MappedNames
) -> list[Pair]:
    """Say of which entries --map names a partner that isn't there.

    Raises:
        PairingError: It names none of the files.
    """
    entries = [pair.entry for pair in pairs]
    named = [mapped.of(entry) for entry in entries]
    if not any(named) and not any(map(mapped.of, partners)):
        raise PairingError(
            f"--map names none of the files: neither {_sample(entries)} nor {_sample(partners)}."
        )
    found = []
    for pair, names in zip(pairs, named, strict=True):
        problem = pair.entry.problem
        if names and pair.partner is None and not problem:
            problem = f"{pair.entry.path}: belongs to {names[0]!r} by --map, which isn't there."
        found.append(replace(pair, entry=replace(pair.entry, problem=problem)))
    return found


def _check_one_to_one(pairs: Sequence[Pair], suffixes: Sequence[str]) -> None:
    owners: dict[Path, list[Entry]] = {}
    for pair in pairs:
        if pair.partner:
            owners.setdefault(pair.partner.path, []).append(pair.entry)
    for path, several in owners.items():
        if len(several) > 1:
            raise PairingError(
                f"{several[0].path} and {several[1].path} both belong to {path}; "
                f"{_advise_choice(several, suffixes)}."
            )


def _refuse_unpaired(
    pairs: Sequence[Pair],
    partners: Partners,
    fitting: Sequence[Sequence[Entry]],
    suffixes: Sequence[str],
    *,
    propose: bool,
) -> None:
    """Raise `PairingError`, if nothing but names is at fault, with what would help."""
    entries = [pair.entry for pair in pairs]
    several = [number for number, found in enumerate(fitting) if len(found) > 1]
    if propose and len(several) > 1:
        found = sorted(fitting[several[0]], key=lambda one: one.stem)
        raise PairingError(
            f"several files fit each, such as {entries[several[0]].path}: "
            f"{', '.join(one.stem for one in found)}; {_advise_choice(found, suffixes)}."
        )
    if not any(entry.problem for entry in entries):
        advice = ""
        if propose:
            same: dict[str, list[Entry]] = {}
            for entry in entries:
                same.setdefault(name_of(core_of(entry.stem, suffixes)), []).append(entry)
            # They would fit, were there but one of each name.
            alike = (same[one] for one in same if len(same[one]) > 1 and one in partners.by_name)
            left, right = ([one.stem for one in side] for side in (entries, partners.entries))
            names, others = ([*map(name_of, stems)] for stems in (left, right))
            advice = next((_advise_choice(found, suffixes) for found in alike), "")
            advice = advice or propose_suffixes(left, right, suffixes)
            advice = advice or propose_suffixes(names, others, suffixes)
        advice = advice or (
            "names must be equal up to a known suffix (--suffix adds one, --map pairs any names)"
        )
        if {entry.path for entry in entries} == {entry.path for entry in partners.entries}:
            advice = "these are the same files"
        raise PairingError(
            f"no file has a partner: {_sample(entries)} on one side, "
            f"{_sample(partners.entries)} on the other; {advice}."
        )


def _advise_choice(entries: Sequence[Entry], suffixes: Sequence[str] = ()) -> str:
    """Word what takes one of several files of one picture."""
    # What their stems have beyond the picture's name.
    stems = (entry.stem for entry in entries)
    endings = sorted({stem.removeprefix(core_of(stem, suffixes)) for stem in stems})
    if len(endings) > 1:
        return f"--suffix {' or '.join(filter(None, endings))} takes one kind"
    if len({entry.path.parent for entry in entries}) > 1:
        return f"give one of their folders, such as {entries[0].path.parent}"
    return "--map says which it is"


def _sample(entries: Sequence[Entry]) -> str:
    return ", ".join(f"{entry.path}" for entry in entries[:2])
