"""End a run over many files: the summary, the failures, the exit status."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segfix.errors import one_line, tell_number, tell_share, tell_some

if TYPE_CHECKING:
    from segfix.cli.options import BatchOptions
    from segfix.files import Pair
    from segfix.jobs.run import Summary

SHOWN_FAILURES, LONGEST = 20, 1000

PRECISION_TITLES = {
    "mask_f": ("mask F", ""),
    "direction_accuracy": ("direction accuracy", "%"),
    "conditioned_mask_f": ("with predictions mask F", ""),
    "conditioned_direction_accuracy": ("direction accuracy", "%"),
    "wrong_auc": ("wrong labels told from right ones", "%"),
}
"""Of the scores of networks in 8 bits: what they are called, and their unit."""


def finish(
    summary: Summary,
    out: Path,
    batch: BatchOptions,
    *,
    note: str = "",
    partner: str = "prediction",
    **extra: Any,
) -> None:
    """Report a run and exit with 1 if anything failed.

    Args:
        summary: What became of the files.
        out: The output folder.
        batch: Whether to print JSON instead of a sentence, or failures only.
        note: End of the sentence.
        partner: What some photographs are without.
        extra: More entries of the JSON.
    """
    if batch.as_json:
        keys = () if summary.unpaired is None else ("unpaired", "unpaired_names")
        report = {
            "out": f"{out}",
            "done": summary.done,
            "skipped": summary.skipped,
            "failed": summary.failed,
            "passed_over": dict(summary.passed_over),
            "not_tried": summary.left,
            **{key: getattr(summary, key) for key in keys},
            **extra,
        }
        click.echo(json.dumps(report, indent=2))
    elif not batch.quiet:
        parts = [f"{len(summary.done)} written"]
        if summary.skipped:
            parts.append(f"{len(summary.skipped)} already there")
        if summary.failed:
            parts.append(f"{len(summary.failed)} failed")
        if summary.left:
            parts.append(f"{summary.left} not tried (--max-failures)")
        if summary.unpaired:
            told = f"{tell_number(summary.unpaired, 'photograph')} without a {partner}"
            names = (Path(one).name for one in summary.unpaired_names or ())
            parts.append(f"{told} ({tell_some(names)})")
        if summary.passed_over:
            parts.append(count_passed(summary.passed_over))
        end = note + scaling_note([*summary.done, *summary.looked]) if summary.done else ""
        click.echo(one_line(f"{out}: {', '.join(parts)}{end}"))
    list_failures(summary.failed, as_json=batch.as_json)
    if summary.failed:
        click.get_current_context().exit(1)


def scaling_note(rows: Iterable[Mapping[str, Any]]) -> str:
    """Say how the values of photographs were scaled, as the end of a sentence; "": they weren't."""
    kinds = Counter(row["scaling"] for row in rows if row.get("scaling"))
    listed = [f"{words} in {count}" for words, count in kinds.most_common(3)]
    listed += [f"and {len(kinds) - 3} more kinds"] * (len(kinds) > 3)
    return f"; values scaled ({', '.join(listed)})" if listed else ""


def count_passed(passed_over: Counter[str]) -> str:
    """Word how many files were passed over, of which kinds."""
    from segfix.files.folders import describe_passed

    return f"{passed_over.total()} passed over: {describe_passed(passed_over)}"


def tell_links(pairs: Iterable[Pair], *, quiet: bool = False) -> None:
    """Say on stderr that files are paired though their names differ, and how."""
    linked = [pair for pair in pairs if pair.linked]
    if linked and not quiet:
        first = linked[0]
        text = (
            f"segfix: names differ; {tell_number(len(linked), 'file')} "
            f"{'is' if len(linked) == 1 else 'are'} paired like {first.entry.path} with "
            f"{first.partner.path if first.partner else None} (--map pairs them otherwise)."
        )
        click.echo(shortened(text), err=True)


def warn_of_others(number: int, total: int, example: str, preds: Path) -> None:
    """Say on stderr that offset maps were made for other predictions.

    Args:
        number: Of such offset maps; 0: nothing is said.
        total: Of those that were applied.
        example: A prediction whose offset map is one.
        preds: What was refined.
    """
    if number:
        text = (
            f"segfix: {tell_share(number, total, 'offset map', 'was', 'were')} made for other "
            f"predictions, such as that of {example}; run predict-offsets again with --preds "
            f"{preds}."
        )
        click.echo(shortened(text), err=True)


def list_failures(
    failed: list[str], *, as_json: bool = False, listed: str = "--json lists all"
) -> None:
    """Print the first failures to stderr, a line each; `listed` says where all of them are."""
    for text in failed[:SHOWN_FAILURES]:
        click.echo(f"failed: {shortened(text)}", err=True)
    if len(failed) > SHOWN_FAILURES and not as_json:
        click.echo(f"… and {len(failed) - SHOWN_FAILURES} more ({listed}).", err=True)


def shortened(message: object) -> str:
    """Shorten a message to one line; what it quotes of a file may be long."""
    # Cut before, too: of each sign, escaping may make ten.
    line = one_line(str(message)[: LONGEST + 1])
    return f"{line[:LONGEST]}…" if len(line) > LONGEST else line


def precision_lines(metadata: dict[str, Any]) -> list[str]:
    """List what a network in 8 bits scored on its calibration sets, beside the float one."""
    lines = []
    for name, scores in metadata.get("precision_scores", {}).items():
        before, after = scores["fp32"], scores["int8"]
        cells = [
            f"{title} {100 * after[key]:.1f}{unit} (fp32 {100 * before[key]:.1f}{unit})"
            for key, (title, unit) in PRECISION_TITLES.items()
            if key in before and key in after
        ]
        lines.append(f"{name}: {', '.join(cells)}")
    return lines
