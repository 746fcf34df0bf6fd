"""The training loop: steps, schedule, average, checkpoints, log. It knows no task."""

from __future__ import annotations

import csv
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from segfix.errors import DeviceError, SegfixError
from segfix.formats.files import atomic_path

Batch = dict[str, Tensor]
LOG_EVERY = 50
SAVE_EVERY = 500


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
        resume: Go on from `out/state.pt`.
        tensorboard: Also log to `out/tensorboard`.
        quiet: No progress bar.

    Returns:
        The last scores.

    Raises:
        SegfixError: `out` holds a training already, or one with other settings.
        DeviceError: There is no GPU for "cuda"; accelerate would take the CPU without a word.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device 'cuda': torch finds no GPU here; use --device cpu.")
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=settings.precision,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    described = {**metadata, "settings": asdict(settings)}
    network = network.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(
        network,
        multi_avg_fn=get_ema_multi_avg_fn(settings.ema),  # type: ignore[no-untyped-call]
        use_buffers=True,
    )
    optimizer = make_optimizer(network, settings)
    scaler_free = accelerator.mixed_precision != "fp16"
    step, scores = 0, dict[str, float]()
    if resume:
        state = load_state(out, described)
        try:
            network.load_state_dict(state["network"])
            average.load_state_dict(state["average"])
            optimizer.load_state_dict(state["optimizer"])
            step, scores = int(state["step"]), dict(state["scores"])
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
    )
    plain = network
    network, optimizer, loader = accelerator.prepare(network, optimizer, loader)
    main = accelerator.is_main_process
    log = Log(out, step, tensorboard=tensorboard) if main else None

    def save() -> None:
        if main:
            write_checkpoint(out, average.module, {**described, "step": step, "scores": scores})
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
                },
            )

    bar = tqdm(
        total=settings.steps,
        initial=step,
        unit="step",
        disable=quiet or not main or sys.stderr is None,
    )
    started, since = time.perf_counter(), step
    network.train()
    try:
        for batch in loader:
            with whole_step():
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
                    values = {name: float(loss.detach()) for name, loss in losses.items()}
                    now = time.perf_counter()
                    rate, started, since = (step - since) / (now - started), now, step
                    bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()})
                    if log is not None:
                        lr = learning_rate(step - 1, settings)
                        log.write(step, {**values, "learning_rate": lr, "steps_per_second": rate})
            if evaluate is not None and (step % evaluate_every == 0 or step == settings.steps):
                scores = evaluate(average.module.eval())
                started, since = time.perf_counter(), step
                if not bar.disable:
                    told = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
                    bar.write(f"step {step}: {told}", file=sys.stderr)
                if log is not None:
                    log.write(step, scores)
            if step % SAVE_EVERY == 0 or step == settings.steps:
                save()
    except KeyboardInterrupt:
        save()
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
    return scores


def check_unused(out: Path) -> None:
    """Refuse a folder that holds a training.

    Raises:
        SegfixError: It does.
    """
    if any((out / name).exists() for name in ("state.pt", "model.safetensors")):
        raise SegfixError(f"{out}: holds a training already; --resume goes on, -o goes elsewhere.")


@contextmanager
def whole_step() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends: half a step can't be resumed to the same result."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    if held:
        signal.raise_signal(signal.SIGINT)


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
    with atomic_path(out / "model.safetensors") as temporary:
        save_file(weights, temporary, {"segfix": json.dumps(metadata, sort_keys=True)})


def write_state(out: Path, state: dict[str, Any]) -> None:
    """Write `state.pt`: tensors and plain values only, so that no pickle is needed to read it."""
    with atomic_path(out / "state.pt") as temporary:
        torch.save(state, temporary)


def load_state(out: Path, described: dict[str, Any]) -> dict[str, Any]:
    """Read `state.pt`, refusing one of another training."""
    path = out / "state.pt"
    if not path.exists():
        raise SegfixError(f"{path}: no such file; nothing to resume in {out}.")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        before = json.loads(state["described"])
        before["settings"].keys()
    except Exception as error:
        raise SegfixError(
            f"{path}: not the state of a training ({type(error).__name__})."
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
    """`log.csv` with columns step, name, value, and TensorBoard on request."""

    def __init__(self, out: Path, step: int, *, tensorboard: bool) -> None:
        out.mkdir(parents=True, exist_ok=True)
        path = out / "log.csv"
        rows: list[list[str]] = []
        if step and path.exists():
            with path.open(newline="") as file:
                rows = [row for row in list(csv.reader(file))[1:] if int(row[0]) <= step]
        self.file = path.open("w", newline="")
        self.writer = csv.writer(self.file)
        self.writer.writerows([["step", "name", "value"], *rows])
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
