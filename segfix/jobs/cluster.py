"""A batch on a Ray cluster: paths travel and rows come back, pictures never do."""

from __future__ import annotations

import io
import logging
import os
import pickle
import platform
import socket
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from segfix import __version__
from segfix.errors import DeviceError, MissingExtraError, SegfixError
from segfix.files.limits import Limits, current_limits, limit_reading
from segfix.jobs.pool import hide_progress
from segfix.jobs.run import Batch, Summary
from segfix.jobs.run_settings import Workers
from segfix.jobs.task import Row

_Job = TypeVar("_Job")

BLOCKS_PER_WORKER, MOST_ROWS = 8, 16
"""Jobs are handed out a few at a time: often enough that no worker waits for another in the end."""

MOST_DEATHS = 3
"""Give up on a job after this many worker deaths."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


class UnfitError(SegfixError):
    """A machine of the cluster can't work on this batch, so that nothing goes on."""


class Deaths:
    """Count, as an actor, how many workers have died at each job that is not done."""

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        """Count a beginning; returns how often the job was begun before, and not ended."""
        self.begun[number] += 1
        return self.begun[number] - 1

    def end(self, number: int) -> None:
        """Forget a job that has ended, well or not."""
        del self.begun[number]


class Worker:
    """Hold, as an actor, the network; read, work and write."""

    def __init__(
        self, work: bytes, version: str, folder: Path, mark: Path | None, counting: Any
    ) -> None:
        # Relative paths mean here what they mean to the user.
        with suppress(OSError):
            os.chdir(folder)
        node = platform.node()
        self.fault, self.counting = "", counting
        self.work: Callable[[Any], Row] | None = None
        self.limits = Limits()
        if version != __version__:
            self.fault = f"{node} has segfix {__version__}, not {version}; install the same one."
        elif mark is not None and not mark.exists():
            self.fault = (
                f"{mark.parent}: not the same folder on {node}; results need a folder that all "
                "machines share, or a URL (-o s3://…)."
            )
        else:
            self.work, self.limits = pickle.loads(work)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Give a job's outcome: what it reports, or the exception that ended it."""
        outcome: Row | Exception
        try:
            outcome = self.do(int(row["number"]), pickle.loads(row["job"]))
        except Exception as error:
            outcome = error
        return {"number": row["number"], "outcome": pickle.dumps(outcome)}

    def do(self, number: int, job: Any) -> Row:
        """Work on a job, unless it is what kills the workers: then it is a failure."""
        if self.work is None:
            raise UnfitError(self.fault)
        import ray

        if ray.get(self.counting.begin.remote(number)) >= MOST_DEATHS:
            file = job.entry.path if hasattr(job, "entry") else job
            raise SegfixError(
                f"{file}: {MOST_DEATHS} workers died at it; out of memory? Use a smaller picture "
                "or fewer --workers."
            )
        try:
            with limit_reading(max_pixels=self.limits.max_pixels, max_bytes=self.limits.max_bytes):
                return self.work(job)
        finally:
            self.counting.end.remote(number)


