"""Shapes on the earth, and the parts of a photograph that hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segfix.errors import SegfixError

shapely = pytest.importorskip("shapely", reason="needs the extra: pip install 'segfix-refine[geo]'")
pytest.importorskip("pyproj", reason="needs the extra: pip install 'segfix-refine[geo]'")

from segfix.polygons.regions import decode_region  # noqa: E402
from segfix.polygons.shapes import Shape, find_parts, locate_shapes  # noqa: E402

SIZE = (40, 60)
REFERENCE = {"transform": [2, 0, 100, 0, -2, 900], "crs": "EPSG:32633"}


def shape(left: float, top: float, width: float, height: float, **more: Any) -> Shape:
    area = shapely.box(left, top, left + width, top + height)
    there = shapely.transform(area, lambda points: points * (2, -2) + (100, 900))
    return Shape(geometry=there, crs="EPSG:32633", **more)


def test_shapes_on_the_photograph_are_located() -> None:
    items = {3: shape(1, 2, 4, 5), 5: shape(60.1, 2, 4, 5), 7: shape(-9, -9, 9.5, 9.6), 8: "other"}
    found = locate_shapes(items, REFERENCE, SIZE, "a")
    assert list(found) == [3, 7, 8]
    assert decode_region(found[3], SIZE).sum() == 20
    assert np.argwhere(decode_region(found[7], SIZE)).tolist() == []
    with pytest.raises(SegfixError, match="none of its 1 shapes"):
        locate_shapes({5: items[5]}, REFERENCE, SIZE, "a")


def test_parts_hold_what_is_near_to_each_other() -> None:
    items = {1: shape(1, 1, 5, 5), 2: shape(40, 30, 3, 3), 9: shape(10, 1, 4, 4)}
    found = locate_shapes(items, REFERENCE, SIZE, "a")
    parts = find_parts(found, SIZE, margin=3)
    assert parts == [
        ([1, 9], (slice(0, 9), slice(0, 17))),
        ([2], (slice(27, 36), slice(37, 46))),
    ]
    assert len(find_parts(found, SIZE, margin=1)) == 3
    for places, box in parts:
        for place in places:
            whole, part = decode_region(found[place], SIZE), found[place].cut_out(box)
            mask = decode_region(part, whole[box].shape)
            assert np.array_equal(mask, whole[box])
            assert mask.sum() == whole.sum()
            assert (
                part.with_area(shapely.multipolygons([shapely.Polygon(part.points)]), mask.shape)
                .geometry.normalize()
                .equals(items[place].geometry.normalize())
            )


def test_vertices_that_stay_have_the_very_numbers_of_the_file() -> None:
    ring = np.array([[15.00001, 48.75], [15.00041234567891, 48.75], [15.0002, 48.7503]])
    given = Shape(geometry=shapely.Polygon(ring))
    reference = {"transform": [0.5, 0, 500_000, 0, -0.5, 5_400_000], "crs": "EPSG:32633"}
    (located,) = locate_shapes({0: given}, reference, (900, 900), "a").values()
    same = located.with_area(located.placement.to_pixels(given.geometry), (900, 900))
    kept = set(map(tuple, shapely.get_coordinates(same.geometry).tolist()))
    assert set(map(tuple, ring.tolist())) <= kept
