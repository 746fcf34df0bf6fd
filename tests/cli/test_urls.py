"""URLs instead of folders: memory:// in this process, and S3 of a server on this machine."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from tests.cli.commands import run

fsspec = pytest.importorskip("fsspec")

COMMAND = Path(sys.executable).with_name("segfix")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def stored(url: str) -> dict[str, bytes]:
    system, root = fsspec.url_to_fs(url, use_listings_cache=False)
    return {name.removeprefix(f"{root}/"): system.cat_file(name) for name in system.find(root)}


def store(folder: Path, url: str) -> None:
    system, root = fsspec.url_to_fs(url, use_listings_cache=False)
    for name, content in contents(folder).items():
        system.pipe_file(f"{root}/{name}", content)


@pytest.fixture
def memory(work: Path) -> Iterator[str]:
    """The folders of `work` at a URL, and empty stages when the test is over."""
    store(work, "memory://data")
    yield "memory://data"
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    """No stage outlives its run."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


def test_urls_give_what_folders_give(work: Path, memory: str, tiny_onnx: Path) -> None:
    (work / "images" / "broken.jpg").write_bytes(b"no picture")
    store(work / "images", f"{memory}/images")
    predict = ("predict-offsets", "--weights", tiny_onnx, "--json", "-q")
    local = run(*predict, "images", "-o", "offsets")
    away = run(*predict, f"{memory}/images", "-o", f"{memory}/offsets")
    assert (local.exit_code, away.exit_code) == (1, 1)
    told = away.stdout.replace(f"{memory}/", "")
    assert json.loads(told) == json.loads(local.stdout)
    assert away.stderr == f"failed: {memory}/" + local.stderr.removeprefix("failed: ")
    assert stored(f"{memory}/offsets") == contents(work / "offsets")
    local = run("refine", "preds", "--offsets", "offsets")
    away = run(
        "refine", f"{memory}/preds", "--offsets", f"{memory}/offsets", "-o", f"{memory}/refined"
    )
    assert away.stdout.replace(f"{memory}/", "") == local.stdout
    assert stored(f"{memory}/refined") == contents(work / "refined")
    # From there to here, and one file.
    assert run("refine", f"{memory}/preds/b.png", "--offsets", "offsets", "-o", "b").exit_code == 0
    assert contents(work / "b") == {"b.png": contents(work / "refined")["b.png"]}
    assert run("refine", "preds", "--offsets", "offsets", "-o", f"{memory}/up").exit_code == 0
    assert stored(f"{memory}/up") == contents(work / "refined")


def test_predictions_at_a_url_are_looked_at(
    work: Path, memory: str, conditioned_onnx: Path
) -> None:
    predict = ("predict-offsets", "--weights", conditioned_onnx, "--json", "-q")
    local = run(*predict, "images", "--preds", "preds")
    away = run(*predict, f"{memory}/images", "--preds", f"{memory}/preds", "-o", f"{memory}/found")
    told = away.stdout.replace(f"{memory}/", "").replace("found", "offsets")
    assert json.loads(told) == json.loads(local.stdout)
    assert stored(f"{memory}/found") == contents(work / "offsets")
    refine = ("refine", f"{memory}/labels", "--offsets", f"{memory}/found", "-q")
    assert run(*refine, "-o", f"{memory}/other").stderr == (
        "segfix: 3 of 3 offset maps were made for other predictions, such as that of "
        f"{memory}/labels/a.png; run predict-offsets again with --preds {memory}/labels.\n"
    )


def test_what_is_stored_is_skipped_and_what_is_foreign_kept(
    work: Path, memory: str, tiny_onnx: Path
) -> None:
    predict = ("predict-offsets", "--weights", tiny_onnx, f"{memory}/images", "-o", f"{memory}/o")
    assert run(*predict, "--shard", "2/2").stdout == f"{memory}/o: 1 written\n"
    assert list(stored(f"{memory}/o")) == ["b.png"]
    assert run(*predict).stdout == f"{memory}/o: 2 written, 1 already there\n"
    system = fsspec.filesystem("memory")
    foreign = stored(f"{memory}/labels")["a.png"]
    system.pipe_file("/data/o/a.png", foreign)
    system.pipe_file("/data/o/c.png", system.cat_file("/data/o/c.png")[:-5])
    again = run(*predict)
    assert again.exit_code == 1
    assert again.stdout == f"{memory}/o: 1 written, 1 already there, 1 failed\n"
    assert f"failed: {memory}/o/a.png: exists and is not what this run would make" in again.stderr
    assert stored(f"{memory}/o")["a.png"] == foreign
    assert run(*predict, "--overwrite").stdout == f"{memory}/o: 3 written\n"
    assert len(set(stored(f"{memory}/o").values())) == 1


