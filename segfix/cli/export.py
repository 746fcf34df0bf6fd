"""segfix export."""

from __future__ import annotations

from pathlib import Path

import click

from segfix.cli import options
from segfix.cli.outcome import precision_lines
from segfix.errors import require_extra


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
@click.option(
    "--fp16",
    is_flag=True,
    help="Weights and arithmetic in 16 bits: half the size, for GPUs; what goes in and comes out "
    "is the same.",
)
@click.option(
    "--int8",
    is_flag=True,
    help="A SegFix network's convolutions in 8-bit integers, for CPUs: under a third of the size "
    "and down to half the time. Needs --calibrate, whose photographs tell the ranges of the 8-bit "
    "values; kept only if on none of these data sets mask F-score or direction accuracy falls by "
    "more than 1 point; of a network that looks at predictions, too, neither with nor without "
    "these, nor how well it tells wrong labels from right ones.",
)
@click.option(
    "--flip",
    is_flag=True,
    help="Look at the mirrored image, too, and average: twice the time, a little more accurate.",
)
@click.option(
    "--calibrate",
    "calibrate_on",
    type=options.existing_folder,
    multiple=True,
    help="Data set (as for 'segfix train --val') on whose photographs the confidence of a SegFix "
    "network is calibrated; repeatable.",
)
@options.quiet
@options.overwrite
def export(
    checkpoint: Path,
    out: Path | None,
    name: str | None,
    license_: str | None,
    terms: str | None,
    fp16: bool,
    int8: bool,
    flip: bool,
    calibrate_on: tuple[Path, ...],
    quiet: bool,
    overwrite: bool,
) -> None:
    """Turn a trained network into one ONNX file for predict-offsets or segment.

    CHECKPOINT is the model.safetensors of 'segfix train'. The file takes bytes and gives bytes (a
    segmentation network: probabilities): normalisation, padding and soft-max are inside, and what
    else inference needs is in its metadata. It is kept only if torch and onnxruntime agree.
    """
    if int8 and fp16:
        raise click.UsageError("--fp16 and --int8 exclude each other; make two files.")
    if int8 and not calibrate_on:
        raise click.UsageError(
            "--int8 needs --calibrate DATA: its photographs tell the ranges of the 8-bit values, "
            "and its labels whether the network is still good."
        )
    out = out or checkpoint.with_suffix(".onnx")
    if out.exists() and not overwrite:
        raise click.UsageError(f"{out} exists; --overwrite replaces it, -o writes elsewhere.")
    with require_extra("train"):
        from segfix.training.export import export_onnx
    notes = {key: text for key, text in (("license", license_), ("terms", terms)) if text}
    precision = "fp16" if fp16 else "int8" if int8 else "fp32"
    metadata = export_onnx(
        checkpoint,
        out,
        name=name,
        notes=notes,
        precision=precision,
        flip=flip,
        calibrate_on=calibrate_on,
        quiet=quiet,
    )
    click.echo(str(out))
    if not quiet:
        for line in precision_lines(metadata):
            click.echo(f"  {line}")
