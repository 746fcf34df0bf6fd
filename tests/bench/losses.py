"""What are the losses worth? Each continues the same training; intervals over seeds and drives.

    python tests/bench/losses.py --data DATA/idd_lite --work WORK

DATA is a folder with train/ and val/, each with images/ and labels/; a photograph's drive is what
its name has before the first underscore. Per seed, DeepLabv3+ on EfficientNet-Lite0 with ImageNet
weights is trained with cross-entropy alone to step 1,600 of one schedule of 2,800; then each arm
goes on from copies of weights, averages and optimizer, with the same crops. The weights of the
losses are chosen before: of some shares of cross-entropy's gradient, the one with the best mIoU on
a tenth of the training photographs, held out by drive. The validation photographs are scored once
per arm and seed, by the last averaged weights, as they are and refined by `segfix refine`'s
default.

Stopped at any moment (SIGTERM, too), the same command goes on where it was. Prints Markdown.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

import segfix
from segfix.evaluation import score_image
from segfix.evaluation.statistics import BANDS, COLUMNS, NUM_COLUMNS, mean_scores
from segfix.files.atomic import atomic_path
from segfix.formats import read_image
from segfix.network.offset_model import load
from segfix.training.checkpoints import write_state
from segfix.training.crop_targets import ClassTargets
from segfix.training.edge_training import EDGE_OPTIMIZATION, train_edge_network
from segfix.training.layouts import VOID, find_labelled_images
from segfix.training.loop import best_precision
from segfix.training.offset_networks import normalize_image
from segfix.training.segmentation_networks import load_segmenter, picture_statistics
from segfix.training.segmentation_training import (
    describe_training,
    edge_training_settings,
    find_images,
    make_crops,
    train_segmentation,
)
from segfix.training.settings import (
    Augmentation,
    CropSettings,
    DataFolder,
    Optimization,
    RunSettings,
    SegmentationSettings,
)

ARMS: dict[str, dict[str, Any]] = {
    "cross-entropy": {},
    "level set": {"level-set": {}},
    "SEMEDA": {"semeda": {"normalized": True}},
    "EPL": {"epl": {"width": 11, "power": 2, "lines": "sum", "quarter": True}},
    "Dice": {"dice": {}},
    "Lovász": {"lovasz": {}},
    "Dice and level set": {"dice": {}, "level-set": {}},
    "cross-entropy, rate × 1.5": {},
}
"""Options of the losses that each adds to the cross-entropy: the papers' for street scenes.

EPL looks at quarters: of whole crops it would double the time of a step.
"""
BASE, CONTROL = "cross-entropy", "Dice"
SHARES = (0.1, 0.3, 1.0)
SELECTION_SEED = 100
SOFTEN = 0.5
"""Of the maps that SEMEDA's edge network is trained on."""
GATE = 50.7
"""mIoU that cross-entropy must reach, or nothing is concluded."""
INTERIOR = 10
"""Pixels from a boundary beyond which the interior begins."""
CONFIDENCE = 0.9
REPLICAS = 2000
KEYS = {
    "iou": "mIoU",
    **{f"f_{radius}px": f"F@{radius}px" for radius in (1, 2, 3)},
    **{f"trimap_iou_{width}px": f"trimap {width}px" for width in BANDS if width <= INTERIOR},
    "interior": "interior mIoU",
    "boundary_iou": "boundary IoU",
}
Scores = dict[str, NDArray[np.float64]]


def drive(path: Path) -> str:
    """Of a photograph."""
    return path.stem.partition("_")[0]


def split_by_drive(data: Path, out: Path) -> None:
    """Link a tenth of the training photographs, all of some drives, to dev/, the rest to train/."""
    pairs = find_labelled_images(data / "train")
    drives = sorted({drive(pair.image) for pair in pairs})
    order = np.random.default_rng(0).permutation(drives).tolist()
    held, count = set[str](), 0
    while count < len(pairs) / 10:
        held.add(order.pop())
        count = sum(drive(pair.image) in held for pair in pairs)
    for pair in pairs:
        part = out / ("dev" if drive(pair.image) in held else "train")
        for kind, path in (("images", pair.image), ("labels", pair.labels)):
            link = part / kind / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(path.resolve())


