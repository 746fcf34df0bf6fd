from __future__ import annotations

from pathlib import Path

import pytest

from segfix.errors import FileFormatError
from segfix.formats.class_names import read_class_names


def read(folder: Path, content: str | bytes) -> dict[int, str]:
    path = folder / "classes.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_class_names(path)


def test_names_alone_count_from_0(tmp_path: Path) -> None:
    text = "# CamVid\nsky\n\n  traffic light \nMauer, Straße\n3D printer\n"
    expected = {0: "sky", 1: "traffic light", 2: "Mauer, Straße", 3: "3D printer"}
    assert read(tmp_path, text) == expected


@pytest.mark.parametrize("between", [" ", "\t", ":", ": ", ",", " , ", ";", "   "])
def test_ids_may_have_gaps_and_any_order(tmp_path: Path, between: str) -> None:
    names = read(tmp_path, f"26{between}traffic car\r\n7{between}road\r\n0{between}x:y, z\r\n")
    assert list(names.items()) == [(0, "x:y, z"), (7, "road"), (26, "traffic car")]


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    assert read(tmp_path, "\ufeff0 road\n1 sky\n".encode()) == {0: "road", 1: "sky"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("0 road\n1 sky\n0 wall\n", "id 0 is there twice"),
        ("0 road\n00 wall\n", "id 0 is there twice"),
        ("", "no class names"),
        ("\n# nothing\n", "no class names"),
        ("straße".encode("latin-1"), "not a text file in UTF-8"),
        ("0 road\n".encode("utf-16"), "not a text file in UTF-8"),
        # Else every id would be off by one.
        ("id,name\n0,road\n1,sky\n", "'id,name' has no id, but other lines have"),
        ("0 road\n1\n2 sky\n", "'1' has no id"),
        # The bootstrap would take terabytes.
        ("word\n" * 1025, "1025 lines; expected a class name per line, at most 1024"),
    ],
)
def test_lists_that_leave_ids_open_are_refused_by_name(
    tmp_path: Path, content: str | bytes, reason: str
) -> None:
    with pytest.raises(FileFormatError, match=reason) as caught:
        read(tmp_path, content)
    assert str(caught.value).startswith(str(tmp_path / "classes.txt"))


def test_a_list_may_have_1024_classes(tmp_path: Path) -> None:
    assert len(read(tmp_path, "word\n" * 1024)) == 1024


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.txt", tmp_path):
        with pytest.raises(FileFormatError, match="can't be read"):
            read_class_names(path)
