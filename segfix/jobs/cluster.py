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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from tqdm import tqdm

from segfix import __version__
from segfix.errors import DeviceError, MissingExtraError, SegfixError
from segfix.files import Entry, Pair
from segfix.files.limits import limits
from segfix.jobs.run import Batch, Summary, collect

_Job = TypeVar("_Job")

BLOCKS_PER_WORKER, MOST_ROWS = 8, 16
"""Jobs are handed out a few at a time: often enough that no worker waits for another in the end."""

MOST_DEATHS = 3
"""Of workers at one job; then it is left alone."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


@dataclass(frozen=True)
class Workers:
    """What runs on the cluster.

    Attributes:
        address: HOST:PORT of the cluster; None: as Ray finds one, or else starts one here.
        num_cpus: Cores of each worker.
        num_gpus: GPUs of each worker; may be a fraction.
    """

    address: str | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0

    @property
    def threads(self) -> int:
        """Of a worker's network."""
        return max(1, int(self.num_cpus))

    def device(self, asked: str) -> str:
        """Where the workers' networks run: what "auto" is, is the same on all machines.

        Raises:
            DeviceError: Workers of this kind have no such device.
        """
        kind, _, index = asked.partition(":")
        if index or (kind == "cpu" and self.num_gpus):
            raise DeviceError(
                f"device {asked!r}: Ray chooses a worker's GPU; write --device cuda, and "
                "--num-gpus 0.5 for two workers on each."
            )
        if kind in ("cuda", "tensorrt") and not self.num_gpus:
            raise DeviceError(f"device {asked!r}: --num-gpus 0 leaves the workers without a GPU.")
        return ("cuda" if self.num_gpus else "cpu") if kind == "auto" else kind


class UnfitError(SegfixError):
    """A machine of the cluster can't work on this batch, so that nothing goes on."""


class Deaths:
    """An actor: it knows for each job that is not done how many workers have died at it."""

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        """How often the job was begun before, and not ended."""
        self.begun[number] += 1
        return self.begun[number] - 1

    def end(self, number: int) -> None:
        """The job has ended, well or not."""
        del self.begun[number]


class Worker:
    """An actor: it holds the network, reads, works and writes."""

    def __init__(
        self, work: bytes, version: str, folder: Path, mark: Path | None, counting: Any
    ) -> None:
        # Relative paths mean here what they mean to the user.
        with suppress(OSError):
            os.chdir(folder)
        node = platform.node()
        self.fault, self.counting = "", counting
        self.work: Callable[[Any], dict[str, Any]] | None = None
        if version != __version__:
            self.fault = f"{node} has segfix {__version__}, not {version}; install the same one."
        elif mark is not None and not mark.exists():
            self.fault = (
                f"{mark.parent}: not the same folder on {node}; results need a folder that all "
                "machines share, or a URL (-o s3://…)."
            )
        else:
            self.work, Image.MAX_IMAGE_PIXELS, limits.max_bytes = pickle.loads(work)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A job's outcome: what it reports, or the exception that ended it."""
        outcome: dict[str, Any] | Exception
        try:
            outcome = self.do(int(row["number"]), pickle.loads(row["job"]))
        except Exception as error:
            outcome = error
        return {"number": row["number"], "outcome": pickle.dumps(outcome)}

    def do(self, number: int, job: Any) -> dict[str, Any]:
        """Work on a job, unless it is what kills the workers: then it is a failure."""
        if self.work is None:
            raise UnfitError(self.fault)
        import ray

        if ray.get(self.counting.begin.remote(number)) >= MOST_DEATHS:
            file = job.entry if isinstance(job, Pair) else job
            raise SegfixError(
                f"{file.path if isinstance(file, Entry) else file}: {MOST_DEATHS} workers died at "
                "it; out of memory? Use a smaller picture or fewer --workers."
            )
        try:
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
    with connected(cluster) as (ray, room), marked(out) as mark:
        most = min(room, len(jobs), workers or room)
        rows = max(1, min(MOST_ROWS, len(jobs) // (BLOCKS_PER_WORKER * most)))
        work = ray.cloudpickle.dumps((batch.work, Image.MAX_IMAGE_PIXELS, limits.max_bytes))
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
        with tqdm(total=len(jobs), unit=batch.unit, disable=quiet or sys.stderr is None) as bar:
            for row in outcomes:
                collect(settled(pickle.loads(row["outcome"])), summary, jobs[row["number"]])
                tried += 1
                bar.update()
                if max_failures is not None and len(summary.failed) >= max_failures:
                    break
    summary.left = len(jobs) - tried
    summary.sort()
    return summary


def settled(outcome: Any) -> Future[dict[str, Any]]:
    """An outcome as what `collect` takes.

    Raises:
        UnfitError: It is one.
    """
    if isinstance(outcome, UnfitError):
        raise outcome
    future: Future[dict[str, Any]] = Future()
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
    return future


@contextmanager
def connected(cluster: Workers) -> Iterator[tuple[Any, int]]:
    """Ray, connected without a word, and how many workers its machines have room for.

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
def marked(out: Path | None) -> Iterator[Path | None]:
    """A file in the folder of the results by which a machine knows that it sees that folder."""
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
