"""The SegFix paper's Tables 1, 2, 3, 5 and 11 in kind: on the data at hand, as Markdown.

    python -m tests.bench.paper_tables --val DIR --preds NAME=DIR [--preds …] --work DIR \
        --networks DIR --baselines DIR [--table 1 …]

DIR of --val holds `images/` and `labels/`; --networks is the folder that `variants.py` made, for
Tables 2 (backbones) and 3 (γ and m); --baselines is `results/SET` in the work folder of
`baselines.py`, for Tables 5 (DenseCRF) and 11 (ensemble). Table 1 is the ceiling.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from safetensors import safe_open

from segfix.files import Pair, list_entries, pair_entries
from segfix.formats import IMAGE_SUFFIXES
from segfix.jobs.run import Batch
from segfix.network.offset_model import OffsetModel, load
from segfix.network.weights import shipped_weights
from segfix.refinement.apply import RefineSettings
from segfix.tasks.ground_truth import target_task
from segfix.tasks.predict_offsets import predict_task
from segfix.tasks.predictions import FileSettings
from segfix.training.layouts import find_labelled_images
from tests.bench.gains import label_maps, make_all, parse_named, refine_pair, score
from tests.bench.network import measure
from tests.bench.variants import BACKBONES, DIRECTIONS, FAR, WIDTHS

STEPS = {"the paper's step": RefineSettings(scale=2), "default step": RefineSettings()}
SIZE = (1024, 2048)
KEYS = {"iou": "mIoU", "f_1px": "F@1px"}
TABLES = ("1", "2", "3", "5", "11")


class Bench:
    """One set with its predictors, and a folder for everything made of them."""

    def __init__(self, val: Path, preds: dict[str, Path], work: Path) -> None:
        self.val, self.preds, self.work = val, preds, work
        self.truth = label_maps(val / "labels")
        self.before = {name: score(self.truth, folder) for name, folder in preds.items()}

    def offsets(self, model: OffsetModel, name: str, *, seen: bool) -> Path:
        """Offset maps of every photograph, if `seen` for the predictions of this name."""
        out = self.work / f"offsets-{model.digest[:8]}{f'-{name}' * seen}"
        images = list_entries(self.val / "images", IMAGE_SUFFIXES, what="images")
        pairs = [Pair(image, None) for image in images]
        if seen:
            pairs = pair_entries(images, label_maps(self.preds[name]))
        task = predict_task(model, reading=FileSettings() if seen else None)
        make_all(Batch(pairs, partial(task.do, out=out), "image"))
        return out

    def targets(self, num_directions: int, _: str = "") -> Path:
        """Offset maps of the ground truth, the same for all predictors."""
        out = self.work / f"targets-m{num_directions}"
        task = target_task(num_directions=num_directions, boundary_width=5, ignore_index=255)
        make_all(Batch(self.truth, partial(task.do, out=out), "map"))
        return out

    def gains(self, offsets: Callable[[str], Path], step: str) -> dict[str, dict[str, float]]:
        """For each predictor and its offset maps, what each score of `KEYS` gains, in points."""
        gains = {}
        for name, folder in self.preds.items():
            maps = offsets(name)
            out = self.work / f"{name}-{maps.name}-{step.replace(' ', '')}"
            pairs = pair_entries(label_maps(folder), label_maps(maps))
            work = partial(refine_pair, out=out, settings=STEPS[step])
            make_all(Batch(pairs, work, "map"))
            after = score(self.truth, out)
            gains[name] = {key: 100 * (after[key] - self.before[name][key]) for key in KEYS}
        return gains

    def mean_gain(self, offsets: Callable[[str], Path], step: str) -> str:
        """Δ mIoU / Δ F@1px, means over the predictors."""
        gains = self.gains(offsets, step).values()
        return " / ".join(f"{np.mean([gain[key] for gain in gains]):+.2f}" for key in KEYS)


def ceiling_table(bench: Bench) -> str:
    """Table 1: offsets of the ground truth."""
    columns = [(m, step) for m in (4, 8, 16) for step in STEPS]
    lines = [
        "| predictor | input | " + " | ".join(f"m = {m}, {step}" for m, step in columns) + " |",
        "|---" * (2 + len(columns)) + "|",
    ]
    gains = {(m, step): bench.gains(partial(bench.targets, m), step) for m, step in columns}
    for name, before in bench.before.items():
        cells = [" / ".join(f"{100 * before[key]:.2f}" for key in KEYS)]
        for column in columns:
            cells.append(" / ".join(f"{gains[column][name][key]:+.2f}" for key in KEYS))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def network_table(bench: Bench, networks: dict[str, tuple[Path, Path]], *, timed: bool) -> str:
    """Tables 2 and 3: networks by name, each an ONNX file and its checkpoint."""
    head = ["network", "parameters (M)", "mask F", "direction accuracy", *STEPS]
    if timed:
        head.append("CPU s at 2048×1024")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, (onnx, checkpoint) in networks.items():
        model = load(onnx)
        scores, _ = measure(model, find_labelled_images(bench.val, "val"))
        plain, looking = (partial(bench.offsets, model, seen=seen) for seen in (False, True))
        cells = [
            f"{parameters(checkpoint) / 1e6:.1f}",
            *(f"{100 * scores[key]:.2f}" for key in ("mask_f", "direction_accuracy")),
            *(bench.mean_gain(plain, step) for step in STEPS),
        ]
        if timed:
            cells.append(f"{seconds(model):.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
        if model.conditioned:
            gains = [bench.mean_gain(looking, step) for step in STEPS]
            lines.append(f"| {name}, `--preds` | | | | {' | '.join(gains)} |{' |' * timed}")
        click.echo(lines[-1], err=True)
    return "\n".join(lines)


def parameters(checkpoint: Path) -> int:
    """Number of weights, without the statistics of batch norm."""
    with safe_open(checkpoint, framework="np") as file:
        stored: list[str] = list(file.keys())
        names = [name for name in stored if "running" not in name and "num_" not in name]
        return sum(int(np.prod(file.get_slice(name).get_shape())) for name in names)


def seconds(model: OffsetModel, repeats: int = 3) -> float:
    """Median CPU time of the network alone on one picture, all threads together."""
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        model.offsets(image)
        times.append(time.process_time() - start)
    return statistics.median(times[1:])


def result_table(folder: Path, rows: Sequence[str]) -> str:
    """Rows of `baselines.py`, a column per predictor: the input, and Δ mIoU / Δ F@1px to it."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    lines = ["| | " + " | ".join(results) + " |", "|---" * (1 + len(results)) + "|"]
    for row in ("input", *rows):
        cells = []
        for scores in results.values():
            signs, base = ("", {}) if row == "input" else ("+", scores["input"])
            cells.append(
                " / ".join(f"{scores[row][k] - base.get(k, 0):{signs}.2f}" for k in scores[row])
                if row in scores
                else "–"
            )
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ensembles(folder: Path) -> list[str]:
    """Names of the rows of two-model ensembles in results of `baselines.py`."""
    found = (json.loads(path.read_text()) for path in sorted(folder.glob("*.json")))
    names = dict.fromkeys(name for scores in found for name in scores)
    return [name for name in names if name.startswith("ensemble") and "→" not in name]


