"""Kill the commands, fill their disk, take their files away; then see that a second run mends all.

python tests/faults/faults.py --moments 100 --work DIR

Every fault is followed by the same command again, whose results must equal those of a run that
nothing happened to, byte for byte. A few moments of each are in test_faults.py.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from segfix.files.atomic import TEMPORARY

COMMAND = (str(Path(sys.executable).with_name("segfix")),)
OFTEN_SAVING = """
from dataclasses import replace
from segfix.cli import main
from segfix.training import edge_training, loop
loop.SAVE_EVERY = loop.LOG_EVERY = 1
edge_training.EDGE_OPTIMIZATION = replace(edge_training.EDGE_OPTIMIZATION, steps=3)
main()
"""
"""The command, but a training is saved after every step, not every 500."""
# Of `tiny_network`, green is the sector × 16.
COLOURS = np.array([[200, 30, 40], [40, 60, 80], [60, 70, 210], [220, 90, 70]], np.uint8)
SIZE = (160, 224)
MOST_KILLED = ("predict-offsets", "refine", "train")
"""The others are killed a fifth as often."""

Files = dict[str, bytes]


@dataclass(frozen=True)
class Case:
    """A command, to be run in the folder of `make_scene`.

    Attributes:
        name: Of the case.
        arguments: Without -o.
        out: Of the results; a folder.
        again: What is added to go on after an interruption.
        program: What is run.
    """

    name: str
    arguments: tuple[str, ...]
    out: str = "out"
    again: tuple[str, ...] = ()
    program: tuple[str, ...] = COMMAND

    def start(self, *more: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.program, *self.arguments, "-o", self.out, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )

    def run(self, *more: str, **options: Any) -> subprocess.CompletedProcess[str]:
        process = self.start(*more, **options)
        output, errors = process.communicate(timeout=600)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def complete(self, *more: str) -> None:
        done = self.run(*self.again, *more)
        assert done.returncode == 0, f"{self.name}: {done.stderr}"


def cases(weights: str) -> list[Case]:
    """The commands that are killed; `weights` are those of predict-offsets."""
    once = ("--steps", "8", "--batch-size", "2", "--crop-size", "32", "--warmup", "2")
    often = (sys.executable, "-c", OFTEN_SAVING)
    train = ("train", "--data", "data", *once, "--device", "cpu", "--threads", "1", "-q")
    return [
        Case("predict-offsets", ("predict-offsets", "images", "--weights", weights, "-q")),
        Case("refine", ("refine", "preds", "--offsets", "offsets", "-q")),
        Case("refine COCO", ("refine", "coco/results.json", "--offsets", "offsets", "-q")),
        Case("refine panoptic", ("refine", "panoptic/p.json", "--offsets", "offsets", "-q")),
        Case("convert .mat", ("convert", "offsets", "--format", "mat", "-q")),
        Case(
            "train",
            (*train, "--val", "data", "--val-every", "5"),
            again=("--resume",),
            program=often,
        ),
        Case(
            "train SEMEDA",
            (*train, "--loss", "semeda", "--network", "fpn", "--val", "data", "--val-every", "5"),
            again=("--resume",),
            program=often,
        ),
    ]


def make_scene(folder: Path, count: int = 14) -> None:
    """Photographs, label maps and predictions of many kinds, offsets, and data to train on."""
    height, width = SIZE
    rng = np.random.default_rng(0)
    masks: list[dict[str, Any]] = []
    annotations = []
    for name in ("images", "labels", "preds", "coco", "panoptic/p", "data/images", "data/labels"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        stem = f"{number:02d}"
        noise = ndimage.gaussian_filter(rng.random(SIZE), 7)
        labels = np.digitize(noise, np.quantile(noise, [0.3, 0.5, 0.7])).astype(np.uint8)
        photograph = np.clip(COLOURS[labels] + rng.normal(0, 9, (*SIZE, 3)), 0, [255, 127, 255])
        Image.fromarray(photograph.astype(np.uint8)).save(folder / "images" / f"{stem}.png")
        Image.fromarray(labels).save(folder / "labels" / f"{stem}.png")
        found = np.roll(labels, 2, axis=1)
        scores = ndimage.gaussian_filter(np.eye(4, dtype=np.float32)[found], (2, 2, 0))
        path = folder / "preds" / stem
        picture = Image.fromarray(found)
        match number % 7:
            case 0:
                picture.save(path.with_suffix(".png"))
            case 1:
                np.save(path.with_suffix(".npy"), found)
            case 2:
                np.save(path.with_suffix(".npy"), scores.transpose(2, 0, 1))
            case 3:
                np.savez_compressed(path.with_suffix(".npz"), scores=scores, name=np.array(stem))
            case 4:
                picture.save(path.with_suffix(".tif"), compression="raw")
            case 5:
                picture.save(path.with_suffix(".tif"), compression="tiff_lzw")
            case 6:
                Image.fromarray(COLOURS[found]).save(path.with_suffix(".webp"), lossless=True)
        # Each instance as a band of the map.
        for label in range(1, 4):
            runs = np.diff(np.flatnonzero(np.diff(found.ravel("F") == label, prepend=0, append=0)))
            first = np.flatnonzero(np.diff(found.ravel("F") == label, prepend=0, append=0))[:1]
            counts = [*first.tolist(), *runs.tolist()]
            counts.append(height * width - sum(counts))
            masks.append(
                {
                    "image_id": number,
                    "file_name": f"{stem}.png",
                    "category_id": label,
                    "score": 0.5,
                    "segmentation": {"size": [height, width], "counts": counts},
                }
            )
        colours = np.zeros((*SIZE, 3), np.uint8)
        colours[..., 0] = found + 1
        Image.fromarray(colours).save(folder / "panoptic" / "p" / f"{stem}.png")
        segments = [
            {"id": k + 1, "category_id": k, "area": int((found == k).sum())} for k in range(4)
        ]
        annotations.append(
            {"image_id": number, "file_name": f"{stem}.png", "segments_info": segments}
        )
        if number < 2:
            for kind in ("images", "labels"):
                shutil.copy(folder / kind / f"{stem}.png", folder / "data" / kind)
    (folder / "coco" / "results.json").write_text(json.dumps(masks))
    (folder / "panoptic" / "p.json").write_text(json.dumps({"annotations": annotations}))
    subprocess.run([*COMMAND, "targets", "labels", "-o", "offsets", "-q"], cwd=folder, check=True)


def files_in(folder: Path) -> Files:
    """Every file below a folder, hidden or not, by its path there."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def names_in(folder: Path) -> list[str]:
    return [name for _, _, names in os.walk(folder) for name in names]


