"""Geo-references of photographs: tags of GeoTIFF, and world files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image, TiffImagePlugin

from segfix.files.georeference import read_georeference

SCALE, TIES, MATRIX, KEYS = 33550, 33922, 34264, 34735
UTM = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)
DEGREES = (1, 1, 0, 2, 1024, 0, 1, 2, 2048, 0, 1, 4326)
OF_POINTS = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 2, 3072, 0, 1, 32633)
BY_PARAMETERS = (1, 1, 0, 1, 3072, 0, 1, 32767)
DOUBLE, SHORT = 12, 3


def write_tiff(path: Path, tags: dict[int, Any], **how: Any) -> Path:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info.tagtype[tag] = SHORT if tag == KEYS else DOUBLE
        info[tag] = value
    Image.new("RGB", (6, 4)).save(path, tiffinfo=info, **how)
    return path


SIMPLE = {SCALE: (0.5, 0.25, 0.0), TIES: (0.0, 0.0, 0.0, 500.0, 700.0, 0.0)}


@pytest.mark.parametrize("how", [{}, {"big_tiff": True}])
@pytest.mark.parametrize(
    ("tags", "transform", "crs"),
    [
        ({**SIMPLE, KEYS: UTM}, [0.5, 0, 500, 0, -0.25, 700], "EPSG:32633"),
        ({**SIMPLE, KEYS: DEGREES}, [0.5, 0, 500, 0, -0.25, 700], "EPSG:4326"),
        # The tie point of the first pixel's centre.
        ({**SIMPLE, KEYS: OF_POINTS}, [0.5, 0, 499.75, 0, -0.25, 700.125], "EPSG:32633"),
        ({**SIMPLE, KEYS: BY_PARAMETERS}, [0.5, 0, 500, 0, -0.25, 700], None),
        (
            {SCALE: (0.5, 0.25, 0.0), TIES: (2.0, 4.0, 0.0, 501.0, 699.0, 0.0), KEYS: UTM},
            [0.5, 0, 500, 0, -0.25, 700],
            "EPSG:32633",
        ),
        (
            {MATRIX: (3.0, 1, 0, 50, 2, -3, 0, 70, 0, 0, 0, 0, 0, 0, 0, 1), KEYS: UTM},
            [3, 1, 50, 2, -3, 70],
            "EPSG:32633",
        ),
    ],
)
def test_tags(
    tmp_path: Path, tags: dict[int, Any], transform: list[float], crs: str | None, how: Any
) -> None:
    path = write_tiff(tmp_path / "a.tif", tags, **how)
    assert read_georeference(path) == {"transform": transform, "crs": crs}


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {KEYS: UTM},
        # Control points, from which a transform would have to be estimated.
        {SCALE: (0.5, 0.25, 0.0), TIES: (0.0, 0, 0, 1, 1, 0, 9, 9, 0, 2, 2, 0)},
        {SCALE: (0.0, 0.0, 0.0), TIES: (0.0, 0, 0, 1, 1, 0)},
        {SCALE: (float("nan"), 1.0, 0.0), TIES: (0.0, 0, 0, 1, 1, 0)},
        {MATRIX: (1.0, 2, 0, 0, 2, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)},
    ],
)
def test_none(tmp_path: Path, tags: dict[int, Any]) -> None:
    assert read_georeference(write_tiff(tmp_path / "a.tif", tags)) is None


def test_broken_and_missing_files_have_none(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", {**SIMPLE, KEYS: UTM})
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        found = read_georeference(path)
        assert found is None or found["transform"] == [0.5, 0, 500, 0, -0.25, 700]
    assert read_georeference(tmp_path / "missing.tif") is None


@pytest.mark.parametrize(
    ("name", "world"),
    [
        ("a.jpg", "a.jgw"),
        ("a.png", "a.pgw"),
        ("a.tif", "a.tfw"),
        ("a.tif", "a.wld"),
        ("a.jpg", "a.jpgw"),
    ],
)
def test_world_files(tmp_path: Path, name: str, world: str) -> None:
    path = tmp_path / name
    Image.new("RGB", (6, 4)).save(path)
    (tmp_path / world).write_text("0.5\n0.0\n0.0\n-0.25\n500.25\n699.875\n")
    assert read_georeference(path) == {"transform": [0.5, 0, 500, 0, -0.25, 700], "crs": None}
    (tmp_path / "a.prj").write_text('PROJCS["x"]\n')
    assert read_georeference(path) == {
        "transform": [0.5, 0, 500, 0, -0.25, 700],
        "crs": 'PROJCS["x"]',
    }
    (tmp_path / world).write_text("0.5\n0.0\n")
    assert read_georeference(path) is None


def test_tags_come_before_a_world_file(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", {**SIMPLE, KEYS: UTM})
    (tmp_path / "a.tfw").write_text("1\n0\n0\n-1\n0\n0\n")
    (tmp_path / "a.prj").write_text('PROJCS["x"]')
    assert read_georeference(path) == {
        "transform": [0.5, 0, 500, 0, -0.25, 700],
        "crs": "EPSG:32633",
    }
