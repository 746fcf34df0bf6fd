"""Options of `segfix train`, made from the fields of its settings."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import click

from segfix.cli.options import FiniteRange
from segfix.training.settings import DataFolder

ADDED_LOSSES = ("level-set", "semeda", "epl", "dice", "lovasz", "boundary", "sobel")
"""What may be added to the cross-entropy."""

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Settings = TypeVar("_Settings")


class DataFolderType(click.ParamType[DataFolder]):
    """DIR, with WEIGHT, TOLERANCE and NEAR behind it as far as they are given."""

    name = "dir[:weight[:tolerance[:near]]]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> DataFolder:
        """Parse the folder, its weight, its tolerance, and how near to boundaries labels tell."""
        if isinstance(value, DataFolder):
            return value
        folder, given = str(value), list[str]()
        while len(given) < 3 and not Path(folder).is_dir() and ":" in folder[1:]:
            folder, _, tail = folder.rpartition(":")
            given.insert(0, tail)
        numbers = [1.0, 0.0, math.inf]
        names = ("weight", "tolerance", "distance")
        for place, (text, what) in enumerate(zip(given, names, strict=False)):
            try:
                numbers[place] = float(text)
            except ValueError:
                self.fail(
                    f"{text!r} is not a {what}; write DIR, DIR:WEIGHT, DIR:WEIGHT:TOLERANCE or "
                    "DIR:WEIGHT:TOLERANCE:NEAR.",
                    param,
                    ctx,
                )
        weight, tolerance, near = numbers
        if not 0 < weight < math.inf:
            self.fail(f"the weight of {folder} must be positive.", param, ctx)
        if not 0 <= tolerance < math.inf:
            self.fail(f"the tolerance of {folder} must not be negative.", param, ctx)
        if not near > 0:
            self.fail(f"the distance NEAR of {folder} must be positive.", param, ctx)
        if not Path(folder).is_dir():
            self.fail(f"{folder}: no such folder.", param, ctx)
        return DataFolder(Path(folder), weight, tolerance, near)


def setting_options(settings: type, *names: str) -> Callable[[_Command], _Command]:
    """Give a command the options of settings, those of nested ones after their own.

    Args:
        settings: A dataclass whose fields are made by `segfix.training.settings.setting`.
        names: The fields that become options; by default all.
    """
    declared = [
        (field, kind)
        for field, kind in setting_fields(settings)
        if not names or field.name in names
    ]

    def decorate(command: _Command) -> _Command:
        for field, kind in reversed(declared):
            command = setting_option(field, kind)(command)
        return command

    return decorate


@functools.cache
def setting_fields(settings: type) -> list[tuple[Field[Any], Any]]:
    """List the fields of a dataclass, and of those nested in it, that are options; with types."""
    kinds = get_type_hints(settings)
    found = []
    for field in fields(settings):
        if is_dataclass(kinds[field.name]):
            found += setting_fields(kinds[field.name])
        elif "text" in field.metadata:
            found.append((field, kinds[field.name]))
    return found


def setting_option(field: Field[Any], kind: Any) -> Callable[[_Command], _Command]:
    """Make the option of a field.

    Args:
        field: Made by `segfix.training.settings.setting`.
        kind: Its type: bool, str, int or none, float or a pair of floats.
    """
    name, told = field.name.replace("_", "-"), field.metadata
    flag = told["flag"] or (f"--{name}/--no-{name}" if kind is bool else f"--{name}")
    more: dict[str, Any] = {}
    if told["choices"]:
        more["type"] = click.Choice(told["choices"])
    elif kind in (int, int | None):
        more["type"] = click.IntRange(**told["limits"])
    elif kind is float:
        more["type"] = FiniteRange(**told["limits"])
    elif kind == tuple[float, float]:
        more |= {"type": (FiniteRange(**told["limits"]),) * 2, "metavar": "MIN MAX"}
    if kind is bool and "/" not in flag:
        more["is_flag"] = True
    else:
        more["show_default"] = field.default is not None
    return click.option(flag, field.name, default=field.default, help=told["text"], **more)


def make_settings(settings: type[_Settings], given: Mapping[str, Any], **others: Any) -> _Settings:
    """Make settings, nested ones included, of what the options of a command were given.

    Args:
        settings: A dataclass; fields that are no options keep their defaults.
        given: Values by the names of fields.
        others: More of them.
    """
    values = {**given, **others}
    kinds = get_type_hints(settings)
    chosen = {}
    for field in fields(settings):  # type: ignore[arg-type]
        if is_dataclass(kinds[field.name]):
            chosen[field.name] = make_settings(kinds[field.name], values)
        elif field.name in values:
            chosen[field.name] = values[field.name]
    return settings(**chosen)


def parse_weights(
    _: click.Context, __: click.Parameter, values: tuple[str, ...]
) -> dict[str, float | str]:
    """Parse NAME=λ or NAME=auto:SHARE into a dictionary; without a name, under ""."""
    weights: dict[str, float | str] = {}
    for value in values:
        name, sign, text = value.rpartition("=")
        share = text.removeprefix("auto:")
        try:
            number = float(share)
        except ValueError:
            number = math.nan
        known = name in ADDED_LOSSES or not sign
        if not known or not 0 <= number < math.inf or (share != text and not number):
            raise click.BadParameter(
                f"{value!r}: write NAME=λ or NAME=auto:SHARE, NAME one of "
                f"{', '.join(ADDED_LOSSES)} or left out for all losses, λ 0 or more, "
                "SHARE above 0."
            )
        weights[name] = number if share == text else text
    return weights


def parse_options(
    _: click.Context, __: click.Parameter, values: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Parse NAME.KEY=VALUE; values are numbers, lists of them with commas, or words."""
    options: dict[str, dict[str, Any]] = {}
    for value in values:
        where, equals, text = value.partition("=")
        name, dot, key = where.partition(".")
        if not (equals and dot and key and text) or name not in ADDED_LOSSES:
            raise click.BadParameter(
                f"{value!r}: write NAME.KEY=VALUE, such as epl.width=11; NAME is one of "
                f"{', '.join(ADDED_LOSSES)}."
            )
        parts = tuple(parse_value(part) for part in text.split(","))
        key = key.replace("-", "_")
        options.setdefault(name, {})[key] = parts if len(parts) > 1 else parts[0]
    return options


def parse_value(text: str) -> int | float | bool | str:
    """Parse a number, true or false, or else a word."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
