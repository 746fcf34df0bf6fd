"""Builds what a tagged commit releases, in dist/; publishes nothing.

    python tests/release.py

The commit must have the tag of its version, and CHANGELOG.md a dated section of it.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Say all that is missing, or build the sdist, the wheel and their SHA256SUMS."""
    faults = list(find_faults())
    if faults:
        sys.exit("\n".join(f"release: {fault}" for fault in faults))
    subprocess.run([sys.executable, "-m", "hatchling", "build"], cwd=ROOT, check=True)
    built = sorted(path for path in (ROOT / "dist").iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in built]
    (ROOT / "dist" / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")
    print("".join(lines), end="")


def find_faults() -> Iterator[str]:
    """What keeps this commit from being released."""
    changed = git("status", "--porcelain")
    if changed:
        yield f"commit or remove first:\n{changed}"
    version = version_of((ROOT / "segfix" / "__init__.py").read_text(encoding="utf-8"))
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        yield f"segfix/__init__.py: version {version!r}, expected X.Y.Z"
    tags = [tag for tag in git("tag", "--points-at", "HEAD").split() if tag.startswith("v")]
    if tags != [f"v{version}"]:
        found = ", ".join(tags) or "no tag"
        yield f"segfix/__init__.py says {version}, but this commit has {found}: git tag v{version}"
    yield from faults_of_changelog((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    if (ROOT / "dist").exists() and any((ROOT / "dist").iterdir()):
        yield "dist/ isn't empty: remove what is in it"


def version_of(source: str) -> str:
    """Read, not imported: another copy may be installed."""
    found = re.search(r'^__version__ = "(.*)"$', source, re.MULTILINE)
    return found[1] if found else ""


def faults_of_changelog(text: str, version: str) -> Iterator[str]:
    """Of the uppermost section with a version, which is the one to release."""
    sections = re.findall(r"^## \[?([^\]\s]+)\]?(?: - (\S+))?$", text, re.MULTILINE)
    name, day = next((one for one in sections if one[0] != "Unreleased"), ("", ""))
    expected = f"'## [{version}] - {date.today()}'"
    if name != version:
        yield f"CHANGELOG.md: its newest section is {name or 'none'}, expected {expected}"
        return
    try:
        if date.fromisoformat(day) > date.today():
            yield f"CHANGELOG.md: {version} is of {day}, which is to come"
    except ValueError:
        yield f"CHANGELOG.md: expected {expected}"


def git(*arguments: str) -> str:
    """What git prints."""
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
