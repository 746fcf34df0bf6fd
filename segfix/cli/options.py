"""Options that several commands share, each with one help text."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from segfix.errors import MissingExtraError, PairingError

if TYPE_CHECKING:
    from segfix.formats import Entry
    from segfix.inference.batch import Summary

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Job = TypeVar("_Job")


class FiniteRange(click.FloatRange):
    """A range that NaN and infinity lie outside of."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """To the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Device(click.ParamType[str]):
    """auto, cpu, cuda or tensorrt, the last two with an optional :N."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """To itself."""
        if not re.fullmatch(r"auto|cpu|(cuda|tensorrt)(:\d+)?", str(value)):
            self.fail(f"{value!r}: expected auto, cpu, cuda, cuda:N or tensorrt.", param, ctx)
        return str(value)


class DataFolder(click.ParamType[tuple[Path, float, float]]):
    """DIR, DIR:WEIGHT or DIR:WEIGHT:TOLERANCE."""

    name = "dir[:weight[:tolerance]]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Path, float, float]:
        """To the folder, its weight and its tolerance."""
        if isinstance(value, tuple):
            return value
        folder, given = str(value), list[str]()
        while len(given) < 2 and not Path(folder).is_dir() and ":" in folder[1:]:
            folder, _, tail = folder.rpartition(":")
            given.insert(0, tail)
        numbers = [1.0, 0.0]
        for place, (text, what) in enumerate(zip(given, ("weight", "tolerance"), strict=False)):
            try:
                numbers[place] = float(text)
            except ValueError:
                self.fail(
                    f"{text!r} is not a {what}; write DIR, DIR:WEIGHT or DIR:WEIGHT:TOLERANCE.",
                    param,
                    ctx,
                )
        weight, tolerance = numbers
        if not 0 < weight < math.inf:
            self.fail(f"the weight of {folder} must be positive.", param, ctx)
        if not 0 <= tolerance < math.inf:
            self.fail(f"the tolerance of {folder} must not be negative.", param, ctx)
        if not Path(folder).is_dir():
            self.fail(f"{folder}: no such folder.", param, ctx)
        return Path(folder), weight, tolerance


any_path = click.Path(path_type=Path)
existing_folder = click.Path(exists=True, file_okay=False, path_type=Path)

quiet = click.option("-q", "--quiet", is_flag=True, help="No progress bar and no summary.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
overwrite = click.option("--overwrite", is_flag=True, help="Replace results that exist.")
recursive = click.option(
    "-r", "--recursive", is_flag=True, help="Go into folders within; results mirror the tree."
)
max_failures = click.option(
    "--max-failures", type=click.IntRange(1), metavar="N", help="Stop after N failures."
)
workers = click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Files worked on at a time. [default: one per core; predict-offsets, segment: 2]",
)
device = click.option(
    "--device",
    type=Device(),
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda[:N]|tensorrt[:N]",
    help="Where the network runs; auto takes a GPU that works, else the CPU, and says so.",
)
weights = click.option(
    "--weights",
    metavar="NAME|FILE",
    help="Shipped weights by name, or an ONNX file of 'segfix export'. [default: hrnet_w18_small]",
)
void = click.option(
    "--void",
    "ignore_index",
    type=int,
    default=255,
    show_default=True,
    help="Void id of the ground truth, never counted; -1: there is none.",
)
num_directions = click.option(
    "--num-directions",
    type=click.Choice(["4", "8", "16"]),
    default="8",
    show_default=True,
    help="Sectors of direction.",
)
boundary_width = click.option(
    "--boundary-width",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Width γ of the boundary on each side, in pixels.",
)


def first_given(*names: str) -> str | None:
    """Of these parameters of the command that runs, the first that the user gave, as typed."""
    context = click.get_current_context()
    for option in context.command.params:
        if option.name in names:
            source = context.get_parameter_source(option.name)
            if source is click.core.ParameterSource.COMMANDLINE:
                return option.opts[0]
    return None


def naming(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that pairs files by name, as `naming`: for `pair_entries`."""

    @click.option(
        "--suffix",
        "suffixes",
        multiple=True,
        metavar="TEXT",
        help="Ending of file stems to pass over when pairing, besides those of Cityscapes and "
        "other layouts; of several files that fit, those with it are taken; repeatable.",
    )
    @click.option(
        "--map",
        "map_file",
        type=any_path,
        metavar="FILE",
        help="Text file of two names per line, of files that belong together.",
    )
    @functools.wraps(command)
    def wrapped(*, suffixes: tuple[str, ...], map_file: Path | None, **others: Any) -> Any:
        name_map = None
        if map_file is not None:
            from segfix.formats.folders import read_name_map

            name_map = read_name_map(map_file)
        return command(naming={"suffixes": suffixes, "name_map": name_map}, **others)

    return wrapped