def is_temporary(name: str) -> bool:
    return TEMPORARY.fullmatch(name.rpartition("/")[2]) is not None


def comparable(name: str, content: bytes) -> object:
    """What of a result is the same in every run: all but a training's speed and its whole state."""
    if name.endswith("log.csv"):
        rows = csv.reader(io.StringIO(content.decode(), newline=""))
        return [row for row in rows if row[1] != "steps_per_second"]
    if name.endswith("state.pt"):
        import torch

        state = torch.load(io.BytesIO(content), weights_only=True)
        return state["step"], state["scores"]
    return content


def check_whole(case: Case, found: Files, expected: Files) -> None:
    """Every file that a killed run left is a whole result, or a hidden temporary file."""
    for name, content in found.items():
        if is_temporary(name):
            continue
        assert name in expected, f"{case.name}: left {name}"
        if name.endswith("log.csv"):
            rows = comparable(name, content[: content.rfind(b"\n") + 1])
            whole = comparable(name, expected[name])
            assert isinstance(rows, list)
            assert isinstance(whole, list)
            assert rows == whole[: len(rows)], f"{case.name}: {name} differs"
        elif name.endswith("state.pt"):
            comparable(name, content)
        elif name.endswith(".safetensors"):
            from safetensors.torch import load

            load(content)
        else:
            assert content == expected[name], f"{case.name}: {name} isn't whole"


def check_equal(case: Case, found: Files, expected: Files) -> None:
    """All results are there, as of a run that nothing happened to, and nothing else."""
    assert sorted(found) == sorted(expected), case.name
    for name, content in found.items():
        same = comparable(name, content) == comparable(name, expected[name])
        assert same, f"{case.name}: {name} differs from an undisturbed run's"


