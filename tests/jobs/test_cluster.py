"""Batches on Ray: a real cluster of two nodes, on this machine."""

from __future__ import annotations

import functools
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from segfix import __version__
from segfix.errors import DeviceError, MissingExtraError, SegfixError
from segfix.files import Entry
from segfix.files.limits import Limits
from segfix.jobs import cluster as cluster_module
from segfix.jobs.cluster import QUIET, UnfitError, Worker, mark_folder, run_on_ray
from segfix.jobs.run import Batch, Summary
from segfix.jobs.run_settings import Workers
from segfix.jobs.task import Skipped

# Of Ray itself, as it starts.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

COMMAND = Path(sys.executable).with_name("segfix")


ONE_CORE = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 << 20}


@pytest.fixture(scope="module")
def cluster(s3_server: Any) -> Iterator[Any]:
    """Two nodes of one core each, which find the S3 server, too."""
    os.environ |= QUIET
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    running = cluster_utils.Cluster(initialize_head=True, head_node_args=ONE_CORE)
    running.add_node(**ONE_CORE)
    yield running
    running.shutdown()


@pytest.fixture
def address(cluster: Any) -> str:
    return str(cluster.address)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(COMMAND), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


@pytest.mark.cluster
def test_the_same_bytes_and_the_same_report_as_one_process(
    work: Path, tiny_onnx: Path, address: str
) -> None:
    Path("images/broken.png").write_bytes(Path("images/a.png").read_bytes()[:60])
    ray = ("--engine", "ray", "--address", address)
    predict = ("predict-offsets", "images", "--weights", tiny_onnx, "--json", "-q")
    alone, together = (
        run(*predict, "-o", folder, *more) for folder, more in (("one", ()), ("many", ray))
    )
    assert alone.returncode == together.returncode == 1
    assert "Warning" not in together.stderr
    assert together.stderr.splitlines()[-1].startswith("failed: images/broken.png: ")
    assert json.loads(together.stdout.replace("many", "one")) == json.loads(alone.stdout)
    assert contents(work / "many") == contents(work / "one")
    assert len(contents(work / "many")) == 3
    assert [path.name for path in (work / "many").iterdir() if path.name.startswith(".")] == []
    refine = ("refine", "preds", "--offsets", "one", "--json")
    alone, together = (
        run(*refine, "-o", folder, *more) for folder, more in (("two", ()), ("more", ray))
    )
    assert alone.returncode == together.returncode == 0
    assert json.loads(together.stdout.replace("more", "two")) == json.loads(alone.stdout)
    assert contents(work / "more") == contents(work / "two")


@pytest.mark.cluster
def test_predictions_are_looked_at_by_the_workers(
    work: Path, conditioned_onnx: Path, address: str
) -> None:
    predict = ("predict-offsets", "images", "--weights", conditioned_onnx, "--preds", "preds")
    alone = run(*predict, "-o", "one", "--json", "-q")
    together = run(*predict, "-o", "many", "--json", "-q", "--engine", "ray", "--address", address)
    assert alone.returncode == together.returncode == 0, together.stderr
    assert json.loads(together.stdout.replace("many", "one")) == json.loads(alone.stdout)
    assert contents(work / "many") == contents(work / "one")


@pytest.mark.cluster
def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path, address: str) -> None:
    def work(job: int) -> dict[str, Any]:
        import ray

        path = tmp_path / f"{job}.txt"
        if path.exists():
            raise Skipped(str(path))
        if job % 5 == 4:
            raise SegfixError(f"job {job}")
        time.sleep(0.05)
        first = tmp_path / "killed"
        if job == 17 and not first.exists():
            first.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        path.touch()
        return {"output": str(path), "node": ray.get_runtime_context().get_node_id()}

    batch = Batch(range(100), work, "job")
    summary = run_on_ray(batch, Workers(address), out=tmp_path, quiet=True)
    assert (tmp_path / "killed").exists()
    assert {path.name for path in tmp_path.glob("*.txt")} == {
        f"{job}.txt" for job in range(100) if job % 5 != 4
    }
    # What the dead worker had finished, but not reported, was found there.
    assert len(summary.done) + len(summary.skipped) == 80
    assert len(summary.skipped) < 16
    assert summary.failed == sorted(f"job {job}" for job in range(4, 100, 5))
    assert len({row["node"] for row in summary.done}) == 2
    few = run_on_ray(batch, Workers(address), out=None, max_failures=2, quiet=True)
    assert len(few.failed) == 2
    assert few.left > 0


