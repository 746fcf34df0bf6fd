"""segfix targets."""

from __future__ import annotations

from pathlib import Path

import click

from segfix.cli import options
from segfix.cli.outcome import finish


@click.command()
@click.argument("labels", type=options.any_path)
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
    recursive: bool,
    overwrite: bool,
    workers: int | None,
    max_failures: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make offset maps from ground truth: the ceiling of the method.

    LABELS is a ground-truth label map or a folder of them. 'segfix refine' applies the results as
    it applies predicted offsets.
    """
    options.check_folders(labels, out, "LABELS")
    from segfix.formats import LABEL_SUFFIXES, list_entries
    from segfix.inference.batch import Batch, output_path
    from segfix.inference.model import available_threads
    from segfix.inference.predict import target_file

    entries = list_entries(
        labels, LABEL_SUFFIXES, what="label maps", recursive=recursive, leave_out=[out]
    )
    options.check_results(
        (output_path(out, entry.stem) for entry in entries), (entry.path for entry in entries)
    )
    summary = Batch(
        entries,
        lambda entry: target_file(
            entry,
            out,
            num_directions=int(num_directions),
            boundary_width=boundary_width,
            ignore_index=ignore_index,
            overwrite=overwrite,
        ),
        "map",
    ).run(workers=workers or available_threads(), max_failures=max_failures, quiet=quiet)
    finish(summary, out, as_json=as_json, quiet=quiet)
