"""The training loop: steps, schedule, average, checkpoints, log. It knows no task."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from safetensors.torch import save as encode_weights
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from segfix.errors import DeviceError, SegfixError
from segfix.files.atomic import atomic_path
from segfix.files.reading import check_regular

Batch = dict[str, Tensor]
LOG_EVERY = 50
SAVE_EVERY = 500
STOPS = (signal.SIGINT, signal.SIGTERM)
"""Signals that end a training once the step that was begun is done."""


@dataclass(frozen=True)
class Settings:
    """What a run of the loop depends on.

    Attributes:
        steps: Optimizer steps in all.
        batch_size: Samples per step, over all processes.
        optimizer: "adamw" or "sgd" (momentum 0.9).
        learning_rate: Peak; it rises over `warmup` steps and falls as (1 - t)^0.9.
        weight_decay: Of the optimizer.
        warmup: Steps.
        ema: Decay of the running average of the weights; the average is what is saved.
        precision: "no", "bf16" or "fp16".
        seed: Of initialisation and data.
    """

    steps: int = 10_000
    batch_size: int = 6
    optimizer: str = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: int = 200
    ema: float = 0.999
    precision: str = "no"
    seed: int = 0


def best_precision(device: str) -> str:
    """The fastest safe mixed precision: bf16 where the hardware computes in it, else none."""
    if device == "cpu":
        native = torch.cpu.get_capabilities().get("avx512_bf16", False)
        return "bf16" if native else "no"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def fit(
    network: nn.Module,
    dataset: Dataset[Batch],
    compute_loss: Callable[[nn.Module, Batch], Mapping[str, Tensor]],
    settings: Settings,
    out: Path,
    *,
    metadata: dict[str, Any],
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    evaluate_every: int = 1000,
    workers: int = 1,
    device: str = "auto",
    resume: bool = False,
    tensorboard: bool = False,
    quiet: bool = False,
) -> dict[str, float]:
    """Train a network; stop at any moment and resume to the same result.

    Started by torchrun or accelerate launch, each process takes its part of every batch, and the
    first one writes.

    Args:
        network: Moved to the device.
        dataset: Sample i must depend on i alone; steps × batch_size samples are drawn in order.
        compute_loss: Network and batch to named losses, whose sum is minimised.
        settings: Of the optimisation.
        out: Folder of `model.safetensors` (averaged weights), `state.pt` and `log.csv`.
        metadata: JSON-ready description of network and data, kept in the checkpoint.
        evaluate: Network in evaluation mode to named scores, called now and then and at the end.
        evaluate_every: Steps.
        workers: Processes that make batches.
        device: "auto", "cpu" or "cuda".
        resume: Go on from `out/state.pt`; begin where nothing is saved yet.
        tensorboard: Also log to `out/tensorboard`.
        quiet: No progress bar.

    Returns:
        The last scores.

    Raises:
        SegfixError: `out` holds a training already, or one with other settings; another process
            trains into it; or a batch can't be shared equally.
        KeyboardInterrupt: Ctrl-C; all steps done are saved, and it says how many.
        DeviceError: There is no GPU for "cuda"; accelerate would take the CPU without a word.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device 'cuda': torch finds no GPU here; use --device cpu.")
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=settings.precision,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    if settings.batch_size % accelerator.num_processes:
        raise SegfixError(
            f"a batch of {settings.batch_size} can't be shared equally by "
            f"{accelerator.num_processes} processes; choose another --batch-size."
        )
    described = {**metadata, "settings": asdict(settings)}
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        # Of the whole batch's pixels, as in one process. Torch has none for CPUs.
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    network = network.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(
        network,
        multi_avg_fn=get_ema_multi_avg_fn(settings.ema),  # type: ignore[no-untyped-call]
        use_buffers=True,
    )
    optimizer = make_optimizer(network, settings)
    scaler_free = accelerator.mixed_precision != "fp16"
    step, scores, scored = 0, dict[str, float](), 0
    random: dict[str, Any] | None = None
    if resume and not holds_training(out):
        resume = False
        if accelerator.is_main_process and not quiet and sys.stderr is not None:
            tqdm.write(f"{out}: nothing saved yet; training begins", file=sys.stderr)
    if resume:
        state = load_state(out, described)
        try:
            network.load_state_dict(state["network"])
            average.load_state_dict(state["average"])
            optimizer.load_state_dict(state["optimizer"])
            step, scores = int(state["step"]), dict(state["scores"])
            scored, random = int(state.get("scored", step)), state.get("random")
            if not scaler_free and accelerator.scaler is not None and state["scaler"]:
                accelerator.scaler.load_state_dict(state["scaler"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise SegfixError(
                f"{out / 'state.pt'}: not the state of this training ({type(error).__name__}); "
                "train anew."
            ) from error
    else:
        check_unused(out)
    rest = Subset(dataset, range(step * settings.batch_size, settings.steps * settings.batch_size))
    loader = DataLoader(
        rest,
        settings.batch_size,
        num_workers=workers,
        pin_memory=accelerator.device.type == "cuda",
        prefetch_factor=4 if workers else None,
        worker_init_fn=leave_quietly,
    )
    plain = network
    network, optimizer, loader = accelerator.prepare(network, optimizer, loader)
    main = accelerator.is_main_process
    log = Log(out, step, tensorboard=tensorboard) if main else None
    started, since = time.perf_counter(), step

    def save() -> None:
        if main:
            # First what is needed to go on: killed between the two, nothing is lost.
            write_state(
                out,
                {
                    "described": json.dumps(described, sort_keys=True),
                    "network": plain.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scaler": None if scaler_free else accelerator.scaler.state_dict(),
                    "step": step,
                    "scores": scores,
                    "scored": scored,
                    "random": random or random_state(accelerator.device),
                },
            )
        save_weights()

    def save_weights() -> None:
        if main:
            write_checkpoint(out, average.module, {**described, "step": step, "scores": scores})

    def score() -> None:
        nonlocal scores, scored, started, since
        if evaluate is None or scored == step or (step % evaluate_every and step < settings.steps):
            return
        scores = evaluate(average.module.eval())
        scored, started, since = step, time.perf_counter(), step
        if not bar.disable:
            told = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
            bar.write(f"step {step}: {told}", file=sys.stderr)
        if log is not None:
            log.write(step, scores)

    bar = tqdm(
        total=settings.steps,
        initial=step,
        unit="step",
        disable=quiet or not main or sys.stderr is None,
    )
    network.train()
    try:
        # Stopped while it was scored, the last step is scored now; killed between its two files,
        # its weights are written now.
        before = scored
        score()
        if scored > before:
            save()
        elif step == settings.steps:
            save_weights()
        for batch in loader:
            if random is not None:
                # Only now: to begin with the data takes a random number, too.
                restore_random_state(random, accelerator.device)
                random = None
            with whole_step(quiet=bool(bar.disable)):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step, settings)
                with accelerator.autocast():
                    losses = compute_loss(network, batch)
                optimizer.zero_grad(set_to_none=True)
                accelerator.backward(sum(losses.values()))
                optimizer.step()
                average.update_parameters(plain)
                step += 1
                bar.update()
                if step % LOG_EVERY == 0 or step == settings.steps:
                    values = {
                        name: float(accelerator.reduce(loss.detach(), "mean"))
                        for name, loss in losses.items()
                    }
                    now = time.perf_counter()
                    rate, started, since = (step - since) / (now - started), now, step
                    bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()})
                    if log is not None:
                        lr = learning_rate(step - 1, settings)
                        log.write(step, {**values, "learning_rate": lr, "steps_per_second": rate})
            score()
            if step % SAVE_EVERY == 0 or step == settings.steps:
                save()
    except KeyboardInterrupt as stopped:
        save()
        stopped.args = (f"{step} of {settings.steps} steps done",)
        raise
    except SegfixError as error:
        # A photograph that can't be read: between two steps, so what is done can be kept.
        save()
        # A loader's process hands over its error as text, with the traceback in it.
        _, found, told = str(error).rpartition("segfix.errors.")
        raise SegfixError(told.partition(": ")[2].strip() if found else str(error)) from error
    finally:
        bar.close()
        if log is not None:
            log.close()
    # What the first process has written is read by all, if it is SEMEDA's edge network.
    accelerator.wait_for_everyone()
    return scores


