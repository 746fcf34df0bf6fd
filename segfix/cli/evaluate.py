"""segfix evaluate."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from segfix.cli import options
from segfix.cli.outcome import count_passed, list_failures, tell_links
from segfix.errors import one_line, tell_share
from segfix.report.wording import notes

FIRST = "PREDS"

OF_LABEL_MAPS = (
    *("class_file", "ignore_index", "errors", "absent", "surface", "spacing"),
    *("suffixes", "map_file"),
)
"""Options that say nothing to instances."""


class NamedFolder(click.ParamType[tuple[str, Path]]):
    """NAME=DIR, or DIR alone, which is then its name."""

    name = "name=dir"

    def __init__(self, location: options.Location) -> None:
        self.location = location

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path]:
        """Split a value into the name and the folder."""
        url = re.match(r"[^/]*://", str(value))
        plain = Path(value).exists() or (url and "=" not in url[0])
        name, equals, folder = ("", "", "") if plain else value.partition("=")
        folder = folder if equals else str(value)
        if "://" in folder:
            name = name or folder.rstrip("/").rpartition("/")[2]
            return name, self.location.convert(folder, param, ctx)
        if not folder or not Path(folder).exists():
            self.fail(f"{folder or value}: no such folder.", param, ctx)
        return name or Path(folder).name or folder, Path(folder)


def against_option(location: options.Location) -> Callable[[Callable[..., Any]], Any]:
    """Offer other sets, whose folders are of this type."""
    return click.option(
        "--against",
        type=NamedFolder(location),
        multiple=True,
        help="Other label maps to compare with PREDS on the same images; repeatable.",
    )


class_names_option = click.option(
    "--class-names",
    "class_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Text file with a class name per line (ids from 0), or 'id name'; ids that it lacks "
    "are no classes. [default: every id in the label maps]",
)


@click.command()
@click.argument("preds", type=options.location)
@click.argument("labels", type=options.location)
@against_option(options.location)
@class_names_option
@options.void
@click.option(
    "--errors", is_flag=True, help="Also print errors by distance to the true boundaries."
)
@click.option(
    "--absent",
    type=click.Choice(["skip", "one"]),
    default="skip",
    show_default=True,
    help="A class in neither map of an image: left out of its mean boundary F-score and "
    "E-measure, or counted as 1, as the paper's script does (needs --class-names).",
)
@click.option(
    "--surface",
    type=click.FloatRange(0),
    metavar="TOLERANCE",
    help="Also HD95, and surface Dice at this tolerance, in pixels, or mm with --spacing.",
)
@click.option(
    "--spacing",
    type=(click.FloatRange(0, min_open=True), click.FloatRange(0, min_open=True)),
    metavar="HEIGHT WIDTH",
    help="Of a pixel, in mm, for --surface.",
)
@click.option(
    "--boundary",
    is_flag=True,
    help="Of instances, also Boundary AP or Boundary PQ.",
)
@options.limited
@options.naming
@options.recursive
@options.workers
@options.as_json
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV: one line per set, class and score.")
@options.quiet
@options.reading_urls
def evaluate(
    preds: Path,
    labels: Path,
    against: tuple[tuple[str, Path], ...],
    class_file: Path | None,
    ignore_index: int,
    errors: bool,
    absent: str,
    surface: float | None,
    spacing: tuple[float, float] | None,
    boundary: bool,
    naming: dict[str, Any],
    recursive: bool,
    workers: int | None,
    as_json: bool,
    as_csv: bool,
    quiet: bool,
) -> None:
    """Score predictions against ground truth, and compare sets of them.

    PREDS and LABELS are label maps of class ids (any kind that 'segfix refine' takes, but no
    colours; soft predictions count by their likeliest class) or folders of them; or instances:
    COCO results and annotations (JSON), folders of Cityscapes' *_pred.txt and
    *_gtFine_instanceIds.png, COCO panoptic JSON beside its folder of PNG. Scores of other sets come
    with their difference to PREDS and its 95 % confidence interval (bootstrap over images). An
    image that fails in one set counts in none; failures are listed. Scores are in percent;
    --json and --csv hold more of them, in [0, 1].

    \b
    mIoU, F1          from counts over all images, over the classes in LABELS
    F@1px             boundary F-score, mean over images, then over classes; F@0.0003
                      takes this share of the diagonal, rounded up
    boundary IoU      of the inner bands of width 2 % of the diagonal
    trimap mIoU 3px   mIoU of the pixels up to 3 px from a true boundary
    E-measure         mean over images, then over classes
    mBA               right pixels along true boundaries, over five radii up to (H + W) / 300
    harm              images whose own score falls from PREDS to the other set, the worst loss
    AP, PQ            of instances, by pycocotools and cityscapesScripts (extra 'eval')
    """  # noqa: D301
    from segfix.cli.instances import report_instances
    from segfix.evaluation import evaluate_folders, is_instance_input
    from segfix.evaluation.checks import check_void
    from segfix.evaluation.surfaces import SurfaceSettings
    from segfix.files.places import StagedPath
    from segfix.formats.class_names import read_class_names
    from segfix.network.session import available_threads
    from segfix.report.text_tables import csv_lines, lay_out_tables

    if absent == "one" and class_file is None:
        raise click.UsageError("--absent one needs --class-names: absent from which classes?")
    if spacing and surface is None:
        raise click.UsageError("--spacing needs --surface TOLERANCE.")
    if as_json and as_csv:
        raise click.UsageError("--json and --csv both take the output; give one of them.")
    folders = find_beside(preds, name_sets(preds, against))
    workers = workers or available_threads()
    if is_instance_input(preds):
        check_options(preds)
        if any(isinstance(path, StagedPath) for path in (labels, *folders.values())):
            raise click.UsageError(f"{preds}: instances are read here only; copy the files here.")
        form = {"as_json": as_json, "as_csv": as_csv, "boundary": boundary, "quiet": quiet}
        report_instances(folders, labels, workers=workers, **form)
        return
    if boundary:
        raise click.UsageError("--boundary is for instances; label maps get boundary IoU unasked.")
    comparison = evaluate_folders(
        pair_sets(folders, labels, naming=naming, recursive=recursive, quiet=quiet),
        ignore_index=ignore_index,
        class_names=read_class_names(class_file) if class_file else None,
        absent=absent,
        surface=None if surface is None else SurfaceSettings(surface, spacing),
        workers=workers,
        quiet=quiet,
    )
    result = comparison.result()
    check_void(result, labels, ignore_index, given=options.is_void_given())
    if as_json:
        click.echo(json.dumps(result, indent=2))
    elif as_csv:
        click.echo(csv_lines(result), nl=False)
    elif result["images"]:
        click.echo(lay_out_tables(result, errors=errors))
    for note in () if quiet else notes(result, ignore_index, classes_given=class_file is not None):
        click.echo(f"note: {one_line(note)}", err=True)
    list_failures(comparison.failed, as_json=as_json)
    if comparison.failed:
        click.get_current_context().exit(1)


def find_beside(preds: Path, folders: dict[str, Path]) -> dict[str, Path]:
    """Of a file, name the files of its name in the folders of the other sets."""
    if not preds.is_file():
        return folders
    beside = {name: path / preds.name for name, path in folders.items()}
    return folders | {name: path for name, path in beside.items() if path.is_file()}


def name_sets(preds: Path, against: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    """Name the folders to compare, the first set first; refuse two sets of one name."""
    names = [FIRST, *(name for name, _ in against)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise click.UsageError(f"two sets are called {twice[0]!r}: --against NAME=DIR names one.")
    return {FIRST: preds, **dict(against)}


def check_options(preds: Path) -> None:
    """Refuse options that would be ignored, since `preds` holds instances."""
    if given := options.first_given(*OF_LABEL_MAPS):
        raise click.UsageError(f"{given} is for label maps; {preds} holds instances.")


def pair_sets(
    sets: Mapping[str, Path],
    labels: Path,
    *,
    naming: dict[str, Any],
    recursive: bool,
    quiet: bool = True,
) -> dict[str, Any]:
    """Pair every set's label maps with the ground truth, by name.

    Unless quiet, says on stderr which predictions are passed over.
    """
    from segfix.files import list_entries, pair_entries
    from segfix.files.pairing import meant_entries
    from segfix.files.provenance import NOT_TAKEN
    from segfix.formats import LABEL_SUFFIXES

    passed = Counter[str]()
    truth = meant_entries(
        list_entries(
            labels, LABEL_SUFFIXES, what="label maps", recursive=recursive, passed_over=passed
        ),
        naming["suffixes"],
    )
    if passed and not quiet:
        click.echo(one_line(f"note: {labels}: {count_passed(passed)}"), err=True)
    pairs = {}
    for name, folder in sets.items():
        preds = list_entries(folder, LABEL_SUFFIXES, what="label maps", recursive=recursive)
        leave = NOT_TAKEN["label map"]
        pairs[name] = pair_entries(
            truth, preds, **naming, one_to_one=True, leave=leave, itself=True
        )
        tell_links(pairs[name], quiet=quiet)
        used = {pair.partner.path for pair in pairs[name] if pair.partner}
        spare = [entry.path for entry in preds if entry.path not in used]
        if spare and not quiet:
            note = (
                f"note: {name}: {tell_share(len(spare), len(preds), 'file')} of no ground truth, "
                f"or of one that another file is scored for ({spare[0]})"
            )
            click.echo(one_line(note), err=True)
    return pairs
