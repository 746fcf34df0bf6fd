"""`segfix refine` on arrays of masks in .npz and .npy files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import segfix
from segfix.formats import OffsetMap, read_offset_map
from tests.cli.refine_instances.instance_files import FOUND, SIZE, box, run


def write_archive(folder: Path, dtype: Any = bool, factor: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    masks = np.stack(FOUND[7]).astype(dtype) * dtype(factor)
    np.savez(folder / "a.npz", scores=[0.1, 0.2, 0.3], masks=masks, info=np.array(7))
    return folder / "a.npz"


def arrays_of(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path) as archive:
        return dict(archive)


def offsets_of(stem: str) -> OffsetMap:
    return read_offset_map(Path("offsets", f"{stem}.png"))


@pytest.mark.parametrize(("dtype", "factor"), [(bool, 1), (np.uint8, 255), (np.int64, 1)])
@pytest.mark.parametrize("source", ["preds", "preds/a.npz"])
def test_archives_of_masks_come_back_with_all_arrays(dtype: Any, factor: int, source: str) -> None:
    path = write_archive(Path("preds"), dtype, factor)
    assert run(source, "-o", "same", "--offsets", "zeros").exit_code == 0
    done = run(source)
    assert "refined: 1 written; 13.12% of the pixels changed" in done.stdout
    assert "1 already there" in run(source).stdout
    before, same, after = (
        arrays_of(file) for file in (path, Path("same/a.npz"), Path("refined/a.npz"))
    )
    assert list(before) == list(same) == list(after)
    for name, array in before.items():
        assert same[name].dtype == after[name].dtype == array.dtype
        assert np.array_equal(same[name], array)
    assert np.array_equal(after["masks"], segfix.refine_masks(before["masks"], offsets_of("a")))


@pytest.mark.parametrize("empty", ["keep", "drop"])
def test_an_empty_mask_of_an_archive_stays_or_is_left_out_of_all_arrays(empty: str) -> None:
    masks = np.stack([FOUND[7][0], box(8, 9, 16, 1), np.zeros(SIZE, bool)])
    Path("preds").mkdir()
    np.savez("preds/a.npz", masks=masks, scores=[0.1, 0.2, 0.3], info=np.arange(5))
    report = json.loads(run("preds", "--empty", empty, "--json", "-q").stdout)
    assert [item["place"] for item in report["emptied"]] == ([1, 2] if empty == "drop" else [1])
    after = arrays_of(Path("refined/a.npz"))
    assert after["scores"].tolist() == [0.1, 0.2, 0.3][: 3 if empty == "keep" else 1]
    assert np.array_equal(after["masks"][1:], masks[1:] if empty == "keep" else masks[:0])
    assert after["info"].tolist() == list(range(5))


@pytest.mark.parametrize("empty", ["keep", "drop"])
def test_archives_of_no_mask_come_back(empty: str) -> None:
    Path("preds").mkdir()
    np.savez("preds/a.npz", boxes=np.zeros((0, 4)), masks=np.zeros((0, *SIZE), bool))
    np.save("preds/b.npy", np.zeros((0, *SIZE), bool))
    assert run("preds", "--empty", empty).exit_code == 0
    after = arrays_of(Path("refined/a.npz"))
    assert (after["boxes"].shape, after["masks"].shape) == ((0, 4), (0, *SIZE))
    assert np.load("refined/b.npy").shape == (0, *SIZE)


@pytest.mark.parametrize(
    ("masks", "text"),
    [
        (
            np.zeros((2, 40, 61), bool),
            "array 'masks' is 61×40, but its offset map offsets/a.png is 60×40",
        ),
        (np.zeros((2, 2, *SIZE), bool), "of shape (2, 2, 40, 60)"),
        (np.array([[None]]), "'masks': an array of Python objects, which isn't read"),
    ],
)
def test_faulty_archives_fail_alone(masks: NDArray[Any], text: str) -> None:
    path = write_archive(Path("preds"))
    path.rename("preds/b.npz")
    np.savez(path, masks=masks)
    done = run("preds")
    assert done.exit_code == 1
    assert f"failed: preds/a.npz: {text}" in done.stderr
    assert Path("refined/b.npz").exists()


def test_archives_cut_short_fail_alone() -> None:
    path = write_archive(Path("preds"))
    whole = path.read_bytes()
    Path("preds/b.npz").write_bytes(whole[: len(whole) // 2])
    done = run("preds")
    assert done.exit_code == 1
    assert "failed: preds/b.npz: broken or truncated .npz file" in done.stderr
