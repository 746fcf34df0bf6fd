"""segfix doctor."""

from __future__ import annotations

import json
import platform

import click

from segfix.cli import options
from segfix.errors import SegfixError, one_line

PACKAGES = (
    "segfix-refine",
    "numpy",
    "scipy",
    "pillow",
    "click",
    "tqdm",
    "onnxruntime-gpu",
    "onnxruntime",
    "torch",
    "timm",
    "accelerate",
    "safetensors",
    "edt",
)


@click.command()
@options.weights
@options.device
@options.as_json
def doctor(weights: str | None, device: str, as_json: bool) -> None:
    """Check this installation: packages, devices, weights, and one small prediction."""
    import importlib.metadata

    versions = {"python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    report: dict[str, object] = {"versions": versions}
    problem: SegfixError | None = None
    try:
        import numpy as np
        import onnxruntime as ort

        from segfix.inference.model import available_threads, load

        report["providers"] = ort.get_available_providers()
        report["threads"] = available_threads()
        model = load(weights, device=device)
        offset_map = model.offsets(np.zeros((48, 64, 3), np.uint8))
        report["weights"] = {"path": str(model.path), **model.source}
        report["device"] = model.device
        report["prediction"] = f"{offset_map.codes.shape[1]}×{offset_map.codes.shape[0]} px"
    except ImportError as error:
        problem = SegfixError(
            f"{error.name} can't be imported ({error}); reinstall: "
            "pip install --force-reinstall onnxruntime-gpu"
        )
    except SegfixError as error:
        problem = error
    report["problem"] = str(problem) if problem else "none, all fine"
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        for name, value in report.items():
            rows = value.items() if isinstance(value, dict) else [(name, value)]
            for key, text in rows:
                click.echo(one_line(f"{key:<16} {text}"))
    if problem:
        raise problem
