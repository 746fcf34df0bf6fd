"""Colours and arrows mean what the legend says."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest

from segfix.formats import OffsetMap
from segfix.geometry import NUM_DIRECTIONS, direction_angles, make_targets
from segfix.report.error_map import ERROR_COLOURS, FIXED, RIGHT, VOID
from segfix.report.overlay import (
    LINE,
    NUM_COLOURS,
    arrow_ends,
    busiest_part,
    draw_arrows,
    label_colours,
    overlay,
    overlay_changes,
    overlay_errors,
    overlay_offsets,
    wheel,
)

GREY = np.full((60, 80, 3), 128, np.uint8)


def one_direction(sector: int, num_directions: int = 8, *, confidence: float = 1) -> OffsetMap:
    """A boundary of columns 30 … 49 that points one way."""
    boundary = np.zeros(GREY.shape[:2], bool)
    boundary[:, 30:50] = True
    return OffsetMap.encode(
        boundary,
        np.full(boundary.shape, sector, np.uint8),
        confidence,
        num_directions=num_directions,
    )


def hue(colour: np.ndarray) -> float:
    """Degrees."""
    return colorsys.rgb_to_hsv(*(colour / 255).tolist())[0] * 360


@pytest.mark.parametrize("num_directions", NUM_DIRECTIONS)
def test_the_hue_of_a_boundary_is_its_angle(num_directions: int) -> None:
    for sector, angle in enumerate(direction_angles(num_directions)):
        drawn = overlay_offsets(GREY, one_direction(sector, num_directions), legend=False)
        # Left is red, and the hue turns with the angle, y down.
        apart = (hue(drawn[30, 40]) - (angle + 180) + 180) % 360 - 180
        assert abs(apart) < 1
        assert np.ptp(drawn[0, 0]) == 0, "the photograph is grey off the boundary"


@pytest.mark.parametrize("num_directions", NUM_DIRECTIONS)
def test_the_wheel_shows_each_colour_where_it_points(num_directions: int) -> None:
    radius = 20
    image = np.zeros((12 * radius, 12 * radius + 7, 3), np.uint8)
    for sector, angle in enumerate(np.radians(direction_angles(num_directions))):
        boundary = np.zeros(image.shape[:2], bool)
        boundary[10:20] = True
        offset_map = OffsetMap.encode(
            boundary, np.full(boundary.shape, sector, np.uint8), num_directions=num_directions
        )
        drawn = overlay_offsets(image, offset_map)
        centre = np.array(image.shape[:2]) - radius - radius // 3 - 1
        step = np.rint(0.9 * radius * np.array([np.sin(angle), np.cos(angle)])).astype(int)
        assert drawn[tuple(centre + step)].tolist() == drawn[15, 15].tolist()
        assert drawn[tuple(centre - step)].tolist() != drawn[15, 15].tolist()


def test_the_wheel_darkens_with_doubt() -> None:
    sure = one_direction(4)
    codes = wheel(sure, 16)
    assert codes.codes.shape == (33, 33)
    assert (codes.direction_map()[16, 17:] == 4).all(), "to the right of the centre: right"
    along = codes.confidence_map()[16, 17:]
    assert (np.diff(along) >= 0).all()
    assert along[0] < 0.2
    assert along[-1] > 0.9
    right = [
        overlay_offsets(GREY, one_direction(4, confidence=c), legend=False)[30, 40].max()
        for c in (0.1, 0.5, 1)
    ]
    assert right == sorted(set(right))


def test_no_wheel_where_it_could_not_be_read() -> None:
    offset_map = one_direction(0)
    tiny = OffsetMap(offset_map.codes[:20])
    assert np.array_equal(
        overlay_offsets(GREY[:20], tiny), overlay_offsets(GREY[:20], tiny, legend=False)
    )


@pytest.mark.parametrize("num_directions", NUM_DIRECTIONS)
def test_arrows_point_the_way_of_their_offsets(num_directions: int) -> None:
    for sector in range(num_directions):
        offset_map = one_direction(sector, num_directions)
        tails, tips = arrow_ends(offset_map, 14)
        assert len(tails) == 5 * 2, "one in each square of 14 px that columns 30 … 49 touch"
        y, x = tails.astype(int).T
        offsets = offset_map.vectors()[:, y, x].T.astype(float)
        along = tips - tails
        cosine = (along * offsets).sum(1) / np.hypot(*along.T) / np.hypot(*offsets.T)
        # The 16 offsets end on a square ring: up to 4.1° beside the middle of the sector.
        assert (cosine > np.cos(np.radians(5))).all()


def test_arrows_lead_from_the_boundary_of_a_disc_to_its_inside(disc: np.ndarray) -> None:
    targets = make_targets(disc)
    offset_map = OffsetMap.encode(targets.boundary_map == 1, targets.direction_map)
    tails, tips = arrow_ends(offset_map, 6)
    assert (offset_map.codes[tuple(tails.astype(int).T)] > 0).all()
    before, after = (np.hypot(*(ends - 25).T) for ends in (tails, tips))
    within = before <= 17
    assert within.any()
    assert not within.all()
    assert (after[within] < before[within]).all(), "inside, towards the centre"
    assert (after[~within] > before[~within]).all(), "outside, away from it"


def test_the_surest_pixel_of_a_square_gets_the_arrow() -> None:
    boundary = np.ones((8, 8), bool)
    confidence = np.full((8, 8), 0.5)
    confidence[1, 6] = 1
    tails, _ = arrow_ends(OffsetMap.encode(boundary, np.zeros((8, 8), np.uint8), confidence), 8)
    assert tails.tolist() == [[1, 6]]
    nothing = OffsetMap(np.zeros((8, 8), np.uint8))
    assert arrow_ends(nothing, 8)[0].shape == (0, 2)
    assert np.array_equal(draw_arrows(GREY, *arrow_ends(nothing, 8)), GREY)


def test_arrows_are_drawn_with_their_head_at_the_tip() -> None:
    drawn = draw_arrows(GREY, np.array([[30.0, 20.0]]), np.array([[30.0, 60.0]]))
    y, x = np.nonzero((drawn == 255).all(axis=2))
    assert set(x[y == 30]) == set(range(20, 61))
    assert x[y != 30].min() >= 60 - 0.4 * 40 - 1
    assert (y.min(), y.max()) == (20, 40)


def test_label_colours_of_neighbours_differ() -> None:
    colours = label_colours(ignore_index=-1).astype(int)
    assert colours.shape == (NUM_COLOURS, 3)
    for step in (1, 2):
        assert np.abs(colours[step:] - colours[:-step]).max(axis=1).min() >= 40
    assert len(np.unique(colours[:24], axis=0)) == 24


def test_palettes_come_first_and_void_is_black() -> None:
    colours = label_colours(bytes([1, 2, 3, 4, 5, 6]), ignore_index=255)
    assert colours[:2].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert colours[2].tolist() == label_colours()[2].tolist()
    assert colours[255].tolist() == [0, 0, 0]
    assert label_colours(bytes([9, 9, 9]), ignore_index=0)[0].tolist() == [9, 9, 9]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_ids_of_any_kind_are_blended_and_rimmed(dtype: type[np.integer[Any]]) -> None:
    ids = np.array([[1, 1, 2, 2]]).astype(dtype)
    image = np.full((1, 4, 3), 100, np.uint8)
    colours = label_colours()
    drawn = overlay(image, ids, colours, opacity=1)
    assert drawn[0, [0, 2, 3]].tolist() == colours[[1, 2, 2]].tolist()
    rim = 255 - (1 - LINE) * (255 - colours[1].astype(int))
    assert np.abs(drawn[0, 1] - rim).max() <= 1
    assert overlay(image, ids, colours, opacity=0)[0, 0].tolist() == [100] * 3
    half = (colours[1].astype(int) + 100) / 2
    assert np.abs(overlay(image, ids, colours, opacity=0.5)[0, 0] - half).max() <= 1
    own = np.full((1, 4, 3), 7, np.uint8)
    assert overlay(image, ids, own, opacity=1)[0, 3].tolist() == [7] * 3


def test_errors_keep_the_photograph_where_all_is_right() -> None:
    codes = np.full((60, 80), RIGHT, np.uint8)
    codes[:, 40:] = FIXED
    codes[:, 60:] = VOID
    drawn = overlay_errors(GREY, codes)
    assert len(np.unique(drawn[:, :40])) == 1
    assert (drawn[:, 40:60] == ERROR_COLOURS[FIXED]).all()
    stripes = np.unique(drawn[:, 60:].reshape(-1, 3), axis=0)
    assert stripes.tolist() == [list(ERROR_COLOURS[VOID]), [255] * 3]


def test_changes_are_magenta() -> None:
    changed = np.zeros((60, 80), bool)
    changed[3, 4] = True
    drawn = overlay_changes(GREY, changed)
    assert np.array_equal((drawn == (255, 0, 255)).all(axis=2), changed)


def test_the_busiest_part_holds_most_marks_and_lies_within_the_picture() -> None:
    marked = np.zeros((20, 30), bool)
    assert busiest_part(marked, 4, 6) == (8, 12)
    marked[0, :3] = marked[15:18, 27:] = True
    assert busiest_part(marked, 4, 6) in {(14, 24), (15, 24), (16, 24)}
    assert busiest_part(marked, 20, 30) == (0, 0)
