"""Figures of the report: charts of one question, and their numbers as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segfix.report.charts import MARKERS, Chart, change_chart, gain_chart, line_chart
from segfix.report.tables import Cell, Table, difference_cell, score_cell
from segfix.report.wording import band_names, band_pixels

MAX_BARS = 60
"""Of the chart of gains; classes in the middle are left out where there would be more."""


@dataclass(frozen=True)
class Figure:
    """Charts of one question, the series they show, and their numbers as a table."""

    title: str
    x_title: str
    y_title: str
    charts: list[tuple[str, Chart]]
    legend: list[tuple[str, str]]
    numbers: Table


def legend_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """List style and name of each series."""
    return [(f"s{i % len(MARKERS)}", name) for i, name in enumerate(names)]


def trimap_figure(result: dict[str, Any]) -> Figure:
    """Plot the mIoU of the pixels up to a distance from a true boundary."""
    widths = [width for width in result["bands"] if width is not None]
    columns = [*(f"≤ {width}" for width in widths), "all"]
    keys = [*(f"trimap_iou_{width}px" for width in widths), "iou"]
    deltas = [f"Δ {name} [95 %]" for name in result["changes"]]
    numbers = Table(["px", *result["sets"], *deltas], [], sortable=False)
    series = [
        [_percentage(scores["mean"][key]) for key in keys] for scores in result["sets"].values()
    ]
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
    """Plot the share of wrong pixels at each distance from a true boundary."""
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
    series = [[_percentage(value) for value in values] for values in shares.values()]
    return Figure(
        "Errors by distance to the boundaries",
        "pixels from a true boundary",
        "% of the pixels there that are wrong",
        [("", line_chart(series, columns))],
        legend_of(list(shares)),
        numbers,
    )


def gain_figure(result: dict[str, Any]) -> Figure:
    """Plot the change of each class's IoU, the largest gain first."""
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
        name: [[_percentage(value) for value in rows[i]] for i in order]
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
    """Plot the pixels fixed and broken at each distance from a true boundary."""
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


def _percentage(value: float | None) -> float | None:
    return None if value is None else 100 * value
