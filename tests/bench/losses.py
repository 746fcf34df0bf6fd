"""Do the losses work? The same network and budget with each of them, several seeds, and SegFix.

    python tests/bench/losses.py --data camvid --halve --work runs/losses/camvid

DATA is a folder with train/ and val/, each with images/ and labels/. Per seed, one network is
trained with cross-entropy alone (in place of ImageNet weights); every method goes on from there
with the same crops for the same number of steps. Its label maps of the validation photographs are
scored as they are and refined by `segfix refine`'s default. What is in the work folder already is
not done again. Prints Markdown tables: mean ± standard deviation over the seeds.

With --start, all seeds go on from one U-Net that tests/bench/coarse_predictors.py has trained; they
differ in their crops.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

import segfix
from segfix.evaluation import Comparison, score_image
from segfix.formats import read_image, read_label_map
from segfix.network.offset_model import load
from segfix.training.checkpoints import write_checkpoint
from segfix.training.crop_targets import ClassTargets
from segfix.training.layouts import find_labelled_images
from segfix.training.loop import best_precision
from segfix.training.offset_networks import normalize_image
from segfix.training.segmentation_losses import LOSSES
from segfix.training.segmentation_networks import (
    Segmenter,
    load_segmenter,
    picture_statistics,
)
from segfix.training.segmentation_training import train_segmentation
from segfix.training.settings import (
    Augmentation,
    CropSettings,
    DataFolder,
    Optimization,
    RunSettings,
    SegmentationSettings,
)

VOID = 255
CROP, BATCH = 144, 6
SCALES = (0.75, 1.5)

Method = dict[str, dict[str, Any]]
"""Options of each loss added to the cross-entropy; "weight" is λ."""

MAIN: dict[str, Method] = {
    "cross-entropy": {},
    "level set": {"level-set": {}},
    "SEMEDA": {"semeda": {}},
    "EPL": {"epl": {}},
    "Dice": {"dice": {}},
    "boundary": {"boundary": {}},
    "Sobel": {"sobel": {}},
    "EPL, plain convolution": {"epl": {"splitter": "plain"}},
}
ABLATION: dict[str, Method] = {
    "level set, AHF": {"level-set": {"heaviside": "ahf"}},
    "level set, HF": {"level-set": {"heaviside": "hf"}},
    "EPL, point alone": {"epl": {"line_weight": 0.0}},
    "EPL, line alone": {"epl": {"point_weight": 0.0}},
    "EPL, λ 0.5 0.2": {"epl": {"point_weight": 0.5, "line_weight": 0.2}},
    "EPL, λ 0.1 0.6": {"epl": {"point_weight": 0.1, "line_weight": 0.6}},
    "EPL, norm 1": {"epl": {"norm": 1}},
    "EPL, width 3": {"epl": {"width": 3}},
    "EPL, width 11": {"epl": {"width": 11}},
    "EPL, splitter B": {"epl": {"splitter": "B"}},
    "EPL, splitter C": {"epl": {"splitter": "C"}},
    "EPL, μ 2": {"epl": {"power": 2}},
    "EPL, μ 4": {"epl": {"power": 4}},
    "EPL, lines matched one by one": {"epl": {"match": "lines"}},
    "EPL, released code": {"epl": {"released": True}},
    "SEMEDA, λ 2 4 0": {"semeda": {"weights": (2.0, 4.0, 0.0)}},
    "SEMEDA, λ 1 1 0": {"semeda": {"weights": (1.0, 1.0, 0.0)}},
    "SEMEDA, λ ½ ½ ½": {"semeda": {"weights": (0.5, 0.5, 0.5)}},
    "level set and EPL": {"level-set": {}, "epl": {}},
}
METHODS = {**MAIN, **ABLATION}
KEYS = {
    "iou": "mIoU",
    **{f"f_{radius}px": f"F@{radius}px" for radius in (1, 2, 3)},
    "trimap_iou_3px": "trimap mIoU",
}


def folder_name(method: str) -> str:
    """Of a method's runs."""
    return method.replace(" ", "-").replace(",", "")


