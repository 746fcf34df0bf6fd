from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, PngImagePlugin

from segfix.errors import FileFormatError
from segfix.files.provenance import RECORD_KEY
from segfix.formats import OffsetMap, read_offset_map, write_offset_map
from segfix.formats.offset_maps import colour_wheel, metadata_record
from segfix.geometry import NUM_DIRECTIONS, UNDEFINED, direction_to_offsets

each_m = pytest.mark.parametrize("m", NUM_DIRECTIONS)


def random_map(m: int = 8, **metadata: Any) -> OffsetMap:
    rng = np.random.default_rng(m)
    return OffsetMap.encode(
        rng.random((11, 17)) < 0.7,
        rng.integers(0, m, (11, 17), np.uint8),
        rng.random((11, 17)),
        num_directions=m,
        **metadata,
    )


def write_raw(path: Path, offset_map: OffsetMap, text: str | None) -> None:
    """The picture of an offset map, in its colours, with any text as its record."""
    picture = Image.fromarray(offset_map.codes)
    picture.putpalette(colour_wheel(offset_map.num_directions, offset_map.num_levels))
    info = PngImagePlugin.PngInfo()
    if text is not None:
        info.add_text(RECORD_KEY, text)
    picture.save(path, pnginfo=info)


# Codes


@each_m
@given(data=st.data())
def test_boundary_direction_and_level_come_back_from_the_codes(m: int, data: st.DataObject) -> None:
    num_levels = data.draw(st.integers(1, 255 // m))
    lowest = data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.9]))
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    boundary = data.draw(hnp.arrays(bool, shape))
    sectors = st.sampled_from([*range(m), UNDEFINED])
    direction = data.draw(hnp.arrays(np.uint8, shape, elements=sectors))
    confidence = data.draw(hnp.arrays(np.float64, shape, elements=st.floats(lowest, 1)))

    offset_map = OffsetMap.encode(
        boundary,
        direction,
        confidence,
        num_directions=m,
        lowest_confidence=lowest,
        num_levels=num_levels,
    )
    marked = boundary & (direction != UNDEFINED)
    assert np.array_equal(offset_map.boundary_mask(), marked)
    assert np.array_equal(offset_map.direction_map(), np.where(marked, direction, UNDEFINED))
    assert np.array_equal(offset_map.vectors(), direction_to_offsets(marked, direction, m))
    levels = (offset_map.codes[marked].astype(int) - 1) // m
    share = num_levels * (confidence[marked] - lowest) / (1 - lowest)
    assert np.all(levels <= share + 1e-9)
    assert np.all((levels > share - 1 - 1e-9) | (levels == num_levels - 1))


@each_m
def test_the_largest_code_is_the_last_that_fits(m: int) -> None:
    most = 255 // m
    direction = np.array([[m - 1]], np.uint8)
    top = OffsetMap.encode(np.array([[True]]), direction, num_directions=m, num_levels=most)
    assert top.codes[0, 0] == m * most
    with pytest.raises(ValueError, match=f"at most 256 but got {1 + m * (most + 1)}"):
        OffsetMap.encode(np.array([[True]]), direction, num_directions=m, num_levels=most + 1)


def test_codes_are_one_plus_direction_plus_m_times_level() -> None:
    direction = np.array([[0, 5, 7, 3, UNDEFINED, 2]], np.uint8)
    boundary = np.array([[True, True, True, True, True, False]])
    confidence = np.array([[0.0, 0.49, 1.0, 0.75, 1.0, 1.0]])
    codes = OffsetMap.encode(boundary, direction, confidence, num_levels=4).codes
    assert codes.tolist() == [[1, 1 + 5 + 8, 1 + 7 + 24, 1 + 3 + 24, 0, 0]]


def test_confidence_below_the_lowest_is_level_zero() -> None:
    codes = OffsetMap.encode(
        np.ones((1, 3), bool),
        np.zeros((1, 3), np.uint8),
        np.array([[0.1, 0.5, 0.99]]),
        lowest_confidence=0.5,
        num_levels=2,
    ).codes
    assert codes.tolist() == [[1, 1, 9]]


def test_a_lowest_confidence_of_one_leaves_one_level() -> None:
    boundary, direction = np.ones((1, 2), bool), np.array([[3, 4]], np.uint8)
    offset_map = OffsetMap.encode(boundary, direction, 1.0, lowest_confidence=1.0)
    assert offset_map.codes.tolist() == [[4, 5]]
    assert offset_map.boundary_mask(1.0).all()


