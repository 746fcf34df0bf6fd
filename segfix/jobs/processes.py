"""Copies of this process that work on files."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any

from segfix.files.atomic import remove_unfinished

PARENT_DIED = 1
"""Linux's PR_SET_PDEATHSIG."""

_work: Callable[[Any], Any] | None = None


class Processes(ProcessPoolExecutor):
    """Copies of this process for one kind of work; if the block ends with an error, they end, too.

    Args:
        workers: How many.
        work: Needn't be picklable, unlike jobs and results.
    """

    def __init__(self, workers: int, work: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("fork")
        super().__init__(workers, context, initializer=_begin, initargs=(work,))
        # What is left over here is not deleted there: of a network, threads would be waited for
        # that are not copied. With the first job, all processes begin.
        gc.freeze()
        self.submit(os.getpid)
        gc.unfreeze()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            for process in multiprocessing.active_children():
                process.terminate()
        self.shutdown(wait=kind is None, cancel_futures=kind is not None)


def _begin(work: Callable[[Any], Any]) -> None:
    """In a new process: leave Ctrl-C to the first one, and end with it."""
    global _work  # noqa: PLW0603 - a process has one kind of work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PARENT_DIED, signal.SIGKILL)


def _end(*_: Any) -> None:
    remove_unfinished()
    os._exit(1)


def do_work(job: Any) -> Any:
    """Do a job, in a process of `Processes`."""
    assert _work is not None
    return _work(job)
