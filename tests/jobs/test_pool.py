"""Threads and processes that work on files."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segfix.errors import SegfixError
from segfix.jobs.pool import FEW_JOBS, Threads, open_pool
from segfix.jobs.run import Batch
from segfix.jobs.task import Skipped

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux alone")


def row(number: int) -> dict[str, object]:
    if number % 5 == 1:
        raise Skipped(f"{number:03}")
    if number % 5 == 2:
        raise SegfixError(f"{number:03}: broken.")
    return {"output": f"{number:03}", "process": os.getpid()}


@linux
def test_many_jobs_are_done_by_processes_with_the_same_outcome() -> None:
    few = Batch(range(FEW_JOBS), row, "job").run(workers=2, processes=True, quiet=True)
    assert {one["process"] for one in few.done} == {os.getpid()}
    jobs = range(10 * FEW_JOBS)
    alone = Batch(jobs, row, "job").run(workers=2, quiet=True)

    def unpicklable(job: int) -> dict[str, object]:
        return row(job)

    shared = Batch(jobs, unpicklable, "job").run(workers=2, processes=True, quiet=True)
    assert os.getpid() not in {one["process"] for one in shared.done}
    assert 1 <= len({one["process"] for one in shared.done}) <= 2
    assert [one["output"] for one in shared.done] == [one["output"] for one in alone.done]
    assert (shared.skipped, shared.failed) == (alone.skipped, alone.failed)


@linux
def test_what_is_left_over_here_is_not_deleted_there(tmp_path: Path) -> None:
    # A network that waits in a circle of references: its threads are not in a copy.
    class Network:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            (tmp_path / str(os.getpid())).touch()

    def work(job: int) -> dict[str, object]:
        gc.collect()
        return row(0)

    gc.disable()
    try:
        Network()
        Batch(range(10 * FEW_JOBS), work, "job").run(workers=2, processes=True, quiet=True)
        assert list(tmp_path.iterdir()) == []
    finally:
        gc.enable()
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]


def test_one_worker_unknown_numbers_and_few_jobs_are_for_threads() -> None:
    for workers, jobs in ((1, 1000), (2, None), (2, FEW_JOBS)):
        pool, work = open_pool(workers, row, jobs)
        with pool:
            assert isinstance(pool, Threads)
            assert work is row


@linux
def test_a_process_that_is_killed_ends_the_run_with_advice() -> None:
    def die(job: int) -> dict[str, object]:
        if job == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return row(0)

    with pytest.raises(SegfixError, match="was killed; out of memory"):
        Batch(range(100), die, "job").run(workers=2, processes=True, quiet=True)


SLEEPERS = """
import signal, sys, time
from pathlib import Path
from segfix.files.atomic import atomic_path
from segfix.jobs.run import Batch

def work(number):
    with atomic_path(Path(sys.argv[1], f"{number}.txt")) as path:
        path.write_text("half")
        print(flush=True)
        time.sleep(60)

# A shell has what it runs in the background ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    Batch(range(100), work, "job").run(workers=2, processes=True, quiet=True)
except KeyboardInterrupt as stopped:
    print(stopped, flush=True)
"""


def children(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children")
    return [int(number) for number in listed.read_text().split()]


def wait_for_end(processes: list[int]) -> None:
    latest = time.monotonic() + 10
    while any(Path(f"/proc/{number}").exists() for number in processes):
        assert time.monotonic() < latest, "processes live on"
        time.sleep(0.02)


@linux
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_first_one(how: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLEEPERS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        first.stdout.readline()
        first.stdout.readline()
        workers = children(first.pid)
        assert len(workers) == 2
        first.send_signal(how)
        wait_for_end(workers)
        told = first.stdout.read().strip()
    if how == signal.SIGINT:
        assert told == "0 of 100 jobs done"
        assert [*tmp_path.iterdir()] == [], "nothing half-written is left"
