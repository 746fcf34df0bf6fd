from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from segfix.errors import DeviceError, FileFormatError, SegfixError
from segfix.training import loop
from segfix.training.loop import Batch, best_precision, fit, learning_rate, make_optimizer
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
    )


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


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("after", [0, 3, 7])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, optimizer: str, after: int
) -> None:
    settings = replace(SETTINGS, optimizer=optimizer)
    run(tmp_path / "whole", settings)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", settings, compute_loss=interrupted(after, ctrl_c))
    # Ctrl-C came in the middle of a step: that step was done whole.
    assert saved_step(tmp_path / "parts") == after + 1
    assert files_of(tmp_path / "parts") == FILES
    run(tmp_path / "parts", settings, resume=True)
    assert (tmp_path / "parts" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
    assert log_rows(tmp_path / "parts") == log_rows(tmp_path / "whole")
    assert files_of(tmp_path / "parts") == FILES


def test_an_interruption_between_steps_saves_them(tmp_path: Path) -> None:
    class Interrupting(Noise):
        def __getitem__(self, index: int) -> Batch:
            if index == 10:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", dataset=Interrupting())
    assert 0 < saved_step(tmp_path / "parts") <= 5
    run(tmp_path / "parts", resume=True)
    weights, expected = (load_file(tmp_path / p / "model.safetensors") for p in ("parts", "whole"))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def check_same(one: Path, other: Path) -> None:
    """Two trainings ended alike, to the last bit."""
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert log_rows(one) == log_rows(other)


def dropout_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Dropout(0.5), nn.Conv2d(4, 1, 1))