def run_on_ray(
    batch: Batch[_Job],
    cluster: Workers,
    *,
    out: Path | None,
    workers: int | None = None,
    max_failures: int | None = None,
    quiet: bool = False,
) -> Summary:
    """Do all jobs of a batch, as `Batch.run` does, on the machines of a Ray cluster.

    A worker that dies is replaced, and its jobs are done again; what is written by then is found
    there and skipped. A job that kills one worker after the other is a failure.

    Args:
        batch: Its jobs and work are pickled; a network is opened anew by each worker.
        cluster: Where, and what a worker takes.
        out: Folder of the results; None where machines needn't share one.
        workers: At most so many; None: as many as the cluster has room for.
        max_failures: Stop after this many failures.
        quiet: No progress bar.

    Raises:
        SegfixError: There is no such cluster, or one of its machines is unfit.
        DeviceError: The cluster hasn't what a worker needs.
        MissingExtraError: Ray isn't installed.
    """
    jobs = list(batch.jobs)
    summary = Summary()
    if not jobs:
        return summary
    with connect_ray(cluster) as (ray, room), mark_folder(out) as mark:
        most = min(room, len(jobs), workers or room)
        rows = max(1, min(MOST_ROWS, len(jobs) // (BLOCKS_PER_WORKER * most)))
        work = ray.cloudpickle.dumps((batch.work, current_limits()))
        counting = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Deaths).remote()
        outcomes = (
            ray.data.from_items(
                [{"number": i, "job": pickle.dumps(job)} for i, job in enumerate(jobs)],
                override_num_blocks=-(-len(jobs) // rows),
            )
            # Ray Data replaces actors that die, and has their tasks done again, by itself.
            .map(
                Worker,
                fn_constructor_args=(work, __version__, Path.cwd(), mark, counting),
                concurrency=(1, most),
                num_cpus=cluster.num_cpus,
                num_gpus=cluster.num_gpus,
            )
            .iter_rows()
        )
        tried = 0
        with tqdm(total=len(jobs), unit=batch.unit, disable=hide_progress(quiet)) as bar:
            for row in outcomes:
                summary.collect(as_future(pickle.loads(row["outcome"])), jobs[row["number"]])
                tried += 1
                bar.update()
                if max_failures is not None and len(summary.failed) >= max_failures:
                    break
    summary.left = len(jobs) - tried
    summary.sort()
    return summary


def as_future(outcome: Any) -> Future[Row]:
    """Wrap an outcome as what `Summary.collect` takes.

    Raises:
        UnfitError: It is one.
    """
    if isinstance(outcome, UnfitError):
        raise outcome
    future: Future[Row] = Future()
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
    return future


@contextmanager
def connect_ray(cluster: Workers) -> Iterator[tuple[Any, int]]:
    """Connect Ray without a word, and tell how many workers its machines have room for.

    Raises:
        SegfixError: There is no such cluster, or it broke down.
        DeviceError: It has no room for one worker.
        MissingExtraError: Ray isn't installed.
    """
    # Read when Ray is imported: nothing is reported to anybody, and of its own logs what is fatal.
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} isn't installed; --engine ray needs the extra 'ray': pip install "
            "'segfix-refine[ray]' (in a checkout: pip install '.[ray]')"
        ) from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.data.DataContext.get_current().enable_progress_bars = False
    check_address(cluster.address or os.environ.get("RAY_ADDRESS", ""))
    try:
        ray.init(
            cluster.address,
            include_dashboard=None if cluster.address else False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
        found: dict[str, float] = ray.cluster_resources()
        room = found.get("CPU", 0) / cluster.num_cpus
        if cluster.num_gpus:
            room = min(room, found.get("GPU", 0) / cluster.num_gpus)
        if room < 1:
            raise DeviceError(
                f"the Ray cluster has {found.get('CPU', 0):g} CPU cores and "
                f"{found.get('GPU', 0):g} GPUs; a worker needs {cluster.num_cpus:g} and "
                f"{cluster.num_gpus:g} (--num-cpus, --num-gpus)."
            )
        # Ray tells of dead workers where our results go.
        with redirect_stdout(sys.stderr or io.StringIO()):
            yield ray, int(room)
    except (ray.exceptions.RayError, ConnectionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SegfixError(
            f"Ray: {type(error).__name__}: {reason}; is the cluster up (ray status), and "
            f"segfix-refine {__version__} installed on each of its machines?"
        ) from error
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Refuse an address where nothing answers: Ray would try it for minutes.

    Raises:
        SegfixError: It is one.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise SegfixError(
            f"Ray: nothing answers at {address} ({error}); start a cluster there (ray start "
            f"--head --port {port}), or leave the address out to use this machine alone."
        ) from error


@contextmanager
def mark_folder(out: Path | None) -> Iterator[Path | None]:
    """Put a file into the folder of the results by which a machine knows that it sees it."""
    if out is None:
        yield None
        return
    mark = Path(out, f".{uuid.uuid4().hex}.segfix-shared").absolute()
    out.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)
        # An empty folder that wasn't there is not left behind.
        with suppress(OSError):
            out.rmdir()
