"""What the shipped networks and the folder pipeline take on one GPU; writes JSON and Markdown.

    python -m tests.bench.gpu [--minutes 7.5] [--out build/gpu]
    python -m tests.bench.gpu --device cpu --rehearse

Each arm is a network in a precision by an engine, in a process of its own until its deadline; what
can't run says why, and the rest goes on. Three ways are timed, medians: from arrays to arrays
(`session.run`), from pinned memory through bound buffers and back, and on the device alone. Folders
are JPEG files through `predict-offsets`, against `session.run` on ready arrays.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from segfix.errors import one_line
from segfix.network.offset_model import load
from segfix.network.session import PROVIDERS
from segfix.network.weights import DEFAULT_WEIGHTS, find_checkpoint, shipped_weights
from segfix.training.export import export_onnx, load_trained
from tests.bench.speed import bench_predict

SHAPES = ((1, 1024, 2048), (8, 512, 1024), (1, 512, 1024), (1, 2048, 2048))
"""Photographs, height, width: one, equal sizes together and alone, the largest tile."""
CUDA = {"cudnn_conv_algo_search": "EXHAUSTIVE", "prefer_nhwc": "1"}
TENSORRT = {"trt_fp16_enable": "1", "trt_int8_enable": "1", "trt_cuda_graph_enable": "1"}
RUNTIMES: dict[str, tuple[str, dict[str, str]]] = {
    "onnxruntime": ("cuda", CUDA),
    "onnxruntime, CUDA graph": ("cuda", {**CUDA, "enable_cuda_graph": "1"}),
    "TensorRT": ("tensorrt", TENSORRT),
}
TORCH = {"PyTorch": False, "torch.compile": True}
FOLDERS = {"folder, 2 workers": 2, "folder, 8 workers": 8}
COLUMNS = ("network", "precision", "engine", "shape", "arrays", "pinned", "device", "folder", "why")
Buffers = dict[str, Tensor]
Pair = tuple[Buffers, Buffers]
"""On the host, and on the device."""
Row = dict[str, Any]


class Setting(NamedTuple):
    """Where and how thoroughly to measure."""

    device: str
    out: Path
    rehearse: bool

    def time(self, sent: Pair, run: Callable[[], object], came: Pair, **ways: Any) -> Row:
        """Median milliseconds per photograph, of 30 runs or two seconds."""

        def go_there_and_back() -> None:
            self.copy(*sent)
            run()
            self.copy(*reversed(came))

        shape = next(iter(came[0].values())).shape
        row: Row = {"shape": "×".join(map(str, shape))}
        for way, call in {"pinned": go_there_and_back, "device": run, **ways}.items():
            times: list[float] = []
            for _ in range(3):
                call()
            while len(times) < (2 if self.rehearse else 30) and sum(times) < 2:
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
            row[way] = 1000 * statistics.median(times) / shape[0]
        return row

    def shapes(self) -> list[tuple[int, ...]]:
        """`SHAPES`; in a rehearsal small ones."""
        return [(n, h // 16, w // 16) if self.rehearse else (n, h, w) for n, h, w in SHAPES]

    def buffers(self, names: Iterable[str], shape: tuple[int, ...]) -> Pair:
        """Bytes for inputs or outputs, the same on the host, pinned for a GPU, and the device."""
        sizes = {x: (shape[0], 3, *shape[1:]) if x == "image" else shape for x in names}
        host = {name: torch.randint(0, 8, size, dtype=torch.uint8) for name, size in sizes.items()}
        if self.device == "cuda":
            host = {name: value.pin_memory() for name, value in host.items()}
        return host, {name: value.to(self.device, copy=True) for name, value in host.items()}

    def copy(self, source: Buffers, target: Buffers) -> None:
        """Copy buffers, and wait for the GPU."""
        for name, value in source.items():
            target[name].copy_(value, non_blocking=True)
        if self.device == "cuda":
            torch.cuda.synchronize()


def measure_runtime(path: Path, engine: str, setting: Setting) -> Iterator[Row]:
    """An ONNX file with one of `RUNTIMES`, its sizes fixed."""
    kind, options = RUNTIMES[engine]
    if setting.device == "cpu":
        kind, options = "cpu", {}
    for shape in setting.shapes():
        fixed = ort.SessionOptions()
        for name, size in zip(("batch", "height", "width"), shape, strict=True):
            fixed.add_free_dimension_override_by_name(name, size)
        session = ort.InferenceSession(path, fixed, providers=[(PROVIDERS[kind], options)])
        if session.get_providers()[0] != PROVIDERS[kind]:
            raise RuntimeError(f"{PROVIDERS[kind]} doesn't start here")
        sent = setting.buffers((node.name for node in session.get_inputs()), shape)
        came = setting.buffers((node.name for node in session.get_outputs()), shape)
        binding = session.io_binding()
        for bind, bound in ((binding.bind_input, sent[1]), (binding.bind_output, came[1])):
            for name, value in bound.items():
                bind(name, setting.device, 0, np.uint8, tuple(value.shape), value.data_ptr())

        def run(session: Any = session, binding: Any = binding) -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        if "enable_cuda_graph" in options:
            # It takes no arrays.
            yield setting.time(sent, run, came)
            continue
        arrays = {name: value.numpy() for name, value in sent[0].items()}
        run()
        for found, wanted in zip(came[1].values(), session.run(None, arrays), strict=True):
            # Of other algorithms for convolutions, the odd pixel differs.
            if (found.cpu().numpy() != wanted).mean() > 0.01:
                raise RuntimeError("bound buffers hold something else")
        yield setting.time(sent, run, came, arrays=partial(session.run, None, arrays))


def measure_torch(checkpoint: Path, precision: str, engine: str, setting: Setting) -> Iterator[Row]:
    """A checkpoint with PyTorch, bytes to bytes as its ONNX file is."""
    trained = load_trained(checkpoint)
    network = trained.network.half() if precision == "fp16" else trained.network
    mean, std = (trained.described[key] for key in ("mean", "std"))
    module: Any = trained.wrapper(network, mean, std).eval()
    call = module.to(setting.device, memory_format=torch.channels_last)
    if TORCH[engine]:
        call = torch.compile(call, mode="reduce-overhead")
    for shape in setting.shapes():
        sent = setting.buffers(module.inputs, shape)
        came = setting.buffers(module.outputs, shape)

        def run(sent: Buffers = sent[1], came: Buffers = came[1]) -> None:
            with torch.inference_mode():
                found = call(*sent.values())
                setting.copy(dict(zip(came, found, strict=True)), came)

        yield setting.time(sent, run, came)


def measure_folder(path: Path, engine: str, setting: Setting) -> Iterator[Row]:
    """A folder of photographs by so many workers."""
    size, files, repeats = ((128, 64), 4, 1) if setting.rehearse else ((2048, 1024), 32, 3)
    how: dict[str, Any] = {"device": setting.device, "size": size, "files": files}
    with tempfile.TemporaryDirectory() as name:
        taken = bench_predict(Path(name), repeats, path, workers=FOLDERS[engine], **how)
    folder, arrays = (1000 * seconds / files for seconds in taken)
    shape = f"{files} files of {size[1]}×{size[0]}"
    yield {"shape": shape, "folder": folder, "arrays": arrays, "ratio": folder / arrays}


def list_arms() -> Iterator[tuple[str, str, str]]:
    """Network, precision and engine of each, the default network's first."""
    checkpoints = shipped_weights(".safetensors")
    for name in sorted(shipped_weights(), key=lambda name: not name.startswith(DEFAULT_WEIGHTS)):
        engines = (*RUNTIMES, *(TORCH if name in checkpoints else ()), *FOLDERS)
        for precision in ("fp16", "fp32") if name in checkpoints else ("int8",):
            yield from ((name, precision, engine) for engine in engines)


