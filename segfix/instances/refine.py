"""Refinement of instances: each mask is looked up on its own through its image's offset map."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import SegfixError
from segfix.files import Entry, Pair
from segfix.files.provenance import content_digest, is_whole, read_record, recorded_path
from segfix.files.reading import path_within
from segfix.formats import LabelMap, OffsetMap, read_label_map, read_offset_map, write_label_map
from segfix.formats.label_maps import pixel_digest
from segfix.instances.by_image import ImageInstances, InstanceFile, sort_instances
from segfix.instances.cityscapes import read_list
from segfix.instances.coco import read_json, write_json
from segfix.instances.listing import name_images, pair_images
from segfix.instances.masks import with_mask
from segfix.instances.panoptic import is_panoptic, read_panoptic, read_panoptic_map
from segfix.instances.photographs import check_size, decode_instance, mark_pixels
from segfix.jobs.run import Batch, Skipped, check_output, output_path
from segfix.refinement.apply import (
    PREDICTION_KEY,
    RefineSettings,
    keep_ids,
    made_for_another,
    refine_into,
    refine_planes,
)


@dataclass(frozen=True)
class InstanceSettings:
    """How files of instances are refined.

    Attributes:
        masks: How a mask is.
        drop_empty: Whether an instance of whose mask nothing is left is left out, instead of kept
            as it was.
    """

    masks: RefineSettings = field(default_factory=RefineSettings)
    drop_empty: bool = False


@dataclass(frozen=True)
class Run:
    """What the files of a run share.

    Attributes:
        maps: The offset maps.
        out: Folder of the results.
        settings: How to refine.
        naming: Of `pair_entries`.
        file_names: Of images by their ids, for files that don't tell them.
        overwrite: Whether to replace existing results.
        workers: Images of one file worked on at a time.
        max_failures: Stop after this many failed images of a file.
        quiet: No progress bar over the images of a file.
    """

    maps: Sequence[Entry]
    out: Path
    settings: InstanceSettings = InstanceSettings()
    naming: Mapping[str, Any] = field(default_factory=dict)
    file_names: Mapping[int | str, str] = field(default_factory=dict)
    overwrite: bool = False
    workers: int = 1
    max_failures: int | None = None
    quiet: bool = True


def refine_instances(file: Entry, run: Run) -> dict[str, Any]:
    """Refine a JSON file of instances or of panoptic segments.

    Instances of images that have no offset map, or a fault, stay in the file as they are; a later
    run tries them again.

    Args:
        file: The file; results are of the same kind.
        run: The rest.

    Returns:
        The paths, the number of `instances` and of those `changed`, `emptied`: which would have
        vanished; `images`: how many were refined, and `other_predictions`: how many of their offset
        maps were made for other ones; `failed`: one text per image that failed, and `left`: how
        many were not tried.

    Raises:
        Skipped: The result is there already.
        SegfixError: The file is broken, or every image failed.
        ModuleNotFoundError: The extra isn't installed.
    """
    if file.problem:
        raise SegfixError(file.problem)
    document = read_json(file.path)
    if is_panoptic(document):
        return _refine_panoptic(file, document, run)
    return _refine_json(file, sort_instances(file, document, run.file_names), run)


def refine_list(file: Entry, root: Path, run: Run) -> dict[str, Any]:
    """Refine the masks of a list `*_pred.txt` of Cityscapes; the list itself stays as it is.

    Args:
        file: The list.
        root: Folder of the predictions, whose layout the results mirror.
        run: The rest.

    Returns:
        As `refine_instances`.

    Raises:
        Skipped: The result is there already.
        SegfixError: A file is missing or broken, or the sizes differ.
    """
    name = file.stem + file.path.suffix
    stem, *_ = names = name_images(file)
    pairs = pair_images({name: names}, run.maps, naming=run.naming, chosen=file.chosen)
    offsets = _partner(str(file.path), pairs.get(name))
    masks = [Path(mask) for mask in read_list(file.path, root)]
    results = [run.out / os.path.relpath(mask, root) for mask in masks]
    _check_apart(results, masks, run.out)
    path = run.out / name
    record = _record("refined instance list", file.path, run) | {
        "masks": [content_digest(mask) for mask in masks],
        "offsets": {stem: content_digest(offsets.path)},
    }
    _check_result(path, record, _listed(path, results, run), run.overwrite)
    offset_map = read_offset_map(offsets.path)
    emptied, changed, kept = [], 0, []
    for mask, result in zip(masks, results, strict=True):
        label_map = read_label_map(mask)
        check_size(str(mask), label_map.shape, offset_map.codes.shape, _map_of(offsets))
        refined = label_map.array.copy()
        refine_into(refined, label_map.array, offset_map, run.settings.masks)
        empty = not refined.any()
        kept.append(not (empty and run.settings.drop_empty))
        if empty:
            emptied.append({"image": stem, "mask": os.path.relpath(mask, root)})
            refined = label_map.array
        if not kept[-1]:
            continue
        changed += not np.array_equal(refined, label_map.array)
        own = _record("refined mask", mask, run) | {"offsets": record["offsets"]}
        with suppress(Skipped):
            check_output(result, own, own, run.overwrite)
            _write_picture(result, label_map.with_array(refined), own)
    flags = iter(kept)
    lines = file.path.read_bytes().decode("utf-8").splitlines(keepends=True)
    text = "".join(line for line in lines if not line.strip() or next(flags))
    with recorded_path(path, json.dumps(record)) as temporary:
        temporary.write_bytes(text.encode("utf-8"))
    return {
        "input": str(file.path),
        "output": str(path),
        "instances": sum(kept),
        "changed": changed,
        "emptied": emptied,
        "images": 1,
        "other_predictions": int(
            _made_for_others(
                (mark_pixels(read_label_map(mask)) for mask in masks), len(masks), offset_map
            )
        ),
    }


def _made_for_others(masks: Iterable[NDArray[np.bool_]], count: int, offset_map: OffsetMap) -> bool:
    """Whether an offset map was made for other masks than these, all of its image."""
    made_for = offset_map.source.get(PREDICTION_KEY)
    shape = (count, *offset_map.codes.shape)
    return made_for is not None and made_for != pixel_digest(masks, shape)


def _listed(path: Path, results: Sequence[Path], run: Run) -> Sequence[Path]:
    """Which of the results the list that an earlier run wrote names."""
    if not run.settings.drop_empty:
        return results
    with suppress(SegfixError, OSError):
        return [Path(mask) for mask in read_list(path, run.out)]
    return []


def _refine_json(file: Entry, content: InstanceFile, run: Run) -> dict[str, Any]:
    pairs = _pairs_of(file, content.images, run)
    instances: list[dict[str, Any] | None] = list(content.instances)

    def work(image: ImageInstances) -> dict[str, Any]:
        where = f"{file.path}: image {image.image!r}"
        offsets = _partner(where, pairs.get(image.image))
        offset_map = read_offset_map(offsets.path)
        emptied, changed = [], dict[int, dict[str, Any] | None]()

        def decoded(place: int) -> NDArray[np.uint8]:
            height, width = offset_map.codes.shape
            item = content.instances[place]
            return decode_instance(
                item, (height, width), image.size, where, place, _map_of(offsets)
            )

        for place in image.places:
            item, mask = content.instances[place], decoded(place)
            refined = mask.copy(order="K")  # column by column, as run lengths are
            refine_into(refined, mask, offset_map, run.settings.masks)
            if not refined.any():
                emptied.append({"image": image.image, "place": place, "id": item.get("id")})
                if run.settings.drop_empty:
                    changed[place] = None
            elif not np.array_equal(refined, mask):
                changed[place] = with_mask(item, refined)
        # Only now: of an image with a fault, all instances stay as they are.
        for place, item_or_none in changed.items():
            instances[place] = item_or_none
        kept = sum(item_or_none is not None for item_or_none in changed.values())
        return {
            "output": repr(image.image),
            "emptied": emptied,
            "changed": kept,
            "other_prediction": _made_for_others(
                (decoded(place) != 0 for place in image.places), len(image.places), offset_map
            ),
        }

    def write(path: Path, record: str) -> None:
        kept = [item for item in instances if item is not None]
        write_json(path, content.with_instances(kept), record=record)

    row = _refine_images(file, content.images, pairs, work, write, run)
    return {**row, "instances": sum(item is not None for item in instances)}


def _refine_panoptic(file: Entry, document: Any, run: Run) -> dict[str, Any]:
    images, sources = read_panoptic(file, document, run.file_names)
    annotations, folder = list(document["annotations"]), output_path(run.out, file.stem, "")
    results = [
        path_within(folder, item["file_name"], folder, str(file.path)) for item in annotations
    ]
    _check_apart(results, sources, run.out)
    pairs = _pairs_of(file, images, run)

    def work(image: ImageInstances) -> dict[str, Any]:
        (place,) = image.places
        source, result = sources[place], results[place]
        label_map = read_panoptic_map(source)
        pair = pairs.get(image.image)
        own = _record("refined panoptic map", source, run)
        try:
            offsets = _partner(f"{file.path}: image {image.image!r}", pair)
            offset_map = read_offset_map(offsets.path)
            check_size(str(source), label_map.shape, offset_map.codes.shape, _map_of(offsets))
        except SegfixError:
            own["offsets"] = {"map": None}
            _check_result(result, own, [], run.overwrite)
            _write_picture(result, label_map, own)
            raise
        own["offsets"] = {"map": content_digest(offsets.path)}
        segments = annotations[place]["segments_info"]
        refined = refine_planes(label_map, offset_map, run.settings.masks).array
        listed = [segment["id"] for segment in segments]
        keep = not run.settings.drop_empty
        lost = keep_ids(label_map, refined, listed, _segment_ids, keep=keep)
        vanished = set(lost)
        with suppress(Skipped):
            _check_result(result, own, [], run.overwrite)
            _write_picture(result, label_map.with_array(refined), own)
        before, after = _segment_ids(label_map), _segment_ids(label_map.with_array(refined))
        moved = before != after
        touched = {*np.unique(before[moved]).tolist(), *np.unique(after[moved]).tolist()}
        measures = _measures(after) if touched else {}
        annotations[place] = {
            **annotations[place],
            "segments_info": [
                _measured(segment, measures) if segment["id"] in touched else segment
                for segment in segments
                if not run.settings.drop_empty or segment["id"] not in vanished
            ],
        }
        return {
            "output": repr(image.image),
            "emptied": [{"image": image.image, "id": identity} for identity in lost],
            "changed": sum(one in touched and one not in vanished for one in listed),
            "other_prediction": made_for_another(label_map, offset_map),
        }

    def write(path: Path, record: str) -> None:
        write_json(path, {**document, "annotations": annotations}, record=record)

    pictures = {image.image: sources[image.places[0]] for image in images}
    row = _refine_images(file, images, pairs, work, write, run, results, pictures)
    return {**row, "instances": sum(len(item["segments_info"]) for item in annotations)}


def _measures(ids: NDArray[np.integer[Any]]) -> dict[int, tuple[int, list[int]]]:
    """Area and box (x, y, width, height) of every segment, all at once: there may be many."""
    # Runs along the rows, sorted by segment.
    begins = np.ones(ids.shape, bool)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    places = np.flatnonzero(begins)
    lengths = np.diff(places, append=ids.size)
    values = ids.ravel()[places]
    order = np.argsort(values, kind="stable")
    found, starts = np.unique(values[order], return_index=True)
    rows, cols = np.divmod(places[order], ids.shape[1])
    lengths = lengths[order]
    top, left = (np.minimum.reduceat(numbers, starts) for numbers in (rows, cols))
    bottom, right = (np.maximum.reduceat(ends, starts) for ends in (rows + 1, cols + lengths))
    areas = np.add.reduceat(lengths, starts)
    boxes = np.stack([left, top, right - left, bottom - top], axis=1)
    return dict(zip(found.tolist(), zip(areas.tolist(), boxes.tolist(), strict=True), strict=True))


def _measured(
    segment: dict[str, Any], measures: Mapping[int, tuple[int, list[int]]]
) -> dict[str, Any]:
    """A segment with the area and box of its pixels, where it has them."""
    area, box = measures.get(segment["id"], (0, None))
    measured = dict(segment)
    if "area" in segment:
        measured["area"] = area
    if "bbox" in segment and box:
        measured["bbox"] = box
    return measured


def _refine_images(
    file: Entry,
    images: Sequence[ImageInstances],
    pairs: Mapping[Any, Pair],
    work: Callable[[ImageInstances], dict[str, Any]],
    write: Callable[[Path, str], None],
    run: Run,
    parts: Sequence[Path] = (),
    pictures: Mapping[Any, Path] = MappingProxyType({}),
) -> dict[str, Any]:
    """Work on every image of a file and write it, unless it is there already.

    Args:
        file: The file.
        images: Those in it.
        pairs: Their offset maps.
        work: Does an image.
        write: Writes the result with its record.
        run: The rest.
        parts: Pictures that belong to the result.
        pictures: By image, those that belong to the file.
    """
    path = output_path(run.out, file.stem, file.path.suffix)
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
    }
    record = _record("refined instances", file.path, run) | {"offsets": offsets}
    _check_result(path, record, parts, run.overwrite)
    summary = Batch(images, work, "image").run(
        workers=run.workers, max_failures=run.max_failures, quiet=run.quiet
    )
    if summary.failed and not summary.done:
        all_of = f" None of {len(images)} images could be refined." if len(images) > 1 else ""
        raise SegfixError(summary.failed[0] + all_of)
    done = {row["output"] for row in summary.done}
    record["offsets"] = {name: offsets[name] if name in done else None for name in offsets}
    write(path, json.dumps(record))
    return {
        "input": str(file.path),
        "output": str(path),
        "changed": sum(row["changed"] for row in summary.done),
        "emptied": [item for row in summary.done for item in row["emptied"]],
        "images": len(summary.done),
        "other_predictions": sum(row["other_prediction"] for row in summary.done),
        "failed": summary.failed,
        "left": summary.left,
    }


def _pairs_of(file: Entry, images: Sequence[ImageInstances], run: Run) -> dict[Any, Pair]:
    names = {image.image: image.names for image in images}
    return pair_images(names, run.maps, naming=run.naming, chosen=file.chosen)


def _partner(where: str, pair: Pair | None) -> Entry:
    """The offset map of an image; where there is none, an error that begins with `where`."""
    if pair is not None and pair.partner is not None:
        return pair.partner
    if pair is not None and pair.entry.problem:
        raise SegfixError(f"{where}: {pair.entry.problem}")
    raise SegfixError(
        f"{where}: no offset map of that name; run predict-offsets on its image, or give "
        "--annotations with the file names of image ids."
    )


def _map_of(offsets: Entry) -> str:
    return f"offset map {offsets.path}"


def _check_apart(results: Sequence[Path], sources: Sequence[Path], out: Path) -> None:
    if set(map(os.path.realpath, results)) & set(map(os.path.realpath, sources)):
        raise SegfixError(f"{out}: results would replace what is read; choose another with -o.")


def _record(kind: str, source: Path, run: Run) -> dict[str, Any]:
    return {
        "kind": kind,
        "settings": asdict(run.settings),
        "instances": content_digest(source),
    }


def _check_result(
    path: Path, record: dict[str, Any], parts: Sequence[Path], overwrite: bool
) -> None:
    """`check_output`, but what an earlier run left unfinished is made again.

    Args:
        path: The output.
        record: Of which `offsets` holds digests by image, None where there is no offset map; in
            the output's own record, where an image isn't refined.
        parts: Pictures that belong to the output.
        overwrite: Whether to replace whatever is there.
    """
    try:
        found = json.loads(read_record(path) or "null")
        refined = found["offsets"]
        unfinished = (
            {**found, "offsets": None} == {**record, "offsets": None}
            and None in refined.values()
            and all(digest in (None, record["offsets"][image]) for image, digest in refined.items())
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        unfinished = False
    try:
        check_output(path, record, record, overwrite or unfinished)
    except Skipped:
        if all(part.exists() and is_whole(part) for part in parts):
            raise


def _write_picture(path: Path, label_map: LabelMap, record: dict[str, Any]) -> None:
    write_label_map(path, label_map, record=json.dumps(record, sort_keys=True))


def _segment_ids(label_map: LabelMap) -> NDArray[np.integer[Any]]:
    """(H, W) ids; an alpha channel doesn't count."""
    return label_map.with_array(label_map.array[..., :3]).ids()
