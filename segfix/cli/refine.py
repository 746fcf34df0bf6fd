"""segfix refine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import click

from segfix.cli import options
from segfix.cli.outcome import finish


class Scale(click.ParamType[float | None]):
    """auto, or a number from 0 to 64."""

    name = "scale"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        """To the number; None for auto."""
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
@click.argument("preds", type=options.any_path, required=False)
@click.option(
    "--offsets",
    type=options.any_path,
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
@options.suffixes
@options.batch
def refine(
    preds: Path | None,
    offsets: Path,
    out: Path,
    scale: float | None,
    iterate: int,
    min_confidence: float,
    suffixes: tuple[str, ...],
    recursive: bool,
    overwrite: bool,
    workers: int | None,
    max_failures: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Give each boundary pixel the label found a step towards the interior.

    PREDS is a label map (PNG: grey of any depth, palette, RGB or RGBA) or a folder of them, from
    any model. Results keep name, kind and palette; a label that a map lacks is never written
    into it.
    """
    if preds is None:
        raise click.UsageError(
            f"Missing argument PREDS. --offsets took {str(offsets)!r} as its folder; write PREDS "
            "first: segfix refine PREDS --offsets"
            if click.get_current_context().get_parameter_source("offsets")
            is click.core.ParameterSource.COMMANDLINE
            else "Missing argument PREDS: a label map or a folder of them."
        )
    source = click.get_current_context().get_parameter_source("scale")
    if iterate and source is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--scale has no effect with --iterate; give one of them.")
    options.check_folders(preds, out, "PREDS")
    options.check_folders(offsets, out, "the offset maps")
    from segfix.formats import LABEL_SUFFIXES, list_entries, pair_entries
    from segfix.inference.batch import Batch, output_path
    from segfix.inference.model import available_threads
    from segfix.inference.refine import RefineSettings, refine_file

    entries = list_entries(
        preds, LABEL_SUFFIXES, what="label maps", recursive=recursive, leave_out=[out, offsets]
    )
    maps = options.list_offsets(offsets, recursive=recursive, leave_out=[out])
    options.check_results(
        (output_path(out, entry.stem) for entry in entries),
        (entry.path for entry in (*entries, *maps)),
    )
    pairs = pair_entries(entries, maps, suffixes=suffixes)
    settings = RefineSettings(scale, iterate, min_confidence)
    summary = Batch(
        pairs,
        lambda pair: refine_file(pair.entry, pair.partner, out, settings, overwrite=overwrite),
        "map",
    ).run(workers=workers or available_threads(), max_failures=max_failures, quiet=quiet)
    pixels = sum(row["pixels"] for row in summary.done)
    share = sum(row["changed"] for row in summary.done) / max(pixels, 1)
    note = f"; {share:.2%} of the pixels changed their label"
    finish(summary, out, as_json=as_json, quiet=quiet, note=note, share_changed=share)
