"""Audit label maps: how surely their photographs contradict them, and where."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from segfix.errors import SegfixError
from segfix.files import Entry, Pair, pair_entries
from segfix.files.provenance import NOT_TAKEN, content_digest, read_record
from segfix.formats import read_label_map, write_offset_map
from segfix.formats.images import open_photograph
from segfix.geometry.suspicion import Region, Suspicion, find_suspicion
from segfix.jobs.run import Summary
from segfix.jobs.sources import check_folders, check_results, list_both, list_unpaired
from segfix.jobs.task import Output, Row, Task, name_png
from segfix.network.offset_model import OffsetModel
from segfix.refinement.apply import PREDICTION_KEY
from segfix.refinement.sizes import as_displayed

OFFSETS = "offsets"
"""Folder of the offset maps, below that of the results."""

AUDIT_KEY = "audit"
"""In an offset map's `source`: the `Suspicion` of the label map that it was made for."""


@dataclass(frozen=True)
class Audited:
    """A label map that was audited.

    Attributes:
        name: Stem of the label map.
        image: Its photograph.
        labels: The file of the label map.
        offsets: The offset map made for it.
        suspicion: What contradicts it.
    """

    name: str
    image: Path
    labels: Path
    offsets: Path
    suspicion: Suspicion


def pair_labels(
    images: Path,
    labels: Path,
    out: Path,
    *,
    recursive: bool = False,
    naming: Mapping[str, Any] | None = None,
    passed_over: Counter[str] | None = None,
) -> tuple[list[Pair], list[str] | None]:
    """Pair label maps with their photographs; a label map without one has a problem.

    Args:
        images: A photograph or a folder of them.
        labels: A label map or a folder of them.
        out: Folder of the results.
        recursive: Whether to go into folders within.
        naming: `suffixes` and `name_map` of `pair_entries`.
        passed_over: Of `list_both`.

    Returns:
        The pairs and, of folders, the photographs that are left, see `list_unpaired`.

    Raises:
        PairingError: There is nothing to list or to pair.
        ArgumentError: A result would replace an input.
    """
    check_folders({"IMAGES": images, "LABELS": labels}, out)
    maps, photographs = list_both(
        *(images, labels, out),
        what="label maps",
        recursive=recursive,
        naming=naming,
        passed_over=passed_over,
    )
    pairs = [
        pair if pair.partner or pair.entry.problem else Pair(without_photograph(pair.entry), None)
        for pair in pair_entries(maps, photographs, leave=NOT_TAKEN["photograph"], **(naming or {}))
    ]
    results = (out / OFFSETS / name_png(pair) for pair in pairs)
    check_results(results, (entry.path for entry in (*photographs, *maps)))
    return pairs, None if labels.is_file() else list_unpaired(photographs, pairs)


def without_photograph(labels: Entry) -> Entry:
    """Say of a label map that it has no photograph."""
    error = SegfixError(
        "no photograph of that name",
        path=labels.path,
        advice="say with --map or --suffix which one it is",
    )
    return replace(labels, problem=str(error))


def audit_task(
    model: OffsetModel,
    *,
    ignore_index: int = 255,
    key: str | None = None,
    bands: Sequence[int] | None = None,
) -> Task[Pair]:
    """Make the task of auditing label maps, each a pair with its photograph.

    Args:
        model: A network that looks at label maps, too.
        ignore_index: Void id.
        key: The array of an .npz file that is meant; None: the largest.
        bands: See `segfix.formats.read_image`.

    Raises:
        SegfixError: The network looks at photographs alone.
    """
    model.check_conditioned()
    work = partial(audit_file, model=model, ignore_index=ignore_index, key=key, bands=bands)
    return Task(work, "map", network=True, takes="label map")


def audit_file(
    pair: Pair,
    output: Output,
    *,
    model: OffsetModel,
    ignore_index: int,
    key: str | None,
    bands: Sequence[int] | None = None,
) -> Row:
    """Write the offset map of one label map, with what contradicts this in its record.

    Returns:
        The `Suspicion`, as a dictionary, `image`, the photograph's path, and the `scaling` of
        values that weren't bytes.
    """
    labels, image = pair.entry, pair.partner
    if image is None:
        raise SegfixError("no photograph of that name", path=labels.path)
    with open_photograph(image.path, bands) as photograph:
        size = photograph.shape[0], photograph.shape[1]
        source = {
            **model.record(photograph.shape, None),
            "image": content_digest(image.path),
            "labels": content_digest(labels.path),
            "void": ignore_index,
            **({"key": key} if key else {}),
            **({"bands": list(bands)} if bands else {}),
        }
        output.check({"source": source}, following=(PREDICTION_KEY, AUDIT_KEY))
        found = read_label_map(labels.path, key=key)
        label_map = as_displayed(found, size, photograph.orientation)
        if label_map.shape != size:
            raise SegfixError(
                found.size,
                path=labels.path,
                expected=f"its photograph {image.path} is {size[1]}×{size[0]}",
                advice="audit label maps of their photographs' size",
            )
        offset_map = model.offsets(photograph, label_map)
    suspicion = find_suspicion(
        label_map.ids(), offset_map.confidence_map(), ignore_index=ignore_index
    )
    source |= offset_map.source | {AUDIT_KEY: asdict(suspicion)}
    write_offset_map(output.path, replace(offset_map, source=source))
    scaling = {"scaling": photograph.scaling} if photograph.scaling else {}
    return {**asdict(suspicion), "image": f"{image.path}", **scaling}


def rank_maps(pairs: Sequence[Pair], summary: Summary, out: Path) -> list[Audited]:
    """Rank the label maps of a run, those that were audited before included, the worst first.

    Args:
        pairs: See `pair_labels`.
        summary: What became of them.
        out: Folder of the offset maps.
    """
    written = {*(row["output"] for row in summary.done), *summary.skipped}
    found = []
    for pair in pairs:
        path = out / name_png(pair)
        if f"{path}" in written and pair.partner is not None:
            told = json.loads(read_record(path) or "{}")["source"][AUDIT_KEY]
            regions = tuple(
                Region(tuple(one["box"]), one["label"], one["wrong"]) for one in told["regions"]
            )
            suspicion = Suspicion(told["score"], told["share"], told["peak"], regions)
            files = pair.partner.path, pair.entry.path, path
            found.append(Audited(pair.entry.stem, *files, suspicion))
    return sorted(found, key=lambda one: (-one.suspicion.score, one.name))
