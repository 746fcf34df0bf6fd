"""segfix fix."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segfix.cli import options
from segfix.cli.outcome import tell_links
from segfix.cli.predict_offsets import load_model, max_side_option, warn_of_huge
from segfix.cli.refine import finish_label_maps, refine
from segfix.cli.refine_instances import annotations_option, finish_instances, refuse_others

if TYPE_CHECKING:
    from segfix.instances.refine_images import Form
    from segfix.network.offset_model import OffsetModel
    from segfix.refinement.sizes import Fit

OF_REFINE = (
    *("scale", "iterate", "min_confidence", "keep", "fit", "soft", "argmax", "key", "empty"),
    *("form", "simplify"),
)
"""Parameters of `segfix refine` that this command has, too, word for word."""

JPEG = (".jpg", ".jpeg")


@click.command(params=[one for one in refine.params if one.name in OF_REFINE])
@click.argument("images", metavar="PHOTO", type=options.location)
@click.argument("preds", metavar="MASK", type=options.location)
@click.option(
    "-o",
    "--out",
    type=options.location,
    metavar="FILE|FOLDER",
    help="Where the result goes. [default: ./fixed/, of one file its name with _fixed behind it]",
)
@annotations_option
@options.naming
@options.weights
@options.device
@max_side_option
@options.bands
@click.option(
    "--keep-offsets",
    type=options.any_path,
    metavar="FOLDER",
    help="Keep the offset maps, for 'segfix refine' with other settings and 'segfix show'; of "
    "several passes, those of the first.",
)
@click.option(
    "--passes",
    type=click.IntRange(1),
    metavar="N",
    default=1,
    show_default=True,
    help="How often each prediction is looked at and refined; a second pass helps coarse ones.",
)
@options.batch
def fix(
    images: Path,
    preds: Path,
    out: Path | None,
    scale: float | None,
    iterate: int,
    min_confidence: float,
    keep: tuple[int, ...] | None,
    fit: Fit | None,
    soft: bool,
    argmax: bool,
    key: str | None,
    empty: str,
    form: Form | None,
    simplify: float,
    annotations: Path | None,
    naming: dict[str, Any],
    weights: str | None,
    device: str,
    max_side: int | None,
    bands: tuple[int, ...] | None,
    keep_offsets: Path | None,
    passes: int,
    batch: options.BatchOptions,
) -> None:
    """Look at photographs and their predictions, and refine these: everything in one go.

    \b
    segfix fix photo.jpg mask.png           → mask_fixed.png, here
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
    if preds.suffix.lower() in JPEG and images.suffix.lower() not in ("", *JPEG):
        raise click.UsageError(
            f"{preds}: a JPEG file holds no label map. The photograph comes first: "
            f"segfix fix {preds} {images}"
        )
    instances = refuse_others(preds, recursive=batch.recursive, images=images)
    from segfix.refinement.apply import RefineSettings
    from segfix.tasks.fix import fix_files, place_results
    from segfix.tasks.fixing import Fixing
    from segfix.tasks.predictions import FileSettings

    def load() -> OffsetModel:
        model = load_model(weights, device, batch)
        if not (model.conditioned or batch.quiet):
            click.echo("segfix: these weights look at photographs alone.", err=True)
        return model

    folder, name = place_results(preds, out, argmax=argmax)
    fixing = Fixing(
        load,
        RefineSettings(scale, iterate, min_confidence, keep),
        FileSettings(soft, key, fit, argmax, drop_empty=empty == "drop"),
        max_side,
        keep_offsets,
        bands,
        form,
        simplify,
        passes,
    )
    summary = fix_files(
        *(images, preds, folder, name, fixing, batch),
        annotations=annotations,
        recursive=batch.recursive,
        naming=naming,
        announce=partial(tell_links, quiet=batch.quiet),
    )
    # Of one file, its own name says where it went.
    place = folder if name is None else folder / name
    if instances:
        finish_instances(summary, preds, place, empty, batch)
    else:
        finish_label_maps(summary, preds, place, empty, keep, batch, passes)
    if max_side is None and not batch.quiet:
        looked = summary.looked if instances else summary.done
        warn_of_huge([row["pixels"] for row in looked])
