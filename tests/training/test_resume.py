"""A training that was stopped, killed or crashed goes on to the same result."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from segfix.errors import SegfixError
from segfix.training import loop
from segfix.training.batches import Batch
from segfix.training.settings import Optimization
from tests.training import tiny_training
from tests.training.tiny_training import (
    FILES,
    SETTINGS,
    Noise,
    UnexpectedError,
    check_same,
    ctrl_c,
    fail,
    files_of,
    interrupted,
    log_rows,
    logged,
    run,
    saved_step,
    squared_error,
)


@pytest.fixture(autouse=True)
def _log_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 1)


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


def dropout_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Dropout(0.5), nn.Conv2d(4, 1, 1))


def test_dropout_goes_on_with_the_random_numbers_it_would_have_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_training, "tiny_network", dropout_network)
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
            # It may be killed while it holds the lock that all processes share.
            tqdm.set_lock(threading.RLock())
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
