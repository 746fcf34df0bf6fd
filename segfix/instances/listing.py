"""Files of instances: found by their names, as are the images and offset maps they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from segfix.errors import PairingError
from segfix.files import Entry, Pair, pair_entries
from segfix.instances.cityscapes import PREDICTION_LIST

INSTANCE_SUFFIXES = (".json",)
"""File name endings of instances and panoptic tables."""


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
            pairs = pair_entries(entries, maps, **(naming or {}))
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
