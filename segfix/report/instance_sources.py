"""The instances of each photograph: of a set of predictions, or of the ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segfix.errors import PairingError, SegfixError
from segfix.files import Entry, list_entries, pair_entries
from segfix.formats import LABEL_SUFFIXES, LabelMap, read_label_map
from segfix.instances.cityscapes import INSTANCE_MAP, read_list
from segfix.instances.coco import read_json
from segfix.instances.listing import list_instance_files
from segfix.instances.photographs import InstanceEntry, pair_instances
from segfix.instances.summary import name_categories
from segfix.report.before_after import number_masks
from segfix.report.examples import Ids

LEAST_SCORE = 0.5
"""Of the instances that are drawn, where they have scores."""

SMALLEST_THING = 1000
"""Ids of instances in Cityscapes' maps; smaller ones are classes."""


@dataclass(frozen=True)
class Source:
    """Where the instances of each photograph are: of a set, or of the ground truth.

    Attributes:
        entries: By photograph; Cityscapes' ground truth is label maps.
        root: Folder of the files.
        problems: One text per photograph without instances.
    """

    entries: Mapping[Path, Entry]
    root: Path
    problems: Sequence[str] = ()

    @property
    def void(self) -> int:
        """The number that counts nowhere in the ground truth: 0 of panoptic maps, which is void."""
        panoptic = any(getattr(entry, "panoptic", False) for entry in self.entries.values())
        return 0 if panoptic else -1

    def read(self, photograph: Path, size: tuple[int, int]) -> Ids:
        """Read the (H, W) numbers of a photograph's instances, 0 where there is none.

        Raises:
            SegfixError: A file is broken, or of another size.
        """
        entry = self.entries.get(photograph)
        found: LabelMap | None
        if isinstance(entry, InstanceEntry):
            found = keep_sure(entry, self.root).read(size, photograph)
        elif entry is not None:
            found = read_label_map(entry.path)
            ids = found.ids()
            found = LabelMap(np.where(ids >= SMALLEST_THING, ids, 0))
        else:
            found = None
        if found is None:
            return np.zeros(size, np.int64)
        if found.shape != size:
            raise SegfixError(
                found.size,
                path=photograph,
                expected=f"its photograph is {size[1]}×{size[0]}",
                advice="give photographs of the masks' size",
            )
        return number_masks(found).ids()


def find_instances(
    path: Path, photographs: Sequence[Entry], labels: Path, naming: Mapping[str, Any]
) -> Source:
    """Find the instances of photographs in a file or a folder.

    Raises:
        SegfixError: There are none, or the only file has a fault.
    """
    if path == labels and path.is_dir():
        maps = list_entries(path, LABEL_SUFFIXES, what="instance maps", recursive=True)
        maps = [entry for entry in maps if entry.path.name.endswith(INSTANCE_MAP)]
        pairs = pair_entries(photographs, maps, **naming)
        entries = {pair.entry.path: pair.partner for pair in pairs if pair.partner}
        return Source(entries, path)
    files = list_instance_files(path, away=(), recursive=True, leave_out=())
    names = None
    if labels.is_file():
        images = read_json(labels).get("images", [])
        # Without, images are found by their ids.
        names = {one["id"]: one["file_name"] for one in images if "file_name" in one}
    found: dict[Path, Entry] = {}
    problems = []
    for pair in pair_instances(files, photographs, path, naming=naming, file_names=names):
        # Photographs that nothing was predicted for are no fault: they count with no instance.
        if isinstance(pair.partner, InstanceEntry) and not pair.entry.problem:
            found[pair.entry.path] = pair.partner
        elif isinstance(pair.entry, InstanceEntry) and pair.entry.problem:
            problems.append(pair.entry.problem)
    if not found:
        raise PairingError(f"{path}: no instances of any photograph; is --images the right folder?")
    return Source(found, path, problems)


def find_classes(labels: Path, truth: Source) -> dict[str, set[Path]]:
    """Find the photographs that hold each class of the ground truth, by its name."""
    held: dict[Any, set[Path]] = {}
    if labels.is_dir():
        from cityscapesscripts.helpers.labels import id2label

        names = {number: label.name for number, label in id2label.items() if label.hasInstances}
        for photograph, entry in truth.entries.items():
            for number in np.unique(read_label_map(entry.path).ids() // SMALLEST_THING).tolist():
                held.setdefault(number, set()).add(photograph)
    else:
        document = read_json(labels)
        names = name_categories(document["categories"])
        pictures = {item.get("file_name"): item for item in document["annotations"]}
        for photograph, entry in truth.entries.items():
            for item in getattr(entry, "items", ()):
                # Of panoptic maps, the segments stand beside the picture's name.
                named = pictures.get(item.name, {}) if isinstance(item, Path) else {}
                for one in named.get("segments_info", [item] * (not named)):
                    held.setdefault(one["category_id"], set()).add(photograph)
    return {name: held[number] for number, name in names.items() if number in held}


def keep_sure(entry: InstanceEntry, root: Path) -> InstanceEntry:
    """Leave out instances of a low score, and put the surest last, which is drawn on top."""
    if entry.path.suffix == ".txt":
        listed = read_list(entry.path, root)
        scores = [listed[str(item)]["conf"] for item in entry.items]
    elif all(isinstance(item, dict) and "score" in item for item in entry.items):
        scores = [item["score"] for item in entry.items]
    else:
        return entry
    order = sorted(range(len(scores)), key=scores.__getitem__)
    return replace(entry, items=[entry.items[k] for k in order if scores[k] >= LEAST_SCORE])