def describe(arm: str, share: float, seed: int, steps: int) -> SegmentationSettings:
    """Network, loss, crops and schedule; of 2,800 steps, 100 warm up and 400 move batch norm."""
    rate = 1.5e-3 if arm.endswith("1.5") else 1e-3
    options = ARMS[arm]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return SegmentationSettings(
        network="deeplabv3plus",
        backbone="tf_efficientnet_lite0",
        losses=dict.fromkeys(options, f"auto:{share}"),
        loss_options=options,
        hold_out=0,
        crops=CropSettings(160, ignore_frame=0, augmentation=Augmentation((0.75, 1.5))),
        optimization=Optimization(
            steps,
            batch_size=6,
            learning_rate=rate,
            warmup=steps // 28,
            ema=0.995,
            freeze_norm_from=steps // 7,
            precision=best_precision(device),
            seed=seed,
        ),
    )


class Runs:
    """The trainings on one set, each made if it isn't there.

    Args:
        data: Folder to train on.
        work: Folder of the trainings.
        steps: Of the whole schedule.
        start: Steps with cross-entropy alone.
    """

    def __init__(self, data: Path, work: Path, steps: int, start: int) -> None:
        self.data, self.work, self.steps, self.start = [DataFolder(data)], work, steps, start
        self.images = find_images(self.data, (), describe(BASE, 1, 0, steps))

    def train(self, arm: str, share: float, seed: int) -> Path:
        """Train an arm to its end; return its checkpoint."""
        settings = describe(arm, share, seed, self.steps)
        name = f"{arm} {share:g}" if settings.losses else arm
        out = self.work / f"seed {seed}" / name.replace(" ", "-").replace(",", "")
        checkpoint, done = out / "model.safetensors", out / "done"
        if done.exists():
            return checkpoint
        common = self.begin(seed)
        edge = self.edge_network(seed) if "semeda" in settings.losses else None
        if not (out / "state.pt").exists():
            self.copy_state(common, out, settings)
        self.run(out, settings, edge_network=edge)
        done.touch()
        return checkpoint

    def begin(self, seed: int) -> Path:
        """Train with cross-entropy alone to where all arms begin."""
        out = self.work / f"seed {seed}" / "start"
        if not (out / "done").exists():
            settings = describe(BASE, 1, seed, self.steps)
            self.run(out, settings, until=self.start, pretrained=True)
            (out / "done").touch()
        return out

    def run(
        self, out: Path, settings: SegmentationSettings, until: int | None = None, **options: Any
    ) -> None:
        """Train, from what is saved if something is."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        resume = (out / "state.pt").exists()
        run = RunSettings(device, workers=0, resume=resume, until=until, quiet=True)
        train_segmentation(self.data, out, settings, run=run, **options)

    def copy_state(self, common: Path, out: Path, settings: SegmentationSettings) -> None:
        """Copy weights, averages, optimizer and random numbers to where an arm goes on."""
        state = torch.load(common / "state.pt", map_location="cpu", weights_only=True)
        statistics = picture_statistics(settings.backbone)
        described = describe_training(settings, self.images, self.data, *statistics)
        described["settings"] = asdict(settings.optimization)
        state["described"] = json.dumps(described, sort_keys=True)
        state["auto_weights"] = {name: [0, 0.0, 0.0] for name in settings.losses}
        out.mkdir(parents=True, exist_ok=True)
        write_state(out, state)

    def edge_network(self, seed: int) -> Path:
        """Train SEMEDA's edge network, once per seed."""
        path = self.work / f"seed {seed}" / "edge" / "model.safetensors"
        settings = edge_training_settings(describe(BASE, 1, seed, self.steps))
        steps = EDGE_OPTIMIZATION.steps * self.steps // 2800
        settings = replace(settings, optimization=replace(settings.optimization, steps=steps))
        num_classes, crops = len(self.images.targets.class_ids), make_crops(self.images, settings)
        run = RunSettings("cpu", workers=0, quiet=True)
        train_edge_network(path, num_classes, crops, settings.optimization, run, soften=SOFTEN)
        return path