def test_confidence_comes_back_as_the_middle_of_its_level() -> None:
    mask, sectors = np.array([[True, True, True, False]]), np.zeros((1, 4), np.uint8)
    confidence = np.array([[0.2, 0.4, 1.0, 0.9]])
    offset_map = OffsetMap.encode(mask, sectors, confidence, lowest_confidence=0.2, num_levels=4)
    assert offset_map.confidence_map() == pytest.approx(np.array([[0.3, 0.5, 0.9, 0.0]]))
    certain = OffsetMap.encode(mask, sectors, lowest_confidence=1.0, num_levels=1)
    assert certain.confidence_map().tolist() == [[1.0, 1.0, 1.0, 0.0]]


def test_asking_for_more_confidence_drops_the_levels_that_begin_below() -> None:
    confidence = np.array([[0.5, 0.6, 0.75, 0.874, 0.875, 1.0]])
    offset_map = OffsetMap.encode(
        np.ones((1, 6), bool),
        np.zeros((1, 6), np.uint8),
        confidence,
        lowest_confidence=0.5,
        num_levels=4,
    )
    # Levels begin at 0.5, 0.625, 0.75, 0.875.
    for asked, kept in ((0.0, 6), (0.5, 6), (0.51, 4), (0.75, 4), (0.8, 2), (0.875, 2), (0.9, 0)):
        expected = [[False] * (6 - kept) + [True] * kept]
        assert offset_map.boundary_mask(asked).tolist() == expected
        assert offset_map.vectors(asked).any(axis=0).tolist() == expected


# Files


@each_m
def test_a_file_gives_the_same_map_back(tmp_path: Path, m: int) -> None:
    path = tmp_path / "sub" / "map.png"
    offset_map = random_map(
        m,
        boundary_width=3.5,
        lowest_confidence=0.5,
        num_levels=5,
        confidence="probability of boundary × of direction",
        source={"network": "w18 · γ", "sha256": "0" * 64, "nested": {"list": [1, None, True]}},
    )
    write_offset_map(path, offset_map)
    again = read_offset_map(path)
    assert np.array_equal(again.codes, offset_map.codes)
    assert metadata_record(again) == metadata_record(offset_map)
    assert list(path.parent.iterdir()) == [path]


@given(data=st.data())
def test_files_of_every_size_and_number_of_levels_come_back(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    m = data.draw(st.sampled_from(NUM_DIRECTIONS))
    num_levels = data.draw(st.integers(1, 255 // m))
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    codes = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, m * num_levels)))
    path = tmp_path_factory.getbasetemp() / "offsets.png"
    write_offset_map(path, OffsetMap(codes, num_directions=m, num_levels=num_levels))
    again = read_offset_map(path)
    assert np.array_equal(again.codes, codes)
    assert (again.num_directions, again.num_levels) == (m, num_levels)


def test_the_file_is_a_palette_png_of_8_bits_that_shows_directions_as_hues(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    offset_map = random_map()
    write_offset_map(path, offset_map)
    with Image.open(path) as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.array(picture), offset_map.codes)
        shown = np.array(picture.convert("RGB"))
    assert np.all(shown[offset_map.codes == 0] == 0)
    assert shown[offset_map.codes > 0].max(axis=1).min() >= 100