def halve(source: Path, out: Path) -> None:
    """Copy a set at half the resolution."""
    for kind, how in (("images", Image.Resampling.LANCZOS), ("labels", Image.Resampling.NEAREST)):
        (out / kind).mkdir(parents=True, exist_ok=True)
        for path in sorted((source / kind).iterdir()):
            target = out / kind / f"{path.stem}.png"
            if not target.exists():
                with Image.open(path) as picture:
                    picture.resize((picture.width // 2, picture.height // 2), how).save(target)


def adopt(trained: Path, out: Path) -> Path:
    """A checkpoint of ours with the weights of the U-Net of coarse_predictors."""
    weights = load_file(trained)
    num_classes = len(weights["network.segmentation_head.0.bias"])
    network = Segmenter("unet", "resnet18", num_classes)
    network.load_state_dict(
        {key.replace(".encoder.", ".encoder.model."): value for key, value in weights.items()}
    )
    mean, std = picture_statistics("resnet18")
    metadata = {
        "kind": "segmentation",
        "network": "unet",
        "backbone": "resnet18",
        "class_ids": list(range(num_classes)),
        "mean": mean,
        "std": std,
        "data": {},
        "step": 0,
        "scores": {},
    }
    write_checkpoint(out, network, metadata)
    return out / "model.safetensors"


def describe(method: Method, network: str, settings: Optimization) -> SegmentationSettings:
    """Network, losses and augmentation."""
    given = {name: dict(options) for name, options in method.items()}
    weights = {name: options.pop("weight", LOSSES[name][1]) for name, options in given.items()}
    return SegmentationSettings(
        network=network,
        losses=weights,
        loss_options=given,
        hold_out=0,
        crops=CropSettings(CROP, ignore_frame=0, augmentation=Augmentation(SCALES)),
        optimization=settings,
    )


def train(
    data: Path, out: Path, method: Method, settings: Optimization, network: str, **options: Any
) -> Path:
    """The checkpoint of a training, made if it isn't there."""
    checkpoint = out / "model.safetensors"
    done = out / "done"
    if not done.exists():
        train_segmentation(
            [DataFolder(data / "train")],
            out,
            describe(method, network, settings),
            run=RunSettings(
                "cpu" if not torch.cuda.is_available() else "cuda",
                resume=(out / "state.pt").exists(),
                quiet=True,
            ),
            **options,
        )
        done.touch()
    return checkpoint


@torch.inference_mode()
def score(
    checkpoint: Path, data: Path, offsets: Callable[[Path], Any]
) -> dict[str, dict[str, float]]:
    """Scores of the network's label maps of the validation photographs, as they are and refined."""
    network, described = load_segmenter(checkpoint)
    targets = ClassTargets(tuple(described["class_ids"]))
    comparison = Comparison(["input", "refined"])
    for pair in find_labelled_images(data / "val"):
        image = read_image(pair.image)
        true = read_label_map(pair.labels).ids()
        true = np.where(true == VOID, VOID, targets.index(true)).astype(np.int64)
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
        logits = network(normalize_image(pixels, described["mean"], described["std"]))
        found = logits[0].argmax(0).numpy()
        refined = segfix.refine(found, offsets(pair.image))
        comparison.update(score_image(true, [found, refined]))
    return {
        kind: {key: 100 * scores["mean"][key] for key in KEYS}
        for kind, scores in comparison.result()["sets"].items()
    }


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: mean ± sd over the seeds, and the mean gain of SegFix on top."""
    lines = [
        f"| loss | {' | '.join(KEYS.values())} | SegFix on top: Δ mIoU / Δ F@1px |",
        "|---" * (len(KEYS) + 2) + "|",
    ]
    for name, runs in results.items():
        cells = []
        for key in KEYS:
            values = [run["input"][key] for run in runs]
            spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.2f}{spread}")
        gains = [
            f"{np.mean([run['refined'][key] - run['input'][key] for run in runs]):+.2f}"
            for key in ("iou", "f_1px")
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {' / '.join(gains)} |")
    return "\n".join(lines)


def paired(results: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: difference to cross-entropy alone of the same seed, mean ± sd."""
    base = {run["seed"]: run for run in results["cross-entropy"]}
    lines = [
        f"| loss | {' | '.join(f'Δ {k}' for k in KEYS.values())} |",
        "|---" * (len(KEYS) + 1) + "|",
    ]
    for name, runs in results.items():
        cells = []
        for key in KEYS:
            values = [
                run["input"][key] - base[run["seed"]]["input"][key]
                for run in runs
                if run["seed"] in base
            ]
            spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):+.2f}{spread}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--halve", "halved", is_flag=True, help="Work at half the resolution.")
