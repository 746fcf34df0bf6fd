"""Which offset map `segfix refine` takes for an image of a JSON of instances."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import segfix
from segfix.formats import read_offset_map
from tests.cli.refine_instances.instance_files import (
    FOUND,
    Mask,
    compressed,
    items_of,
    masks_of,
    out_of,
    refined,
    run,
    sam_list,
    write_json,
    write_results,
)


@pytest.mark.parametrize(
    ("image_id", "more", "stem", "options"),
    [
        (7, {"file_name": "val2017/street.one.jpg"}, "street.one", []),
        (7, {"file_name": "C:\\photos\\street.jpg"}, "street", []),
        (7, {"file_name": "street_leftImg8bit.png"}, "street", []),
        (7, {}, "000000000007", []),
        (7, {}, "7", []),
        (7, {}, "0007", []),
        ("street", {}, "street", []),
        ("street", {}, "street_mine", ["--suffix", "_mine"]),
        (7, {}, "town/street", ["--annotations", "names.json", "-r"]),
        (7, {"file_name": "street.jpg"}, "town/street", ["-r"]),
    ],
)
def test_images_are_matched_by_file_name_annotations_or_id(
    image_id: int | str, more: dict[str, str], stem: str, options: list[str]
) -> None:
    write_json(Path("names.json"), {"images": [{"id": 7, "file_name": "street.jpg"}]})
    item = {"image_id": image_id, "score": 1, "segmentation": compressed(FOUND[7][0]), **more}
    # A second one, that names other than the chosen file's matter.
    path = write_json(Path("preds/x.json"), [item, item | {"score": 0.5}])
    shutil.move("offsets/a.png", "a.png")
    Path("offsets", stem).parent.mkdir(exist_ok=True)
    shutil.move("a.png", f"offsets/{stem}.png")
    assert run(path, *options).exit_code == 0
    assert np.array_equal(masks_of(out_of(path))[1], refined_by(FOUND[7][0], f"offsets/{stem}.png"))


def test_an_image_of_known_name_never_takes_the_offset_map_of_its_number() -> None:
    images = [{"id": 1, "file_name": "0000.jpg"}, {"id": 2, "file_name": "0001.jpg"}]
    items = [
        {"id": place, "image_id": place, "segmentation": compressed(FOUND[7][0])}
        for place in (1, 2)
    ]
    path = write_json(Path("preds/x.json"), {"images": images, "annotations": items})
    shutil.move("offsets/a.png", "offsets/0001.png")
    done = run(path)
    assert done.exit_code == 1
    assert "image 1: no offset map of that name" in done.stderr
    before, after = (json.loads(file.read_text())["annotations"] for file in (path, out_of(path)))
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False]


def refined_by(mask: Mask, offsets: str) -> Mask:
    return segfix.refine(mask, read_offset_map(Path(offsets)))


def test_the_file_of_one_image_and_one_offset_map_are_a_pair_whatever_their_names() -> None:
    path = write_json(Path("preds/other.json"), sam_list())
    assert run(path, "--offsets", "offsets/a.png").exit_code == 0


def test_the_one_image_of_a_file_may_be_named_after_it() -> None:
    item = {"image_id": 0, "segmentation": compressed(FOUND[7][0])}
    write_json(Path("preds/a.json"), [item])
    write_json(Path("preds/b.json"), [item, item | {"image_id": 1}])
    done = run("preds")
    assert "1 written, 2 failed" in done.stdout
    assert Path("refined/a.json").exists()


def test_images_without_offset_map_are_listed_and_a_later_run_completes_the_file() -> None:
    path = write_results(Path("preds"))
    shutil.move("offsets/b.png", "b.png")
    for _ in range(2):
        done = run(path)
        assert done.exit_code == 1
        assert "refined: 1 written, 1 failed; 3 of 5 instances changed" in done.stdout
        assert done.stderr.splitlines()[-1].startswith(
            "failed: preds/x.json: image 12: no offset map of that name; run predict-offsets"
        )
        assert items_of(out_of(path))[3:] == items_of(path)[3:]
    shutil.move("b.png", "offsets/b.png")
    done = run(path)
    assert (done.exit_code, done.stderr.count("failed")) == (0, 0)
    for old, new in zip(masks_of(path), masks_of(out_of(path)), strict=True):
        assert np.array_equal(new, refined(old))
    assert "1 already there" in run(path).stdout


def test_no_offset_map_at_all_leaves_nothing_behind() -> None:
    path = write_results(Path("preds"))
    for stem in "ab":
        shutil.move(f"offsets/{stem}.png", f"offsets/other_{stem}.png")
    done = run(path)
    assert done.exit_code == 1
    assert "no offset map of that name" in done.stderr
    assert not Path("refined").exists()
