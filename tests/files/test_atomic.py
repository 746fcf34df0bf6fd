from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segfix.errors import FileFormatError, SegfixError
from segfix.files.atomic import (
    LONGEST_WRITE,
    atomic_path,
    check_writable,
    machine,
    remove_unfinished,
)
from segfix.files.limits import limit_reading
from segfix.files.reading import open_picture, path_within, read_text


def test_the_new_file_takes_its_place_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "map.png"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("started", [True, False])
def test_an_exception_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException], started: bool
) -> None:
    path = tmp_path / "map.png"
    path.write_text("old")

    def write() -> None:
        with atomic_path(path) as temporary:
            if started:
                temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_makes_no_file_where_there_was_none(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "map.png") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_writes_nothing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    path.write_text("old")
    with pytest.raises(FileFormatError, match=r"map\.png: can't be written"), atomic_path(path):
        pass
    assert path.read_text() == "old"


def test_the_temporary_file_is_hidden_beside_the_new_one_with_its_ending(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "map.png") as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".png"


def test_two_writers_at_once_never_share_a_temporary_file(tmp_path: Path) -> None:
    names = [f"{'scene' * 30}_{k}.png" for k in (1, 2)]
    with atomic_path(tmp_path / names[0]) as one, atomic_path(tmp_path / names[1]) as two:
        one.write_text("1")
        two.write_text("2")
    assert [(tmp_path / name).read_text() for name in names] == ["1", "2"]


@pytest.mark.parametrize("stem", ["x" * 251, "图" * 83])
def test_every_name_that_the_file_system_takes_can_be_written(tmp_path: Path, stem: str) -> None:
    path = tmp_path / f"{stem}.png"
    assert 250 < len(path.name.encode()) <= 255
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


def read_pixels(path: Path) -> None:
    with open_picture(path, "label map") as picture:
        picture.load()


def write_picture(path: Path, side: int = 40) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(path)


def check_error(path: Path, text: str) -> None:
    with pytest.raises(FileFormatError) as caught:
        read_pixels(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    check_error(tmp_path / "none.png", "no such file")


@pytest.mark.parametrize("content", [b"", b"ids: 0 1 2\n", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_what_is_no_picture_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.png"
    path.write_bytes(content)
    check_error(path, "not a readable label map")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"cut{suffix}"
    write_picture(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    check_error(path, "")


def test_a_png_with_a_flipped_bit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "flipped.png"
    write_picture(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    check_error(path, "broken or truncated label map")


def test_a_picture_beyond_the_limit_of_pillow_is_named(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    write_picture(path)
    with limit_reading(max_pixels=2 * 40 * 40 // 3):
        check_error(path, "too large")


def test_too_little_memory_is_told_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "fine.png"
    write_picture(path)
    with (
        pytest.raises(FileFormatError, match=r"fine\.png: out of memory"),
        open_picture(path, "map"),
    ):
        raise MemoryError


def test_a_link_that_leads_in_circles_is_named(tmp_path: Path) -> None:
    path = tmp_path / "round.png"
    path.symlink_to("round.png")
    check_error(path, "can't be read (Too many levels of symbolic links).")


@pytest.mark.parametrize("name", ["x/" * 2500, "a\0b", "\ud800"])
def test_what_can_be_no_file_name_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileFormatError, match=r"^list\.txt: '.* is no file name \("):
        path_within(tmp_path, name, tmp_path, "list.txt")


def test_a_text_beyond_half_of_the_limit_is_told_with_what_allows_it(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("x" * 100)
    with limit_reading(max_bytes=199), pytest.raises(FileFormatError) as caught:
        read_text(path)
    assert str(caught.value) == (
        f"{path}: more than 99 bytes; --max-bytes of twice its size allows it, or split the file."
    )
    with limit_reading(max_bytes=200):
        assert len(read_text(path)) == 100


def test_errors_of_our_own_pass_through_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "fine.png"
    write_picture(path)
    with pytest.raises(SegfixError, match=r"^ours$"), open_picture(path, "image"):
        raise SegfixError("ours")


@pytest.fixture
def dead() -> int:
    """Number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.skipif(sys.platform == "win32", reason="there, no process can be asked for")
def test_what_killed_processes_left_goes_with_the_next_file(tmp_path: Path, dead: int) -> None:
    here, there = machine(), "0" * 8
    ours = f"{here}-{os.getpid()}"
    unique = "a" * 12
    gone = [f".map.{here}-{dead}.{unique}.tmp.png", f"..map.npy.{here}-{dead}.{unique}.tmp.segfix"]
    gone.append(f".map.{there}-{dead}.{unique}.tmp.png")
    kept = [f".map.{ours}.{unique}.tmp.png", f".other.{there}-{dead}.{unique}.tmp.png"]
    kept += [
        f".map.{here}-{dead}.tmp.png",
        f"map.{here}-{dead}.{unique}.tmp.png",
        ".map.npy.segfix",
    ]
    for name in (*gone, *kept):
        (tmp_path / name).write_text("half")
    long_ago = time.time() - LONGEST_WRITE - 60
    os.utime(tmp_path / gone[-1], (long_ago, long_ago))
    with atomic_path(tmp_path / "new.png") as temporary:
        temporary.write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "new.png"])


def test_a_process_that_ends_while_threads_write_removes_their_files(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "map.png") as temporary:
            temporary.write_text("half")
            remove_unfinished()
            assert list(tmp_path.iterdir()) == []

    with pytest.raises(FileFormatError, match="can't be written"):
        write()
    (tmp_path / "map.png").write_text("whole")
    remove_unfinished()
    assert (tmp_path / "map.png").exists()


@pytest.mark.parametrize("really", [True, False])
def test_a_folder_is_tried_before_it_is_said_to_be_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, really: bool
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    check_writable(tmp_path / "new" / "map.png")
    monkeypatch.setattr(os, "access", lambda *_: False)
    if not really:
        check_writable(tmp_path / "new" / "map.png")
        return
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(FileFormatError, match=r"map\.png: can't be written \(Read-only file sys"):
        check_writable(tmp_path / "new" / "map.png")
    assert list(tmp_path.iterdir()) == []
