"""What `segfix evaluate` prints of instance and panoptic predictions."""

from __future__ import annotations

import csv as csv_files
import io
import json
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import click

from segfix.cli import options
from segfix.cli.outcome import list_failures
from segfix.errors import PairingError, SegfixError, one_line, tell_number
from segfix.report.wording import interval, layout, name_score, percent, plain_cell, with_note

JSON_ALONE = re.compile(r"[sr]q_|boundary_.*_")
"""Begins the keys of scores that tables leave out."""


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
    from segfix.evaluation.instance_sets import compare_instances
    from segfix.evaluation.totals import REPLICAS

    for path in (*sets.values(), labels):
        if not path.exists():
            raise PairingError(f"{path}: no such file or folder.")
    results: dict[str, dict[str, Any]] = {}
    failed: list[str] = []
    how: dict[str, Any] = {"workers": workers, "boundary": boundary}
    how |= {"replicas": REPLICAS if len(sets) > 1 else 0}
    with options.missing_extra("eval"):
        for name, path in sets.items():
            try:
                results[name] = evaluate_instances(path, labels, **how)
            except SegfixError as error:
                # Of faulty ground truth, every set says the same.
                if str(error) not in failed:
                    failed.append(str(error))
    changes = compare_instances(results, next(iter(sets)))
    if as_json:
        click.echo(json.dumps({"sets": results, "changes": changes, "failed": failed}, indent=2))
    elif as_csv:
        click.echo(csv_lines(results), nl=False)
    elif results:
        click.echo(f"{mean_table(results, changes)}\n\n{class_table(results, changes)}")
    for name, result in results.items():
        for note in () if quiet else result["notes"]:
            click.echo(one_line(f"{name}: {note}"), err=True)
    list_failures(failed, as_json=as_json)
    if failed:
        click.get_current_context().exit(1)


def mean_table(results: Mapping[str, Any], changes: Mapping[str, Any]) -> str:
    """Means, a column per set, with the difference to the first and its interval."""
    first = next(iter(results.values()))
    rows = [[tell_number(first["images"], "image"), *results]]
    for key in first["mean"]:
        if not JSON_ALONE.match(key) and all(key in one["mean"] for one in results.values()):
            rows.append([name_score(key), *cells(results, changes, ("mean", key))])
    return with_note(layout(rows), next(iter(results)))


def class_table(results: Mapping[str, Any], changes: Mapping[str, Any]) -> str:
    """AP or PQ of each class, a column per set, with the difference to the first."""
    key = next(iter(next(iter(results.values()))["mean"]))
    rows = [[f"{name_score(key)} of", *results]]
    for name in dict.fromkeys(name for result in results.values() for name in result["class"]):
        rows.append([name, *cells(results, changes, ("class", name, key))])
    return layout(rows)


def cells(
    results: Mapping[str, Any], changes: Mapping[str, Any], place: Sequence[str]
) -> list[str]:
    """Scores in percent, each but the first's with its difference."""
    texts = []
    for name, result in results.items():
        change = reduce(getitem, place, changes[name]) if name in changes else [None]
        difference = "" if change[0] is None else f" {interval(change)}"
        texts.append(percent(reduce(getitem, place, result)) + difference)
    return texts


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
