"""segfix weights through click's runner."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from segfix.network.weights import DEFAULT_WEIGHTS, FIGURES, file_digest
from tests.cli import commands

run = partial(commands.run, "weights")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_onnx: Path) -> Path:
    """A folder of fetched weights that holds mine.onnx."""
    monkeypatch.setenv("SEGFIX_HOME", str(tmp_path))
    shutil.copy(tiny_onnx, tmp_path / "mine.onnx")
    return tmp_path


def test_the_table_has_the_figures_of_shipped_weights(home: Path) -> None:
    found = run()
    assert found.exit_code == 0
    head, *rows = found.stdout.split("Gains:")[0].splitlines()
    assert " ".join(head.split()) == "weights MB CPU ms/MP CamVid FPN DAVIS OSVOS harm rate"
    assert "those that were right before and are wrong now." in found.stdout
    assert {len(row) for row in rows} == {len(head)}
    assert [row.split()[0] for row in rows] == sorted(FIGURES)
    assert rows[0].split() == [DEFAULT_WEIGHTS, "20.1", *" ".join(FIGURES[DEFAULT_WEIGHTS]).split()]
    assert f"tiny: {home / 'mine.onnx'}" in found.stdout


def test_json_has_the_figures_where_there_are_some(home: Path) -> None:
    rows = json.loads(run(DEFAULT_WEIGHTS, "mine", "--json").stdout)
    harm = FIGURES[DEFAULT_WEIGHTS][-1]
    assert [row["figures"] and row["figures"]["harm rate"] for row in rows] == [harm, None]
    assert "CPU ms" not in run("mine").stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--fetch", "https://host/a.onnx"], "--fetch URL and --sha256 HEX go together"),
        (["--sha256", "0" * 64], "--fetch URL and --sha256 HEX go together"),
        (["--fetch", "https://host/a.onnx", "--sha256", "12"], "64 hexadecimal digits"),
    ],
)
def test_nothing_is_fetched_without_its_checksum(
    home: Path, arguments: list[str], told: str
) -> None:
    found = run(*arguments)
    assert found.exit_code == 2
    assert told in commands.flat(found.stderr)


def test_what_is_there_already_is_listed(home: Path) -> None:
    digest = file_digest(home / "mine.onnx").upper()
    found = run("--fetch", "https://host.invalid/mine.onnx", "--sha256", digest)
    assert found.exit_code == 0
    assert found.stdout.startswith(f"tiny: {home / 'mine.onnx'}")
