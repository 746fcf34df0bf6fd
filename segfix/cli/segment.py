"""segfix segment."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segfix.cli import options
from segfix.cli.outcome import finish
from segfix.errors import one_line

if TYPE_CHECKING:
    from segfix.network.segmentation_model import SegmentationModel
    from segfix.training.checkpoint_model import CheckpointModel

DEFAULTS = (Path("runs/segmentation/model.onnx"), Path("runs/segmentation/model.safetensors"))


@click.command()
@click.argument("images", type=options.location)
@options.out_folder("preds")
@click.option(
    "--weights",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="ONNX file of 'segfix export', or checkpoint (model.safetensors) of 'segfix train'. "
    "[default: runs/segmentation/model.onnx, else model.safetensors there]",
)
@click.option(
    "--scale",
    "scales",
    type=options.FiniteRange(0, 16, min_open=True),
    multiple=True,
    default=[1.0],
    show_default=True,
    help="Factor on the size of the photographs; repeat it to average over several.",
)
@click.option(
    "--flip",
    is_flag=True,
    help="Look at the mirrored photographs, too, and average: twice the time.",
)
@options.bands
@options.device
@options.batch
def segment(
    images: Path,
    out: Path,
    weights: Path | None,
    scales: tuple[float, ...],
    flip: bool,
    bands: tuple[int, ...] | None,
    device: str,
    batch: options.BatchOptions,
) -> None:
    """Predict label maps with a segmentation network of 'segfix train --loss …'.

    IMAGES is a photograph or a folder of them. Each gets a PNG label map of the same stem, with the
    class ids (or colours) of the label maps that the network was trained on. An ONNX file runs
    without torch, and faster on a CPU.
    """
    from segfix.formats import IMAGE_SUFFIXES
    from segfix.jobs.run import run_task
    from segfix.jobs.sources import list_inputs
    from segfix.jobs.task import name_png
    from segfix.tasks.segment import segment_task

    passed = Counter[str]()
    entries = list_inputs(
        {"IMAGES": images},
        IMAGE_SUFFIXES,
        "images",
        out,
        name_png,
        recursive=batch.recursive,
        passed_over=passed,
    )
    model = load(weights or find_default(), device)
    if not batch.quiet:
        click.echo(one_line(f"weights {model.path} on {model.device}"), err=True)
    task = segment_task(model, scales=scales, flip=flip, bands=bands)
    summary = run_task(task, entries, out, batch, passed_over=passed)
    finish(summary, out, batch, device=model.device, weights=model.source)


def find_default() -> Path:
    """Find the network that was trained here."""
    found = [path for path in DEFAULTS if path.is_file()]
    if not found:
        raise click.UsageError(
            f"{DEFAULTS[1]}: no such file; train a network first (segfix train --loss level-set), "
            "or give --weights."
        )
    if len(found) == 2 and found[1].stat().st_mtime > found[0].stat().st_mtime:
        click.echo(
            f"segfix: {found[0]} is older than {found[1].name}; export again, or give --weights.",
            err=True,
        )
    return found[0]


def load(weights: Path, device: str) -> SegmentationModel | CheckpointModel:
    """Load the network of an ONNX file or, with torch, of a checkpoint."""
    from segfix.network.segmentation_model import SegmentationModel
    from segfix.network.session import available_threads

    if weights.suffix != ".safetensors":
        return SegmentationModel(weights, device)
    with options.missing_extra("train"):
        import torch

        from segfix.training.checkpoint_model import CheckpointModel

    torch.set_num_threads(available_threads())
    return CheckpointModel(weights, device)
