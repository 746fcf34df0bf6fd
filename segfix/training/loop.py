"""The training loop: steps, schedule, average, checkpoints, log. It knows no task."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import Dataset
from tqdm import tqdm

from segfix.errors import DeviceError, Interrupted, SegfixError
from segfix.jobs.pool import hide_progress
from segfix.losses.weighting import AutoWeight, compare_gradients, uncompiled
from segfix.training.batches import Batch, make_loader
from segfix.training.checkpoints import (
    check_unused,
    holds_training,
    load_state,
    read_random_state,
    restore_random_state,
    write_checkpoint,
    write_state,
)
from segfix.training.interrupts import hold_signals
from segfix.training.settings import Optimization, RunSettings, leave_out_none
from segfix.training.training_log import Log

Loss = Callable[[nn.Module, Batch], Mapping[str, Tensor]]
Evaluation = Callable[[nn.Module], dict[str, float]]

LOG_EVERY = 50
SAVE_EVERY = 500
"""Steps."""


def fit(
    network: nn.Module,
    dataset: Dataset[Batch],
    compute_loss: Loss,
    settings: Optimization,
    out: Path,
    *,
    metadata: dict[str, Any],
    evaluate: Evaluation | None = None,
    run: RunSettings | None = None,
    reference: str | None = None,
    auto_weights: Mapping[str, AutoWeight] | None = None,
) -> dict[str, float]:
    """Train a network; stop at any moment and resume to the same result.

    Started by torchrun or accelerate launch, each process takes its part of every batch, and the
    first one writes.

    Args:
        network: Moved to the device.
        dataset: Sample i must depend on i alone; steps × batch_size samples are drawn in order.
        compute_loss: Network and batch to named losses, whose sum is minimised; the batch's "step"
            is the number of steps done, a scalar that stays on the CPU.
        settings: Of the optimisation.
        out: Folder of `model.safetensors` (averaged weights), `state.pt` and `log.csv`.
        metadata: JSON-ready description of network and data, kept in the checkpoint.
        evaluate: Network in evaluation mode to named scores, called now and then and at the end.
        run: Device, processes, and whether to resume.
        reference: The loss with whose gradient by the network's parameters those of the others
            are compared in the log: share, and cosine of the angle.
        auto_weights: Weights that the losses measure, by their names, to log and to save.

    Returns:
        The last scores.

    Raises:
        SegfixError: `out` holds a training already, or one with other settings; another process
            trains into it; or a batch can't be shared equally.
        Interrupted: Ctrl-C or SIGTERM; all steps done are saved.
        DeviceError: There is no GPU for "cuda"; accelerate would take the CPU without a word.
    """
    run = run or RunSettings()
    described = {**metadata, "settings": leave_out_none(asdict(settings))}
    trainer = Trainer(network, compute_loss, settings, out, described, evaluate, run)
    trainer.reference, trainer.auto_weights = reference, auto_weights or {}
    trainer.restore()
    trainer.train(dataset)
    # What the first process has written is read by all, if it is SEMEDA's edge network.
    trainer.accelerator.wait_for_everyone()
    return trainer.scores


class Trainer:
    """A network in training: its average, its optimizer, and how far they have come.

    Args: as for `fit`; `described` is what the checkpoint will tell.

    Attributes:
        step: Optimizer steps done.
        scores, scored: Of the last evaluation, and its step.
        reference, auto_weights: As for `fit`.
    """

    reference: str | None = None
    auto_weights: Mapping[str, AutoWeight] = MappingProxyType({})

    def __init__(
        self,
        network: nn.Module,
        compute_loss: Loss,
        settings: Optimization,
        out: Path,
        described: dict[str, Any],
        evaluate: Evaluation | None,
        run: RunSettings,
    ) -> None:
        self.compute_loss, self.evaluate = compute_loss, evaluate
        self.settings, self.run, self.out, self.described = settings, run, out, described
        self.accelerator = make_accelerator(settings, run.device)
        self.main = self.accelerator.is_main_process
        self.plain = place_network(network, self.accelerator)
        self.network = self.plain
        self.average = AveragedModel(
            self.plain,
            multi_avg_fn=get_ema_multi_avg_fn(settings.ema),  # type: ignore[no-untyped-call]
            use_buffers=True,
        )
        self.optimizer = make_optimizer(self.plain, settings)
        self.step = self.scored = 0
        self.scores: dict[str, float] = {}
        self.random: dict[str, Any] | None = None
        self.log: Log | None = None

    def restore(self) -> None:
        """Go on from `state.pt` where that is asked for and there is one; else begin.

        Raises:
            SegfixError: The folder holds a training that is not to be gone on with, or another one.
        """
        if not self.run.resume:
            check_unused(self.out)
        elif holds_training(self.out):
            self.load(load_state(self.out, self.described))
        elif self.main and not self.run.quiet and sys.stderr is not None:
            tqdm.write(f"{self.out}: nothing saved yet; training begins", file=sys.stderr)

    def load(self, state: dict[str, Any]) -> None:
        """Take over all that `state.pt` holds."""
        scaler = self.accelerator.scaler
        try:
            self.plain.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.scores = int(state["step"]), dict(state["scores"])
            self.scored, self.random = int(state.get("scored", self.step)), state.get("random")
            if self.scales_gradients and scaler is not None and state["scaler"]:
                scaler.load_state_dict(state["scaler"])
            for name, weight in self.auto_weights.items():
                weight.restore(state["auto_weights"][name])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise SegfixError(
                f"{self.out / 'state.pt'}: not the state of this training "
                f"({type(error).__name__}); train anew."
            ) from error

    @property
    def scales_gradients(self) -> bool:
        """Whether the precision needs a gradient scaler."""
        return bool(self.accelerator.mixed_precision == "fp16")

    def train(self, dataset: Dataset[Batch]) -> None:
        """Take the steps that are left, scoring, logging and saving on the way."""
        loader = make_loader(dataset, self.step, self.settings, self.run, self.accelerator)
        if self.run.compile:
            self.plain.compile()
        self.network, self.optimizer, loader = self.accelerator.prepare(
            self.plain, self.optimizer, loader
        )
        if self.main:
            self.log = Log(self.out, self.step, tensorboard=self.run.tensorboard)
        self.started, self.since = time.perf_counter(), self.step
        self.bar = tqdm(
            total=self.settings.steps,
            initial=self.step,
            unit="step",
            disable=hide_progress(self.run.quiet or not self.main),
        )
        self.network.train()
        try:
            self.catch_up()
            for batch in loader:
                self.take_step(batch)
                self.score()
                if self.step % SAVE_EVERY == 0 or self.step in (
                    self.settings.steps,
                    self.run.until,
                ):
                    self.save()
        except KeyboardInterrupt as stopped:
            self.save()
            raise Interrupted(self.step, "step", self.settings.steps) from stopped
        except SegfixError:
            # A photograph that can't be read: between two steps, so what is done can be kept.
            self.save()
            raise
        finally:
            self.bar.close()
            if self.log is not None:
                self.log.close()

    def catch_up(self) -> None:
        """Do what a training that was stopped between its last step and its end has left out."""
        before = self.scored
        self.score()
        if self.scored > before:
            self.save()
        elif self.step == self.settings.steps:
            # Killed between its two files.
            self.save_weights()

    def take_step(self, batch: Batch | SegfixError) -> None:
        """Take one optimizer step, whole whatever signal comes.

        Raises:
            SegfixError: A sample of the batch couldn't be made; no step was taken.
        """
        if isinstance(batch, SegfixError):
            raise batch
        if self.random is not None:
            # Only now: to begin with the data takes a random number, too.
            restore_random_state(self.random, self.accelerator.device)
            self.random = None
        with hold_signals(quiet=bool(self.bar.disable)):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.step, self.settings)
            frozen = self.freeze_norm()
            logged = (self.step + 1) % LOG_EVERY == 0 or self.step + 1 == self.settings.steps
            with self.accelerator.autocast(), uncompiled(needed=logged and bool(self.reference)):
                losses = self.compute_loss(self.network, {**batch, "step": torch.tensor(self.step)})
            compared = self.compare(losses) if logged else {}
            self.optimizer.zero_grad(set_to_none=True)
            self.accelerator.backward(sum(losses.values()))
            for parameter in frozen:
                parameter.grad = None
            self.optimizer.step()
            self.average.update_parameters(self.plain)
            self.step += 1
            self.bar.update()
            if logged:
                self.log_losses(losses, compared)

    def freeze_norm(self) -> list[nn.Parameter]:
        """Put batch norm into evaluation mode, if it is time to; list its parameters."""
        start = self.settings.freeze_norm_from
        if start is None or self.step < start:
            return []
        norms = [module for module in self.plain.modules() if isinstance(module, _BatchNorm)]
        for norm in norms:
            norm.eval()
        return [parameter for norm in norms for parameter in norm.parameters()]

    def compare(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute share and cosine of each loss's gradient, against the reference's."""
        found: dict[str, Tensor] = {}
        for name, loss in losses.items():
            if self.reference in (None, name) or not loss.requires_grad:
                continue
            share, cosine = compare_gradients(loss, losses[str(self.reference)], self.plain)
            stem = name.removesuffix("_loss")
            found |= {f"{stem}_share": share, f"{stem}_cosine": cosine}
        return found

    def log_losses(self, losses: Mapping[str, Tensor], compared: Mapping[str, Tensor]) -> None:
        """Enter the losses of the last step, averaged over all processes, in bar and log.

        Args:
            losses: By name.
            compared: What else is known of them, for the log alone.
        """
        values, others = (
            {
                name: float(self.accelerator.reduce(value.detach(), "mean"))
                for name, value in named.items()
            }
            for named in (losses, compared)
        )
        weights = {f"{k}_weight": float(v.value()) for k, v in self.auto_weights.items() if v.steps}
        now = time.perf_counter()
        rate = (self.step - self.since) / (now - self.started)
        self.started, self.since = now, self.step
        self.bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()})
        if self.log is not None:
            lr = learning_rate(self.step - 1, self.settings)
            told = {**values, **others, **weights, "learning_rate": lr, "steps_per_second": rate}
            self.log.write(self.step, told)

    def score(self) -> None:
        """Evaluate the average, if it is time to."""
        due = self.step % self.run.evaluate_every == 0 or self.step >= self.settings.steps
        if self.evaluate is None or self.scored == self.step or not due:
            return
        self.scores = self.evaluate(self.average.module.eval())
        self.scored, self.started, self.since = self.step, time.perf_counter(), self.step
        if not self.bar.disable:
            listed = ", ".join(f"{name} {value:.4f}" for name, value in self.scores.items())
            self.bar.write(f"step {self.step}: {listed}", file=sys.stderr)
        if self.log is not None:
            self.log.write(self.step, self.scores)

    def save(self) -> None:
        """Write state and weights."""
        if self.main:
            # First what is needed to go on: killed between the two, nothing is lost.
            write_state(
                self.out,
                {
                    "described": json.dumps(self.described, sort_keys=True),
                    "network": self.plain.state_dict(),
                    "average": self.average.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": (
                        self.accelerator.scaler.state_dict() if self.scales_gradients else None
                    ),
                    "step": self.step,
                    "scores": self.scores,
                    "scored": self.scored,
                    "random": self.random or read_random_state(self.accelerator.device),
                    "auto_weights": {k: v.state() for k, v in self.auto_weights.items()},
                },
            )
        self.save_weights()

    def save_weights(self) -> None:
        """Write the averaged weights."""
        if self.main:
            metadata = {**self.described, "step": self.step, "scores": self.scores}
            write_checkpoint(self.out, self.average.module, metadata)


def best_precision(device: str) -> str:
    """Choose the fastest safe precision: bf16 where the hardware computes in it, else none."""
    if device == "cpu":
        native = torch.cpu.get_capabilities().get("avx512_bf16", False)
        return "bf16" if native else "no"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def make_accelerator(settings: Optimization, device: str) -> Accelerator:
    """Start accelerate on a device.

    Raises:
        DeviceError: It isn't there.
        SegfixError: The processes can't share a batch equally.
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
    return accelerator


def place_network(network: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Move a network to the device, in the layout that convolutions like."""
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        # Of the whole batch's pixels, as in one process. Torch has none for CPUs.
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return network.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def make_optimizer(network: nn.Module, settings: Optimization) -> torch.optim.Optimizer:
    """Make the optimizer; norms and biases are not decayed."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in network.parameters() if p.ndim > 1]},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    given: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, **given)
    return torch.optim.AdamW(groups, **given)


def learning_rate(step: int, settings: Optimization) -> float:
    """Compute the rate of a step: linear warm-up times polynomial decay with power 0.9."""
    warm = min(1.0, (step + 1) / max(settings.warmup, 1))
    return float(settings.learning_rate * warm * (1 - step / settings.steps) ** 0.9)
