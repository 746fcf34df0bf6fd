"""Files of instances: found by their names, as are the images and offset maps they belong to."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from segfix.errors import ArgumentError, PairingError, SegfixError
from segfix.files import Entry, Pair, list_entries, pair_entries
from segfix.files.pairing import Partners
from segfix.files.places import StagedPath
from segfix.formats import IMAGE_SUFFIXES, LABEL_SUFFIXES
from segfix.instances.cityscapes import PREDICTION_LIST, holds_lists

GEO_SUFFIXES = (".geojson", ".gpkg")

INSTANCE_SUFFIXES = (".json", ".xml", ".txt", *GEO_SUFFIXES)
"""File name endings of instances and panoptic tables."""

BESIDE = (
    *IMAGE_SUFFIXES,
    *LABEL_SUFFIXES,
    *(".wld", ".prj", ".tfw", ".jgw", ".pgw", ".tifw", ".jpgw", ".pngw", ".yaml", ".yml"),
)
"""File name endings of what belongs to instances: photographs, where they lie, masks, classes."""

SHAPES, IMAGES = re.compile(rb'"shapes"\s*:'), re.compile(rb'"(images|annotations)"\s*:')
"""In LabelMe's JSON, near the beginning, and in that of COCO's kind."""


def holds_instances(preds: Path, *, recursive: bool, images: Path | None = None) -> bool:
    """Tell instances from label maps.

    Args:
        preds: A file or a folder.
        recursive: Whether to go into folders within.
        images: The photographs; if they are in the same folder, pictures that a JSON of COCO's kind
            lists beside it are no label maps.

    Returns:
        Whether PREDS is a file of instances, a YOLO data set, or a folder of such files without
        label maps.

    Raises:
        PairingError: Nothing but a folder within, `labels`, holds some.
    """
    if holds_lists(preds) or is_yolo_set(preds):
        return True
    if not preds.is_dir():
        return preds.suffix.lower() in INSTANCE_SUFFIXES
    list_photographs = functools.cache(_list_photographs)
    both, found = images is not None and images.resolve() == preds.resolve(), False
    for path in preds.glob("**/*" if recursive else "*"):
        suffix = path.suffix.lower()
        if path.name.startswith(".") or suffix not in (*INSTANCE_SUFFIXES, *LABEL_SUFFIXES):
            continue
        # A panoptic table's pictures are in a folder of its name; "." and "/" have none.
        if path.parent.name and path.parent.with_suffix(".json").is_file():
            continue
        if suffix in LABEL_SUFFIXES and not _is_photograph(path):
            if both and path.name in list_photographs(path.parent):
                continue
            return False
        if suffix == ".txt":
            # Here and below: with all tools' readers, it takes as long to import as a small label
            # map to be refined.
            from segfix.polygons.yolo import is_label_file

            found = found or is_label_file(path)
        else:
            found = found or suffix in INSTANCE_SUFFIXES
    if not (found or recursive):
        _advise_labels(preds)
    return found


def _advise_labels(folder: Path) -> None:
    """Raise `PairingError` if nothing but `data.yaml` is missing of a YOLO data set."""
    from segfix.polygons.yolo import LABELS, is_label_file

    labels = folder / LABELS
    if any(map(is_label_file, labels.rglob("*.txt"))):
        raise PairingError(
            f"{folder}: YOLO's labels lie in {labels}, and no data.yaml is here; take {labels}, or "
            "add data.yaml."
        )


def is_yolo_set(folder: Path) -> bool:
    """Tell whether it is a data set of Ultralytics: `data.yaml`, and texts below `labels`."""
    yaml = any(True for ending in ("yaml", "yml") for _ in folder.glob(f"*.{ending}"))
    if not yaml:
        return False
    from segfix.polygons.yolo import LABELS

    return any(True for _ in (folder / LABELS).rglob("*.txt"))


def _is_photograph(path: Path) -> bool:
    """Tell whether a picture lies beside LabelMe's JSON of it, or beside shapes."""
    if any(path.with_suffix(suffix).is_file() for suffix in GEO_SUFFIXES):
        return True
    return _begins_with(path.with_suffix(".json"), SHAPES)


