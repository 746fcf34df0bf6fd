"""Refine the images of a file of instances, and write it when all have been tried."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segfix.errors import PassedOverError, SegfixError, SeveralFaultsError
from segfix.files import Entry, Pair
from segfix.files.pairing import Partners
from segfix.files.provenance import content_digest, is_whole, read_record
from segfix.formats import LabelMap, OffsetMap, write_label_map
from segfix.formats.label_maps import pixel_digest
from segfix.instances.by_image import ImageInstances, name_image
from segfix.instances.listing import pair_images
from segfix.jobs.run import Batch
from segfix.jobs.task import Output, Row, Skipped
from segfix.refinement.apply import PREDICTION_KEY, RefineSettings

NO_OFFSETS = "no offset map of that name; run predict-offsets on its image"
NO_PHOTOGRAPH = "no photograph of that name; say with --map or --suffix which one it is"
OF_OTHERS = "with instances of other photographs"
Form = Literal["polygons", "rle"]

INSTANCE_KIND = "refined instances"
"""What the record of a file of instances says that it is."""


@dataclass(frozen=True)
class InstanceSettings:
    """How files of instances are refined.

    Attributes:
        masks: How a mask is.
        drop_empty: Whether an instance of whose mask nothing is left is left out, instead of kept
            as it was.
        form: What all instances become; None: they stay polygons or masks.
        simplify: How far polygons may leave the pixels' edges to have fewer vertices, pixels.
    """

    masks: RefineSettings = field(default_factory=RefineSettings)
    drop_empty: bool = False
    form: Form | None = None
    simplify: float = 0.5


@dataclass(frozen=True)
class Run:
    """What the files of a run share.

    Attributes:
        maps: The offset maps.
        out: Folder of the results.
        settings: How to refine.
        naming: Of `pair_entries`.
        file_names: Of images by their ids, for files that don't tell them.
        workers: Images of one file worked on at a time.
        max_failures: Stop after this many failed images of a file.
        quiet: No progress bar over the images of a file.
        photographs: Where offset maps are made on the way, the paths of photographs by those of
            the offset maps, in whose place messages name them.
        looked: Where offset maps are made on the way, that of each image (`where` of its
            `InstanceEntry`), None where this has failed and is told; None: the user has given them.
        others: `where` of the images that are of other photographs than that to be looked at.
    """

    maps: Sequence[Entry] | Partners
    out: Path
    settings: InstanceSettings = InstanceSettings()
    naming: Mapping[str, Any] = field(default_factory=dict)
    file_names: Mapping[int | str, str] = field(default_factory=dict)
    workers: int = 1
    max_failures: int | None = None
    quiet: bool = True
    photographs: Mapping[str, str] | None = None
    looked: Mapping[str, Entry | None] | None = None
    others: Set[str] = frozenset()


def refine_images(
    file: Entry,
    images: Sequence[ImageInstances],
    pairs: Mapping[Any, Pair],
    work: Callable[[ImageInstances], Row],
    write: Callable[[Path, str], None],
    output: Output,
    run: Run,
    parts: Sequence[Path] = (),
    pictures: Mapping[Any, Path] = MappingProxyType({}),
) -> Row:
    """Work on every image of a file and write it, unless it is there already.

    Args:
        file: The file.
        images: Those in it.
        pairs: Their offset maps.
        work: Does an image.
        write: Writes the result with its record.
        output: The result.
        run: The rest.
        parts: Pictures that belong to the result.
        pictures: By image, those that belong to the file.
    """
    others = {one.image for one in images if name_image(file.path, one.image) in run.others}
    if others and len(others) == len(images):
        raise of_others(f"{file.path}")
    digests = dict[Any, str]()
    for image, picture in pictures.items():
        # Of one that can't be read, work tells.
        with suppress(SegfixError):
            digests[image] = content_digest(picture)
    offsets = {
        repr(image.image): content_digest(pair.partner.path) + digests.get(image.image, "")
        if (pair := pairs.get(image.image)) and pair.partner
        else None
        for image in images
        if image.image not in others
    }
    record = start_record(INSTANCE_KIND, file.path, run) | {"offsets": offsets}
    check_result(output, record, parts)
    summary = Batch(images, work, "image").run(
        workers=run.workers, max_failures=run.max_failures, quiet=run.quiet
    )
    if images and not summary.done:
        raise SeveralFaultsError(summary.failed)
    # What holds a faulty instance is tried again, so that it is told again.
    done = {row["output"] for row in summary.done if not row.get("faults")}
    record["offsets"] = {name: offsets[name] if name in done else None for name in offsets}
    write(output.path, json.dumps(record))
    faults = [text for row in summary.done for text in row.get("faults", ())]
    kept, left_alone = (
        sum((Counter(row.get(key)) for row in summary.done), Counter[str]())
        for key in ("kept", "left_alone")
    )
    return {
        "changed": sum(row["changed"] for row in summary.done),
        "kept": dict(kept),
        "left_alone": dict(left_alone),
        "flattened": sum(row.get("flattened", 0) for row in summary.done),
        "emptied": [item for row in summary.done for item in row["emptied"]],
        "images": len(summary.done),
        "other_photographs": len(others),
        "other_predictions": sum(row["other_prediction"] for row in summary.done),
        "nothing": sum(row.get("nothing", 0) for row in summary.done),
        "turned": [row["turned"] for row in summary.done if "turned" in row],
        "failed": [*summary.failed, *faults],
        "left": summary.left,
    }


def pair_file(file: Entry, images: Sequence[ImageInstances], run: Run) -> dict[Any, Pair]:
    """Find the offset map of each image of a file, see `pair_images`."""
    if run.looked is not None:
        found = {one.image: run.looked.get(name_image(file.path, one.image)) for one in images}
        return {image: Pair(file, offsets) for image, offsets in found.items() if offsets}
    names = {image.image: image.names for image in images}
    return pair_images(names, run.maps, naming=run.naming, chosen=file.chosen)


def find_partner(where: str, pair: Pair | None, run: Run) -> Entry:
    """Give the offset map of an image.

    Raises:
        SegfixError: There is none; the text begins with `where`, or was told before.
        PassedOverError: It is of another photograph than that to be looked at.
    """
    if where in run.others:
        raise of_others(where)
    if run.looked and where in run.looked:
        if offsets := run.looked[where]:
            return offsets
        raise SeveralFaultsError
    if pair is not None and pair.partner is not None:
        return pair.partner
    if pair is not None and pair.entry.problem:
        raise SegfixError(f"{where}: {pair.entry.problem}")
    missing = NO_OFFSETS if run.looked is None else NO_PHOTOGRAPH
    raise SegfixError(
        f"{missing}, or give --annotations with the file names of image ids", path=where
    )


def of_others(where: str) -> PassedOverError:
    """Say of a file or an image of one that other photographs are meant."""
    return PassedOverError(NO_PHOTOGRAPH, kind=OF_OTHERS, path=where)


def name_map_of(offsets: Entry, run: Run) -> str:
    """Name an offset map, or its photograph, as what a mask is compared with."""
    photograph = (run.photographs or {}).get(f"{offsets.path}")
    return f"photograph {photograph}" if photograph else f"offset map {offsets.path}"


def made_for_others(masks: Iterable[NDArray[np.bool_]], count: int, offset_map: OffsetMap) -> bool:
    """Tell whether an offset map was made for other masks than these, all of its image."""
    made_for = offset_map.source.get(PREDICTION_KEY)
    shape = (count, *offset_map.codes.shape)
    return made_for is not None and made_for != pixel_digest(masks, shape)


def check_apart(results: Sequence[Path], sources: Sequence[Path], out: Path) -> None:
    """Refuse pictures of masks that would replace what is read."""
    if set(map(os.path.realpath, results)) & set(map(os.path.realpath, sources)):
        raise SegfixError(
            "results would replace what is read", path=out, advice="choose another with -o"
        )


def start_record(kind: str, source: Path, run: Run) -> dict[str, Any]:
    """Begin the record of a result: what it is, how and of which file it was made."""
    settings = asdict(run.settings)
    if kind != INSTANCE_KIND:
        # Pictures are no polygons.
        del settings["form"], settings["simplify"]
    return {
        "kind": kind,
        "settings": settings,
        "instances": content_digest(source),
    }


def check_result(output: Output, record: dict[str, Any], parts: Sequence[Path] = ()) -> None:
    """Check an output as `Output.check` does, but have made again what was left unfinished.

    Args:
        output: The output.
        record: Of which `offsets` holds digests by image, None where there is no offset map; in
            the output's own record, where an image isn't refined.
        parts: Pictures that belong to the output.
    """
    try:
        found = json.loads(read_record(output.path) or "null")
        refined = found["offsets"]
        unfinished = (
            {**found, "offsets": None} == {**record, "offsets": None}
            and None in refined.values()
            and all(digest in (None, record["offsets"][image]) for image, digest in refined.items())
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        unfinished = False
    try:
        replace(output, overwrite=output.overwrite or unfinished).check(record)
    except Skipped:
        if all(part.exists() and is_whole(part) for part in parts):
            raise


def write_picture(path: Path, label_map: LabelMap, record: dict[str, Any]) -> None:
    """Write a picture of masks or segments with its record."""
    write_label_map(path, label_map, record=json.dumps(record, sort_keys=True))
