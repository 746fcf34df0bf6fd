"""segfix convert."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from segfix.cli import options
from segfix.cli.outcome import finish


@click.command()
@click.argument("offsets", type=options.location)
@options.out_folder("converted")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["png", "mat", "npz", "flo"]),
    default="png",
    show_default=True,
    help="png: ours. mat: as the released code reads it, and all of ours besides; npz: the same "
    "for NumPy. flo: for viewers of optical flow; the confidence is lost.",
)
@options.batch
def convert(
    offsets: Path,
    out: Path,
    file_format: str,
    batch: options.BatchOptions,
) -> None:
    """Turn offset maps into another file format and back.

    OFFSETS is an offset map or a folder of them: ours (PNG), the released code's (.mat), .npz or
    .flo. Every format refines alike; to and from png, mat and npz nothing is lost. Files of others
    hold no confidence: their offsets count as certain.
    """
    from segfix.formats import OFFSET_SUFFIXES
    from segfix.jobs.run import run_task
    from segfix.jobs.sources import list_inputs
    from segfix.tasks.convert import convert_task

    task = convert_task(f".{file_format}")
    passed = Counter[str]()
    entries = list_inputs(
        {"OFFSETS": offsets},
        OFFSET_SUFFIXES,
        "offset maps",
        out,
        task.name,
        recursive=batch.recursive,
        passed_over=passed,
    )
    finish(run_task(task, entries, out, batch, passed_over=passed), out, batch)
