"""What is written, read by each tool's own reader, where that is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segfix.formats import OffsetMap, write_offset_map
from segfix.geometry import make_targets
from tests.cli import commands

pytest.importorskip("shapely", reason="needs the extra: pip install 'segfix-refine[polygons]'")

from tests.cli.refine_instances.instance_files import SIZE, TRUE, out_of, refined
from tests.cli.refine_instances.test_polygons import MASKS, SHAPES
from tests.cli.refine_instances.tool_files import (
    mask_of,
    write_cvat,
    write_label_studio,
    write_labelme,
    write_yolo,
)

run = partial(commands.run, "refine")


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    targets = make_targets(TRUE[0] + 2 * TRUE[1].astype(np.uint8))
    offsets = OffsetMap.encode(targets.boundary_map == 1, targets.direction_map, 0.95)
    write_offset_map(Path("offsets/a.png"), offsets)
    Path("images").mkdir()
    Image.new("RGB", SIZE[::-1], (90, 120, 30)).save("images/a.jpg")


def test_labelme() -> None:
    labelme = pytest.importorskip("labelme._label_file")
    path = write_labelme([*SHAPES, *MASKS])
    assert run(path).exit_code == 0
    found = labelme.LabelFile(str(out_of(path))).shapes
    kinds = ["point", "polygon", "polygon", "mask", "mask", "rectangle"]
    assert [shape["shape_type"] for shape in found] == kinds
    for old, shape in zip(MASKS, found[3:5], strict=True):
        (left, top), (right, bottom) = np.array(shape["points"], int)
        mask = np.zeros(SIZE, bool)
        mask[top : bottom + 1, left : right + 1] = shape["mask"]
        assert np.array_equal(mask, refined(mask_of(old)))


def test_label_studio() -> None:
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    ours = json.loads(write_label_studio(MASKS).read_text())
    results = ours[0]["annotations"][0]["result"]
    for mask, result in zip(MASKS, results, strict=False):
        packed = brush.mask2rle(np.asarray(mask, np.uint8) * 255)
        # Theirs may end with a byte for nothing.
        assert result["value"]["rle"] == packed[: len(result["value"]["rle"])]
    path = write_label_studio(MASKS)
    assert run(path).exit_code == 0
    results = json.loads(out_of(path).read_text())[0]["annotations"][0]["result"]
    for mask, result in zip(MASKS, results, strict=False):
        layer = brush.decode_rle(result["value"]["rle"]).reshape(*SIZE, 4)[:, :, 3]
        assert np.array_equal(layer != 0, refined(mask_of(mask)))


def test_cvat() -> None:
    datumaro = pytest.importorskip("datumaro")
    path = write_cvat([*SHAPES, *MASKS])
    assert run(path).exit_code == 0
    for name in ("val/a.jpg", "empty.jpg"):
        photograph = Path("refined/images", name)
        photograph.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("images/a.jpg", photograph)
    dataset = datumaro.Dataset.import_from(str(out_of(path).parent), "cvat")
    (item,) = [item for item in dataset if item.annotations]
    kinds = sorted(annotation.type.name for annotation in item.annotations)
    assert kinds == ["bbox", "mask", "mask", "points", "polygon", "polygon"]


def test_yolo() -> None:
    if find_spec("ultralytics") is None:
        pytest.skip("needs ultralytics")
    path = write_yolo(SHAPES[:1])
    assert run("yolo").exit_code == 0
    label = Path("refined/labels") / path.name
    # Of boxes beside polygons, Ultralytics takes one kind.
    label.write_text("".join(label.read_text().splitlines(keepends=True)[1:]))
    # In a process of its own: it changes how Pillow opens pictures.
    program = (
        "from ultralytics.data.utils import verify_image_label\n"
        f"given = ('images/a.jpg', {str(label)!r}, '', False, 3, 0, 0, False)\n"
        "print(verify_image_label(given)[3][0].tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    ring = np.array(json.loads(done.stdout.splitlines()[-1])) * SIZE[::-1]
    assert np.array_equal(mask_of(ring.tolist()), refined(mask_of(SHAPES[0])))


@pytest.mark.parametrize("kind", ["geojson", "gpkg"])
def test_geojson_and_geopackage(kind: str) -> None:
    raw = pytest.importorskip("pyogrio.raw")
    shapely = pytest.importorskip("shapely")
    from tests.cli.refine_instances import geo_files

    geo_files.refer()
    rings = [[shape] for shape in SHAPES if isinstance(shape, list)]
    write = geo_files.write_geojson if kind == "geojson" else geo_files.write_gpkg
    path = write(rings)
    assert run(path, "--simplify", 0).exit_code == 0
    found, _, geometries, _ = raw.read(
        out_of(path), layer=None if kind == "geojson" else "my houses"
    )
    crs = geo_files.WGS84 if kind == "geojson" else geo_files.UTM
    assert found["crs"] == {"geojson": "EPSG:4326", "gpkg": "EPSG:32633"}[kind]
    areas = [shapely.from_wkb(one) for one in geometries if one is not None]
    masks = []
    for area in areas:
        if area.geom_type != "Point":
            (ring,) = shapely.get_rings(geo_files.to_pixels(area, crs))
            masks.append(mask_of(shapely.get_coordinates(ring).tolist()))
    for old, mask in zip(SHAPES, masks, strict=True):
        assert np.array_equal(mask, refined(mask_of(old)))
