"""segfix export."""

from __future__ import annotations

from pathlib import Path

import click

from segfix.cli import options


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The ONNX file to make. [default: beside CHECKPOINT]",
)
@click.option("--name", help="Name of the weights. [default: the file's stem]")
@click.option(
    "--license", "license_", metavar="TEXT", help="Licence of the weights, kept in the file."
)
@click.option("--terms", metavar="TEXT", help="Terms of the training data, kept in the file.")
@options.overwrite
def export(
    checkpoint: Path,
    out: Path | None,
    name: str | None,
    license_: str | None,
    terms: str | None,
    overwrite: bool,
) -> None:
    """Turn a trained network into one ONNX file for predict-offsets.

    CHECKPOINT is the model.safetensors of 'segfix train'. The file takes bytes and gives bytes:
    normalisation, padding and soft-max are inside, and what else inference needs is in its
    metadata. It is kept only if torch and onnxruntime agree.
    """
    out = out or checkpoint.with_suffix(".onnx")
    if out.exists() and not overwrite:
        raise click.UsageError(f"{out} exists; --overwrite replaces it, -o writes elsewhere.")
    with options.missing_extra("train"):
        from segfix.training.export import export_onnx
    notes = {key: text for key, text in (("license", license_), ("terms", terms)) if text}
    export_onnx(checkpoint, out, name=name, notes=notes)
    click.echo(str(out))
