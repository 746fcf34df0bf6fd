"""GeoJSON and GeoPackage of geo-referenced photographs in, the same kind out."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli import commands

shapely = pytest.importorskip("shapely", reason="needs the extra: pip install 'segfix-refine[geo]'")
pytest.importorskip("pyproj", reason="needs the extra: pip install 'segfix-refine[geo]'")

from segfix.polygons.regions import fill_outline  # noqa: E402
from tests.cli.refine_instances.geo_files import (  # noqa: E402
    REFERENCE,
    UTM,
    WGS84,
    read_areas,
    read_rest,
    refer,
    to_file,
    to_pixels,
    write_geojson,
    write_gpkg,
)
from tests.cli.refine_instances.instance_files import SIZE, Mask, out_of, refined  # noqa: E402
from tests.cli.refine_instances.test_polygons import SIDE_BY_SIDE  # noqa: E402
from tests.cli.refine_instances.tool_files import Ring, corners, write_text  # noqa: E402

run = partial(commands.run, "refine")
ONE: Ring = corners(9, 12, 16, 18)
OTHER: Ring = corners(6, 33, 20, 21)
HOLE: Ring = corners(13, 16, 7, 8)
WRITE: dict[str, tuple[Callable[..., Path], str]] = {
    "geojson": (write_geojson, WGS84),
    "geojson of its own system": (write_geojson, UTM),
    "geopackage": (write_gpkg, UTM),
    "geopackage in degrees": (write_gpkg, WGS84),
}
every_kind = pytest.mark.parametrize(("write", "crs"), WRITE.values(), ids=WRITE)


@pytest.fixture(autouse=True)
def references(work: Path) -> None:
    refer()


def mask_of(area: Any) -> Mask:
    """Fill an area in pixels."""
    found = np.zeros(SIZE, bool)
    for ring in shapely.get_rings(shapely.get_parts(area)):
        found ^= fill_outline(shapely.get_coordinates(ring), SIZE) != 0
    return found


@every_kind
def test_without_offsets_every_byte_stays(write: Callable[..., Path], crs: str) -> None:
    path = write([[ONE], [OTHER, HOLE]], crs)
    done = run(path, "--offsets", "zeros")
    assert (done.exit_code, done.stderr) == (0, done.stderr)
    assert "0 of 2 instances changed; 2 points, lines or empty shapes stay as they" in done.stdout
    assert out_of(path).read_bytes() == path.read_bytes()
    assert "1 already there" in run(path, "--offsets", "zeros").stdout


@every_kind
def test_areas_are_refined_and_all_else_stays(write: Callable[..., Path], crs: str) -> None:
    path = write([[ONE, HOLE], [OTHER]], crs)
    done = run(path, "--simplify", 0)
    assert (done.exit_code, done.stderr) == (0, "")
    for old, new in zip(read_areas(path), read_areas(out_of(path)), strict=True):
        before, after = mask_of(to_pixels(old, crs)), mask_of(to_pixels(new, crs))
        assert np.array_equal(after, refined(before))
        assert not np.array_equal(after, before)
        assert new.is_valid
        assert new.exterior.is_ccw
    assert read_rest(out_of(path)) == read_rest(path)
    run(path, "-o", "few")
    for exact, new in zip(
        read_areas(out_of(path)), read_areas(Path("few", path.name)), strict=True
    ):
        lines = (to_pixels(area, crs).boundary for area in (exact, new))
        assert next(lines).hausdorff_distance(next(lines)) <= 0.5 + 1e-3


@every_kind
def test_areas_that_touch_go_on_sharing_their_vertices(
    write: Callable[..., Path], crs: str
) -> None:
    path = write([[ring] for ring in SIDE_BY_SIDE], crs)
    assert "2 of 2 instances changed" in run(path).stdout
    one, two = read_areas(out_of(path))
    assert one.intersection(two).area == 0
    shared = {
        *map(tuple, shapely.get_coordinates(one).tolist()),
    } & {*map(tuple, shapely.get_coordinates(two).tolist())}
    assert len(shared) >= 2
    assert shapely.coverage_is_valid([one, two])


@every_kind
def test_what_lies_beyond_the_photograph_stays(write: Callable[..., Path], crs: str) -> None:
    over = [[-30.0, 8], [30, 9], [29, 24], [-30, 25]]
    away = corners(200, 300, 8, 9)
    path = write([[over], [away], [OTHER]], crs)
    done = run(path, "--simplify", 0)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "1 shape outside of their photograph stay as they are" in done.stdout
    old, new = read_areas(path), read_areas(out_of(path))
    assert new[1].equals_exact(old[1])
    before, after = (to_pixels(areas[0], crs) for areas in (old, new))
    frame = shapely.box(0, 0, SIZE[1], SIZE[0])
    assert np.array_equal(mask_of(after & frame), refined(mask_of(before & frame)))
    beyond = [area - frame for area in (before, after)]
    assert beyond[0].symmetric_difference(beyond[1]).area < 1e-2
    # Not a bit of its corners is another, though these went to pixels and back.
    assert {xy for xy in old[0].exterior.coords if xy[0] < to_file([[0, 0]], crs)[0][0]} < set(
        new[0].exterior.coords
    )
    assert new[0].geom_type == "Polygon"


def test_parts_survive() -> None:
    path = write_geojson([[corners(10, 11, 4, 5), corners(18, 40, 5, 5)], [OTHER]])
    document = json.loads(path.read_text())
    geometry = document["features"][2]["geometry"]
    geometry["type"] = "MultiPolygon"
    geometry["coordinates"] = [[ring] for ring in geometry["coordinates"]]
    write_text(path, json.dumps(document, indent=1))
    assert run(path, "--simplify", 0).exit_code == 0
    old, new = (to_pixels(read_areas(one)[0], WGS84) for one in (path, out_of(path)))
    assert new.geom_type == "MultiPolygon"
    assert np.array_equal(mask_of(new), refined(mask_of(old)))
    assert out_of(path).read_text().startswith('{\n "type": "FeatureCollection"')


def test_a_layer_of_polygons_becomes_one_of_multi_polygons_where_one_has_parts() -> None:
    pyogrio = pytest.importorskip("pyogrio")
    # Its middle is lost, and both ends stay.
    upper: Ring = [[9, 8], [15, 8], [15, 15], [40, 15], [40, 8], [46, 8], [46, 22], [40, 22]]
    lower: Ring = [[40, 16], [15, 16], [15, 22], [9, 22]]
    path = write_gpkg([[[*upper, *lower]], [ONE]])
    assert run(path).exit_code == 0
    assert {area.geom_type for area in read_areas(out_of(path))} == {"MultiPolygon"}
    assert ["my houses", "MultiPolygon"] in pyogrio.list_layers(out_of(path)).tolist()
    with closing(sqlite3.connect(out_of(path))) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_shapes_that_would_vanish_are_left_out_if_asked() -> None:
    thin = corners(8, 9, 16, 1)
    for path in (write_geojson([[thin], [ONE]]), write_gpkg([[thin], [ONE]])):
        assert "1 instance would have vanished and stays as it was" in run(path).stdout
        assert len(read_areas(out_of(path))) == 2
        assert run(path, "--empty", "drop", "-o", "left").exit_code == 0
        assert len(read_areas(Path("left", path.name))) == 1
    document = json.loads(Path("left/a.geojson").read_text())
    assert [feature.get("id") for feature in document["features"]] == ["p", None, 1]


def test_the_spatial_index_of_a_layer_follows() -> None:
    path = write_gpkg([[ONE], [OTHER]])
    assert run(path, "--simplify", 0).exit_code == 0
    with closing(sqlite3.connect(out_of(path))) as file:
        rows = file.execute(
            "SELECT minx, miny, maxx, maxy FROM rtree_houses ORDER BY id"
        ).fetchall()
    for area, row in zip(read_areas(out_of(path)), rows, strict=True):
        assert np.allclose(area.bounds, row, rtol=1e-6)


def test_triggers_of_gdal_and_of_other_tables_may_stay() -> None:
    path = trigger(
        """CREATE TABLE gpkg_ogr_contents (table_name TEXT PRIMARY KEY, feature_count INTEGER);
        CREATE TRIGGER "trigger_delete_feature_count_my houses" AFTER DELETE ON "my houses" BEGIN
          UPDATE gpkg_ogr_contents SET feature_count = feature_count - 1; END;
        CREATE TRIGGER log AFTER UPDATE ON notes BEGIN DELETE FROM notes; END"""
    )
    assert run(path).exit_code == 0


def test_one_offset_map_is_that_of_the_only_file_whatever_their_names() -> None:
    path = write_geojson([[ONE]], path=Path("shapes.geojson"))
    assert "no offset map of that name" in run(path).stderr
    Path("offsets/b.png").unlink()
    assert run(path).exit_code == 0


def changed(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    return write_text(path, text.replace(old, new, 1))


def tell(code: str) -> Path:
    """Write a layer in the system of a code that is none."""
    path = write_gpkg([[ONE]])
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"UPDATE gpkg_spatial_ref_sys SET organization_coordsys_id = {code}")
        file.commit()
    return path


def trigger(sql: str) -> Path:
    """Write a layer with SQL of a stranger's, who may call it as GDAL does."""
    path = write_gpkg([[ONE]])
    with closing(sqlite3.connect(path)) as file:
        file.executescript(sql)
    return path


