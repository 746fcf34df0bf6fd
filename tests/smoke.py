"""The wheel as its users get it: in a clean environment, without extras.

    python tests/smoke.py build/smoke/*.tar.gz build/smoke/*.whl

The sdist must hold all that the wheel is made of. The installed commands must then find in the
crops of tests/data what they found when these were made, and improve the predictions.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import venv
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
CROPS = ROOT / "tests" / "data" / "camvid"
LARGEST = 30_000_000
"""Bytes of a wheel."""


def main(sdist: Path, wheel: Path) -> None:
    """Fail with a message, or say how large it is and how long each part took."""
    size = wheel.stat().st_size
    check(size <= LARGEST, f"{wheel.name} has {size:,} bytes; more than {LARGEST:,}")
    with tempfile.TemporaryDirectory(prefix="segfix-smoke-") as folder:
        started = time.perf_counter()
        check_sdist(sdist, wheel, Path(folder, "sdist"))
        bin_folder = install(wheel, Path(folder, "env"))
        installed = time.perf_counter()
        work = Path(folder, "work")
        shutil.copytree(CROPS, work)
        shutil.rmtree(work / "offsets")
        check_commands(bin_folder, work)
        ended = time.perf_counter()
    print(f"{wheel.name} ({size / 1e6:.1f} MB):", end=" ")
    print(f"built and installed in {installed - started:.0f} s, works ({ended - installed:.0f} s)")


def check_sdist(sdist: Path, wheel: Path, folder: Path) -> None:
    """A wheel made of the sdist must be the wheel, byte for byte."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    call(sys.executable, "-m", "hatchling", "build", "--target", "wheel", cwd=unpacked)
    made = unpacked / "dist" / wheel.name
    check(made.read_bytes() == wheel.read_bytes(), f"{sdist} makes another wheel than {wheel}")


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel alone; the folder of its commands."""
    venv.create(folder, with_pip=True)
    bin_folder = folder / ("Scripts" if os.name == "nt" else "bin")
    pip = (bin_folder / "python", "-m", "pip", "--disable-pip-version-check")
    call(*pip, "install", "--quiet", wheel.resolve())
    call(*pip, "check")
    listed = json.loads(call(*pip, "list", "--format", "json"))
    found = {re.sub(r"[-_.]+", "-", entry["name"]).lower() for entry in listed}
    extra = names_of_extras() & found
    check(not extra, f"comes with {', '.join(sorted(extra))}, which only extras need")
    return bin_folder


def names_of_extras() -> set[str]:
    """Packages that no requirement outside the extras names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = itertools.chain.from_iterable(project["optional-dependencies"].values())
    every, base = (
        {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in requirements}
        for requirements in (extras, project["dependencies"])
    )
    return every - base - {project["name"]}


def check_commands(bin_folder: Path, work: Path) -> None:
    """Use the installed commands as the README says."""

    def segfix(*arguments: str) -> str:
        return call(bin_folder / "segfix", *arguments, cwd=work)

    check("predict-offsets" in segfix("--help"), "--help lists no commands")
    doctor = json.loads(segfix("doctor", "--json"))
    where = Path(doctor["paths"]["segfix_path"]).expanduser().resolve()
    check(where.is_relative_to(bin_folder.parent.resolve()), f"another copy was run: {where}")
    check(set(doctor["shipped_weights"].values()) == {"as shipped"}, "its weights changed")
    segfix("predict-offsets", "images/", "--device", "cpu")
    refined = segfix("refine", "preds/", "--offsets", "offsets/")
    check("3 written" in refined, refined)
    for golden in sorted((CROPS / "offsets").iterdir()):
        # As tests/test_golden.py: engines and processors round differently.
        differ = np.mean(pixels(work / "offsets" / golden.name) != pixels(golden))
        check(differ < 0.005, f"{golden.name}: {differ:.2%} of its offsets aren't as they were")
        before, after = (pixels(work / kind / golden.name) for kind in ("preds", "refined"))
        moved = np.mean(before != after)
        check(0.002 < moved < 0.2, f"{golden.name}: {moved:.2%} of its labels moved")
    against = ("--against", "refined=refined", "--json", "-q")
    scores = json.loads(segfix("evaluate", "preds", "labels", *against))
    gain = scores["changes"]["refined"]["mean"]["f_1px"][0]
    check(gain > 0.02, f"F@1px changed by {gain:+.4f}")


def pixels(path: Path) -> np.ndarray:
    """(H, W) uint8: ids or codes, not their colours."""
    with Image.open(path) as picture:
        return np.array(picture)


def call(*command: object, cwd: Path | None = None) -> str:
    """The output of a program that sees nothing of this checkout."""
    environment = {key: text for key, text in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    check(done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")
    return done.stdout


def check(right: bool, told: str) -> None:
    """End with a message unless it is right."""
    if not right:
        sys.exit(f"smoke: {told}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