@pytest.mark.cluster
def test_what_kills_every_worker_fails_alone(tmp_path: Path, address: str) -> None:
    def work(job: Entry) -> dict[str, Any]:
        if job.stem == "7":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"output": job.stem}

    jobs = [Entry(Path(f"images/{number}.png"), str(number)) for number in range(40)]
    summary = run_on_ray(Batch(jobs, work, "job"), Workers(address), out=None, quiet=True)
    assert len(summary.done) == 39
    (failed,) = summary.failed
    assert failed.startswith("images/7.png: 3 workers died at it; out of memory?")
    assert summary.left == 0


@pytest.mark.cluster
def test_a_machine_that_goes_down_loses_nothing(tmp_path: Path, cluster: Any) -> None:
    def work(job: int) -> dict[str, Any]:
        path = tmp_path / f"{job}.txt"
        if path.exists():
            raise Skipped(str(path))
        time.sleep(0.1)
        path.touch()
        return {"output": str(path)}

    node = cluster.add_node(**ONE_CORE)

    def jobs() -> Iterator[int]:
        yield from range(150)

    def take_down() -> None:
        while len(list(tmp_path.glob("*.txt"))) < 50:
            time.sleep(0.05)
        cluster.remove_node(node, allow_graceful=False)

    watching = threading.Thread(target=take_down)
    watching.start()
    summary = run_on_ray(
        Batch(jobs(), work, "job"), Workers(cluster.address), out=tmp_path, quiet=True
    )
    watching.join()
    assert len(list(tmp_path.glob("*.txt"))) == 150
    assert (len(summary.done) + len(summary.skipped), summary.failed) == (150, [])


@pytest.mark.cluster
def test_machines_work_on_their_share_of_a_bucket(
    work: Path, tiny_onnx: Path, address: str
) -> None:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("s3", use_listings_cache=False)
    system.put(f"{work}/images/", "bucket/cluster/images/", recursive=True)
    assert run("predict-offsets", "images", "--weights", tiny_onnx, "-q").returncode == 0
    predict = ("predict-offsets", "s3://bucket/cluster/images", "--weights", tiny_onnx)
    ray = ("--engine", "ray", "--address", address, "-o", "s3://bucket/cluster/offsets")
    done = run(*predict, *ray, "--shard", "1/2")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "s3://bucket/cluster/offsets: 2 written\n"
    for name in ("a.png", "c.png"):
        made = system.cat_file(f"bucket/cluster/offsets/{name}")
        assert made == (work / "offsets" / name).read_bytes()
    assert len(system.ls("bucket/cluster/offsets")) == 2


@pytest.mark.cluster
def test_a_fault_of_ours_is_raised_here(address: str) -> None:
    def work(_: int) -> dict[str, Any]:
        raise ModuleNotFoundError("no pycocotools", name="pycocotools")

    with pytest.raises(ModuleNotFoundError, match="no pycocotools"):
        run_on_ray(Batch([1], work, "job"), Workers(address), out=None, quiet=True)
    with pytest.raises(DeviceError, match=r"has 2 CPU cores and 0 GPUs; a worker needs 1 and 0.25"):
        run_on_ray(Batch([1], work, "job"), Workers(address, num_gpus=0.25), out=None, quiet=True)


@pytest.mark.cluster
def test_where_no_cluster_is_the_address_is_named() -> None:
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(SegfixError, match=f"nothing answers at 127.0.0.1:{port}"):
        run_on_ray(
            Batch([1], str, "job"),  # type: ignore[arg-type]
            Workers(f"127.0.0.1:{port}"),
            out=None,
        )


