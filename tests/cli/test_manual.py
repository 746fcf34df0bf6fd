"""The manual and the help texts agree with the commands."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest

from segfix.cli import OPTION_GROUPS, main

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


@pytest.mark.parametrize("name", ["refine", "train", "weights"])
def test_every_option_is_listed_once_below_its_heading(name: str) -> None:
    command = main.commands[name]
    top = click.Context(main, **main.context_settings)
    text = command.get_help(click.Context(command, parent=top, terminal_width=100))
    heading, listed = "", []
    for line in text.splitlines():
        if line.removesuffix(":") in OPTION_GROUPS:
            heading = line.removesuffix(":")
        elif found := re.match(r"  (?:-\w, )?--([\w-]+)", line):
            listed.append((found[1], heading))
    options = [one.opts for one in command.params if isinstance(one, click.Option)]
    assert sorted(option for option, _ in listed) == sorted(
        [next(name for name in names if name.startswith("--"))[2:] for names in options] + ["help"]
    )
    if name != "weights":  # it has common options alone
        assert dict(listed)["help"] == "Common options"
        for option, found_below in listed:
            named = [group for group, names in OPTION_GROUPS.items() if option in names]
            assert [found_below] == (named or ["Options"])


def test_the_options_in_groups_are_options_of_commands() -> None:
    parameters = [one for command in main.commands.values() for one in command.params]
    options = {option[2:] for one in parameters for option in one.opts} | {"help"}
    assert {name for names in OPTION_GROUPS.values() for name in names} <= options


def test_the_list_of_commands_says_the_whole_first_sentence_of_each() -> None:
    ctx = click.Context(main, terminal_width=60, **main.context_settings)
    text = " ".join(main.get_help(ctx).split())
    for name, command in main.commands.items():
        assert command.help
        sentence = " ".join(command.help.split("\n\n")[0].split()).removesuffix(".")
        # A hyphen may end a line.
        assert f"{name} {sentence}".replace("- ", "-") in text.replace("- ", "-")
    assert "..." not in text.partition("Commands:")[2]


@pytest.mark.parametrize("name", sorted(main.commands))
def test_the_manual_and_the_readme_mention_every_command(name: str) -> None:
    assert f"segfix {name}" in (ROOT / "cli.md").read_text(encoding="utf-8")
    assert f"segfix {name}" in (ROOT / "README.md").read_text(encoding="utf-8")
