"""What refinement gains: scores of label maps before and after, for several steps, and ceilings.

    python tests/bench/gains.py --images DIR --labels DIR --preds NAME=DIR [--preds …] --work DIR

With weights that look at predictions, too, both uses are measured: "conditioned" are offset maps
made for each prediction. The offset maps, predicted and from ground truth, and all refined maps are
kept under the work folder. Prints a Markdown table: mIoU and boundary F at 1 px, with the
differences to the input, and beside each the share of images made worse and the worst loss of one.
`gains.json` holds all scores, and these under "harm". Where ids mean nothing across photographs
(ADE20K's and BSDS500's regions), `--regions` averages over all regions of all photographs, specks
left out: else what two photographs call 16 would be one class, and one region alone in its number a
class, too; harm counts photographs as ever. The oracle takes exactly the right ones of the moves
that the same directions propose, the next other label within 8 px along each: what deciding could
gain.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from segfix.evaluation import Comparison
from segfix.evaluation.compare import score_images
from segfix.evaluation.statistics import COLUMNS, mean_scores
from segfix.files import Entry, Pair, list_entries, pair_entries
from segfix.formats import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    LabelMap,
    read_label_map,
    read_offset_map,
    write_label_map,
)
from segfix.geometry.evidence import MAX_DISTANCE, cast_rays
from segfix.jobs.run import Batch
from segfix.network.offset_model import OffsetModel, load
from segfix.network.session import available_threads
from segfix.refinement.apply import RefineSettings
from segfix.tasks.ground_truth import target_task
from segfix.tasks.predict_offsets import predict_task
from segfix.tasks.predictions import FileSettings
from segfix.tasks.refine import refine_task

SETTINGS = {
    "auto": RefineSettings(),
    "scale 1": RefineSettings(scale=1),
    "scale 2": RefineSettings(scale=2),
    "scale 4": RefineSettings(scale=4),
    "iterate": RefineSettings(iterate=10),
}
CEILING = RefineSettings()
VOID = 255
SPECK = 50
"""Pixels; a region of fewer is no object (BSDS500 has some of one)."""


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
@click.option("--regions", is_flag=True, help="Ids mean nothing across photographs.")
@click.option("--step", "steps", multiple=True, type=click.Choice(list(SETTINGS)))
def main(
    images: Path,
    labels: Path,
    preds: dict[str, Path],
    weights: str | None,
    work: Path,
    min_confidence: float,
    ceiling: bool,
    regions: bool,
    steps: tuple[str, ...],
) -> None:
    """Measure."""
    truth = label_maps(labels)
    model = load(weights)
    photographs = list_entries(images, IMAGE_SUFFIXES, what="images")
    base = work / f"offsets-{model.digest[:8]}"
    alone = [Pair(entry, None) for entry in photographs]
    make_all(Batch(alone, partial(predict_task(model).do, out=base), "image"))
    if ceiling:
        task = target_task(num_directions=model.num_directions, boundary_width=5, ignore_index=VOID)
        make_all(Batch(truth, partial(task.do, out=work / "targets"), "map"))
    results: dict[str, dict[str, Any]] = {}
    for predictor, folder in preds.items():
        sources = {"unconditioned": base}
        if model.conditioned:
            sources["conditioned"] = work / f"{base.name}-{predictor}"
            pairs = [
                pair
                for pair in pair_entries(photographs, label_maps(folder))
                if pair.partner is not None
            ]
            make_all(Batch(pairs, partial(condition, model, sources["conditioned"]), "image"))
        found = {"input": folder}
        for source, offsets in sources.items():
            for name in steps or SETTINGS:
                bold = replace(SETTINGS[name], min_confidence=min_confidence)
                out = work / f"{predictor}-{offsets.name}-{name.replace(' ', '')}-{min_confidence}"
                refine_all(folder, offsets, partial(refine_pair, out=out, settings=bold))
                found[f"{source}, {name}"] = out
            out = work / f"{predictor}-{offsets.name}-oracle"
            refine_all(folder, offsets, partial(decide_rightly, labels=labels, out=out))
            found[f"{source}, oracle"] = out
        if ceiling:
            out = work / f"{predictor}-targets"
            refine_all(folder, work / "targets", partial(refine_pair, out=out, settings=CEILING))
            found["ground truth"] = out
        results[predictor] = score_sets(truth, found, regions=regions)
        print(table(predictor, results[predictor]), flush=True)
    (work / "gains.json").write_text(json.dumps(results, indent=2))


def refine_all(preds: Path, offsets: Path, work: Callable[[Pair], dict[str, Any]]) -> None:
    """Refine a folder."""
    make_all(Batch(pair_entries(label_maps(preds), label_maps(offsets)), work, "map"))


def condition(model: OffsetModel, out: Path, pair: Pair) -> dict[str, Any]:
    """Make the offset map that fits a prediction."""
    return predict_task(model, reading=FileSettings()).do(pair, out)


def decide_rightly(pair: Pair, labels: Path, out: Path) -> dict[str, Any]:
    """Take exactly the right ones of the moves that an offset map proposes."""
    assert pair.partner is not None
    truth = read_label_map(labels / f"{pair.entry.stem}.png").ids()
    label_map = read_label_map(pair.entry.path).ids()
    vectors = read_offset_map(pair.partner.path).vectors()
    rays = cast_rays(label_map, vectors, MAX_DISTANCE // max(1, int(np.abs(vectors).max())))
    rows, cols = np.divmod(rays.places, label_map.shape[1])
    there = np.stack([rows, cols], 1) + rays.ahead[:, None] * rays.step
    found = label_map[tuple(np.clip(there, 0, np.array(label_map.shape) - 1).T)]
    right = (found == truth[rows, cols]) & (truth[rows, cols] != VOID)
    refined = label_map.copy()
    refined[rows[right], cols[right]] = found[right]
    path = out / f"{pair.entry.stem}.png"
    write_label_map(path, LabelMap(refined.astype(np.uint8)))
    return {"output": str(path)}


def refine_pair(pair: Pair, out: Path, settings: RefineSettings) -> dict[str, Any]:
    """Refine the label map of a pair."""
    return refine_task(settings).do(pair, out)


def score(truth: list[Entry], folder: Path) -> dict[str, Any]:
    """Scores of a folder; every label map must have its prediction."""
    return score_sets(truth, {"": folder})[""]


def score_sets(
    truth: list[Entry], folders: dict[str, Path], *, regions: bool = False
) -> dict[str, dict[str, Any]]:
    """Scores of folders, and the harm that each does to the first; no prediction may be missing."""
    sets = {name: pair_entries(truth, label_maps(folder)) for name, folder in folders.items()}
    comparison = Comparison(list(sets), None)
    images = list(score_images(sets, workers=available_threads()))
    for image in images:
        comparison.update(image)
    if comparison.failed:
        raise SystemExit("\n".join(comparison.failed))
    result = comparison.result()
    rows = {name: dict(scores["mean"]) for name, scores in result["sets"].items()}
    if regions:
        found = np.concatenate([image.statistics for image in images], axis=1)
        areas = found[0, :, COLUMNS["true"]].sum(axis=-1)
        means = mean_scores(found[:, areas >= SPECK])
        for number, row in enumerate(rows.values()):
            row |= {name: float(values[number]) for name, values in means.items()}
    for name, change in result["changes"].items():
        rows[name]["harm"] = change["harm"]
    return rows


def table(predictor: str, rows: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    first = rows["input"]
    lines = [
        f"\n| {predictor} | mIoU | worse, at worst | F@1px | worse, at worst |",
        "|---" * 5 + "|",
    ]
    for name, row in rows.items():
        cells = []
        for key in ("iou", "f_1px"):
            cell, harm = f"{100 * row[key]:.2f}", ""
            if row is not first:
                cell += f" ({100 * (row[key] - first[key]):+.2f})"
                told = row["harm"][key]
                harm = f"{100 * told['rate']:.0f} %, {100 * told['worst']:.2f}"
            cells += [cell, harm]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
