"""segfix show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from segfix.cli import options
from segfix.cli.outcome import finish
from segfix.report import PANELS


@click.command()
@click.argument("images", type=options.location)
@click.option("--preds", type=options.location, help="Label maps, as they were before.")
@click.option("--refined", type=options.location, help="The same, refined.")
@click.option("--labels", type=options.location, help="Ground truth.")
@click.option("--offsets", type=options.location, help="Offset maps.")
@options.out_folder("shown")
@click.option(
    "--panel",
    "panels",
    type=click.Choice(list(PANELS)),
    multiple=True,
    help="What to draw; repeatable. [default: all that the folders given allow; changes only "
    "without --labels]",
)
@click.option(
    "--opacity",
    type=options.FiniteRange(0, 1),
    default=0.45,
    show_default=True,
    help="Of the colours of label maps.",
)
@click.option("--arrows", is_flag=True, help="Draw arrows along the boundary of offset maps.")
@click.option(
    "--captions/--no-captions",
    default=True,
    show_default=True,
    help="Say above each panel what it is, draw the colour wheel, and enlarge below several panels "
    "where most has changed.",
)
@options.bands
@options.void
@options.naming
@options.batch
def show(
    images: Path,
    preds: Path | None,
    refined: Path | None,
    labels: Path | None,
    offsets: Path | None,
    out: Path,
    panels: tuple[str, ...],
    opacity: float,
    arrows: bool,
    captions: bool,
    bands: tuple[int, ...] | None,
    ignore_index: int,
    naming: dict[str, Any],
    batch: options.BatchOptions,
) -> None:
    """Draw label maps, offsets and errors on the photographs, side by side.

    IMAGES is a photograph or a folder of them; each gets one PNG. Panels are label maps over the
    photograph (preds, refined, labels), the boundary in the colours of its directions (offsets),
    wrong pixels of PREDS (errors; with --refined, those that were fixed in blue and those that
    were broken in orange), and pixels whose label changed (changes). One panel alone has
    exactly the photograph's size.
    """
    folders = {"preds": preds, "refined": refined, "labels": labels, "offsets": offsets}
    given = {name: folder for name, folder in folders.items() if folder is not None}
    if not given:
        raise click.UsageError(
            "Nothing to draw on IMAGES: give --preds, --refined, --labels or --offsets."
        )
    panels = choose_panels(panels, given)
    from segfix.evaluation.checks import check_void_of
    from segfix.files import list_entries
    from segfix.formats import IMAGE_SUFFIXES, LABEL_SUFFIXES
    from segfix.jobs.run import run_task
    from segfix.jobs.sources import check_folders, check_results, list_offsets
    from segfix.jobs.task import name_png
    from segfix.report.show import ShowSettings, pair_maps, show_task

    check_folders({"IMAGES": images, **{f"--{name}": given[name] for name in given}}, out)
    away: dict[str, Any] = {"recursive": batch.recursive, "leave_out": [out]}
    passed = Counter[str]()
    entries = list_entries(
        images,
        IMAGE_SUFFIXES,
        what="images",
        recursive=batch.recursive,
        leave_out=[out, *given.values()],
        passed_over=passed,
    )
    maps = {
        name: list_offsets(folder, **away)
        if name == "offsets"
        else list_entries(folder, LABEL_SUFFIXES, what="label maps", **away)
        for name, folder in given.items()
    }
    check_results(
        (out / name_png(entry) for entry in entries),
        (entry.path for found in (entries, *maps.values()) for entry in found),
    )
    chosen = tuple(dict.fromkeys(panels))
    settings = ShowSettings(chosen, opacity, ignore_index, arrows, captions, bands)
    sheets = pair_maps(entries, maps, **naming)
    if labels is not None:
        truths = [truth for sheet in sheets if (truth := sheet.maps["labels"])]
        check_void_of(truths, labels, ignore_index, given=options.is_void_given())
    summary = run_task(show_task(settings), sheets, out, batch, passed_over=passed)
    finish(summary, out, batch)


def choose_panels(panels: tuple[str, ...], given: Mapping[str, Path]) -> tuple[str, ...]:
    """Choose all panels that the folders given allow, if none were; refuse those they don't."""
    for panel in panels:
        missing = [f"--{name}" for name in PANELS[panel] if name not in given]
        if missing:
            raise click.UsageError(f"--panel {panel} needs {' and '.join(missing)}.")
    # Errors say more than changes.
    return panels or tuple(
        panel
        for panel, needed in PANELS.items()
        if given.keys() >= {*needed} and not (panel == "changes" and "labels" in given)
    )
