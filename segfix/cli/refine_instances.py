"""What `segfix refine` does with instance and panoptic predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from segfix.cli import options
from segfix.cli.outcome import finish, warn_of_others

if TYPE_CHECKING:
    from segfix.files import Entry
    from segfix.refinement.apply import RefineSettings

_Command = TypeVar("_Command", bound=Callable[..., Any])

OF_LABEL_MAPS = ("fit", "soft", "argmax", "key")
"""Options that say nothing to JSON and lists of instances."""


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


def holds_instances(preds: Path, *, recursive: bool) -> bool:
    """Whether PREDS is JSON or lists of Cityscapes, or a folder of such without label maps."""
    from segfix.formats import LABEL_SUFFIXES
    from segfix.instances.by_image import is_instance_input
    from segfix.instances.cityscapes import holds_lists

    if not preds.is_dir() or holds_lists(preds):
        return is_instance_input(preds) or holds_lists(preds)
    found = False
    for path in preds.glob("**/*" if recursive else "*"):
        suffix = path.suffix.lower()
        if path.name.startswith(".") or suffix not in (".json", *LABEL_SUFFIXES):
            continue
        # A panoptic table's pictures are in a folder of its name; "." and "/" have none.
        if not (path.parent.name and path.parent.with_suffix(".json").is_file()):
            if suffix != ".json":
                return False
            found = True
    return found


def list_instance_files(
    preds: Path, batch: options.BatchOptions, *, leave_out: Sequence[Path]
) -> list[Entry]:
    """List what `holds_instances` knows; of Cityscapes, folders within are always read.

    Raises:
        UsageError: They are behind a URL.
        PairingError: There is none.
    """
    from segfix.files import list_entries
    from segfix.instances.cityscapes import PREDICTION_LIST, holds_lists
    from segfix.instances.listing import INSTANCE_SUFFIXES

    if batch.stage is not None:
        # Which files an instance needs is known when its file is read.
        raise click.UsageError(
            f"{preds}: JSON and lists of instances are read in local folders only; copy PREDS and "
            "what they belong to here, and the results back."
        )
    lists = holds_lists(preds)
    files = list_entries(
        preds,
        (".txt",) if lists else INSTANCE_SUFFIXES,
        what="instances",
        recursive=batch.recursive or lists,
        leave_out=leave_out,
    )
    return [file for file in files if not lists or file.path.name.endswith(PREDICTION_LIST)]


def emptied_note(emptied: Sequence[Any], empty: str) -> str:
    """What the summary says of instances of which nothing would be left."""
    if not emptied:
        return ""
    what = (
        "of which nothing was left are left out"
        if empty == "drop"
        else "would have vanished and stay as they were (--empty drop leaves them out)"
    )
    return f"; {len(emptied)} instances {what}"


def refuse_options(preds: Path, names: Sequence[str], what: str) -> None:
    """Refuse options that would be ignored, since `preds` holds other predictions."""
    if given := options.first_given(*names):
        raise click.UsageError(f"{given} is not for {what}, which {preds} holds.")


def refine_instance_files(
    preds: Path,
    offsets: Path,
    out: Path,
    settings: RefineSettings,
    *,
    empty: str,
    annotations: Path | None,
    naming: dict[str, Any],
    batch: options.BatchOptions,
) -> None:
    """Refine files of instances, print what happened, and exit with 1 if any failed.

    Args:
        preds: What `holds_instances` knows.
        offsets: The offset maps.
        out: Folder of the results.
        settings: How to refine a mask.
        empty: Whether to "keep" or to "drop" instances of which nothing is left.
        annotations: COCO JSON with file names.
        naming: Of `pair_entries`.
        batch: The options of every such command; of Cityscapes, folders within are always read,
            and of one file, `workers` is the images worked on at a time.

    Raises:
        SegfixError: Nothing can be read or paired.
        MissingExtraError: pycocotools isn't installed.
    """
    from segfix.instances.by_image import read_file_names
    from segfix.instances.cityscapes import holds_lists
    from segfix.instances.refine import InstanceSettings, Run, refine_instances, refine_list
    from segfix.jobs.run import output_path
    from segfix.network.session import available_threads

    files, lists = list_instance_files(preds, batch, leave_out=[out, offsets]), holds_lists(preds)
    maps = options.list_offsets(offsets, recursive=batch.recursive or lists, leave_out=[out])
    options.check_results(
        (output_path(out, file.stem, file.path.suffix) for file in files),
        [*(entry.path for entry in (*files, *maps)), *([annotations] if annotations else [])],
    )
    # Of one file the images are worked on side by side, of many the files.
    one = len(files) == 1 and not lists
    run = Run(
        maps,
        out,
        InstanceSettings(settings, drop_empty=empty == "drop"),
        naming=naming,
        file_names=read_file_names(annotations) if annotations else {},
        overwrite=batch.overwrite,
        workers=(batch.workers or available_threads()) if one else 1,
        max_failures=batch.max_failures,
        quiet=batch.quiet or not one,
    )
    over_files = replace(batch, workers=1, quiet=True) if one else batch
    with options.missing_extra("eval"):
        summary = over_files.run(
            files,
            (lambda file, _: refine_list(file, preds if preds.is_dir() else preds.parent, run))
            if lists
            else (lambda file, _: refine_instances(file, run)),
            "file",
            out=out,
            result=lambda file, out: output_path(out, file.stem, file.path.suffix),
        )
    for row in summary.done:
        summary.failed += row.pop("failed", [])
        summary.left += row.pop("left", 0)
    summary.failed.sort()
    total, changed = (sum(row[key] for row in summary.done) for key in ("instances", "changed"))
    emptied = [
        {"file": row["input"], **item} for row in summary.done for item in row.pop("emptied")
    ]
    others = [row for row in summary.done if row["other_predictions"]]
    warn_of_others(
        sum(row["other_predictions"] for row in others),
        sum(row["images"] for row in summary.done),
        others[0]["input"] if others else "",
        str(preds),
    )
    note = f"; {changed} of {total} instances changed{emptied_note(emptied, empty)}"
    finish(summary, out, batch, note=note, emptied=emptied)
