"""Releases of a small project in a repository of its own."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest

DAY = str(date.today())
TOMORROW = str(date.today() + timedelta(days=1))
SCRIPT = Path(__file__).with_name("release.py")
PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "segfix-refine"
requires-python = ">=3.11"
dynamic = ["version"]

[tool.hatch.version]
path = "segfix/__init__.py"

[tool.hatch.build]
packages = ["segfix"]
"""


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True, capture_output=True)


def commit(version: str, section: str, tag: str) -> None:
    """Of this version, with this heading as the newest of the changelog."""
    Path("segfix/__init__.py").write_text(f'"""Small."""\n\n__version__ = "{version}"\n')
    changes = f"# Changelog\n\n## [Unreleased]\n\n{section}\n\n- New.\n\n## [0.1.0] - 2026-01-01\n"
    Path("CHANGELOG.md").write_text(changes)
    git("add", "--all")
    git("commit", "--quiet", "--message", "Changed")
    if tag:
        git("tag", "--annotate", tag, "--message", tag)


def release() -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "tests/release.py"], capture_output=True, text=True, check=False
    )


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the current folder, nobody's settings apply to it."""
    if shutil.which("git") is None:
        pytest.skip("git isn't installed")
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, str(tmp_path / "no_settings"))
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "Somebody")
        monkeypatch.setenv(f"{name}_EMAIL", "somebody@example.org")
    folder = tmp_path / "project"
    (folder / "tests").mkdir(parents=True)
    (folder / "segfix").mkdir()
    shutil.copy(SCRIPT, folder / "tests")
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / ".gitignore").write_text("dist/\n__pycache__/\n")
    monkeypatch.chdir(folder)
    git("init", "--quiet")


def test_a_tagged_commit_becomes_an_sdist_a_wheel_and_their_checksums() -> None:
    commit("0.2.0", f"## [0.2.0] - {DAY}", "v0.2.0")
    done = release()
    assert done.returncode == 0, done.stderr
    names = ["segfix_refine-0.2.0-py3-none-any.whl", "segfix_refine-0.2.0.tar.gz"]
    assert sorted(path.name for path in Path("dist").iterdir()) == ["SHA256SUMS", *names]
    lines = Path("dist/SHA256SUMS").read_text().splitlines()
    digests = [hashlib.sha256(Path("dist", name).read_bytes()).hexdigest() for name in names]
    assert lines == [f"{digest}  {name}" for digest, name in zip(digests, names, strict=True)]
    again = release()
    assert (again.returncode, again.stderr) == (
        1,
        "release: dist/ isn't empty: remove what is in it\n",
    )


@pytest.mark.parametrize(
    ("version", "section", "tag", "told"),
    [
        (
            "0.2.0",
            f"## [0.2.0] - {DAY}",
            "",
            "says 0.2.0, but this commit has no tag: git tag v0.2.0",
        ),
        ("0.2.0", f"## [0.2.0] - {DAY}", "v0.3.0", "this commit has v0.3.0: git tag v0.2.0"),
        ("0.2.0", "## [0.2.0]", "v0.2.0", "CHANGELOG.md: expected '## [0.2.0] - "),
        ("0.2.0", "## [0.2.0] - soon", "v0.2.0", "CHANGELOG.md: expected '## [0.2.0] - "),
        ("0.2.0", f"## [0.2.0] - {TOMORROW}", "v0.2.0", "0.2.0 is of"),
        (
            "0.2.0",
            f"## [0.3.0] - {DAY}",
            "v0.2.0",
            "its newest section is 0.3.0, expected '## [0.2.0] - ",
        ),
        ("0.2.0", "", "v0.2.0", "its newest section is 0.1.0, expected '## [0.2.0] - "),
        ("0.2", f"## [0.2] - {DAY}", "v0.2", "version '0.2', expected X.Y.Z"),
    ],
)
def test_what_does_not_agree_is_told_and_nothing_built(
    version: str, section: str, tag: str, told: str
) -> None:
    commit(version, section, tag)
    done = release()
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("release: ")
    assert told in line
    assert not Path("dist").exists()


def test_all_faults_are_told_at_once_and_files_not_committed_are_one() -> None:
    commit("0.2.0", f"## [0.2.0] - {DAY}", "v0.1.9")
    Path("segfix/new.py").write_text("")
    Path("CHANGELOG.md").write_text("")
    done = release()
    assert done.returncode == 1
    for told in ("commit or remove first", "?? segfix/new.py", "has v0.1.9", "section is none"):
        assert told in done.stderr
