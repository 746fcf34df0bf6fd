"""Threads, or processes, that work on files, and what becomes of them when interrupted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextvars import copy_context
from types import TracebackType
from typing import Any, TypeVar

from segfix.errors import SegfixError

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")

FEW_JOBS = 16
"""So many are done by threads: processes would hardly have begun."""

BROKEN = (
    "a process that worked on files was killed; out of memory? Use smaller pictures or fewer "
    "--workers."
)


def hide_progress(quiet: bool) -> bool:
    """Tell whether a progress bar stays away: asked to, or stderr is closed or no terminal."""
    return quiet or sys.stderr is None or not sys.stderr.isatty()


class Threads(ThreadPoolExecutor):
    """Threads that are waited for at the end of a block, unless it ends with an error (Ctrl-C).

    Then what waits is dropped, and what runs is left to itself: results are written whole or not
    at all, so that a process may end in the middle. The limits of who submits hold in them, too.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call, to be made in a copy of this context."""
        return super().submit(copy_context().run, fn, *args, **kwargs)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown(wait=kind is None, cancel_futures=kind is not None)


def open_pool(
    workers: int, work: Callable[[_Job], _Result], jobs: int | None
) -> tuple[Executor, Callable[[_Job], _Result]]:
    """Processes where there is much to do, else threads; and what is to be submitted to them.

    Python runs one thread at a time, but for what NumPy and Pillow do: small files gain nothing
    from a second thread. Other systems than Linux can't copy a process safely.

    Args:
        workers: How many.
        work: Does a job, and changes nothing in this process.
        jobs: How many there are; None: nobody knows.
    """
    if workers == 1 or jobs is None or jobs <= FEW_JOBS or sys.platform != "linux":
        return Threads(workers), work
    # Not above: few files would wait for the import.
    from segfix.jobs.processes import Processes, do_work

    return Processes(min(workers, jobs), work), do_work


def work_through(
    jobs: Iterator[_Job],
    work: Callable[[_Job], _Result],
    *,
    workers: int,
    total: int | None,
    processes: bool = False,
    in_order: bool = False,
) -> Generator[tuple[_Job, Future[_Result]], None, None]:
    """Do jobs a few at a time.

    Args:
        jobs: It is asked for the next one when there is room.
        work: Does a job.
        workers: How many at a time.
        total: How many jobs there are; None: nobody knows.
        processes: Whether many jobs may be done by processes, see `open_pool`.
        in_order: Whether outcomes come in the order of the jobs, not as they end.

    Yields:
        Each job and its outcome, which has ended. Where this is closed before the end, or an error
        such as Ctrl-C comes through, jobs that run aren't waited for.

    Raises:
        SegfixError: A process was killed.
    """
    running: dict[Future[_Result], _Job] = {}
    pool, submitted = open_pool(workers, work, total if processes else None)
    room = workers + 1 if isinstance(pool, Threads) else 4 * workers
    try:
        with pool:
            while True:
                while len(running) < room and (job := next(jobs, None)) is not None:
                    running[pool.submit(submitted, job)] = job
                if not running:
                    return
                first = [next(iter(running))] if in_order else list(running)
                for future in wait(first, return_when=FIRST_COMPLETED).done:
                    if isinstance(future.exception(), BrokenExecutor):
                        future.result()
                    yield running.pop(future), future
    except BrokenExecutor as error:
        raise SegfixError(BROKEN) from error