class Judge:
    """Scores of label maps of one set of photographs, as they are and refined."""

    def __init__(self, folder: Path) -> None:
        self.pairs = find_labelled_images(folder)
        self.model: Any = None
        self.offsets: dict[Path, Any] = {}

    @torch.inference_mode()
    def score(self, checkpoint: Path) -> NDArray[np.float64]:
        """Count the statistics of each photograph: (images, 2, classes, S), kept beside it."""
        kept = checkpoint.with_name("statistics.npy")
        if kept.exists():
            found: NDArray[np.float64] = np.load(kept)
            return found
        self.model = self.model or load()
        network, described = load_segmenter(checkpoint)
        targets = ClassTargets(tuple(described["class_ids"]))
        num_classes = len(described["class_ids"])
        counted = np.zeros((len(self.pairs), 2, num_classes, NUM_COLUMNS))
        for statistics, pair in zip(counted, self.pairs, strict=True):
            image, labels = pair.read()
            true = targets.index(labels).astype(np.int64)
            pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
            logits = network(normalize_image(pixels, described["mean"], described["std"]))
            label_map = logits[0].argmax(0).numpy()
            if pair.image not in self.offsets:
                self.offsets[pair.image] = self.model.offsets(read_image(pair.image))
            refined = segfix.refine(label_map, self.offsets[pair.image])
            scores = score_image(true, [label_map, refined], ignore_index=VOID)
            statistics[:, scores.classes] = scores.statistics
        with atomic_path(kept) as temporary, temporary.open("wb") as file:
            np.save(file, counted)
        return counted


def mean_of(statistics: NDArray[np.float64]) -> Scores:
    """Average over classes, in percent, of statistics (…, classes, S) summed over photographs."""
    found = {name: 100 * values for name, values in mean_scores(statistics).items()}
    far = slice(BANDS.index(INTERIOR) + 1, None)
    true, predicted, hits = (
        statistics[..., COLUMNS[name]][..., far].sum(axis=-1)
        for name in ("true", "predicted", "hits")
    )
    union = true + predicted - hits
    iou = np.where(true > 0, hits / np.maximum(union, 1), np.nan)
    found["interior"] = 100 * np.nansum(iou, axis=-1) / np.maximum((true > 0).sum(axis=-1), 1)
    return {key: found[key] for key in KEYS}


def intervals(
    arm: NDArray[np.float64], base: NDArray[np.float64], drives: Sequence[str]
) -> dict[str, tuple[float, list[float]]]:
    """Mean paired difference of each score, and the ends of its intervals.

    Args:
        arm: (seeds, images, classes, S) statistics.
        base: Those of cross-entropy, of the same seeds.
        drives: Of the images.

    Returns:
        The mean over seeds, and [low, high] of Student's interval over seeds, then of the
        bootstrap over drives; the first two are missing for a single seed.
    """
    names, number = np.unique(np.array(drives), return_inverse=True)
    by_drive = np.zeros((2, len(arm), len(names), *arm.shape[2:]))
    for place, runs in enumerate((arm, base)):
        for group in range(len(names)):
            by_drive[place][:, group] = runs[:, number == group].sum(axis=1)
    own, other = (mean_of(sums) for sums in by_drive.sum(axis=2))
    draws = np.random.default_rng(0).multinomial(
        len(names), [1 / len(names)] * len(names), REPLICAS
    )
    replicas = [mean_of(np.tensordot(draws.astype(float), sums, axes=(1, 1))) for sums in by_drive]
    found = {}
    for key in KEYS:
        apart = own[key] - other[key]
        mean, ends = float(apart.mean()), []
        if len(apart) > 1:
            half = stats.t.ppf((1 + CONFIDENCE) / 2, len(apart) - 1) * stats.sem(apart)
            ends += [mean - half, mean + half]
        drawn = (replicas[0][key] - replicas[1][key]).mean(axis=1)
        tails = [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]
        found[key] = mean, [*ends, *np.nanpercentile(drawn, tails).tolist()]
    return found


def verdict(ends: Sequence[float]) -> str:
    """Say what both intervals allow to say of mIoU."""
    if min(ends) > 0:
        return "gain"
    return "+1.0 excluded" if max(ends) < 1 else "open"