ENDLESS = """
CREATE TABLE counted (n); CREATE TRIGGER rtree_x AFTER UPDATE ON "my houses" BEGIN
  INSERT INTO counted SELECT count(*) FROM (WITH RECURSIVE c(n) AS
    (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT n FROM c); END;
"""


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (
            lambda: trigger(
                'CREATE TRIGGER log AFTER UPDATE ON "my houses" BEGIN DELETE FROM notes; END'
            ),
            "its trigger log would run where my houses is changed, and such SQL of a file isn't",
        ),
        (lambda: trigger(ENDLESS), "its rows can't be changed (SQL that it holds runs without end"),
        (
            lambda: trigger(
                """DROP TABLE gpkg_contents; CREATE VIEW gpkg_contents AS WITH RECURSIVE
                c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c)
                SELECT n AS table_name, 'features' AS data_type FROM c"""
            ),
            "not a readable GeoPackage (SQL that it holds runs without end)",
        ),
        (lambda: write_geojson([[corners(200, 90, 9, 9)]]), "none of its 1 shapes lies on the"),
        (
            lambda: changed(write_geojson([[ONE]], UTM), UTM, "EPSG:9"),
            "coordinate reference system 'EPSG:9', which isn't known; write the shapes in",
        ),
        (
            lambda: changed(write_geojson([[ONE]], UTM), UTM, "/etc/passwd"),
            "export it in longitude and latitude of WGS 84",
        ),
        (
            lambda: changed(write_geojson([[ONE]], UTM), '"crs"', '"old"'),
            "coordinates such as 500006, 5399995.5 and no member crs, but longitude and latitude",
        ),
        (lambda: changed(write_geojson([[ONE]]), "FeatureCollection", "Feature"), "type 'Feature'"),
        (lambda: changed(write_geojson([[ONE]]), '"features"', '"shapes"'), "no list of features"),
        (lambda: changed(write_geojson([[ONE]]), "}}", "}"), "not a whole JSON file"),
        (lambda: write_text(Path("a.gpkg"), "SQLite format 3"), "not a readable GeoPackage"),
        (lambda: write_text(Path("a.gpkg"), "SQLite format 3\0" + 99 * "x"), "not a readable"),
        (lambda: tell("-1"), "layer my houses has no coordinate reference system"),
        (lambda: tell("9"), "coordinate reference system 'EPSG:9', which isn't known"),
    ],
)
def test_a_broken_file_is_named_in_one_line(write: Callable[[], Path], text: str) -> None:
    path = write()
    done = run(path)
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"failed: {path}: ")
    assert text in line
    assert not out_of(path).exists()


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        (None, "no geo-reference is known of its photograph; take the GeoTIFF"),
        ({**REFERENCE, "crs": None}, "names no coordinate reference system by a code; write that"),
        ({**REFERENCE, "crs": "EPSG:9"}, "coordinate reference system 'EPSG:9', which isn't known"),
        ({"crs": UTM}, "no geo-reference is known"),
    ],
)
def test_photographs_without_a_geo_reference_are_named(reference: Any, text: str) -> None:
    refer({"none": 1} if reference is None else reference)
    done = run(write_geojson([[ONE]]))
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert text in line