def test_dropout_goes_on_with_the_random_numbers_it_would_have_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "tiny_network", dropout_network)
    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", compute_loss=interrupted(3, ctrl_c))
    run(tmp_path / "parts", resume=True)
    check_same(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("stopped_at", [3, 8])
def test_a_scoring_that_was_interrupted_is_made_up_for(tmp_path: Path, stopped_at: int) -> None:
    saved = 0

    def score(network: nn.Module) -> dict[str, float]:
        return {"mask_f": float(next(network.parameters()).detach().sum())}

    def interrupt(network: nn.Module) -> dict[str, float]:
        if saved == stopped_at:
            raise KeyboardInterrupt
        return score(network)

    def count(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        nonlocal saved
        saved += 1
        return squared_error(network, batch)

    scores = run(tmp_path / "whole", evaluate=score, evaluate_every=3)
    with pytest.raises(KeyboardInterrupt, match=f"{stopped_at} of 8 steps done"):
        run(tmp_path / "parts", evaluate=interrupt, evaluate_every=3, compute_loss=count)
    assert saved_step(tmp_path / "parts") == stopped_at
    assert run(tmp_path / "parts", evaluate=score, evaluate_every=3, resume=True) == scores
    check_same(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("step", [4, 8])
def test_killed_between_its_two_files_a_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Whichever of the two is written first."""
    monkeypatch.setattr(loop, "SAVE_EVERY", 4)
    run(tmp_path / "whole")
    writes = []

    def fail_second(path: Path, content: bytes) -> int:
        writes.append(path)
        if len(writes) == step // 2:
            raise UnexpectedError
        return write_bytes(path, content)

    write_bytes = Path.write_bytes
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail_second)
        with pytest.raises(UnexpectedError):
            run(tmp_path / "parts")
    run(tmp_path / "parts", resume=True)
    check_same(tmp_path / "parts", tmp_path / "whole")


def test_a_resumed_training_never_empties_its_log(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, compute_loss=interrupted(4, ctrl_c))
    before = log_rows(tmp_path)
    seen = []

    def look(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        # As a process that is killed now would leave it.
        seen.append(log_rows(tmp_path))
        return squared_error(network, batch)

    run(tmp_path, compute_loss=look, resume=True)
    assert seen[0] == before


def test_a_row_cut_short_is_written_again(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", compute_loss=interrupted(4, ctrl_c))
    with (tmp_path / "parts" / "log.csv").open("ab") as file:
        file.write(b"6,error,0.25\r\n6,learn")
    run(tmp_path / "parts", resume=True)
    check_same(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.skipif(sys.platform == "win32", reason="no locks between processes there")
def test_two_processes_do_not_train_into_one_folder(tmp_path: Path) -> None:
    program = (
        "import fcntl, sys\nfile = open(sys.argv[1], 'a')\nfcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "log.csv")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(SegfixError, match="another process trains into this folder"):
            run(tmp_path)
        assert files_of(tmp_path) == ["log.csv"]
        other.communicate(b"")
    run(tmp_path)
    assert files_of(tmp_path) == FILES


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_killed_at_random_moments_a_training_goes_on_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 1)
    started = time.monotonic()
    run(tmp_path / "whole")
    took, draws, kills, parts = time.monotonic() - started, random.Random(0), 0, tmp_path / "0"
    while kills < 15:
        if not (child := os.fork()):
            try:
                run(parts, resume=True)
            except BaseException:
                os._exit(1)
            os._exit(0)
        time.sleep(draws.uniform(0, took))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        kills += os.WIFSIGNALED(status)
        assert os.WIFSIGNALED(status) or not os.WEXITSTATUS(status)
        if not os.WIFSIGNALED(status) or not kills % 3:
            run(parts, resume=True)
            check_same(parts, tmp_path / "whole")
            assert files_of(parts) == FILES
            parts = tmp_path / f"{int(parts.name) + 1}"


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_training_leaves_it_whole(
    tmp_path: Path, number: signal.Signals
) -> None:
    def signal_all() -> None:
        children = [str(child.pid) for child in multiprocessing.active_children()]
        assert len(children) == 2
        # From another process, as of a shell or a job queue: they tell that from the training's.
        subprocess.run(["kill", f"-{int(number)}", *children], check=True)
        time.sleep(0.3)
        ctrl_c()

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", workers=2, compute_loss=interrupted(3, signal_all))
    assert saved_step(tmp_path / "parts") == 4
    run(tmp_path / "parts", resume=True)
    run(tmp_path / "whole")
    check_same(tmp_path / "parts", tmp_path / "whole")


def test_a_training_repeats_with_any_number_of_workers(tmp_path: Path) -> None:
    for workers in (0, 1, 2):
        run(tmp_path / str(workers), workers=workers)
        check_same(tmp_path / str(workers), tmp_path / "0")


def test_ctrl_c_is_handled_as_before_once_training_has_ended(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(UnexpectedError):
        run(tmp_path / "a", compute_loss=interrupted(2, fail))
    assert signal.getsignal(signal.SIGINT) is before
    run(tmp_path / "b")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_crash_goes_on_from_the_last_save_without_double_log_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 2)
    run(tmp_path / "whole")
    with pytest.raises(UnexpectedError):
        run(tmp_path / "parts", compute_loss=interrupted(5, fail))
    assert saved_step(tmp_path / "parts") == 4
    assert list(logged(tmp_path / "parts", "error")) == [1, 2, 3, 4, 5]
    run(tmp_path / "parts", resume=True)
    assert (tmp_path / "parts" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
    assert log_rows(tmp_path / "parts") == log_rows(tmp_path / "whole")


def test_resuming_a_finished_training_changes_nothing(tmp_path: Path) -> None:
    run(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    run(tmp_path, resume=True)
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before


def test_a_folder_that_holds_a_training_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    run(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    with pytest.raises(SegfixError, match=r"holds a training already; --resume") as caught:
        run(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before


@pytest.mark.parametrize(
    ("settings", "metadata", "named"),
    [
        (replace(SETTINGS, learning_rate=0.01), None, "learning_rate"),
        (replace(SETTINGS, steps=9, ema=0.5), None, "ema, steps"),
        (SETTINGS, {"kind": "tiny", "boundary_width": 3}, "boundary_width"),
        (SETTINGS, {"kind": "tiny"}, "boundary_width"),
        (SETTINGS, {"kind": "tiny", "boundary_width": 5, "data": {"x": 1.0}}, "data"),
    ],
)
def test_resuming_with_other_settings_names_them(
    tmp_path: Path, settings: Optimization, metadata: dict[str, Any] | None, named: str
) -> None:
    run(tmp_path)
    with pytest.raises(SegfixError) as caught:
        run(tmp_path, settings, metadata=metadata, resume=True)
    assert f"other settings ({named});" in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "state.pt"))


def test_resuming_weights_without_a_state_says_so(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_text("mine")
    with pytest.raises(SegfixError, match=r"state\.pt: no such file; nothing to resume"):
        run(tmp_path, resume=True)
    assert weights.read_text() == "mine"


def test_resuming_before_anything_was_saved_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "whole")
    with pytest.raises(UnexpectedError):
        run(tmp_path / "killed", compute_loss=interrupted(2, fail))
    assert files_of(tmp_path / "killed") == ["log.csv"]
    run(tmp_path / "killed", resume=True)
    assert log_rows(tmp_path / "killed") == log_rows(tmp_path / "whole")
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("content", [b"", b"not a state", None])
def test_resuming_from_a_file_that_is_no_state_says_so(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is None:
        torch.save({"something": "else"}, tmp_path / "state.pt")
    else:
        (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(SegfixError, match="not the state of a training"):
        run(tmp_path, resume=True)


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_a_failing_write_leaves_the_old_file_whole_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 4)
    kept: dict[str, bytes] = {}
    write_bytes = Path.write_bytes

    def write(path: Path, content: bytes) -> int:
        # Of a hidden temporary file.
        if (
            not path.name.startswith(f".{name.partition('.')[0]}.")
            or not (tmp_path / name).exists()
        ):
            return write_bytes(path, content)
        kept[name] = (tmp_path / name).read_bytes()
        write_bytes(path, b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(SegfixError, match="No space left"):
        run(tmp_path)
    assert (tmp_path / name).read_bytes() == kept[name]
    assert files_of(tmp_path) == FILES


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
