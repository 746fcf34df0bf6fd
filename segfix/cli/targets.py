"""segfix targets."""

from __future__ import annotations

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
    options.check_folders(labels, out, "LABELS")
    from segfix.files import list_entries
    from segfix.formats import LABEL_SUFFIXES
    from segfix.jobs.run import png_path
    from segfix.tasks.targets import target_file

    entries = list_entries(
        labels, LABEL_SUFFIXES, what="label maps", recursive=batch.recursive, leave_out=[out]
    )
    options.check_results(
        (png_path(entry, out) for entry in entries), (entry.path for entry in entries)
    )
    summary = batch.run(
        entries,
        lambda entry, out: target_file(
            entry,
            out,
            num_directions=int(num_directions),
            boundary_width=boundary_width,
            ignore_index=ignore_index,
            overwrite=batch.overwrite,
        ),
        "map",
        out=out,
        result=png_path,
        processes=True,
    )
    finish(summary, out, batch)
