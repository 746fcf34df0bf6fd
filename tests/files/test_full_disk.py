"""A disk that fills up: a result is whole or an error, whoever's code writes it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from segfix.errors import FileFormatError
from segfix.formats import LabelMap, OffsetMap, write_label_map, write_offset_map

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")

IDS = np.random.default_rng(0).integers(0, 255, (60, 70), dtype=np.uint8)
OFFSETS = OffsetMap.encode(IDS > 100, IDS % 8, 0.95)


@contextmanager
def longest_file(size: int) -> Iterator[None]:
    """No file may grow beyond this size, as if the disk were full."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def labels(kind: str, **rest: str) -> Callable[[Path], None]:
    label_map = LabelMap(np.stack([IDS] * 3, -1) if kind == ".webp" else IDS, rest=rest)
    return lambda out: write_label_map(out / f"map{kind}", label_map, record="{}")


def offsets(kind: str) -> Callable[[Path], None]:
    return lambda out: write_offset_map(out / f"map{kind}", OFFSETS, record={"made": "here"})


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(labels(".png"), id="png"),
        pytest.param(labels(".npy"), id="npy"),
        pytest.param(labels(".npz", key="ids"), id="npz"),
        pytest.param(labels(".webp"), id="webp"),
        pytest.param(labels(".tif"), id="tiff"),
        pytest.param(labels(".tif", compression="raw"), id="raw tiff"),
        pytest.param(labels(".tif", compression="tiff_lzw"), id="lzw tiff"),
        pytest.param(offsets(".png"), id="offsets"),
        pytest.param(offsets(".mat"), id="mat"),
        pytest.param(offsets(".npz"), id="offsets npz"),
        pytest.param(offsets(".flo"), id="flo"),
    ],
)
def test_a_full_disk_is_an_error_wherever_the_file_is_cut(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path)
    files = {path: path.read_bytes() for path in sorted(tmp_path.iterdir())}
    whole = max(map(len, files.values()))
    for path in files:
        path.unlink()
    for size in {*range(0, whole, whole // 60), *range(whole - 20, whole)}:
        with longest_file(size):
            with pytest.raises(FileFormatError) as caught:
                write(tmp_path)
            assert str(caught.value).endswith("can't be written (File too large).")
        assert list(tmp_path.iterdir()) == []
    write(tmp_path)
    assert {path: path.read_bytes() for path in sorted(tmp_path.iterdir())} == files


def test_equal_offset_maps_make_equal_files_whenever_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in ("Mon Jan  5 12:00:00 2026", "Tue Jan  6 12:00:00 2026"):
        monkeypatch.setattr("time.asctime", lambda day=day: day)
        offsets(".mat")(tmp_path)
        (tmp_path / "map.mat").rename(tmp_path / day[:3])
    assert (tmp_path / "Mon").read_bytes() == (tmp_path / "Tue").read_bytes()
