"""GeoPackage: an SQLite file with tables of features; those with polygons are changed in a copy.

Needs shapely and pyproj (extra `geo`). Other tables, columns and rows stay as they are.
"""

from __future__ import annotations

import re
import sqlite3
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segfix.errors import FileFormatError, SegfixError
from segfix.polygons.regions import FAULTS, AnnotatedImage, Region
from segfix.polygons.shapes import Shape, check_shape, geometry_of

START = b"SQLite format 3\0"

JOURNAL = slice(18, 20)
"""Bytes of an SQLite file that say whether changes are in a file beside it: 2, else 1."""

ENVELOPES = (0, 32, 48, 48, 64)
"""Bytes of the bounds before a geometry, by the kind that its flags tell."""

AREAS = ("Polygon", "MultiPolygon")

LAYERS = """
SELECT g.table_name, g.column_name, g.geometry_type_name, s.organization,
  s.organization_coordsys_id, s.definition
FROM gpkg_geometry_columns g
JOIN gpkg_contents c ON c.table_name = g.table_name AND c.data_type = 'features'
JOIN sqlite_master m ON m.name = g.table_name AND m.type = 'table'
LEFT JOIN gpkg_spatial_ref_sys s ON s.srs_id = g.srs_id
ORDER BY g.table_name
"""

PROMOTE = (
    "UPDATE gpkg_geometry_columns SET geometry_type_name = 'MULTIPOLYGON' WHERE table_name = ?"
)

ALL_TRIGGERS = "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger' ORDER BY name"

BOUNDS = {"ST_MinX": 0, "ST_MinY": 1, "ST_MaxX": 2, "ST_MaxY": 3}
"""Functions that the index of a layer calls where a row changes, and what they give."""


TRIGGERS = re.compile(r"(?i)(rtree|gpkg)_|trigger_(insert|delete)_feature_count_")
"""Beginnings of the names that the standard and GDAL give to triggers."""

COUNTED = ("gpkg_geometry_columns", "gpkg_ogr_contents")
"""What changes with a layer."""

STEPS = 1_000_000
"""Instructions of SQLite between two looks at how many are left."""


@dataclass(frozen=True)
class Layer:
    """A table of features.

    Attributes:
        table: Its name.
        column: That of the geometries.
        kind: Which these are, in capitals.
        crs: Coordinate reference system.
    """

    table: str
    column: str
    kind: str
    crs: str


def check_closed(path: Path) -> None:
    """Refuse a file of which a part lies beside it, in a journal.

    Raises:
        FileFormatError: There is one.
    """
    for ending in ("-wal", "-journal"):
        beside = path.with_name(path.name + ending)
        if beside.exists() and beside.stat().st_size:
            raise FileFormatError(
                f"not all of it is in the file, as {beside.name} beside it shows",
                path=path,
                advice="close the program that has it open (QGIS, say)",
            )


def read_layers(path: Path, document: bytes) -> list[AnnotatedImage]:
    """Read the polygons of all layers.

    Returns:
        One image of all. Rows with a fault are regions with one.

    Raises:
        FileFormatError: It is no GeoPackage, a layer's coordinate reference system is unknown, or
            a trigger that isn't known would run where polygons are changed.
    """
    shapes, others = [], 0
    changing = {*COUNTED}
    try:
        with _open(document) as connection:
            # Writing needs it on, for the triggers of spatial indices call our functions.
            connection.execute("PRAGMA trusted_schema = OFF")
            for layer in _list_layers(connection):
                for _, blob in _list_rows(connection, layer):
                    shape = _read_shape(blob, layer.crs)
                    others += shape is None
                    if shape is not None:
                        shapes.append(shape)
                        changing.add(layer.table.lower())
                    if shape and not layer.crs:
                        raise SegfixError(
                            f"layer {layer.table} has no coordinate reference system",
                            path=path,
                            advice="assign it the one that it was drawn in (ogr2ogr -a_srs)",
                        )
            for name, table in connection.execute(ALL_TRIGGERS):
                if table.lower() in changing and not TRIGGERS.match(name):
                    raise FileFormatError(
                        f"its trigger {name} would run where {table} is changed, and such SQL of a "
                        "file isn't run",
                        path=path,
                        advice="remove it (DROP TRIGGER), or export the layers to a new file",
                    )
    except (sqlite3.Error, struct.error, *FAULTS) as error:
        raise FileFormatError(
            f"not a readable GeoPackage ({error})", path=path, advice="export it again"
        ) from error
    return [AnnotatedImage([], shapes, others=others)]


def write_layers(document: bytes, changes: Mapping[int, Region | None]) -> bytes:
    """Replace the polygons of all layers.

    A layer of single polygons becomes one of multi-polygons where one of them has several parts.

    Raises:
        SegfixError: One is a mask, or a trigger of the file can't run.
    """
    if not changes:
        return document
    place = -1
    try:
        with _open(document) as connection:
            for layer in _list_layers(connection):
                rows: dict[int, bytes | None] = {}
                for row, blob in _list_rows(connection, layer):
                    if _read_shape(blob, layer.crs) is None or (place := place + 1) not in changes:
                        continue
                    region = changes[place]
                    rows[row] = None if region is None else _pack(geometry_of(region), blob)
                _write_rows(connection, layer, rows)
            connection.commit()
            content = bytearray(connection.serialize())
    except sqlite3.Error as error:
        raise SegfixError(f"its rows can't be changed ({error})") from error
    content[JOURNAL] = document[JOURNAL]
    return bytes(content)


