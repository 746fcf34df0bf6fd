"""segfix fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from segfix.cli import options
from segfix.cli.predict_offsets import load_model, max_side_option
from segfix.cli.refine import finish_label_maps, refine
from segfix.cli.refine_instances import annotations_option, finish_instances, refuse_others

OF_REFINE = ("scale", "iterate", "min_confidence", "fit", "soft", "argmax", "key", "empty")
"""Parameters of `segfix refine` that this command has, too, word for word."""


@click.command(params=[one for one in refine.params if one.name in OF_REFINE])
@click.argument("images", metavar="PHOTO", type=options.location)
@click.argument("preds", metavar="MASK", type=options.location)
@click.option(
    "-o",
    "--out",
    type=options.location,
    metavar="FILE|FOLDER",
    help="Where the result goes. [default: MASK_fixed beside a file MASK, for a folder ./fixed/]",
)
@annotations_option
@options.naming
@options.weights
@options.device
@max_side_option
@click.option(
    "--keep-offsets",
    type=options.any_path,
    metavar="FOLDER",
    help="Keep the offset maps, for 'segfix refine' with other settings and 'segfix show'.",
)
@options.batch
def fix(
    images: Path,
    preds: Path,
    out: Path | None,
    scale: float | None,
    iterate: int,
    min_confidence: float,
    fit: Literal["image", "labels"] | None,
    soft: bool,
    argmax: bool,
    key: str | None,
    empty: str,
    annotations: Path | None,
    naming: dict[str, Any],
    weights: str | None,
    device: str,
    max_side: int | None,
    keep_offsets: Path | None,
    batch: options.BatchOptions,
) -> None:
    """Look at photographs and their predictions, and refine these: everything in one go.

    \b
    segfix fix photo.jpg mask.png           → mask_fixed.png
    segfix fix images/ preds/               → fixed/, files of the same names

    PHOTO is a photograph or a folder of them. MASK is a prediction of any model, or a folder of
    them, as 'segfix refine' takes them: label maps, soft predictions, arrays of masks, and files of
    instances. Results keep kind, palette and tags.

    It does what 'segfix predict-offsets PHOTO --preds MASK' and 'segfix refine MASK' do, to the
    byte, and keeps no offset maps. Where several sets of predictions, or settings, are to be tried
    on the same photographs, these two look at each only once.
    """  # noqa: D301
    if iterate and options.first_given("scale"):
        raise click.UsageError("--scale has no effect with --iterate; give one of them.")
    instances = refuse_others(preds, recursive=batch.recursive)
    from segfix.refinement.apply import RefineSettings
    from segfix.tasks.fix import Fixing, fix_files, place_results
    from segfix.tasks.refine import FileSettings

    folder, name = place_results(preds, out, argmax=argmax)
    model = load_model(weights, device, batch)
    if not model.conditioned and not batch.quiet:
        click.echo("segfix: these weights look at photographs alone, not at predictions.", err=True)
    fixing = Fixing(
        model,
        RefineSettings(scale, iterate, min_confidence),
        FileSettings(soft, key, fit, argmax, drop_empty=empty == "drop"),
        max_side,
        keep_offsets,
    )
    summary = fix_files(
        *(images, preds, folder, name, fixing, batch),
        annotations=annotations,
        recursive=batch.recursive,
        naming=naming,
    )
    # Of one file, its own name says where it went.
    place = folder if name is None else folder / name
    finishing = finish_instances if instances else finish_label_maps
    finishing(summary, preds, place, empty, batch)
