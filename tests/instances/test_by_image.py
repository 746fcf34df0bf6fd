"""Instances in JSON: whose image each is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from segfix.errors import FileFormatError, SegfixError
from segfix.files import Entry
from segfix.instances.by_image import read_file_names, sort_instances
from segfix.instances.panoptic import is_panoptic


@pytest.mark.parametrize(
    ("document", "images"),
    [
        ([], []),
        ([{"segmentation": []}] * 2, [("x", ["x"], None, [0, 1])]),
        (
            {
                "image": {"file_name": "sa_1.jpg", "height": 6, "width": 7},
                "annotations": [{"segmentation": []}],
            },
            [("x", ["x", "sa_1"], (6, 7), [0])],
        ),
        (
            [{"segmentation": [], "image_id": image} for image in (5, "b", 5)],
            [(5, ["named"], None, [0, 2]), ("b", ["b"], None, [1])],
        ),
        (
            [{"segmentation": [], "image_id": image} for image in ("5", 7)],
            [("5", ["named"], None, [0]), (7, ["7", "000000000007"], None, [1])],
        ),
        (
            {
                "images": [{"id": 1, "file_name": "val/c.d.jpg", "height": 6, "width": 7}],
                "annotations": [{"segmentation": [], "image_id": 1}],
            },
            [(1, ["val/c.d", "c.d", "x"], (6, 7), [0])],
        ),
    ],
)
def test_instances_are_sorted_by_image(document: Any, images: list[Any]) -> None:
    found = sort_instances(Entry(Path("folder/x.json"), "x"), document, {5: "named.jpg"}).images
    assert [
        (one.image, one.names[: len(image[1])], one.size, list(one.places))
        for one, image in zip(found, images, strict=True)
    ] == images


def test_panoptic_tables_are_told_apart() -> None:
    assert is_panoptic({"annotations": [{"segments_info": []}]})
    others: list[Any] = [[], {}, {"annotations": []}, {"annotations": [3]}, {"annotations": {}}, 3]
    assert not any(map(is_panoptic, others))


def test_file_names_are_those_of_the_images(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_text('{"images": [{"id": 4, "file_name": "a.jpg"}]}')
    assert read_file_names(path) == {4: "a.jpg"}
    path.write_text('{"images": [{"id": 4}]}')
    with pytest.raises(FileFormatError, match="has no 'file_name'"):
        read_file_names(path)
    with pytest.raises(SegfixError, match="no such file"):
        read_file_names(tmp_path / "missing.json")
