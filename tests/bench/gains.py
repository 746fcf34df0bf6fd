"""What refinement gains: scores of label maps before and after, for several steps, and the ceiling.

    python tests/bench/gains.py --images DIR --labels DIR --preds NAME=DIR [--preds …] --work DIR

The offset maps, predicted and from ground truth, and all refined maps are kept under the work
folder. Prints a Markdown table: mIoU and boundary F at 1 px, with the differences to the input.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from segfix.evaluation import evaluate_folders
from segfix.formats import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    Entry,
    Pair,
    list_entries,
    pair_entries,
)
from segfix.inference.batch import Batch
from segfix.inference.model import available_threads, load
from segfix.inference.predict import predict_file, target_file
from segfix.inference.refine import RefineSettings
from segfix.inference.refine_files import refine_file

SETTINGS = {
    "auto": RefineSettings(),
    "scale 1": RefineSettings(scale=1),
    "scale 2": RefineSettings(scale=2),
    "scale 4": RefineSettings(scale=4),
    "iterate": RefineSettings(iterate=10),
}


def parse_named(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, Path]:
    """NAME=DIR options to a dictionary."""
    return {name: Path(folder) for name, _, folder in (v.partition("=") for v in values)}


def label_maps(folder: Path) -> list[Entry]:
    """The PNG files of a folder."""
    return list_entries(folder, LABEL_SUFFIXES, what="label maps")


def make_all(batch: Batch[Any]) -> None:
    """Run a batch in which nothing may fail."""
    summary = batch.run(workers=available_threads(), quiet=True)
    if summary.failed:
        raise SystemExit("\n".join(summary.failed))


@click.command()
@click.option("--images", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--labels", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--preds", multiple=True, required=True, callback=parse_named, help="NAME=DIR")
@click.option("--weights", default=None)
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--min-confidence", type=float, default=0.0)
@click.option("--ceiling/--no-ceiling", default=True)
def main(
    images: Path,
    labels: Path,
    preds: dict[str, Path],
    weights: str | None,
    work: Path,
    min_confidence: float,
    ceiling: bool,
) -> None:
    """Measure."""
    truth = label_maps(labels)
    model = load(weights)
    photographs = list_entries(images, IMAGE_SUFFIXES, what="images")
    sources = {"segfix": work / f"offsets-{model.digest[:8]}"}
    make_all(Batch(photographs, lambda e: predict_file(model, e, sources["segfix"]), "image"))
    if ceiling:
        sources["ground truth"] = work / "targets"
        make_all(
            Batch(
                truth,
                lambda e: target_file(
                    e,
                    sources["ground truth"],
                    num_directions=model.num_directions,
                    boundary_width=5,
                    ignore_index=255,
                ),
                "map",
            )
        )
    results: dict[str, dict[str, Any]] = {}
    for predictor, folder in preds.items():
        rows = {"input": score(truth, folder)}
        for source, offsets in sources.items():
            for name, settings in SETTINGS.items():
                bold = RefineSettings(settings.scale, settings.iterate, min_confidence)
                out = work / f"{predictor}-{offsets.name}-{name.replace(' ', '')}-{min_confidence}"
                pairs = pair_entries(label_maps(folder), label_maps(offsets))
                make_all(Batch(pairs, partial(refine_pair, out=out, settings=bold), "map"))
                rows[f"{source}, {name}"] = score(truth, out)
        results[predictor] = rows
        print(table(predictor, rows), flush=True)
    (work / "gains.json").write_text(json.dumps(results, indent=2))


def refine_pair(pair: Pair, out: Path, settings: RefineSettings) -> dict[str, Any]:
    """`refine_file` of a pair."""
    return refine_file(pair.entry, pair.partner, out, settings)


def score(truth: list[Entry], folder: Path) -> dict[str, Any]:
    """Scores of a folder; every label map must have its prediction."""
    pairs = pair_entries(truth, label_maps(folder))
    comparison = evaluate_folders({"": pairs}, workers=available_threads())
    if comparison.failed:
        raise SystemExit("\n".join(comparison.failed))
    means: dict[str, Any] = comparison.result()["sets"][""]["mean"]
    return means


def table(predictor: str, rows: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    first = rows["input"]
    lines = [f"\n| {predictor} | mIoU | F@1px |", "|---|---|---|"]
    for name, row in rows.items():
        cells = [
            f"{100 * row[key]:.2f}"
            + ("" if row is first else f" ({100 * (row[key] - first[key]):+.2f})")
            for key in ("iou", "f_1px")
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