def test_records_beside_results_are_stored_with_them(
    work: Path, memory: str, tiny_onnx: Path
) -> None:
    assert run("predict-offsets", "images", "--weights", tiny_onnx).exit_code == 0
    np.save("a.npy", np.array(Image.open("preds/a.png")))
    fsspec.filesystem("memory").put_file("a.npy", "/data/arrays/a.npy")
    refine = ("refine", f"{memory}/arrays", "-o", f"{memory}/r")
    assert run(*refine).exit_code == 0
    assert set(stored(f"{memory}/r")) == {"a.npy", ".a.npy.segfix"}
    assert "1 already there" in run(*refine).stdout
    twice = run("refine", f"{memory}/r", "-o", f"{memory}/twice")
    assert twice.stdout.endswith("; 1 had been refined before\n")
    other = run(*refine, "--scale", 2)
    assert other.exit_code == 1
    assert "exists and is not what this run would make" in other.stderr


def test_trees_are_mirrored_and_the_folder_of_the_results_is_not_read(
    work: Path, memory: str, tiny_onnx: Path
) -> None:
    system = fsspec.filesystem("memory")
    system.pipe_file("/data/images/town/day/d.png", stored(f"{memory}/images")["a.png"])
    predict = ("predict-offsets", "--weights", tiny_onnx, f"{memory}/images")
    assert run(*predict, "-o", f"{memory}/flat").stdout == f"{memory}/flat: 3 written\n"
    for _ in range(2):
        assert run(*predict, "-r", "-o", f"{memory}/images/offsets").exit_code == 0
        assert set(stored(f"{memory}/images/offsets")) == {
            *("a.png", "b.png", "c.png", "town/day/d.png")
        }
    within = run(*predict, "-o", f"{memory}/images/")
    assert within.exit_code == 2
    assert f"{memory}/images is the folder of IMAGES" in " ".join(within.stderr.split())


@pytest.mark.parametrize(
    ("command", "source"), [("targets", "labels"), ("convert", "offsets"), ("show", "images")]
)
def test_every_command_that_makes_a_file_of_a_file_takes_urls(
    work: Path, memory: str, tiny_onnx: Path, command: str, source: str
) -> None:
    run("predict-offsets", "images", "--weights", tiny_onnx)
    store(work / "offsets", f"{memory}/offsets")

    def arguments(root: str) -> list[str]:
        more = ["--labels", f"{root}labels", "--format", "npz"]
        more = {"show": more[:2], "convert": more[2:]}.get(command, [])
        return [command, f"{root}{source}", "-o", f"{root}made", *more]

    assert run(*arguments("")).exit_code == 0
    assert run(*arguments(f"{memory}/")).exit_code == 0
    assert stored(f"{memory}/made") == contents(work / "made")


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("predict-offsets", "hdfs://data/images"), 2, "hdfs://data/images: not read; expected s3"),
        (("predict-offsets", "memory://data/../images"), 2, "without empty parts, . and .."),
        (("predict-offsets", "memory://data/nowhere"), 2, "memory://data/nowhere: no such file"),
        (("predict-offsets", "memory://data"), 2, "memory://data: no images here"),
        (("refine", "memory://data/preds", "--offsets", "memory://data/no"), 2, "data/no: no such"),
        (("refine", "memory://data/r.json"), 2, "memory://data/r.json: files of instances are"),
        (("predict-offsets", "memory://data/clip.mp4"), 2, "memory://data/clip.mp4: a video is"),
        (("evaluate", "memory://data/r.json", "labels"), 2, "instances are read here only"),
        (("report", "preds", "memory://data/labels"), 2, "only files here are read; copy the fil"),
        (("report", "preds", "labels", "--against", "memory://data/r"), 2, "only files here are"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    work: Path, memory: str, arguments: tuple[str, ...], status: int, told: str
) -> None:
    for name in ("r.json", "clip.mp4"):
        fsspec.filesystem("memory").pipe_file(f"/data/{name}", b"[]")
    Path("offsets").mkdir()
    result = run(*arguments, *([] if arguments[0] == "evaluate" else ["-o", "out"]))
    assert result.exit_code == status
    assert told in " ".join(result.stderr.split())
    assert "segfix-" not in result.output
    assert not Path("out").exists()


