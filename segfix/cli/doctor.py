"""`segfix doctor`: check an installation, part by part, for a bug report."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import platform
import re
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import segfix
from segfix.cli import options
from segfix.cli.outcome import shortened
from segfix.errors import DeviceError, SegfixError, one_line

VARIABLES = re.compile(r"(ORT|SEGFIX)_.*|(OMP|OPENBLAS|MKL)_NUM_THREADS|CUDA_VISIBLE_DEVICES")
"""Variables of the environment that change what segfix does; no others are printed."""
BUILDS = ("onnxruntime", "onnxruntime-gpu")
NEEDED = ("numpy", "PIL", "scipy.ndimage", "tqdm")
"""Packages that commands need, some of them not for a small prediction."""


@click.command()
@options.weights
@options.device
@options.as_json
def doctor(weights: str | None, device: str, as_json: bool) -> None:
    """Check this installation: packages, machine, weights, and one small prediction.

    Bug reports want what it prints with --json. That names your home folder "~", and of the
    environment only variables that segfix and its libraries obey.
    """
    installed = list_versions()
    problems: list[Exception] = []
    report: dict[str, Any] = {
        "versions": installed,
        "paths": list_paths(),
        "machine": describe_machine(),
    }
    report["environment"] = {
        name: value for name, value in sorted(os.environ.items()) if VARIABLES.fullmatch(name)
    }
    for name in NEEDED:
        with collect_errors(problems):
            importlib.import_module(name)
    with collect_errors(problems):
        import onnxruntime as ort

        report["providers"] = ort.get_available_providers()
    with collect_errors(problems):
        from segfix.network.session import available_threads, check_installation

        report["machine"]["cores_available"] = available_threads()
        check_installation()
    with collect_errors(problems):
        report["shipped_weights"] = check_shipped(problems)
        report["weights"] = find_chosen(weights)
    with collect_errors(problems):
        report["prediction"] = try_prediction(weights, device)

    # Several steps fail of the same.
    told = dict.fromkeys(describe_problem(problem, installed) for problem in problems)
    report = hide_home({**report, "problems": list(told)})
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        for name, value in report.items():
            rows = value.items() if isinstance(value, dict) else [(name, value)]
            for key, entry in rows:
                text = ", ".join(entry) or "none" if isinstance(entry, list) else entry
                click.echo(one_line(f"{key:<22} {text}"))
    for text in report["problems"]:
        click.echo(f"segfix: {shortened(text)}", err=True)
    if problems:
        # 3 as of every command that lacks its device.
        lacks_device = any(isinstance(problem, DeviceError) for problem in problems)
        click.get_current_context().exit(3 if lacks_device else 1)


@contextlib.contextmanager
def collect_errors(problems: list[Exception]) -> Iterator[None]:
    """Collect any error inside the block and go on: a broken installation may fail anywhere."""
    try:
        yield
    except Exception as error:
        problems.append(error)


def describe_problem(problem: Exception, installed: dict[str, str]) -> str:
    """Describe a problem, and the remedy where there is one."""
    if isinstance(problem, SegfixError):
        return str(problem)
    if isinstance(problem, ImportError):
        # Packages that say themselves why they can't be imported give no name.
        *_, (frame, _) = traceback.walk_tb(problem.__traceback__)
        name = problem.name or frame.f_globals["__name__"].partition(".")[0]
        remedy = "install it again."
        if name.startswith("onnxruntime"):
            present = [build for build in BUILDS if build in installed]
            wanted = present[0] if len(present) == 1 else "onnxruntime-gpu"
            remedy = f"mend it: pip uninstall -y {' '.join(BUILDS)} && pip install {wanted}"
        return f"{name} can't be imported ({problem}); {remedy}"
    return f"{type(problem).__name__}: {problem}"


def list_versions() -> dict[str, str]:
    """List the versions of Python and of the installed packages that segfix and its extras name."""
    from importlib import metadata

    found = {"python": platform.python_version(), "segfix": segfix.__version__}
    # CUDA's libraries are named by onnxruntime's extras.
    for package in ("segfix-refine", *BUILDS):
        with contextlib.suppress(metadata.PackageNotFoundError):
            requirements = metadata.requires(package) or []
            named = (re.match(r"[\w.-]+", requirement) for requirement in requirements)
            for name in sorted({package, *(match[0].lower() for match in named if match)}):
                with contextlib.suppress(metadata.PackageNotFoundError):
                    # None where a package was removed in part.
                    found[name] = metadata.version(name) or "unknown"
    return found


def list_paths() -> dict[str, str]:
    """List which Python runs which copy of segfix."""
    return {"python_path": sys.executable, "segfix_path": str(Path(segfix.__file__).parent)}


def describe_machine() -> dict[str, Any]:
    """Describe the system, cores, memory and its limit in GiB, and GPUs."""
    found: dict[str, Any] = {
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
    }
    # Windows has no sysconf.
    with contextlib.suppress(AttributeError, ValueError, OSError):
        found["memory"] = to_gib(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    # No file, or "max".
    with contextlib.suppress(OSError, ValueError):
        found["memory_limit"] = to_gib(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return {**found, "gpus": list_gpus()}


def to_gib(size: int) -> float:
    """Convert bytes to GiB, to one decimal."""
    return round(size / 2**30, 1)


def list_gpus() -> list[str]:
    """List NVIDIA's GPUs by name, memory and driver, or tell why that fails."""
    import subprocess

    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            [program, *query],
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return [f"nvidia-smi fails: {getattr(error, 'stdout', None) or error}".strip()]
    return done.stdout.splitlines()


