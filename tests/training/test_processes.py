"""Training in two processes, as torchrun starts them, over gloo."""

from __future__ import annotations

import csv
import multiprocessing
import os
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from segfix.errors import SegfixError
from segfix.training import loop
from segfix.training.batches import Batch
from segfix.training.loop import fit
from segfix.training.settings import Optimization, RunSettings

# Forked, since importing torch anew takes several seconds.
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="processes can't be forked"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


class FrozenBatchNorm(nn.BatchNorm2d):
    """Torch has no batch norm over several processes on CPUs."""

    def train(self, mode: bool = True) -> FrozenBatchNorm:  # noqa: ARG002
        return super().train(mode=False)


class Noise(Dataset[Batch]):
    """Random pictures, each to be made into its own mean."""

    def __getitem__(self, index: int) -> Batch:
        image = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(index))
        return {"image": image, "target": image.mean(dim=0, keepdim=True)}


def squared_error(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    return {"error": F.mse_loss(network(batch["image"]), batch["target"])}


def last_bias(network: nn.Module) -> dict[str, float]:
    (*_, bias) = network.parameters()
    return {"bias": float(bias.detach())}


def train(out: Path, batch_size: int) -> None:
    torch.manual_seed(0)
    fit(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), FrozenBatchNorm(4), nn.Conv2d(4, 1, 1)),
        Noise(),
        squared_error,
        Optimization(steps=6, batch_size=batch_size, learning_rate=0.02, warmup=3, ema=0.7),
        out,
        metadata={"kind": "tiny"},
        evaluate=last_bias,
        run=RunSettings("cpu", workers=0, evaluate_every=3, quiet=True),
    )


def train_part(rank: int, port: int, answers: Any, out: Path, batch_size: int) -> None:
    """What one of two processes does; its answer is the error's text, or empty."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    os.environ |= {name: str(value) for name, value in (places | meeting).items()}
    # OpenMP's threads, if the tests before had any, are not in a fork.
    torch.set_num_threads(1)
    try:
        train(out, batch_size)
        answers.put("")
    except SegfixError as error:
        answers.put(str(error))
    except Exception:
        answers.put(traceback.format_exc())


def train_in_two(out: Path, batch_size: int) -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    parts = [
        context.Process(target=train_part, args=(rank, port, answers, out, batch_size))
        for rank in range(2)
    ]
    for part in parts:
        part.start()
    try:
        return [answers.get(timeout=240) for _ in parts]
    finally:
        for part in parts:
            part.join(timeout=30)
            part.kill()


def log(out: Path) -> dict[tuple[str, str], float]:
    with (out / "log.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert len({(step, name) for step, name, _ in rows}) == len(rows)
    return {(step, name): float(value) for step, name, value in rows if "second" not in name}


def test_two_processes_with_half_the_batch_each_train_as_one_with_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    one, two = tmp_path / "one", tmp_path / "two"
    assert train_in_two(two, 4) == ["", ""]
    train(one, 4)
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    expected, found = (load_file(out / "model.safetensors") for out in (one, two))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    assert log(two) == pytest.approx(log(one), rel=1e-4)
    assert len({value for (_, name), value in log(one).items() if name == "error"}) == 6
    half = tmp_path / "half"
    train(half, 2)
    assert not torch.allclose(load_file(half / "model.safetensors")["0.weight"], found["0.weight"])


def test_a_batch_that_cannot_be_shared_equally_is_refused(tmp_path: Path) -> None:
    text = "a batch of 3 can't be shared equally by 2 processes; choose another --batch-size."
    assert train_in_two(tmp_path / "odd", 3) == [text, text]
    assert not (tmp_path / "odd").exists()
