"""Ids that mean "not known": they neither give nor take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from segfix.errors import SegfixError
from segfix.files import Entry, Pair
from segfix.formats import LabelMap, OffsetMap, read_label_map, read_offset_map, write_offset_map
from segfix.jobs.task import Skipped
from segfix.refinement import refine, refine_masks
from segfix.refinement.apply import RefineSettings
from segfix.refinement.kept_ids import find_kept
from segfix.tasks.predictions import FileSettings
from segfix.tasks.refine import refine_folder, refine_task, refine_whole

CROPS = Path(__file__).parents[1] / "data" / "camvid"
STEM = "0016E5_08079"
EVERY_WAY = pytest.mark.parametrize("how", [{}, {"scale": 1}, {"scale": 2}, {"iterate": 10}])
Array = NDArray[Any]


@pytest.fixture(scope="module")
def offset_map() -> OffsetMap:
    return read_offset_map(CROPS / "offsets" / f"{STEM}.png")


def label_map() -> NDArray[np.uint8]:
    """A real prediction with a frame and a stripe of void."""
    ids = read_label_map(CROPS / "preds" / f"{STEM}.png").array
    ids[:6] = ids[-6:] = ids[:, :6] = ids[:, -6:] = ids[:, 100:104] = 255
    return ids


def as_type(dtype: Any, void: float) -> Array:
    ids = label_map()
    found = ids.astype(dtype)
    found[ids == 255] = void
    return found


KINDS = {
    "255 as bytes": as_type(np.uint8, 255),
    "255 as int64": as_type(np.int64, 255),
    "255 as float32": as_type(np.float32, 255),
    "-1": as_type(np.int64, -1),
    "-100 of PyTorch": as_type(np.int16, -100),
    "NaN": as_type(np.float32, np.nan),
    "none of GDAL": as_type(np.float32, -3.4028234663852886e38),
}


@EVERY_WAY
@pytest.mark.parametrize("kind", KINDS)
def test_void_neither_gives_nor_takes(kind: str, how: Any, offset_map: OffsetMap) -> None:
    before, void = KINDS[kind], label_map() == 255
    after = refine(before, offset_map, **how)
    moved = refine(before, offset_map, keep=(), **how)
    assert after.dtype == before.dtype
    assert np.array_equal(after[void], before[void], equal_nan=True)
    assert np.array_equal(np.isin(after, before[~void]), ~void)
    assert not np.array_equal(np.isin(moved, before[~void]), ~void), "without, void moves"
    # All else moves as it did.
    other = ~void & np.isin(moved, before[~void])
    assert np.array_equal(after[other], moved[other])


def test_a_pixel_whose_offset_leads_to_void_keeps_its_label() -> None:
    right = OffsetMap.encode(np.ones((1, 6), bool), np.full((1, 6), 4, np.uint8))
    ids = np.array([[1, 2, 255, 3, 1, 1]], np.uint8)
    assert refine(ids, right, scale=1).tolist() == [[2, 2, 255, 1, 1, 1]]
    assert refine(ids, right, scale=1, keep=()).tolist() == [[2, 255, 3, 1, 1, 1]]
    assert refine(ids, right, scale=1, keep=[3]).tolist() == [[2, 255, 255, 3, 1, 1]]
    colours = np.stack([ids, 0 * ids, ids // 255], axis=-1)
    assert refine(colours, right, scale=1, keep=[255 + 65536])[..., 0].tolist() == [
        [2, 2, 255, 1, 1, 1]
    ]


@pytest.mark.parametrize(
    ("ids", "kept"),
    [
        ([0, 255], []),
        ([0, 1], []),
        ([255], []),
        ([0, 1, 255], [255]),
        ([3, 7, 255], [255]),
        ([-1, 0, 255], [-1]),
        ([-1, 0, 1], [-1]),
        ([-1, 0, 1, 255], [-1, 255]),
        ([0, 1, 255, 256], []),
        ([0, 1, 254], []),
        ([0, np.nan, 1, 255], [255, "NaN"]),
    ],
)
def test_the_default_keeps_what_no_class_is(ids: list[float], kept: list[object]) -> None:
    from segfix.refinement.apply import as_label_map

    array = np.array([ids])
    found, mask = find_kept(as_label_map(array, array.shape, "array"))
    assert sorted(map(str, found)) == sorted(map(str, kept))
    assert (mask is None) == (not kept)


def test_scores_that_are_nan_stay_and_are_taken_by_none(offset_map: OffsetMap) -> None:
    ids = label_map()
    void, classes = ids == 255, np.arange(12)[:, None, None]
    scores = np.where(ids == classes, np.float32(0.9), np.float32(0.1))
    scores[:, void] = np.nan
    foreground = np.where(void, np.nan, np.where(ids == 0, 0.8, 0.3))
    for before in (scores, foreground):
        after = refine(before, offset_map)
        assert not np.array_equal(after, before, equal_nan=True)
        assert np.array_equal(np.isnan(after), np.isnan(before))
    # Of probabilities with NaN, one half divides, not zero.
    after, filled = refine(foreground, offset_map), np.where(void, 0.3, foreground)
    moved = ~void & (after != foreground)
    assert moved.sum() > 50
    assert np.array_equal(after[moved], refine(filled, offset_map)[moved])
    of_class = refine(scores, offset_map, keep=[1])
    assert np.array_equal(of_class.argmax(0)[~void] == 1, ids[~void] == 1)


def test_crowds_among_masks_stay_and_what_they_cover_stays() -> None:
    right = OffsetMap.encode(np.ones((1, 6), bool), np.full((1, 6), 4, np.uint8))
    masks = np.array([[[0, 1, 0, 0, 1, 0]], [[0, 0, 1, 1, 0, 0]]], np.uint8) * 255
    assert (refine_masks(masks, right, scale=1)[:, 0] > 0).astype(int).tolist() == [
        [1, 0, 0, 1, 0, 0],
        [0, 1, 1, 0, 0, 0],
    ]
    assert (refine_masks(masks, right, scale=1, keep=[1])[:, 0] > 0).astype(int).tolist() == [
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
    ]


def write_files(folder: Path, name: str, offset_map: OffsetMap, array: Array, **tags: Any) -> Pair:
    folder.mkdir(exist_ok=True)
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for value in tags.values():
        info[42113] = value
        info.tagtype[42113] = 2
    options: dict[str, Any] = {"tiffinfo": info} if tags else {}
    Image.fromarray(array).save(folder / name, **options)
    write_offset_map(folder / "offsets.png", offset_map)
    return Pair(Entry(folder / name, "x"), Entry(folder / "offsets.png", "x"))


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ("0", np.uint8),
        ("200", np.uint8),
        ("65535", np.uint16),
        ("-32768", np.int32),
        ("-9999", np.float32),
        ("nan", np.float32),
        ("200.0 ", np.int32),
    ],
)
def test_the_nodata_value_of_a_geotiff_is_kept(
    value: str, dtype: Any, offset_map: OffsetMap, tmp_path: Path
) -> None:
    before = as_type(dtype, 99) + dtype(1)
    void = label_map() == 255
    before[void] = float(value)
    pair = write_files(tmp_path / "in", "x.tif", offset_map, before, nodata=value)
    row = refine_task().do(pair, tmp_path / "out")
    assert row["kept"] == ["NaN" if value == "nan" else int(float(value))]
    after = read_label_map(tmp_path / "out" / "x.tif").array
    assert np.array_equal(after[void], before[void], equal_nan=True)
    assert np.array_equal(np.isin(after, before[~void]), ~void)
    assert row["changed"] > 0


def test_nodata_among_probabilities_is_no_score(offset_map: OffsetMap, tmp_path: Path) -> None:
    ids, void = label_map(), label_map() == 255
    before = np.where(void, -9999, np.where(ids == 0, 0.8, 0.3)).astype(np.float32)
    pair = write_files(tmp_path / "in", "x.tif", offset_map, before, nodata="-9999")
    row = refine_task().do(pair, tmp_path / "out")
    assert (row["kept"], row["changed"] > 0) == (["NaN"], True)
    after = read_label_map(tmp_path / "out" / "x.tif").array
    assert np.array_equal(after == -9999, void)


def test_another_setting_is_noticed_and_the_same_one_skips(
    offset_map: OffsetMap, tmp_path: Path
) -> None:
    pair = write_files(tmp_path / "in", "x.png", offset_map, label_map())
    refine_task().do(pair, tmp_path / "out")
    for keep in ((), (255, 0, 255)):
        task = refine_task(RefineSettings(keep=keep))
        with pytest.raises(SegfixError, match="--overwrite"):
            task.do(pair, tmp_path / "out")
        task.do(pair, tmp_path / "out", overwrite=True)
        with pytest.raises(Skipped):
            task.do(pair, tmp_path / "out")
    with pytest.raises(Skipped):
        refine_task(RefineSettings(keep=[0, 255])).do(pair, tmp_path / "out")


@pytest.mark.parametrize("kind", ["NaN", "none of GDAL"])
@pytest.mark.parametrize("keep", [None, ()])
def test_what_is_no_id_does_not_vanish(kind: str, keep: Any, offset_map: OffsetMap) -> None:
    for offset, lost in ((0, None), (1000, [])):
        before = LabelMap(np.where(label_map() == 255, KINDS[kind], KINDS[kind] + offset))
        settings = RefineSettings(keep=keep)
        _, kept = find_kept(before, keep)
        assert refine_whole(before, offset_map, settings, kept, restore=True)[1] == lost


def test_masks_have_no_ids_to_keep(offset_map: OffsetMap, tmp_path: Path) -> None:
    write_offset_map(tmp_path / "offsets" / "x.png", offset_map)
    (tmp_path / "preds").mkdir()
    np.save(tmp_path / "preds" / "x.npy", np.ones((2, *offset_map.codes.shape), bool))
    for keep, failed in ((None, []), ((), []), ((1,), ["have no ids"])):
        summary = refine_folder(
            tmp_path / "preds",
            tmp_path / "offsets",
            tmp_path / str(keep),
            settings=RefineSettings(keep=keep),
            reading=FileSettings(),
        )
        assert [text in summary.failed[0] for text in failed] == [True] * len(failed)
        assert len(summary.failed) == len(failed)
