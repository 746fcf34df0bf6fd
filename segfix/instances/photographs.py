"""Instances of photographs: which file holds them, and their masks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import FileFormatError, SegfixError
from segfix.files import Entry, Pair
from segfix.files.limits import check_bytes
from segfix.files.provenance import content_digest
from segfix.formats import LabelMap, read_label_map
from segfix.instances.by_image import (
    ImageInstances,
    name_image,
    read_document,
    sort_instances,
)
from segfix.instances.cityscapes import PREDICTION_LIST, read_list
from segfix.instances.listing import name_images, pair_images
from segfix.instances.masks import decode_mask
from segfix.instances.panoptic import is_panoptic, read_panoptic, read_panoptic_map
from segfix.polygons.regions import Region, decode_region
from segfix.polygons.shapes import Shape, find_parts, locate_shapes


@dataclass(frozen=True, slots=True)
class InstanceEntry(Entry):
    """What a file of instances says of one image.

    Attributes:
        where: The file, and the image if it is of several, for messages.
        items: The instances: objects of JSON, regions, or pictures of their masks.
        size: Height and width that the file states.
        panoptic: Whether the only item is a picture of all segments.
    """

    where: str = ""
    items: Sequence[Any] = ()
    size: tuple[int, int] | None = None
    panoptic: bool = False

    def digest(self) -> str:
        """Digest what the masks are made of, shortly, to notice when it has changed.

        Raises:
            FileFormatError: A picture can't be read.
        """
        texts = [
            content_digest(item)
            if isinstance(item, Path)
            else item.digest()
            if isinstance(item, Region)
            else json.dumps({key: item.get(key) for key in ("segmentation", "segments")})
            for item in self.items
        ]
        return hashlib.blake2b(json.dumps(texts).encode(), digest_size=16).hexdigest()

    def folders(self) -> set[Path]:
        """List the folders of the pictures of masks."""
        return {item.parent.resolve() for item in self.items if isinstance(item, Path)}

    def read(
        self,
        size: tuple[int, int],
        image: Path,
        georeference: Mapping[str, Any] | None = None,
    ) -> LabelMap | None:
        """Read the masks or segments of a photograph.

        Args:
            size: Height and width that they must have.
            image: The photograph, for messages.
            georeference: Of the photograph, see `locate_shapes`.

        Returns:
            The prediction; None where there is no instance.

        Raises:
            SegfixError: All masks are broken or of another size, or take more than `max_bytes`; or
                a picture is.
            ModuleNotFoundError: The extra isn't installed.
        """
        if self.panoptic:
            label_map = read_panoptic_map(self.items[0])
            check_size(str(self.items[0]), label_map.shape, size, f"photograph {image}")
            return label_map
        items = locate_shapes(dict(enumerate(self.items)), georeference, size, self.where)
        shapes = [item for item in items.values() if isinstance(item, Shape)]
        if any(not shape.fault for shape in shapes):
            return paint_shapes(shapes, size)
        check_bytes(len(self.items) * size[0] * size[1], self.where)
        masks = np.zeros((len(self.items), *size), bool)
        faults = []
        for place, item in enumerate(self.items):
            if isinstance(item, Path):
                mask = mark_pixels(read_label_map(item))
                check_size(str(item), mask.shape, size, f"photograph {image}")
            else:
                like = f"photograph {image}"
                try:
                    mask = decode_instance(item, size, self.size, self.where, place, like) != 0
                except FileFormatError as error:
                    # Left out, as `segfix refine` leaves it, which names it.
                    faults.append(error)
                    continue
            masks[place] = mask
        if len(faults) == len(self.items) > 0:
            raise faults[0]
        return LabelMap(masks, "masks", channels_first=True) if self.items else None


def pair_instances(
    files: Sequence[Entry],
    photographs: Sequence[Entry],
    root: Path,
    *,
    naming: Mapping[str, Any] | None = None,
    file_names: Mapping[int | str, str] | None = None,
    share: bool = False,
    missing: dict[str, str] | None = None,
) -> Iterator[Pair]:
    """Pair photographs with their instances in files, of which one is in memory at a time.

    Args:
        files: JSON of instances or of panoptic segments, lists of Cityscapes.
        photographs: The partners.
        root: Folder of the files.
        naming: Of `pair_entries`.
        file_names: Of images by their ids, for files that don't tell them.
        share: Whether a photograph may have instances in several files: it is yielded once for
            each, with another stem every time.
        missing: Receives the names of images with instances, but without a photograph, by the
            `where` of their `InstanceEntry`.

    Yields:
        For every photograph a pair with an `InstanceEntry`, or with a problem; and each file or
        image with a fault that is of none of them.

    Raises:
        SegfixError: The only file there is has a fault.
    """
    owners: dict[Path, str] = {}
    empty: dict[Path, Entry] = {}
    for file in files:
        try:
            found = _read_entries(file, root, file_names)
        except SegfixError as error:
            if len(files) == 1:
                raise
            found = [([file.stem], InstanceEntry(file.path, file.stem, str(error)))]
        names = dict(enumerate(names for names, _ in found))
        pairs = pair_images(names, photographs, naming=naming, chosen=file.chosen)
        if not pairs and len(found) == len(photographs) == 1 and _holds_shapes(found[0][1]):
            # Their files name no photograph, but it shows whether they lie on it.
            pairs = {0: Pair(found[0][1], photographs[0])}
        for number, (stems, entry) in enumerate(found):
            pair = pairs.get(number)
            photograph, problem = pair.partner if pair else None, entry.problem
            if pair and pair.entry.problem:
                problem = f"{entry.where}: {pair.entry.problem}"
            if photograph is None:
                if problem:
                    yield Pair(replace(entry, problem=problem), None)
                elif entry.items and missing is not None:
                    missing[entry.where] = stems[0]
            elif photograph.path in owners and share and entry.items:
                stem = ".".join([photograph.stem, file.stem, *([f"{number}"] if number else [])])
                yield Pair(replace(photograph, stem=stem, problem=problem), entry)
            elif photograph.path in owners:
                # Listed in several files, it has its instances in one.
                if entry.items or entry.problem:
                    problem = problem or (
                        f"{entry.where}: of {photograph.path}, as are the instances of "
                        f"{owners[photograph.path]}; keep one of them, or run segfix fix, which "
                        "looks at it for each."
                    )
                    yield Pair(replace(entry, problem=problem), None)
            elif not entry.items and not problem:
                empty.setdefault(photograph.path, entry)
            else:
                owners[photograph.path] = entry.where
                yield Pair(replace(photograph, problem=photograph.problem or problem), entry)
    yield from _pair_rest([one for one in photographs if one.path not in owners], empty)


def _holds_shapes(entry: InstanceEntry) -> bool:
    return any(isinstance(item, Shape) for item in entry.items)


def _pair_rest(photographs: Sequence[Entry], empty: Mapping[Path, Entry]) -> Iterator[Pair]:
    """Pair photographs with the files that list them without an instance; else they're faulty."""
    for photograph in photographs:
        problem = photograph.problem
        if problem is None and photograph.path not in empty:
            problem = (
                f"{photograph.path}: no instances of that name; say with --map whose they are,"
                " give --annotations with the file names of image ids, or leave --preds out."
            )
        yield Pair(replace(photograph, problem=problem), empty.get(photograph.path))


