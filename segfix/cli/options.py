"""Options that several commands share, each with one help text."""

from __future__ import annotations

import functools
import itertools
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from segfix.errors import MissingExtraError, PairingError, SegfixError

if TYPE_CHECKING:
    from segfix.files import Entry
    from segfix.jobs.cluster import Workers
    from segfix.jobs.run import Summary
    from segfix.jobs.urls import Stage

STAGE = "segfix.stage"
"""Key of the context's `meta`: the `Stage` of the URLs given, if any."""

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


class Location(click.Path):
    """A path, or a URL, which becomes its place in the stage of this run."""

    remote = True

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """To a path."""
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
            from tempfile import TemporaryDirectory

            from segfix.jobs.urls import Stage

            if not self.remote:
                self.fail(f"{url}: only files here are read; copy the files here.", param, ctx)
            if STAGE not in ctx.meta:
                # Of the root, which is closed whatever else is wrong with the command.
                folder = ctx.find_root().with_resource(TemporaryDirectory(prefix="segfix-"))
                ctx.meta[STAGE] = Stage(Path(folder).resolve())
            try:
                return ctx.meta[STAGE].place(url)
            except SegfixError as error:
                self.fail(str(error), param, ctx)
        return super().convert(value, param, ctx)


class Share(click.ParamType[tuple[int, int]]):
    """I/N, I from 1 to N."""

    name = "i/n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """To the two numbers."""
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
            from segfix.files.pairing import read_name_map

            name_map = read_name_map(map_file)
        return command(naming={"suffixes": suffixes, "name_map": name_map}, **others)

    return wrapped


def limit_pixels(ctx: click.Context, param: click.Parameter, value: int) -> None:  # noqa: ARG001
    """Tell Pillow, which refuses what has more than twice its limit."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = value // 2


def limit_bytes(ctx: click.Context, param: click.Parameter, value: int) -> None:  # noqa: ARG001
    """Tell the readers of everything else."""
    from segfix.files.limits import limits

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


shard = click.option(
    "--shard",
    type=Share(),
    metavar="I/N",
    help="Only the I-th of N equal shares of the files, I from 1 to N: a part for each machine.",
)


@dataclass(frozen=True)
class BatchOptions:
    """The options of every command that makes one file of each file.

    Attributes:
        shard: Which share of the files, from 1, of how many; None: all.
        recursive: Whether to go into folders within.
        overwrite: Whether to replace results that exist.
        workers: Files worked on at a time; None: as many as suit the command.
        max_failures: Stop after this many.
        as_json: Print JSON.
        quiet: No progress bar and no summary.
        stage: Of the URLs among the arguments; None: there is none.
        cluster: Ray's workers; None: threads of this process.
    """

    shard: tuple[int, int] | None
    recursive: bool
    overwrite: bool
    workers: int | None
    max_failures: int | None
    as_json: bool
    quiet: bool
    stage: Stage | None = None
    cluster: Workers | None = None

    def run(
        self,
        jobs: Iterable[_Job],
        work: Callable[[_Job, Path], dict[str, Any]],
        unit: str,
        *,
        out: Path,
        result: Callable[[_Job, Path], Path],
        network: bool = False,
        processes: bool = False,
    ) -> Summary:
        """Do all jobs, or this machine's share; see `segfix.jobs.run.Batch`.

        Args:
            jobs: One per output file, the same on every machine.
            work: Does a job, of which the result goes into the folder it is given.
            unit: What a job is, for the progress bar.
            out: The folder of the results.
            result: Where in it the result of a job goes.
            network: Whether one network does the work on all cores: two workers are enough, one
                of which reads and writes.
            processes: Whether work changes nothing in this process, so that others may do it.
        """
        from segfix.jobs.run import Batch
        from segfix.network.session import available_threads

        if self.shard:
            number, total = self.shard
            share = itertools.islice(jobs, number - 1, None, total)
            jobs = share if isinstance(jobs, Iterator) else list(share)
        if self.stage is None:

            def do(job: _Job) -> dict[str, Any]:
                return work(job, out)
        else:
            from segfix.jobs.remote_work import work_remotely

            do = functools.partial(
                work_remotely,
                out=out,
                stage=self.stage,
                work=work,
                result=result,
                overwrite=self.overwrite,
            )
        batch = Batch(jobs, do, unit)
        if self.cluster is not None:
            from segfix.jobs.cluster import run_on_ray

            summary = run_on_ray(
                batch,
                self.cluster,
                out=None if self.stage and self.stage.holds(out) else out,
                workers=self.workers,
                max_failures=self.max_failures,
                quiet=self.quiet,
            )
            summary.failed = [self.told(text) for text in summary.failed]
            return summary
        return batch.run(
            workers=self.workers or (2 if network else available_threads()),
            processes=processes and self.stage is None,
            max_failures=self.max_failures,
            quiet=self.quiet,
        )

    def told(self, text: str) -> str:
        """A text with URLs instead of their places."""
        return text if self.stage is None else str(self.stage.told(text))


