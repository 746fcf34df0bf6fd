"""List what a run reads, and refuse what it would overwrite."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segfix.errors import ArgumentError, PairingError
from segfix.files import Entry, Pair, list_entries
from segfix.files.pairing import choose_kind
from segfix.files.provenance import NOT_TAKEN, own_kind
from segfix.formats import IMAGE_SUFFIXES, LABEL_SUFFIXES, OFFSET_SUFFIXES, VIDEO_SUFFIXES


def check_folders(sources: Mapping[str, Path | None], out: Path) -> None:
    """Refuse to write into a folder that is read.

    Args:
        sources: By what a text calls them, files or folders.
        out: Folder of the results.

    Raises:
        ArgumentError: It is one of them.
    """
    for name, source in sources.items():
        if source is None:
            continue
        folder = source.parent if source.is_file() else source
        if out.exists() and folder.exists():
            # Asked of the system, as some take preds and PREDS for one.
            same = out.samefile(folder)
        else:
            same = os.path.realpath(out) == os.path.realpath(folder)
        if same:
            raise ArgumentError(f"{out} is the folder of {name}; choose another one with -o.")


def check_results(results: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse results that would replace an input, however the folders lie in each other.

    Raises:
        ArgumentError: One would.
    """
    real = functools.cache(os.path.realpath)

    def place(path: Path | str) -> tuple[str, str]:
        folder, name = os.path.split(path)
        return real(folder), name

    # A result takes the place of a link; an input is both the link and where it leads.
    read = set[tuple[str, str]]()
    for path in inputs:
        read.add(place(path))
        if path.is_symlink():
            read.add(place(real(path)))
    for path in results:
        if place(path) in read:
            raise ArgumentError(f"{path} would replace an input; choose another folder with -o.")


def list_inputs(
    source: Mapping[str, Path],
    suffixes: Sequence[str],
    what: str,
    out: Path,
    name_result: Callable[[Entry], str],
    *,
    recursive: bool = False,
    passed_over: Counter[str] | None = None,
) -> list[Entry]:
    """List the files that a task makes one file of each.

    Args:
        source: A file or a folder, by what a text calls it.
        suffixes: See `list_entries`.
        what: What the files are.
        out: Folder of the results.
        name_result: See `Task.name`.
        recursive: Whether to go into folders within.
        passed_over: See `list_entries`.

    Raises:
        PairingError: There is none.
        ArgumentError: A result would replace an input.
    """
    check_folders(source, out)
    (folder,) = source.values()
    entries = list_entries(
        folder,
        suffixes,
        what=what,
        recursive=recursive,
        leave_out=[out],
        passed_over=passed_over,
    )
    results = (out / name_result(entry) for entry in entries)
    check_results(results, (entry.path for entry in entries))
    return entries


def list_offsets(source: Path, *, recursive: bool, leave_out: Sequence[Path]) -> list[Entry]:
    """List offset maps; two files that could both be one photograph's are refused."""
    if not source.exists():
        # Without a period: to be copied from there.
        raise PairingError(
            f"{source}: no such file or folder; make it: segfix predict-offsets IMAGES -o {source}"
        )
    entries = list_entries(
        source, OFFSET_SUFFIXES, what="offset maps", recursive=recursive, leave_out=leave_out
    )
    return refuse_problems(entries)


def refuse_video(images: Path) -> None:
    """Raise `ArgumentError` if a video is given where photographs are looked at."""
    if images.suffix.lower() in VIDEO_SUFFIXES and not images.is_dir():
        raise ArgumentError(
            "a video, not a photograph",
            path=images,
            advice=f"'segfix predict-offsets {images}' looks at its frames, 'segfix refine' takes "
            "their predictions (docs/video.md)",
        )


def list_both(
    images: Path,
    preds: Path,
    out: Path,
    *,
    what: str = "predictions",
    recursive: bool = False,
    one_per_stem: bool = True,
    naming: Mapping[str, Any] | None = None,
    passed_over: Counter[str] | None = None,
) -> tuple[list[Entry], list[Entry]]:
    """List predictions and photographs.

    Args:
        images: A photograph or a folder of them.
        preds: A label map or a folder of them.
        out: Folder of the results.
        what: What the label maps are, for messages.
        recursive: Whether to go into folders within.
        one_per_stem: Of `list_entries`, for the label maps.
        naming: Of `choose_kind`, for the label maps.
        passed_over: Of `list_entries`; of one folder, receives what is neither.

    Returns:
        Entries of label maps, and of photographs.

    Raises:
        PairingError: There is nothing to list, or see `choose_kind`.
        ArgumentError: `images` is a video.
    """
    refuse_video(images)
    others = Counter[str](), Counter[str]()
    how: dict[str, Any] = {"recursive": recursive}
    maps = list_entries(
        preds,
        LABEL_SUFFIXES,
        what=what,
        leave_out=[out, images],
        one_per_stem=one_per_stem,
        passed_over=others[0],
        **how,
    )
    photographs = list_entries(
        images, IMAGE_SUFFIXES, what="images", leave_out=[out, preds], passed_over=others[1], **how
    )
    if passed_over is not None:
        same = images.resolve() == preds.resolve()
        passed_over.update(others[0] & others[1] if same else others[0] + others[1])
    return choose_kind(maps, **(naming or {}), passed_over=passed_over), photographs


def list_unpaired(photographs: Iterable[Entry], pairs: Iterable[Pair]) -> list[str]:
    """List photographs that no prediction is of.

    Args:
        photographs: The files; results of ours and predictions among them don't count.
        pairs: Predictions, each with its photograph.
    """
    known = {one.path for pair in pairs for one in (pair.entry, pair.partner) if one}
    return [
        f"{one.path}"
        for one in photographs
        if one.path not in known and own_kind(one.path) not in NOT_TAKEN["photograph"]
    ]


def list_preds(source: Path, *, recursive: bool, leave_out: Sequence[Path]) -> list[Entry]:
    """List predictions; two files that could both be one photograph's are refused."""
    entries = list_entries(
        source, LABEL_SUFFIXES, what="predictions", recursive=recursive, leave_out=leave_out
    )
    return refuse_problems(entries)


def refuse_problems(entries: list[Entry]) -> list[Entry]:
    """Raise `PairingError` if one of the entries has a problem."""
    for entry in entries:
        if entry.problem:
            raise PairingError(entry.problem)
    return entries
