"""segfix targets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from segfix.cli import options
from segfix.cli.outcome import finish


@click.command()
@click.argument("labels", type=options.location)
@options.out_folder("targets")
@options.num_directions
@options.boundary_width
@options.void
@options.batch
def targets(
    labels: Path,
    out: Path,
    num_directions: str,
    boundary_width: int,
    ignore_index: int,
    batch: options.BatchOptions,
) -> None:
    """Make offset maps from ground truth: the ceiling of the method.

    LABELS is a ground-truth label map or a folder of them. 'segfix refine' applies the results as
    it applies predicted offsets.
    """
    from segfix.evaluation.checks import check_void_of
    from segfix.formats import LABEL_SUFFIXES
    from segfix.jobs.run import run_task
    from segfix.jobs.sources import list_inputs
    from segfix.tasks.ground_truth import target_task

    task = target_task(
        num_directions=int(num_directions),
        boundary_width=boundary_width,
        ignore_index=ignore_index,
    )
    passed = Counter[str]()
    entries = list_inputs(
        {"LABELS": labels},
        LABEL_SUFFIXES,
        "label maps",
        out,
        task.name,
        recursive=batch.recursive,
        passed_over=passed,
    )
    check_void_of(entries, labels, ignore_index, given=options.is_void_given())
    finish(run_task(task, entries, out, batch, passed_over=passed), out, batch)
