"""What a loss costs: time and peak memory of a training step, against cross-entropy alone.

    python tests/bench/loss_cost.py [--classes 21] [--size 512] [--batch 8]

A step is forward, loss, backward and update of DeepLabv3+ on ResNet-50 (on the CPU of FPN on
ResNet-18) in mixed precision. Steps with cross-entropy alone and with each loss added take turns;
the ratio is that of the medians, on the CPU of processor time. Memory is the peak of a process that
takes two steps.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from segfix.losses import EdgeNetwork
from segfix.training.loop import best_precision
from segfix.training.segmentation_losses import LOSSES, cross_entropy, make_loss
from segfix.training.segmentation_networks import Segmenter

QUARTERED = {f"{name}, quarter": name for name in ("semeda", "epl")}
NAMES = ("cross-entropy", *LOSSES, *QUARTERED)


def make_step(name: str, classes: int, size: int, batch: int, device: str) -> Callable[[], None]:
    """A training step with one loss added."""
    torch.manual_seed(0)
    name_and_backbone = ("deeplabv3plus", "resnet50") if device == "cuda" else ("fpn", "resnet18")
    network = Segmenter(*name_and_backbone, classes)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    image = torch.randn(batch, 3, size, size, device=device)
    image = image.contiguous(memory_format=torch.channels_last)
    target = torch.from_numpy(scenes(classes, size, batch)).to(device)
    options: dict[str, Any] = {"quarter": True} if name in QUARTERED else {}
    name = QUARTERED.get(name, name)
    if name == "semeda":
        options["edge_network"] = EdgeNetwork(classes)
    loss = None if name == "cross-entropy" else make_loss(name, options).to(device)
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(best_precision(device))

    def step() -> None:
        with torch.autocast(device, precision, enabled=precision is not None):
            logits = network(image).contiguous().float()
            total: Tensor = cross_entropy(logits, target)
            if loss is not None:
                total = total + LOSSES[name][1] * loss(logits, target)
        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def scenes(classes: int, size: int, batch: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Label maps of about eight classes each in blocks of 64 pixels, with a void border."""
    rng = np.random.default_rng(0)
    target = np.empty((batch, size, size), np.int64)
    for scene in target:
        some = rng.choice(classes, min(8, classes), replace=False)
        blocks = rng.choice(some, (-(-size // 64), -(-size // 64)))
        scene[:] = np.kron(blocks, np.ones((64, 64), np.int64))[:size, :size]
    target[:, :4] = -1
    return target


@click.command()
@click.option("--classes", default=21, show_default=True)
@click.option("--size", default=512, show_default=True)
@click.option("--batch", default=8, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--loss", "names", multiple=True, default=NAMES)
@click.option("--peak", is_flag=True, help="Print the peak memory of one loss, in MiB; for itself.")
def main(
    classes: int, size: int, batch: int, repeats: int, names: tuple[str, ...], peak: bool
) -> None:
    """Measure."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(1)
    if peak:
        step = make_step(names[0], classes, size, batch, device)
        step()
        step()
        if device == "cuda":
            print(torch.cuda.max_memory_allocated() / 2**20)
        else:
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
        return
    # Of one thread: what else the machine does counts little.
    clock = time.process_time if device == "cpu" else time.perf_counter
    names = ("cross-entropy", *(name for name in names if name != "cross-entropy"))
    rows = {}
    shape = [f"--classes={classes}", f"--size={size}", f"--batch={batch}"]
    memory = {}
    for name in names:
        command = [sys.executable, __file__, *shape, "--peak", f"--loss={name}"]
        memory[name] = float(subprocess.run(command, check=True, capture_output=True).stdout)
    plain = make_step("cross-entropy", classes, size, batch, device)
    plain()
    for name in names[1:]:
        step = make_step(name, classes, size, batch, device)
        step()
        times: dict[str, list[float]] = {"plain": [], "with": []}
        for _ in range(repeats):
            for kind, run in (("plain", plain), ("with", step)):
                start = clock()
                run()
                times[kind].append(clock() - start)
        before, after = (statistics.median(times[kind]) for kind in ("plain", "with"))
        rows[name] = {
            "seconds": after,
            "ratio": after / before,
            "memory_mib": memory[name],
            "memory_ratio": memory[name] / memory["cross-entropy"],
        }
        print(
            f"{name:16} {after:7.3f} s  ×{rows[name]['ratio']:.2f}   {memory[name]:7.0f} MiB "
            f"×{rows[name]['memory_ratio']:.2f}",
            flush=True,
        )
    print(json.dumps({"device": device, "classes": classes, "losses": rows}))


if __name__ == "__main__":
    main()
