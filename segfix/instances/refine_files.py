"""Refine instances: each mask is looked up on its own through its image's offset map."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import ArgumentError, FileFormatError, SegfixError, require_extra
from segfix.files import Entry, Pair
from segfix.files.pairing import Partners, index_partners
from segfix.files.provenance import content_digest, recorded_path
from segfix.formats import LabelMap, OffsetMap, read_label_map, read_offset_map
from segfix.formats.images import turn_upright
from segfix.instances.by_image import (
    ImageInstances,
    InstanceFile,
    name_image,
    read_document,
    read_file_names,
    sort_instances,
)
from segfix.instances.cityscapes import holds_lists, read_list
from segfix.instances.listing import is_yolo_set, list_instance_files, name_images, pair_images
from segfix.instances.panoptic import is_panoptic
from segfix.instances.photographs import check_size, decode_instance, mark_pixels
from segfix.instances.refine_images import (
    InstanceSettings,
    Run,
    check_apart,
    check_result,
    find_partner,
    made_for_others,
    name_map_of,
    pair_file,
    refine_images,
    start_record,
    write_picture,
)
from segfix.instances.refine_panoptic import refine_panoptic
from segfix.instances.refine_regions import refine_instances_of
from segfix.instances.refine_shapes import refine_shapes
from segfix.jobs.run import Summary, run_task
from segfix.jobs.run_settings import RunSettings
from segfix.jobs.sources import check_folders, check_results, list_offsets
from segfix.jobs.task import Job, Output, Row, Skipped, Task
from segfix.network.session import available_threads
from segfix.polygons import GEO_TOOLS
from segfix.refinement.apply import refine_into
from segfix.refinement.orientation import ASSUMED, settle_orientation


def refine_instance_files(
    preds: Path,
    offsets: Path,
    out: Path,
    settings: InstanceSettings,
    spread: RunSettings = RunSettings(),
    *,
    annotations: Path | None = None,
    recursive: bool = False,
    naming: Mapping[str, Any] | None = None,
    name: str | None = None,
    photographs: Mapping[str, str] | None = None,
    looked: Mapping[str, Entry | None] | None = None,
    others: Set[str] = frozenset(),
) -> Summary:
    """Refine a file or a folder of instances.

    Args:
        preds: What `holds_instances` knows; of Cityscapes, folders within are always read.
        offsets: The offset maps.
        out: Folder of the results.
        settings: How to refine.
        spread: How the files are spread; of one file, `workers` is the images worked on at a time.
        annotations: COCO JSON with the file names of image ids.
        recursive: Whether to go into folders within, as is done for YOLO data sets, too.
        naming: Of `pair_entries`.
        name: Of the result of a single file, which may lie beside it; None: as the file.
        photographs: See `Run`.
        looked: See `Run`.
        others: See `Run`.

    Returns:
        Of each file a row as `refine_instances` reports it, but the images that `failed` and those
        that were `left` among those of the summary.

    Raises:
        SegfixError: Nothing can be read or paired.
        MissingExtraError: pycocotools isn't installed.
    """
    if settings.masks.keep:
        raise ArgumentError(
            "--keep lists ids of label maps; of instances, crowd regions and void are kept, "
            "or with --keep none nothing is"
        )
    check_folders({"the offset maps": offsets, **({} if name else {"PREDS": preds})}, out)
    lists = holds_lists(preds)
    passed = Counter[str]()
    files = list_instance_files(
        preds,
        away=[offsets, out],
        recursive=recursive,
        leave_out=[out, offsets],
        passed_over=passed,
    )
    recursive = recursive or lists or is_yolo_set(preds)
    maps = list_offsets(offsets, recursive=recursive, leave_out=[out]) if looked is None else []
    inputs = [*(entry.path for entry in (*files, *maps)), *([annotations] if annotations else [])]
    check_results((out / (name or _name(file)) for file in files), inputs)
    # Of one file the images are worked on side by side, of many the files.
    one = len(files) == 1 and not lists
    run = Run(
        index_partners(maps, (naming or {}).get("suffixes", ())),
        out,
        settings,
        naming=naming or {},
        file_names=read_file_names(annotations) if annotations else {},
        workers=(spread.workers or available_threads()) if one else 1,
        max_failures=spread.max_failures,
        quiet=spread.quiet or not one,
        photographs=photographs,
        looked=looked,
        others=others,
    )
    root = preds if preds.is_dir() else preds.parent
    work = partial(refine_list, root=root, run=run) if lists else partial(refine_instances, run=run)
    task = Task(work, "file", (lambda _: name) if name else _name)
    with require_extra("eval"):  # or polygons, whose packages tell
        over_files = replace(spread, workers=1, quiet=True) if one else spread
        summary = run_task(task, files, out, over_files, passed_over=passed)
    for row in summary.done:
        summary.failed += row.pop("failed", [])
        summary.left += row.pop("left", 0)
    summary.failed.sort()
    return summary


def _name(file: Job) -> str:
    return file.entry.stem + file.entry.path.suffix


def refine_instances(file: Entry, output: Output, run: Run) -> Row:
    """Refine a file of instances, or of panoptic segments.

    Instances with a fault, and those of images that have no offset map or where all have one, stay
    in the file as they are; a later run tries these images again.

    Args:
        file: The file.
        output: The result, of the same kind.
        run: The rest.

    Returns:
        The number of `instances`, of those `changed`, and of those without a mask (`nothing`);
        `emptied`: which would have vanished; `left_alone` and `flattened`: how many geo-referenced
        features stayed as they were, by why, and how many lost their heights; `images`: how many
        were refined, and `other_predictions`: how many of their offset maps were made for other
        ones; `other_photographs`: how many images are of others than the one to be looked at;
        `failed`: one text per image or instance that failed, `turned`: how the masks of images
        were, see `find_turn` (None: unsure), and `left`: how many images were not tried.

    Raises:
        Skipped: The result is there already.
        SegfixError: The file is broken, or every image failed.
        ModuleNotFoundError: The extra isn't installed.
    """
    document = read_document(file.path)
    if is_panoptic(document):
        return refine_panoptic(file, document, output, run)
    return _refine_json(file, sort_instances(file, document, run.file_names), output, run)


def refine_list(file: Entry, output: Output, root: Path, run: Run) -> Row:
    """Refine the masks of a list `*_pred.txt` of Cityscapes; the list itself stays as it is.

    Args:
        file: The list.
        output: The list of the results.
        root: Folder of the predictions, whose layout the results mirror.
        run: The rest.

    Returns:
        As `refine_instances`.

    Raises:
        Skipped: The result is there already.
        SegfixError: A file is missing or broken, or the sizes differ.
    """
    name = _name(file)
    stem, *_ = names = name_images(file)
    pairs = pair_images({name: names}, run.maps, naming=run.naming, chosen=file.chosen)
    offsets = find_partner(f"{file.path}", pairs.get(name), run)
    masks = [Path(mask) for mask in read_list(file.path, root)]
    results = [run.out / os.path.relpath(mask, root) for mask in masks]
    check_apart(results, masks, run.out)
    record = start_record("refined instance list", file.path, run) | {
        "masks": [content_digest(mask) for mask in masks],
        "offsets": {stem: content_digest(offsets.path)},
    }
    check_result(output, record, _listed(output.path, results, run))
    offset_map = read_offset_map(offsets.path)
    emptied, changed, kept = [], 0, []
    for mask, result in zip(masks, results, strict=True):
        label_map = read_label_map(mask)
        check_size(str(mask), label_map.shape, offset_map.codes.shape, name_map_of(offsets, run))
        refined = label_map.array.copy()
        refine_into(refined, label_map.array, offset_map, run.settings.masks)
        empty = not refined.any()
        kept.append(not (empty and run.settings.drop_empty))
        if empty:
            if label_map.array.any() or run.settings.drop_empty:
                emptied.append({"image": stem, "mask": os.path.relpath(mask, root)})
            refined = label_map.array
        if not kept[-1]:
            continue
        changed += not np.array_equal(refined, label_map.array)
        own = start_record("refined mask", mask, run) | {"offsets": record["offsets"]}
        with suppress(Skipped):
            Output(result, output.overwrite).check(own)
            write_picture(result, label_map.with_array(refined), own)
    flags = iter(kept)
    lines = file.path.read_bytes().decode("utf-8").splitlines(keepends=True)
    text = "".join(line for line in lines if not line.strip() or next(flags))
    with recorded_path(output.path, json.dumps(record)) as temporary:
        temporary.write_bytes(text.encode("utf-8"))
    return {
        "instances": sum(kept),
        "changed": changed,
        "emptied": emptied,
        "images": 1,
        "other_predictions": int(
            made_for_others(
                (mark_pixels(read_label_map(mask)) for mask in masks), len(masks), offset_map
            )
        ),
    }


def _listed(path: Path, results: Sequence[Path], run: Run) -> Sequence[Path]:
    """List those of the results that the list of an earlier run names."""
    if not run.settings.drop_empty:
        return results
    with suppress(SegfixError, OSError):
        return [Path(mask) for mask in read_list(path, run.out)]
    return []


def _refine_json(file: Entry, content: InstanceFile, output: Output, run: Run) -> Row:
    pairs = pair_file(file, content.images, run)
    maps = run.maps.entries if isinstance(run.maps, Partners) else run.maps
    if not pairs and content.tool in GEO_TOOLS and len(content.images) == len(maps) == 1:
        # Their files name no photograph, but it shows whether they lie on it.
        pairs = {content.images[0].image: Pair(file, maps[0])}
    instances: list[Any] = list(content.instances)

    def work(image: ImageInstances) -> Row:
        where = name_image(file.path, image.image)
        offsets = find_partner(where, pairs.get(image.image), run)
        offset_map, like = read_offset_map(offsets.path), name_map_of(offsets, run)
        refine = _refine_shapes_of if content.tool in GEO_TOOLS else _refine_masks_of
        row, changes = refine(image, content, offset_map, run, where, like)
        for place, item in changes.items():
            instances[place] = item
        return {"output": repr(image.image), **row}

    def write(path: Path, record: str) -> None:
        rendered = content.render(instances)
        with recorded_path(path, record) as temporary:
            temporary.write_bytes(rendered)

    row = refine_images(file, content.images, pairs, work, write, output, run)
    return {**row, "instances": sum(item is not None for item in instances)}


def _refine_shapes_of(
    image: ImageInstances,
    content: InstanceFile,
    offset_map: OffsetMap,
    run: Run,
    where: str,
    like: str,
) -> tuple[Row, dict[int, Any]]:
    """Refine the geo-referenced shapes of an image; return its row and what changed, by place."""
    given = {place: content.instances[place] for place in image.places}
    row, changes = refine_shapes(given, offset_map, run.settings, where, like)
    others = {"points, lines or empty shapes": image.others}
    row["left_alone"] = {**others, **row["left_alone"]}
    row["emptied"] = [{"image": image.image, **one} for one in row["emptied"]]
    return row, dict(changes)


def _refine_masks_of(
    image: ImageInstances,
    content: InstanceFile,
    offset_map: OffsetMap,
    run: Run,
    where: str,
    like: str,
) -> tuple[Row, dict[int, Any]]:
    """Refine the masks of an image; return its row and its instances, by place."""
    size = offset_map.codes.shape

    def decoded(place: int) -> NDArray[np.uint8]:
        item = content.instances[place]
        return decode_instance(item, (size[0], size[1]), image.size, where, place, like)

    turn, unsure = find_turn(image.places, decoded, offset_map)

    def upright(place: int) -> NDArray[np.uint8]:
        return turn_upright(decoded(place), turn)

    faults = find_faults(image.places, decoded)
    if len(faults) == len(image.places) > 0:
        raise next(iter(faults.values()))
    sound = {place: content.instances[place] for place in image.places if place not in faults}
    found = refine_instances_of(sound, upright, offset_map, run.settings, turn=turn)
    blank = np.zeros(size, np.bool_)
    masks = (upright(place) != 0 if place in sound else blank for place in image.places)
    row = {
        "emptied": [
            {"image": image.image, "place": place, "id": _id_of(sound[place])}
            for place in found.emptied
        ],
        "changed": len(found.changed),
        "kept": {"crowd regions": found.crowds},
        "other_prediction": made_for_others(masks, len(image.places), offset_map),
        "faults": [str(error) for error in faults.values()],
        "nothing": found.nothing,
        **({"turned": None if unsure else turn} if unsure or turn != 1 else {}),
    }
    return row, dict(found.instances)


def find_faults(
    places: Sequence[int], decode: Callable[[int], NDArray[np.uint8]]
) -> dict[int, FileFormatError]:
    """Find the instances whose masks can't be decoded."""
    faults = {}
    for place in places:
        try:
            decode(place)
        except FileFormatError as error:
            faults[place] = error
    return faults


def find_turn(
    places: Sequence[int], decode: Callable[[int], NDArray[np.uint8]], offset_map: OffsetMap
) -> tuple[int, bool]:
    """Find how masks of the stored pixels are turned, see `settle_orientation`; 1: they aren't.

    Returns:
        1 … 8, as EXIF counts, and whether 1 was assumed for want of evidence.
    """
    if offset_map.source.get("orientation", 1) == 1 or not places:
        return 1, False
    masks = np.zeros((len(places), *offset_map.codes.shape), np.bool_)
    for mask, place in zip(masks, places, strict=True):
        # Of a broken one, the caller tells.
        with suppress(FileFormatError):
            mask[:] = decode(place)
    settled = settle_orientation(LabelMap(masks, "masks", channels_first=True), offset_map)
    return settled.rest.get("turned", 1), settled.rest.get(ASSUMED, False)


def _id_of(item: Any) -> Any:
    return item.get("id") if isinstance(item, dict) else None
