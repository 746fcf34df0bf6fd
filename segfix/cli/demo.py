"""segfix demo."""

from __future__ import annotations

from pathlib import Path

import click

from segfix.cli import options


@click.command()
@options.out_folder("demo")
@options.device
@options.overwrite
@options.quiet
def demo(out: Path, device: str, overwrite: bool, quiet: bool) -> None:
    """Refine coarse label maps of a few bundled photographs and draw before and after.

    The photographs are free; the folder's README says where they and the label maps come from.
    """
    from segfix.report.demo import run_demo

    for path in run_demo(out, device=device, overwrite=overwrite, quiet=quiet):
        click.echo(str(path))
