"""Folders from Python: what the commands do, without them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import segfix
from segfix.cli import main
from segfix.errors import ArgumentError, PairingError
from segfix.refinement.apply import RefineSettings


def run(*arguments: object) -> None:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_folders_give_the_bytes_of_the_commands(work: Path, tiny_onnx: Path) -> None:
    run("predict-offsets", "images", "-o", "o", "--weights", tiny_onnx)
    predicted = segfix.predict_folder("images", "offsets", weights=tiny_onnx)
    assert [row["output"] for row in predicted.done] == [f"offsets/{name}.png" for name in "abc"]
    assert contents("offsets") == contents("o")
    run("refine", "preds", "-o", "r", "--scale", 2)
    refined = segfix.refine_folder(Path("preds"), out="refined", settings=RefineSettings(2.0))
    assert all(row["changed"] for row in refined.done)
    assert contents("refined") == contents("r")
    again = segfix.refine_folder("preds", out="refined", settings=RefineSettings(2.0), workers=1)
    assert (again.done, again.skipped) == ([], [f"refined/{name}.png" for name in "abc"])
    other = segfix.refine_folder("preds", out="refined", max_failures=1, workers=1)
    assert len(other.failed) >= 1
    assert other.failed[0].startswith("refined/a.png: exists and is not what this run would make")
    shared = segfix.refine_folder("preds", out="refined", overwrite=True, shard=(2, 2))
    assert [row["input"] for row in shared.done] == ["preds/b.png"]


def test_predictions_are_looked_at(work: Path, conditioned_onnx: Path) -> None:
    run("predict-offsets", "images", "--preds", "preds", "-o", "o", "--weights", conditioned_onnx)
    summary = segfix.predict_folder("images", weights=conditioned_onnx, preds="preds")
    assert [row["prediction"] for row in summary.done] == [f"preds/{name}.png" for name in "abc"]
    assert contents("offsets") == contents("o")


def test_what_contradicts_itself_is_refused(work: Path, tiny_onnx: Path) -> None:
    with pytest.raises(ArgumentError, match="images is the folder of IMAGES"):
        segfix.predict_folder("images", "images", weights=tiny_onnx)
    with pytest.raises(ArgumentError, match="look at photographs alone"):
        segfix.predict_folder("images", weights=tiny_onnx, preds="preds")
    with pytest.raises(PairingError, match="make it: segfix predict-offsets"):
        segfix.refine_folder("preds", "nowhere")
    with pytest.raises(TypeError, match="colour"):
        segfix.refine_folder("preds", colour="red")


@pytest.fixture
def memory(work: Path) -> Iterator[str]:
    """The folders of `work` at a URL."""
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.put(f"{work}/", "/folders/", recursive=True)
    yield "memory://folders"
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_urls_are_folders_too(work: Path, memory: str, tiny_onnx: Path) -> None:
    segfix.predict_folder("images", weights=tiny_onnx)
    summary = segfix.predict_folder(f"{memory}/images", f"{memory}/offsets", weights=tiny_onnx)
    assert summary.failed == []
    assert summary.done[0]["input"] == f"{memory}/images/a.png"
    refined = segfix.refine_folder(f"{memory}/preds", f"{memory}/offsets", "here")
    segfix.refine_folder("preds", out="refined")
    assert [row["output"] for row in refined.done] == [f"here/{name}.png" for name in "abc"]
    assert contents("here") == contents("refined")


def test_faults_of_files_behind_urls_name_the_urls(work: Path, memory: str) -> None:
    fsspec = pytest.importorskip("fsspec")
    np.save("large.npy", np.zeros((60, 60)))
    fsspec.filesystem("memory").put_file("large.npy", "/folders/arrays/large.npy")
    offsets = Path("offsets")
    offsets.mkdir()
    (offsets / "large.png").write_bytes(b"no picture")
    summary = segfix.refine_folder(f"{memory}/arrays", "offsets", f"{memory}/out")
    assert summary.failed == [
        "offsets/large.png: not a readable offset map; expected a picture file."
    ]
    Path("large.npy").write_bytes(b"no array")
    fsspec.filesystem("memory").put_file("large.npy", "/folders/arrays/large.npy")
    segfix.write_offset_map(offsets / "large.png", segfix.OffsetMap(np.zeros((60, 60), np.uint8)))
    summary = segfix.refine_folder(f"{memory}/arrays", "offsets", f"{memory}/out")
    assert summary.failed == [
        f"{memory}/arrays/large.npy: not a NumPy array; write one with np.save."
    ]
