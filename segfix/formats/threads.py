"""Threads that work on files, and what becomes of them when a run is interrupted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import TracebackType


class Threads(ThreadPoolExecutor):
    """Threads that are waited for at the end of a block, unless it ends with an error (Ctrl-C).

    Then what waits is dropped, and what runs is left to itself: results are written whole or not
    at all, so that a process may end in the middle.
    """

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown(wait=kind is None, cancel_futures=kind is not None)
