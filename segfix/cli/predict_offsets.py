"""segfix predict-offsets."""

from __future__ import annotations

from pathlib import Path

import click

from segfix.cli import options
from segfix.cli.outcome import finish


@click.command("predict-offsets")
@click.argument("images", type=options.any_path)
@options.out_folder("offsets")
@options.weights
@options.device
@options.batch
def predict_offsets(
    images: Path,
    out: Path,
    weights: str | None,
    device: str,
    recursive: bool,
    overwrite: bool,
    workers: int | None,
    max_failures: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Predict where boundaries are and which way the interior lies.

    IMAGES is a photograph or a folder of them. Each gets an offset map of the same stem: a palette
    PNG that 'segfix refine' applies to any model's label map of that photograph, and that can be
    looked at (hue is direction, brightness is confidence).
    """
    options.check_folders(images, out, "IMAGES")
    from segfix.formats import IMAGE_SUFFIXES, list_entries
    from segfix.inference.batch import Batch, output_path
    from segfix.inference.model import load
    from segfix.inference.predict import predict_file

    entries = list_entries(
        images, IMAGE_SUFFIXES, what="images", recursive=recursive, leave_out=[out]
    )
    options.check_results(
        (output_path(out, entry.stem) for entry in entries), (entry.path for entry in entries)
    )
    model = load(weights, device=device)
    if not quiet:
        click.echo(f"weights {model.metadata['name']} on {model.device}", err=True)
    summary = Batch(
        entries, lambda entry: predict_file(model, entry, out, overwrite=overwrite), "image"
    ).run(workers=workers or 2, max_failures=max_failures, quiet=quiet)
    finish(summary, out, as_json=as_json, quiet=quiet, device=model.device, weights=model.source)