@click.option("--seed", "seeds", type=int, multiple=True, default=[0, 1, 2], show_default=True)
@click.option(
    "--method", "names", multiple=True, default=list(MAIN), help="Default: the main ones."
)
@click.option("--start-steps", default=1200, show_default=True)
@click.option("--steps", default=160, show_default=True)
@click.option("--start", "trained", type=click.Path(exists=True, path_type=Path))
@click.option("--no-train", is_flag=True, help="Only print what is there.")
def main(
    data: Path,
    work: Path,
    halved: bool,
    seeds: tuple[int, ...],
    names: tuple[str, ...],
    start_steps: int,
    steps: int,
    trained: Path | None,
    no_train: bool,
) -> None:
    """Train, score, print."""
    torch.set_num_threads(1)
    if halved:
        for split in ("train", "val"):
            halve(data / split, work / "data" / split)
        data = work / "data"
    model = load()
    cache: dict[Path, Any] = {}

    def offsets(path: Path) -> Any:
        if path not in cache:
            cache[path] = model.offsets(read_image(path))
        return cache[path]

    precision = best_precision("cuda" if torch.cuda.is_available() else "cpu")
    shared: dict[str, Any] = {"batch_size": BATCH, "precision": precision}
    for seed in seeds:
        start = Optimization(steps=start_steps, seed=seed, learning_rate=2e-3, warmup=100, **shared)
        more = Optimization(
            steps=steps, seed=seed + 100, learning_rate=5e-4, warmup=25, ema=0.98, **shared
        )
        for name in names:
            folder = work / folder_name(name) / f"{seed}"
            if no_train or (folder / "scores.json").exists():
                continue
            if trained is None:
                network = SegmentationSettings.network
                init = train(data, work / "start" / f"{seed}", {}, start, network)
            else:
                network, init = "unet", adopt(trained, work / "start")
            edge = work / "edge" / f"{seed}" / "model.safetensors"
            known = {"edge_network": edge} if edge.exists() else {}
            train(data, folder, METHODS[name], more, network, init=init, **known)
            if name == "SEMEDA" and not edge.exists():
                edge.parent.mkdir(parents=True)
                (folder / "edge" / "model.safetensors").rename(edge)
            found = score(folder / "model.safetensors", data, offsets)
            (folder / "scores.json").write_text(json.dumps({"seed": seed, **found}, indent=1))
            print(f"{name} {seed}: {found['input']}", file=sys.stderr, flush=True)
    results = {
        name: [
            json.loads(path.read_text())
            for path in sorted(
                work.glob(f"{name.replace(' ', '-').replace(',', '')}/*/scores.json")
            )
        ]
        for name in METHODS
    }
    results = {name: runs for name, runs in results.items() if runs}
    print(table(results))
    if "cross-entropy" in results:
        print(f"\nDifference to cross-entropy of the same seed:\n\n{paired(results)}")


if __name__ == "__main__":
    main()
