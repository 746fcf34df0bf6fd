"""segfix weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from segfix.cli import options
from segfix.cli.outcome import precision_lines
from segfix.errors import one_line


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME|FILE]...")
@options.as_json
def weights(names: tuple[str, ...], as_json: bool) -> None:
    """List the shipped weights, their scores and their terms."""
    from segfix.network.offset_model import load
    from segfix.network.weights import DEFAULT_WEIGHTS, find_weights, shipped_weights

    found = []
    for name in names or tuple(shipped_weights()):
        path = find_weights(name)
        model = load(path, device="cpu")
        size = path.stat().st_size
        found.append(
            {
                **model.metadata,
                "path": str(path),
                "bytes": size,
                "sha256": model.digest,
                "default": path == shipped_weights().get(DEFAULT_WEIGHTS),
            }
        )
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for row in found:
        for line in describe(row):
            click.echo(one_line(line))


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
    yield f"  last trained {row['step']} steps on {data}; {scores or 'unscored'}"
    if row.get("conditioned"):
        yield "  looks at predictions, too: predict-offsets --preds"
    for line in precision_lines(row):
        yield f"  {row['precision']} on {line}"
    for key in ("license", "terms"):
        if key in row:
            yield f"  {key}: {row[key]}"
