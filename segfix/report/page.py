"""The report: scores, curves and the images that changed most, in one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from segfix.errors import SegfixError
from segfix.evaluation.compare import Comparison, score_images
from segfix.evaluation.statistics import SCORES
from segfix.files import Entry, Pair, pair_entries
from segfix.files.atomic import atomic_path
from segfix.geometry.targets import IGNORE_INDEX
from segfix.report import wording
from segfix.report.charts import MARKERS, Chart, change_chart, gain_chart, line_chart
from segfix.report.examples import Example, ImageRow, choose, draw_example, image_row
from segfix.report.wording import band_names, band_pixels, notes

MAX_IMAGES = 2000
"""Rows of the table of images."""

MAX_BARS = 60
"""Of the chart of gains; classes in the middle are left out where there would be more."""

MAX_FAILURES = 1000
"""Failures that the page lists."""

NEAR = 5
"""Pixels from a boundary: the share of pixels nearer than that stands in the table of classes."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What stands there.
        value: What it is sorted by; None comes last.
        sure: "up" or "down" for a difference whose interval leaves out 0.
    """

    text: str
    value: float | str | None = None
    sure: str = ""


@dataclass(frozen=True)
class Table:
    """A table of named columns; the first one names the rows.

    Attributes:
        columns: Headings.
        rows: Of cells.
        sortable: Whether headings sort.
    """

    columns: list[str]
    rows: list[list[Cell]]
    sortable: bool = True


@dataclass(frozen=True)
class Card:
    """A headline number, with what it was before and how it differs, if there are two sets."""

    title: str
    value: str
    before: str = ""
    difference: str = ""
    interval: str = ""
    sure: str = ""


@dataclass(frozen=True)
class Figure:
    """Charts of one question, the series they show, and their numbers as a table."""

    title: str
    x_title: str
    y_title: str
    charts: list[tuple[str, Chart]]
    legend: list[tuple[str, str]]
    numbers: Table


def write_report(
    out: Path,
    sets: Mapping[str, Sequence[Pair]],
    *,
    photographs: Sequence[Entry] | None = None,
    sources: Mapping[str, str] | None = None,
    ignore_index: int = IGNORE_INDEX,
    class_names: Mapping[int, str] | None = None,
    naming: Mapping[str, Any] = {},
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
        class_names: Name of each class id; None: whatever ids the maps hold.
        naming: Of `pair_entries`, for the photographs.
        examples: Images shown per group.
        seed: Of the random group.
        workers: Threads.
        quiet: No progress bar.

    Returns:
        `images`, the number scored, `shown`, the number drawn, and `failed`, one text per failure.

    Raises:
        PairingError: There are photographs, none of which belongs to a label map.
        FileFormatError: The file can't be written.
    """
    truths = [pair.entry for pair in next(iter(sets.values()))]
    partners: list[Entry | None] = [None] * len(truths)
    failed = []
    if photographs is not None:
        for i, pair in enumerate(pair_entries(truths, photographs, **naming)):
            partners[i] = pair.partner
            problem = pair.entry.problem
            if pair.partner is None and not truths[i].problem:
                failed.append(problem or f"{truths[i].path}: no photograph of that name.")
    comparison = Comparison(list(sets), class_names, ignore_index=ignore_index)
    rows = []
    scored = score_images(
        sets,
        ignore_index=ignore_index,
        classes=None if class_names is None else list(class_names),
        workers=workers,
        quiet=quiet,
    )
    for truth, photograph, scores in zip(truths, partners, scored, strict=True):
        comparison.update(scores)
        if not scores.failed:
            rows.append(image_row(truth.stem, scores, photograph.path if photograph else None))
    result = comparison.result()
    failed = [*result["failed"], *failed]
    groups: dict[str, list[Example]] = {}
    for title, chosen in choose(rows, examples, seed).items():
        groups[title] = []
        for row in chosen:
            try:
                example, problems = draw_example(
                    row, ignore_index=ignore_index, class_names=class_names
                )
            except SegfixError as error:
                failed.append(str(error))
            else:
                groups[title].append(example)
                failed += problems
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


