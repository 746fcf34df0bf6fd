"""The report: scores, curves and the images that changed most, in one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segfix.errors import SegfixError
from segfix.evaluation.checks import check_void
from segfix.evaluation.compare import score_images
from segfix.evaluation.statistics import SCORES
from segfix.evaluation.totals import Comparison
from segfix.files import Entry, Pair, pair_entries
from segfix.files.atomic import atomic_path
from segfix.files.provenance import NOT_TAKEN
from segfix.geometry.targets import IGNORE_INDEX
from segfix.report.charts import MARKERS
from segfix.report.examples import Example, ImageRow, choose, draw_example, image_row
from segfix.report.figures import change_figure, error_figure, gain_figure, trimap_figure
from segfix.report.tables import (
    class_table,
    image_table,
    interval,
    percent,
    score_table,
    sure_direction,
)
from segfix.report.wording import notes

MAX_FAILURES = 1000
"""Failures that the page lists."""


@dataclass(frozen=True)
class Card:
    """A headline number, with what it was before and how it differs, if there are two sets."""

    title: str
    value: str
    before: str = ""
    difference: str = ""
    interval: str = ""
    sure: str = ""


def write_report(
    out: Path,
    sets: Mapping[str, Sequence[Pair]],
    *,
    photographs: Sequence[Entry] | None = None,
    sources: Mapping[str, str] | None = None,
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
        sets: See `segfix.evaluation.evaluate_folders`. Pictures show the first two.
        photographs: To draw on, paired with the ground truth by name; None: none.
        sources: What was compared, for the page's head: names and paths.
        ignore_index: Void id of the ground truth.
        void_given: Whether it is meant even where the labels hold one other id alone.
        class_names: Name of each class id; None: whatever ids the maps hold.
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
    truths = [pair.entry for pair in next(iter(sets.values()))]
    partners, unpaired = pair_photographs(truths, photographs, naming)
    classes: dict[str, Any] = {"ignore_index": ignore_index, "class_names": class_names}
    result, rows = score_sets(sets, partners, workers=workers, quiet=quiet, **classes)
    labels = (sources or {}).get("LABELS", "the ground truth")
    check_void(result, labels, ignore_index, given=void_given)
    groups, undrawn = draw_groups(choose(rows, examples, seed), bands=bands, **classes)
    failed = [*result["failed"], *unpaired, *undrawn]
    page = render(
        result,
        rows,
        groups,
        failed=failed,
        sources=sources or {},
        remarks=list(notes(result, ignore_index, classes_given=class_names is not None)),
    )
    with atomic_path(out) as temporary:
        # File names may hold bytes that are no text.
        temporary.write_text(page, encoding="utf-8", errors="replace", newline="\n")
    shown = sum(len(group) for group in groups.values())
    return {"images": result["images"], "shown": shown, "failed": failed}


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
) -> tuple[dict[str, Any], list[ImageRow]]:
    """Score sets of label maps, and keep a row of each image that counts.

    Args:
        sets: See `write_report`.
        photographs: A file or None for each image.
        ignore_index: Void id of the ground truth.
        class_names: Name of each class id; None: whatever ids the maps hold.
        running: Workers and such, of `score_images`.

    Returns:
        The result of `segfix.evaluation.Comparison`, and the rows.
    """
    comparison = Comparison(list(sets), class_names, ignore_index=ignore_index)
    classes = None if class_names is None else list(class_names)
    scored = score_images(sets, ignore_index=ignore_index, classes=classes, **running)
    rows = []
    pairs = next(iter(sets.values()))
    for pair, photograph, scores in zip(pairs, photographs, scored, strict=True):
        comparison.update(scores)
        if not scores.failed:
            rows.append(image_row(pair.entry.stem, scores, photograph))
    return comparison.result(), rows


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
                example, problems = draw_example(row, **settings)
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
    failed: Sequence[str] = (),
    sources: Mapping[str, str] | None = None,
    remarks: Sequence[str] = (),
) -> str:
    """Render the page as HTML.

    Args:
        result: See `segfix.evaluation.Comparison.result`.
        rows: Of all images.
        groups: Examples by title.
        failed: One text per failure.
        sources: What was compared: names and paths.
        remarks: What a reader must know.

    Returns:
        HTML that needs no other file.
    """
    template = make_environment().get_template("report.html.j2")
    names = list(result["sets"])
    figures = []
    if result["pixels"]:
        figures = [trimap_figure(result), error_figure(result)]
        if result["changes"]:
            figures += [gain_figure(result), change_figure(result)]
    page: str = template.render(
        title=f"{', '.join(names[1:]) or names[0]} against "
        + (names[0] if names[1:] else "the ground truth"),
        names=names,
        result=result,
        void_share=percent(result["void"] / max(result["pixels"] + result["void"], 1)),
        sources=sources or {},
        remarks=remarks,
        failed=failed,
        max_failures=MAX_FAILURES,
        cards=headline(result),
        scores=score_table(result),
        classes=class_table(result),
        figures=figures,
        markers=MARKERS,
        groups=groups,
        photographs=any(example.photograph for group in groups.values() for example in group),
        images=image_table(rows, names),
        num_images=len(rows),
        percent=percent,
    )
    return page


def make_environment() -> Any:
    """Make the environment of the pages' templates."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("segfix.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def headline(result: dict[str, Any]) -> list[Card]:
    """Choose the numbers at the top, in percent, of the second set where there is one."""
    first, *others = result["sets"]
    keys = ("iou", "f_1px", "boundary_iou")
    if not others:
        means = result["sets"][first]["mean"]
        return [Card(SCORES[key], percent(means[key])) for key in (*keys, "pixel_accuracy")]
    second = others[0]
    before, after = (result["sets"][name]["mean"] for name in (first, second))
    change = result["changes"][second]
    cards = [
        _card(SCORES[key], percent(after[key]), percent(before[key]), change["mean"][key])
        for key in keys
    ]
    fixed, broken = (
        percent(sum(change["bands"][kind]) / result["pixels"] if result["pixels"] else None)
        for kind in ("fixed", "broken")
    )
    net = change["mean"]["pixel_accuracy"]
    return [*cards, _card("fixed − broken", f"{fixed} − {broken}", "", net)]


def _card(title: str, value: str, before: str, difference: Sequence[float | None]) -> Card:
    number, _, spread = interval(difference).partition(" ")
    return Card(title, value, before, number, spread, sure_direction(difference))
