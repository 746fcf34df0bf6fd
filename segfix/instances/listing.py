"""Files of instances: found by their names, as are the images and offset maps they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from segfix.errors import ArgumentError, PairingError
from segfix.files import Entry, Pair, list_entries, pair_entries
from segfix.files.places import StagedPath
from segfix.formats import LABEL_SUFFIXES
from segfix.instances.cityscapes import PREDICTION_LIST, holds_lists

INSTANCE_SUFFIXES = (".json",)
"""File name endings of instances and panoptic tables."""


def holds_instances(preds: Path, *, recursive: bool) -> bool:
    """Tell whether PREDS is JSON or lists of Cityscapes, or a folder of such without label maps."""
    if holds_lists(preds):
        return True
    if not preds.is_dir():
        return preds.suffix.lower() in INSTANCE_SUFFIXES
    found = False
    for path in preds.glob("**/*" if recursive else "*"):
        suffix = path.suffix.lower()
        if path.name.startswith(".") or suffix not in (*INSTANCE_SUFFIXES, *LABEL_SUFFIXES):
            continue
        # A panoptic table's pictures are in a folder of its name; "." and "/" have none.
        if not (path.parent.name and path.parent.with_suffix(".json").is_file()):
            if suffix not in INSTANCE_SUFFIXES:
                return False
            found = True
    return found


def list_instance_files(
    preds: Path, *, away: Sequence[Path], recursive: bool, leave_out: Sequence[Path]
) -> list[Entry]:
    """List what `holds_instances` knows; of Cityscapes, folders within are always read.

    Args:
        preds: A file or a folder.
        away: The other folders of the run, none of which may be behind a URL either.
        recursive: Whether to go into folders within.
        leave_out: See `list_entries`.

    Raises:
        ArgumentError: One is behind a URL.
        PairingError: There is none.
    """
    if any(isinstance(path, StagedPath) for path in (preds, *away)):
        # Which files an instance needs is known when its file is read.
        raise ArgumentError(
            "JSON and lists of instances are read in local folders only",
            path=preds,
            advice="copy PREDS and what they belong to here, and the results back",
        )
    lists = holds_lists(preds)
    files = list_entries(
        preds,
        (".txt",) if lists else INSTANCE_SUFFIXES,
        what="instances",
        recursive=recursive or lists,
        leave_out=leave_out,
    )
    return [file for file in files if not lists or file.path.name.endswith(PREDICTION_LIST)]


def name_images(file: Entry) -> list[str]:
    """Name the image of a list of Cityscapes: stems that its other files may have."""
    stem = f"{file.stem}{file.path.suffix}".removesuffix(PREDICTION_LIST)
    return [stem, PurePosixPath(stem).name]


def pair_images(
    names: Mapping[Any, Sequence[str]],
    maps: Sequence[Entry],
    *,
    naming: Mapping[str, Any] | None = None,
    chosen: bool = False,
) -> dict[Any, Pair]:
    """Find the offset map of each image, by the first of its names that one has.

    Two images of different first names never share one: the likelier of the two has it, and of
    equally likely ones none.

    Args:
        names: Of each image, stems, likeliest first.
        maps: The offset maps.
        naming: Of `pair_entries`.
        chosen: Whether the user named the very file that the images are of.

    Returns:
        The pairs by image; without those that have none.
    """
    found: dict[Any, Pair] = {}
    owners: dict[Path, str] = {}
    for level in range(max(map(len, names.values()), default=0)):
        waiting = [image for image in names if image not in found and names[image][level:]]
        entries = [
            Entry(Path(names[image][level]), names[image][level], chosen=chosen)
            for image in waiting
        ]
        try:
            pairs = pair_entries(entries, maps, link=False, **(naming or {}))
        except PairingError:
            continue
        wanted: dict[Path, set[str]] = {}
        for image, pair in zip(waiting, pairs, strict=True):
            if pair.partner:
                wanted.setdefault(pair.partner.path, set()).add(names[image][0])
        for image, pair in zip(waiting, pairs, strict=True):
            path = pair.partner.path if pair.partner else None
            if path is None:
                if pair.entry.problem:
                    found[image] = pair
            elif owners.get(path, names[image][0]) != names[image][0]:
                continue
            elif path not in owners and len(wanted[path]) > 1:
                problem = f"{path} fits other images, too; keep them apart by their folders."
                found[image] = Pair(replace(pair.entry, problem=problem), None)
            else:
                found[image] = pair
        owners |= {
            pair.partner.path: names[image][0] for image, pair in found.items() if pair.partner
        }
    return found
