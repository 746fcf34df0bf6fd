"""Which way up a prediction is, where its size doesn't tell."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segfix.formats import LabelMap, OffsetMap, read_label_map
from segfix.formats.images import ORIENTATION, turn_back, turn_upright
from segfix.formats.label_maps import pixel_digest
from segfix.refinement.apply import PREDICTION_KEY
from segfix.refinement.orientation import ASSUMED, boundary_share, settle_orientation
from tests.cli.commands import run, run_json
from tests.refinement.test_fits import edges, scene

TURNS = [2, 3, 4]
SQUARE_TURNS = [2, 3, 4, 5, 6, 7, 8]


def offsets(ids: NDArray[np.uint8], orientation: int, **source: str) -> OffsetMap:
    return OffsetMap(edges(ids).codes, source={"orientation": orientation, **source})


@pytest.mark.parametrize(
    ("size", "orientation"),
    [*(((90, 120), one) for one in TURNS), *(((90, 90), one) for one in SQUARE_TURNS)],
)
def test_boundaries_tell_whether_a_prediction_is_of_the_stored_pixels(
    size: tuple[int, int], orientation: int
) -> None:
    ids = scene(*size)
    stored = turn_back(ids, orientation)
    found = settle_orientation(LabelMap(stored), offsets(ids, orientation))
    assert np.array_equal(found.array, ids)
    assert found.rest["turned"] == orientation
    upright = LabelMap(ids)
    assert settle_orientation(upright, offsets(ids, orientation)) is upright


@pytest.mark.parametrize("orientation", TURNS)
def test_masks_and_scores_are_turned_alike(orientation: int) -> None:
    ids = scene(60, 80)
    stored = turn_back(ids, orientation)
    masks = np.stack([stored == k for k in (1, 2, 3)])
    for label_map in (
        LabelMap(masks, "masks", channels_first=True),
        LabelMap(masks.astype(np.float32), "scores", channels_first=True),
        LabelMap(np.repeat(stored[..., None], 3, 2), "colours"),
    ):
        found = settle_orientation(label_map, offsets(ids, orientation))
        assert np.array_equal(turn_upright(label_map.planes, orientation), found.planes)


def test_where_boundaries_do_not_tell_it_is_said() -> None:
    ids = scene(60, 80)
    nothing = OffsetMap(np.zeros(ids.shape, np.uint8), source={"orientation": 3})
    found = settle_orientation(LabelMap(ids), nothing)
    assert np.array_equal(found.array, ids)
    assert found.rest == {ASSUMED: True}


@pytest.mark.parametrize("orientation", [None, 1, 0, 9, "3", [3]])
def test_other_photographs_are_left_alone(orientation: object) -> None:
    ids = scene(60, 80)
    label_map = LabelMap(turn_back(ids, 3))
    offset_map = OffsetMap(edges(ids).codes, source={"orientation": orientation})
    assert settle_orientation(label_map, offset_map) is label_map


def test_what_is_the_same_either_way_up_needs_no_word() -> None:
    even = LabelMap(np.ones((60, 80), np.uint8))
    assert settle_orientation(even, offsets(scene(60, 80), 3)) is even


def test_a_label_map_that_is_turned_itself_is_left_alone() -> None:
    ids = scene(60, 80)
    label_map = LabelMap(turn_back(ids, 3), rest={"orientation": 3, "turned": 3})
    assert settle_orientation(label_map, offsets(ids, 3)) is label_map


def test_an_offset_map_of_one_prediction_knows_which_way_up_it_was() -> None:
    ids = scene(60, 80)
    for made_for in (ids, turn_back(ids, 3)):
        digest = pixel_digest(made_for)
        # Whatever the boundaries say.
        for there in (ids, turn_back(ids, 3)):
            offset_map = offsets(there, 3, **{PREDICTION_KEY: digest})
            found = settle_orientation(LabelMap(ids), offset_map)
            assert pixel_digest(found.ids()) == digest


def test_shares_count_each_change_once() -> None:
    ids = np.array([[1, 1, 2], [1, 1, 2]])
    boundary = np.zeros((2, 3), bool)
    assert boundary_share(ids, boundary) == (0, 2)
    boundary[0, 2] = True
    assert boundary_share(ids, boundary) == (0.5, 2)
    assert boundary_share(np.stack([ids == 1, ids == 2, ids == 9]), boundary) == (0.5, 4)


@pytest.mark.parametrize("orientation", TURNS)
def test_a_command_turns_it_back_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_onnx: Path, orientation: int
) -> None:
    """The photograph tells the tiny network its boundary, and is stored mirrored or upside down."""
    monkeypatch.chdir(tmp_path)
    ids = scene(60, 80)
    image = np.zeros((*ids.shape, 3), np.uint8)
    image[edges(ids).codes > 0] = (255, 4 * 16, 255)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    for folder in ("images", "stored", "upright"):
        Path(folder).mkdir()
    Image.fromarray(turn_back(image, orientation)).save("images/a.png", exif=exif)
    Image.fromarray(turn_back(ids, orientation)).save("stored/a.png")
    Image.fromarray(ids).save("upright/a.png")
    assert run("predict-offsets", "images", "--weights", tiny_onnx).exit_code == 0
    done = run("refine", "stored", "-o", "turned", "--scale", "1")
    assert "1 turned as EXIF says of the photographs, and back" in done.stdout
    plain = run("refine", "upright", "-o", "plain", "--scale", "1")
    assert "EXIF" not in plain.stdout
    turned, same = (read_label_map(Path(name, "a.png")).array for name in ("turned", "plain"))
    assert not np.array_equal(same, ids)
    assert np.array_equal(turned, turn_back(same, orientation))
    corner = np.ones((60, 80), np.uint8)
    corner[:3, :4] = 2
    Image.fromarray(corner).save("stored/a.png")
    unsure = run("refine", "stored", "-o", "unsure")
    assert "1 taken as upright, though EXIF says that the photographs are stored" in unsure.stdout
    (row,) = json.loads(run("refine", "stored", "-o", "again", "--json", "-q").stdout)["done"]
    assert row["turned"] is None


def test_a_conditioned_network_is_shown_the_prediction_the_right_way_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conditioned_onnx: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    ids = scene(60, 80)
    image = np.zeros((*ids.shape, 3), np.uint8)
    image[edges(ids).codes > 0] = (255, 4 * 16, 255)
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    for folder in ("images", "stored"):
        Path(folder).mkdir()
    Image.fromarray(turn_back(image, 3)).save("images/a.png", exif=exif)
    Image.fromarray(turn_back(ids, 3)).save("stored/a.png")
    run_json("predict-offsets", "images", "--weights", conditioned_onnx, "--preds", "stored")
    done = run("refine", "stored")
    assert "1 turned as EXIF says" in done.stdout
    assert "made for other predictions" not in done.stderr
