"""segfix weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import click

from segfix.cli import options
from segfix.cli.outcome import precision_lines
from segfix.errors import one_line, tell_number


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME|FILE]...")
@click.option(
    "--fetch",
    "url",
    metavar="URL",
    help="Fetch an ONNX file into the folder of fetched weights (SEGFIX_HOME, or segfix in your "
    "cache folder), where --weights finds its name; needs the extra 'fetch'.",
)
@click.option("--sha256", metavar="HEX", help="SHA-256 that the file of --fetch must have.")
@options.as_json
def weights(names: tuple[str, ...], url: str | None, sha256: str | None, as_json: bool) -> None:
    """List the shipped and the fetched weights, their figures, scores and terms.

    Nothing is fetched unasked, and nothing without its checksum.
    """
    from segfix.network.offset_model import load
    from segfix.network.weights import (
        COLUMNS,
        DEFAULT_WEIGHTS,
        FIGURES,
        fetch_weights,
        fetched_weights,
        find_weights,
        shipped_weights,
    )

    if (url is None) != (sha256 is None):
        raise click.UsageError("--fetch URL and --sha256 HEX go together.")
    if url is not None and sha256 is not None:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
            raise click.UsageError("--sha256 is 64 hexadecimal digits.")
        names = (*names, str(fetch_weights(url, sha256.lower())))
    shipped = shipped_weights()
    found = []
    for name in names or (*shipped, *(fetched_weights().keys() - shipped.keys())):
        path = find_weights(name)
        model = load(path, device="cpu")
        figures = FIGURES.get(path.stem) if path in shipped.values() else None
        found.append(
            {
                **model.metadata,
                "path": str(path),
                "bytes": path.stat().st_size,
                "sha256": model.digest,
                "default": path == shipped.get(DEFAULT_WEIGHTS),
                "figures": dict(zip(COLUMNS, figures, strict=True)) if figures else None,
            }
        )
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for line in tabulate(found):
        click.echo(one_line(line))
    for row in found:
        for line in describe(row):
            click.echo(one_line(line))


def tabulate(found: list[dict[str, Any]]) -> Iterator[str]:
    """Lay out the figures of networks that have some, with what they mean."""
    from segfix.network.weights import COLUMNS

    rows = [
        (row["name"], f"{row['bytes'] / 1e6:.1f}", *row["figures"].values())
        for row in found
        if row["figures"]
    ]
    if not rows:
        return
    table = [("weights", "MB", *COLUMNS), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for name, *cells in table:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        yield "  ".join([name.ljust(widths[0]), *padded])
    yield "Gains: Δ mIoU / Δ F@1px."
    yield "Harm rate: of the moved pixels, those that were right before and are wrong now."
    yield ""


def describe(row: dict[str, Any]) -> Iterator[str]:
    """What is printed of a network: its metadata, and `path`, `bytes`, `sha256`, `default`."""
    yield f"{row['name']}{' (default)' if row['default'] else ''}: {row['path']}"
    yield (
        f"  {row['backbone']}, m = {row['num_directions']}, γ = {row['boundary_width']}, "
        f"{row.get('precision', 'fp32')}, {row['bytes'] / 1e6:.1f} MB, "
        f"SHA-256 {row['sha256'][:16]}…"
    )
    scores = ", ".join(f"{key} {value:.4f}" for key, value in row["scores"].items())
    data = ", ".join(row["data"])
    yield f"  last trained {tell_number(row['step'], 'step')} on {data}; {scores or 'unscored'}"
    if row.get("conditioned"):
        yield "  looks at predictions, too: predict-offsets --preds"
    for line in precision_lines(row):
        yield f"  {row['precision']} on {line}"
    for key in ("license", "terms"):
        if key in row:
            yield f"  {key}: {row[key]}"
