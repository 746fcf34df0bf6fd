"""`segfix fix` of files of instances: whose masks are looked at, and what is told of the others."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.cli.commands import run
from tests.cli.predictions import WARNING

LEFT, RIGHT = ([[x, 0, x + 18, 0, x + 18, 24, x, 24]] for x in (0, 22))


@pytest.fixture
def weights(conditioned_onnx: Path) -> tuple[object, ...]:
    return ("--weights", conditioned_onnx)


def write(path: str, found: Mapping[str, Any], size: Sequence[int] = (24, 40)) -> Path:
    """Write COCO annotations: polygons by the file names of images."""
    where = Path(path)
    where.parent.mkdir(exist_ok=True)
    images = [
        {"id": number, "file_name": name, "height": size[0], "width": size[1]}
        for number, name in enumerate(found)
    ]
    annotations = [
        {"id": 9 - number, "image_id": number, "category_id": 1, "segmentation": polygons}
        for number, polygons in enumerate(found.values())
    ]
    where.write_text(json.dumps({"images": images, "annotations": annotations}))
    return where


@pytest.mark.parametrize("sound", [{}, {"b.png": LEFT}])
def test_each_image_that_fails_is_told_once(
    work: Path, weights: tuple[object, ...], sound: dict[str, Any]
) -> None:
    given = {"gone1.png": LEFT, "a.png": LEFT, "gone2.png": LEFT, **sound}
    path = write("all.json", given)
    Image.new("RGB", (20, 20)).save("images/a.png")
    done = run("fix", "images", path, *weights, "-q", "-o", "out.json")
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert sum("fit its photograph images/a.png" in line for line in lines) == 1
    gone = [line for line in lines if "no photograph of that name; say with --map" in line]
    assert [line[: len("failed: all.json: image 0")][-1] for line in gone] == ["0", "2"]
    assert Path("out.json").exists() == bool(sound)


def test_each_image_without_an_offset_map_is_told(work: Path, offsets: Path) -> None:
    path = write("all.json", {"gone1.png": LEFT, "gone2.png": LEFT})
    done = run("refine", path, "-q")
    assert done.exit_code == 1
    for number, line in enumerate(done.stderr.splitlines()):
        assert line.startswith(f"failed: all.json: image {number}: no offset map of that name")
    assert number == 1


@pytest.mark.parametrize("kept", [(), ("--keep-offsets", "kept")])
def test_a_photograph_is_looked_at_for_each_file_of_it(
    work: Path, weights: tuple[object, ...], kept: tuple[str, ...]
) -> None:
    for name, polygons in {"x": LEFT, "y": RIGHT}.items():
        path = write(f"both/{name}.json", {"a.png": polygons})
        assert run("fix", "images/a.png", path, *weights, "-o", f"alone/{name}.json").exit_code == 0
    done = run("fix", "images", "both", *weights, *kept, "-o", "fixed")
    told = "fixed: 2 written, 2 photographs without a prediction (b.png, c.png)"
    assert (done.exit_code, done.stdout.partition(";")[0]) == (0, told), done.stderr
    assert WARNING not in done.stderr
    for name in "xy":
        assert Path(f"fixed/{name}.json").read_bytes() == Path(f"alone/{name}.json").read_bytes()
    if kept:
        assert sorted(path.name for path in Path("kept").iterdir()) == ["a.png", "a.y.png"]
    # What keeps one offset map of each photograph says how.
    looked = run("predict-offsets", "images", "--preds", "both", *weights)
    assert "as are the instances of both/x.json: image 0; keep one of them, or run segfix fix" in (
        looked.stderr
    )


def test_names_without_a_photograph_are_told(work: Path, weights: tuple[object, ...]) -> None:
    path = write("all.json", {f"gone{number}.png": LEFT for number in range(5)})
    done = run("fix", "images", path, *weights)
    assert done.exit_code == 2
    assert "instances in all.json, which has those of gone0, gone1, gone2, …; names" in done.stderr


def test_two_files_of_shapes_on_one_raster(
    work: Path, weights: tuple[object, ...], pred: NDArray[np.uint8]
) -> None:
    pytest.importorskip("pyproj", reason="needs the extra: pip install 'segfix-refine[geo]'")
    Path("map").mkdir()
    Path("images/a.png").rename("map/a.png")
    Path("map/a.pgw").write_text("0.5\n0\n0\n-0.5\n500000.25\n5399999.75\n")
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    Path("map/a.prj").write_text("EPSG:32633")
    for name, polygons in {"a": LEFT, "other": RIGHT}.items():
        flat = np.array(polygons[0], float).reshape(-1, 2)
        ring = [[500_000 + x / 2, 5_400_000 - y / 2] for x, y in [*flat.tolist(), flat[0].tolist()]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features = [{"type": "Feature", "properties": {}, "geometry": geometry}]
        document = {"type": "FeatureCollection", "crs": crs, "features": features}
        Path(f"map/{name}.geojson").write_text(json.dumps(document))
    done = run("fix", "map", "map", *weights)
    assert (done.exit_code, done.stderr) == (0, "weights conditioned on cpu\n")
    path = Path("map/other.geojson")
    assert run("fix", "map/a.png", path, *weights, "-o", "alone.geojson").exit_code == 0
    assert Path("fixed/other.geojson").read_bytes() == Path("alone.geojson").read_bytes()


@pytest.mark.parametrize("kept", [(), ("--keep-offsets", "kept")])
def test_one_photograph_of_several_in_a_file(
    work: Path, weights: tuple[object, ...], kept: tuple[str, ...]
) -> None:
    path = write("all.json", {"b.png": LEFT, "a.png": LEFT, "gone.png": RIGHT})
    fix = ("fix", "images/a.png", path, *weights, *kept)
    done = run(*fix)
    assert (done.exit_code, "failed" in done.stderr) == (0, False), done.stderr
    assert done.stdout.startswith("all_fixed.json: 1 written; ")
    assert "; 2 images of other photographs kept" in done.stdout
    before, after = (json.loads(Path(name).read_text()) for name in (path, "all_fixed.json"))
    assert after["annotations"][::2] == before["annotations"][::2]
    alone = write("alone.json", {"a.png": LEFT})
    run("fix", "images/a.png", alone, *weights)
    (one,) = json.loads(Path("alone_fixed.json").read_text())["annotations"]
    assert after["annotations"][1]["segmentation"] == one["segmentation"]
    assert "already there" in run(*fix).stdout
    # Nor does it matter where they are files, of which the others aren't written.
    for name in ("a.png", "b.png", "c.png"):
        write(f"each/{name}.json", {name: LEFT})
    each = run("fix", "images/a.png", "each", *weights)
    assert each.exit_code == 0, each.stderr
    told = "fixed: 1 written, 2 passed over: 2 with instances of other photographs; "
    assert each.stdout.startswith(told)
    assert [path.name for path in Path("fixed").glob("[!.]*")] == ["a.png.json"]


def test_of_one_photograph_that_no_image_is_of(work: Path, weights: tuple[object, ...]) -> None:
    path = write("all.json", {"x/a.png": LEFT, "y/a.png": LEFT, "b.png": LEFT})
    unclear = run("fix", "images/a.png", path, *weights)
    assert unclear.exit_code == 1
    assert [line.split(": ")[2] for line in unclear.stderr.splitlines() if "failed" in line] == [
        "image 0",
        "image 1",
    ]
    none = run("fix", "images/a.png", write("all.json", {"b.png": LEFT, "c.png": LEFT}), *weights)
    assert (none.exit_code, "which has those of b, c; names" in none.stderr) == (2, True)
    Path("images/a.png").write_bytes(b"broken")
    broken = run("fix", "images/a.png", write("all.json", {"a.png": LEFT, "b.png": LEFT}), *weights)
    (line,) = [line for line in broken.stderr.splitlines() if "failed" in line]
    assert (broken.exit_code, "images/a.png: " in line) == (1, True)


@pytest.mark.parametrize(
    ("segmentation", "extra"),
    [(LEFT, "polygons"), ({"size": [24, 40], "counts": [40, 920]}, "eval")],
)
def test_the_extra_that_brings_all_is_named(
    work: Path,
    weights: tuple[object, ...],
    offsets: Path,
    monkeypatch: pytest.MonkeyPatch,
    segmentation: Any,
    extra: str,
) -> None:
    path = write("all.json", {"a.png": segmentation, "b.png": segmentation})
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    look = ("predict-offsets", "images", "--preds", path, "-o", "looked", *weights)
    for command in (("fix", "images", path, *weights), ("refine", path), look):
        done = run(*command)
        assert done.exit_code == 1
        assert done.stderr.count("pycocotools isn't installed") == 1
        assert f"pycocotools isn't installed; this needs the extra {extra!r}" in done.stderr
