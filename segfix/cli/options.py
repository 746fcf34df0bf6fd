"""Declare the options that several commands share, each with one help text."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from segfix.errors import SegfixError, require_extra
from segfix.jobs.run_settings import RunSettings, Workers

STAGE = "segfix.stage"
"""Key of the context's `meta`: the folder of the URLs given, if any, see `place_url`."""

missing_extra = require_extra

_Command = TypeVar("_Command", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A range that NaN and infinity lie outside of."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Convert to the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Device(click.ParamType[str]):
    """auto, cpu, cuda or tensorrt, the last two with an optional :N."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the text and give it back."""
        if not re.fullmatch(r"auto|cpu|(cuda|tensorrt)(:\d+)?", str(value)):
            self.fail(f"{value!r}: expected auto, cpu, cuda, cuda:N or tensorrt.", param, ctx)
        return str(value)


class Location(click.Path):
    """A path, or a URL, which becomes its place in the stage of this run."""

    remote = True

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert to a path."""
        url = str(value)
        if not url:
            # As of a script's variable that isn't set.
            self.fail("an empty path; . is the current folder.", param, ctx)
        if url.startswith("file://"):
            from urllib.request import url2pathname

            # Not split as other URLs are: ? and # may be in names.
            rest = url.removeprefix("file://").removeprefix("localhost")
            if not rest.startswith("/"):
                self.fail(f"{url}: expected file:///FOLDER, from the root on.", param, ctx)
            value = url2pathname("/" + rest.lstrip("/"))
            if "\0" in value:
                self.fail(f"{url}: no file name holds a zero byte.", param, ctx)
        elif "://" in url and ctx is not None:
            from segfix.files.places import open_stage
            from segfix.jobs.urls import place_url

            if not self.remote:
                self.fail(f"{url}: only files here are read; copy the files here.", param, ctx)
            if STAGE not in ctx.meta:
                # Of the root, which is closed whatever else is wrong with the command.
                ctx.meta[STAGE] = ctx.find_root().with_resource(open_stage())
            try:
                return place_url(url, ctx.meta[STAGE])
            except SegfixError as error:
                self.fail(str(error), param, ctx)
        return super().convert(value, param, ctx)


class Bands(click.ParamType[tuple[int, ...]]):
    """R,G,B, or one number: bands of a photograph, from 1 on."""

    name = "bands"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Convert to numbers."""
        if not re.fullmatch(r"[1-9]\d{0,3}(,[1-9]\d{0,3},[1-9]\d{0,3})?", str(value)):
            self.fail(f"{value!r}: expected three bands such as 4,3,2, or one.", param, ctx)
        return tuple(map(int, str(value).split(",")))


class Share(click.ParamType[tuple[int, int]]):
    """I/N, I from 1 to N."""

    name = "i/n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Convert to the two numbers."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(value))
        number, total = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= total:
            self.fail(
                f"{value!r}: expected I/N with I from 1 to N; to an index from 0 on, add 1.",
                param,
                ctx,
            )
        return number, total


