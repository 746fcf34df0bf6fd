"""What a run costs: seconds and memory against pixels, files, classes and cores; prints Markdown.

    python tests/bench/cost.py [--files 4] [--only WORD]

Each figure is of whole `segfix` processes, as a user runs them, the least of three runs: CPU
seconds (user and system) and peak memory as the kernel counts them. The cost of a file is the
difference between a folder with several files and one with a single file, divided by the number of
files more; start-up is what is left of the latter. A line a + b · megapixels is fitted to the
sizes, by least squares of relative errors.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image

from segfix.formats import OffsetMap, write_offset_map
from segfix.geometry import make_targets
from tests.bench.speed import street

SIZES = ((480, 360), (1024, 512), (2048, 1024), (4096, 2048))
CLASSES = (2, 19, 150)


@dataclass(frozen=True)
class Cost:
    """Of one process.

    Attributes:
        cpu: Seconds, user and system.
        wall: Seconds.
        memory: Peak, MiB.
    """

    cpu: float
    wall: float
    memory: float


def run(folder: Path, *arguments: str, cores: int | None = None) -> Cost:
    """Run `segfix`, on some of the cores."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    program = str(Path(sys.executable).with_name("segfix"))
    command = ["taskset", "--cpu-list", ",".join(map(str, allowed)), program, *arguments, "--quiet"]
    start = time.perf_counter()
    memory = 0
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        # What wait4 tells of memory includes this process, of which that one began as a copy.
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            peak = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            memory = max(memory, int(peak[1])) if peak else memory
            time.sleep(0.02)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"{' '.join(arguments)} failed.")
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(cpu, time.perf_counter() - start, memory / 2**10)


def make_folder(folder: Path, width: int, height: int, classes: int, files: int) -> None:
    """Photographs, offset maps, predictions and ground truth, each in a folder of its name."""
    rng = np.random.default_rng(0)
    whole = np.tile(street(), (-(-height // 1024), -(-width // 2048)))[:height, :width]
    # Eight columns of classes of their own, where there are enough.
    columns = np.arange(width) * 8 // width * 19
    labels = ((whole + (columns if classes > 19 else 0)) % classes).astype(np.uint8)
    targets = make_targets(labels)
    offset_map = OffsetMap.encode(targets.boundary_map == 1, targets.direction_map, 0.9)
    for name in ("images", "preds", "labels", "offsets"):
        (folder / name).mkdir()
    for number in range(files):
        # Of one and the same, the network would keep what it saw.
        noise = rng.integers(0, 256, (height // 64 + 1, width // 64 + 1, 3), dtype=np.uint8)
        photograph = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        photograph.save(folder / "images" / f"{number}.jpg", quality=95)
    Image.fromarray(np.roll(labels, 2, axis=1)).save(folder / "preds" / "0.png")
    Image.fromarray(labels).save(folder / "labels" / "0.png")
    write_offset_map(folder / "offsets" / "0.png", offset_map)
    for first in folder.glob("*/0.png"):
        for number in range(1, files):
            first.with_stem(str(number)).hardlink_to(first)


COMMANDS = {
    "predict-offsets": ("predict-offsets", "images", "-o", "o", "--overwrite"),
    "predict-offsets, int8": (
        *("predict-offsets", "images", "-o", "o", "--overwrite"),
        *("--weights", "hrnet_lite0_int8"),
    ),
    "refine": ("refine", "preds", "--offsets", "offsets", "-o", "r", "--overwrite"),
    "evaluate": ("evaluate", "preds", "labels"),
}


def cost_per_file(
    command: tuple[str, ...], size: tuple[int, int], classes: int, files: int
) -> tuple[float, Cost]:
    """CPU seconds per file, and the cost of one file alone, on one core."""
    with tempfile.TemporaryDirectory() as many, tempfile.TemporaryDirectory() as one:
        make_folder(Path(many), *size, classes, 1 + files)
        make_folder(Path(one), *size, classes, 1)
        # By turns, and the least: whatever else runs can only add.
        pairs = [[run(Path(name), *command, cores=1) for name in (one, many)] for _ in range(3)]
    alone, together = (min(costs, key=lambda cost: cost.cpu) for costs in zip(*pairs, strict=True))
    return (together.cpu - alone.cpu) / files, alone


@click.command()
@click.option(
    "--files", default=4, show_default=True, help="Of 2048×1024; of other sizes as many pixels."
)
@click.option("--only", default="", help="Commands whose title holds this.")
def main(files: int, only: str) -> None:
    """Measure."""
    commands = {title: command for title, command in COMMANDS.items() if only in title}
    if not commands:
        raise click.UsageError(f"no command's title holds {only!r}.")
    print(
        "| command | size | CPU s per file | CPU s of the first | peak MiB |\n|---|---|---|---|---|"
    )
    fits = {}
    for title, command in commands.items():
        points = []
        for size in SIZES:
            area = size[0] * size[1] / 1e6
            seconds, alone = cost_per_file(command, size, 19, max(2, round(files * 2 / area)))
            points.append((area, seconds, alone))
            print(
                f"| {title} | {size[0]}×{size[1]} | {seconds:.3f} | {alone.cpu:.2f} "
                f"| {alone.memory:.0f} |",
                flush=True,
            )
        areas, taken = (np.array([point[i] for point in points], float) for i in (0, 1))
        design = np.stack([1 / taken, areas / taken], 1)
        (per_file, per_mp), *_ = np.linalg.lstsq(design, np.ones(len(areas)), rcond=None)
        off = np.abs(design @ (per_file, per_mp) - 1).max()
        start = float(np.mean([alone.cpu - seconds for _, seconds, alone in points]))
        fits[title] = (start, per_file, per_mp, off)
    print("\n| command | start | per file | per megapixel | largest error |")
    print("|---|---|---|---|---|")
    for title, (start, per_file, per_mp, off) in fits.items():
        print(
            f"| {title} | {start:.2f} s | {1000 * per_file:.0f} ms | {1000 * per_mp:.0f} ms "
            f"| {off:.0%} |"
        )
    of_label_maps = [title for title in ("refine", "evaluate") if title in commands]
    if of_label_maps:
        print("\n| classes, 2048×1024 | " + " | ".join(str(number) for number in CLASSES) + " |")
        print("|---|" + "---|" * len(CLASSES))
    for title in of_label_maps:
        seconds_of = [
            cost_per_file(COMMANDS[title], (2048, 1024), number, files)[0] for number in CLASSES
        ]
        print(f"| {title} | " + " | ".join(f"{seconds:.3f} s" for seconds in seconds_of) + " |")
    most = len(os.sched_getaffinity(0))
    print(f"\n| files per second, 1024×512 | 1 core | {most} cores | factor |\n|---|---|---|---|")
    for title, command in commands.items():
        with tempfile.TemporaryDirectory() as folder:
            number = 24 if title.startswith("predict") else 200
            make_folder(Path(folder), 1024, 512, 19, number)
            rates = []
            for cores in (1, most):
                wall = min(run(Path(folder), *command, cores=cores).wall for _ in range(3))
                rates.append(number / (wall - fits[title][0]))
        print(f"| {title} | {rates[0]:.1f} | {rates[1]:.1f} | ×{rates[1] / rates[0]:.2f} |")


if __name__ == "__main__":
    main()
