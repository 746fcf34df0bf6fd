"""segfix predict-offsets."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segfix.cli import options
from segfix.cli.outcome import finish, scaling_note, tell_links
from segfix.cli.refine_instances import annotations_option, refuse_others
from segfix.errors import FileFormatError, one_line, require_extra

if TYPE_CHECKING:
    from segfix.network.offset_model import OffsetModel
    from segfix.tasks.predict_offsets import Frame

HUGE = 9_000_000
"""Pixels; some twice the side of the largest photographs that the networks were trained on."""

LARGE_FRAME = 4_000_000
"""Pixels; larger frames take some seconds of a CPU core each."""

max_side_option = click.option(
    "--max-side",
    type=click.IntRange(1),
    metavar="N",
    help="Reduce photographs that are wider or higher than N pixels to N before the network looks "
    "at them: faster, less precise. Offset maps keep the photographs' size.",
)


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
@options.weights_of_videos
@options.device
@max_side_option
@options.bands
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
    bands: tuple[int, ...] | None,
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
        predict_standard_input(weights, device, max_side, bands, batch)
        return
    from segfix.formats import VIDEO_SUFFIXES
    from segfix.jobs.run import run_task
    from segfix.tasks.predict_offsets import frame_task, list_photographs, predict_task, read_video
    from segfix.tasks.predictions import FileSettings

    if images.is_file() and images.suffix.lower() in VIDEO_SUFFIXES:
        check_video(images, out, preds, batch)
        with require_extra("video"):
            frames = read_video(images)
        model = load_model(weights or choose_video_weights(device), device, batch)
        if max_side is None and model.device == "cpu" and not batch.quiet:
            frames = warn_of_large(frames)
        summary = run_task(frame_task(model, max_side=max_side), frames, out, batch)
    else:
        if preds is not None:
            refuse_others(preds, recursive=batch.recursive, images=images)
        passed = Counter[str]()
        jobs = list_photographs(
            images,
            out,
            preds,
            annotations=annotations,
            recursive=batch.recursive,
            naming=naming,
            passed_over=passed,
        )
        if isinstance(jobs, list):
            tell_links(jobs, quiet=batch.quiet)
        model = load_model(weights, device, batch)
        reading = None if preds is None else FileSettings(soft, key)
        task = predict_task(model, max_side=max_side, reading=reading, bands=bands)
        with require_extra("eval"):
            summary = run_task(task, jobs, out, batch, passed_over=passed)
    finish(summary, out, batch, device=model.device, weights=model.source)
    if max_side is None and not batch.quiet:
        warn_of_huge([row["pixels"] for row in summary.done])


def warn_of_huge(pixels: list[int]) -> None:
    """Say on stderr that photographs are far larger than those that the network has learnt from."""
    huge = sum(number > HUGE for number in pixels)
    if huge:
        click.echo(
            f"segfix: {huge} of {len(pixels)} {'has' if huge == 1 else 'have'} more than "
            f"{HUGE // 10**6} megapixels, and the network has learnt from sides of 320 to 1536 "
            "pixels: where predictions are off by many pixels, reduce the photographs to that and "
            "'refine --fit image' (docs/speed.md).",
            err=True,
        )


def choose_video_weights(device: str) -> str | None:
    """Name the weights for a video: on a CPU the default ones in 8 bits, None for the default."""
    from segfix.network.session import has_nvidia_driver
    from segfix.network.weights import DEFAULT_WEIGHTS

    on_gpu = device not in ("auto", "cpu") or (device == "auto" and has_nvidia_driver())
    return None if on_gpu else f"{DEFAULT_WEIGHTS}_int8"


def warn_of_large(frames: Iterator[Frame]) -> Iterator[Frame]:
    """Say on stderr, before the first of frames that take seconds each, what makes them faster."""
    for frame in frames:
        height, width = frame.image.shape[:2]
        if frame.number == 1 and height * width > LARGE_FRAME:
            side = max(height, width) // 2
            click.echo(
                f"segfix: frames of {width}×{height} take seconds each on a CPU; --max-side {side} "
                "takes a quarter of that and is less precise; a GPU (--device cuda) or several "
                "machines (--shard) lose nothing (docs/video.md).",
                err=True,
            )
        yield frame


def check_video(video: Path, out: Path, preds: Path | None, batch: options.BatchOptions) -> None:
    """Refuse what can't be done with a video."""
    from segfix.files.places import StagedPath
    from segfix.jobs.sources import check_folders

    check_folders({"IMAGES": video, "PREDS": preds}, out)
    if preds is not None:
        raise click.UsageError(
            f"{video}: --preds is for photographs; write the video's frames as pictures."
        )
    if batch.cluster or isinstance(video, StagedPath):
        raise click.UsageError(
            f"{video}: a video is read from start to end, here; copy it here, and share it "
            "among machines with --shard."
        )


def load_model(weights: str | None, device: str, batch: options.BatchOptions) -> OffsetModel:
    """Load the network and announce it on stderr."""
    from segfix.tasks.predict_offsets import load_for

    model = load_for(batch.cluster, weights, device)
    if not batch.quiet:
        click.echo(one_line(f"weights {model.metadata['name']} on {model.device}"), err=True)
    return model


def predict_standard_input(
    weights: str | None,
    device: str,
    max_side: int | None,
    bands: tuple[int, ...] | None,
    batch: options.BatchOptions,
) -> None:
    """Read a photograph from standard input, write its offset map to standard output."""
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
    from segfix.files.limits import current_limits
    from segfix.tasks.predict_offsets import predict_stream

    model = load_model(weights, device, batch)
    most = current_limits().max_bytes
    image = sys.stdin.buffer.read(most + 1)
    if len(image) > most:
        raise FileFormatError(
            f"more than {most} bytes", path="standard input", advice="--max-bytes allows more"
        )
    content, row = predict_stream(model, image, max_side=max_side, bands=bands)
    if not batch.quiet and (note := scaling_note([row])):
        click.echo(f"segfix: {note.removeprefix('; ')}", err=True)
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()