def check_unused(out: Path) -> None:
    """Refuse a folder that holds a training.

    Raises:
        SegfixError: It does.
    """
    if holds_training(out):
        raise SegfixError(f"{out}: holds a training already; --resume goes on, -o goes elsewhere.")


def holds_training(out: Path) -> bool:
    """Whether a training has saved something in a folder."""
    return any((out / name).exists() for name in ("state.pt", "model.safetensors"))


def leave_quietly(_: int) -> None:
    """For processes that make batches: Ctrl-C, and often SIGTERM, is sent to all, not for all.

    The training fails if such a process ends by a signal, and saves nothing. SIGTERM is also how
    the training itself ends them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


@contextmanager
def whole_step(*, quiet: bool = True) -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the block ends: half a step can't be resumed.

    Unless quiet, it says so: a step may take a while.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, _: Any) -> None:
        if not held and not quiet:
            # Past the buffers, in the middle of whose use this may be.
            with suppress(OSError):
                os.write(sys.stderr.fileno(), b"\nsegfix: the step begun is finished first\n")
        held.append(number)

    before = {number: signal.signal(number, hold) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
    if held:
        signal.raise_signal(held[0])


def random_state(device: torch.device) -> dict[str, Any]:
    """Where torch's random numbers are, on the CPU and the device: dropout goes on from there."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go back to a `random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