def batch(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that makes one file of each file, as `batch`."""

    @functools.wraps(command)
    def wrapped(**given: Any) -> Any:
        chosen = {name: given.pop(name) for name in names}
        with staged(given, recursive=chosen["recursive"]) as stage:
            return command(batch=BatchOptions(**chosen, stage=stage), **given)

    options = (quiet, as_json, max_failures, limited, workers, overwrite, recursive, shard)
    names = {field.name for field in fields(BatchOptions)} - {"stage", "cluster"}
    return functools.reduce(lambda decorated, option: option(decorated), options, wrapped)


@contextmanager
def staged(given: Mapping[str, Any], *, recursive: bool) -> Iterator[Stage | None]:
    """List what is behind the URLs among a command's arguments; errors inside tell the URLs.

    Args:
        given: The arguments; `out` is not listed.
        recursive: Whether folders within are read.

    Yields:
        The stage; None where there is no URL.
    """
    stage: Stage | None = click.get_current_context().meta.get(STAGE)
    if stage is None:
        yield None
        return
    try:
        for name, value in given.items():
            # --against is several, each a name and a folder.
            for path in value if isinstance(value, tuple) else [value]:
                folder = path[-1] if isinstance(path, tuple) else path
                if name != "out" and isinstance(folder, Path) and stage.holds(folder):
                    stage.list(folder, recursive=recursive)
        yield stage
    except SegfixError as error:
        raise type(error)(stage.told(str(error))) from error
    except click.UsageError as error:
        raise click.UsageError(stage.told(error.format_message()), error.ctx) from error


def staging(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command without `batch` read URLs: it is given their `stage`."""

    @functools.wraps(command)
    def wrapped(**given: Any) -> Any:
        with staged(given, recursive=given["recursive"]) as stage:
            return command(stage=stage, **given)

    return wrapped


def cluster(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of commands that Ray can spread over machines; below `batch`, whose they are."""

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
            from segfix.jobs.cluster import Workers

            device = others.get("device", "cpu")
            gpus = float(device.startswith(("cuda", "tensorrt"))) if num_gpus is None else num_gpus
            batch = replace(batch, cluster=Workers(address, num_cpus or 1.0, gpus))
        elif given := first_given("address", "num_cpus", "num_gpus"):
            raise click.UsageError(f"{given} is for --engine ray.")
        return command(batch=batch, **others)

    return wrapped


def out_folder(default: str) -> Callable[[_Command], _Command]:
    """-o FOLDER."""
    return click.option(
        "-o",
        "--out",
        type=Location(path_type=Path, file_okay=False),
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
    # Asked of the system, as some take preds and PREDS for one.
    if out.exists() and out.samefile(folder):
        raise click.UsageError(f"{out} is the folder of {name}; choose another one with -o.")


def list_offsets(source: Path, *, recursive: bool, leave_out: Sequence[Path]) -> list[Entry]:
    """List offset maps; two files that could both be one photograph's are refused."""
    if not source.exists():
        raise PairingError(
            f"{source}: no such file or folder; make it: segfix predict-offsets IMAGES -o {source}"
        )
    from segfix.files import list_entries
    from segfix.formats import OFFSET_SUFFIXES

    entries = list_entries(
        source, OFFSET_SUFFIXES, what="offset maps", recursive=recursive, leave_out=leave_out
    )
    for entry in entries:
        if entry.problem:
            raise PairingError(entry.problem)
    return entries


def check_results(results: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse results that would replace an input, however the folders lie in each other."""
    real = functools.cache(os.path.realpath)

    def place(path: Path | str) -> tuple[str, str]:
        folder, name = os.path.split(path)
        return real(folder), name

    # A result takes the place of a link; an input is both the link and where it leads.
    read = set[tuple[str, str]]()
    for path in inputs:
        read.add(place(path))
        if path.is_symlink():
            read.add(place(real(path)))
    for path in results:
        if place(path) in read:
            raise click.UsageError(f"{path} would replace an input; choose another folder with -o.")
