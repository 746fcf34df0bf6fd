"""Train the networks that `paper_tables.py` compares: Tables 2 and 3 of the SegFix paper, in kind.

    python tests/bench/variants.py --data DIR[:WEIGHT] [--data …] --calibrate DIR --out DIR

Boundary widths and numbers of directions all start from a shipped network's backbone with new
heads, in the same order of crops; backbones start from scratch. Each is exported to
`OUT/NAME.onnx`; one that is there already is not trained again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import torch
from safetensors.torch import save_file

from segfix.network.session import METADATA_KEY
from segfix.network.weights import DEFAULT_WEIGHTS, find_checkpoint
from segfix.training.offset_networks import load_checkpoint, make_network

FAR = 100
"""Stands for γ = ∞: on photographs of these sizes nearly every pixel is boundary."""
WIDTHS = {"gamma3": 3, "gamma5": 5, "gamma10": 10, "gammaInf": FAR}
DIRECTIONS = {"m4": 4, "m16": 16}  # m = 8 is gamma5
BACKBONES = ("hrnet_w18_small", "hrnet_w18_small_2x", "hrnet_w18")


def new_heads(weights: str, num_directions: int, out: Path) -> Path:
    """A checkpoint with a shipped backbone and untrained heads, the same for every call."""
    path = out / f"start-{weights}-m{num_directions}.safetensors"
    if path.exists():
        return path
    shipped, metadata = load_checkpoint(find_checkpoint(weights))
    torch.manual_seed(0)
    network = make_network(metadata["backbone"], num_directions)
    network.backbone.load_state_dict(shipped.backbone.state_dict())
    about = metadata | {"kind": "segfix", "num_directions": num_directions}
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(tensors, path, {METADATA_KEY: json.dumps(about)})
    return path


def segfix(*arguments: object) -> None:
    """Run a command of the program."""
    program = "from segfix.cli import main; main()"
    subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=True)


@click.command()
@click.option("--data", multiple=True, required=True)
@click.option("--calibrate", multiple=True, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--weights", default=DEFAULT_WEIGHTS, show_default=True, help="With checkpoint.")
@click.option("--steps", type=int, default=500, show_default=True)
@click.option("--backbone-steps", type=int, default=800, show_default=True)
def main(
    data: tuple[str, ...],
    calibrate: tuple[str, ...],
    out: Path,
    weights: str,
    steps: int,
    backbone_steps: int,
) -> None:
    """Train and export."""
    out.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[object]] = {}
    for name in (*WIDTHS, *DIRECTIONS):
        m, gamma = DIRECTIONS.get(name, 8), WIDTHS.get(name, 5)
        runs[name] = [
            *("--num-directions", m, "--boundary-width", gamma, "--steps", steps),
            *("--init", new_heads(weights, m, out), "--lr", 1e-3, "--warmup", 50, "--ema", 0.99),
        ]
    for name in BACKBONES:
        runs[name] = ["--backbone", name, "--steps", backbone_steps, "--ema", 0.99]
    sources = [word for folder in data for word in ("--data", folder)]
    for name, options in runs.items():
        onnx = out / f"{name}.onnx"
        if onnx.exists():
            continue
        common = ("--threads", 1, "--workers", 1, "--seed", 0, "--quiet", "-o", out / name)
        segfix("train", "--loss", "segfix", *sources, *options, *common)
        held_out = [word for folder in calibrate for word in ("--calibrate", folder)]
        segfix("export", out / name / "model.safetensors", "-o", onnx, *held_out)


if __name__ == "__main__":
    main()
