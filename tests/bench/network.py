"""Scores of an exported network: mask F-score, direction accuracy, and how its confidence holds.

    python tests/bench/network.py --weights FILE --val DIR [--val DIR …]

DIR is a data set as for `segfix train --val`. The reliability table compares the confidence in the
offset maps with the share of directions that are right to within 45°, near true boundaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from segfix.geometry import UNDEFINED
from segfix.metrics import direction_reliability, offset_counts, offset_scores
from segfix.network.offset_model import OffsetModel, load
from segfix.training.crop_targets import make_validation_targets
from segfix.training.layouts import LabelledImage, find_labelled_images, folder_name

BINS = 20


def measure(
    model: OffsetModel, images: Sequence[LabelledImage]
) -> tuple[dict[str, float], NDArray[np.int64]]:
    """`offset_scores` and `direction_reliability` over photographs."""
    counts, table = np.zeros(5, np.int64), np.zeros((BINS, 2), np.int64)
    for pair in images:
        image, labels = pair.read()
        boundary, direction = make_validation_targets(
            labels,
            num_directions=model.num_directions,
            boundary_width=model.metadata["boundary_width"],
        )
        offset_map = model.offsets(image)
        mask = offset_map.boundary_mask()
        counts += offset_counts(mask, offset_map.direction_map(), boundary, direction)
        table += direction_reliability(
            offset_map.confidence_map(),
            offset_map.direction_map(),
            np.where(mask, direction, np.uint8(UNDEFINED)),
            num_directions=model.num_directions,
            num_bins=BINS,
        )
    return offset_scores(counts), table


@click.command()
@click.option("--weights", default=None, help="Name or ONNX file. [default: the shipped default]")
@click.option("--val", "folders", type=click.Path(path_type=Path), multiple=True, required=True)
@click.option("--every", type=int, default=1, show_default=True, help="Take every Nth photograph.")
def main(weights: str | None, folders: tuple[Path, ...], every: int) -> None:
    """Measure and print Markdown."""
    model = load(weights)
    click.echo("| set | photographs | mask F | direction accuracy | calibration error |")
    click.echo("|---|---|---|---|---|")
    tables = {}
    for folder in folders:
        images = find_labelled_images(folder, "val")[::every]
        scores, table = measure(model, images)
        name = folder_name(folder)
        tables[name] = table
        shares = table[:, 1] / np.maximum(table[:, 0], 1)
        middles = (np.arange(BINS) + 0.5) / BINS
        error = np.average(np.abs(shares - middles), weights=table[:, 0])
        click.echo(
            f"| {name} | {len(images)} | {100 * scores['mask_f']:.1f} "
            f"| {100 * scores['direction_accuracy']:.1f} % | {error:.3f} |"
        )
    click.echo("\n| confidence | " + " | ".join(tables) + " |")
    click.echo("|---|" + "---|" * len(tables))
    for k in range(BINS):
        cells = [f"{t[k, 1] / t[k, 0]:.2f}" if t[k, 0] >= 100 else "" for t in tables.values()]
        if any(cells):
            click.echo(f"| {k / BINS:.2f} … {(k + 1) / BINS:.2f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