def _read_entries(
    file: Entry, root: Path, file_names: Mapping[int | str, str] | None
) -> list[tuple[Sequence[str], InstanceEntry]]:
    """Read what a file says of each image, behind the image's names."""
    if file.problem:
        raise SegfixError(file.problem)
    path, stem = file.path, file.stem
    if path.name.endswith(PREDICTION_LIST):
        masks = [Path(mask) for mask in read_list(path, root)]
        return [(name_images(file), InstanceEntry(path, stem, where=str(path), items=masks))]
    document = read_document(path)
    if is_panoptic(document):
        images: Sequence[ImageInstances]
        items: Sequence[Any]
        images, items = read_panoptic(file, document, file_names, empty=True)
    else:
        content = sort_instances(file, document, file_names, empty=True)
        images, items = content.images, content.instances
    return [
        (
            image.names,
            InstanceEntry(
                path,
                stem,
                where=name_image(path, image.image),
                items=[items[place] for place in image.places],
                size=image.size,
                panoptic=is_panoptic(document) and bool(image.places),
            ),
        )
        for image in images
    ]


def decode_instance(
    item: Mapping[str, Any] | Region,
    size: tuple[int, int],
    stated: tuple[int, int] | None,
    where: str,
    place: int,
    like: str,
) -> NDArray[np.uint8]:
    """Decode a mask, see `decode_mask`; a failure becomes a fault of instance `place`."""
    try:
        if isinstance(item, Region):
            return decode_region(item, size, stated)
        return decode_mask(item, *size, stated)
    except ValueError as error:
        identity = None if isinstance(item, Region) else item.get("id")
        known = f" (id {identity!r})" if identity is not None else ""
        raise FileFormatError(
            f"{where}: the mask of instance {place}{known} is broken, or doesn't fit its {like} "
            f"({error}); write it again, or predict offsets on images of the masks' size."
        ) from error


def paint_shapes(shapes: Sequence[Shape], size: tuple[int, int]) -> LabelMap:
    """Paint geo-referenced shapes, which are many on a photograph, but hardly overlap.

    Args:
        shapes: Located; those with a fault are left out, of those that overlap the last is above.
        size: Height and width of the photograph.

    Returns:
        Their numbers, from 1; 0 elsewhere.
    """
    labels = np.zeros(size, np.int32)
    sound = {number: shape for number, shape in enumerate(shapes, 1) if not shape.fault}
    for number, shape in sound.items():
        ((_, box),) = find_parts({number: shape}, size, margin=1)
        here = labels[box]
        here[decode_region(shape.cut_out(box), here.shape) != 0] = number
    return LabelMap(labels, "ids")


def mark_pixels(label_map: LabelMap) -> NDArray[np.bool_]:
    """Mark, (H, W), the pixels of a mask's picture that aren't background."""
    return np.asarray(label_map.array.reshape(*label_map.shape, -1).any(axis=2))


def check_size(where: str, shape: Sequence[int], size: Sequence[int], like: str) -> None:
    """Raise `SegfixError` unless a mask's height and width are those of what it is `like`."""
    if tuple(shape) != tuple(size):
        raise SegfixError(
            f"{shape[1]}×{shape[0]}",
            path=where,
            expected=f"its {like} is {size[1]}×{size[0]}",
            advice="predict offsets on images of the masks' size",
        )
