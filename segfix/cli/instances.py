"""What `segfix evaluate` prints of instance and panoptic predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from segfix.cli import options
from segfix.cli.outcome import list_failures
from segfix.errors import SegfixError

TITLES = {
    "coco": {
        "ap": "AP",
        "ap50": "AP50",
        "ap75": "AP75",
        "ap_small": "AP small",
        "ap_medium": "AP medium",
        "ap_large": "AP large",
    },
    "cityscapes": {"ap": "AP", "ap50": "AP50"},
    "panoptic": {
        "pq": "PQ",
        "sq": "SQ",
        "rq": "RQ",
        "pq_things": "PQ things",
        "pq_stuff": "PQ stuff",
    },
}
"""Columns of the table; the first is that of the classes. The JSON holds some more."""


def report_instances(
    preds: Path,
    labels: Path,
    against: tuple[tuple[str, Path], ...],
    *,
    as_json: bool,
    csv: Path | None = None,
    workers: int = 1,
) -> None:
    """Score PREDS and other sets, print the scores, and exit with 1 if a set failed.

    Args:
        preds: Predictions that `segfix.evaluation.is_instance_input` knows.
        labels: Ground truth.
        against: Names and paths of other predictions, to compare; no name twice, none PREDS.
        as_json: Print JSON instead of tables.
        csv: Also write the scores to this file: a line per set and class, the means first.
        workers: Threads.

    Raises:
        MissingExtraError: The evaluators aren't installed.
    """
    from segfix.evaluation import evaluate_instances

    sets: dict[str, dict[str, Any]] = {}
    failed: list[str] = []
    with options.missing_extra("eval"):
        for name, path in (("PREDS", preds), *against):
            try:
                result = evaluate_instances(path, labels, workers=workers)
            except SegfixError as error:
                # Of faulty ground truth, every set says the same.
                if str(error) not in failed:
                    failed.append(str(error))
            else:
                sets[name] = result
    if csv is not None and sets:
        write_csv(csv, sets)
    if as_json:
        click.echo(json.dumps({"sets": sets, "failed": failed}, indent=2))
    elif sets:
        click.echo(mean_table(sets))
        click.echo()
        click.echo(class_table(sets))
    list_failures(failed, as_json=as_json)
    if failed:
        click.get_current_context().exit(1)


def mean_table(sets: Mapping[str, dict[str, Any]]) -> str:
    """Means in percent, one line per set, with the difference to PREDS; notes below their set."""
    titles = TITLES[next(iter(sets.values()))["kind"]]
    first = sets.get("PREDS")
    width = max(len(name) for name in sets)
    lines = [" " * width + "".join(f"{title:>17}" for title in titles.values()) + "  images"]
    for name, result in sets.items():
        base = first["mean"] if first is not None and result is not first else {}
        cells = "".join(f"{percent(result['mean'][key], base.get(key)):>17}" for key in titles)
        lines.append(f"{name:<{width}}{cells}{result['images']:>8}")
        lines += [f"{'':<{width}}  {note}" for note in result["notes"]]
    return "\n".join(lines)


def class_table(sets: Mapping[str, dict[str, Any]]) -> str:
    """AP or PQ in percent, one line per class, one column per set."""
    kind = next(iter(sets.values()))["kind"]
    key, title = next(iter(TITLES[kind].items()))
    first = sets.get("PREDS")
    classes = list(dict.fromkeys(name for result in sets.values() for name in result["class"]))
    width = max(len(name) for name in (title, *classes))
    columns = {name: max(17, len(name) + 2) for name in sets}
    lines = [f"{title:<{width}}" + "".join(f"{name:>{size}}" for name, size in columns.items())]
    for name in classes:
        cells = ""
        for title_of_set, result in sets.items():
            base = first["class"][name][key] if first is not None and result is not first else None
            cells += percent(result["class"][name][key], base).rjust(columns[title_of_set])
        lines.append(f"{name:<{width}}{cells}")
    return "\n".join(lines)


def percent(score: float | None, base: float | None) -> str:
    """A score in percent, and in brackets what it has over another, where there is one."""
    if score is None:
        return "–"
    return f"{100 * score:.2f}" + ("" if base is None else f" ({100 * (score - base):+.2f})")


def write_csv(path: Path, sets: Mapping[str, dict[str, Any]]) -> None:
    """Scores in [0, 1], empty where nothing counts; the means are the lines without a class."""
    from csv import DictWriter

    from segfix.formats.files import atomic_path

    keys = dict.fromkeys(key for result in sets.values() for key in result["mean"])
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = DictWriter(file, ["set", "class", "images", *keys])
        writer.writeheader()
        for name, result in sets.items():
            for title, scores in (("", result["mean"]), *result["class"].items()):
                writer.writerow({"set": name, "class": title, "images": result["images"]} | scores)
