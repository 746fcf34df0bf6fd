"""Names of one picture's several files: what they have in common, and what only tells the kind."""

from __future__ import annotations

import csv
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from segfix.errors import FileFormatError
from segfix.files.folders import Entry
from segfix.files.reading import read_text

GROUND_TRUTH_SUFFIXES = (
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
)
"""Of the several kinds of ground truth that data sets have of one picture, side by side."""

KNOWN_SUFFIXES = (
    "_leftImg8bit",
    *GROUND_TRUTH_SUFFIXES,
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

PICTURE_ENDING = re.compile(r"\.(?:jpe?g|jfif|png|tiff?|bmp|webp|gif|heic)$", re.IGNORECASE)
"""Of a photograph, kept in the stem of its label map: `a.jpg.png`."""

KIND_WORD = re.compile(
    r"""
    # Photographs.
    im|imgs?|images?|photos?|pics?|pictures?|frames?|rgb|rgbir|irrg|sate?|satellite|camera|inputs?
    |orig|original|training|leftimg8bit
    # Label maps.
    |gts?|gtfine|gtcoarse|ground|truth|groundtruth|masks?|msk|matte|labels?|lab|lbl|labelids?
    |labeltrainids|trainids?|labelmap|segs?|segm|segmap|segmask|segmentations?|semantic|semseg
    |annotations?|annot?|anno|ann|manual|instances?|instanceids?|panoptic|pixelmaps|ids?|colou?rs?
    |class|classes|cp|stho|ndho|noboundary
    # Results.
    |preds?|predict|predicted|predictions?|out|outputs?|results?|refined|offsets?
    """,
    re.VERBOSE,
)
"""A word, in lower case, that tells what a file is, not of which photograph."""

TOKEN = re.compile(r"\d+|[^\W\d_]+")

NUMBERED_KIND = re.compile(r"(?:[\W_]+[^\W\d_]+\d?|[\W_]+\d[^\W\d_]+)+$")
"""What may be a run of words with one digit, as in `_manual1`, `_seg0`, `_1stHO`."""

Key = tuple[str, ...]

MAP_SEPARATORS = ("\t", ",", " ")


def core_of(stem: str, suffixes: Sequence[str] = ()) -> str:
    """Take from a stem what only tells the kind of file: the longest suffix, and known parts.

    Args:
        stem: Path below a folder, without the file name ending.
        suffixes: Stem endings to pass over besides `KNOWN_SUFFIXES`.

    Returns:
        The rest, in Unicode's composed form.

    Example:
        >>> core_of("aachen/aachen_000000_leftImg8bit"), core_of("a.jpg_mask")
        ('aachen/aachen_000000', 'a')
    """
    if not stem.isascii():
        stem = unicodedata.normalize("NFC", stem)
    dotted = "." in stem
    if dotted:
        stem = _without_ending(stem)
    known = KNOWN_SUFFIXES if stem.endswith(KNOWN_SUFFIXES) else ()
    # Of known ones, the longer come first, but what the user gives may be the end of one.
    ordered = sorted((*suffixes, *known), key=len, reverse=True) if suffixes else known
    for suffix in ordered:
        if suffix and stem.endswith(suffix) and not stem.endswith("/" + suffix):
            stem = stem[: -len(suffix)]
            break
    if dotted:
        stem = _without_ending(stem)
    # Looked for first, as there are a million names.
    found = "COCO_" in stem or "_road_" in stem or "_lane_" in stem
    return KNOWN_PARTS.sub("", stem) if found else stem


def _without_ending(stem: str) -> str:
    rest = PICTURE_ENDING.sub("", stem)
    return rest if rest and not rest.endswith("/") else stem


def name_of(core: str) -> str:
    """Take the last part of a path with slashes."""
    return core.rpartition("/")[2]


# Links between names that no known suffix explains.


def link_names(entries: Sequence[Entry], partners: Sequence[Entry]) -> list[Entry] | None:
    """Find the partners of all entries at once, where names differ in words that tell the kind.

    `img_1` and `lab_001`, `x` and `GT_x`, `x_manual1`: zeros before numbers and capitals don't
    count. Or all entries are named after objects, in folders named after the partners.

    Args:
        entries: Of which none has a partner by its name.
        partners: Of different stems.

    Returns:
        One partner per entry; None unless every entry has exactly one.
    """
    lefts, rights = ([entry.stem for entry in listed] for listed in (entries, partners))
    for whole in (True, False):
        if not whole:
            lefts, rights = (list(map(name_of, stems)) for stems in (lefts, rights))
        different = len({entry.stem for entry in entries})
        for cut, cut_other in itertools.product((False, True), repeat=2):
            keys = _keys(lefts, cut=cut)
            # What nothing but the kind tells apart isn't told apart.
            found = _match(keys, _keys(rights, cut=cut_other), partners)
            if found and len(set(keys)) == different:
                return found
    cores = [(core_of(entry.stem),) for entry in partners]
    folders = [(_folder(entry),) for entry in entries]
    keys = [_folder_key(entry) for entry in entries]
    return (
        _match(folders, cores, partners)
        or _match(keys, [_key(entry.stem) for entry in partners], partners)
        or _match(keys, [_key(stem) for stem in rights], partners)
    )


def _match(
    keys: Sequence[Key], others: Sequence[Key], partners: Sequence[Entry]
) -> list[Entry] | None:
    counts = Counter(others)
    if all(key and counts[key] == 1 for key in keys):
        by_key = dict(zip(others, partners, strict=True))
        return [by_key[key] for key in keys]
    return None


def _keys(stems: Sequence[str], *, cut: bool) -> list[Key]:
    """Keys of stems, with `cut` without a numbered kind that all of them end in."""
    found = NUMBERED_KIND.search(name_of(stems[0])) if cut and stems else None
    ending = found[0] if found else ""
    words = [re.sub(r"\d", "", token).casefold() for token in re.findall(r"[^\W_]+", ending)]
    common = all(stem.endswith(ending) for stem in stems)
    if not (common and all(map(KIND_WORD.fullmatch, words))):
        ending = ""
    return [_key(stem.removesuffix(ending)) for stem in stems]


def _key(stem: str) -> Key:
    """The words and numbers of a stem, but those that tell the kind."""
    stem = _without_ending(unicodedata.normalize("NFC", stem)).casefold()
    return tuple(
        token.lstrip("0") or "0" if token[0].isdecimal() else token
        for token in TOKEN.findall(stem)
        if not KIND_WORD.fullmatch(token)
    )


def _folder(entry: Entry) -> str:
    """Folder of an entry below the one that was listed, or that one's name."""
    return core_of(entry.stem.rpartition("/")[0] or entry.path.parent.name)


def _folder_key(entry: Entry) -> Key:
    """Key of the innermost folder whose name tells more than the kind, the one listed at most."""
    levels = entry.stem.count("/") + 1
    keys = (_key(name) for name in itertools.islice(reversed(entry.path.parts[:-1]), levels))
    return next(filter(None, keys), ())


def propose_suffixes(
    stems: Sequence[str], others: Sequence[str], suffixes: Sequence[str] = ()
) -> str:
    """Word what the names of two lists differ by, and the option that pairs them; or "".

    Example:
        >>> propose_suffixes(["a", "b"], ["a_v2", "b_v2"])
        "names differ by '_v2': add --suffix _v2"
    """
    endings = Counter[str]()
    for short, long in ((stems, others), (others, stems)):
        known = {core_of(stem, suffixes) for stem in short}
        for stem in itertools.islice(long, 2000):
            for cut in re.finditer(r"(?<=[^\W_])(?=[\W_])|(?<=[a-z\d])(?=[A-Z])", stem):
                if stem[: cut.start()] in known:
                    endings[stem[cut.start() :]] += 1
    if not endings:
        return ""
    most = max(endings.values())
    likely = sorted(ending for ending, count in endings.items() if count > most // 2)
    # Of as many endings as names, none tells a kind.
    if len(likely) > 8 or "/" in "".join(likely):
        return ""
    if len(likely) == 1:
        return f"names differ by {likely[0]!r}: add --suffix {likely[0]}"
    return f"several kinds fit: add --suffix {', '.join(likely[:-1])} or {likely[-1]}"


# Lists of names that belong together.


def read_name_map(path: Path) -> dict[str, list[str]]:
    """Read a text file of two names per line, of files that belong together.

    Args:
        path: Columns are separated by a tab, a comma or blanks. Names are paths below the folders,
            or more of their paths, with or without their ending; the order of the two doesn't
            matter, and empty lines and those that begin with # are passed over.

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


class MappedNames:
    """Look names up in the list of `--map`, be they paths below a folder or more of the path."""

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        self._names = {_plain(name): [*map(_plain, others)] for name, others in names.items()}
        self._lengths = sorted({name.count("/") for name in self._names})

    def of(self, entry: Entry) -> list[str] | None:
        """Find what an entry belongs to: names as they are listed; None where it isn't."""
        stem = _plain(entry.stem)
        if stem in self._names:
            return self._names[stem]
        parts = _plain(entry.path.with_name(name_of(entry.stem)).absolute().as_posix()).split("/")
        for slashes in self._lengths:
            # All of the stem, and some of where the folder lies.
            if (
                slashes > stem.count("/")
                and (name := "/".join(parts[-1 - slashes :])) in self._names
            ):
                return self._names[name]
        return None

    def find(self, name: str, by_stem: Mapping[str, Entry]) -> Entry | None:
        """Find the entry that a listed name means, by its stem."""
        parts = name.split("/")
        for place in range(len(parts)):
            entry = by_stem.get("/".join(parts[place:]))
            if entry is not None and (place == 0 or self._lies(entry, parts)):
                return entry
        return None

    def _lies(self, entry: Entry, parts: list[str]) -> bool:
        where = entry.path.with_name(name_of(entry.stem)).absolute().as_posix()
        return _plain(where).split("/")[-len(parts) :] == parts


def _plain(name: str) -> str:
    """A path in Unicode's composed form, without what it begins with: /, ./ and ../."""
    return re.sub(r"^(?:\.{0,2}/)+", "", unicodedata.normalize("NFC", name))
