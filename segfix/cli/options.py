"""Options that several commands share, each with one help text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from segfix.errors import MissingExtraError

existing_folder = click.Path(exists=True, file_okay=False, path_type=Path)

quiet = click.option("-q", "--quiet", is_flag=True, help="No progress bar and no summary.")


class WeightedFolder(click.ParamType):
    """DIR or DIR:WEIGHT."""

    name = "dir[:weight]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Path, float]:
        if isinstance(value, tuple):
            return value
        folder, weight = value, 1.0
        head, _, tail = value.rpartition(":")
        if head and not Path(value).exists():
            try:
                folder, weight = head, float(tail)
            except ValueError:
                self.fail(f"{tail!r} is not a weight; write DIR or DIR:WEIGHT.", param, ctx)
        if not 0 < weight < float("inf"):
            self.fail(f"the weight of {folder} must be positive.", param, ctx)
        if not Path(folder).is_dir():
            self.fail(f"{folder}: no such folder.", param, ctx)
        return Path(folder), weight


@contextmanager
def missing_extra(extra: str) -> Iterator[None]:
    """Turn a failing import of an optional package into advice."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} isn't installed; this command needs: pip install 'segfix-refine[{extra}]'"
        ) from error
