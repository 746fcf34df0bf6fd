"""Tables of the report, whose template draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from segfix.evaluation.harm import HARMED
from segfix.evaluation.statistics import CHANGES, SCORES
from segfix.report import wording
from segfix.report.examples import ImageRow

MAX_IMAGES = 2000
"""Rows of the table of images."""

NEAR = 5
"""Pixels from a boundary: the share of pixels nearer than that stands in the table of classes."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What stands there.
        value: What it is sorted by; None comes last.
        sure: "up" or "down" for a difference whose interval leaves out 0.
        heat: How strong its background is, in [0, 1].
        classes: Ids that rows are filtered by.
    """

    text: str
    value: float | str | None = None
    sure: str = ""
    heat: float | None = None
    classes: str = ""


@dataclass(frozen=True)
class Table:
    """A table of named columns; the first one names the rows.

    Attributes:
        columns: Headings.
        rows: Of cells.
        sortable: Whether headings sort.
        note: What stands below it.
    """

    columns: list[str]
    rows: list[list[Cell]]
    sortable: bool = True
    note: str = ""


def percent(value: float | None, *, sign: str = "") -> str:
    """Write a share in percent, with a real minus sign."""
    return wording.percent(value, sign=sign).replace("-", "−")


def interval(difference: Sequence[float | None]) -> str:
    """Write a difference with its confidence interval, with real minus signs."""
    return wording.interval(difference).replace("-", "−")


def sure_direction(difference: Sequence[float | None]) -> str:
    """Tell whether a difference goes "up" or "down", if its interval leaves out 0."""
    _, low, high = difference
    if low is None or high is None:
        return ""
    return "up" if low > 0 else "down" if high < 0 else ""


def difference_cell(difference: Sequence[float | None]) -> Cell:
    """Write a difference with its interval, sorted by the difference."""
    return Cell(interval(difference), difference[0], sure_direction(difference))


def score_cell(value: float | None) -> Cell:
    """Write a score in percent."""
    return Cell(percent(value), value)


def score_table(result: dict[str, Any]) -> Table:
    """Tabulate every mean score of every set, equal F-scores once."""
    columns, rows = ["score", next(iter(result["sets"]))], []
    for name in result["changes"]:
        columns += [name, f"Δ {name} [95 %]"]
    shown: dict[tuple[float | None, ...], str] = {}
    equal: dict[str, list[str]] = {}
    for key, title in SCORES.items():
        values = tuple(scores["mean"][key] for scores in result["sets"].values())
        # On small images a share of the diagonal is a pixel.
        if key.startswith("f_0") and values in shown:
            equal.setdefault(shown[values], []).append(title)
            continue
        shown[values] = title
        row = [Cell(title, title)]
        for name, scores in result["sets"].items():
            row.append(score_cell(scores["mean"][key]))
            if name in result["changes"]:
                row.append(difference_cell(result["changes"][name]["mean"][key]))
        rows.append(row)
    for kind in CHANGES if result["changes"] and result["pixels"] else ():
        row = [Cell(f"pixels {kind}", kind), Cell("–")]
        for change in result["changes"].values():
            row += [score_cell(sum(change["bands"][kind]) / result["pixels"]), Cell("–")]
        rows.append(row)
    for key in HARMED if result["changes"] and result["pixels"] else ():
        row = [Cell(f"images worse in {SCORES[key]}, at worst", key), Cell("–")]
        for change in result["changes"].values():
            harm = change["harm"][key]
            row += [score_cell(harm["rate"]), score_cell(harm["worst"])]
        rows.append(row)
    note = "; ".join(f"{', '.join(titles)} equal {title}" for title, titles in equal.items())
    note = f"On images of this size, {note}." if equal else ""
    return Table(columns, rows, sortable=False, note=note)


def class_table(result: dict[str, Any]) -> Table:
    """Tabulate how frequent each class is, and how well each set does at it."""
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


def image_table(rows: Sequence[ImageRow], names: Sequence[str], measure: str = "mIoU") -> Table:
    """Tabulate the images that changed most, of several sets; of one, those of lowest mIoU."""
    first, *others = names
    columns = ["image", f"{measure} {first}"]
    for name in others:
        columns += [f"{measure} {name}", f"Δ {name}", "% fixed", "% broken"]
    if others:
        ranked = sorted(rows, key=lambda row: (-abs(row.gain or 0), row.name))
    else:
        ranked = sorted(rows, key=lambda row: (row.miou[0] is None, row.miou[0] or 0, row.name))
    cells = []
    for row in islice(ranked, MAX_IMAGES):
        classes = " ".join(map(str, row.classes))
        line = [Cell(row.name, row.name, classes=classes), score_cell(row.miou[0])]
        whole = max(row.pixels, 1)
        for miou, gain, *pixels in zip(
            row.miou[1:], row.gains(), row.fixed, row.broken, strict=True
        ):
            line += [score_cell(miou), Cell(percent(gain, sign="+"), gain)]
            line += [score_cell(number / whole) for number in pixels]
        cells.append(line)
    return Table(columns, cells)
