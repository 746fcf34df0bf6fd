"""segfix predict-offsets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segfix.cli import options
from segfix.cli.outcome import finish
from segfix.cli.refine_instances import (
    annotations_option,
    holds_instances,
    list_instance_files,
    refuse_options,
)
from segfix.errors import FileFormatError, PairingError, SegfixError, one_line

if TYPE_CHECKING:
    from segfix.files import Entry, Pair
    from segfix.network.offset_model import OffsetModel


@click.command("predict-offsets")
@click.argument("images", type=options.location)
@options.out_folder("offsets")
@click.option(
    "--preds",
    type=options.location,
    help="Predictions of the photographs, as 'segfix refine' takes them: make offset maps that fit "
    "these alone. Needs weights that look at predictions, too.",
)
@click.option("--soft", is_flag=True, help="Integers in PREDS are scores, not ids; see refine.")
@click.option("--key", metavar="NAME", help="Array of .npz files in PREDS. [default: the largest]")
@annotations_option
@options.naming
@options.weights
@options.device
@click.option(
    "--max-side",
    type=click.IntRange(1),
    metavar="N",
    help="Reduce photographs that are wider or higher than N pixels to N before the network looks "
    "at them: faster, less precise. Offset maps keep the photographs' size.",
)
@options.batch
@options.cluster
def predict_offsets(
    images: Path,
    out: Path,
    preds: Path | None,
    soft: bool,
    key: str | None,
    annotations: Path | None,
    naming: dict[str, Any],
    weights: str | None,
    device: str,
    max_side: int | None,
    batch: options.BatchOptions,
) -> None:
    """Predict where boundaries are and which way the interior lies.

    IMAGES is a photograph or a folder of them. Each gets an offset map of the same stem: a palette
    PNG that 'segfix refine' applies to any model's label map of that photograph, and that can be
    looked at (hue is direction, brightness is confidence).

    With --preds, the network looks at predictions of the photographs, too: offset maps say where
    these are wrong, and are for refining these alone.

    Or IMAGES is a video: its frames get the offset maps 000001.png, 000002.png, … Or it is -: a
    photograph is read from standard input and its offset map written to standard output.
    """
    for_preds = ("soft", "key", "annotations", "suffixes", "map_file")
    if preds is None and (given := options.first_given(*for_preds)):
        raise click.UsageError(f"{given} is for --preds.")
    if str(images) == "-":
        predict_standard_input(weights, device, max_side, batch)
        return
    options.check_folders(images, out, "IMAGES")
    if preds is not None:
        options.check_folders(preds, out, "PREDS")
    from segfix.files import list_entries, pair_entries
    from segfix.formats import IMAGE_SUFFIXES, VIDEO_SUFFIXES
    from segfix.instances.by_image import read_file_names
    from segfix.instances.photographs import pair_instances
    from segfix.jobs.run import png_path
    from segfix.tasks.predict_offsets import (
        frame_path,
        predict_file,
        predict_frame,
        predict_pair,
        video_frames,
    )
    from segfix.tasks.refine import FileSettings

    jobs: Iterable[Any]
    work: Callable[..., dict[str, Any]]
    result: Any
    instances = False
    if images.is_file() and images.suffix.lower() in VIDEO_SUFFIXES:
        if preds is not None:
            raise click.UsageError(
                f"{images}: --preds is for photographs; write the video's frames as pictures."
            )
        if batch.cluster or (batch.stage and batch.stage.holds(images)):
            raise click.UsageError(
                f"{images}: a video is read from start to end, here; copy it here, and share it "
                "among machines with --shard."
            )
        with options.missing_extra("video"):
            jobs, work, unit = video_frames(images), predict_frame, "frame"
        result = frame_path
    else:
        leave_out = [out] if preds is None else [out, preds]
        jobs = entries = list_entries(
            images, IMAGE_SUFFIXES, what="images", recursive=batch.recursive, leave_out=leave_out
        )
        work, unit, result = predict_file, "image", png_path
        maps = []
        if preds is not None:
            away = [out, images]
            if instances := holds_instances(preds, recursive=batch.recursive):
                refuse_options(preds, ["soft", "key"], "JSON and lists of instances")
                maps = list_instance_files(preds, batch, leave_out=away)
                jobs = pair_instances(
                    maps,
                    entries,
                    preds if preds.is_dir() else preds.parent,
                    naming=naming,
                    file_names=read_file_names(annotations) if annotations else None,
                )
                # Of one file, how many there are is known soon.
                jobs = list(jobs) if len(maps) == 1 else jobs
            else:
                refuse_options(preds, ["annotations"], "label maps and arrays")
                maps = list_preds(preds, recursive=batch.recursive, leave_out=away)
                jobs = pair_entries(entries, maps, **naming)
            work = partial(predict_pair, reading=FileSettings(soft, key))

            def result(pair: Pair, out: Path) -> Path:
                return png_path(pair.entry, out)

        options.check_results(
            (png_path(entry, out) for entry in entries), (entry.path for entry in (*entries, *maps))
        )
    model = load_model(weights, device, batch)
    if preds is not None:
        try:
            model.check_conditioned()
        except SegfixError as error:
            raise click.UsageError(str(error)) from error
    with options.missing_extra("eval") if instances else nullcontext():
        summary = batch.run(
            jobs,
            partial(work, model, max_side=max_side, overwrite=batch.overwrite),
            unit,
            out=out,
            result=result,
            network=True,
        )
    finish(summary, out, batch, device=model.device, weights=model.source)


def list_preds(preds: Path, *, recursive: bool, leave_out: Sequence[Path]) -> list[Entry]:
    """List predictions; two files that could both be one photograph's are refused."""
    from segfix.files import list_entries
    from segfix.formats import LABEL_SUFFIXES

    entries = list_entries(
        preds, LABEL_SUFFIXES, what="predictions", recursive=recursive, leave_out=leave_out
    )
    for entry in entries:
        if entry.problem:
            raise PairingError(entry.problem)
    return entries


