"""A training of a few steps on noise, for the tests of the loop."""

from __future__ import annotations

import csv
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from segfix.training.batches import Batch
from segfix.training.loop import fit
from segfix.training.settings import Optimization, RunSettings

SETTINGS = Optimization(steps=8, batch_size=2, learning_rate=0.02, warmup=3, ema=0.7)
FILES = ["log.csv", "model.safetensors", "state.pt"]


class Noise(Dataset[Batch]):
    """Random pictures, each to be made into its own mean; sample i depends on i alone."""

    def __init__(self, period: int = 1000) -> None:
        self.period = period

    def __getitem__(self, index: int) -> Batch:
        generator = torch.Generator().manual_seed(index % self.period)
        image = torch.randn(3, 6, 6, generator=generator)
        return {"image": image, "target": image.mean(dim=0, keepdim=True)}


class UnexpectedError(Exception):
    """What no part of the loop expects."""


def tiny_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))


def squared_error(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    return {"error": F.mse_loss(network(batch["image"]), batch["target"])}


def run(
    out: Path,
    settings: Optimization = SETTINGS,
    *,
    dataset: Dataset[Batch] | None = None,
    compute_loss: Callable[[nn.Module, Batch], dict[str, Tensor]] = squared_error,
    metadata: dict[str, Any] | None = None,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    workers: int = 0,
    reference: str | None = None,
    **options: Any,
) -> dict[str, float]:
    return fit(
        tiny_network(),
        dataset or Noise(),
        compute_loss,
        settings,
        out,
        metadata=metadata or {"kind": "tiny", "boundary_width": 5},
        evaluate=evaluate,
        run=RunSettings("cpu", workers, quiet=True, **options),
        reference=reference,
    )


def compile_quickly(monkeypatch: pytest.MonkeyPatch, backend: str) -> list[nn.Module]:
    """Let networks compile with a backend that makes no code; list those that are compiled."""
    compiled: list[nn.Module] = []

    def compile_network(network: nn.Module) -> None:
        compiled.append(network)
        network._compiled_call_impl = torch.compile(network._call_impl, backend=backend)

    torch.compiler.reset()
    monkeypatch.setattr(nn.Module, "compile", compile_network)
    return compiled


def interrupted(after: int, how: Callable[[], None]) -> Callable[..., dict[str, Tensor]]:
    """The loss, with something happening in the middle of the step that follows `after` steps."""
    calls = 0

    def compute_loss(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        nonlocal calls
        losses = squared_error(network, batch)
        calls += 1
        if calls == after + 1:
            how()
        return losses

    return compute_loss


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def fail() -> None:
    raise UnexpectedError


def log_rows(out: Path) -> list[list[str]]:
    """The log without the one value that depends on the clock."""
    with (out / "log.csv").open(newline="") as file:
        return [row for row in csv.reader(file) if row[1] != "steps_per_second"]


def logged(out: Path, name: str) -> dict[int, float]:
    return {int(step): float(value) for step, key, value in log_rows(out)[1:] if key == name}


def files_of(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def saved_step(out: Path) -> int:
    return int(torch.load(out / "state.pt", weights_only=True)["step"])


def check_same(one: Path, other: Path) -> None:
    """Two trainings ended alike, to the last bit."""
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert log_rows(one) == log_rows(other)
