"""Guards of the structure: which module may import which, and what works without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import segfix

PACKAGE = Path(segfix.__file__).parent
PYPROJECT = PACKAGE.parent / "pyproject.toml"
CROPS, CROP = PACKAGE.parent / "tests" / "data" / "camvid", "0016E5_08079.png"

# Top to bottom; a module imports from its own floor and from lower ones. `segfix` itself is the
# ground, where the version is; what else it offers, it takes from the floor of tasks or lower ones,
# and its pictures from that of reports.
FLOORS = (
    "__main__",
    "cli",
    "serve",
    "report",
    "training",
    "losses",
    "evaluation",
    "tasks",
    "instances",
    "jobs",
    "network",
    "refinement",
    "formats",
    "polygons",
    "files",
    "metrics",
    "geometry",
    "errors",
    "",
)
OFFERED = {
    f"segfix.{name}": f"segfix.{segfix._HOMES.get(name, 'formats')}" for name in segfix.__all__
}
WITH_TORCH = ("training", "losses")
WITH_EXTRAS = (*WITH_TORCH, "serve")
"""Floors that nothing imports before an extra is asked for, so that they may import it at once."""
OPTIONAL = (
    *("torch", "timm", "onnx", "safetensors", "accelerate", "edt"),
    *("pycocotools", "cityscapesscripts", "jinja2", "av", "fsspec", "ray", "pooch"),
    *("shapely", "defusedxml", "pyproj"),
    *("starlette", "uvicorn", "python_multipart"),
)


SLOW = (
    *("scipy", "numpy.ma", "asyncio", "multiprocessing", "importlib.metadata", "tqdm"),
    *("segfix.cli.train", "segfix.training.loop", *OPTIONAL),
)
"""What no single file waits for."""


def module_name(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def floor_of(module: str) -> str:
    """The floor of a module: the name right below `segfix`."""
    return (module + ".").split(".")[1]


def imports_of(source: str, module: str, *, is_package: bool) -> Iterator[str]:
    """Modules of segfix that a source imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                up = len(parents) - node.level + is_package
                base = ".".join([*parents[:up], *([base] if base else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            # What is imported from a package may be a module of it or something it defines.
            found = [name if name in MODULES else OFFERED.get(name, base) for name in names]
        else:
            continue
        yield from (name for name in found if name.split(".")[0] == "segfix")


def upward_imports(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Imports of a source that climb a floor."""
    height = FLOORS.index("tasks" if module == "segfix" else floor_of(module))
    return [
        name
        for name in imports_of(source, module, is_package=is_package)
        if FLOORS.index(floor_of(name)) < height
        and (module, floor_of(name)) != ("segfix", "report")
    ]


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter, beside the package."""
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def find_imported(modules: Iterable[str], *arguments: str | Path) -> list[str]:
    """Which of these modules a command imports."""
    done = run_python(
        "import sys\nfrom segfix.cli import main\n"
        f"main({[*map(str, arguments)]}, prog_name='segfix', standalone_mode=False)\n"
        f"sys.exit(' '.join(name for name in {(*modules,)} if name in sys.modules) or None)\n"
    )
    return done.stderr.split()


def test_every_module_stands_on_a_floor() -> None:
    assert {floor_of(module) for module in MODULES} <= set(FLOORS)
    assert len(MODULES) > 30


def test_no_module_name_occurs_twice() -> None:
    """A command of the same word, in `cli`, aside."""
    names = [
        path.stem
        for module, path in MODULES.items()
        if path.stem != "__init__" and floor_of(module) != "cli"
    ]
    assert [name for name, count in Counter(names).items() if count > 1] == []


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_its_own_and_lower_floors_only(module: str) -> None:
    path = MODULES[module]
    is_package = path.name == "__init__.py"
    assert upward_imports(path.read_text(), module, is_package=is_package) == []


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("segfix.metrics", "from segfix.formats import read_image", ["segfix.formats"]),
        ("segfix.metrics", "from segfix import formats", ["segfix.formats"]),
        ("segfix.metrics", "import segfix.cli.train as t", ["segfix.cli.train"]),
        ("segfix.errors", "def f():\n    from segfix.geometry import x", ["segfix.geometry"]),
        ("segfix.geometry.offsets", "from ..training import loop", ["segfix.training.loop"]),
        ("segfix.geometry.offsets", "from .. import metrics", ["segfix.metrics"]),
        ("segfix.losses.segfix", "from segfix.training.loop import fit", ["segfix.training.loop"]),
        ("segfix.metrics", "from segfix import load", ["segfix.network"]),
        ("segfix.training", "from segfix import compare", ["segfix.report.before_after"]),
        ("segfix.training", "from segfix import fix", []),
        ("segfix", "from segfix import report", []),
        ("segfix", "from segfix import losses", ["segfix.losses"]),
        ("segfix", "from segfix import tasks", []),
        ("segfix.geometry.offsets", "from . import directions\nimport numpy", []),
        ("segfix.training.loop", "from segfix.errors import SegfixError", []),
        ("segfix.cli", "from segfix import __version__", []),
    ],
)
def test_the_guard_of_the_floors_sees_each_kind_of_import(
    module: str, source: str, found: list[str]
) -> None:
    assert upward_imports(source, module) == found


def test_the_guard_of_the_floors_resolves_imports_within_a_package() -> None:
    source = "from . import offsets\nfrom ..cli import main"
    assert list(imports_of(source, "segfix.geometry", is_package=True)) == [
        "segfix.geometry.offsets",
        "segfix.cli",
    ]


def test_all_but_training_and_losses_imports_without_the_packages_of_training() -> None:
    modules = [module for module in MODULES if floor_of(module) not in WITH_EXTRAS]
    done = run_python(
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({OPTIONAL}))\n"
        f"for module in {modules}:\n"
        "    try:\n"
        "        importlib.import_module(module)\n"
        "    except ImportError as error:\n"
        "        print(module, error)\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("module", ["training.loop", "losses.segfix"])
def test_the_guard_of_torch_sees_an_import_of_torch(module: str) -> None:
    done = run_python(
        f"import sys\nsys.modules.update(dict.fromkeys({OPTIONAL}))\nimport segfix.{module}\n"
    )
    assert done.returncode == 1
    assert "ModuleNotFoundError: import of torch halted" in done.stderr


def test_help_works_without_the_packages_of_training() -> None:
    done = run_python(
        f"import sys\nsys.modules.update(dict.fromkeys({OPTIONAL}))\n"
        "from segfix.cli import main\n"
        "main(['--help'], prog_name='segfix')\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: segfix ")
    for command in ("predict-offsets", "refine", "train", "export"):
        assert f"\n  {command} " in done.stdout


def test_the_command_line_starts_without_numpy_and_onnxruntime() -> None:
    done = run_python(
        "import sys\nimport segfix.cli\n"
        "slow = {'numpy', 'onnxruntime', 'PIL', 'scipy', 'tqdm', 'torch'}\n"
        "print(sorted(slow & set(sys.modules)))\n"
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_guard_of_imports_sees_one() -> None:
    assert find_imported(("torch", "segfix.cli", "gc"), "--version") == ["segfix.cli", "gc"]


def test_the_help_imports_nothing_that_it_does_without() -> None:
    slow = [name for name in SLOW if name != "segfix.cli.train"]
    assert find_imported((*slow, "numpy", "onnxruntime", "PIL"), "--help") == []


def test_refining_a_file_imports_nothing_that_it_does_without(tmp_path: Path) -> None:
    offsets = CROPS / "offsets" / CROP
    arguments = ("refine", CROPS / "preds" / CROP, "--offsets", offsets, "-o", tmp_path, "-q")
    files = ("segfix.instances.photographs", "segfix.polygons", "PIL.TiffImagePlugin")
    slow = (*SLOW, "onnxruntime", "segfix.tasks.fix", *files)
    assert find_imported(slow, *arguments) == []
    assert (tmp_path / CROP).is_file()


def test_fixing_a_file_imports_nothing_that_it_does_without(tmp_path: Path) -> None:
    arguments = ("fix", CROPS / "images" / CROP, CROPS / "preds" / CROP, "-o", tmp_path, "-q")
    assert find_imported(SLOW, *arguments) == []
    assert (tmp_path / CROP).is_file()


def test_the_command_ends_at_once_and_its_threads_do_not_spin() -> None:
    done = run_python(
        "import atexit, gc, os, sys\n"
        "sys.argv = ['segfix', '--version']\n"
        "tell = lambda: print(gc.get_freeze_count() > 0, os.environ['OPENBLAS_THREAD_TIMEOUT'])\n"
        "atexit.register(tell)\n"
        "from segfix.cli import main\n"
        "main()\n"
    )
    assert (done.returncode, done.stdout.splitlines()[1:], done.stderr) == (0, ["True 4"], "")


def test_ruff_bans_the_packages_of_training_outside_training_and_losses() -> None:
    lint: dict[str, Any] = tomllib.loads(PYPROJECT.read_text())["tool"]["ruff"]["lint"]
    banned = lint["flake8-tidy-imports"]["banned-module-level-imports"]
    assert set(OPTIONAL) <= set(banned)
    selected = [*lint.get("select", []), *lint.get("extend-select", [])]
    assert any("TID253".startswith(rule) for rule in selected)
    assert not any("TID253".startswith(rule) for rule in lint.get("ignore", []))
    exempt = {
        pattern
        for pattern, rules in lint["per-file-ignores"].items()
        if any("TID253".startswith(rule) for rule in rules) and not pattern.startswith("tests/")
    }
    assert exempt == {f"segfix/{floor}/*" for floor in WITH_EXTRAS}
