"""Shapes in coordinates of the earth, written as RFC 7946 and OGC's GeoPackage 1.3 show them."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.formats import read_offset_map, write_offset_map
from tests.cli.refine_instances.tool_files import Ring, write_text

UTM, WGS84 = "EPSG:32633", "OGC:CRS84"
TRANSFORM = [0.5, 0.0, 500_000.0, 0.0, -0.5, 5_400_000.0]
"""Half a metre per pixel."""

REFERENCE = {"transform": TRANSFORM, "crs": UTM}
Points = NDArray[np.float64]


def refer(reference: dict[str, Any] | None = None) -> None:
    """Let the offset maps say where their photographs lie."""
    for path in Path().glob("*/?.png"):
        source = {"georeference": reference or REFERENCE}
        write_offset_map(path, replace(read_offset_map(path), source=source))


def to_file(ring: Ring, crs: str) -> list[list[float]]:
    from pyproj import Transformer

    a, _, c, _, e, f = TRANSFORM
    points = np.array(ring, float) * (a, e) + (c, f)
    if crs == WGS84:
        found = Transformer.from_crs(UTM, WGS84, always_xy=True).transform(*points.T)
        points = np.stack(found, axis=1)
    return [*points.tolist(), points[0].tolist()]


def to_pixels(geometry: Any, crs: str) -> Any:
    import shapely
    from pyproj import Transformer

    def convert(points: Points) -> Points:
        if crs == WGS84:
            found = Transformer.from_crs(WGS84, UTM, always_xy=True).transform(*points.T)
            points = np.stack(found, axis=1)
        return (points - (TRANSFORM[2], TRANSFORM[5])) / (TRANSFORM[0], TRANSFORM[4])

    return shapely.transform(geometry, convert)


def write_geojson(
    areas: Sequence[Sequence[Ring]], crs: str = WGS84, path: Path = Path("a.geojson")
) -> Path:
    """Write polygons, outline first, between other features; each line as ogr2ogr does."""
    features: list[dict[str, Any]] = [
        {"type": "Feature", "id": "p", "geometry": {"type": "Point", "coordinates": [15.0, 48.75]}},
        {"type": "Feature", "properties": None, "geometry": None},
    ]
    for number, rings in enumerate(areas):
        coordinates = [to_file(ring, crs) for ring in rings]
        features.append(
            {
                "type": "Feature",
                "id": number,
                "properties": {"class": "Haus", "height": 1.50, "straße": f"Nr. {number}"},
                "geometry": {"type": "Polygon", "coordinates": coordinates},
                "mine": [1, None],
            }
        )
    member = f'\n"crs": {{"type": "name", "properties": {{"name": "{crs}"}}}},' * (crs != WGS84)
    lines = ",\n".join(json.dumps(feature, ensure_ascii=False) for feature in features)
    text = f'{{\n"type": "FeatureCollection",{member}\n"features": [\n{lines}\n],"x": 1.0e2 }}\n'
    return write_text(path, text)


def write_gpkg(
    areas: Sequence[Sequence[Ring]], crs: str = UTM, path: Path = Path("a.gpkg")
) -> Path:
    """Write polygons in a layer with a spatial index, beside a table of somebody else's."""
    import shapely

    path.unlink(missing_ok=True)
    code = {UTM: 32633, WGS84: 4326}.get(crs, -1)
    with closing(sqlite3.connect(path)) as file:
        for name, place in {"MinX": 0, "MinY": 1, "MaxX": 2, "MaxY": 3}.items():
            file.create_function(
                f"ST_{name}", 1, lambda blob, at=place: shapely.from_wkb(blob[8:]).bounds[at]
            )
        file.create_function("ST_IsEmpty", 1, lambda blob: blob is None)
        file.executescript(f"""
            PRAGMA application_id = 0x47504B47; PRAGMA user_version = 10300;
            CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT NOT NULL, srs_id INTEGER PRIMARY KEY,
              organization TEXT NOT NULL, organization_coordsys_id INTEGER NOT NULL,
              definition TEXT NOT NULL, description TEXT);
            INSERT INTO gpkg_spatial_ref_sys VALUES ('x', {code}, 'EPSG', {code}, 'undefined', '');
            CREATE TABLE gpkg_contents (table_name TEXT PRIMARY KEY, data_type TEXT NOT NULL,
              identifier TEXT UNIQUE, description TEXT DEFAULT '', last_change DATETIME,
              min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE, srs_id INTEGER);
            INSERT INTO gpkg_contents (table_name, data_type, srs_id)
              VALUES ('my houses', 'features', {code}), ('notes', 'attributes', NULL);
            CREATE TABLE gpkg_geometry_columns (table_name TEXT, column_name TEXT,
              geometry_type_name TEXT, srs_id INTEGER, z TINYINT, m TINYINT);
            INSERT INTO gpkg_geometry_columns
              VALUES ('my houses', 'geom', 'POLYGON', {code}, 0, 0);
            CREATE TABLE "my houses" (fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
              "geom" POLYGON, class TEXT);
            CREATE TABLE notes (fid INTEGER PRIMARY KEY, note BLOB);
            INSERT INTO notes VALUES (7, x'00ff');
            CREATE VIRTUAL TABLE "rtree_houses" USING rtree(id, minx, maxx, miny, maxy);
            CREATE TRIGGER "rtree_houses_update" AFTER UPDATE OF "geom" ON "my houses"
              WHEN NOT ST_IsEmpty(NEW."geom") BEGIN INSERT OR REPLACE INTO "rtree_houses"
              VALUES (NEW.fid, ST_MinX(NEW."geom"), ST_MaxX(NEW."geom"), ST_MinY(NEW."geom"),
              ST_MaxY(NEW."geom")); END;
            CREATE TRIGGER "rtree_houses_delete" AFTER DELETE ON "my houses" BEGIN
              DELETE FROM "rtree_houses" WHERE id = OLD.fid; END;
        """)
        head = struct.pack("<2sBBi", b"GP", 0, 1, code)
        insert = 'INSERT INTO "my houses" VALUES (?, ?, ?)'
        for number, rings in enumerate(areas):
            outer, *holes = (to_file(ring, crs) for ring in rings)
            blob = head + shapely.to_wkb(shapely.Polygon(outer, holes))
            file.execute(insert, (10 + number, blob, f"Nr. {number}"))
        file.execute(insert, (9, head + shapely.to_wkb(shapely.Point(1, 2)), "point"))
        file.execute(insert, (99, None, "empty"))
        file.commit()
    return path


def read_areas(path: Path) -> list[Any]:
    """Read the polygons of a file, in its own coordinates."""
    import shapely

    if path.suffix == ".geojson":
        found = [feature["geometry"] for feature in json.loads(path.read_text())["features"]]
        return [shapely.geometry.shape(one) for one in found if one and one["type"] != "Point"]
    with closing(sqlite3.connect(path)) as file:
        rows = file.execute('SELECT geom FROM "my houses" WHERE fid > 9 AND geom NOT NULL')
        blobs = [blob for (blob,) in rows]
    return [shapely.from_wkb(blob[8 if blob[3] == 1 else 40 :]) for blob in blobs]


def read_rest(path: Path) -> Any:
    """Read all but the polygons."""
    if path.suffix == ".geojson":
        document = json.loads(path.read_text())
        for feature in document["features"][2:]:
            feature["geometry"] = None
        return json.dumps(document)
    tables = ["gpkg_contents", "gpkg_spatial_ref_sys", "notes"]
    with closing(sqlite3.connect(path)) as file:
        rows = [file.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
        return [*rows, file.execute('SELECT fid, class FROM "my houses"').fetchall()]