any_path = Location(path_type=Path)
any_path.remote = False
location = Location(path_type=Path)
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
    help="Files worked on at a time. [default: one per core; where a network looks: 2]",
)
device = click.option(
    "--device",
    type=Device(),
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda[:N]|tensorrt[:N]",
    help="Where the network runs; auto takes a GPU that works, else the CPU, and says so.",
)
weights, weights_of_videos = (
    click.option(
        "--weights",
        metavar="NAME|FILE",
        help=f"Shipped weights by name, or an ONNX file of 'segfix export'. [default: {default}]",
    )
    for default in ("hrnet_lite0", "hrnet_lite0; of videos on a CPU hrnet_lite0_int8")
)
bands = click.option(
    "--bands",
    type=Bands(),
    metavar="R,G,B",
    help="Bands of the photographs that are red, green and blue, or one that is grey, from 1 on; "
    "for TIFF files of many, such as satellites'. [default: what each file says]",
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
    """Find the first of these parameters that the user gave, and how it was typed."""
    context, typed = click.get_current_context(), click.core.ParameterSource.COMMANDLINE
    for option in context.command.params:
        if option.name in names and context.get_parameter_source(option.name) is typed:
            return option.opts[0]
    return None


def is_void_given() -> bool:
    """Tell whether the user said which id is void, so that it is meant."""
    return first_given("ignore_index") is not None


def naming(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of commands that pair files by name, as `naming`: for `pair_entries`."""

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
            from segfix.files.naming import read_name_map

            name_map = read_name_map(map_file)
        return command(naming={"suffixes": suffixes, "name_map": name_map}, **others)

    return wrapped


def limit_pixels(ctx: click.Context, param: click.Parameter, value: int) -> None:  # noqa: ARG001
    """Limit pictures until the command ends."""
    from segfix.files.limits import limit_reading

    ctx.with_resource(limit_reading(max_pixels=value))


def limit_bytes(ctx: click.Context, param: click.Parameter, value: int) -> None:  # noqa: ARG001
    """Limit everything else that is read until the command ends."""
    from segfix.files.limits import limit_reading

    ctx.with_resource(limit_reading(max_bytes=value))


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
    """Add the limits of every command that reads pictures."""
    return max_pixels(max_bytes(command))


shard = click.option(
    "--shard",
    type=Share(),
    metavar="I/N",
    help="Only the I-th of N equal shares of the files, I from 1 to N: a part for each machine.",
)


@dataclass(frozen=True, kw_only=True)
class BatchOptions(RunSettings):
    """The options of every command that makes one file of each file.

    Attributes:
        recursive: Whether to go into folders within.
        as_json: Print JSON.
        quiet: No progress bar and no summary.
    """

    recursive: bool = False
    as_json: bool = False


def batch(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of commands that make one file of each file, as `batch`."""

    @functools.wraps(command)
    def wrapped(**given: Any) -> Any:
        chosen = {name: given.pop(name) for name in names}
        list_urls(given, recursive=chosen["recursive"])
        return command(batch=BatchOptions(**chosen), **given)

    options = (quiet, as_json, max_failures, limited, workers, overwrite, recursive, shard)
    names = {field.name for field in fields(BatchOptions)} - {"cluster"}
    return functools.reduce(lambda decorated, option: option(decorated), options, wrapped)


def list_urls(given: dict[str, Any], *, recursive: bool) -> None:
    """List what is behind the URLs among a command's arguments, all but `out`."""
    if STAGE not in click.get_current_context().meta:
        return
    from segfix.files.places import StagedPath
    from segfix.jobs.urls import list_url

    for name, value in given.items():
        # --against is several, each a name and a folder.
        for path in value if isinstance(value, tuple) else [value]:
            folder = path[-1] if isinstance(path, tuple) else path
            if name != "out" and isinstance(folder, StagedPath):
                list_url(folder, recursive=recursive)


def reading_urls(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command without `batch` read URLs."""

    @functools.wraps(command)
    def wrapped(**given: Any) -> Any:
        list_urls(given, recursive=given["recursive"])
        return command(**given)

    return wrapped


def cluster(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of commands that Ray can spread over machines, to those of `batch`."""

    @click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="local: this process. ray: a Ray cluster, or this machine's cores if there is none "
        "(needs the extra 'ray').",
    )
    @click.option(
        "--address",
        metavar="HOST:PORT",
        help="Ray cluster to take. [default: RAY_ADDRESS, or the one that runs on this machine]",
    )
    @click.option(
        "--num-cpus",
        type=FiniteRange(0, min_open=True),
        metavar="N",
        help="CPU cores of each of Ray's workers; --workers says how many workers there are at "
        "most. [default: 1; as many workers as cores]",
    )
    @click.option(
        "--num-gpus",
        type=FiniteRange(0),
        metavar="N",
        help="GPUs of each of Ray's workers, where a network runs; 0.25 puts four of them on one. "
        "[default: 1 with --device cuda, else 0]",
    )
    @functools.wraps(command)
    def wrapped(
        *,
        batch: BatchOptions,
        engine: str,
        address: str | None,
        num_cpus: float | None,
        num_gpus: float | None,
        **others: Any,
    ) -> Any:
        if num_gpus and "device" not in others:
            raise click.UsageError("--num-gpus is for networks, and none runs here.")
        if engine == "ray":
            device = others.get("device", "cpu")
            gpus = float(device.startswith(("cuda", "tensorrt"))) if num_gpus is None else num_gpus
            batch = replace(batch, cluster=Workers(address, num_cpus or 1.0, gpus))
        elif given := first_given("address", "num_cpus", "num_gpus"):
            raise click.UsageError(f"{given} is for --engine ray.")
        return command(batch=batch, **others)

    return wrapped


def out_folder(default: str) -> Callable[[_Command], _Command]:
    """Add -o FOLDER."""
    return click.option(
        "-o",
        "--out",
        type=Location(path_type=Path, file_okay=False),
        default=Path(default),
        show_default=True,
        help="Folder for the results.",
    )
