"""segfix report."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segfix import __version__
from segfix.cli import options
from segfix.cli.evaluate import (
    against_option,
    class_names_option,
    find_beside,
    name_sets,
    pair_sets,
)
from segfix.cli.outcome import list_failures, tell_links
from segfix.errors import one_line, tell_number

if TYPE_CHECKING:
    from segfix.files import Entry, Pair


@click.command()
@click.argument("preds", type=options.any_path)
@click.argument("labels", type=options.any_path)
@click.option("--images", type=options.any_path, help="Photographs to draw on. [default: grey]")
@options.bands
@against_option(options.any_path)
@class_names_option
@options.void
@click.option(
    "--examples",
    type=click.IntRange(0, 100),
    default=6,
    show_default=True,
    metavar="N",
    help="Images shown of each kind: gained most, lost most, at random.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random images.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    help="The page.",
)
@options.limited
@options.naming
@options.recursive
@options.overwrite
@options.workers
@options.quiet
def report(
    preds: Path,
    labels: Path,
    images: Path | None,
    bands: tuple[int, ...] | None,
    against: tuple[tuple[str, Path], ...],
    class_file: Path | None,
    ignore_index: int,
    examples: int,
    seed: int,
    out: Path,
    naming: dict[str, Any],
    recursive: bool,
    overwrite: bool,
    workers: int | None,
    quiet: bool,
) -> None:
    """Write a page that shows what refinement did: scores, curves, and before and after.

    PREDS and LABELS are label maps of class ids or folders of them, as for 'segfix evaluate'; each
    --against is scored and drawn beside PREDS. The page is one HTML file that needs no network and
    says when and how it was made. An image that fails in one set is left out; failures are listed,
    on the page, too. Of instances (COCO, Cityscapes, panoptic) it shows AP or PQ, extra 'eval'.
    """
    with options.missing_extra("report"):
        import jinja2  # noqa: F401
    from segfix.evaluation import is_instance_input
    from segfix.files import list_entries
    from segfix.formats import IMAGE_SUFFIXES
    from segfix.formats.class_names import read_class_names
    from segfix.network.session import available_threads
    from segfix.report.instance_page import write_instance_report
    from segfix.report.page import write_report

    if out.exists() and not overwrite:
        raise click.UsageError(f"{out} is there already; --overwrite replaces it.")
    folders = name_sets(preds, against)
    settings: dict[str, Any] = {
        "made": tell_origin(),
        "naming": naming,
        "bands": bands,
        "examples": examples,
        "seed": seed,
        "workers": workers or available_threads(),
        "quiet": quiet,
    }
    photographs = None
    if images:
        photographs = list_entries(images, IMAGE_SUFFIXES, what="photographs", recursive=recursive)
    if is_instance_input(preds):
        if given := options.first_given("class_file", "ignore_index"):
            raise click.UsageError(f"{given} is for label maps; {preds} holds instances.")
        folders = find_beside(preds, folders)
        check_page(out, {}, photographs or [], [labels, *folders.values()])
        with options.missing_extra("eval"):
            summary = write_instance_report(
                out, folders, labels, photographs=photographs, **settings
            )
        finish_page(out, summary, quiet=quiet)
        return
    sets = pair_sets(folders, labels, naming=naming, recursive=recursive)
    for pairs in sets.values():
        tell_links(pairs, quiet=quiet)
    sources = {name: str(folder) for name, folder in folders.items()} | {"LABELS": str(labels)}
    if images:
        sources["IMAGES"] = str(images)
    check_page(out, sets, photographs or [], [class_file] if class_file else [])
    summary = write_report(
        out,
        sets,
        photographs=photographs,
        sources=sources,
        ignore_index=ignore_index,
        void_given=options.is_void_given(),
        class_names=read_class_names(class_file) if class_file else None,
        **settings,
    )
    finish_page(out, summary, quiet=quiet)


def finish_page(out: Path, summary: dict[str, Any], *, quiet: bool) -> None:
    """Say what is on the page, list failures, and exit with 1 if there are any."""
    if not quiet:
        kilobytes = out.stat().st_size / 1000
        number = tell_number(summary["images"], "image")
        told = f"{out}: {number} scored, {summary['shown']} shown"
        click.echo(one_line(f"{told}, {kilobytes:,.0f} kB"))
    list_failures(summary["failed"], listed="the page lists them")
    if summary["failed"]:
        click.get_current_context().exit(1)


def tell_origin() -> dict[str, str]:
    """Tell when, by which version and by which command the page is made."""
    from segfix.report.origin import shorten_command

    typed = click.get_current_context().meta["segfix.arguments"]
    now = datetime.now().astimezone()
    return {
        "made": f"{now:%Y-%m-%d %H:%M %z} by segfix {__version__}",
        "command": shorten_command(typed),
    }


def check_page(
    out: Path, sets: dict[str, list[Pair]], photographs: list[Entry], files: list[Path]
) -> None:
    """Refuse a page that would replace an input."""
    from segfix.jobs.sources import check_results

    pairs = [pair for found in sets.values() for pair in found]
    read = [entry for pair in pairs for entry in (pair.entry, pair.partner) if entry]
    check_results([out], [*(entry.path for entry in (*read, *photographs)), *files])
