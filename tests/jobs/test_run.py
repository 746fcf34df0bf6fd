from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from segfix.errors import SegfixError
from segfix.files import Entry
from segfix.jobs import pool
from segfix.jobs.run import Batch, run_task
from segfix.jobs.run_settings import RunSettings
from segfix.jobs.task import Task


def work(job: int) -> dict[str, Any]:
    if job % 5 == 4:
        raise SegfixError(f"job {job}")
    return {"output": str(job)}


def test_jobs_that_end_in_an_error_end_in_a_failure() -> None:
    def jobs() -> Iterator[int]:
        yield from range(3)
        raise SegfixError("the video is broken")

    summary = Batch(jobs(), work, "frame").run(quiet=True)
    assert [row["output"] for row in summary.done] == ["0", "1", "2"]
    assert summary.failed == ["the video is broken"]
    assert summary.left == 0


def test_an_iterator_is_asked_only_when_there_is_room() -> None:
    lock, waiting, most = threading.Lock(), 0, 0

    def jobs() -> Iterator[int]:
        nonlocal waiting, most
        for job in range(0, 100, 5):
            with lock:
                waiting += 1
                most = max(most, waiting)
            yield job

    def finish(job: int) -> dict[str, Any]:
        nonlocal waiting
        with lock:
            waiting -= 1
        return work(job)

    assert len(Batch(jobs(), finish, "frame").run(workers=2, quiet=True).done) == 20
    assert most <= 4


def test_after_too_many_failures_the_rest_is_counted_but_of_an_iterator() -> None:
    summary = Batch(list(range(4, 500, 5)), work, "file").run(max_failures=2, quiet=True)
    assert len(summary.failed) + summary.left == 100
    assert summary.left > 90
    endless = Batch(iter(range(4, 10**9, 5)), work, "frame").run(max_failures=2, quiet=True)
    assert (len(endless.failed) >= 2, endless.left) == (True, 0)


@pytest.mark.parametrize("total", [1, 2, 3, 7, 20])
def test_shares_are_disjoint_equal_and_complete(total: int) -> None:
    jobs = [Entry(Path(f"{job:02d}.jpg"), f"{job:02d}") for job in range(11)]
    task = Task[Entry](lambda *_: {}, "job")

    def share(number: int, jobs: Iterable[Entry]) -> list[str]:
        settings = RunSettings(shard=(number, total), workers=1)
        summary = run_task(task, jobs, Path("out"), settings)
        assert summary.left == 0
        return [row["output"] for row in summary.done]

    shares = [share(number, jobs) for number in range(1, total + 1)]
    assert sorted(itertools.chain(*shares)) == [f"out/{job.stem}.png" for job in jobs]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert shares == [share(number, iter(jobs)) for number in range(1, total + 1)]


@pytest.mark.parametrize(
    ("jobs", "told"),
    [
        ([0, 1, 9, 3], "2 of 4 images done, 1 failed"),
        (iter([0, 1, 9, 3]), "2 images done, 1 failed"),
    ],
)
def test_an_interrupted_run_says_what_is_done_and_waits_for_nothing(
    monkeypatch: pytest.MonkeyPatch, jobs: Any, told: str
) -> None:
    stuck, go_on = threading.Event(), threading.Event()

    def work_or_wait(job: int) -> dict[str, Any]:
        if job == 3:
            stuck.set()
            go_on.wait(60)
        return work(job)

    def wait_until_stuck(running: set[Any], **options: Any) -> Any:
        if len(running) == 1:
            assert stuck.wait(60)
            raise KeyboardInterrupt
        return wait(running, **options)

    monkeypatch.setattr(pool, "wait", wait_until_stuck)
    with pytest.raises(KeyboardInterrupt) as stopped:
        Batch(jobs, work_or_wait, "image").run(quiet=True)
    assert str(stopped.value) == told
    assert not go_on.is_set()
    go_on.set()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_progress_bar_stays_out_of_files(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr("sys.stderr", stream)
    Batch(["a", "b"], lambda name: {"output": name}, "map").run()
    assert ("map/s" in stream.getvalue()) == terminal
    monkeypatch.setattr("sys.stderr", None)
    assert len(Batch(["a"], lambda name: {"output": name}, "map").run().done) == 1
