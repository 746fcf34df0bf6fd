"""Polygons traced around a mask: exactly its pixels."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segfix.instances.masks import decode_mask
from segfix.polygons.tracing import list_rings, trace_regions

for package in ("pycocotools", "shapely"):
    pytest.importorskip(package, reason="needs the extra: pip install 'segfix-refine[polygons]'")


def trace_polygons(mask: NDArray[Any]) -> list[list[float]]:
    """Exact polygons of a mask as COCO writes them."""
    areas = trace_regions(mask.astype(np.uint8), 0)
    return [ring.ravel().tolist() for ring in list_rings(areas[1])] if areas else []


def drawn(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """What the field's reader makes of the traced polygons."""
    return decode_mask({"segmentation": trace_polygons(mask)}, *mask.shape)


@given(arrays(bool, st.tuples(st.integers(1, 30), st.integers(1, 30))))
def test_traced_polygons_enclose_the_very_pixels(mask: NDArray[np.bool_]) -> None:
    assert np.array_equal(drawn(mask), mask)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.98])
def test_large_masks_with_parts_and_holes_too(share: float) -> None:
    mask = np.random.default_rng(1).random((120, 90)) < share
    assert np.array_equal(drawn(mask), mask)


def test_every_mask_of_three_by_three() -> None:
    for bits in itertools.product((False, True), repeat=9):
        mask = np.array(bits).reshape(3, 3)
        assert np.array_equal(drawn(mask), mask)


def test_a_part_has_one_polygon_and_a_hole_is_cut_into_it() -> None:
    mask = np.zeros((30, 40), bool)
    mask[2:20, 3:20] = mask[5:9, 25:35] = True
    assert len(trace_polygons(mask)) == 2
    mask[6:10, 8:12] = mask[12:15, 5:9] = False
    second, first = sorted(trace_polygons(mask), key=len)
    assert len(first) == 2 * (4 + 2 * 6)
    corners = {tuple(second[place : place + 2]) for place in range(0, len(second), 2)}
    assert (len(second), corners) == (8, {(25, 5), (35, 5), (35, 9), (25, 9)})
    # An island in a hole is a part of its own.
    mask[7:9, 9:11] = True
    assert len(trace_polygons(mask)) == 3
    assert np.array_equal(drawn(mask), mask)


def test_other_programs_draw_them_alike() -> None:
    mask = np.zeros((60, 80), bool)
    mask[5:50, 10:70] = True
    mask[15:30, 20:40] = False
    # At ten times the size, so that what is drawn of edges doesn't count.
    picture = Image.new("1", (800, 600))
    for polygon in trace_polygons(mask):
        ImageDraw.Draw(picture).polygon([10 * value for value in polygon], fill=1)
    assert np.array_equal(np.array(picture)[5::10, 5::10], mask)
