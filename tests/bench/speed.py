"""Ratios against a limit or a peer, measured in one run; prints a table and writes JSON.

    python tests/bench/speed.py [--repeats 5] [--only WORD] [--before FILE] [--out build/speed.json]

Every line is the median over repeats in which both sides alternate, on one thread where a core
is meant. The peers are the methods of the released SegFix code and of DAVIS, written out here.
`speed.md` says what each line means. Ratios of an earlier run, in its JSON, come beside.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import io, ndimage

from segfix import fix, refine
from segfix.files import Entry, Pair
from segfix.formats import OffsetMap, write_offset_map
from segfix.geometry import NO_PREDICTION, label_distance, make_targets
from segfix.jobs.run import Batch
from segfix.metrics import class_boundary_f
from segfix.network import split_session
from segfix.network.offset_model import OffsetModel, load
from segfix.network.session import DISTANCE, WRONG, available_threads
from segfix.network.split_session import KEPT_PIXELS
from segfix.network.weights import find_weights
from segfix.refinement.apply import RefineSettings
from segfix.tasks.predict_offsets import predict_task
from segfix.tasks.refine import refine_task

WIDTH, HEIGHT, NUM_CLASSES = 2048, 1024, 19
SIZES = ((480, 360), (1024, 512), (WIDTH, HEIGHT))
NETWORKS = {
    "hrnet_lite0": "hrnet_w18_small",
    "hrnet_lite0_int8": "hrnet_w18_small_int8",
}
"""The default networks and those that were before."""
RADII = (1, 2, 3)
IMPORTS = "import click, numpy, PIL.Image"
"""What no command that reads a file does without."""
Dilate = Callable[[NDArray[np.bool_], int], NDArray[np.bool_]]


def street(seed: int = 0) -> NDArray[np.uint8]:
    """A label map of regions with rough edges: the arg-max of noise of two sizes, 19 classes.

    A ninth of its pixels lie on a boundary of 5 px, as in maps predicted of KITTI's photographs.
    """
    rng = np.random.default_rng(seed)
    scores = np.zeros((NUM_CLASSES, HEIGHT, WIDTH), np.float32)
    for size, weight in ((128, 1.0), (8, 0.09)):
        noise = rng.standard_normal((NUM_CLASSES, HEIGHT // size, WIDTH // size))
        smooth = ndimage.gaussian_filter(noise, (0, 1, 1))
        scores += weight * ndimage.zoom(smooth, (1, size, size), order=1)
    return np.asarray(scores.argmax(axis=0), np.uint8)


def released_targets(labels: NDArray[np.uint8]) -> None:
    """A full-size distance transform and two 9×9 convolutions per class."""
    j, i = np.mgrid[-4:5, -4:5]
    with np.errstate(invalid="ignore", divide="ignore"):
        kernel = np.nan_to_num(i / (i * i + j * j)).astype(np.float32)
    for k in np.unique(labels):
        distance = ndimage.distance_transform_edt(labels == k).astype(np.float32)
        dx = ndimage.correlate(distance, kernel, mode="constant")
        dy = ndimage.correlate(distance, kernel.T, mode="constant")
        np.arctan2(dy, dx)


def released_refine(labels: Path, offsets: Path, out: Path) -> None:
    """.mat file, bilinear grid_sample of one plane per class, arg-max, PNG.

    Ids become class numbers and back class by class, as in the released script.
    """
    import torch
    from torch.nn import functional as F

    ids = np.array(Image.open(labels))
    numbers = np.full(ids.shape, 255, np.int64)
    for k in range(NUM_CLASSES):
        numbers[ids == k] = k
    planes = torch.eye(NUM_CLASSES)[torch.from_numpy(numbers)].permute(2, 0, 1)[None]
    grid = _grid(io.loadmat(offsets)["mat"].astype(np.float32) * 2)
    found = F.grid_sample(planes, grid, padding_mode="border", align_corners=False)
    best = found[0].argmax(dim=0).numpy()
    refined = np.full(best.shape, 255, np.uint8)
    for k in range(NUM_CLASSES):
        refined[best == k] = k
    Image.fromarray(refined).save(out)


def grid_sample_ids(labels: Path, offsets: Path, out: Path) -> None:
    """The least that the released script could do: .mat file, grid_sample of the ids, PNG."""
    import torch
    from torch.nn import functional as F

    ids = torch.from_numpy(np.array(Image.open(labels))).float()[None, None]
    grid = _grid(io.loadmat(offsets)["mat"].astype(np.float32) * 2)
    found = F.grid_sample(ids, grid, mode="nearest", padding_mode="border", align_corners=False)
    Image.fromarray(found[0, 0].byte().numpy()).save(out)


def _grid(vectors: NDArray[np.float32]) -> Any:
    """Where each pixel looks, in the units of grid_sample."""
    import torch

    steps = torch.from_numpy(vectors)
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    grid = torch.stack([x + steps[..., 1], y + steps[..., 0]], dim=-1)
    return (2 * grid / torch.tensor([WIDTH - 1, HEIGHT - 1]) - 1)[None]


def compare(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float]:
    """Median seconds of both, alternating, after one warm-up each."""
    ours()
    theirs()
    if not repeats:
        return 0, 0
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for function, taken in zip((ours, theirs), times, strict=True):
            started = clock()
            function()
            taken.append(clock() - started)
    return statistics.median(times[0]), statistics.median(times[1])


def bench_targets(repeats: int) -> tuple[float, float]:
    """Targets of one 2048×1024 label map with 19 classes against the released generator."""
    labels = street()
    return compare(lambda: make_targets(labels), lambda: released_targets(labels), repeats)


def disc(radius: int) -> NDArray[np.bool_]:
    """Steps of at most `radius` px."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x * x + y * y <= radius**2)