@each_m
def test_the_colour_wheel_has_one_colour_per_code_and_opposites_differ(m: int) -> None:
    wheel = np.frombuffer(colour_wheel(m, 3), np.uint8).reshape(-1, 3).astype(int)
    assert wheel[0].tolist() == [0, 0, 0]
    assert len(np.unique(wheel, axis=0)) == len(wheel) == 1 + 3 * m
    brightest = wheel[-m:]
    assert np.abs(brightest - np.roll(brightest, m // 2, axis=0)).sum(axis=1).min() > 250


def test_a_record_of_ours_is_all_that_a_picture_in_our_colours_needs(tmp_path: Path) -> None:
    path = tmp_path / "raw.png"
    write_raw(path, random_map(), changed_record())
    assert metadata_record(read_offset_map(path)) == metadata_record(random_map())


def test_a_map_without_levels_is_damage_even_if_all_is_interior(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    interior = OffsetMap(np.zeros((11, 17), np.uint8), num_levels=0)
    write_offset_map(path, interior)
    check_error(path, "damaged offset map")


def test_codes_beyond_the_last_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "beyond.png"
    codes = np.full((11, 17), 8 * 3, np.uint8)
    write_raw(path, OffsetMap(codes, num_levels=3), changed_record(num_levels=3))
    assert np.array_equal(read_offset_map(path).codes, codes)
    codes[5, 5] += 1
    picture = Image.fromarray(codes)
    picture.putpalette(colour_wheel(8, 3) + bytes(3))  # the right colours, and one more
    info = PngImagePlugin.PngInfo()
    info.add_text(RECORD_KEY, changed_record(num_levels=3))
    picture.save(path, pnginfo=info)
    check_error(path, "damaged offset map")


def check_error(path: Path, text: str) -> None:
    with pytest.raises(FileFormatError) as caught:
        read_offset_map(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert text in str(caught.value)


def changed_record(**changes: Any) -> str:
    return json.dumps(metadata_record(random_map()) | changes)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "offsets",
        "{",
        "[]",
        "3",
        "null",
        '"offset map"',
        "{}",
        "[" * 100_000,
        changed_record(kind="refined label map"),
        changed_record(size=None),
        changed_record(size=[17]),
        changed_record(size=17),
        changed_record(unheard_of=1),
        changed_record(num_directions=[8]),
        changed_record(num_levels=None),
        changed_record(num_levels="8"),
        changed_record(lowest_confidence="0.5"),
        changed_record(boundary_width="wide"),
    ],
)
def test_a_picture_without_a_record_of_ours_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "photo.png"
    write_raw(path, random_map(), text)
    check_error(path, "a picture, but not an offset map")


@pytest.mark.parametrize(
    "changes",
    [
        {"size": [11, 17]},
        {"size": [17, 12]},
        {"size": ["17", "11"]},
        {"num_directions": 6},
        {"num_directions": 8.0},
        {"num_directions": -8},
        {"source": ["x.jpg"]},
        {"source": None},
        {"num_levels": 0},
        {"num_levels": -1},
        {"num_levels": 8.0},
        {"num_levels": 3},
        {"num_levels": 32},
        {"num_levels": 10**6},
        {"lowest_confidence": 1.1},
        {"lowest_confidence": -0.1},
        {"lowest_confidence": float("nan")},
        {"boundary_width": 0},
        {"boundary_width": float("nan")},
    ],
)
def test_a_record_that_does_not_fit_its_pixels_is_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = tmp_path / "damaged.png"
    write_raw(path, random_map(), changed_record(**changes))
    check_error(path, "damaged offset map")


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_named_even_if_it_holds_more(tmp_path: Path, version: object) -> None:
    path = tmp_path / "old.png"
    write_raw(path, random_map(), changed_record(version=version, more=1))
    check_error(path, f"format version {version}, expected 1")


def test_colours_with_the_record_of_an_offset_map_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "edited.png"
    info = PngImagePlugin.PngInfo()
    info.add_text(RECORD_KEY, changed_record())
    Image.fromarray(np.zeros((11, 17, 3), np.uint8)).save(path, pnginfo=info)
    check_error(path, "damaged offset map")


def test_missing_foreign_and_truncated_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    check_error(path, "no such file")
    path.write_text("offsets")
    check_error(path, "not a readable offset map")
    write_offset_map(path, random_map())
    path.write_bytes(path.read_bytes()[:-60])
    check_error(path, "broken or truncated offset map")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(key=st.sampled_from(sorted(metadata_record(random_map()))), value=json_values)
@example(key="num_levels", value=True)
@example(key="num_directions", value=4)
@example(key="num_directions", value=16)
def test_whatever_stands_in_the_record_the_map_is_usable_or_our_error_comes_out(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "record.png"
    write_raw(path, random_map(), changed_record(**{key: value}))
    try:
        offset_map = read_offset_map(path)
    except FileFormatError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017 - either outcome is right
    else:
        assert offset_map.vectors(0.5).shape == (2, 11, 17)
        assert offset_map.boundary_mask().any()


def test_a_palette_in_another_order_is_damage(tmp_path: Path) -> None:
    # Programs that shrink PNG files renumber the codes and keep the text.
    path = tmp_path / "map.png"
    sectors = np.arange(64, dtype=np.uint8).reshape(8, 8) % 8
    write_offset_map(path, OffsetMap.encode(np.ones((8, 8), bool), sectors))
    with Image.open(path) as picture:
        text = PngImagePlugin.PngInfo()
        text.add_text("segfix", picture.info["segfix"])
        used = sorted(set(np.asarray(picture).ravel().tolist()))
        picture.remap_palette(used[::-1]).save(path, pnginfo=text)
    with pytest.raises(FileFormatError, match="damaged offset map"):
        read_offset_map(path)
