"""Refine COCO's panoptic tables: a JSON file, and a picture of all segments of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import SegfixError
from segfix.files import Entry
from segfix.files.provenance import content_digest
from segfix.files.reading import path_within
from segfix.formats import LabelMap, read_offset_map
from segfix.instances.by_image import ImageInstances, name_image
from segfix.instances.coco import write_json
from segfix.instances.panoptic import read_panoptic, read_panoptic_map
from segfix.instances.photographs import check_size
from segfix.instances.refine_images import (
    Run,
    check_apart,
    check_result,
    find_partner,
    name_map_of,
    pair_file,
    refine_images,
    start_record,
    write_picture,
)
from segfix.jobs.task import Output, Row, Skipped
from segfix.refinement.apply import made_for_another, refine_planes, restore_ids


def refine_panoptic(file: Entry, document: Any, output: Output, run: Run) -> Row:
    """Refine a panoptic table and its pictures; see `refine_instances`."""
    images, sources = read_panoptic(file, document, run.file_names)
    annotations, folder = list(document["annotations"]), output.path.with_suffix("")
    results = [
        path_within(folder, item["file_name"], folder, str(file.path)) for item in annotations
    ]
    check_apart(results, sources, run.out)
    pairs = pair_file(file, images, run)

    def work(image: ImageInstances) -> Row:
        (place,) = image.places
        source, result = sources[place], Output(results[place], output.overwrite)
        label_map = read_panoptic_map(source)
        pair = pairs.get(image.image)
        own = start_record("refined panoptic map", source, run)
        try:
            offsets = find_partner(name_image(file.path, image.image), pair, run)
            offset_map = read_offset_map(offsets.path)
            check_size(
                str(source), label_map.shape, offset_map.codes.shape, name_map_of(offsets, run)
            )
        except SegfixError:
            own["offsets"] = {"map": None}
            check_result(result, own)
            write_picture(result.path, label_map, own)
            raise
        own["offsets"] = {"map": content_digest(offsets.path)}
        segments = annotations[place]["segments_info"]
        before, settings = _segment_ids(label_map), run.settings.masks
        kept, counts = _find_kept(before, segments) if settings.keep is None else (None, {})
        refined = refine_planes(label_map, offset_map, settings, kept).array
        listed = [segment["id"] for segment in segments]
        restore = not run.settings.drop_empty
        lost = restore_ids(label_map, refined, listed, _segment_ids, restore=restore)
        vanished = set(lost)
        with suppress(Skipped):
            check_result(result, own)
            write_picture(result.path, label_map.with_array(refined), own)
        after = _segment_ids(label_map.with_array(refined))
        moved = before != after
        touched = {*np.unique(before[moved]).tolist(), *np.unique(after[moved]).tolist()}
        gone = vanished if run.settings.drop_empty else set()
        left = _measure_anew(segments, after, touched, gone)
        annotations[place] = {**annotations[place], "segments_info": left}
        return {
            "output": repr(image.image),
            "emptied": [{"image": image.image, "id": identity} for identity in lost],
            "changed": sum(one in touched and one not in vanished for one in listed),
            "kept": counts,
            "other_prediction": made_for_another(label_map, offset_map),
        }

    def write(path: Path, record: str) -> None:
        write_json(path, {**document, "annotations": annotations}, record=record)

    pictures = {image.image: sources[image.places[0]] for image in images}
    row = refine_images(file, images, pairs, work, write, output, run, results, pictures)
    return {**row, "instances": sum(len(item["segments_info"]) for item in annotations)}


def _measure_anew(
    segments: Sequence[dict[str, Any]],
    ids: NDArray[np.integer[Any]],
    touched: Set[int],
    gone: Set[int],
) -> list[dict[str, Any]]:
    """Measure the touched segments in a map of ids; leave those out that are gone."""
    measures = _measures(ids) if touched else {}
    return [
        _measured(segment, measures) if segment["id"] in touched else segment
        for segment in segments
        if segment["id"] not in gone
    ]


def _find_kept(
    ids: NDArray[np.integer[Any]], segments: Sequence[Mapping[str, Any]]
) -> tuple[NDArray[np.bool_] | None, dict[str, int]]:
    """Mark the pixels of crowd regions and void, which is of no segment, and count them."""
    crowds = [segment["id"] for segment in segments if segment.get("iscrowd")]
    things = [segment["id"] for segment in segments if not segment.get("iscrowd")]
    kept = ~np.isin(ids, [one for one in things if isinstance(one, int)])
    void = bool(np.setdiff1d(ids[kept], crowds).size)
    counts = {"crowd regions": len(crowds), "voids": int(void)}
    return (kept, counts) if kept.any() else (None, {})


def _measures(ids: NDArray[np.integer[Any]]) -> dict[int, tuple[int, list[int]]]:
    """Measure area and box (x, y, width, height) of every segment, all at once: of many, too."""
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
    """Give a segment the area and box of its pixels, where it has them."""
    area, box = measures.get(segment["id"], (0, None))
    measured = dict(segment)
    if "area" in segment:
        measured["area"] = area
    if "bbox" in segment and box:
        measured["bbox"] = box
    return measured


def _segment_ids(label_map: LabelMap) -> NDArray[np.integer[Any]]:
    """Read (H, W) ids; an alpha channel doesn't count."""
    return label_map.with_array(label_map.array[..., :3]).ids()