def released_lines(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """DAVIS's `seg2bmap`."""
    right, below, both = mask.copy(), mask.copy(), mask.copy()
    right[:, :-1], below[:-1], both[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    lines = (mask ^ right) | (mask ^ below) | (mask ^ both)
    lines[-1] = mask[-1] ^ right[-1]
    lines[:, -1] = mask[:, -1] ^ below[:, -1]
    lines[-1, -1] = False
    return np.asarray(lines)


def dilate_opencv(lines: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """With a disc, as DAVIS 2017's code does."""
    import cv2

    cv2.setNumThreads(1)
    return np.asarray(cv2.dilate(lines.astype(np.uint8), disc(radius).astype(np.uint8)), bool)


def dilate_skimage(lines: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """With a disc, as DAVIS 2016's code does."""
    from skimage.morphology import dilation

    return np.asarray(dilation(lines, disc(radius)))


def released_boundary_f(
    preds: NDArray[np.uint8], target: NDArray[np.uint8], dilate: Dilate
) -> NDArray[np.float64]:
    """DAVIS's `db_eval_boundary` per class and radius, the lines drawn once for all radii."""
    scores = np.full((NUM_CLASSES, len(RADII)), np.nan)
    for k in range(NUM_CLASSES):
        masks = preds == k, target == k
        if not (masks[0].any() or masks[1].any()):
            continue
        found, true = (released_lines(mask) for mask in masks)
        for i, radius in enumerate(RADII):
            if not (found.any() and true.any()):
                scores[k, i] = found.any() == true.any()
                continue
            precision = (found & dilate(true, radius)).sum() / found.sum()
            recall = (true & dilate(found, radius)).sum() / true.sum()
            total = precision + recall
            scores[k, i] = 2 * precision * recall / total if total else 0
    return scores


def bench_boundary_f(repeats: int, dilate: Dilate) -> tuple[float, float]:
    """Boundary F at 1, 2 and 3 px of one 2048×1024 label map with 19 classes, equal to DAVIS's."""
    target = street()
    preds = np.where(street(1) == 3, street(1), np.roll(target, (1, 2), axis=(0, 1)))
    classes = np.arange(NUM_CLASSES)

    def ours() -> NDArray[np.float64]:
        return class_boundary_f(preds, target, classes, radii=RADII)

    theirs = released_boundary_f(preds, target, dilate)
    np.testing.assert_allclose(ours(), theirs, rtol=0, atol=1e-12)
    return compare(ours, lambda: released_boundary_f(preds, target, dilate), repeats)


def bench_refine(
    folder: Path, repeats: int, theirs: Callable[[Path, Path, Path], None], **settings: Any
) -> tuple[float, float]:
    """One label map end to end, on one core."""
    import torch

    torch.set_num_threads(1)
    labels = street()
    targets = make_targets(labels)
    offset_map = OffsetMap.encode(targets.boundary_map == 1, targets.direction_map)
    Image.fromarray(np.roll(labels, 2, axis=1)).save(folder / "labels.png")
    write_offset_map(folder / "offsets.png", offset_map)
    vectors = np.moveaxis(offset_map.vectors(), 0, -1).astype(np.int32)
    io.savemat(folder / "offsets.mat", {"mat": vectors}, do_compression=True)
    pair = Pair(Entry(folder / "labels.png", "labels"), Entry(folder / "offsets.png", "offsets"))
    task = refine_task(RefineSettings(**settings))
    files = folder / "labels.png", folder / "offsets.mat", folder / "released.png"
    return compare(
        lambda: task.do(pair, folder / "out", overwrite=True),
        lambda: theirs(*files),
        repeats,
    )


def bench_workers(folder: Path, repeats: int) -> tuple[float, float]:
    """32 label maps by one worker per core, against one worker."""
    bench_refine(folder, 0, lambda *_: None)
    labels, offsets = (Entry(folder / f"{name}.png", name) for name in ("labels", "offsets"))
    pairs = [Pair(Entry(labels.path, f"labels{number}"), offsets) for number in range(32)]
    batch = Batch(pairs, partial(refine_task().do, out=folder / "out", overwrite=True), "file")
    return compare(
        lambda: batch.run(workers=available_threads(), processes=True, quiet=True),
        lambda: batch.run(workers=1, quiet=True),
        repeats,
    )


def bench_loader(folder: Path, repeats: int) -> tuple[float, float]:
    """Six training crops of 256×256 by one loader worker, against the step that takes them."""
    import torch

    from segfix.losses import segfix_loss
    from segfix.training.crop_targets import OffsetTargets
    from segfix.training.datasets import CropDataset, Source
    from segfix.training.layouts import LabelledImage
    from segfix.training.offset_networks import SegFixNet
    from segfix.training.settings import CropSettings

    torch.set_num_threads(1)
    noise = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    photograph = Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    photograph.save(folder / "photograph.jpg", quality=95)
    Image.fromarray(street()).save(folder / "labels.png")
    images = [LabelledImage(folder / "photograph.jpg", folder / "labels.png")]
    crops = CropDataset(
        [Source(images)],
        10**9,
        targets=OffsetTargets(8, 5),
        crops=CropSettings(ignore_frame=0),
    )
    index = itertools.count()
    network = SegFixNet("hrnet_w18_small", 8, pretrained=False)
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters())
    samples = [crops[next(index)] for _ in range(6)]
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    image = (batch["image"] / 255).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            boundary, direction = network(image)
            losses = segfix_loss(boundary, direction, batch["boundary"], batch["direction"])
        optimizer.zero_grad()
        torch.stack(list(losses)).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return compare(lambda: [crops[next(index)] for _ in range(6)], step, repeats)


def bench_network(
    _: Path,
    repeats: int,
    ours: str,
    theirs: str,
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    threads: int = 1,
) -> tuple[float, float]:
    """A photograph, width × height, through a network, ours with a prediction; CPU seconds."""
    image = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    distance = label_distance(street()[: size[1], : size[0]])
    new, old = (OffsetModel(find_weights(name), "cpu", threads) for name in (ours, theirs))
    return compare(
        # As `OffsetModel.offsets` does.
        lambda: new.predict(image, distance, outputs=("direction", WRONG)),
        lambda: old.predict(image),
        repeats,
        clock=time.process_time,
    )


def bench_conditioned(_: Path, repeats: int, weights: str) -> tuple[float, float]:
    """From a 2048×1024 photograph and its prediction to the refined map; CPU s, one thread."""
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    label_map = street()
    distance = label_distance(label_map)
    model = OffsetModel(find_weights(weights), "cpu", threads=1)
    return compare(
        lambda: refine(label_map, model.offsets(image, label_map)),
        lambda: model.predict(image, distance),
        repeats,
        clock=time.process_time,
    )


def bench_second(_: Path, repeats: int, weights: str) -> tuple[float, float]:
    """The second prediction of a 2048×1024 photograph, fixed, and its first; CPU s, one thread."""
    rng = np.random.default_rng(0)
    model = OffsetModel(find_weights(weights), "cpu", threads=1)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    first, second = street(), street(1)

    def look_anew() -> None:
        image[0, 0] = rng.integers(0, 256, 3)
        fix(image, first, weights=model)

    with patch.object(split_session, "KEPT_PIXELS", KEPT_PIXELS):
        # By turns, from the one that needs no other before it.
        theirs, ours = compare(
            look_anew, lambda: fix(image, second, weights=model), repeats, time.process_time
        )
    return ours, theirs


def bench_predict(
    folder: Path,
    repeats: int,
    weights: Path | None = None,
    *,
    device: str = "cpu",
    size: tuple[int, int] = (1024, 512),
    files: int = 8,
    workers: int = 2,
) -> tuple[float, float]:
    """A folder of JPEG files, width × height, against bare session.run on ready arrays."""
    rng = np.random.default_rng(0)
    model = load(weights, device=device)
    pairs, arrays = [], []
    for number in range(files):
        noise = rng.integers(0, 256, (16, 32, 3), dtype=np.uint8)
        photograph = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        path = folder / f"{number}.jpg"
        photograph.save(path, quality=95)
        pairs.append(Pair(Entry(path, path.stem), None))
        inputs = {"image": np.ascontiguousarray(np.array(photograph).transpose(2, 0, 1)[None])}
        if model.conditioned:
            inputs[DISTANCE] = np.full((1, *size[::-1]), NO_PREDICTION, np.uint8)
        arrays.append(inputs)
    work = partial(predict_task(model).do, out=folder / "o", overwrite=True)
    batch = Batch(pairs, work, "image")
    return compare(
        lambda: batch.run(workers=workers, quiet=True),
        lambda: [model.session.run(None, inputs) for inputs in arrays],
        repeats,
    )


def bench_start(
    folder: Path, repeats: int, *arguments: str, peer: str = "pass"
) -> tuple[float, float]:
    """CPU seconds of a `segfix` process against those of an interpreter that runs a line."""
    command = [str(Path(sys.executable).with_name("segfix")), *arguments]
    return compare(
        lambda: subprocess.run(command, capture_output=True, check=True, cwd=folder),
        lambda: subprocess.run([sys.executable, "-c", peer], check=True),
        repeats,
        # Of processes that have ended; what else runs here would delay them.
        clock=lambda: sum(os.times()[2:4]),
    )


def bench_one_file(folder: Path, repeats: int) -> tuple[float, float]:
    """`segfix refine` of one file of 480×360."""
    (folder / "one").mkdir()
    labels = street()[:360, :480]
    targets = make_targets(labels)
    Image.fromarray(labels).save(folder / "one" / "a.png")
    offset_map = OffsetMap.encode(targets.boundary_map == 1, targets.direction_map)
    write_offset_map(folder / "one-offsets" / "a.png", offset_map)
    options = ("refine", "one", "--offsets", "one-offsets", "-o", "refined", "--overwrite", "-q")
    return bench_start(folder, repeats, *options, peer=IMPORTS)


def bench_fix(
    folder: Path, repeats: int, size: tuple[int, int] = (1334, 750), weights: str = "hrnet_lite0"
) -> tuple[float, float]:
    """`segfix fix` of a photograph, width × height, and its prediction."""
    width, height = size
    noise = np.random.default_rng(0).integers(0, 256, (24, 42, 3), dtype=np.uint8)
    photograph = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    photograph.save(folder / "a.jpg", quality=95)
    Image.fromarray(street()[:height, :width]).save(folder / "a.png")
    options = ("fix", "a.jpg", "a.png", "--device", "cpu", "--overwrite", "-q")
    peer = f"{IMPORTS}, onnxruntime"
    return bench_start(folder, repeats, *options, "--weights", weights, peer=peer)


@click.command()
@click.option("--repeats", default=5, show_default=True)
@click.option("--only", default="", help="The lines whose title holds this.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/speed.json"))
@click.option("--before", type=click.Path(exists=True, path_type=Path), help="Of another run.")
def main(repeats: int, only: str, out: Path, before: Path | None) -> None:
    """Measure everything."""
    rows = {}
    earlier = json.loads(before.read_text()) if before else {}
    benches: dict[str, Callable[[Path], tuple[float, float]]] = {
        "targets / released generator": lambda _: bench_targets(repeats),
        "refine / released script": lambda f: bench_refine(f, repeats, released_refine),
        "refine --scale 2 / released script": lambda f: bench_refine(
            f, repeats, released_refine, scale=2
        ),
        "refine / grid_sample of the ids": lambda f: bench_refine(f, repeats, grid_sample_ids),
        "refine, a worker per core / one worker": lambda f: bench_workers(f, repeats),
        "boundary F / DAVIS 2016 (scikit-image)": lambda _: bench_boundary_f(
            repeats, dilate_skimage
        ),
        "boundary F / DAVIS 2017 (OpenCV)": lambda _: bench_boundary_f(repeats, dilate_opencv),
        "predict-offsets / bare session.run": lambda f: bench_predict(f, repeats),
        **{
            f"{ours} / {theirs}, {width}×{height}, threads: {threads}": partial(
                bench_network,
                repeats=repeats,
                ours=ours,
                theirs=theirs,
                size=(width, height),
                threads=threads,
            )
            for ours, theirs in NETWORKS.items()
            for width, height in SIZES
            for threads in (1, 2)
        },
        **{
            f"{ours}, {title}": partial(bench, repeats=repeats, weights=ours)
            for title, bench in {
                "refined map / the network alone": bench_conditioned,
                "second prediction of a photograph / its first": bench_second,
            }.items()
            for ours in NETWORKS
        },
        "loader of crops / training step": lambda f: bench_loader(f, repeats),
        "segfix --help / bare interpreter": lambda f: bench_start(f, repeats, "--help"),
        "segfix refine of a file / its imports": lambda f: bench_one_file(f, repeats),
        "segfix fix of 480×360 / its imports": lambda f: bench_fix(f, repeats, SIZES[0]),
        "segfix fix of a megapixel / its imports": lambda f: bench_fix(f, repeats),
        "segfix fix of a megapixel, int8 / its imports": lambda f: bench_fix(
            f, repeats, weights="hrnet_lite0_int8"
        ),
    }
    print("| | ours | peer | ratio | before |\n|---|---|---|---|---|")
    for title, bench in benches.items():
        if only not in title:
            continue
        try:
            # They look at the same photographs again and again.
            nothing_kept = patch.object(split_session, "KEPT_PIXELS", 0)
            with tempfile.TemporaryDirectory() as name, nothing_kept:
                ours, theirs = bench(Path(name))
        except ModuleNotFoundError as error:
            print(f"| {title} | {error.name} isn't installed | | | |")
            continue
        rows[title] = {"seconds": ours, "peer_seconds": theirs, "ratio": theirs / ours}
        then = f"×{earlier[title]['ratio']:.2f}" if title in earlier else ""
        figures = f"{ours:.3f} s | {theirs:.3f} s | ×{theirs / ours:.2f}"
        print(f"| {title} | {figures} | {then} |", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
