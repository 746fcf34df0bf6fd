"""Scores of sets of label maps as text: tables, and CSV."""

from __future__ import annotations

import csv as csv_files
import io
from typing import Any

from segfix.errors import tell_number
from segfix.evaluation.harm import HARMED
from segfix.evaluation.statistics import CHANGES, SCORES
from segfix.evaluation.surfaces import SURFACE_SCORES
from segfix.report.wording import (
    band_names,
    band_pixels,
    interval,
    layout,
    percent,
    plain_cell,
    with_note,
)


def lay_out_tables(result: dict[str, Any], *, errors: bool = False) -> str:
    """Lay out all tables of a comparison.

    Args:
        result: See `segfix.evaluation.Comparison.result`.
        errors: Whether to add those by distance to the true boundaries.
    """
    tables = [score_table(result), change_table(result), harm_table(result), class_table(result)]
    tables.append(surface_table(result))
    if errors:
        tables += [error_table(result), boundary_table(result)]
    return "\n\n".join(table for table in tables if table)


def score_table(result: dict[str, Any]) -> str:
    """Tabulate mean scores, a column per set, with the difference to the first and its interval."""
    sets = result["sets"]
    void = percent(result["void"] / max(result["pixels"] + result["void"], 1))
    rows = [[f"{tell_number(result['images'], 'image')}, {void} % void", *sets]]
    shown: list[list[Any]] = []
    for key, title in SCORES.items():
        values = [scores["mean"][key] for scores in sets.values()]
        if key.startswith("trimap") and key != "trimap_iou_3px":
            continue
        # On small images a share of the diagonal is a pixel, and its row would stand there twice.
        if key.startswith("f_0") and values in shown:
            continue
        shown.append(values)
        row = [title]
        for name, scores in sets.items():
            cell = percent(scores["mean"][key])
            if name in result["changes"]:
                cell += f" {interval(result['changes'][name]['mean'][key])}"
            row.append(cell)
        rows.append(row)
    return with_note(layout(rows), next(iter(sets)))


def change_table(result: dict[str, Any]) -> str:
    """Tabulate the shares of pixels moved, fixed and broken."""
    if not result["changes"] or not result["pixels"]:
        return ""
    rows = [["% of pixels", *result["changes"]]]
    for kind, title in (
        ("moved", "moved (another label)"),
        ("fixed", "fixed (now right)"),
        ("broken", "broken (was right)"),
    ):
        counts = (sum(change["bands"][kind]) for change in result["changes"].values())
        rows.append([title, *(percent(count / result["pixels"]) for count in counts)])
    return layout(rows)


def harm_table(result: dict[str, Any]) -> str:
    """Tabulate the share of images made worse, and the largest loss of one."""
    if not result["changes"] or not result["pixels"]:
        return ""
    rows = [["% of images", *result["changes"]]]
    for key in HARMED:
        row = [f"worse in {SCORES[key]}"]
        for change in result["changes"].values():
            harm = change["harm"][key]
            row.append(percent(harm["rate"]) + f", at worst {percent(harm['worst'])}")
        rows.append(row)
    return layout(rows)


def class_table(result: dict[str, Any]) -> str:
    """Tabulate IoU and boundary F-score of each class in the first set, and how others differ."""
    rows = [["class", "% of pixels", "IoU", "F@1px"]]
    for name in result["changes"]:
        rows[0] += [f"Δ IoU {name}", "Δ F@1px"]
    for i, entry in enumerate(result["classes"]):
        scores = result["sets"][next(iter(result["sets"]))]["class"]
        name = (
            str(entry["id"])
            if entry["name"] == str(entry["id"])
            else f"{entry['id']} {entry['name']}"
        )
        row = [name, percent(entry["pixels"] / max(result["pixels"], 1))]
        row += [percent(scores[key][i]) for key in ("iou", "f_1px")]
        for change in result["changes"].values():
            row += [interval(change["class"][key][i]) for key in ("iou", "f_1px")]
        rows.append(row)
    return layout(rows)