@click.command()
@click.option("--val", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--preds", multiple=True, required=True, callback=parse_named, help="NAME=DIR")
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--networks", type=click.Path(path_type=Path, exists=True))
@click.option("--baselines", type=click.Path(path_type=Path, exists=True))
@click.option("--table", "chosen", type=click.Choice([*TABLES]), multiple=True, default=TABLES)
def main(
    val: Path,
    preds: dict[str, Path],
    work: Path,
    networks: Path | None,
    baselines: Path | None,
    chosen: tuple[str, ...],
) -> None:
    """Measure."""
    for tables, folder, name in (
        (("2", "3"), networks, "networks"),
        (("5", "11"), baselines, "baselines"),
    ):
        if folder is None and any(table in tables for table in chosen):
            raise click.UsageError(f"this table needs --{name}.")
    bench = Bench(val, preds, work)
    click.echo(f"Input: {json.dumps(rounded(bench.before))}\n")
    if "1" in chosen:
        click.echo(f"Table 1\n\n{ceiling_table(bench)}\n")
    if networks is not None:
        trained = {
            name: (networks / f"{name}.onnx", networks / name / "model.safetensors")
            for name in (*WIDTHS, *DIRECTIONS, *BACKBONES)
            if (networks / f"{name}.onnx").exists()
        }
        shipped = {
            f"`{name}`, shipped": (onnx, onnx.with_suffix(".safetensors"))
            for name, onnx in shipped_weights().items()
            if onnx.with_suffix(".safetensors").exists()
        }
        short = {f"`{name}`, short": trained[name] for name in BACKBONES if name in trained}
        widths = {
            f"γ = {'∞' if width == FAR else width}": trained[name]
            for name, width in WIDTHS.items()
            if name in trained
        }
        widths |= {
            f"γ = 5, m = {m}": trained[name] for name, m in DIRECTIONS.items() if name in trained
        }
        if "2" in chosen:
            click.echo(f"Table 2\n\n{network_table(bench, shipped | short, timed=True)}\n")
        if "3" in chosen:
            click.echo(f"Table 3\n\n{network_table(bench, widths, timed=False)}\n")
    if baselines is not None and "5" in chosen:
        crf = "DenseCRF of soft-max, 10 iterations"
        click.echo(f"Table 5\n\n{result_table(baselines, (crf, 'SegFix', f'{crf} → SegFix'))}\n")
    if baselines is not None and "11" in chosen:
        rows = ("SegFix", *ensembles(baselines))
        click.echo(f"Table 11\n\n{result_table(baselines, rows)}\n")


def rounded(before: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The inputs' scores in percent."""
    return {
        name: {title: round(100 * scores[key], 2) for key, title in KEYS.items()}
        for name, scores in before.items()
    }


if __name__ == "__main__":
    main()
