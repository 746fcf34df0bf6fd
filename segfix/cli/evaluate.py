"""segfix evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from segfix.cli import options
from segfix.cli.outcome import list_failures

COLUMNS = {
    "miou": "mIoU",
    "f1": "F@1px",
    "f2": "F@2px",
    "f3": "F@3px",
    "pixel_accuracy": "accuracy",
}


class NamedFolder(click.ParamType[tuple[str, Path]]):
    """NAME=DIR."""

    name = "name=dir"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path]:
        """To the name and the folder."""
        name, _, folder = ("", "", str(value)) if Path(value).exists() else value.partition("=")
        if not Path(folder).exists():
            self.fail(f"{folder}: no such folder.", param, ctx)
        return name or Path(folder).name, Path(folder)


@click.command()
@click.argument("preds", type=options.any_path)
@click.argument("labels", type=options.any_path)
@click.option(
    "--against",
    type=NamedFolder(),
    multiple=True,
    help="Other label maps to compare with PREDS on the same images; repeatable.",
)
@options.void
@options.suffixes
@options.recursive
@options.workers
@options.as_json
@options.quiet
def evaluate(
    preds: Path,
    labels: Path,
    against: tuple[tuple[str, Path], ...],
    ignore_index: int,
    suffixes: tuple[str, ...],
    recursive: bool,
    workers: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Score label maps: mIoU and boundary F-score at 1, 2 and 3 pixels.

    PREDS and LABELS are label maps of class ids (grey or palette) or folders of them. mIoU comes
    from counts over all images, over the classes in LABELS; the boundary F-score is the mean over
    images, then over classes. An image without a prediction is a failure, not a score.
    """
    from segfix.evaluation import evaluate_folder
    from segfix.formats import LABEL_SUFFIXES, list_entries, pair_entries
    from segfix.inference.model import available_threads

    names = ["PREDS", *(name for name, _ in against)]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise click.UsageError(
            f"two sets are called {twice.pop()!r}: --against NAME=DIR names one."
        )
    truth = list_entries(labels, LABEL_SUFFIXES, what="label maps", recursive=recursive)
    rows, failed = {}, []
    for name, folder in (("PREDS", preds), *against):
        found = list_entries(folder, LABEL_SUFFIXES, what="label maps", recursive=recursive)
        scores = evaluate_folder(
            pair_entries(truth, found, suffixes=suffixes, one_to_one=True),
            ignore_index=ignore_index,
            workers=workers or available_threads(),
            quiet=quiet,
            title=name,
        )
        rows[name] = scores.result()
        failed += scores.failed
    if as_json:
        click.echo(json.dumps({"sets": rows, "failed": failed}, indent=2))
    else:
        click.echo(table(rows))
    first = rows["PREDS"]
    if first["void"] and len(first["class_iou"]) == 1 and not quiet:
        click.echo(
            f"LABELS hold a single id besides void ({ignore_index}); for masks of 0 and 255 say "
            "--void -1",
            err=True,
        )
    list_failures(failed, as_json=as_json)
    if failed:
        click.get_current_context().exit(1)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Scores in percent, one line per set, with the difference to the first."""
    width = max(len(name) for name in rows)
    first = next(iter(rows.values()))
    lines = [" " * width + "".join(f"{title:>18}" for title in COLUMNS.values()) + "  images"]
    for name, row in rows.items():
        cells = ""
        for key in COLUMNS:
            cell = "–" if row[key] is None else f"{100 * row[key]:.2f}"
            # A difference between scores of different images would mean nothing.
            if row is not first and row["pixels"] == first["pixels"] > 0:
                cell += f" ({100 * (row[key] - first[key]):+.2f})"
            cells += cell.rjust(18)
        lines.append(f"{name:<{width}}{cells}{row['images']:>8}")
        if row["pixels"] != first["pixels"]:
            lines.append(f"{'':<{width}}  other images than PREDS: not comparable")
        if row["pixels_of_absent_classes"]:
            lines.append(
                f"{'':<{width}}  {row['pixels_of_absent_classes']} pixels predicted as ids that no "
                "label map holds: counted as wrong (PREDS and LABELS swapped? another --void?)"
            )
    return "\n".join(lines)
