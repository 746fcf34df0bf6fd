"""The report on instances and panoptic segments: their scores, and the images that changed most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from segfix.errors import SegfixError, tell_number
from segfix.evaluation.instance_sets import compare_instances
from segfix.evaluation.totals import REPLICAS
from segfix.files import Entry
from segfix.formats import read_image
from segfix.instances.score import evaluate_instances
from segfix.jobs.pool import hide_progress
from segfix.report.error_map import BROKEN, FIXED, error_map
from segfix.report.examples import Example, Ids, ImageRow, choose, draw_example
from segfix.report.headline import Card, difference_card, warn_of_few
from segfix.report.instance_sources import LEAST_SCORE, Source, find_classes, find_instances
from segfix.report.origin import link_file, without_folders
from segfix.report.overlay import label_colours
from segfix.report.page import describe_sources, fill_page, write_page
from segfix.report.tables import Cell, Table, difference_cell, percent, score_cell
from segfix.report.wording import name_score


def write_instance_report(
    out: Path,
    sets: Mapping[str, Path],
    labels: Path,
    *,
    photographs: Sequence[Entry] | None = None,
    made: Mapping[str, str] | None = None,
    naming: Mapping[str, Any] = {},
    bands: Sequence[int] | None = None,
    examples: int = 6,
    seed: int = 0,
    workers: int = 1,
    quiet: bool = True,
) -> dict[str, Any]:
    """Score sets of instances and write a page that shows how they differ.

    Args:
        out: The HTML file; one that exists is replaced.
        sets: By name, predictions as `evaluate_instances` takes them.
        labels: The ground truth.
        photographs: Those to draw on; None: scores alone.
        made: See `segfix.report.page.write_report`, as for all below.
        naming: Of `pair_entries`.
        bands: Of the photographs.
        examples: Images shown per group.
        seed: Of the random group.
        workers: Threads.
        quiet: No progress bar.

    Returns:
        `images`, the number scored, `shown`, the number drawn, and `failed`, one text per failure.

    Raises:
        SegfixError: A set can't be scored, or no photograph belongs to one.
        ModuleNotFoundError: The extra isn't installed.
    """
    how: dict[str, Any] = {"workers": workers, "replicas": REPLICAS if len(sets) > 1 else 0}
    results = {
        name: evaluate_instances(path, labels, boundary=True, **how) for name, path in sets.items()
    }
    changes = compare_instances(results, next(iter(sets)))
    rows, groups, failed = list[ImageRow](), dict[str, list[Example]](), list[str]()
    classes = list[dict[str, Any]]()
    if photographs is not None:
        truth = find_instances(labels, photographs, labels, naming)
        found = [find_instances(path, photographs, labels, naming) for path in sets.values()]
        sources = [truth, *found]
        rows, failed = compare_images(sources, photographs, bands, quiet=quiet)
        rows, classes = number_classes(rows, find_classes(labels, truth))
        failed = [*(text for source in sources for text in source.problems), *failed]
        for title, chosen in choose(rows, examples, seed).items():
            groups[title] = [draw_instances(row, sources, bands) for row in chosen]
    scored = next(iter(results.values()))["images"]
    read = {**sets, "LABELS": labels}
    told = describe_sources(read, {name: [path] for name, path in read.items() if path.is_file()})
    folders = {path.parent for path in (*sets.values(), labels)}
    folders |= {entry.path.parent for entry in photographs or ()}
    page = fill_page(
        list(sets),
        rows,
        groups,
        result={"classes": classes},
        summary=f"{tell_number(scored, 'image')} scored",
        remarks=[
            without_folders(f"{name}: {note}", folders)
            for name, one in results.items()
            for note in one["notes"]
        ],
        warning=warn_of_few(scored) if changes else "",
        failed=[without_folders(text, folders) for text in failed],
        cards=headline(results, changes),
        scores=score_table(results, changes),
        classes=class_table(results, changes),
        confusion=[],
        figures=[],
        measure="mean IoU",
        explain="An image's mean IoU is that of its true instances with the predicted ones that "
        "cover them best, whatever their classes. Instances that belong together have one colour; "
        f"those with a score below {LEAST_SCORE} are left out.",
        intervals=bool(changes),
        origin={**(made or {}), **told},
        address=partial(link_file, page=out),
    )
    write_page(out, page)
    shown = sum(map(len, groups.values()))
    return {"images": scored, "shown": shown, "failed": failed}


def number_classes(
    rows: Sequence[ImageRow], held: Mapping[str, Set[Path]]
) -> tuple[list[ImageRow], list[dict[str, Any]]]:
    """Number the classes that photographs hold; return the rows with theirs, and the legend."""
    numbered = [
        replace(row, classes=tuple(k for k, on in enumerate(held.values()) if row.photograph in on))
        for row in rows
    ]
    legend = [{"id": k, "name": name, "pixels": len(held[name])} for k, name in enumerate(held)]
    return numbered, legend


def compare_images(
    sources: Sequence[Source],
    photographs: Sequence[Entry],
    bands: Sequence[int] | None,
    *,
    quiet: bool = True,
) -> tuple[list[ImageRow], list[str]]:
    """Compare the instances of each photograph that the ground truth knows.

    Args:
        sources: The ground truth, and each set.
        photographs: All of them.
        bands: Of the photographs.
        quiet: No progress bar.

    Returns:
        A row per image, and one text per failure.
    """
    rows, failed, void = [], [], sources[0].void
    known = [one for one in photographs if one.path in sources[0].entries]
    for photograph in tqdm(known, unit="image", disable=hide_progress(quiet)):
        try:
            size = read_image(photograph.path, bands).shape[:2]
            truth, *found = (source.read(photograph.path, size) for source in sources)
        except SegfixError as error:
            failed.append(str(error))
            continue
        matched = [match_instances(ids, truth) for ids in found]
        changes = [
            error_map(matched[0][0], truth, ids, ignore_index=void) for ids, _ in matched[1:]
        ]
        files = [source.entries.get(photograph.path, photograph).path for source in sources]
        rows.append(
            ImageRow(
                photograph.stem,
                files[0],
                tuple(files[1:]),
                photograph.path,
                tuple(iou for _, iou in matched),
                tuple(int((codes == FIXED).sum()) for codes in changes),
                tuple(int((codes == BROKEN).sum()) for codes in changes),
                int((truth != void).sum()),
            )
        )
    return rows, failed


def match_instances(found: Ids, truth: Ids) -> tuple[NDArray[np.int64], float | None]:
    """Give instances the number of the true one that they have the highest IoU with.

    Args:
        found: (H, W) numbers of instances, 0 where there is none.
        truth: The same of the ground truth.

    Returns:
        (H, W) numbers, those of instances that touch no true one beyond all others; and the mean
        over true instances of the highest IoU that one has with them, None without any.

    Example:
        >>> match_instances(np.array([[7, 7, 0, 4]]), np.array([[0, 1, 1, 0]]))
        (array([[1, 1, 0, 3]]), 0.3333333333333333)
    """
    names, mine = np.unique(np.append(found, 0), return_inverse=True)
    wanted, its = np.unique(np.append(truth, 0), return_inverse=True)
    shared = np.zeros((len(names), len(wanted)), np.int64)
    np.add.at(shared, (mine.ravel()[:-1], its.ravel()[:-1]), 1)
    union = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0) - shared
    iou = shared / np.maximum(union, 1)
    iou[names == 0] = iou[:, wanted == 0] = 0
    best = iou.argmax(axis=1)
    spare = int(wanted.max()) + 1 + np.arange(len(names))
    table = np.where(iou.max(axis=1) > 0, wanted[best], spare)
    table[names == 0] = 0
    things = wanted != 0
    mean = float(iou.max(axis=0)[things].mean()) if things.any() else None
    return table[mine.ravel()[:-1]].reshape(found.shape).astype(np.int64), mean


def draw_instances(
    row: ImageRow, sources: Sequence[Source], bands: Sequence[int] | None
) -> Example:
    """Draw the pictures of an image, each instance in the colour of the true one it belongs to."""
    assert row.photograph is not None
    size = read_image(row.photograph, bands).shape[:2]
    truth, *found = (source.read(row.photograph, size) for source in sources)
    # Numbers from 1 on have the colours that differ best.
    order, numbers = np.unique(np.append(truth, 0), return_inverse=True)
    truth = (numbers.ravel()[:-1] - np.flatnonzero(order == 0)[0]).reshape(truth.shape)
    maps = [truth, *(match_instances(ids, truth)[0] for ids in found)]
    colours = label_colours(ignore_index=-1)
    drawn, _ = draw_example(
        row,
        maps,
        colours,
        ignore_index=sources[0].void,
        class_names=None,
        bands=bands,
        clear=0,
    )
    return replace(drawn, classes=[], more_classes=0)


def headline(results: Mapping[str, dict[str, Any]], changes: Mapping[str, Any]) -> list[Card]:
    """Choose the numbers at the top, in percent, of the second set where there is one."""
    first, *others = results.values()
    keys = list(first["mean"])
    boundary = [key for key in keys if key.startswith("boundary_")]
    keys = [*keys[:2], *boundary[:2]]
    if not others:
        return [Card(name_score(key), percent(first["mean"][key])) for key in keys]
    change = next(iter(changes.values()))["mean"]
    now, before = others[0]["mean"], first["mean"]
    return [
        difference_card(name_score(key), percent(now[key]), percent(before[key]), change[key])
        for key in keys
    ]


def score_table(results: Mapping[str, dict[str, Any]], changes: Mapping[str, Any]) -> Table:
    """Tabulate the mean scores of every set."""
    keys = {name_score(key): ("mean", key) for key in next(iter(results.values()))["mean"]}
    return _compare("score", keys, results, changes, sortable=False)


def class_table(results: Mapping[str, dict[str, Any]], changes: Mapping[str, Any]) -> Table:
    """Tabulate the first score, AP or PQ, of every class."""
    first = next(iter(results.values()))
    key = next(iter(first["mean"]))
    places = {name: ("class", name, key) for name in first["class"]}
    return _compare(f"{name_score(key)} of", places, results, changes)


def _compare(
    title: str,
    places: Mapping[str, Sequence[str]],
    results: Mapping[str, Any],
    changes: Mapping[str, Any],
    *,
    sortable: bool = True,
) -> Table:
    """Tabulate scores by name, each set's with the difference to the first's."""
    columns = [title]
    for name in results:
        columns += [name, f"Δ {name} [95 %]"] if name in changes else [name]
    rows = []
    for text, place in places.items():
        row = [Cell(text, text)]
        for name, result in results.items():
            row.append(score_cell(reduce(getitem, place, result)))
            if name in changes:
                row.append(difference_cell(reduce(getitem, place, changes[name])))
        rows.append(row)
    return Table(columns, rows, sortable=sortable)
