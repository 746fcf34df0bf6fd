"""The command line: one thin file per command over the library."""

from __future__ import annotations

import click

from segfix import __version__
from segfix.cli.train import train


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", prog_name="segfix")
def main() -> None:
    """Clean up the boundaries of any segmentation model's label maps."""


for command in (train,):
    main.add_command(command)