def _begins_with(path: Path, pattern: re.Pattern[bytes]) -> bool:
    """Tell whether something is in the beginning of a file."""
    try:
        with path.open("rb") as file:
            return pattern.search(file.read(1 << 16)) is not None
    except OSError:
        return False


def _list_photographs(folder: Path) -> set[str]:
    """List the pictures that JSON of COCO's kind in a folder names."""
    from segfix.instances.by_image import read_file_names

    found = set[str]()
    for path in folder.glob("*.json"):
        with suppress(SegfixError):
            if _begins_with(path, IMAGES):
                found.update(PurePosixPath(name).name for name in read_file_names(path).values())
    return found


def list_instance_files(
    preds: Path,
    *,
    away: Sequence[Path],
    recursive: bool,
    leave_out: Sequence[Path],
    passed_over: Counter[str] | None = None,
) -> list[Entry]:
    """List what `holds_instances` knows; of Cityscapes, folders within are always read.

    Args:
        preds: A file or a folder.
        away: The other folders of the run, none of which may be behind a URL either.
        recursive: Whether to go into folders within.
        leave_out: See `list_entries`.
        passed_over: Of `list_entries`, but for what belongs to instances.

    Raises:
        ArgumentError: One is behind a URL.
        PairingError: There is none.
    """
    if any(isinstance(path, StagedPath) for path in (preds, *away)):
        # Which files an instance needs is known when its file is read.
        raise ArgumentError(
            "files of instances are read in local folders only",
            path=preds,
            advice="copy PREDS and what they belong to here, and the results back",
        )
    from segfix.polygons.yolo import LABELS

    lists, yolo_set = holds_lists(preds), is_yolo_set(preds)
    others = Counter[str]()
    files = list_entries(
        preds,
        (".txt",) if lists or yolo_set else INSTANCE_SUFFIXES,
        what="instances",
        recursive=recursive or lists or yolo_set,
        leave_out=leave_out,
        one_per_stem=False,
        passed_over=others,
    )
    if lists:
        found = [file for file in files if file.path.name.endswith(PREDICTION_LIST)]
    else:
        labels = f"{LABELS}/" if yolo_set else ""
        found = _of_one_kind(preds, [file for file in files if file.stem.startswith(labels)])
    if passed_over is not None:
        left = set(files) - set(found)
        others.update(file.path.suffix.lower() for file in left)
        passed_over.update({kind: others[kind] for kind in others.keys() - set(BESIDE)})
    return found


def _of_one_kind(preds: Path, files: Sequence[Entry]) -> list[Entry]:
    """Leave out the companions of labels, and refuse files of several tools.

    Raises:
        PairingError: There are such of several endings.
    """
    from segfix.polygons.yolo import is_companion, is_label_file

    kinds: dict[str, list[Entry]] = {}
    for file in files:
        kinds.setdefault(file.path.suffix.lower(), []).append(file)
    texts = kinds.pop(".txt", [])
    labels = [file for file in texts if file.chosen or not is_companion(file.path)]
    if labels and (not kinds or any(is_label_file(file.path) for file in labels)):
        kinds[".txt"] = labels
    if len(kinds) > 1:
        found = " and ".join(f"{len(some)} {suffix}" for suffix, some in sorted(kinds.items()))
        raise PairingError(
            f"{preds}: {found} files, which are different tools'; keep each tool's in a folder of "
            "its own, or name one file."
        )
    return [file for some in kinds.values() for file in some]


def name_images(file: Entry) -> list[str]:
    """Name the image of a list of Cityscapes: stems that its other files may have."""
    stem = f"{file.stem}{file.path.suffix}".removesuffix(PREDICTION_LIST)
    return [stem, PurePosixPath(stem).name]


def pair_images(
    names: Mapping[Any, Sequence[str]],
    maps: Sequence[Entry] | Partners,
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