def load_model(weights: str | None, device: str, batch: options.BatchOptions) -> OffsetModel:
    """The network, announced on stderr."""
    from segfix.network.offset_model import load

    model = load(weights, device="cpu" if batch.cluster else device)
    if batch.cluster:
        # Opened there again; here nobody runs it.
        model.device, model.threads = batch.cluster.device(device), batch.cluster.threads
    if not batch.quiet:
        click.echo(one_line(f"weights {model.metadata['name']} on {model.device}"), err=True)
    return model


def predict_standard_input(
    weights: str | None, device: str, max_side: int | None, batch: options.BatchOptions
) -> None:
    """One photograph from standard input, its offset map to standard output."""
    if options.first_given("preds"):
        raise click.UsageError("--preds is for files; give the photograph's name instead of -.")
    if given := options.first_given("as_json", "out", "shard", "engine"):
        raise click.UsageError(
            f"{given} has no use with -: the offset map of the one photograph goes to standard "
            "output."
        )
    if sys.stdin is None or sys.stdout is None:
        raise click.UsageError("- reads standard input and writes standard output; one is closed.")
    if sys.stdout.isatty():
        raise click.UsageError(
            "- writes a PNG file to standard output; redirect it: "
            "segfix predict-offsets - < photo.jpg > offsets.png"
        )
    from segfix.files.limits import limits
    from segfix.tasks.predict_offsets import predict_stream

    model = load_model(weights, device, batch)
    image = sys.stdin.buffer.read(limits.max_bytes + 1)
    if len(image) > limits.max_bytes:
        raise FileFormatError(
            f"standard input: more than {limits.max_bytes} bytes; --max-bytes allows more."
        )
    sys.stdout.buffer.write(predict_stream(model, image, max_side=max_side))
    sys.stdout.buffer.flush()