def surface_table(result: dict[str, Any]) -> str:
    """Tabulate HD95, pixels or millimetres, and surface Dice, of each class and their means."""
    sets = {k: scores["surface"] for k, scores in result["sets"].items() if "surface" in scores}
    if not sets:
        return ""
    rows = [["surfaces", *(f"{SURFACE_SCORES[key]} {k}" for k in sets for key in SURFACE_SCORES)]]

    def cells(hd95: float | None, nsd: float | None) -> list[str]:
        return ["–" if hd95 is None else f"{hd95:.2f}", percent(nsd)]

    rows.append(["mean", *(cell for s in sets.values() for cell in cells(**s["mean"]))])
    for i, entry in enumerate(result["classes"]):
        found = ({key: column[i] for key, column in s["class"].items()} for s in sets.values())
        rows.append([entry["name"], *(cell for scores in found for cell in cells(**scores))])
    return layout(rows)


def error_table(result: dict[str, Any]) -> str:
    """Tabulate errors by distance to the nearest true boundary, and what changed there."""
    totals = band_pixels(result)
    widths = [f"trimap_iou_{width}px" for width in result["bands"][:-1]]
    tables = []
    for name, scores in result["sets"].items():
        change = result["changes"].get(name)
        rows = [[f"{name}: px from a boundary", "% of pixels", "errors", "% wrong", "trimap mIoU"]]
        rows[0] += ["fixed", "broken"] if change else []
        for i, band in enumerate(band_names(result["bands"])):
            wrong = scores["errors"][i]
            row = [band, percent(totals[i] / max(result["pixels"], 1)), str(wrong)]
            row.append(percent(wrong / totals[i] if totals[i] else None))
            row.append(percent(scores["mean"][[*widths, "iou"][i]]))
            row += [str(change["bands"][kind][i]) for kind in ("fixed", "broken") if change]
            rows.append(row)
        tables.append(layout(rows))
    return "\n\n".join(tables)


def boundary_table(result: dict[str, Any]) -> str:
    """Tabulate the share of each class's pixels that lie near a boundary."""
    widths = [width for width in result["bands"] if width and width <= 5]
    rows = [["% of the class's pixels", *(f"≤ {width} px" for width in widths)]]
    for entry in result["classes"]:
        shares = (
            percent(entry["within"][i] / entry["pixels"] if entry["pixels"] else None)
            for i in range(len(widths))
        )
        rows.append([entry["name"], *shares])
    return layout(rows)


def csv_lines(result: dict[str, Any]) -> str:
    """Write a line of CSV per set, class and score; the class is empty for means."""
    text = io.StringIO()
    writer = csv_files.writer(text, lineterminator="\n")
    writer.writerow(["set", "class_id", "class", "score", "value", "difference", "low", "high"])
    for set_name, scores in result["sets"].items():
        name, change = plain_cell(set_name), result["changes"].get(set_name)
        for key, value in scores["mean"].items():
            difference = change["mean"][key] if change else ["", "", ""]
            writer.writerow([name, "", "", key, value, *difference])
        for kind in CHANGES if change and result["pixels"] else ():
            share = sum(change["bands"][kind]) / result["pixels"]
            writer.writerow([name, "", "", kind, share, "", "", ""])
        for key in HARMED if change else ():
            for kind, told in (("harm_rate", "rate"), ("worst", "worst")):
                value = change["harm"][key][told]
                writer.writerow([name, "", "", f"{kind}_{key}", value, "", "", ""])
        surface = scores.get("surface", {"mean": {}, "class": {}})
        for key, value in surface["mean"].items():
            writer.writerow([name, "", "", key, value, "", "", ""])
        for key, values in (scores["class"] | surface["class"]).items():
            for i, entry in enumerate(result["classes"]):
                difference = change["class"][key][i] if change and key in SCORES else ["", "", ""]
                writer.writerow(
                    [name, entry["id"], plain_cell(entry["name"]), key, values[i], *difference]
                )
    return text.getvalue()