def test_a_machine_that_does_not_see_the_folder_of_the_results_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    work, row = pickle.dumps((str, Limits())), {"number": 0, "job": pickle.dumps(7)}

    def outcome(version: str, mark: Path | None) -> Any:
        return pickle.loads(Worker(work, version, tmp_path, mark, None)(row)["outcome"])

    with mark_folder(Path("offsets")) as mark:
        assert mark is not None
        assert Worker(work, __version__, tmp_path, mark, None).fault == ""
    assert not Path("offsets").exists()
    unshared = outcome(__version__, mark)
    assert isinstance(unshared, UnfitError)
    assert str(unshared).startswith(f"{tmp_path}/offsets: not the same folder on ")
    other = outcome("0.0.1", None)
    assert isinstance(other, UnfitError)
    assert f"has segfix {__version__}, not 0.0.1" in str(other)


def test_without_ray_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'segfix-refine\[ray\]'"):
        run_on_ray(Batch([1], str, "job"), Workers(), out=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "gpus", "device"),
    [("auto", 0, "cpu"), ("auto", 0.5, "cuda"), ("cuda", 1, "cuda"), ("cpu", 0, "cpu")],
)
def test_all_workers_have_the_same_kind_of_device(asked: str, gpus: float, device: str) -> None:
    assert Workers(num_gpus=gpus).device(asked) == device


@pytest.mark.parametrize(("asked", "gpus"), [("cuda:1", 1), ("cuda", 0), ("cpu", 1)])
def test_a_device_that_workers_have_not_is_refused(asked: str, gpus: float) -> None:
    with pytest.raises(DeviceError, match="num-gpus"):
        Workers(num_gpus=gpus).device(asked)


class Rows(list[dict[str, Any]]):
    """Ray's data, as far as `run_on_ray` asks for it, in this process."""

    def map(self, kind: Any, *, fn_constructor_args: tuple[Any, ...], **_: object) -> Rows:
        worker = kind(*fn_constructor_args)
        # What is ready first comes first.
        return Rows(worker(row) for row in reversed(self))

    def iter_rows(self) -> Rows:
        return self


class LocalRay(types.ModuleType):
    """What of Ray `run_on_ray` and its workers call, in this process."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.cloudpickle = pickle
        self.data = types.SimpleNamespace(from_items=lambda rows, **_: Rows(rows))

    def remote(self, **_: object) -> Any:
        def actor(kind: Any) -> Any:
            def made() -> Any:
                held = kind()
                call = functools.partial
                return types.SimpleNamespace(
                    begin=types.SimpleNamespace(remote=call(kind.begin, held)),
                    end=types.SimpleNamespace(remote=call(kind.end, held)),
                )

            return types.SimpleNamespace(remote=made)

        return actor

    @staticmethod
    def get(value: object) -> object:
        return value


def work_by_name(job: Entry) -> dict[str, Any]:
    if job.stem == "broken":
        raise SegfixError(f"{job.path}: broken.")
    if job.stem == "done":
        raise Skipped("out/done.png")
    if job.stem == "huge":
        raise MemoryError
    return {"output": f"out/{job.stem}.png"}


def test_every_outcome_finds_its_way_back_to_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = LocalRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(cluster_module, "connect_ray", lambda _: nullcontext((ray, 2)))
    out = tmp_path / "out"
    jobs = [Entry(Path(f"{stem}.png"), stem) for stem in ("b", "huge", "broken", "done", "a")]
    batch = Batch(jobs, work_by_name, "file")
    summary = run_on_ray(batch, Workers(), out=out, quiet=True)
    here = batch.run(quiet=True)
    assert summary == here
    assert [row["output"] for row in summary.done] == ["out/a.png", "out/b.png"]
    assert [text.partition(":")[0] for text in summary.failed] == ["broken.png", "huge.png"]
    assert run_on_ray(Batch([], work_by_name, "file"), Workers(), out=out) == Summary()
    stopped = run_on_ray(batch, Workers(), out=out, max_failures=1, quiet=True)
    assert (len(stopped.failed), stopped.left) == (1, 2)
    assert not out.exists()