def table(found: dict[str, dict[int, NDArray[np.float64]]], drives: Sequence[str]) -> str:
    """Markdown of all arms: {arm: {seed: (images, 2, classes, S)}}."""
    base = found[BASE]
    names = ["", "seeds", *(f"Δ {name}" for name in KEYS.values())]
    names += ["mIoU, 90 % over seeds; over drives", "", "SegFix on top: Δ mIoU / Δ F@1px"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    said = {}
    for arm, runs in found.items():
        seeds = sorted(runs.keys() & base.keys())
        stacked = np.stack([runs[seed] for seed in seeds])
        plain, refined = (mean_of(stacked[:, :, kind].sum(axis=1)) for kind in (0, 1))
        gains = [f"{(refined[key] - plain[key]).mean():+.2f}" for key in ("iou", "f_1px")]
        if arm == BASE:
            cells, span = [f"*{plain[key].mean():.2f}*" for key in KEYS], ""
        else:
            others = np.stack([base[seed] for seed in seeds])[:, :, 0]
            apart = intervals(stacked[:, :, 0], others, drives)
            cells = [f"{apart[key][0]:+.2f}" for key in KEYS]
            ends = apart["iou"][1]
            pairs = zip(ends[::2], ends[1::2], strict=True)
            span = "; ".join(f"{low:+.2f} … {high:+.2f}" for low, high in pairs)
            # One seed has no spread.
            said[arm] = verdict(ends) if len(seeds) > 1 else "open"
        lines.append(
            f"| {arm} | {len(seeds)} | {' | '.join(cells)} | {span} | {said.get(arm, '')} | "
            f"{' / '.join(gains)} |"
        )
    reached = np.mean([mean_of(runs[:, 0].sum(axis=0))["iou"] for runs in base.values()])
    passed = reached >= GATE and said.get(CONTROL) == "gain"
    lines.append(
        f"\nGate (cross-entropy {reached:.2f} of {GATE} mIoU, {CONTROL}: "
        f"{said.get(CONTROL, 'not run')}): "
        + ("passed." if passed else "**not passed; nothing is concluded.**")
    )
    return "\n".join(lines)


def select(data: Path, work: Path, steps: int, start: int) -> dict[str, float]:
    """Choose each loss's share by the mIoU on the photographs that are held out.

    The schedule is half as long: eighteen trainings only have to be ranked.
    """
    split_by_drive(data, work / "split")
    runs = Runs(work / "split" / "train", work / "selection", steps // 2, start // 2)
    judge, chosen = Judge(work / "split" / "dev"), {}
    for arm, options in ARMS.items():
        if not options:
            continue
        reached = {}
        for share in SHARES:
            counted = judge.score(runs.train(arm, share, SELECTION_SEED))
            reached[share] = float(mean_of(counted[:, 0].sum(axis=0))["iou"])
        chosen[arm] = max(reached, key=lambda share: reached[share])
        listed = ", ".join(f"{share:g}: {iou:.2f}" for share, iou in reached.items())
        print(f"{arm}: share {chosen[arm]:g} (mIoU {listed})", flush=True)
    return chosen


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--seed", "seeds", type=int, multiple=True, default=[0, 1, 2], show_default=True)
@click.option("--steps", default=2800, show_default=True, help="Fewer to rehearse.")
@click.option("--start", default=1600, show_default=True, help="Steps with cross-entropy alone.")
@click.option("--threads", default=1, show_default=True)
def main(
    data: Path, work: Path, seeds: tuple[int, ...], steps: int, start: int, threads: int
) -> None:
    """Train, score, print."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen = select(data, work, steps, start)
    runs, judge = Runs(data / "train", work / "runs", steps, start), Judge(data / "val")
    drives = [drive(pair.image) for pair in judge.pairs]
    found: dict[str, dict[int, NDArray[np.float64]]] = {arm: {} for arm in ARMS}
    for seed in seeds:
        for arm in ARMS:
            found[arm][seed] = judge.score(runs.train(arm, chosen.get(arm, 1), seed))
            print(f"seed {seed}, {arm}: done", file=sys.stderr, flush=True)
        print(f"\n{table(found, drives)}", flush=True)


if __name__ == "__main__":
    main()
