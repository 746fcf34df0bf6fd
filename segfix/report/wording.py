"""Scores in words: percentages, intervals, bands, and what a reader of them must know."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from segfix.errors import one_line, tell_number


def percent(value: float | None, *, sign: str = "") -> str:
    """Write a share in percent; a dash where there is none."""
    return "–" if value is None else f"{100 * value:{sign}.2f}"


def interval(difference: Sequence[float | None]) -> str:
    """Write a difference with its confidence interval."""
    value, low, high = (percent(v, sign="+") for v in difference)
    return value if low == "–" else f"{value} [{low} {high}]"


def with_note(table: str, first: str) -> str:
    """Explain the brackets of a table, where it has some, below it."""
    note = f"[ ]: 95 % confidence interval of the difference to {first}, over images"
    return f"{table}\n{note}" if "[" in table else table


def name_score(key: str) -> str:
    """Write the key of a score of instances as papers do.

    Example:
        >>> name_score("ap50"), name_score("ap_small"), name_score("boundary_pq")
        ('AP50', 'AP small', 'Boundary PQ')
    """
    words = key.replace("boundary", "Boundary").replace("_", " ")
    return re.sub(r"(?<![a-z])(ap|pq|sq|rq)(?![a-z])", lambda m: m[0].upper(), words)


def band_names(bands: Sequence[int | None]) -> list[str]:
    """Name the bands of distance."""
    ends = [*bands[:-1]]
    starts = [1, *(int(end or 0) + 1 for end in ends)]
    return [
        *(str(a) if a == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=False)),
        f"> {ends[-1]}",
    ]


def band_pixels(result: dict[str, Any]) -> list[int]:
    """Count the pixels of the ground truth in each band of distance."""
    totals = [0] * len(result["bands"])
    for entry in result["classes"]:
        within = [0, *entry["within"]]
        totals = [t + b - a for t, a, b in zip(totals, within, within[1:], strict=False)]
    return totals


def notes(result: dict[str, Any], ignore_index: int, *, classes_given: bool) -> Iterator[str]:
    """Tell what a reader of the scores must know: what was left out, what is suspicious."""
    if result["left_out"]:
        total = result["left_out"] + result["images"]
        count = "counts" if result["left_out"] == 1 else "count"
        yield f"{result['left_out']} of {tell_number(total, 'image')} failed and {count} in no set"
    if result["void_images"]:
        hold = "image holds" if result["void_images"] == 1 else "images hold"
        yield f"{result['void_images']} {hold} void ({ignore_index}) alone: nothing to score"
    held = [entry for entry in result["classes"] if entry["pixels"]]
    empty = [entry["name"] for entry in result["classes"] if not entry["pixels"]]
    if classes_given and empty:
        yield f"no label map holds {', '.join(empty)}: no IoU, not in its mean"
    for name, scores in result["sets"].items():
        pixels = sum(scores["outside"].values())
        if pixels:
            ids = ", ".join([*scores["outside"]][:5]) + (
                ", …" if len(scores["outside"]) > 5 else ""
            )
            where = "that are no classes" if classes_given else "that are no class in LABELS"
            hint = "PREDS and LABELS swapped? another --void?"
            if scores["outside"].get(str(ignore_index)):
                hint = "PREDS and LABELS swapped? masks of 0 and 255: --void -1"
                if {entry["id"] for entry in held} == {0, 1}:
                    hint = "masks of 0 and 255 beside labels of 0 and 1? write both alike"
            yield (
                f"{name}: {tell_number(pixels, 'pixel')} predicted as ids {where} ({ids}): counted "
                f"as wrong ({hint})"
            )
    yield from doubts(result)
    if result["void"] and len(held) == 1:
        yield (
            f"LABELS hold a single id besides void ({ignore_index}); for masks of 0 and 255 say "
            "--void -1"
        )


def doubts(result: dict[str, Any]) -> Iterator[str]:
    """Tell what looks as if the wrong files had been compared."""
    if result["refined_labels"]:
        are = (
            "file of LABELS is a result"
            if result["refined_labels"] == 1
            else "files of LABELS are results"
        )
        yield (f"{result['refined_labels']} {are} of 'segfix refine': PREDS and LABELS swapped?")
    pixels = result["pixels"]
    for name, scores in result["sets"].items():
        if pixels and not sum(scores["errors"]) and not scores["outside"]:
            yield f"{name}: not a pixel differs from LABELS: copies of the ground truth?"
        for step, right in zip(("+ 1", "- 1"), scores["shifted"], strict=True):
            if 2 * right > pixels:
                yield (
                    f"{name}: {right / pixels:.0%} of the pixels would be right as their id {step}:"
                    " are ids counted from 0 on one side, and from 1 on the other?"
                )
        if scores["renumbered"]:
            yield (
                f"{name}: in {tell_number(scores['renumbered'], 'image')} the palette gives "
                "colours of LABELS to other ids: were ids renumbered?"
            )
    for name, change in result["changes"].items():
        if pixels and not sum(change["bands"]["moved"]):
            yield f"{name}: not a label differs from {next(iter(result['sets']))}"


def plain_cell(text: str) -> str:
    """Mark a cell of CSV as text where a spreadsheet would take it for a formula.

    Example:
        >>> plain_cell("=1+1"), plain_cell("road")
        ("'=1+1", 'road')
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def layout(rows: list[list[str]]) -> str:
    """Lay out rows of cells in columns, the first one to the left."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
