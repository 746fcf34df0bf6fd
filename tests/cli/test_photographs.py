"""`--bands`, scaled values, huge photographs, and predictions too large for theirs."""

from __future__ import annotations

import io
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segfix.formats import read_offset_map
from tests.cli.commands import run, run_json
from tests.fuzz.samples import banded_tiff


@pytest.fixture
def bytes_of_a(work: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(work / "images" / "a.png").convert("RGB"))


def only(folder: Path, name: str, content: bytes) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / name).write_bytes(content)


def test_scaled_values_are_said_and_give_the_same_offset_map(
    work: Path, tiny_onnx: Path, bytes_of_a: NDArray[np.uint8]
) -> None:
    given = ("--weights", tiny_onnx, "--device", "cpu")
    run("predict-offsets", "images/a.png", "-o", "plain", *given)
    tags = {262: 2, 281: 4095}
    only(work / "images", "a.tif", banded_tiff(bytes_of_a.astype(np.uint16) << 4, tags))
    done = run("predict-offsets", "images", "-o", "deep", *given)
    assert "; values scaled (12 bits ÷ 16 in 1)" in done.stdout
    row = run_json("predict-offsets", "images", "-o", "again", *given)["done"][0]
    assert row["scaling"] == "12 bits ÷ 16"
    found, plain = (read_offset_map(work / name / "a.png") for name in ("deep", "plain"))
    assert np.array_equal(found.codes, plain.codes)
    assert found.source["values"] == "uint16"
    assert "values" not in plain.source
    again = run_json("predict-offsets", "images", "-o", "deep", *given)
    assert again["skipped"] == ["deep/a.png"]


def test_bands_are_asked_for_and_recorded(
    work: Path, tiny_onnx: Path, bytes_of_a: NDArray[np.uint8]
) -> None:
    given = ("--weights", tiny_onnx, "--device", "cpu")
    run("predict-offsets", "images/a.png", "-o", "plain", *given)
    many = np.dstack([bytes_of_a, bytes_of_a[..., ::-1], bytes_of_a[..., :2]])
    only(work / "images", "a.tif", banded_tiff(many))
    asked = run("predict-offsets", "images", *given)
    assert asked.exit_code == 1
    assert "8 bands of 8-bit numbers; say which are red, green and blue, such as" in asked.stderr
    report = run_json("predict-offsets", "images", "--bands", "6,5,4", *given)
    assert len(report["done"]) == 1
    found, plain = (read_offset_map(work / name / "a.png") for name in ("offsets", "plain"))
    assert np.array_equal(found.codes, plain.codes)
    assert found.source["bands"] == [6, 5, 4]
    assert run_json("predict-offsets", "images", "--bands", "6,5,4", *given)["skipped"]
    other = run("predict-offsets", "images", "--bands", "1,2,3", *given)
    assert "exists and is not what this run would make" in other.stderr
    for wrong in ("0,1,2", "1,2", "red", "1,2,3,4", "-1"):
        assert run("predict-offsets", "images", "--bands", wrong, *given).exit_code == 2


@pytest.mark.parametrize("bands", ["3,2,1", "2"])
def test_show_draws_on_chosen_bands(work: Path, offsets: Path, bands: str) -> None:
    del offsets
    image = np.asarray(Image.open(work / "images" / "a.png").convert("RGB"))
    only(work / "images", "a.tif", banded_tiff(np.dstack([image, image])))
    given = ("--offsets", "offsets", "--no-captions")
    assert "--bands" in run("show", "images", *given).stderr
    shown = run("show", "images", *given, "--bands", bands)
    assert shown.exit_code == 0, shown.output
    chosen = image[..., [int(band) - 1 for band in bands.split(",")]] + np.zeros(3, np.uint8)
    drawn = np.asarray(Image.open(work / "shown" / "a.png").convert("RGB"))
    codes = read_offset_map(work / "offsets" / "a.png").codes
    assert np.array_equal(drawn[codes == 0], chosen[codes == 0])


def test_standard_input_says_how_values_were_scaled(
    work: Path, tiny_onnx: Path, bytes_of_a: NDArray[np.uint8]
) -> None:
    del work
    content = banded_tiff(bytes_of_a.astype(np.uint16) << 4, {262: 2, 281: 4095})
    result = run("predict-offsets", "-", "--weights", tiny_onnx, stdin=content)
    assert "segfix: values scaled (12 bits ÷ 16 in 1)" in result.stderr
    assert result.stdout_bytes.startswith(b"\x89PNG")


def test_huge_photographs_are_told_once(
    work: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del work
    given = ("predict-offsets", "images", "--weights", tiny_onnx, "--overwrite")
    assert "megapixels" not in run(*given).stderr
    monkeypatch.setattr(sys.modules["segfix.cli.predict_offsets"], "HUGE", 100)
    told = [line for line in run(*given).stderr.splitlines() if "megapixels" in line]
    assert len(told) == 1
    assert told[0].startswith("segfix: 3 of 3 have more than")
    assert "refine --fit image" in told[0]
    for less in (("--max-side", 20), ("--quiet",)):
        assert "megapixels" not in run(*given, *less).stderr


def test_large_predictions_of_another_size_are_not_unpacked(work: Path, offsets: Path) -> None:
    del offsets
    shape = (3000, 8000, 3)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    only(work / "preds", "a.npz", b"")
    with zipfile.ZipFile(work / "preds" / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("scores.npy", header.getvalue() + bytes(4 * np.prod(shape)))
    Image.fromarray(np.zeros((9000, 9000), np.uint8)).save(work / "preds" / "b.png")
    Image.fromarray(np.zeros((9000, 9000), np.uint8)).save(work / "preds" / "c.tif")
    tracemalloc.start()
    result = run("refine", "preds", "--workers", 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "preds/a.npz: 8000×3000, but its offset map" in result.stderr
    assert "preds/b.png: 9000×9000, but its offset map" in result.stderr
    assert "preds/c.tif: 9000×9000, but its offset map" in result.stderr
    assert peak < 1 << 26
