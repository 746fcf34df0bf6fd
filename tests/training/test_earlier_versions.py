"""Trainings begun with earlier versions go on: what their states say is still what is compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from segfix.cli import main
from segfix.training import edge_training, offset_training, segmentation_training
from segfix.training.checkpoints import load_state
from segfix.training.settings import Optimization, leave_out_none

OPTIMIZATION = {
    "steps": 3,
    "batch_size": 2,
    "optimizer": "adamw",
    "learning_rate": 0.002,
    "weight_decay": 0.01,
    "warmup": 200,
    "ema": 0.999,
    "precision": "no",
    "seed": 0,
}
CROPS = {
    "crop_size": 32,
    "ignore_index": 255,
    "scales": [0.5, 2.0],
    "jitter": 0.3,
    "brightness": 0.0,
    "blur": 0.2,
    "jpeg": 0.2,
}
SEGFIX = {
    **CROPS,
    "kind": "segfix",
    "backbone": "hrnet_w18_small",
    "num_directions": 8,
    "boundary_width": 5,
    "class_weights": False,
    "instances": False,
    "ignore_frame": 4,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "tolerances": [1.5],
}
CONDITIONED = {
    **SEGFIX,
    "backbone": "hrnet_lite0",
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "predicted": 0.75,
    "near": [None],
}
SEGMENTATION = {
    **CROPS,
    "kind": "segmentation",
    "network": "fcn16s",
    "backbone": "resnet10t",
    "class_ids": [0, 1, 2],
    "losses": {"epl": 1.0, "semeda": 2.0},
    "loss_options": {"epl": {"width": 5}, "semeda": {"weights": [2, 4, 0]}},
    "held_out": 1,
    "ignore_frame": 0,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
COMMANDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "segfix": (SEGFIX, []),
    "conditioned": (CONDITIONED, ["--backbone", "hrnet_lite0"]),
    "segmentation": (
        SEGMENTATION,
        [
            *("--loss", "epl", "--loss", "semeda", "--weight", "semeda=2"),
            *("--loss-option", "epl.width=5", "--loss-option", "semeda.weights=2,4,0"),
            *("--network", "fcn16s", "--backbone", "resnet10t"),
        ],
    ),
}
SMALL = ("--steps", "3", "--batch-size", "2", "--crop-size", "32", "--precision", "no")


@pytest.fixture
def scenes(tmp_path: Path, write_pair: Callable[..., None], blobs: NDArray[np.uint8]) -> Path:
    """Two photographs, in a folder of which two parts are known."""
    for number in range(2):
        write_pair(tmp_path / "set/train", f"{number}", blobs[60 * number :][:70, :90])
    return tmp_path / "set/train"


def train(data: Path, out: Path, *arguments: str) -> Result:
    source = f"{data}:2:1.5"
    fixed = ("--workers", "0", "--device", "cpu", "-q", "--data", source, "-o", str(out))
    return CliRunner().invoke(main, ["train", *SMALL, *fixed, *arguments])


def describe(kind: str) -> dict[str, Any]:
    """What earlier versions wrote of a training by the command of this kind."""
    described, _ = COMMANDS[kind]
    return {**described, "data": {"set/train": 2.0}, "settings": OPTIMIZATION}


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_describes_its_training_as_it_always_did(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    found: list[dict[str, Any]] = []

    def record(*arguments: Any, metadata: dict[str, Any], **_: Any) -> dict[str, float]:
        settings = leave_out_none(vars(arguments[3]))
        found.append({**json.loads(json.dumps(metadata)), "settings": settings})
        return {}

    for module in (offset_training, segmentation_training):
        monkeypatch.setattr(module, "fit", record)
    short = Optimization(steps=1, batch_size=1)
    monkeypatch.setattr(edge_training, "EDGE_OPTIMIZATION", short)
    result = train(scenes, tmp_path / "out", *COMMANDS[kind][1])
    assert result.exit_code == 0, result.output
    assert found == [describe(kind)]


def test_a_state_of_an_earlier_version_is_resumed_by_the_same_command(
    scenes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert train(scenes, out).exit_code == 0
    weights = (out / "model.safetensors").read_bytes()
    state = torch.load(out / "state.pt", weights_only=True)
    # The first versions kept neither of these.
    for name in ("scored", "random"):
        del state[name]
    state["described"] = json.dumps(describe("segfix"), sort_keys=True)
    torch.save(state, out / "state.pt")
    (out / "model.safetensors").unlink()
    result = train(scenes, out, "--resume")
    assert result.exit_code == 0, result.output
    assert (out / "model.safetensors").read_bytes() == weights
    assert load_state(out, describe("segfix"))["step"] == 3
    result = train(scenes, out, "--resume", "--jitter", "0.2", "--lr", "0.1")
    assert result.exit_code == 1
    assert "made with other settings (jitter, learning_rate); resume with" in result.output