@dataclass
class Undisturbed:
    """A run that nothing happens to.

    Attributes:
        case: What was run.
        files: Its results.
        seconds: It took.
        quiet_seconds: Until its first file appeared.
    """

    case: Case
    files: Files
    seconds: float
    quiet_seconds: float


def undisturbed(case: Case) -> Undisturbed:
    elsewhere = replace(case, out=f"undisturbed {case.name}")
    started = time.monotonic()
    process = elsewhere.start()
    first = 0.0
    while process.poll() is None:
        if not first and Path(elsewhere.out).exists():
            first = time.monotonic() - started
        time.sleep(0.005)
    took = time.monotonic() - started
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return Undisturbed(case, files_in(Path(elsewhere.out)), took, first or took)


def end(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> tuple[str, str]:
    """Send a signal to a process and those it started; its output."""
    if process.poll() is None:
        os.killpg(process.pid, number)
    return process.communicate(timeout=60)


def kill_at_random(usual: Undisturbed, moments: int, seed: int = 0) -> Counter[str]:
    """Kill a command again and again, one to three times before it may end.

    Half of the moments are random, half are the next after such a one that a file is written.

    Returns:
        How often: kills, those that hit a file being written, whole files looked at, completions.
    """
    case = usual.case
    draws, counts = random.Random(seed), Counter[str]()
    out, longest = Path(case.out), usual.seconds
    while counts["killed"] < moments:
        shutil.rmtree(out, ignore_errors=True)
        for attempt in range(draws.randint(1, 3)):
            started = time.monotonic()
            process = case.start(*case.again)
            latest = started + draws.uniform(0.5 * min(usual.quiet_seconds, longest), longest)
            aimed = draws.random() < 0.5
            while process.poll() is None and (
                time.monotonic() < latest or (aimed and not any(map(is_temporary, names_in(out))))
            ):
                time.sleep(0.0005 if time.monotonic() > latest else 0.005)
            if process.poll() is None:
                counts["killed"] += 1
            else:
                counts["ended before"] += 1
                if not attempt:
                    # The machine is less busy than it was.
                    longest = min(longest, time.monotonic() - started)
            end(process)
            found = files_in(out)
            counts["in the middle of a file"] += any(map(is_temporary, found))
            counts["whole files"] += sum(not is_temporary(name) for name in found)
            check_whole(case, found, usual.files)
            if counts["killed"] == moments:
                break
        before = {name for name in files_in(out) if is_temporary(name)}
        case.complete()
        after = files_in(out)
        counts["temporary files removed"] += len(before - after.keys())
        check_equal(case, after, usual.files)
        counts["completed"] += 1
    return counts


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A file system of its own at a folder; yields a way to mount it with other options.

    Raises:
        PermissionError: This user may not mount.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        raise PermissionError(f"{folder}: a tmpfs can't be mounted here")

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)

    try:
        yield remount
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill_disk(usual: Undisturbed, size: str) -> str:
    """Let the disk fill up; what is on it then is whole, and with more room the rest follows."""
    case = usual.case
    with small_disk(Path("disk"), size) as remount:
        small = replace(case, out="disk/out")
        done = small.run()
        assert done.returncode == 1, f"{case.name}: {done.returncode} {done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        assert "No space left on device" in done.stderr, done.stderr
        found = files_in(Path(small.out))
        check_whole(case, found, usual.files)
        assert not any(map(is_temporary, found)), found.keys()
        remount("size=1g")
        small.complete()
        check_equal(case, files_in(Path(small.out)), usual.files)
    Path("disk").rmdir()
    return f"{len(found)} of {len(usual.files)} files before, all after"


def forbid_writing(usual: Undisturbed) -> str:
    """Make the output read-only: one line, no traceback, nothing changed, and all of it later."""
    case = usual.case
    with small_disk(Path("disk"), "1g") as remount:
        locked = replace(case, out="disk/out")
        remount("ro")
        done = locked.run()
        assert done.returncode == 1, f"{case.name}: {done.returncode} {done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        assert "Read-only file system" in done.stderr, done.stderr
        assert not Path(locked.out).exists()
        remount("rw")
        locked.complete()
        check_equal(case, files_in(Path(locked.out)), usual.files)
    Path("disk").rmdir()
    return done.stderr.splitlines()[0]