def test_features_with_a_fault_are_named_and_the_others_refined() -> None:
    path = write_geojson([[ONE], [OTHER], [ONE]])
    begin, end = path.read_text().split('"id": 1,')
    for broken in ("NaN", "Infinity", "null", '"x"', "[]"):
        faulty = re.sub(r"\[\[\[[\d.]+", f"[[[{broken}", end, count=1)
        write_text(path, f'{begin}"id": 1,{faulty}')
        done = run(path, "--overwrite")
        assert done.exit_code == 1, broken
        assert done.stderr.count("failed: ") == 1, done.stderr
        assert f"{path}: image 'a': the mask of instance 1 is broken" in done.stderr
        assert "2 of 3 instances changed" in done.stdout


def test_heights_are_lost_where_polygons_change() -> None:
    path = write_geojson([[ONE], [OTHER]], UTM)
    changed(path, "5399995.5]", "5399995.5, 31.5]")
    text = path.read_text()
    document = json.loads(text)
    for feature in document["features"][2:]:
        rings = feature["geometry"]["coordinates"]
        feature["geometry"]["coordinates"] = [[[*xy[:2], 7.5] for xy in ring] for ring in rings]
    write_text(path, json.dumps(document, indent=1))
    assert "heights are lost of 2 polygons that changed" in run(path).stdout
    assert not any(area.has_z for area in read_areas(out_of(path)))
    assert run(path, "--offsets", "zeros", "-o", "same").exit_code == 0
    assert Path("same", path.name).read_bytes() == path.read_bytes()


