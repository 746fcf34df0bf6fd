"""What the Dockerfile says it installs is there; the images themselves are not built."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


def instructions(name: str) -> list[str]:
    """The arguments of all instructions of a name, continued lines joined, comments left out."""
    lines = [line for line in TEXT.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [text.strip() for text in re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)]


def argument(name: str) -> str:
    """The default of a build argument."""
    defaults = dict(one.split("=", 1) for one in instructions("ARG"))
    return defaults[name]


def test_the_base_images_are_pythons_own_of_one_minor_version() -> None:
    images = [one.partition(" AS ")[0] for one in instructions("FROM")]
    assert set(images) == {"python:${PYTHON}-slim-bookworm"}
    version = argument("PYTHON")
    assert re.fullmatch(r"3\.\d+", version)
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{version}.0")


def test_the_copied_files_are_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    kept = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    copied = [
        name
        for one in instructions("COPY")
        if not one.startswith("--from=")
        for name in one.split()[:-1]
    ]
    assert "*" in ignored
    assert sorted(copied) == sorted(kept)
    assert all((ROOT / name).exists() for name in copied)


def test_what_the_wheel_is_made_of_is_in_the_context() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    left_out = [line for line in lines if line and line[0] not in "#!*"]
    wheel = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [*wheel["force-include"], PROJECT["readme"], *PROJECT["license-files"]]
    assert "weights/hrnet_lite0.onnx" in needed
    copied = " ".join(instructions("COPY")).split()
    for name in needed:
        assert name.split("/")[0] in copied, name
        assert not any(fnmatch(name, pattern) for pattern in left_out), name


@pytest.mark.parametrize("extras", [argument("EXTRAS"), "cuda,report"])
def test_the_extras_exist_and_bring_one_onnxruntime(extras: str) -> None:
    assert '"$(echo /wheels/*.whl)[${EXTRAS}]"' in TEXT
    texts = list(PROJECT["dependencies"])
    for extra in extras.split(","):
        texts += PROJECT["optional-dependencies"][extra]
    for machine in ("x86_64", "aarch64"):
        environment = {"sys_platform": "linux", "platform_machine": machine}
        found = {
            one.name
            for one in map(Requirement, texts)
            if one.marker is None or one.marker.evaluate(environment)
        }
        assert len({"onnxruntime", "onnxruntime-gpu"} & found) == 1
    assert f"EXTRAS={extras}" in TEXT
    assert not re.search(r"pip install[^\n]*onnxruntime", TEXT)


def test_it_runs_segfix_as_a_user_without_privileges_and_keeps_no_cache() -> None:
    assert instructions("ENTRYPOINT") == ['["segfix"]']
    assert PROJECT["scripts"] == {"segfix": "segfix.cli:main"}
    assert instructions("USER")[-1] not in ("root", "0")
    assert TEXT.rindex("\nUSER ") < TEXT.rindex("\nENTRYPOINT ")
    installs = re.findall(r"pip install [^&\n]*", TEXT)
    assert installs
    assert all("--no-cache-dir" in one for one in installs)


def test_the_page_about_containers_tells_the_same() -> None:
    page = (ROOT / "docs" / "containers.md").read_text(encoding="utf-8")
    for name in ("EXTRAS", "PYTHON"):
        assert f"| `{name}` | `{argument(name)}` |" in page
    assert "Untested as images" in page
