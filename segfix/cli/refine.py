"""segfix refine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from segfix.cli import options
from segfix.cli.outcome import finish, tell_links, warn_of_others
from segfix.cli.refine_instances import (
    emptied_note,
    finish_instances,
    instance_options,
    refuse_others,
    turned_note,
)

if TYPE_CHECKING:
    from segfix.instances.refine_images import Form
    from segfix.jobs.run import Summary
    from segfix.refinement.sizes import Fit

FITS = ("image", "labels", "letterbox", "corner", "crop", "stretch-image", "stretch-labels")
"""Of `segfix.refinement.sizes.Fit`, which takes NumPy to import."""


class Scale(click.ParamType[float | None]):
    """auto, or a number from 0 to 64."""

    name = "scale"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        """Convert to the number; None for auto."""
        if value in (None, "auto"):
            return None
        try:
            return options.FiniteRange(0, 64).convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r}: expected auto or a number from 0 to 64.", param, ctx)


class Ids(click.ParamType[tuple[int, ...]]):
    """none, or ids with commas between; of colours, #RRGGBB."""

    name = "ids"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Convert to the ids; () for none."""
        if value == "none":
            return ()
        from segfix.refinement.kept_ids import parse_id

        try:
            return tuple(map(parse_id, str(value).split(",")))
        except ValueError:
            self.fail(
                f"{value!r}: expected none, ids such as 255,0 or colours #RRGGBB.", param, ctx
            )


class Steps(click.IntRange):
    """A number that may be left out, unless PREDS comes next."""

    def fail(
        self, message: str, param: click.Parameter | None = None, ctx: click.Context | None = None
    ) -> NoReturn:
        """With advice."""
        super().fail(f"{message} Write PREDS before --iterate, or give STEPS.", param, ctx)


@click.command()
@click.argument("preds", type=options.location, required=False)
@click.option(
    "--offsets",
    type=options.location,
    is_flag=False,
    flag_value=Path("offsets"),
    default=Path("offsets"),
    show_default=True,
    help="Offset maps: of 'segfix predict-offsets', or any that 'segfix convert' reads.",
)
@options.out_folder("refined")
@click.option(
    "--scale",
    type=Scale(),
    default="auto",
    show_default=True,
    metavar="auto|STEPS",
    help="auto: each pixel takes the next label along its offset where that is likelier right "
    "than its own, judged by the offset's confidence, the distance, and how far the map's own "
    "boundaries lie from the predicted ones. A number: the paper's rule, always that many steps "
    "(2 for semantic label maps, 1 for instance masks; with 16 directions, whose unit is 2 px, "
    "half of that).",
)
@click.option(
    "--iterate",
    type=Steps(0, 1000),
    is_flag=False,
    flag_value=10,
    default=0,
    metavar="[STEPS]",
    help="Instead of one scaled step, follow the offsets to the first pixel off the boundary, "
    "for up to STEPS steps (10 if no number is given).",
)
@click.option(
    "--min-confidence",
    type=options.FiniteRange(0, 1),
    default=0.0,
    show_default=True,
    help="Leave pixels alone whose offset is less sure than this.",
)
@click.option(
    "--keep",
    type=Ids(),
    metavar="ID,…|none",
    help="Ids that mean 'not known': their pixels stay, and no others take them. Negative ids and "
    "NaN always are such, unless none. [default: 255 beside two lower ids; a GeoTIFF's nodata; of "
    "instances, crowd regions and void]",
)
@click.option(
    "--fit",
    type=click.Choice(FITS),
    help="Where a prediction and its photograph differ in size: image enlarges or reduces the "
    "prediction to the photograph's size, labels the offset map to the prediction's; both refuse "
    "to distort. letterbox, corner: as image, without the prediction's padding on both sides, or "
    "below and on the right; crop: the prediction is of the photograph's middle, and keeps its "
    "size; stretch-image, stretch-labels: whatever the aspect ratios. [default: an error]",
)
@click.option(
    "--soft",
    is_flag=True,
    help="Integers are scores, not ids: 8- or 16-bit grey is the probability of the foreground.",
)
@click.option("--argmax", is_flag=True, help="Write soft predictions as label maps (PNG).")
@click.option(
    "--key", metavar="NAME", help="Array of .npz files that is refined. [default: the largest]"
)
@instance_options
@options.naming
@options.batch
@options.cluster
def refine(
    preds: Path | None,
    offsets: Path,
    out: Path,
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
    batch: options.BatchOptions,
) -> None:
    """Give each boundary pixel the label found a step towards the interior.

    PREDS is a prediction of any model, or a folder of them: label maps (PNG, TIFF, lossless WebP,
    BMP, GIF, PNM, NumPy's .npy and .npz; ids, palettes or colours) or soft predictions (.npy and
    .npz of probabilities or logits, of which each channel is looked up). Results keep name, kind,
    palette and tags; a label that a map lacks is never written into it.

    Or PREDS is instances, each looked up on its own, overlapping or not: JSON of COCO (results,
    annotations, panoptic beside its folder of PNG), Detectron2, SAM or Ultralytics, or a folder of
    such (JSON needs the extra 'eval'); a folder of Cityscapes' *_pred.txt and masks; .npy and .npz
    of masks (N, H, W).

    Or PREDS is polygons and masks of an annotation tool (extra 'polygons'): YOLO's label files, or
    a data set's folder with data.yaml and labels/; JSON of LabelMe or Label Studio; XML of CVAT
    for images 1.1; GeoJSON or a GeoPackage of a GeoTIFF (extra 'geo'). Polygons stay polygons, and
    those that touch go on sharing their vertices.
    """
    if preds is None:
        raise click.UsageError(
            f"Missing argument PREDS. --offsets took {str(offsets)!r} as its folder; write PREDS "
            "first: segfix refine PREDS --offsets"
            if options.first_given("offsets")
            else "Missing argument PREDS: a label map or a folder of them."
        )
    if iterate and options.first_given("scale"):
        raise click.UsageError("--scale has no effect with --iterate; give one of them.")
    from segfix.refinement.apply import RefineSettings

    settings = RefineSettings(scale, iterate, min_confidence, keep)
    listed: dict[str, Any] = {"recursive": batch.recursive, "naming": naming}
    if refuse_others(preds, recursive=batch.recursive):
        from segfix.instances.refine_files import refine_instance_files
        from segfix.instances.refine_images import InstanceSettings

        masks = InstanceSettings(settings, drop_empty=empty == "drop", form=form, simplify=simplify)
        summary = refine_instance_files(
            preds, offsets, out, masks, batch, annotations=annotations, **listed
        )
        finish_instances(summary, preds, out, empty, batch)
        return
    from segfix.jobs.run import run_task
    from segfix.tasks.predictions import FileSettings
    from segfix.tasks.refine import list_pairs, refine_task

    reading = FileSettings(soft, key, fit, argmax, drop_empty=empty == "drop")
    passed = Counter[str]()
    pairs = list_pairs(preds, offsets, out, argmax=argmax, passed_over=passed, **listed)
    tell_links(pairs, quiet=batch.quiet)
    summary = run_task(refine_task(settings, reading), pairs, out, batch, passed_over=passed)
    finish_label_maps(summary, preds, out, empty, keep, batch)


def finish_label_maps(
    summary: Summary,
    preds: Path,
    out: Path,
    empty: str,
    keep: tuple[int, ...] | None,
    batch: options.BatchOptions,
    passes: int = 1,
) -> None:
    """Print what happened to label maps, and exit with 1 if any failed."""
    pixels = sum(row["pixels"] for row in summary.done)
    share = sum(row["changed"] for row in summary.done) / max(pixels, 1)
    emptied = [item for row in summary.done for item in row.get("emptied", ())]
    note = f"; {share:.2%} of the pixels changed their label"
    note += f" in {passes} passes" * (passes > 1) + emptied_note(emptied, empty)
    note += kept_note(summary, keep) + little_note(summary)
    again = sum(row["refined_before"] for row in summary.done)
    if again:
        note += f"; {again} had been refined before"
    note += turned_note([row["turned"] for row in summary.done if "turned" in row])
    others = [row["input"] for row in summary.done if row["other_prediction"]]
    warn_of_others(len(others), len(summary.done), "".join(others[:1]), preds)
    finish(summary, out, batch, note=note, share_changed=share, emptied=emptied)


def kept_note(summary: Summary, keep: tuple[int, ...] | None) -> str:
    """Word what the summary says of ids that neither gave nor took."""
    from segfix.instances.summary import list_some

    kept = Counter(one for row in summary.done for one in row["kept"])
    note = ""
    if kept:
        listed = list_some(f"{one} in {number}" for one, number in kept.items())
        note = f"; kept {listed} of {len(summary.done)} (--keep none lets such ids move)"
    if missing := [one for one in keep or () if one not in kept]:
        note += f"; nothing holds {list_some(missing)} of --keep"
    return note


def little_note(summary: Summary) -> str:
    """Word why almost nothing changed, if that is so in half of the label maps or more."""
    reasons = Counter(row["little"] for row in summary.done if row.get("little"))
    number, total = reasons.total(), len(summary.done)
    if 2 * number < total or not number:
        return ""
    return f"; almost nothing changed in {number} of {total}: {reasons.most_common(1)[0][0]}"