def measure(name: str, precision: str, engine: str, setting: Setting) -> Iterator[Row]:
    """Measure an arm; where a precision isn't shipped, its ONNX file is exported first."""
    if engine in TORCH:
        yield from measure_torch(find_checkpoint(name), precision, engine, setting)
        return
    path = shipped_weights()[name]
    if load(path, device="cpu").metadata.get("precision", "fp32") != precision:
        path = setting.out / f"{name}_{precision}.onnx"
        if not path.exists():
            export_onnx(find_checkpoint(name), path, precision=precision)
    yield from (measure_runtime if engine in RUNTIMES else measure_folder)(path, engine, setting)


def run_arm(seconds: float, *arm: Any) -> list[Row]:
    """Measure in another process; the last row says `why`, where something kept it short."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_rows, args=(sender, *arm))
    process.start()
    sender.close()
    found: list[Row] = []
    latest = time.monotonic() + seconds
    try:
        while receiver.poll(max(0, latest - time.monotonic())):
            found.append(receiver.recv())
    except EOFError:
        process.join()
        return [*found, {"why": f"crashed ({process.exitcode})"}] if process.exitcode else found
    assert process.pid is not None
    # Its compilers, too.
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    return [*found, {"why": f"not done within {seconds:.0f} s"}]


def send_rows(sender: Connection, *arm: Any) -> None:
    """Send what is measured, row by row, and what went wrong."""
    os.setsid()
    try:
        if arm[-1].device == "cuda" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        for row in measure(*arm):
            sender.send(row)
    except Exception as error:
        # Of onnxruntime, TensorRT, torch and its compilers: whatever they raise.
        sender.send({"why": one_line(f"{type(error).__name__}: {error}")[:160]})


def render(rows: list[Row], setting: Setting) -> str:
    """The page."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
    note = "; a rehearsal, whose figures mean nothing" if setting.rehearse else ""
    title = f"onnxruntime {ort.__version__}, torch {torch.__version__}, {device}{note}"
    lines = [f"{title}; milliseconds per photograph:", "", f"| {' | '.join(COLUMNS)} |"]
    lines.append("|---" * len(COLUMNS) + "|")
    for row in rows:
        cells = [row.get(key, "") for key in COLUMNS]
        texts = [f"{cell:.2f}" if isinstance(cell, float) else cell for cell in cells]
        lines.append(f"| {' | '.join(text.replace('|', '/') for text in texts)} |")
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--minutes", default=7.5, show_default=True, help="For all arms together.")
@click.option("--seconds", default=80.0, show_default=True, help="For each arm.")
@click.option("--only", default="", help="Arms whose network, precision, engine hold this.")
@click.option("--rehearse", is_flag=True, help="Small pictures, few repeats.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/gpu"))
def main(device: str, minutes: float, seconds: float, only: str, out: Path, rehearse: bool) -> None:
    """Measure everything that there is time for."""
    latest = time.monotonic() + 60 * minutes
    out.mkdir(parents=True, exist_ok=True)
    setting, rows = Setting(device, out.absolute(), rehearse), list[Row]()
    for arm in list_arms():
        if only not in ", ".join(arm):
            continue
        left = min(seconds, latest - time.monotonic())
        found = run_arm(left, *arm, setting) if left > 1 else [{"why": "no time left"}]
        rows += [{**dict(zip(COLUMNS, arm, strict=False)), **row} for row in found]
        # After each: whatever ends this leaves what there is.
        (out / "gpu.json").write_text(json.dumps(rows, indent=2))
        (out / "gpu.md").write_text(render(rows, setting))
        print(*arm, *found, flush=True)


if __name__ == "__main__":
    main()