def make_optimizer(network: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimizer; norms and biases are not decayed."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in network.parameters() if p.ndim > 1]},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups, settings.learning_rate, momentum=0.9, weight_decay=settings.weight_decay
        )
    return torch.optim.AdamW(groups, settings.learning_rate, weight_decay=settings.weight_decay)


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up times polynomial decay with power 0.9."""
    warm = min(1.0, (step + 1) / max(settings.warmup, 1))
    return float(settings.learning_rate * warm * (1 - step / settings.steps) ** 0.9)


def write_checkpoint(out: Path, network: nn.Module, metadata: dict[str, Any]) -> None:
    """Write `model.safetensors`: weights, and `metadata` as JSON under "segfix"."""
    weights = {name: value.contiguous().cpu() for name, value in network.state_dict().items()}
    # In memory first, here and below: of a full disk, Python alone says what it is.
    content = encode_weights(weights, {"segfix": json.dumps(metadata, sort_keys=True)})
    with atomic_path(out / "model.safetensors") as temporary:
        temporary.write_bytes(content)


def write_state(out: Path, state: dict[str, Any]) -> None:
    """Write `state.pt`: tensors and plain values only, so that no pickle is needed to read it."""
    content = io.BytesIO()
    torch.save(state, content)
    with atomic_path(out / "state.pt") as temporary:
        temporary.write_bytes(content.getvalue())


def load_state(out: Path, described: dict[str, Any]) -> dict[str, Any]:
    """Read `state.pt`, refusing one of another training."""
    path = out / "state.pt"
    if not path.exists():
        raise SegfixError(f"{path}: no such file; nothing to resume in {out}.")
    check_regular(path)
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        before = json.loads(state["described"])
        before["settings"].keys()
    except Exception as error:
        raise SegfixError(
            f"{path}: not the state of a training, or not all of it ({type(error).__name__}); "
            "train into another folder (-o), with --init from the weights saved in this one."
        ) from error
    now = json.loads(json.dumps(described))
    differing = [
        name
        for name in sorted({**before, **now, **before["settings"], **now["settings"]})
        if name != "settings"
        and (before.get(name), before["settings"].get(name))
        != (now.get(name), now["settings"].get(name))
    ]
    if differing:
        raise SegfixError(
            f"{path}: made with other settings ({', '.join(differing)}); resume with the same "
            "ones, or train into another folder."
        )
    return state


class Log:
    """`log.csv` with columns step, name, value, and TensorBoard on request.

    Args:
        out: Folder, which no other process may log to meanwhile.
        step: Rows of later ones are cut off.
        tensorboard: Whether to log for TensorBoard, too.

    Raises:
        SegfixError: Another process logs there.
    """

    def __init__(self, out: Path, step: int, *, tensorboard: bool) -> None:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / "log.csv").open("a+b")
        claim(file, out)
        kept = rows_until(file, step) if step else 0
        file.truncate(kept)
        self.file = io.TextIOWrapper(file, encoding="utf-8", newline="")
        self.writer = csv.writer(self.file)
        if not kept:
            self.writer.writerow(["step", "name", "value"])
        self.board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(out / "tensorboard"), purge_step=step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Enter named values of a step."""
        for name, value in values.items():
            self.writer.writerow([step, name, f"{value:.6g}"])
            if self.board is not None:
                self.board.add_scalar(name, value, step)
        self.file.flush()

    def close(self) -> None:
        """Close the files."""
        self.file.close()
        if self.board is not None:
            self.board.close()


def claim(file: IO[bytes], out: Path) -> None:
    """Hold a file of the folder until this process ends, or closes it.

    Raises:
        SegfixError: Another process holds it.
    """
    if sys.platform == "win32":
        return
    import fcntl

    try:
        # Not `flock`, which processes that make batches would go on holding for a while.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.close()
        raise SegfixError(
            f"{out}: another process trains into this folder; wait for it, or go elsewhere with -o."
        ) from error
    except OSError:
        # Not every network file system can.
        return


def rows_until(file: IO[bytes], step: int) -> int:
    """Bytes of a log up to the last whole row of a step."""
    kept = 0
    file.seek(0)
    for row in file:
        number = row.partition(b",")[0]
        if not row.endswith(b"\n") or (number.isdigit() and int(number) > step):
            break
        kept += len(row)
    return kept
