"""Options and outcome of `segfix refine` with instance and panoptic predictions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from segfix.cli import options
from segfix.cli.outcome import finish, warn_of_others
from segfix.errors import tell_number

if TYPE_CHECKING:
    from segfix.jobs.run import Summary

_Command = TypeVar("_Command", bound=Callable[..., Any])

PLURAL = re.compile(r"s\b")

OF_LABEL_MAPS = ("fit", "soft", "argmax", "key")
"""Options that say nothing to files of instances."""


annotations_option = click.option(
    "--annotations",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="COCO JSON whose images name the files of image ids, where PREDS doesn't.",
)


def instance_options(command: _Command) -> _Command:
    """The options for instances."""
    for option in (
        annotations_option,
        click.option(
            "--as",
            "form",
            type=click.Choice(["polygons", "rle"]),
            help="Write all instances as polygons, or as run lengths or masks. [default: as they "
            "are]",
        ),
        click.option(
            "--simplify",
            type=options.FiniteRange(0, 64),
            default=0.5,
            show_default=True,
            metavar="PX",
            help="Write polygons of as few vertices as stay so near the pixels' edges; 0: exact.",
        ),
        click.option(
            "--empty",
            type=click.Choice(["keep", "drop"]),
            default="keep",
            show_default=True,
            help="An instance of which nothing would be left: keep it as it was and say so, or "
            "leave it out.",
        ),
    ):
        command = option(command)
    return command


def emptied_note(emptied: Sequence[Any], empty: str) -> str:
    """Word what the summary says of instances of which nothing would be left."""
    if not emptied:
        return ""
    told, one = tell_number(len(emptied), "instance"), len(emptied) == 1
    if empty == "drop":
        return f"; {told} of which nothing was left {'is' if one else 'are'} left out"
    stay, them = ("stays as it was", "it") if one else ("stay as they were", "them")
    return f"; {told} would have vanished and {stay} (--empty drop leaves {them} out)"


def left_alone_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """Word what of geo-referenced features stayed as it was, or was lost."""
    counts = sum((Counter(row.get("left_alone")) for row in rows), Counter[str]())
    stay = "stays as it is" if counts.total() == 1 else "stay as they are"
    note = f"; {list_counts(counts)} {stay}" if counts else ""
    if flattened := sum(row.get("flattened", 0) for row in rows):
        note += f"; heights are lost of {tell_number(flattened, 'polygon')} that changed"
    return note


def list_counts(counts: Mapping[str, int]) -> str:
    """Word numbers of things by their plurals.

    Example:
        >>> list_counts({"crowd regions": 1, "voids": 2})
        '1 crowd region and 2 voids'
    """
    words = {what: PLURAL.sub("", what) if one == 1 else what for what, one in counts.items()}
    return " and ".join(f"{number} {words[what]}" for what, number in counts.items() if number)


def turned_note(turns: Sequence[int | None]) -> str:
    """Word what was done with predictions of photographs that EXIF says are stored turned."""
    unsure = turns.count(None)
    note = ""
    if len(turns) > unsure:
        note += f"; {len(turns) - unsure} turned as EXIF says of the photographs, and back"
    if unsure:
        note += (
            f"; {unsure} taken as upright, though EXIF says that the photographs are stored "
            "turned, and boundaries don't tell"
        )
    return note


def refuse_others(preds: Path, *, recursive: bool, images: Path | None = None) -> bool:
    """Refuse options that would be ignored, since PREDS holds other predictions.

    Args are as those of `holds_instances`.

    Returns:
        Whether it holds instances.
    """
    from segfix.instances.listing import holds_instances

    instances = holds_instances(preds, recursive=recursive, images=images)
    names = OF_LABEL_MAPS if instances else ("annotations", "form", "simplify")
    what = "files of instances" if instances else "label maps and arrays"
    if given := options.first_given(*names):
        raise click.UsageError(f"{given} is not for {what}, which {preds} holds.")
    return instances


def finish_instances(
    summary: Summary, preds: Path, out: Path, empty: str, batch: options.BatchOptions
) -> None:
    """Print what happened to files of instances, and exit with 1 if any failed."""
    total, changed = (sum(row[key] for row in summary.done) for key in ("instances", "changed"))
    emptied = [
        {"file": row["input"], **item} for row in summary.done for item in row.pop("emptied")
    ]
    others = [row for row in summary.done if row["other_predictions"]]
    warn_of_others(
        sum(row["other_predictions"] for row in others),
        sum(row["images"] for row in summary.done),
        others[0]["input"] if others else "",
        preds,
    )
    note = f"; {changed} of {tell_number(total, 'instance')} changed{emptied_note(emptied, empty)}"
    if nothing := sum(row.get("nothing", 0) for row in summary.done):
        note += f"; {nothing} {'has' if nothing == 1 else 'have'} no mask"
    if apart := sum(row.get("other_photographs", 0) for row in summary.done):
        note += f"; {tell_number(apart, 'image')} of other photographs kept"
    note += left_alone_note(summary.done)
    note += turned_note([turn for row in summary.done for turn in row.get("turned", ())])
    kept = sum((Counter(row.get("kept")) for row in summary.done), Counter[str]())
    if kept:
        note += f"; {list_counts(kept)} kept unchanged (--keep none refines such, too)"
    finish(summary, out, batch, note=note, emptied=emptied)
