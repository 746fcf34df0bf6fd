"""What `segfix evaluate` prints of instance and panoptic predictions."""

from __future__ import annotations

import csv as csv_files
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from segfix.cli import options
from segfix.cli.outcome import list_failures
from segfix.errors import PairingError, SegfixError, one_line
from segfix.report.wording import layout, percent, plain_cell

TITLES = {
    "coco": {
        "ap": "AP",
        "ap50": "AP50",
        "ap75": "AP75",
        "ap_small": "AP small",
        "ap_medium": "AP medium",
        "ap_large": "AP large",
        "boundary_ap": "Boundary AP",
        "boundary_ap50": "Boundary AP50",
        "boundary_ap75": "Boundary AP75",
    },
    "cityscapes": {"ap": "AP", "ap50": "AP50"},
    "panoptic": {
        "pq": "PQ",
        "sq": "SQ",
        "rq": "RQ",
        "pq_things": "PQ things",
        "pq_stuff": "PQ stuff",
        "boundary_pq": "Boundary PQ",
        "boundary_sq": "Boundary SQ",
        "boundary_rq": "Boundary RQ",
    },
}
"""Columns of the table; the first is that of the classes. The JSON holds some more."""


def report_instances(
    sets: Mapping[str, Path],
    labels: Path,
    *,
    as_json: bool,
    as_csv: bool,
    workers: int,
    boundary: bool,
    quiet: bool,
) -> None:
    """Score sets of predictions, print the scores, and exit with 1 if a set failed.

    Args:
        sets: By name, predictions that `segfix.evaluation.is_instance_input` knows. The first is
            the one that the others are compared with.
        labels: Ground truth.
        as_json: Print JSON instead of tables.
        as_csv: Print CSV instead of tables.
        workers: Threads.
        boundary: Measure Boundary AP or Boundary PQ, too.
        quiet: Print no notes.

    Raises:
        PairingError: A file or a folder is missing.
        MissingExtraError: The evaluators aren't installed.
    """
    from segfix.evaluation import evaluate_instances

    for path in (*sets.values(), labels):
        if not path.exists():
            raise PairingError(f"{path}: no such file or folder.")
    results: dict[str, dict[str, Any]] = {}
    failed: list[str] = []
    with options.missing_extra("eval"):
        for name, path in sets.items():
            try:
                results[name] = evaluate_instances(path, labels, workers=workers, boundary=boundary)
            except SegfixError as error:
                # Of faulty ground truth, every set says the same.
                if str(error) not in failed:
                    failed.append(str(error))
    if as_json:
        click.echo(json.dumps({"sets": results, "failed": failed}, indent=2))
    elif as_csv:
        click.echo(csv_lines(results), nl=False)
    elif results:
        first = next(iter(sets))
        click.echo(mean_table(results, first))
        click.echo(f"\n{class_table(results, first)}")
    for name, result in results.items():
        for note in () if quiet else result["notes"]:
            click.echo(one_line(f"{name}: {note}"), err=True)
    list_failures(failed, as_json=as_json)
    if failed:
        click.get_current_context().exit(1)


def mean_table(results: Mapping[str, dict[str, Any]], first: str) -> str:
    """Means, a column per set, with the difference to the first."""
    images = next(iter(results.values()))["images"]
    rows = [[f"{images} images", *results]]
    for key, title in TITLES[next(iter(results.values()))["kind"]].items():
        if any(key not in result["mean"] for result in results.values()):
            continue
        base = results[first]["mean"][key] if first in results else None
        scores = {name: result["mean"][key] for name, result in results.items()}
        rows.append([title, *cells(scores, first, base)])
    return layout(rows)


def class_table(results: Mapping[str, dict[str, Any]], first: str) -> str:
    """AP or PQ of each class, a column per set, with the difference to the first."""
    key, title = next(iter(TITLES[next(iter(results.values()))["kind"]].items()))
    rows = [[f"{title} of", *results]]
    classes = dict.fromkeys(name for result in results.values() for name in result["class"])
    for class_name in classes:
        base = results[first]["class"][class_name][key] if first in results else None
        scores = {name: result["class"][class_name][key] for name, result in results.items()}
        rows.append([class_name, *cells(scores, first, base)])
    return layout(rows)


def cells(scores: Mapping[str, float | None], first: str, base: float | None) -> list[str]:
    """Scores in percent, each but the first's with its difference."""
    return [
        percent(score)
        if score is None or base is None or name == first
        else f"{percent(score)} {percent(score - base, sign='+')}"
        for name, score in scores.items()
    ]


def csv_lines(results: Mapping[str, dict[str, Any]]) -> str:
    """One line per set, class and score, in [0, 1]; the class is empty for means."""
    text = io.StringIO()
    writer = csv_files.writer(text, lineterminator="\n")
    writer.writerow(["set", "class", "score", "value"])
    for name, result in results.items():
        for class_name, scores in (("", result["mean"]), *result["class"].items()):
            cells_before = [plain_cell(name), plain_cell(class_name)]
            writer.writerows([*cells_before, key, value] for key, value in scores.items())
    return text.getvalue()
