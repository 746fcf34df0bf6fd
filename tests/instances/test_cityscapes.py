"""Lists of Cityscapes' instances."""

from __future__ import annotations

from pathlib import Path

import pytest

from segfix.errors import FileFormatError
from segfix.files import Entry
from segfix.instances.cityscapes import read_list, sort_by_name


def test_a_list_gives_class_and_score_by_mask_in_order(tmp_path: Path) -> None:
    path = tmp_path / "town" / "a_pred.txt"
    path.parent.mkdir()
    path.write_text("my mask.png 26 0.5\r\n\n../b.png 24.0 1e-3\n")
    assert read_list(path, tmp_path) == {
        str(tmp_path / "town" / "my mask.png"): {"labelID": 26, "conf": 0.5},
        str(tmp_path / "b.png"): {"labelID": 24, "conf": 0.001},
    }


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"mask.png 26\n", "line 1 is 'mask.png 26'"),
        (b"a.png 26 1\nb.png 26 nan\n", "line 2 is 'b.png 26 nan'"),
        (b"a.png inf 1\n", "line 1 is"),
        (b"../../a.png 26 1\n", "line 1: ../../a.png lies outside of"),
        (b"/a.png 26 1\n", "line 1: /a.png lies outside of"),
        (b"a.png 26 1\n./a.png 24 1\n", "line 2: ./a.png a second time"),
        (b"\xff\xfe", "not a text file"),
    ],
)
def test_a_faulty_line_is_named(content: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / "town" / "a_pred.txt"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(FileFormatError) as caught:
        read_list(path, tmp_path)
    assert str(caught.value).startswith(f"{path}: {text}")


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a_pred.txt"
    with pytest.raises(FileFormatError, match=r"a_pred\.txt: no such file"):
        read_list(path, tmp_path)


def test_lists_are_found_by_the_name_of_their_image() -> None:
    paths = [Path("x/a_leftImg8bit_pred.txt"), Path("y/b_pred.txt"), Path("y/notes.txt")]
    found = sort_by_name([Entry(path, path.stem) for path in paths], Path("x"))
    assert found == {"a": paths[0], "b": paths[1]}