def take_inputs(usual: Undisturbed, folder: Path) -> str:
    """Remove some inputs and cut others short while the command reads the first."""
    case = usual.case
    shutil.rmtree(case.out, ignore_errors=True)
    kept = Path("kept inputs")
    shutil.copytree(folder, kept)
    process = case.start()
    while process.poll() is None and not Path(case.out).exists():
        time.sleep(0.002)
    for place, path in enumerate(sorted(folder.iterdir(), reverse=True)[:6]):
        if place % 2:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _, errors = process.communicate(timeout=600)
    assert "Traceback" not in errors, errors
    found = files_in(Path(case.out))
    check_whole(case, found, usual.files)
    shutil.rmtree(folder)
    kept.rename(folder)
    failed = errors.count("failed: ")
    assert (process.returncode == 1) == (failed > 0), errors
    case.complete()
    check_equal(case, files_in(Path(case.out)), usual.files)
    return f"{failed} failed, all after"


def cut_results(usual: Undisturbed, times: int, seed: int = 0) -> Counter[str]:
    """Cut results short at random; the next run makes them again or says whose they are."""
    case = usual.case
    draws, counts = random.Random(seed), Counter[str]()
    out = Path(case.out)
    for _ in range(times):
        shutil.rmtree(out, ignore_errors=True)
        for name, content in usual.files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(content)
        names = [name for name in usual.files if not Path(name).name.startswith(".")]
        for name in draws.sample(names, max(1, len(names) // 3)):
            content = usual.files[name]
            (out / name).write_bytes(content[: draws.randrange(len(content))])
            counts["cut"] += 1
        done = case.run(*case.again)
        assert "Traceback" not in done.stderr, done.stderr
        if done.returncode:
            counts["told, for --overwrite"] += done.stderr.count("failed: ")
            assert "--overwrite" in done.stderr, done.stderr
            case.complete("--overwrite")
        check_equal(case, files_in(out), usual.files)
    return counts


def run_twice_at_once(usual: Undisturbed, times: int) -> Counter[str]:
    """Two runs on one folder: both end well, and the results are those of one."""
    case = usual.case
    counts = Counter[str]()
    for _ in range(times):
        shutil.rmtree(case.out, ignore_errors=True)
        processes = [case.start() for _ in range(2)]
        ended = [(process.communicate(timeout=600)[1], process.returncode) for process in processes]
        for errors, status in ended:
            refused = case.again and "another process trains into this folder" in errors
            assert status == (1 if refused else 0), f"{case.name}: {errors}"
            counts["refused" if refused else "ended well"] += 1
        check_equal(case, files_in(Path(case.out)), usual.files)
    return counts


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=100, help="kills of a command")
    parser.add_argument("--work", type=Path, required=True, help="folder that is made and emptied")
    parser.add_argument("--weights", default="hrnet_w18_small")
    parser.add_argument("--only", default="", help="cases whose names begin so")
    given = parser.parse_args(arguments)
    shutil.rmtree(given.work, ignore_errors=True)
    make_scene(given.work)
    os.chdir(given.work)
    chosen = [case for case in cases(given.weights) if case.name.startswith(given.only)]

    def tell(case: Case, fault: str, outcome: str | Counter[str]) -> None:
        if isinstance(outcome, Counter):
            outcome = ", ".join(f"{number} {what}" for what, number in outcome.items())
        print(f"{case.name:16}  {fault:16}  {outcome}", flush=True)

    for case in chosen:
        moments = given.moments // (1 if case.name in MOST_KILLED else 5)
        usual = undisturbed(case)
        tell(case, "kill", kill_at_random(usual, moments))
        tell(case, "two at once", run_twice_at_once(usual, max(1, moments // 20)))
        if not case.again:
            tell(case, "cut results", cut_results(usual, max(2, moments // 10)))
        if case.name in ("predict-offsets", "refine"):
            tell(case, "take inputs", take_inputs(usual, Path(case.arguments[1])))
        try:
            total = sum(map(len, usual.files.values()))
            tell(case, "full disk", fill_disk(usual, f"{max(4096, total // 2)}"))
            tell(case, "read-only", forbid_writing(usual))
        except PermissionError as error:
            tell(case, "full, read-only", f"left out: {error}")


if __name__ == "__main__":
    main()
