"""Folders of files: skip what is done, go on after a failure, say in the end what happened."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sized
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from segfix.errors import OUT_OF_MEMORY, SegfixError
from segfix.files.atomic import check_writable
from segfix.files.pairing import Entry
from segfix.files.provenance import is_whole, read_record
from segfix.files.reading import check_regular
from segfix.jobs.pool import BROKEN, Processes, open_pool

_Job = TypeVar("_Job")


@dataclass
class Summary:
    """What became of the files of a run.

    Attributes:
        done: One row per file written: its output path, and what the work reports of it.
        skipped: Outputs that were there already, made from the same input with the same settings.
        failed: One text per failure, which names the file.
        left: How many files were not tried, since too many had failed; 0 where nobody knows.
    """

    done: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left: int = 0

    def sort(self) -> None:
        """By name: what ends first depends on the machine."""
        for rows in (self.skipped, self.failed):
            rows.sort()
        self.done.sort(key=lambda row: str(row["output"]))


class Skipped(Exception):  # noqa: N818 - it reports, nothing failed
    """Raised by work on a file whose output is there already."""


@dataclass(frozen=True)
class Batch(Generic[_Job]):
    """Jobs and what to do with each.

    Attributes:
        jobs: One per output file; an iterator is asked for the next one when there is room. If it
            raises `SegfixError`, that is a failure and the last there was.
        work: Does a job; returns what it reports, raises `Skipped` or `SegfixError`.
        unit: What a job is, for the progress bar.
    """

    jobs: Iterable[_Job]
    work: Callable[[_Job], dict[str, Any]]
    unit: str

    def run(
        self,
        *,
        workers: int = 1,
        processes: bool = False,
        max_failures: int | None = None,
        quiet: bool = False,
    ) -> Summary:
        """Do all jobs, a few at a time, in bounded memory.

        Args:
            workers: How many jobs at a time: reading and writing overlap with another's work.
            processes: Whether many jobs may be done by processes, see `open_pool`.
            max_failures: Stop after this many failures.
            quiet: No progress bar.

        Raises:
            KeyboardInterrupt: Ctrl-C; it says how much is done, and jobs that run aren't waited
                for.
            SegfixError: A process was killed.
        """
        summary, tried = Summary(), 0
        waiting = iter(self.jobs)
        running: dict[Future[dict[str, Any]], _Job] = {}
        total = len(self.jobs) if isinstance(self.jobs, Sized) else None
        bar = tqdm(total=total, unit=self.unit, disable=quiet or sys.stderr is None)
        pool, work = open_pool(workers, self.work, total if processes else None)
        room = 4 * workers if isinstance(pool, Processes) else workers + 1
        try:
            with bar, pool:
                while True:
                    full = max_failures is not None and len(summary.failed) >= max_failures
                    while not full and len(running) < room:
                        try:
                            job = next(waiting, None)
                        except SegfixError as error:
                            summary.failed.append(str(error))
                            job = None
                        if job is None:
                            break
                        tried += 1
                        running[pool.submit(work, job)] = job
                    if not running:
                        break
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        collect(future, summary, running.pop(future))
                        bar.update()
        except BrokenExecutor as error:
            raise SegfixError(BROKEN) from error
        except KeyboardInterrupt as stopped:
            done = len(summary.done) + len(summary.skipped)
            of = "" if total is None else f" of {total}"
            failed = f", {len(summary.failed)} failed" if summary.failed else ""
            stopped.args = (f"{done}{of} {self.unit}{'s' * (total != 1)} done{failed}",)
            raise
        summary.left = total - tried if total is not None else 0
        summary.sort()
        return summary


def collect(future: Future[dict[str, Any]], summary: Summary, job: object = None) -> None:
    """Enter one job's outcome into the summary."""
    # Of a pair, the file that is worked on.
    path = getattr(getattr(job, "entry", job), "path", None)
    try:
        summary.done.append(future.result())
    except Skipped as skipped:
        summary.skipped.append(str(skipped))
    except SegfixError as error:
        summary.failed.append(str(error))
    except MemoryError:
        summary.failed.append(f"{path}: {OUT_OF_MEMORY}" if path else OUT_OF_MEMORY)
    except OSError as error:
        where = error.filename or path or "input/output"
        summary.failed.append(f"{where}: {error.strerror or error}.")


def check_output(
    path: Path,
    expected: dict[str, Any],
    keys: Iterable[str],
    overwrite: bool,
    *,
    following: Iterable[str] = (),
) -> None:
    """Decide whether an output is to be made: it is missing, or one of ours cut short.

    Args:
        path: The output.
        expected: What its record will say.
        keys: Which entries of the record settle that it was made from the same with the same.
        overwrite: Whether to replace whatever is there.
        following: Of entries that are dictionaries, keys whose values follow from the others'.

    Raises:
        Skipped: It is there, whole, and made from the same input with the same settings.
        SegfixError: Something else is there, or the output can't be written.
    """
    check_regular(path)
    if overwrite or not path.exists() or not path.stat().st_size:
        check_writable(path)
        return
    text = read_record(path)
    try:
        record = json.loads(text or "null")
        ours = all(key in record for key in keys)
        same = ours and all(_without(record[key], following) == expected[key] for key in keys)
    except (TypeError, ValueError):
        ours = same = False
    whole = is_whole(path)
    if same and whole:
        raise Skipped(str(path))
    if ours and not whole:
        check_writable(path)
        return
    raise SegfixError(
        f"{path}: exists and is not what this run would make; --overwrite replaces it, -o writes "
        "elsewhere."
    )


def _without(value: Any, keys: Iterable[str]) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: one for key, one in value.items() if key not in keys}


def png_path(entry: Entry, out: Path) -> Path:
    """Where the PNG made of a file goes."""
    return output_path(out, entry.stem)


def output_path(folder: Path, stem: str, suffix: str = ".png") -> Path:
    """Where the result for the file of this stem goes."""
    return folder / f"{stem}{suffix}"