def render(
    result: dict[str, Any],
    rows: Sequence[ImageRow],
    groups: Mapping[str, Sequence[Example]],
    *,
    failed: Sequence[str] = (),
    sources: Mapping[str, str] | None = None,
    remarks: Sequence[str] = (),
) -> str:
    """The page.

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
    import jinja2

    template = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).from_string(files("segfix.report").joinpath("report.html.j2").read_text(encoding="utf-8"))
    names = list(result["sets"])
    figures = []
    if result["pixels"]:
        figures = [trimap_figure(result), error_figure(result)]
        if result["changes"]:
            figures += [gain_figure(result), change_figure(result)]
    return template.render(
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


def percent(value: float | None, *, sign: str = "") -> str:
    """A share in percent, with a real minus sign."""
    return wording.percent(value, sign=sign).replace("-", "−")


def interval(difference: Sequence[float | None]) -> str:
    """A difference with its confidence interval, with real minus signs."""
    return wording.interval(difference).replace("-", "−")


def surely(difference: Sequence[float | None]) -> str:
    """Which way a difference goes, if its interval leaves out 0."""
    _, low, high = difference
    if low is None or high is None:
        return ""
    return "up" if low > 0 else "down" if high < 0 else ""


def difference_cell(difference: Sequence[float | None]) -> Cell:
    """A difference with its interval, sorted by the difference."""
    return Cell(interval(difference), difference[0], surely(difference))


def score_cell(value: float | None) -> Cell:
    """A score in percent."""
    return Cell(percent(value), value)


def headline(result: dict[str, Any]) -> list[Card]:
    """The numbers at the top, in percent, of the second set where there is one."""
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
    return Card(title, value, before, number, spread, surely(difference))


def score_table(result: dict[str, Any]) -> Table:
    """Every mean score of every set."""
    columns, rows = ["score", next(iter(result["sets"]))], []
    for name in result["changes"]:
        columns += [name, f"Δ {name} [95 %]"]
    for key, title in SCORES.items():
        row = [Cell(title, title)]
        for name, scores in result["sets"].items():
            row.append(score_cell(scores["mean"][key]))
            if name in result["changes"]:
                row.append(difference_cell(result["changes"][name]["mean"][key]))
        rows.append(row)
    for kind in ("moved", "fixed", "broken") if result["changes"] and result["pixels"] else ():
        row = [Cell(f"pixels {kind}", kind), Cell("–")]
        for change in result["changes"].values():
            row += [score_cell(sum(change["bands"][kind]) / result["pixels"]), Cell("–")]
        rows.append(row)
    return Table(columns, rows, sortable=False)


def class_table(result: dict[str, Any]) -> Table:
    """What each class is like, and how well each set does at it."""
    first = next(iter(result["sets"]))
    scores = result["sets"][first]["class"]
    columns = ["class", "% of pixels", f"% within {NEAR} px"]
    for title in ("IoU", "F@1px"):
        columns += [f"{title} {first}", *(f"Δ {title} {name}" for name in result["changes"])]
    near = result["bands"].index(NEAR)
    rows = []
    for i, entry in enumerate(result["classes"]):
        pixels = entry["pixels"]
        row = [
            Cell(entry["name"], entry["name"]),
            score_cell(pixels / max(result["pixels"], 1)),
            score_cell(entry["within"][near] / pixels if pixels else None),
        ]
        for key in ("iou", "f_1px"):
            row.append(score_cell(scores[key][i]))
            row += [
                difference_cell(change["class"][key][i]) for change in result["changes"].values()
            ]
        rows.append(row)
    return Table(columns, rows)


def image_table(rows: Sequence[ImageRow], names: Sequence[str]) -> Table:
    """The images that changed most, of two sets; of one, those with the lowest mIoU."""
    two = len(names) > 1
    columns = ["image", f"mIoU {names[0]}"]
    if two:
        columns += [f"mIoU {names[1]}", "Δ", "% fixed", "% broken"]
        ranked = sorted(rows, key=lambda row: (-abs(row.gain or 0), row.name))
    else:
        ranked = sorted(rows, key=lambda row: (row.miou[0] is None, row.miou[0] or 0, row.name))
    cells = []
    for row in islice(ranked, MAX_IMAGES):
        line = [Cell(row.name, row.name), *(score_cell(value) for value in row.miou)]
        if two:
            whole = max(row.pixels, 1)
            line.append(Cell(percent(row.gain, sign="+"), row.gain))
            line += [score_cell(row.fixed / whole), score_cell(row.broken / whole)]
        cells.append(line)
    return Table(columns, cells)


def legend_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """Style and name of each series."""
    return [(f"s{i % len(MARKERS)}", name) for i, name in enumerate(names)]


def trimap_figure(result: dict[str, Any]) -> Figure:
    """MIoU of the pixels up to a distance from a true boundary."""
    widths = [width for width in result["bands"] if width is not None]
    columns = [*(f"≤ {width}" for width in widths), "all"]
    keys = [*(f"trimap_iou_{width}px" for width in widths), "iou"]
    deltas = [f"Δ {name} [95 %]" for name in result["changes"]]
    numbers = Table(["px", *result["sets"], *deltas], [], sortable=False)
    series = [[_hundred(scores["mean"][key]) for key in keys] for scores in result["sets"].values()]
    for column, key in zip(columns, keys, strict=True):
        numbers.rows.append(
            [
                Cell(column),
                *(score_cell(scores["mean"][key]) for scores in result["sets"].values()),
                *(difference_cell(change["mean"][key]) for change in result["changes"].values()),
            ]
        )
    return Figure(
        "mIoU near the boundaries",
        "pixels from a true boundary",
        "trimap mIoU, %",
        [("", line_chart(series, columns))],
        legend_of(list(result["sets"])),
        numbers,
    )


def error_figure(result: dict[str, Any]) -> Figure:
    """Share of wrong pixels at each distance from a true boundary."""
    columns, totals = band_names(result["bands"]), band_pixels(result)
    shares = {
        name: [
            wrong / total if total else None
            for wrong, total in zip(scores["errors"], totals, strict=True)
        ]
        for name, scores in result["sets"].items()
    }
    numbers = Table(["px", "% of pixels", *shares], [], sortable=False)
    for i, column in enumerate(columns):
        numbers.rows.append(
            [
                Cell(column),
                score_cell(totals[i] / result["pixels"]),
                *(score_cell(values[i]) for values in shares.values()),
            ]
        )
    series = [[_hundred(value) for value in values] for values in shares.values()]
    return Figure(
        "Errors by distance to the boundaries",
        "pixels from a true boundary",
        "% of the pixels there that are wrong",
        [("", line_chart(series, columns))],
        legend_of(list(shares)),
        numbers,
    )


def gain_figure(result: dict[str, Any]) -> Figure:
    """Change of each class's IoU, the largest gain first."""
    changes = {name: change["class"]["iou"] for name, change in result["changes"].items()}
    second = next(iter(changes.values()))
    order = sorted(
        (i for i in range(len(second)) if second[i][0] is not None), key=lambda i: -second[i][0]
    )
    half = max(MAX_BARS // len(changes) // 2, 5)
    left_out = len(order) - 2 * half
    if left_out > 0:
        order = [*order[:half], *order[-half:]]
    names = [result["classes"][i]["name"] for i in order]
    gains = {
        name: [[_hundred(value) for value in rows[i]] for i in order]
        for name, rows in changes.items()
    }
    columns = ["class", *(f"Δ IoU {name} [95 %]" for name in changes)]
    numbers = Table(columns, [], sortable=False)
    for i, name in zip(order, names, strict=True):
        numbers.rows.append([Cell(name), *(difference_cell(rows[i]) for rows in changes.values())])
    rest = f", {left_out} in the middle left out" if left_out > 0 else ""
    return Figure(
        f"Gain of each class{rest}",
        "Δ IoU, percentage points, with 95 % interval",
        "",
        [("", gain_chart(names, gains))],
        legend_of(list(result["sets"]))[1:],
        numbers,
    )


def change_figure(result: dict[str, Any]) -> Figure:
    """Pixels fixed and broken at each distance from a true boundary."""
    columns, totals = band_names(result["bands"]), band_pixels(result)
    shares = {
        name: [
            [
                100 * n / total if total else 0
                for n, total in zip(change["bands"][kind], totals, strict=True)
            ]
            for kind in ("fixed", "broken")
        ]
        for name, change in result["changes"].items()
    }
    # One scale for all.
    up, down = (max(max(pair[kind]) for pair in shares.values()) for kind in (0, 1))
    numbers = Table(["px"], [], sortable=False)
    for name in shares:
        numbers.columns.extend([f"{name} fixed, pixels", "broken, pixels"])
    for i, column in enumerate(columns):
        row = [Cell(column)]
        for change in result["changes"].values():
            row += [Cell(f"{change['bands'][kind][i]:,}") for kind in ("fixed", "broken")]
        numbers.rows.append(row)
    return Figure(
        "Pixels fixed and broken by distance to the boundaries",
        "pixels from a true boundary",
        "% of the pixels there",
        [
            (
                name if len(shares) > 1 else "",
                change_chart(fixed, broken, columns, up=up, down=down),
            )
            for name, (fixed, broken) in shares.items()
        ],
        [("fixed", "fixed: now right"), ("broken", "broken: was right")],
        numbers,
    )


def _hundred(value: float | None) -> float | None:
    return None if value is None else 100 * value
