"""`segfix refine` on panoptic maps and their JSON."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.cli.refine_instances.instance_files import (
    FOUND,
    IMAGES,
    SIZE,
    bounds,
    box,
    out_of,
    refined,
    run,
    write_json,
)

SEGMENTS = {3: 0, 70_000: 1, 70_001: 2}
"""Ids of the background and of the two objects."""


def write_panoptic(folder: Path, mode: str = "RGB") -> Path:
    annotations = []
    for image, stem in IMAGES.items():
        ids = np.full(SIZE, 3)
        ids[:2] = 0
        for mask, segment in zip(FOUND[image], (70_000, 70_001), strict=False):
            ids[mask] = segment
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        (folder / "x").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).convert(mode).save(folder / "x" / f"{stem}.png")
        segments = [
            {
                "id": segment,
                "category_id": place,
                "isthing": place > 0,
                "bbox": bounds(ids == segment),
                "area": int((ids == segment).sum()),
            }
            for segment, place in SEGMENTS.items()
        ]
        annotations.append(
            {"image_id": image, "file_name": f"{stem}.png", "segments_info": segments}
        )
    return write_json(folder / "x.json", {"info": {"v": 1}, "annotations": annotations})


def segment_ids(path: Path) -> NDArray[np.int64]:
    colours = np.asarray(Image.open(path), np.int64)
    ids: NDArray[np.int64] = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
    return ids


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_panoptic_offsets_that_lead_nowhere_give_the_same_files(mode: str) -> None:
    path = write_panoptic(Path("preds"), mode)
    assert run(path, "--offsets", "zeros").exit_code == 0
    assert json.dumps(json.loads(path.read_text())) == json.dumps(
        json.loads(out_of(path).read_text())
    )
    for stem in "ab":
        before, after = (
            Image.open(folder / "x" / f"{stem}.png") for folder in (path.parent, Path("refined"))
        )
        assert (before.mode, before.tobytes()) == (after.mode, after.tobytes())


@pytest.mark.parametrize("options", [[], ["--scale", "1"]])
def test_panoptic_maps_are_looked_up_whole_and_segments_measured(options: list[str]) -> None:
    path = write_panoptic(Path("preds"))
    done = run(path, *options)
    assert (done.exit_code, "; 6 of 6 instances changed" in done.stdout) == (0, True)
    document = json.loads(out_of(path).read_text())
    assert document["info"] == {"v": 1}
    for annotation, original in zip(
        document["annotations"], json.loads(path.read_text())["annotations"], strict=True
    ):
        name = annotation["file_name"]
        before = np.asarray(Image.open(path.parent / "x" / name))
        expected = refined(before, scale=1 if options else None, keep=[0])
        assert np.array_equal(np.asarray(Image.open(Path("refined/x", name))), expected)
        ids = segment_ids(Path("refined/x", name))
        assert [list(segment) for segment in annotation["segments_info"]] == [
            list(segment) for segment in original["segments_info"]
        ]
        for segment in annotation["segments_info"]:
            assert segment["area"] == (ids == segment["id"]).sum()
            assert segment["bbox"] == bounds(ids == segment["id"])
    assert "1 already there" in run(path, *options).stdout
    Path("refined/x/a.png").unlink()
    assert "1 written" in run(path, *options).stdout
    assert Path("refined/x/a.png").exists()


@pytest.mark.parametrize("empty", ["keep", "drop"])
def test_a_panoptic_segment_that_would_vanish_keeps_its_pixels_or_is_left_out(empty: str) -> None:
    path = write_panoptic(Path("preds"))
    document = json.loads(path.read_text())
    thin = box(8, 9, 16, 1)
    picture = np.array(Image.open("preds/x/a.png"))
    picture[thin] = (9, 0, 0)
    Image.fromarray(picture).save("preds/x/a.png")
    extra = {"id": 9, "category_id": 1, "area": 16}
    document["annotations"][0]["segments_info"].append(extra)
    write_json(path, document)
    report = json.loads(run(path, "--empty", empty, "--json", "-q").stdout)
    assert report["emptied"] == [{"file": "preds/x.json", "image": 7, "id": 9}]
    segments = json.loads(out_of(path).read_text())["annotations"][0]["segments_info"]
    assert len(segments) == (4 if empty == "keep" else 3)
    left = segment_ids(Path("refined/x/a.png")) == 9
    assert np.array_equal(left, thin if empty == "keep" else np.zeros(SIZE, bool))


def test_panoptic_images_without_offset_map_are_copied_until_there_is_one() -> None:
    path = write_panoptic(Path("preds"))
    shutil.move("offsets/b.png", "b.png")
    for _ in range(2):
        done = run(path)
        assert done.exit_code == 1
        assert "image 12: no offset map" in done.stderr
        assert np.array_equal(
            segment_ids(Path("refined/x/b.png")), segment_ids(Path("preds/x/b.png"))
        )
    shutil.move("b.png", "offsets/b.png")
    assert run(path).exit_code == 0
    expected = refined(np.asarray(Image.open("preds/x/b.png")), keep=[0])
    assert np.array_equal(np.asarray(Image.open("refined/x/b.png")), expected)


def long_name() -> str:
    return Path("preds/x.json").read_text().replace("b.png", f"{'b' * 300}.png")


def test_a_panoptic_picture_that_has_changed_is_noticed() -> None:
    path = write_panoptic(Path("preds"))
    assert run(path).exit_code == 0
    assert "1 already there" in run(path).stdout
    shutil.copy("preds/x/a.png", "preds/x/b.png")
    done = run(path)
    assert done.exit_code == 1
    assert "exists and is not what this run would make" in done.stderr
    assert run(path, "--overwrite").exit_code == 0
    expected = refined(np.asarray(Image.open("preds/x/a.png")), keep=[0])
    assert np.array_equal(np.asarray(Image.open("refined/x/b.png")), expected)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda: Path("preds/x/b.png").unlink(), "preds/x/b.png: no such file"),
        (lambda: Path("preds/x/b.png").write_bytes(b"x"), "not a readable panoptic map"),
        (lambda: Path("preds/x.json").write_text(long_name()), "File name too long"),
        (lambda: Image.new("P", (60, 40)).save("preds/x/b.png"), "mode P; expected a panoptic"),
        (lambda: Image.new("RGB", (30, 40)).save("preds/x/b.png"), "30×40, but its offset map"),
    ],
)
def test_a_faulty_panoptic_picture_is_named(spoil: Callable[[], object], text: str) -> None:
    path = write_panoptic(Path("preds"))
    spoil()
    done = run(path)
    assert done.exit_code == 1
    assert text in done.stderr
    assert Path("refined/x/a.png").exists()


@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", ".."])
def test_panoptic_file_names_may_not_leave_the_folder(name: str) -> None:
    path = write_panoptic(Path("preds"))
    document = json.loads(path.read_text())
    document["annotations"][1]["file_name"] = name
    done = run(write_json(path, document))
    assert done.exit_code == 1
    assert "lies outside of preds/x" in done.stderr
    assert not Path("refined").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.parametrize("place", ["x/b.png", "x"])
def test_panoptic_pictures_may_not_be_links_that_lead_outside(place: str) -> None:
    path = write_panoptic(Path("preds"))
    shutil.move(Path("preds", place), "secret")
    Path("preds", place).symlink_to(Path("secret").absolute())
    done = run(path)
    assert done.exit_code == 1
    assert "is a link to" in done.stderr
    assert "outside of preds; copy that file there." in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not Path("refined").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_within_the_folder_and_of_the_whole_folder_are_followed() -> None:
    write_panoptic(Path("preds"))
    shutil.move("preds/x/b.png", "preds/kept.png")
    Path("preds/x/b.png").symlink_to("../kept.png")
    Path("linked").symlink_to("preds")
    assert run("linked/x.json").exit_code == 0
    assert Path("refined/x/b.png").is_file()


@pytest.mark.parametrize("name", ["a\0.png", "\ud800.png"])
def test_panoptic_file_names_that_can_be_none_are_told(name: str) -> None:
    path = write_panoptic(Path("preds"))
    document = json.loads(path.read_text())
    document["annotations"][1]["file_name"] = name
    done = run(write_json(path, document))
    assert done.exit_code == 1
    assert "is no file name" in done.stderr
