"""The manual and the help texts agree with the commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest

from segfix.cli import main

ROOT = Path(__file__).parents[2]


def test_the_reference_in_the_manual_is_what_the_commands_say(
    load_script: Callable[[Path], ModuleType],
) -> None:
    reference = load_script(Path(__file__).with_name("reference.py"))
    text = (ROOT / "cli.md").read_text(encoding="utf-8")
    assert text == reference.updated(text), "stale: run `make cli.md`"


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_and_option_has_a_help_text(name: str) -> None:
    command = main.commands[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize("name", sorted(main.commands))
def test_the_manual_and_the_readme_mention_every_command(name: str) -> None:
    assert f"segfix {name}" in (ROOT / "cli.md").read_text(encoding="utf-8")
    assert f"segfix {name}" in (ROOT / "README.md").read_text(encoding="utf-8")
