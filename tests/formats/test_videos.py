from __future__ import annotations

import gc
import os
import struct
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from segfix.errors import FileFormatError
from segfix.formats import read_frames

Images = Sequence[NDArray[np.uint8]]


def scene(count: int = 8, size: tuple[int, int] = (34, 50)) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]


def write_video(path: Path, images: Images, codec: str = "ffv1", **options: str) -> None:
    """The frames 0, 1, 4, 9, … tenths of a second from the start; with ffv1, to the last bit."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=10, options={"g": "4"})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        sound = container.add_stream("aac", rate=16000) if path.suffix == ".mp4" else None
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = number * number, Fraction(1, 10)
            container.mux(stream.encode(frame))
            if isinstance(sound, av.AudioStream):
                silence = av.AudioFrame.from_ndarray(
                    np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
                )
                silence.sample_rate, silence.pts = 16000, number * 1024
                container.mux(sound.encode(silence))
        container.mux(stream.encode(None))
        if isinstance(sound, av.AudioStream):
            container.mux(sound.encode(None))


def read_some(path: Path) -> tuple[int, str]:
    """How many frames come, and what error in the end."""
    count = 0
    try:
        for _ in read_frames(path):
            count += 1
    except FileFormatError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017 - either outcome is right
        return count, str(error)
    return count, ""


@pytest.mark.parametrize("size", [(34, 50), (33, 51), (1, 1)])
@pytest.mark.parametrize("suffix", [".mkv", ".avi"])
def test_frames_come_in_order_whatever_their_rate(
    tmp_path: Path, suffix: str, size: tuple[int, int]
) -> None:
    images = scene(size=size)
    write_video(tmp_path / f"clip{suffix}", images)
    again = list(read_frames(tmp_path / f"clip{suffix}"))
    assert len(again) == len(images)
    for one, other in zip(again, images, strict=True):
        assert np.array_equal(one, other)
        assert one.dtype == np.uint8


def test_sound_beside_the_frames_is_passed_over(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", scene(), "mpeg4")
    frames = list(read_frames(tmp_path / "clip.mp4"))
    assert [frame.shape for frame in frames] == [(34, 50, 3)] * 8


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((1, 0, 0, -1), lambda image: image[::-1]),
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda image: np.rot90(image, 2).transpose(1, 0, 2)),
    ],
)
def test_frames_are_turned_as_they_are_displayed(
    tmp_path: Path, matrix: tuple[int, int, int, int], turn: object
) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, scene(2), "mpeg4")
    lying = next(iter(read_frames(path)))
    content = path.read_bytes()
    unit = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    place = content.index(unit, content.index(b"tkhd"))
    a, b, c, d = (number << 16 for number in matrix)
    turned = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:place] + turned + content[place + 36 :])
    assert callable(turn)
    assert np.array_equal(next(iter(read_frames(path))), turn(lying))


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("clip.mp4", "mpeg4"),
        ("clip.avi", "ffv1"),
        ("clip.mkv", "ffv1"),
        ("clip.webm", "libvpx-vp9"),
    ],
)
def test_of_a_file_cut_short_the_frames_before_come(tmp_path: Path, name: str, codec: str) -> None:
    path = tmp_path / name
    write_video(path, scene(), codec, **({"movflags": "faststart"} if name == "clip.mp4" else {}))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 7 // 10])
    count, text = read_some(path)
    assert 0 < count < 8
    assert f"broken after frame {count} (" in text
    path.write_bytes(content[: len(content) // 20])
    assert read_some(path)[0] == 0


def test_a_damaged_packet_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    write_video(path, scene())
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    path.write_bytes(content)
    count, text = read_some(path)
    assert 0 < count < 8
    assert text == "" or f"broken after frame {count} (" in text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        bytes(5000),
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile 'http://127.0.0.1:9/a.mp4'\n",
    ],
)
def test_what_is_no_video_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    count, text = read_some(path)
    assert count == 0
    assert "replace the file" in text


def test_missing_files_and_sound_alone_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no such file"):
        read_frames(tmp_path / "none.mp4")
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        assert isinstance(stream, av.AudioStream)
        silence = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        silence.sample_rate = 16000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    with pytest.raises(FileFormatError, match="no video in it"):
        read_frames(path)
    path = tmp_path / "unknown.avi"
    write_video(path, scene())
    path.write_bytes(path.read_bytes().replace(b"FFV1", b"@@@@"))
    with pytest.raises(FileFormatError, match="no video in it that PyAV decodes"):
        read_frames(path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_frames_leave_memory_once_they_are_read(tmp_path: Path) -> None:
    def used() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    path = tmp_path / "clip.avi"
    write_video(path, [np.zeros((480, 640, 3), np.uint8)] * 120, "mpeg4")
    gc.collect()
    gc.disable()
    try:
        frames = read_frames(path)
        for _ in range(20):
            next(frames)
        before = used()
        assert sum(1 for _ in frames) == 100
        # 100 frames are 46 MB in YUV, 92 MB in RGB.
        assert used() - before < 16 << 20
    finally:
        gc.enable()
