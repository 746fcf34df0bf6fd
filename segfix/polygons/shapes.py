"""Areas in coordinates of the earth, and where they lie on a geo-referenced photograph.

Needs pyproj and shapely (extra `geo`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import SegfixError
from segfix.polygons.regions import Region

LONGITUDE_LATITUDE = "OGC:CRS84"

GRID = 2.0**-20
"""Of vertices where what lies beyond a photograph is joined again, pixels: on it lie the traced
ones, and others are found again by it."""

LARGEST_ERROR = 1e-4
"""Of new coordinates that are rounded, pixels."""

STEPS, MOST_STEPS = 64, 20_000
"""An edge that may become a curve is divided: steps along a photograph, and along one shape."""

NO_REFERENCE = {
    "found": "no geo-reference is known of its photograph",
    "advice": "take the GeoTIFF, or put a world file beside the picture (.tfw, .jgw, .wld), and "
    "look at it again",
}
NO_SYSTEM = {
    "found": "the geo-reference of its photograph names no coordinate reference system by a code",
    "advice": "write that into a .prj beside the photograph (gdalsrsinfo -o wkt1 PHOTO), and look "
    "at it again",
}


@dataclass(frozen=True, eq=False)
class Shape(Region):
    """The polygons of a feature; `points` are pixels once a photograph is known.

    Attributes:
        geometry: shapely's, in coordinates of the file; x is longitude or east.
        crs: Coordinate reference system of the file, in words that pyproj knows.
        placement: Of the photograph; None: not known yet.
    """

    geometry: Any = None
    crs: str = LONGITUDE_LATITUDE
    placement: Placement | None = None

    def digest(self) -> str:
        """Digest what the region is, to notice when it has changed."""
        content = self.fault.encode() if self.fault else self.geometry.wkb
        return hashlib.blake2b(self.crs.encode() + content, digest_size=16).hexdigest()

    def with_area(self, area: Any, size: tuple[int, int]) -> Shape:
        """Replace the part on the photograph by a shapely area in pixels; heights are left out."""
        import shapely

        assert self.placement is not None
        before = self.placement.to_pixels(self.geometry)
        frame = shapely.box(0, 0, size[1], size[0])
        if not frame.covers(shapely.box(*before.bounds)):
            added = set(_keys(shapely.get_coordinates(before)))
            added -= set(_keys(self.placement.points_to_pixels(self._vertices())))
            if not before.is_valid:
                before = shapely.multipolygons(_list_polygons(shapely.make_valid(before)))
            beyond = shapely.difference(before, frame, grid_size=GRID)
            area = shapely.union(area, beyond, grid_size=GRID)
            parts = [_leave_out(part, added) for part in _list_polygons(area)]
            area = shapely.multipolygons(parts)
        single = self.geometry.geom_type == "Polygon" and len(area.geoms) == 1
        area = self.placement.to_file(area.geoms[0] if single else area, self._vertices())
        return replace(self, geometry=area, points=None, rings=())

    def _vertices(self) -> NDArray[np.float64]:
        import shapely

        return np.asarray(shapely.get_coordinates(self.geometry))

    def bounds(self) -> NDArray[np.float64]:
        """Return the bounds in pixels: (2, 2), lowest x and y, highest."""
        assert self.points is not None
        return np.stack([self.points.min(axis=0), self.points.max(axis=0)])

    def cut_out(self, box: tuple[slice, slice]) -> Shape:
        """Return the shape as it lies in a part of the photograph, rows and columns."""
        assert self.placement is not None
        assert self.points is not None
        (top, left), size = (one.start for one in box), tuple(one.stop - one.start for one in box)
        a, b, c, d, e, f = self.placement.transform
        transform = [a, b, c + a * left + b * top, d, e, f + d * left + e * top]
        placement = replace(self.placement, transform=transform, size=size)
        return replace(self, points=self.points - (left, top), placement=placement)


@dataclass(frozen=True)
class Placement:
    """How coordinates of a file and pixels of a photograph belong together.

    Attributes:
        transform: See `segfix.files.georeference.read_georeference`.
        size: Height and width of the photograph.
        transformer: pyproj's, from the file's system to the photograph's; None: they have one.
        step: Longest edge that stays straight enough, in units of the file.
        decimals: Of new coordinates.
    """

    transform: Sequence[float]
    size: tuple[int, int]
    transformer: Any
    step: float = field(default=math.inf)
    decimals: int = 15

    def to_pixels(self, geometry: Any) -> Any:
        """Convert a shapely geometry to polygons in pixels; heights are left out.

        Edges that are curves in the photograph's system are divided.
        """
        import shapely

        step = math.inf
        if self.transformer is not None:
            step = max(self.step, shapely.length(geometry) / MOST_STEPS)
        parts = []
        for part in shapely.get_parts(shapely.force_2d(geometry)):
            # Of polygons, GEOS would mend those that cross themselves.
            outer, *holes = shapely.segmentize(shapely.get_rings(part), step)
            parts.append(shapely.Polygon(outer, holes))
        return shapely.transform(shapely.multipolygons(parts), self.points_to_pixels)

    def points_to_pixels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert (N, 2) coordinates of the file to columns and rows."""
        if self.transformer is not None:
            points = np.stack(self.transformer.transform(*points.T), axis=1)
        a, b, c, d, e, f = self.transform
        return np.linalg.solve(np.array([[a, b], [d, e]]), (points - (c, f)).T).T

    def points_to_file(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert (N, 2) columns and rows to coordinates of the file."""
        a, b, c, d, e, f = self.transform
        found = points @ np.array([[a, d], [b, e]]) + (c, f)
        if self.transformer is not None:
            found = np.stack(self.transformer.transform(*found.T, direction="INVERSE"), axis=1)
        return np.asarray(found)

    def to_file(self, area: Any, known: NDArray[np.float64]) -> Any:
        """Convert an area in pixels to coordinates of the file.

        Args:
            area: shapely's polygons.
            known: (N, 2) coordinates that are taken as they are where the area has them.

        Returns:
            Polygons whose outlines run against the clock, holes with it.
        """
        import shapely

        kept = dict(zip(_keys(self.points_to_pixels(known)), known.tolist(), strict=True))

        def convert(points: NDArray[np.float64]) -> NDArray[np.float64]:
            found = np.round(self.points_to_file(points), self.decimals)
            for place, key in enumerate(_keys(points)):
                if key in kept:
                    found[place] = kept[key]
            return found

        return shapely.orient_polygons(shapely.transform(area, convert))


def _keys(points: NDArray[np.float64]) -> list[tuple[float, float]]:
    return list(map(tuple, np.floor(points / GRID + 0.5).tolist()))


def _list_polygons(geometry: Any) -> list[Any]:
    """List the polygons of a geometry, which may hold lines and points, too."""
    import shapely

    parts = shapely.get_parts(shapely.get_parts(geometry))
    return [part for part in parts if part.geom_type == "Polygon"]


def find_parts(
    shapes: Mapping[int, Shape], size: tuple[int, int], margin: int
) -> list[tuple[list[int], tuple[slice, slice]]]:
    """Find the parts of a photograph that hold shapes.

    Args:
        shapes: Located, by place.
        size: Height and width of the photograph.
        margin: Pixels around the shapes of a part; others are twice as far.

    Returns:
        Of each part the places of its shapes, and its rows and columns.
    """
    import shapely
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    corners = np.array([shape.bounds() for shape in shapes.values()]).reshape(-1, 4)
    low = np.floor(corners[:, :2]) - margin
    high = np.ceil(corners[:, 2:]) + margin
    boxes = shapely.box(*low.T, *high.T)
    one, other = shapely.STRtree(boxes).query(boxes, predicate="intersects")
    pairs = coo_array((np.ones(len(one)), (one, other)), shape=(len(boxes), len(boxes)))
    count, part = connected_components(pairs, directed=False)
    places, found = np.array(list(shapes)), []
    order = np.split(np.argsort(part, kind="stable"), np.cumsum(np.bincount(part))[:-1])
    for members in order[:count]:
        left, top = np.maximum(low[members].min(axis=0), 0).astype(int).tolist()
        most = np.minimum(high[members].max(axis=0), size[::-1])
        right, bottom = most.astype(int).tolist()
        found.append((places[members].tolist(), (slice(top, bottom), slice(left, right))))
    return found


def _leave_out(polygon: Any, vertices: Set[tuple[float, float]]) -> Any:
    """Leave vertices out of a polygon, but of no ring so many that it is none."""
    import shapely

    rings = []
    for ring in (polygon.exterior, *polygon.interiors):
        points = shapely.get_coordinates(ring)[:-1]
        left = points[[key not in vertices for key in _keys(points)]]
        rings.append(left if len(left) > 2 else points)
    return shapely.Polygon(rings[0], rings[1:])


def locate_shapes(
    items: Mapping[int, Any],
    georeference: Mapping[str, Any] | None,
    size: tuple[int, int],
    where: str,
) -> dict[int, Any]:
    """Locate shapes on their photograph; instances of other kinds stay as they are.

    Args:
        items: By place.
        georeference: Of the photograph, see `segfix.files.georeference.read_georeference`.
        size: Its height and width.
        where: Begins messages.

    Returns:
        Those whose bounds meet the photograph, and those with a fault.

    Raises:
        SegfixError: Nothing is known of where the photograph lies, or all shapes lie elsewhere.
        ModuleNotFoundError: The extra isn't installed.
    """
    shapes = {place: one for place, one in items.items() if isinstance(one, Shape)}
    sound = {place: one for place, one in shapes.items() if not one.fault}
    if not sound:
        return dict(items)
    found: dict[int, Any] = {place: one for place, one in items.items() if place not in sound}
    for crs in dict.fromkeys(one.crs for one in sound.values()):
        some = {place: one for place, one in sound.items() if one.crs == crs}
        found |= _locate(some, _place_photograph(georeference, crs, size, where))
    if not found:
        frame = _frame(_place_photograph(georeference, crs, size, where))
        known = [shape.geometry.bounds for shape in sound.values()]
        low, high = np.min(known, axis=0)[:2], np.max(known, axis=0)[2:]
        raise SegfixError(
            f"none of its {len(sound)} shapes lies on the photograph: x from {low[0]:.9g} to "
            f"{high[0]:.9g} and y from {low[1]:.9g} to {high[1]:.9g}",
            path=where,
            expected=f"the photograph has {frame[0]:.9g} to {frame[2]:.9g} and {frame[1]:.9g} to "
            f"{frame[3]:.9g} in the same system ({crs[:40]})",
            advice="take the photograph that they were drawn on, or give the file its own system",
        )
    return dict(sorted(found.items()))


def _locate(shapes: Mapping[int, Shape], placement: Placement) -> dict[int, Shape]:
    import shapely

    height, width = placement.size
    left, bottom, right, top = _frame(placement)
    bounds = shapely.bounds([shape.geometry for shape in shapes.values()])
    near = (bounds[:, 0] <= right) & (bounds[:, 2] >= left) | (left > right)
    near &= (bounds[:, 1] <= top) & (bounds[:, 3] >= bottom)
    # Of two points, an outline may hardly run through both.
    here = np.array([[0.41, 0.37], [0.67, 0.59]]) * (width, height)
    there = placement.points_to_file(here)
    found = {}
    for place in np.array(list(shapes))[near].tolist():
        shape, area = shapes[place], placement.to_pixels(shapes[place].geometry)
        points = shapely.get_coordinates(area)
        # What goes around the earth, some systems turn inside out.
        inside = shapely.contains_xy(shape.geometry, there)
        turned = (shapely.contains_xy(area, here) != inside).all()
        if turned or not np.isfinite(points).all():
            fault = "points that the photograph's coordinate reference system can't express"
            found[place] = replace(shape, fault=fault)
            continue
        low, high = points.min(axis=0), points.max(axis=0)
        if (low < (width, height)).all() and (high > 0).all():
            rings = shapely.get_rings(shapely.get_parts(area))
            lengths = shapely.get_num_coordinates(rings).tolist()
            found[place] = replace(shape, points=points, rings=lengths, placement=placement)
    return found


def _frame(placement: Placement) -> tuple[float, float, float, float]:
    """Find the bounds of a photograph in coordinates of the file."""
    height, width = placement.size
    along = np.linspace(0, 1, STEPS)
    edges = [(along, 0 * along), (along, 0 * along + 1), (0 * along, along), (0 * along + 1, along)]
    points = np.concatenate([np.stack(edge, axis=1) for edge in edges]) * (width, height)
    found = placement.points_to_file(points)
    (left, bottom), (right, top) = np.nanmin(found, axis=0), np.nanmax(found, axis=0)
    return float(left), float(bottom), float(right), float(top)


def _place_photograph(
    georeference: Mapping[str, Any] | None, crs: str, size: tuple[int, int], where: str
) -> Placement:
    """Find how coordinates of a file and pixels of a photograph belong together."""
    from pyproj import Transformer

    transform = georeference.get("transform") if isinstance(georeference, Mapping) else None
    if not isinstance(transform, Sequence) or len(transform) != 6 or not georeference:
        raise SegfixError(path=where, **NO_REFERENCE)
    if not georeference.get("crs"):
        raise SegfixError(path=where, **NO_SYSTEM)
    ours = read_system(crs, where)
    theirs = read_system(str(georeference["crs"]), f"{where}: its photograph")
    transformer = None
    if not ours.equals(theirs, ignore_axis_order=True):
        transformer = Transformer.from_crs(ours, theirs, always_xy=True)
    placement = Placement(transform, size, transformer)
    left, bottom, right, top = _frame(placement)
    if not all(map(math.isfinite, (left, bottom, right, top))):
        raise SegfixError(
            f"the photograph can't be placed in the system of the shapes ({crs[:40]})",
            path=where,
            advice="check both coordinate reference systems",
        )
    pixel = max(right - left, top - bottom) / max(size)
    step = max(right - left, top - bottom) / STEPS
    decimals = math.ceil(-math.log10(pixel * LARGEST_ERROR)) if pixel else 15
    return replace(placement, step=step, decimals=min(max(decimals, 0), 15))


def read_system(text: str, where: str) -> Any:
    """Read a coordinate reference system.

    Raises:
        SegfixError: PROJ doesn't know it.
        ModuleNotFoundError: pyproj isn't installed.
    """
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise SegfixError(
            f"coordinate reference system {text[:60]!r}, which isn't known",
            path=where,
            advice="write the shapes in longitude and latitude of WGS 84 (ogr2ogr -t_srs "
            "EPSG:4326), or the photograph with a code of EPSG",
        ) from error


def geometry_of(region: Region) -> Any:
    """Give the geometry of a region that is to be written.

    Raises:
        SegfixError: It is a mask.
    """
    if not isinstance(region, Shape) or region.mask is not None:
        raise SegfixError("geo-referenced shapes are polygons alone; leave --as rle out")
    return region.geometry


def check_shape(shape: Shape) -> Shape:
    """Give a shape a fault unless its coordinates are finite."""
    import shapely

    finite = np.isfinite(shapely.get_coordinates(shape.geometry)).all()
    return shape if finite else Shape(fault="coordinates that aren't finite")