def test_scores_of_urls_are_those_of_folders(work: Path, memory: str, tiny_onnx: Path) -> None:
    run("predict-offsets", "images", "--weights", tiny_onnx)
    run("refine", "preds")
    (work / "refined" / "b.png").write_bytes(b"no picture")
    (work / "labels" / "c.png").rename("labels/spare.png")
    store(work, memory)
    fsspec.filesystem("memory").rm("/data/labels/c.png")

    def evaluate(root: str, *more: str) -> Result:
        return run("evaluate", f"{root}preds", f"{root}labels", *more)

    for name in ("", "after="):
        local = evaluate("", "--against", f"{name}refined")
        away = evaluate(f"{memory}/", "--against", f"{name}{memory}/refined")
        assert local.exit_code == away.exit_code == 1
        assert away.stdout == local.stdout
        local_notes, notes = (
            [line for line in result.stderr.splitlines() if "image/s]" not in line]
            for result in (local, away)
        )
        assert [note.replace(f"{memory}/", "") for note in notes] == local_notes
        assert f"failed: {memory}/refined/b.png: " in away.stderr
        assert f"failed: {memory}/labels/spare.png: no prediction" in away.stderr
        assert f"({memory}/preds/c.png)" in away.stderr


def test_file_urls_are_paths(work: Path, tiny_onnx: Path) -> None:
    Path("images").rename("my images")
    url = Path("my images").absolute().as_uri()
    assert "%20" in url
    out = Path("offsets").absolute().as_uri()
    assert run("predict-offsets", url, "-o", out, "--weights", tiny_onnx).exit_code == 0
    assert set(contents(work / "offsets")) == {"a.png", "b.png", "c.png"}


def test_without_the_extra_the_remedy_is_told(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "s3", raising=False)
    result = run("predict-offsets", "s3://bucket/images")
    assert result.exit_code == 1
    assert "pip install 'segfix-refine[remote]'" in result.stderr
    assert result.stderr.count("\n") == 1


def process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COMMAND), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | environment,
    )


def test_s3_as_a_user_types_it(work: Path, tiny_onnx: Path, s3_server: str) -> None:
    store(work, "s3://bucket/data")
    predict = ("predict-offsets", "s3://bucket/data/images", "--weights", tiny_onnx)
    first = process(*predict, "-o", "s3://bucket/data/offsets", "--shard", "1/2")
    assert first.returncode == 0, first.stderr
    assert first.stdout == "s3://bucket/data/offsets: 2 written\n"
    second = run(*predict, "-o", "s3://bucket/data/offsets", "--shard", "2/2")
    assert second.stdout == "s3://bucket/data/offsets: 1 written\n"
    assert run(*predict[:1], "images", *predict[2:]).exit_code == 0
    assert stored("s3://bucket/data/offsets") == contents(work / "offsets")
    refine = ("refine", "s3://bucket/data/preds", "--offsets", "s3://bucket/data/offsets")
    refined = run(*refine, "-o", "s3://bucket/data/refined")
    assert refined.stdout.startswith("s3://bucket/data/refined: 3 written; 5.00% of the pixels")
    again = run(*refine, "-o", "s3://bucket/data/refined")
    assert again.stdout == "s3://bucket/data/refined: 0 written, 3 already there\n"


def test_s3_faults_are_one_line(work: Path, tiny_onnx: Path, s3_server: str) -> None:
    store(work / "images", "s3://bucket/images")
    predict = ("predict-offsets", "--weights", tiny_onnx, "-q")
    nowhere = run(*predict, "s3://no-such-bucket/images")
    assert nowhere.exit_code == 2
    assert nowhere.stderr == "segfix: s3://no-such-bucket/images: no such file or folder.\n"
    unkept = run(*predict, "s3://bucket/images/a.png", "-o", "s3://no-such-bucket/offsets")
    assert unkept.exit_code == 1
    assert "s3://no-such-bucket/offsets/a.png: can't be read: no such bucket" in unkept.stderr
    unknown = process(
        *predict, "s3://bucket/images", AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY=""
    )
    assert unknown.returncode == 1
    assert unknown.stderr == (
        "segfix: s3://bucket/images: can't be listed (Unable to locate credentials); check the "
        "network and the credentials: AWS's own (aws configure, AWS_PROFILE, AWS_ENDPOINT_URL) "
        "are taken.\n"
    )