def check_shipped(problems: list[Exception]) -> dict[str, str]:
    """Check each network that was shipped: "as shipped", "added" or "damaged"."""
    from segfix.network.weights import check_weights, shipped_digests, shipped_weights

    found = {}
    for name, path in shipped_weights().items():
        found[name] = "damaged"
        with collect_errors(problems):
            listed = check_weights(path).name in shipped_digests(path.parent)
            found[name] = "as shipped" if listed else "added"
    return found


def find_chosen(weights: str | None) -> dict[str, str]:
    """Find the file of the weights asked for, damaged or not, and its digest."""
    from segfix.network.weights import DEFAULT_WEIGHTS, file_digest, find_weights, shipped_weights

    path = shipped_weights().get(weights or DEFAULT_WEIGHTS) or find_weights(weights)
    return {"path": str(path), "sha256": file_digest(path)}


def try_prediction(weights: str | None, device: str) -> dict[str, Any]:
    """Try the network on a bright square, and time it.

    Raises:
        SegfixError: It is none of ours, fails, or finds nothing.
    """
    import numpy as np

    from segfix.network.offset_model import load
    from segfix.network.weights import shipped_weights

    start = time.perf_counter()
    model = load(weights, device=device)
    loaded = time.perf_counter()
    image = np.full((48, 64, 3), 40, np.uint8)
    image[12:36, 16:48] = 220, 180, 90
    boundary = model.offsets(image).boundary_mask().mean()
    if model.path in shipped_weights().values() and not 0 < boundary < 0.5:
        raise SegfixError(
            f"{model.source['weights']} on {model.device}: finds {boundary:.0%} boundary in a "
            "picture of a square; try --device cpu, and report it."
        )
    return {
        "network": model.source["weights"],
        "device": model.device,
        "threads": model.threads,
        "boundary": f"{boundary:.1%} of 64×48 px",
        "seconds_to_load": round(loaded - start, 3),
        "seconds_to_predict": round(time.perf_counter() - loaded, 3),
    }


def hide_home(value: Any) -> Any:
    """Write the home folder, which holds the user's name, as "~" in all texts of a report."""
    if isinstance(value, dict):
        return {key: hide_home(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [hide_home(entry) for entry in value]
    home = os.path.expanduser("~")  # noqa: PTH111 -- Path.home() raises where there is none
    if isinstance(value, str) and len(home) > 1:
        for folder in {home, os.path.realpath(home)}:
            value = re.sub(rf"(?<![\w.-]){re.escape(folder)}(?![\w.-])", "~", value)
    return value
