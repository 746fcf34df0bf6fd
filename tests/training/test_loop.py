"""Steps, schedule, average, scores and log of the training loop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from segfix.errors import DeviceError, FileFormatError
from segfix.training import loop
from segfix.training.batches import Batch
from segfix.training.loop import best_precision, fit, learning_rate, make_optimizer
from segfix.training.settings import Optimization, RunSettings
from tests.training.tiny_training import (
    SETTINGS,
    Noise,
    check_same,
    compile_quickly,
    logged,
    run,
    squared_error,
    tiny_network,
)


@pytest.fixture(autouse=True)
def _log_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 1)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_single_image_is_learnt_by_heart(tmp_path: Path, optimizer: str) -> None:
    settings = replace(SETTINGS, steps=100, optimizer=optimizer, weight_decay=0.0)
    run(tmp_path, settings, dataset=Noise(period=1))
    losses = logged(tmp_path, "error")
    assert list(losses) == list(range(1, 101))
    assert losses[100] < 0.1 * losses[1]


def test_a_training_repeats_with_any_number_of_workers(tmp_path: Path) -> None:
    for workers in (0, 1, 2):
        run(tmp_path / str(workers), workers=workers)
        check_same(tmp_path / str(workers), tmp_path / "0")


def test_a_compiled_network_learns_the_same_and_saves_the_same_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "eager")
    compiled = compile_quickly(monkeypatch, "eager")
    run(tmp_path / "compiled", compile=True)
    assert len(compiled) == 1
    check_same(tmp_path / "compiled", tmp_path / "eager")


def test_gradients_of_a_compiled_network_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_losses(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        found = network(batch["image"])
        return {"error": F.mse_loss(found, batch["target"]), "size_loss": found.abs().mean()}

    compile_quickly(monkeypatch, "aot_eager")
    # The first steps go through the graph once, as most do.
    monkeypatch.setattr(loop, "LOG_EVERY", 4)
    for kind in ("eager", "compiled"):
        compiled = kind == "compiled"
        run(tmp_path / kind, compute_loss=two_losses, reference="error", compile=compiled)
    expected = logged(tmp_path / "eager", "size_share")
    assert list(expected) == [4, 8]
    assert logged(tmp_path / "compiled", "size_share") == pytest.approx(expected, rel=1e-4)


def test_the_learning_rate_rises_linearly_and_falls_with_power_0_9() -> None:
    settings = Optimization(steps=100, learning_rate=0.5, warmup=10)
    for step in range(100):
        rise = (step + 1) / 10 if step < 10 else 1
        expected = 0.5 * rise * (1 - step / 100) ** 0.9
        assert learning_rate(step, settings) == pytest.approx(expected, rel=1e-12)
    without = replace(settings, warmup=0)
    assert learning_rate(0, without) == 0.5
    assert learning_rate(100, without) == 0.0


def test_the_optimizer_steps_with_the_scheduled_rate(tmp_path: Path) -> None:
    run(tmp_path)
    rates = logged(tmp_path, "learning_rate")
    assert rates == {
        step: pytest.approx(learning_rate(step - 1, SETTINGS), rel=1e-5) for step in range(1, 9)
    }
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    for group in state["optimizer"]["param_groups"]:
        assert group["lr"] == learning_rate(7, SETTINGS)


def test_one_step_of_sgd_is_the_gradient_times_the_rate(tmp_path: Path) -> None:
    settings = Optimization(
        steps=1, batch_size=2, optimizer="sgd", learning_rate=0.1, warmup=0, weight_decay=0.01
    )
    run(tmp_path, settings)
    network = tiny_network().train()
    dataset = Noise()
    batch = {key: torch.stack([dataset[0][key], dataset[1][key]]) for key in ("image", "target")}
    torch.autograd.backward(squared_error(network, batch)["error"])
    after = load_file(tmp_path / "model.safetensors")
    for name, weight in network.named_parameters():
        assert weight.grad is not None
        # Only kernels are decayed, no biases and norms.
        decay = 0.01 if weight.ndim == 4 else 0.0
        expected = weight.detach() - 0.1 * (weight.grad + decay * weight.detach())
        torch.testing.assert_close(after[name], expected)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_every_parameter_is_optimized_once_and_norms_and_biases_are_not_decayed(
    optimizer: str,
) -> None:
    network = tiny_network()
    settings = Optimization(optimizer=optimizer, weight_decay=0.03)
    decay = {
        parameter: group["weight_decay"]
        for group in make_optimizer(network, settings).param_groups
        for parameter in group["params"]
    }
    assert decay == {p: 0.03 if p.ndim == 4 else 0.0 for p in network.parameters()}


def test_batch_norm_is_frozen_from_a_step_on(tmp_path: Path) -> None:
    states: list[dict[str, Tensor]] = []
    for until in (3, 5, None):
        run(
            tmp_path,
            replace(SETTINGS, freeze_norm_from=3, weight_decay=0.1),
            until=until,
            resume=bool(states),
        )
        states.append(torch.load(tmp_path / "state.pt", weights_only=True)["network"])
    started = tiny_network().state_dict()
    for name, value in states[0].items():
        assert not torch.equal(value, started[name])
        assert torch.equal(value, states[2][name]) == name.startswith("1.")
    run(tmp_path / "whole", replace(SETTINGS, freeze_norm_from=3, weight_decay=0.1))
    check_same(tmp_path, tmp_path / "whole")


def test_the_checkpoint_holds_the_running_average(tmp_path: Path) -> None:
    steps: list[dict[str, Tensor]] = []

    def recording(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        steps.append({name: p.detach().clone() for name, p in network.named_parameters()})
        return squared_error(network, batch)

    run(tmp_path, replace(SETTINGS, steps=4, ema=0.7), compute_loss=recording)
    steps.append(torch.load(tmp_path / "state.pt", weights_only=True)["network"])
    # The average starts with the weights after the first step.
    _, first, *later = steps
    saved = load_file(tmp_path / "model.safetensors")
    assert set(saved) == set(tiny_network().state_dict())
    for name in first:
        average = first[name]
        for weights in later:
            average = 0.7 * average + 0.3 * weights[name]
        torch.testing.assert_close(saved[name], average)
        assert not torch.equal(saved[name], later[-1][name])


def test_scores_are_taken_now_and_then_and_at_the_end_and_kept(tmp_path: Path) -> None:
    seen: list[nn.Module] = []

    def evaluate(network: nn.Module) -> dict[str, float]:
        assert not network.training
        seen.append(network)
        return {"mask_f": len(seen) / 10}

    assert run(tmp_path, evaluate=evaluate, evaluate_every=3) == {"mask_f": 0.3}
    assert logged(tmp_path, "mask_f") == {3: 0.1, 6: 0.2, 8: 0.3}
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        metadata = json.loads(file.metadata()["segfix"])
    assert metadata["scores"] == {"mask_f": 0.3}
    assert metadata["step"] == 8
    assert metadata["kind"] == "tiny"
    assert metadata["settings"]["learning_rate"] == 0.02
    assert run(tmp_path, evaluate=evaluate, evaluate_every=3, resume=True) == {"mask_f": 0.3}


def test_quiet_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, evaluate=lambda _: {"mask_f": 0.5})
    assert capfd.readouterr() == ("", "")


def test_without_evaluation_there_are_no_scores(tmp_path: Path) -> None:
    assert run(tmp_path) == {}


def test_samples_are_drawn_in_order_and_each_once(tmp_path: Path) -> None:
    drawn: list[int] = []

    class Recording(Noise):
        def __getitem__(self, index: int) -> Batch:
            drawn.append(index)
            return super().__getitem__(index)

    run(tmp_path, dataset=Recording())
    assert drawn == list(range(16))


def test_mixed_precision_trains_weights_in_float32(tmp_path: Path) -> None:
    types = set()

    def recording(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        types.add(network[0](batch["image"]).dtype)  # type: ignore[index]
        return squared_error(network, batch)

    run(tmp_path, replace(SETTINGS, precision="bf16"), compute_loss=recording)
    assert types == {torch.bfloat16}
    weights = load_file(tmp_path / "model.safetensors")
    assert {w.dtype for w in weights.values() if w.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "no")])
def test_precision_on_the_cpu_is_what_it_computes_in(
    monkeypatch: pytest.MonkeyPatch, native: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    assert best_precision("cpu") == expected


def test_a_missing_gpu_is_an_error_and_not_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="no GPU here; use --device cpu"):
        fit(
            tiny_network(),
            Noise(),
            squared_error,
            SETTINGS,
            tmp_path / "out",
            metadata={},
            run=RunSettings("cuda"),
        )
    assert not (tmp_path / "out").exists()


class Breaks(Noise):
    """Noise with a broken picture."""

    def __getitem__(self, index: int) -> Batch:
        if index >= 6:
            raise FileFormatError("b.png: broken or truncated image; replace the file.")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_named_in_one_line_and_what_is_done_is_kept(
    tmp_path: Path, workers: int
) -> None:
    with pytest.raises(FileFormatError) as caught:
        run(tmp_path, dataset=Breaks(), workers=workers)
    assert str(caught.value) == "b.png: broken or truncated image; replace the file."
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["segfix"])["step"] == 3, "read ahead, and trained on"
