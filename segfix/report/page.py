"""The report: scores, curves and the images that changed most, in one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from segfix.errors import SegfixError
from segfix.evaluation.checks import check_void
from segfix.evaluation.compare import score_images
from segfix.evaluation.totals import Comparison
from segfix.files import Entry, Pair, pair_entries
from segfix.files.atomic import atomic_path
from segfix.files.provenance import NOT_TAKEN
from segfix.geometry.targets import IGNORE_INDEX
from segfix.report.charts import MARKERS
from segfix.report.confusion import Confusion
from segfix.report.examples import (
    Example,
    ImageRow,
    choose,
    draw_example,
    image_row,
    read_example,
)
from segfix.report.figures import change_figure, error_figure, gain_figure, trimap_figure
from segfix.report.headline import headline, summarize, warn_of_few
from segfix.report.origin import (
    describe_results,
    find_class_names,
    link_file,
    shorten,
    without_folders,
)
from segfix.report.tables import (
    Table,
    class_table,
    image_table,
    percent,
    score_table,
)
from segfix.report.wording import notes

MAX_FAILURES = 1000
"""Failures that the page lists."""


def write_report(
    out: Path,
    sets: Mapping[str, Sequence[Pair]],
    *,
    photographs: Sequence[Entry] | None = None,
    sources: Mapping[str, str] | None = None,
    made: Mapping[str, str] | None = None,
    ignore_index: int = IGNORE_INDEX,
    void_given: bool = False,
    class_names: Mapping[int, str] | None = None,
    naming: Mapping[str, Any] = {},
    bands: Sequence[int] | None = None,
    examples: int = 6,
    seed: int = 0,
    workers: int = 1,
    quiet: bool = True,
) -> dict[str, Any]:
    """Compare sets of label maps with the ground truth and write a page that shows how they differ.

    Args:
        out: The HTML file; one that exists is replaced.
        sets: See `segfix.evaluation.evaluate_folders`.
        photographs: To draw on, paired with the ground truth by name; None: none.
        sources: What was compared: names and paths, of which the page tells the ends.
        made: When, by what and how the page is made: words and what to say.
        ignore_index: Void id of the ground truth.
        void_given: Whether it is meant even where the labels hold one other id alone.
        class_names: Name of each class id; None: whatever ids the maps hold, which the page calls
            as the data set does, see `find_class_names`.
        naming: Of `pair_entries`, for the photographs.
        bands: Of the photographs, see `segfix.formats.read_image`.
        examples: Images shown per group.
        seed: Of the random group.
        workers: Threads.
        quiet: No progress bar.

    Returns:
        `images`, the number scored, `shown`, the number drawn, and `failed`, one text per failure.

    Raises:
        PairingError: There are photographs, none of which belongs to a label map.
        ArgumentError: The labels are masks of 0 and 255, of which 255 would be void.
        FileFormatError: The file can't be written.
    """
    sources = sources or {}
    truths = [pair.entry for pair in next(iter(sets.values()))]
    partners, unpaired = pair_photographs(truths, photographs, naming)
    classes: dict[str, Any] = {"ignore_index": ignore_index, "class_names": class_names}
    result, rows, confusion = score_sets(sets, partners, workers=workers, quiet=quiet, **classes)
    labels = sources.get("LABELS", "the ground truth")
    check_void(result, labels, ignore_index, given=void_given)
    results = {
        name: [pair.partner.path for pair in pairs if pair.partner] for name, pairs in sets.items()
    }
    told = describe_sources(sources, results)
    if class_names is None:
        stems = [truth.path.stem for truth in truths]
        classes["class_names"], source = find_class_names(Path(sources.get("LABELS", "")), stems)
        told |= {"class names": source} if source else {}
        for entry in result["classes"]:
            entry["name"] = classes["class_names"].get(entry["id"], entry["name"])
    groups, undrawn = draw_groups(choose(rows, examples, seed), bands=bands, **classes)
    failed = [*result["failed"], *unpaired, *undrawn]
    pairs = [pair for found in sets.values() for pair in found]
    read = [one for pair in pairs for one in (pair.entry, pair.partner) if one]
    folders = {entry.path.parent for entry in (*read, *(photographs or ()))}
    page = render(
        result,
        rows,
        groups,
        confusion=confusion.tables(result["classes"]),
        failed=[without_folders(text, folders) for text in failed],
        origin={**(made or {}), **told},
        remarks=list(notes(result, ignore_index, classes_given=class_names is not None)),
        address=partial(link_file, page=out),
    )
    write_page(out, page)
    shown = sum(len(group) for group in groups.values())
    return {"images": result["images"], "shown": shown, "failed": failed}


def write_page(out: Path, page: str) -> None:
    """Write a page whole or not at all."""
    with atomic_path(out) as temporary:
        # File names may hold bytes that are no text.
        temporary.write_text(page, encoding="utf-8", errors="replace", newline="\n")


def describe_sources(
    sources: Mapping[str, Path | str], results: Mapping[str, Sequence[Path]]
) -> dict[str, str]:
    """Tell the ends of paths, and how the files of sets were made, if a record says so."""
    told = {}
    for name, path in sources.items():
        made = describe_results(results.get(name, ()))
        told[name] = shorten(path) + (f" · {made}" if made else "")
    return told


def pair_photographs(
    truths: Sequence[Entry], photographs: Sequence[Entry] | None, naming: Mapping[str, Any]
) -> tuple[list[Path | None], list[str]]:
    """Find the photograph of each label map of the ground truth.

    Args:
        truths: The ground truth.
        photographs: To choose from; None: none are wanted.
        naming: Of `pair_entries`.

    Returns:
        A file or None for each label map, and one text per label map whose photograph is missing.

    Raises:
        PairingError: None of the photographs belongs to a label map.
    """
    if photographs is None:
        return [None] * len(truths), []
    pairs = pair_entries(truths, photographs, leave=NOT_TAKEN["photograph"], **naming)
    failed = [
        pair.entry.problem or f"{truth.path}: no photograph of that name."
        for truth, pair in zip(truths, pairs, strict=True)
        if pair.partner is None and not truth.problem
    ]
    return [pair.partner.path if pair.partner else None for pair in pairs], failed


def score_sets(
    sets: Mapping[str, Sequence[Pair]],
    photographs: Sequence[Path | None],
    *,
    ignore_index: int,
    class_names: Mapping[int, str] | None,
    **running: Any,
) -> tuple[dict[str, Any], list[ImageRow], Confusion]:
    """Score sets of label maps, and keep a row of each image that counts.

    Args:
        sets: See `write_report`.
        photographs: A file or None for each image.
        ignore_index: Void id of the ground truth.
        class_names: Name of each class id; None: whatever ids the maps hold.
        running: Workers and such, of `score_images`.

    Returns:
        The result of `segfix.evaluation.Comparison`, the rows, and which classes are taken for
        which.
    """
    comparison = Comparison(list(sets), class_names, ignore_index=ignore_index)
    classes = None if class_names is None else list(class_names)
    scored = score_images(
        sets, ignore_index=ignore_index, classes=classes, confusion=True, **running
    )
    confusion = Confusion(len(sets))
    rows = []
    pairs = next(iter(sets.values()))
    for pair, photograph, scores in zip(pairs, photographs, scored, strict=True):
        comparison.update(scores)
        if not scores.failed:
            confusion.update(scores)
            rows.append(image_row(pair.entry.stem, scores, photograph))
    return comparison.result(), rows, confusion


def draw_groups(
    groups: Mapping[str, Sequence[ImageRow]], **settings: Any
) -> tuple[dict[str, list[Example]], list[str]]:
    """Draw the images of each group; what can't be drawn is left out.

    Args:
        groups: Images by title.
        settings: Of `draw_example`.

    Returns:
        The examples by title, and one text per failure.
    """
    drawn: dict[str, list[Example]] = {title: [] for title in groups}
    failed = []
    for title, rows in groups.items():
        for row in rows:
            try:
                maps, colours = read_example(row, settings["ignore_index"])
                example, problems = draw_example(row, maps, colours, **settings)
            except SegfixError as error:
                failed.append(str(error))
            else:
                drawn[title].append(example)
                failed += problems
    return drawn, failed


def render(
    result: dict[str, Any],
    rows: Sequence[ImageRow],
    groups: Mapping[str, Sequence[Example]],
    *,
    confusion: Sequence[Table] = (),
    failed: Sequence[str] = (),
    origin: Mapping[str, str] | None = None,
    remarks: Sequence[str] = (),
    address: Callable[[Path], str | None] = lambda _: None,
) -> str:
    """Render the page as HTML.

    Args:
        result: See `segfix.evaluation.Comparison.result`.
        rows: Of all images.
        groups: Examples by title.
        confusion: A table for each set.
        failed: One text per failure.
        origin: Where the numbers are from: words and what to say.
        remarks: What a reader must know.
        address: Of a file, relative to the page, if it has one.

    Returns:
        HTML that needs no other file.
    """
    names, figures = list(result["sets"]), []
    if result["pixels"]:
        figures = [trimap_figure(result), error_figure(result)]
        if result["changes"]:
            figures += [gain_figure(result), change_figure(result)]
    return fill_page(
        names,
        rows,
        groups,
        result=result,
        summary=summarize(result),
        remarks=remarks,
        warning=warn_of_few(result["images"] - result["void_images"]) if result["changes"] else "",
        failed=failed,
        cards=headline(result),
        scores=score_table(result),
        classes=class_table(result),
        confusion=list(zip(names, confusion, strict=False)),
        figures=figures,
        measure="mIoU",
        explain="mIoU is the image's own, over the classes in its labels.",
        intervals=bool(result["changes"]),
        origin=origin or {},
        address=address,
    )


def fill_page(
    names: Sequence[str],
    rows: Sequence[ImageRow],
    groups: Mapping[str, Sequence[Example]],
    **parts: Any,
) -> str:
    """Fill the template.

    Args:
        names: Of the sets.
        rows: Of all images.
        groups: Examples by title; the first of all is put on top.
        parts: The rest of what it shows.
    """
    first = next(iter(groups), None)
    lead = (first, groups[first][0]) if first and groups[first] else None
    others = {title: group[1 if title == first else 0 :] for title, group in groups.items()}
    shown = [example for group in groups.values() for example in group]
    page: str = (
        make_environment()
        .get_template("report.html.j2")
        .render(
            title=f"{', '.join(names[1:]) or names[0]} against "
            + (names[0] if names[1:] else "the ground truth"),
            names=names,
            lead=lead,
            groups=others,
            titles=list(groups),
            ranked=any(len(group) for group in groups.values()),
            photographs=any(example.photograph for example in shown),
            legends=any(example.classes for example in shown),
            images=image_table(rows, names, parts["measure"]),
            num_images=len(rows),
            max_failures=MAX_FAILURES,
            markers=MARKERS,
            percent=percent,
            **parts,
        )
    )
    return page


def make_environment() -> Any:
    """Make the environment of the pages' templates."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segfix.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["zip"] = lambda one, other: list(zip(one, other, strict=False))
    return environment