def test_long_edges_are_curves_in_another_system() -> None:
    # Along a parallel of latitude, which leaves its chord by 13 pixels.
    refer({"transform": [2000, 0, 440_000, 0, -2000, 5_440_000], "crs": UTM})
    ring = [[14.2, 48.7], [15.9, 48.7], [15.9, 49.05], [14.2, 49.05], [14.2, 48.7]]
    text = '{"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": '
    text += json.dumps({"type": "Polygon", "coordinates": [ring]}) + "}]}"
    path = write_text(Path("a.geojson"), text)
    assert run(path, "--simplify", 0).exit_code == 0
    (area,) = read_areas(out_of(path))
    assert np.abs(np.array(area.bounds) - (14.2, 48.7, 15.9, 49.05)).max() < 0.15


@every_kind
def test_outlines_that_cross_themselves_may_reach_beyond_the_photograph(
    write: Callable[..., Path], crs: str
) -> None:
    bow: Ring = [[-20.3, 8.1], [28.2, 24.3], [28.2, 8.2], [-20.3, 24.4]]
    path = write([[bow], [OTHER]], crs)
    assert run(path, "--simplify", 0).exit_code == 0
    (old, _), (new, _) = read_areas(path), read_areas(out_of(path))
    assert new.is_valid
    before, after = (mask_of(to_pixels(area, crs)) for area in (old, new))
    assert before.sum() > 100
    assert np.array_equal(after, refined(before))


def test_a_shape_around_the_earth_is_named() -> None:
    path = write_geojson([[ONE]])
    document = json.loads(path.read_text())
    ring = [[-170, -80], [170, -80], [170, 80], [-170, 80], [-170, -80]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    document["features"].append(feature)
    write_text(path, json.dumps(document))
    done = run(path)
    assert done.exit_code == 1
    assert "the photograph's coordinate reference system can't express" in done.stderr
    assert "1 of 2 instances changed" in done.stdout


def test_a_file_that_a_program_has_open_is_refused() -> None:
    path = write_gpkg([[ONE]])
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("UPDATE notes SET note = 'x'")
        file.commit()
        assert "a.gpkg-wal beside it shows; close the program" in run(path).stderr
    assert run(path).exit_code == 0
    assert path.read_bytes()[18:20] == b"\2\2"
    assert read_rest(out_of(path)) == read_rest(path)
    assert out_of(path).read_bytes()[18:20] == b"\2\2"


def test_shapes_are_polygons_alone() -> None:
    for path in (write_geojson([[ONE]]), write_gpkg([[ONE]])):
        done = run(path, "--as", "rle")
        assert done.exit_code == 1
        assert f"{path}: geo-referenced shapes are polygons alone; leave --as rle" in done.stderr


def test_without_the_extra_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_geojson([[ONE]])
    monkeypatch.setitem(sys.modules, "pyproj", None)
    done = run(path, "-q")
    assert done.exit_code != 0
    assert "this needs the extra 'geo': pip install 'segfix-refine[geo]'" in done.stderr


def test_folders_of_shapes_lie_beside_their_photographs() -> None:
    from PIL import Image

    write_geojson([[ONE]], path=Path("set/a.geojson"))
    Image.new("RGB", SIZE[::-1]).save("set/a.tif")
    write_geojson([[ONE]], path=Path("set/b.json"))
    Path("set/b.json").rename("set/b.geojson")
    assert "2 written" in run("set").stdout
    write_gpkg([[ONE]], path=Path("set/c.gpkg"))
    done = run("set", "-o", "more")
    assert "2 .geojson and 1 .gpkg files, which are different tools'" in done.stderr
