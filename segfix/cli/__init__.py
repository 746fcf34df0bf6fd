"""The command line: one thin file per command over the library."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, NoReturn

import click

from segfix import __version__
from segfix.cli.extra_arguments import advise
from segfix.cli.outcome import shortened
from segfix.errors import (
    OUT_OF_MEMORY,
    ArgumentError,
    DeviceError,
    PairingError,
    SegfixError,
    one_line,
)

EXIT_FAILURE, EXIT_USAGE, EXIT_DEVICE, EXIT_INTERRUPT, EXIT_TERMINATED = 1, 2, 3, 130, 143

LAST_WRITES = 1.0
"""Seconds that an interrupted process gives to files that are being worked on."""

FROM_THE_START = ("evaluate", "report", "export", "serve", "weights", "doctor")
"""Commands that keep nothing of a run that was interrupted."""


OPTION_GROUPS = {
    "Options": (),
    "Common options": (
        *("suffix", "map", "recursive", "overwrite", "workers"),
        *("json", "csv", "quiet", "help"),
    ),
    "Large jobs": ("shard", "engine", "address", "num-cpus", "num-gpus"),
    "Limits": ("max-pixels", "max-bytes", "max-failures", "queue", "timeout"),
}
"""Headings of the help texts and the options below them; those not named here come first."""


COMMANDS = (
    *("fix", "predict-offsets", "refine", "evaluate", "show", "report", "audit", "targets"),
    *("convert", "train", "export", "segment", "serve", "weights", "doctor", "demo"),
)
"""In the order of use; each is in the module of its name."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which job queues send before they kill: what is to be saved is saved."""


class Command(click.Command):
    """A command whose help lists its options in groups, and that knows what was meant."""

    # Looked at below.
    allow_extra_args = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse arguments too many, with what to type instead; keep what was typed."""
        ctx.meta["segfix.arguments"] = [self.name, *args]
        rest = super().parse_args(ctx, args)
        if ctx.args:
            taken = [
                str(ctx.params[one.name])
                for one in self.params
                if isinstance(one, click.Argument) and ctx.params.get(one.name) is not None
            ]
            many = "s" * (len(ctx.args) > 1)
            advice = advise(self.name or "", [*taken, *ctx.args])
            # Limits of reading end here, not whenever the context is collected.
            ctx.close()
            ctx.fail(f"Got unexpected extra argument{many} ({' '.join(ctx.args)}){advice}")
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options below the headings of `OPTION_GROUPS`."""
        group_of = {name: group for group, names in OPTION_GROUPS.items() for name in names}
        groups: dict[str, list[tuple[str, str]]] = {group: [] for group in OPTION_GROUPS}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if isinstance(parameter, click.Option) and row is not None:
                name = max(parameter.opts, key=len).removeprefix("--")
                groups[group_of.get(name, "Options")].append(row)
        if not groups["Options"]:
            groups = {"Options": groups["Common options"]}
        for group, rows in groups.items():
            if rows:
                with formatter.section(group):
                    formatter.write_dl(rows)


class Loading(Mapping[str, click.Command]):
    """Commands by name, each imported when it's asked for: all take longer than some work."""

    def __init__(self) -> None:
        self._loaded: dict[str, click.Command] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)

    def __getitem__(self, name: str) -> click.Command:
        if name not in COMMANDS:
            raise KeyError(name)
        if name not in self._loaded:
            word = name.replace("-", "_")
            command = self._loaded[name] = Command(name)
            vars(command).update(vars(getattr(import_module(f"segfix.cli.{word}"), word)))
        return self._loaded[name]


class Commands(click.Group):
    """Commands in the order of use; errors of the library become one line and an exit status."""

    def __init__(self, *args: Any, **extra: Any) -> None:
        super().__init__(*args, **extra)
        vars(self)["commands"] = Loading()

    def main(self, *args: Any, **extra: Any) -> Any:
        """As click's; without arguments this is the installed command, and the process ours."""
        if args or extra:
            return super().main(*args, **extra)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, terminate)
        # Each thread of NumPy's OpenBLAS begins by waiting for work, for some 20 ms of CPU time.
        os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
        try:
            return super().main()
        except SystemExit as ended:
            if ended.code in (EXIT_INTERRUPT, EXIT_TERMINATED):
                leave(ended.code)
            raise
        finally:
            # Python would look through all that was imported for garbage, before it ends anyway;
            # of what torch imports, some then writes that it has leaked.
            if "torch" not in sys.modules:
                gc.freeze()

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002, D102
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write each command with the whole first sentence of its help."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, one.get_short_help_str(limit=1000)) for name, one in self.commands.items()]
            )

    def invoke(self, ctx: click.Context) -> Any:  # noqa: D102
        # As stderr: a name may hold bytes that are no text, a code page may lack a sign.
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="backslashreplace")
        # Of odd metadata and large pictures; what matters becomes an error.
        warnings.filterwarnings("ignore", module="PIL")
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            # Click quotes what it was given.
            vars(error)["message"] = one_line(error.message)
            raise
        except ArgumentError as error:
            command = self.commands[ctx.invoked_subcommand or ""]
            usage = click.Context(command, info_name=command.name, parent=ctx)
            raise click.UsageError(one_line(error), usage) from error
        except SegfixError as error:
            click.echo(f"segfix: {shortened(error)}", err=True)
            if isinstance(error, DeviceError):
                ctx.exit(EXIT_DEVICE)
            ctx.exit(EXIT_USAGE if isinstance(error, PairingError) else EXIT_FAILURE)
        except KeyboardInterrupt as stopped:
            how, status = "interrupted", EXIT_INTERRUPT
            if isinstance(stopped.__cause__ or stopped, Terminated):
                how, status = "terminated", EXIT_TERMINATED
            progress = f"; {stopped}" if str(stopped) else ""
            advice = "; the same command does the rest"
            if ctx.invoked_subcommand in FROM_THE_START:
                advice = ""
            elif ctx.invoked_subcommand == "train":
                advice = "; the same command with --resume goes on"
            click.echo(f"\nsegfix: {how}{progress}{advice}.", err=True)
            ctx.exit(status)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            where = error.filename or "output"
            click.echo(f"segfix: {shortened(f'{where}: {error.strerror or error}.')}", err=True)
            ctx.exit(EXIT_FAILURE)
        except MemoryError:
            click.echo(f"segfix: {OUT_OF_MEMORY}", err=True)
            ctx.exit(EXIT_FAILURE)


def terminate(*_: Any) -> NoReturn:
    """Handle SIGTERM like Ctrl-C."""
    raise Terminated


def leave(status: int) -> NoReturn:
    """End this process, whatever its threads are at: a large photograph may take minutes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from segfix.files.atomic import remove_unfinished

    latest = time.monotonic() + LAST_WRITES
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, latest - time.monotonic()))
            if thread.is_alive():
                remove_unfinished()
                for stream in (sys.stdout, sys.stderr):
                    with contextlib.suppress(OSError, ValueError):
                        stream.flush()
                os._exit(status)
    sys.exit(status)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "--version", prog_name="segfix")
def main() -> None:
    """Clean up the boundaries of any segmentation model's label maps.

    \b
    segfix fix photo.jpg mask.png              one photograph and its prediction
    segfix fix images/ preds/                  folders of them, to fixed/

    \b
    segfix predict-offsets images/             once per folder of photographs
    segfix refine preds/ --offsets offsets/    any model's label maps, as often as you like
    segfix evaluate preds/ labels/ --against refined=refined/

    \b
    segfix train --loss level-set              a segmentation network on images/ and labels/
    segfix segment images/                     its label maps, to preds/
    """  # noqa: D301
