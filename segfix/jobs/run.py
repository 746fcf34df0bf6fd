"""Folders of files: skip what is done, go on after a failure, say in the end what happened."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from concurrent.futures import Future
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Generic, TypeVar

from segfix.errors import (
    OUT_OF_MEMORY,
    Interrupted,
    MissingExtraError,
    PassedOverError,
    SegfixError,
    SeveralFaultsError,
)
from segfix.files.places import StagedPath
from segfix.jobs.pool import hide_progress, work_through
from segfix.jobs.run_settings import RunSettings
from segfix.jobs.task import Job, Row, Skipped, Task
from segfix.jobs.urls import is_staged
from segfix.network.session import available_threads

_Any = TypeVar("_Any")
_Job = TypeVar("_Job", bound=Job)


@dataclass
class Summary:
    """What became of the files of a run.

    Attributes:
        done: One row per file written: its output path, and what the work reports of it.
        skipped: Outputs that were there already, made from the same input with the same settings.
        failed: One text per failure, which names the file.
        left: How many files were not tried, since too many had failed; 0 where nobody knows.
        passed_over: Numbers of files that are none of those that are worked on, by their ending or
            by what they are.
        looked: Rows of offset maps that were made on the way to those files, if they are apart.
        unpaired_names: Photographs that have no prediction, where others have one; None: not
            listed.
    """

    done: list[Row] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left: int = 0
    passed_over: Counter[str] = field(default_factory=Counter)
    looked: list[Row] = field(default_factory=list)
    unpaired_names: list[str] | None = None
    _passed: list[PassedOverError] = field(default_factory=list, repr=False)

    @property
    def unpaired(self) -> int | None:
        """Return how many photographs have no prediction; None: not counted."""
        return None if self.unpaired_names is None else len(self.unpaired_names)

    def refuse_others(self) -> None:
        """Make failures of files that were looked into and left, if there were no others."""
        if not (self.done or self.skipped or self.failed):
            self.failed += sorted(map(str, self._passed))
            self.passed_over -= Counter(passed.kind for passed in self._passed)

    def sort(self) -> None:
        """Sort by name: what ends first depends on the machine."""
        for rows in (self.skipped, self.failed):
            rows.sort()
        self.done.sort(key=lambda row: str(row["output"]))

    def collect(self, future: Future[Row], job: object = None) -> None:
        """Enter one job's outcome."""
        # Of a pair, the file that is worked on.
        path = getattr(getattr(job, "entry", None), "path", None)
        try:
            self.done.append(future.result())
        except Skipped as skipped:
            self.skipped.append(str(skipped))
        except PassedOverError as passed:
            self._passed.append(passed)
            self.passed_over[passed.kind] += 1
        except MissingExtraError:
            # No fault of this file's.
            raise
        except SeveralFaultsError as errors:
            self.failed += errors.texts
        except SegfixError as error:
            self.failed.append(str(error))
        except MemoryError:
            self.failed.append(f"{path}: {OUT_OF_MEMORY}" if path else OUT_OF_MEMORY)
        except OSError as error:
            where = StagedPath(error.filename) if error.filename else path or "input/output"
            self.failed.append(f"{where}: {error.strerror or error}.")


def run_task(
    task: Task[_Job],
    jobs: Iterable[_Job],
    out: Path,
    settings: RunSettings = RunSettings(),
    *,
    passed_over: Mapping[str, int] = MappingProxyType({}),
) -> Summary:
    """Do a task's jobs, or this machine's share of them, here or on a cluster.

    Results that are there already, made from the same with the same settings, are skipped; after a
    failure the rest is done.

    Args:
        task: What is done with each.
        jobs: One per output file, the same on every machine; an iterator is asked for the next one
            when there is room.
        out: Folder of the results.
        settings: How the jobs are spread.
        passed_over: Of `list_entries`, for the summary.

    Raises:
        Interrupted: Ctrl-C.
        SegfixError: A process was killed, or the cluster can't be used.
    """
    jobs = take_share(jobs, settings.shard)
    work = functools.partial(task.do, out=out, overwrite=settings.overwrite)
    batch = Batch(jobs, work, task.unit)
    if settings.cluster is not None:
        from segfix.jobs.cluster import run_on_ray

        summary = run_on_ray(
            batch,
            settings.cluster,
            out=None if isinstance(out, StagedPath) else out,
            workers=settings.workers,
            max_failures=settings.max_failures,
            quiet=settings.quiet,
        )
    else:
        # What fsspec runs in threads of its own is not in the copy of a process.
        remote = isinstance(out, StagedPath) or (task.processes and any(map(is_staged, jobs)))
        summary = batch.run(
            workers=settings.workers or (2 if task.network else available_threads()),
            processes=task.processes and not remote,
            max_failures=settings.max_failures,
            quiet=settings.quiet,
        )
    if settings.shard is None:
        summary.refuse_others()
    summary.passed_over.update(passed_over)
    return summary


def take_share(jobs: Iterable[_Any], shard: tuple[int, int] | None) -> Iterable[_Any]:
    """Take every total-th job from the number-th on, for a shard (number, total) from (1, 1) on."""
    if shard is None:
        return jobs
    share = itertools.islice(jobs, shard[0] - 1, None, shard[1])
    return share if isinstance(jobs, Iterator) else list(share)


@dataclass(frozen=True)
class Batch(Generic[_Any]):
    """Jobs of any kind and what to do with each.

    Attributes:
        jobs: An iterator is asked for the next one when there is room. If it raises `SegfixError`,
            that is a failure and the last there was.
        work: Does a job; returns what it reports, raises `Skipped` or `SegfixError`.
        unit: What a job is, for the progress bar.
    """

    jobs: Iterable[_Any]
    work: Callable[[_Any], Row]
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
            Interrupted: Ctrl-C; jobs that run aren't waited for.
            SegfixError: A process was killed.
        """
        summary, tried = Summary(), 0
        total = len(self.jobs) if isinstance(self.jobs, Sized) else None

        def take_jobs() -> Iterator[_Any]:
            nonlocal tried
            jobs = iter(self.jobs)
            while max_failures is None or len(summary.failed) < max_failures:
                try:
                    job = next(jobs, None)
                except SegfixError as error:
                    summary.failed.append(str(error))
                    return
                if job is None:
                    return
                tried += 1
                yield job

        bar = None
        if not (hide_progress(quiet) or total == 1):
            # For one small file, the import would take as long as the work.
            from tqdm import tqdm

            bar = tqdm(total=total, unit=self.unit)
        outcomes = work_through(
            take_jobs(), self.work, workers=workers, total=total, processes=processes
        )
        try:
            with nullcontext() if bar is None else bar, closing(outcomes):
                for job, future in outcomes:
                    summary.collect(future, job)
                    if bar is not None:
                        bar.update()
        except KeyboardInterrupt as stopped:
            done = len(summary.done) + len(summary.skipped)
            raise Interrupted(done, self.unit, total, len(summary.failed)) from stopped
        summary.left = total - tried if total is not None else 0
        summary.sort()
        return summary
