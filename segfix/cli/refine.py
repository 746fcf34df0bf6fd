"""segfix refine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from segfix.cli import options
from segfix.cli.outcome import finish, warn_of_others
from segfix.cli.refine_instances import (
    emptied_note,
    finish_instances,
    instance_options,
    refuse_others,
)

if TYPE_CHECKING:
    from segfix.jobs.run import Summary


class Scale(click.ParamType[float | None]):
    """auto, or a number from 0 to 64."""

    name = "scale"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        """Convert to the number; None for auto."""
        if value in (None, "auto"):
            return None
        return options.FiniteRange(0, 64).convert(value, param, ctx)


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
    "--fit",
    type=click.Choice(["image", "labels"]),
    help="Where a prediction and its photograph differ in size: enlarge or reduce the prediction "
    "to the photograph's size, or the offset map to the prediction's. [default: an error]",
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
    fit: Literal["image", "labels"] | None,
    soft: bool,
    argmax: bool,
    key: str | None,
    empty: str,
    form: Literal["polygons", "rle"] | None,
    simplify: float,
    annotations: Path | None,
    naming: dict[str, Any],
    batch: options.BatchOptions,
) -> None:
    """Give each boundary pixel the label found a step towards the interior.

    PREDS is a prediction of any model, or a folder of them: label maps (PNG, TIFF, lossless WebP,
    NumPy's .npy and .npz; ids, palettes or colours) or soft predictions (.npy and .npz of
    probabilities or logits, of which each channel is looked up). Results keep name, kind, palette
    and tags; a label that a map lacks is never written into it.

    Or PREDS is instances, each looked up on its own, overlapping or not: JSON of COCO (results,
    annotations, panoptic beside its folder of PNG), Detectron2, SAM or Ultralytics, or a folder of
    such (JSON needs the extra 'eval'); a folder of Cityscapes' *_pred.txt and masks; .npy and .npz
    of masks (N, H, W).

    Or PREDS is polygons and masks of an annotation tool (extra 'polygons'): YOLO's label files, or
    a data set's folder with data.yaml and labels/; JSON of LabelMe or Label Studio; XML of CVAT
    for images 1.1. Polygons stay polygons, and those that touch go on sharing their vertices.
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

    settings = RefineSettings(scale, iterate, min_confidence)
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
    from segfix.tasks.refine import FileSettings, list_pairs, refine_task

    reading = FileSettings(soft, key, fit, argmax, drop_empty=empty == "drop")
    pairs = list_pairs(preds, offsets, out, argmax=argmax, **listed)
    summary = run_task(refine_task(settings, reading), pairs, out, batch)
    finish_label_maps(summary, preds, out, empty, batch)


def finish_label_maps(
    summary: Summary, preds: Path, out: Path, empty: str, batch: options.BatchOptions
) -> None:
    """Print what happened to label maps, and exit with 1 if any failed."""
    pixels = sum(row["pixels"] for row in summary.done)
    share = sum(row["changed"] for row in summary.done) / max(pixels, 1)
    emptied = [item for row in summary.done for item in row.get("emptied", ())]
    note = f"; {share:.2%} of the pixels changed their label{emptied_note(emptied, empty)}"
    again = sum(row["refined_before"] for row in summary.done)
    if again:
        note += f"; {again} had been refined before"
    others = [row["input"] for row in summary.done if row["other_prediction"]]
    warn_of_others(len(others), len(summary.done), "".join(others[:1]), preds)
    finish(summary, out, batch, note=note, share_changed=share, emptied=emptied)
