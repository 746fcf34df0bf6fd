"""Ctrl-C and SIGTERM during a training: no step is left half done."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM)
"""Signals that end a training once the step that was begun is done."""


def leave_quietly(_: int) -> None:
    """Ignore Ctrl-C in a process that makes batches, and end it without a word by SIGTERM.

    Both are sent to all processes of a terminal or a job, and the training fails and saves nothing
    if one that makes batches ends by a signal. SIGTERM is also how the training itself ends them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


@contextmanager
def hold_signals(*, quiet: bool = True) -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the block ends: half a step can't be resumed.

    Unless quiet, it says so: a step may take a while.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, _: Any) -> None:
        if not held and not quiet:
            # Past the buffers, in the middle of whose use this may be.
            with suppress(OSError):
                os.write(sys.stderr.fileno(), b"\nsegfix: the step begun is finished first\n")
        held.append(number)

    before = {number: signal.signal(number, hold) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
    if held:
        signal.raise_signal(held[0])