def limit_pixels(ctx: click.Context, param: click.Parameter, value: int) -> None:  # noqa: ARG001
    """Tell Pillow, which refuses what has more than twice its limit."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = value // 2


def limit_bytes(ctx: click.Context, param: click.Parameter, value: int) -> None:  # noqa: ARG001
    """Tell the readers of everything else."""
    from segfix.formats.limits import limits

    limits.max_bytes = value


max_pixels = click.option(
    "--max-pixels",
    type=click.IntRange(2),
    default=500_000_000,
    show_default=True,
    expose_value=False,
    callback=limit_pixels,
    metavar="N",
    help="Refuse larger pictures, arrays and frames: a small file may unpack to any size.",
)
max_bytes = click.option(
    "--max-bytes",
    type=click.IntRange(1),
    default=1 << 30,
    show_default=True,
    expose_value=False,
    callback=limit_bytes,
    metavar="N",
    help="Refuse arrays (.npy, .npz, .mat, .flo) that unpack to more, and JSON and lists of more "
    "than half of it, which take many times their size.",
)


def limited(command: _Command) -> _Command:
    """The limits of every command that reads pictures."""
    return max_pixels(max_bytes(command))


@dataclass(frozen=True)
class BatchOptions:
    """The options of every command that makes one file of each file.

    Attributes:
        recursive: Whether to go into folders within.
        overwrite: Whether to replace results that exist.
        workers: Files worked on at a time; None: as many as suit the command.
        max_failures: Stop after this many.
        as_json: Print JSON.
        quiet: No progress bar and no summary.
    """

    recursive: bool
    overwrite: bool
    workers: int | None
    max_failures: int | None
    as_json: bool
    quiet: bool

    def run(
        self,
        jobs: Iterable[_Job],
        work: Callable[[_Job], dict[str, Any]],
        unit: str,
        *,
        workers: int | None = None,
    ) -> Summary:
        """Do all jobs; see `segfix.inference.batch.Batch`.

        Args:
            jobs: One per output file.
            work: Does a job.
            unit: What a job is, for the progress bar.
            workers: Where none are asked for; None: one per core.
        """
        from segfix.inference.batch import Batch
        from segfix.inference.model import available_threads

        return Batch(jobs, work, unit).run(
            workers=self.workers or workers or available_threads(),
            max_failures=self.max_failures,
            quiet=self.quiet,
        )


def batch(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that makes one file of each file, as `batch`."""

    @functools.wraps(command)
    def wrapped(**given: Any) -> Any:
        names = (field.name for field in fields(BatchOptions))
        return command(batch=BatchOptions(**{name: given.pop(name) for name in names}), **given)

    options = (quiet, as_json, max_failures, limited, workers, overwrite, recursive)
    return functools.reduce(lambda decorated, option: option(decorated), options, wrapped)


def out_folder(default: str) -> Callable[[_Command], _Command]:
    """-o FOLDER."""
    return click.option(
        "-o",
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(default),
        show_default=True,
        help="Folder for the results.",
    )


@contextmanager
def missing_extra(extra: str) -> Iterator[None]:
    """Turn a failing import of an optional package into advice."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} isn't installed; this needs the extra {extra!r}: "
            f"pip install 'segfix-refine[{extra}]' (in a checkout: pip install '.[{extra}]')"
        ) from error


def check_folders(source: Path, out: Path, name: str) -> None:
    """Refuse to write into the folder that is read."""
    if not source.exists():
        return
    folder = source if source.is_dir() else source.parent
    if out.resolve() == folder.resolve():
        raise click.UsageError(f"{out} is the folder of {name}; choose another one with -o.")


def list_offsets(source: Path, *, recursive: bool, leave_out: Sequence[Path]) -> list[Entry]:
    """List offset maps; two files that could both be one photograph's are refused."""
    if not source.exists():
        raise PairingError(
            f"{source}: no such file or folder; make it: segfix predict-offsets IMAGES -o {source}"
        )
    from segfix.formats import OFFSET_SUFFIXES, list_entries

    entries = list_entries(
        source, OFFSET_SUFFIXES, what="offset maps", recursive=recursive, leave_out=leave_out
    )
    for entry in entries:
        if entry.problem:
            raise PairingError(entry.problem)
    return entries


def check_results(results: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse results that would replace an input, however the folders lie in each other."""
    read = {path.resolve() for path in inputs}
    for path in results:
        if path.resolve() in read:
            raise click.UsageError(f"{path} would replace an input; choose another folder with -o.")
