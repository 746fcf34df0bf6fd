"""What segfix doctor finds, and that it finds it in broken installations, too."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import segfix
from segfix.cli import main
from segfix.network import offset_model, weights

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("segfix")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["doctor", *map(str, arguments)])


def reported(*arguments: object, status: int = 0) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == status, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    assert result.stderr.splitlines() == [f"segfix: {text}" for text in report["problems"]]
    return report


def run_process(
    folder: Path, *arguments: object, status: int, **environment: str
) -> tuple[dict[str, Any], str]:
    """The report and stderr of the installed command, which finds modules in a folder first."""
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [str(COMMAND), "doctor", "--json", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout), done.stderr


def test_a_whole_installation_has_no_problems() -> None:
    report = reported("--device", "cpu")
    assert report["problems"] == []
    assert report["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert report["versions"]["segfix"] == segfix.__version__
    assert report["versions"]["numpy"] == np.__version__
    assert "CPUExecutionProvider" in report["providers"]
    machine = report["machine"]
    assert 1 <= machine["cores_available"] <= machine["cores"]
    if sys.platform == "linux":
        assert machine["memory"] > 0.5
    assert set(report["shipped_weights"].values()) == {"as shipped"}
    assert set(report["shipped_weights"]) == set(weights.shipped_weights())
    listed = (ROOT / "weights" / "SHA256SUMS").read_text()
    assert f"{report['weights']['sha256']}  {weights.DEFAULT_WEIGHTS}.onnx" in listed
    prediction = report["prediction"]
    assert (prediction["network"], prediction["device"]) == (weights.DEFAULT_WEIGHTS, "cpu")
    assert 5 < float(prediction["boundary"].partition("%")[0]) < 40
    assert 0 < prediction["seconds_to_predict"] < 20


def test_every_package_of_every_extra_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"of {name}")
    found = reported("--device", "cpu")["versions"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [*project["dependencies"]]
    for requirements in project["optional-dependencies"].values():
        named += requirements
    # What was installed may be older than this checkout.
    for requirement in named:
        name = re.split(r"[^\w.-]", requirement.lower())[0]
        assert name in found or name in ("hatchling", "editables"), name
    if sys.platform == "linux" and platform.machine() == "x86_64":
        assert any(name.startswith("nvidia-cudnn") for name in found), "CUDA's libraries, too"


def test_text_and_json_tell_the_same() -> None:
    result = run("--device", "cpu")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert rows["numpy"] == np.__version__
    assert rows[f"{weights.DEFAULT_WEIGHTS}_int8"] == "as shipped"
    assert rows["problems"] == "none"


def test_it_names_what_is_wrong_and_goes_on(foreign_onnx: Path) -> None:
    report = reported("--weights", foreign_onnx, status=1)
    (problem,) = report["problems"]
    assert "not one of a SegFix network" in problem
    assert "prediction" not in report
    assert report["weights"]["sha256"] == weights.file_digest(foreign_onnx)
    report = reported("--weights", "nowhere", status=1)
    (problem,) = report["problems"]
    assert problem.startswith("nowhere: no such weights")
    assert set(report["shipped_weights"].values()) == {"as shipped"}


def test_a_device_that_is_not_there_gives_exit_status_three(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    (problem,) = reported("--device", "cuda", status=3)["problems"]
    assert problem.startswith("device 'cuda' isn't available here")


def test_a_network_that_finds_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = np.zeros((48, 64), np.uint8)
    maps = (nothing, nothing, nothing)
    monkeypatch.setattr(offset_model.OffsetModel, "predict", lambda *_, **__: maps)
    (problem,) = reported("--device", "cpu", status=1)["problems"]
    assert "finds 0% boundary" in problem


def test_damaged_weights_are_told_and_the_others_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "segfix" / "weights"
    folder.mkdir(parents=True)
    content = (ROOT / "weights" / f"{weights.DEFAULT_WEIGHTS}.onnx").read_bytes()
    (folder / f"{weights.DEFAULT_WEIGHTS}.onnx").write_bytes(content[:-1])
    for name in ("strong", "mine"):
        (folder / f"{name}.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    lines = [f"{digest}  {name}.onnx\n" for name in (weights.DEFAULT_WEIGHTS, "strong")]
    (folder / "SHA256SUMS").write_text("".join(lines))
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "segfix" / "inference" / "weights.py"))
    states = {weights.DEFAULT_WEIGHTS: "damaged", "mine": "added", "strong": "as shipped"}
    report = reported("--device", "cpu", status=1)
    assert report["shipped_weights"] == states
    assert report["weights"]["sha256"] == hashlib.sha256(content[:-1]).hexdigest()
    assert "prediction" not in report
    (problem,) = report["problems"]
    assert f"{weights.DEFAULT_WEIGHTS}.onnx: damaged" in problem
    report = reported("--device", "cpu", "--weights", "strong", status=1)
    assert len(report["problems"]) == 1
    assert report["prediction"]["device"] == "cpu"


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        (
            "raise ImportError('libcudart.so.13: not found', name='onnxruntime.capi')",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime",
        ),
        ("raise RuntimeError('of another NumPy')", "RuntimeError: of another NumPy"),
        ("", "AttributeError: "),
    ],
)
def test_a_broken_onnxruntime_is_one_entry_of_a_valid_report(
    tmp_path: Path, statement: str, told: str
) -> None:
    (tmp_path / "onnxruntime.py").write_text(statement)
    report, errors = run_process(tmp_path, status=1)
    assert any(told in problem for problem in report["problems"])
    assert len(report["problems"]) == errors.count("\n")
    assert report["versions"]["numpy"] == np.__version__


@pytest.mark.parametrize("name", ["PIL", "scipy", "tqdm"])
def test_every_package_that_cannot_be_imported_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise ImportError('a library is missing')")
    report, _ = run_process(tmp_path, status=1)
    assert report["problems"] == [
        f"{name} can't be imported (a library is missing); install it again."
    ]


def test_both_builds_of_onnxruntime_are_told_once(tmp_path: Path) -> None:
    for name in ("onnxruntime", "onnxruntime_gpu"):
        folder = tmp_path / f"{name}-1.2.3.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n")
    report, _ = run_process(tmp_path, status=1)
    (problem,) = report["problems"]
    assert problem.startswith("onnxruntime and onnxruntime-gpu are both installed")
    assert report["versions"]["onnxruntime"] == "1.2.3"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX home")
def test_neither_the_home_folder_nor_other_variables_are_told(tmp_path: Path) -> None:
    home = tmp_path / "alice"
    home.mkdir()
    (home / "own.onnx").write_bytes(b"no network")
    shown = {"SEGFIX_NOTE": f"{home}/notes", "OMP_NUM_THREADS": "1", "ORT_TENSORRT_FP16": "1"}
    report, errors = run_process(
        tmp_path, "--weights", home / "own.onnx", status=1, HOME=str(home), TOKEN="s3cret", **shown
    )
    assert report["weights"]["path"] == "~/own.onnx"
    assert report["problems"][0].startswith("~/own.onnx: not a readable ONNX file")
    assert report["environment"].items() >= {**shown, "SEGFIX_NOTE": "~/notes"}.items()
    assert set(report["environment"]) <= {*shown, "ORT_DISABLE_TELEMETRY", *VISIBLE}
    for text in (json.dumps(report), errors):
        assert "alice" not in text
        assert "s3cret" not in text


VISIBLE = ("CUDA_VISIBLE_DEVICES", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def test_a_folder_beside_home_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from segfix.cli.doctor import hide_home

    monkeypatch.setenv("HOME", "/home/al")
    monkeypatch.setenv("USERPROFILE", "/home/al")
    paths = ["/home/alice/x", "/home/al", "b: /home/al/x", "/mnt/home/al/x"]
    found: Mapping[str, Any] = hide_home({"a": paths})
    assert found == {"a": ["/home/alice/x", "~", "b: ~/x", "/mnt/home/al/x"]}
    monkeypatch.setenv("HOME", "/")
    assert hide_home("/usr/bin") == "/usr/bin"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("script", "told"),
    [
        (
            "echo 'NVIDIA A, 143771 MiB, 590.1'; echo 'NVIDIA B, 1 MiB, 590.1'",
            ["NVIDIA A, 143771 MiB, 590.1", "NVIDIA B, 1 MiB, 590.1"],
        ),
        ("echo 'no driver here'; exit 9", ["nvidia-smi fails: no driver here"]),
    ],
)
def test_gpus_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: list[str]
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert reported("--device", "cpu")["machine"]["gpus"] == told