@contextmanager
def _open(document: bytes) -> Iterator[sqlite3.Connection]:
    """Open a copy in memory."""
    if not document.startswith(START):
        raise ValueError("no SQLite file")
    with closing(sqlite3.connect(":memory:")) as connection:
        # What its journal held is in the file, or lies beside it, which the caller checks.
        connection.deserialize(document[: JOURNAL.start] + b"\1\1" + document[JOURNAL.stop :])
        for name, place in BOUNDS.items():
            connection.create_function(
                name, 1, lambda blob, place=place: _read_geometry(blob).bounds[place]
            )
        connection.create_function("ST_IsEmpty", 1, lambda blob: _read_geometry(blob).is_empty)
        # Views and triggers are programs of the file's. A row has some 100 bytes, and its change
        # takes some 1,000 instructions.
        left = 20 + len(document) // 10_000

        def is_over() -> bool:
            nonlocal left
            left -= 1
            return left < 0

        connection.set_progress_handler(is_over, STEPS)
        try:
            yield connection
        except sqlite3.OperationalError as error:
            if left < 0:
                raise sqlite3.OperationalError("SQL that it holds runs without end") from error
            raise


def _list_layers(connection: sqlite3.Connection) -> list[Layer]:
    layers = []
    for table, column, kind, organization, code, definition in connection.execute(LAYERS):
        crs = f"{organization}:{code}".upper() if code and code > 0 else ""
        if crs and organization.upper() not in ("EPSG", "ESRI", "OGC"):
            crs = definition
        layers.append(Layer(table, column, kind.upper(), crs))
    return layers


def _list_rows(connection: sqlite3.Connection, layer: Layer) -> list[tuple[int, Any]]:
    query = f"SELECT rowid, {_quote(layer.column)} FROM {_quote(layer.table)} ORDER BY rowid"
    return list(connection.execute(query))


def _write_rows(
    connection: sqlite3.Connection, layer: Layer, rows: Mapping[int, bytes | None]
) -> None:
    import shapely

    multiple = any(blob and _read_geometry(blob).geom_type != "Polygon" for blob in rows.values())
    promoted = {}
    if layer.kind == "POLYGON" and multiple:
        _promote(connection, layer)
        promoted = {row: blob for row, blob in _list_rows(connection, layer) if blob}
    table = _quote(layer.table)
    for row, blob in {**promoted, **rows}.items():
        if blob is None:
            connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))
            continue
        geometry = _read_geometry(blob)
        if geometry.geom_type == "Polygon" and (promoted or layer.kind == "MULTIPOLYGON"):
            geometry = shapely.multipolygons([geometry])
        change = f"UPDATE {table} SET {_quote(layer.column)} = ? WHERE rowid = ?"
        connection.execute(change, (_pack(geometry, blob), row))


def _promote(connection: sqlite3.Connection, layer: Layer) -> None:
    """Declare a layer of polygons to be one of multi-polygons: in its table of layers and its own.

    What is declared of a column doesn't change how SQLite stores it.
    """
    connection.execute(PROMOTE, (layer.table,))
    of_table = "FROM sqlite_master WHERE type = 'table' AND name = ?"
    (sql,) = connection.execute(f"SELECT sql {of_table}", (layer.table,)).fetchone()
    column = rf"(?i)(\W{re.escape(layer.column)}\W*\s)POLYGON\b"
    declared = re.sub(column, r"\1MULTIPOLYGON", sql, count=1)
    (version,) = connection.execute("PRAGMA schema_version").fetchone()
    connection.execute("PRAGMA writable_schema = ON")
    change = "UPDATE sqlite_master SET sql = ? WHERE type = 'table' AND name = ?"
    connection.execute(change, (declared, layer.table))
    connection.execute(f"PRAGMA schema_version = {version + 1}")
    connection.execute("PRAGMA writable_schema = OFF")


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _read_shape(blob: Any, crs: str) -> Shape | None:
    """Read the polygons of a row; None: it has none."""
    import shapely

    if blob is None:
        return None
    try:
        geometry = _read_geometry(blob)
    except (*FAULTS, struct.error, shapely.errors.ShapelyError) as error:
        return Shape(fault=f"a geometry that can't be read ({error})")
    if geometry.is_empty or geometry.geom_type not in AREAS:
        return None
    return check_shape(Shape(geometry=geometry, crs=crs))


def _read_geometry(blob: bytes) -> Any:
    """Read a geometry behind its header: "GP", version, flags, system, and bounds."""
    import shapely

    magic, _, flags = struct.unpack_from("2sBB", blob)
    if magic != b"GP" or flags & 0x20:
        raise ValueError("no standard geometry")
    return shapely.from_wkb(blob[8 + ENVELOPES[flags >> 1 & 7] :])


def _pack(geometry: Any, like: bytes) -> bytes:
    """Pack a geometry with its bounds, in the system that another's header names."""
    import shapely

    order = "<" if like[3] & 1 else ">"
    (system,) = struct.unpack_from(f"{order}i", like, 4)
    left, bottom, right, top = geometry.bounds
    head = struct.pack("<2sBBi4d", b"GP", like[2], 0b11, system, left, right, bottom, top)
    return head + bytes(shapely.to_wkb(geometry, byte_order=1, flavor="iso"))
