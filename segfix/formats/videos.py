"""Codec of videos: frames, one after the other, with PyAV."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import FileFormatError
from segfix.files.limits import check_pixels, most_pixels
from segfix.files.reading import check_regular

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"),
    *(".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv"),
)
"""File name endings of videos."""

OPENING = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,matroska,avi,mpeg,mpegvideo,m4v,mpegts,asf,flv,ogg",
}
"""Options that keep a playlist from opening other files or addresses."""


def read_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Read the frames of a video as they are displayed: a rotation is carried out.

    Args:
        path: Any video that PyAV reads. Of several streams the best is taken.

    Returns:
        All frames that are stored, whatever their rate, each (H, W, 3) uint8 RGB. Where the file
        is broken, the iterator raises `FileFormatError` after the frames before.

    Raises:
        FileFormatError: The file is missing or no video.
        ModuleNotFoundError: PyAV isn't installed.
    """
    import av

    check_regular(path)
    if not path.is_file():
        raise FileFormatError(f"{path}: no such file.")
    try:
        container = av.open(f"file:{path}", options=OPENING)
    except (av.FFmpegError, ValueError, OSError) as error:
        raise FileFormatError(
            f"{path}: not a readable video ({describe_fault(error)}); replace the file."
        ) from error
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.codec_context is None:
        container.close()
        raise FileFormatError(
            f"{path}: no video in it that PyAV decodes; convert it, to H.264 in .mp4 say."
        )
    try:
        check_pixels((stream.codec_context.height, stream.codec_context.width), path)
    except FileFormatError:
        container.close()
        raise
    # Of frames that are larger than the file says.
    stream.codec_context.options = {"max_pixels": str(int(min(most_pixels(), 2**31 - 1)))}
    return convert_frames(container, stream, path)


def convert_frames(
    container: InputContainer, stream: VideoStream, path: Path
) -> Iterator[NDArray[np.uint8]]:
    """Convert the frames of a stream to arrays, then raise the error that ended them, if any."""
    import av

    count, fault, matrix = 0, "", b""
    with container:
        frames = decode_frames(container, stream)
        while not fault:
            try:
                frame = next(frames, None)
                if frame is None:
                    break
                # Of the first frame only: asked for it, a frame stays in memory for long.
                matrix = matrix if count else display_matrix(frame)
                array = turn_frame(frame.to_ndarray(format="rgb24"), matrix)
            except (av.FFmpegError, ValueError, OSError) as error:
                fault = describe_fault(error)
            else:
                count += 1
                yield array
    if not fault and ends_early(path):
        fault = "cut off"
    if not count:
        raise FileFormatError(
            f"{path}: no frame can be read ({fault or 'cut off'}); replace the file."
        )
    if fault:
        raise FileFormatError(
            f"{path}: broken after frame {count} ({fault}); the frames up to there are done; "
            "replace the file for the rest."
        )


def decode_frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Decode all frames up to the end or to the first broken packet, then raise the error."""
    import av

    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise ValueError("damaged or cut off")
            yield from packet.decode()
    except (av.FFmpegError, ValueError):
        # Those still waiting inside came before it.
        yield from stream.codec_context.decode(None)
        raise


def ends_early(path: Path) -> bool:
    """Tell whether a Matroska or WebM file is shorter than it says, which libav doesn't."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = file.read(4096)
    place = 0
    for mark in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):
        if start[place : place + 4] != mark or place + 5 > len(start):
            return False
        # As many bytes as there are zeros before the first 1, which is no part of the number.
        length = 9 - start[place + 4].bit_length()
        number = int.from_bytes(start[place + 4 : place + 4 + length])
        number -= 1 << 7 * length
        place += 4 + length + number
    # All ones: of unknown length, as a live stream is.
    return number != (1 << 7 * length) - 1 and place > size


def display_matrix(frame: VideoFrame) -> bytes:
    """Return the matrix by which a frame is to be turned; empty: not at all."""
    side_data: Any = frame.side_data.get("DISPLAYMATRIX")
    return b"" if side_data is None else bytes(side_data)


def turn_frame(array: NDArray[Any], matrix: bytes) -> NDArray[np.uint8]:
    """Turn and mirror (H, W, 3) uint8 RGB as a display matrix says."""
    # PyAV's frame.rotation tells nothing of mirroring.
    if not matrix:
        return array
    # x' = a·x + c·y, y' = b·x + d·y
    a, b, _, c, d = struct.unpack_from("=5i", matrix)
    if abs(b) > abs(a):
        array, a, d = array.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(array[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def describe_fault(error: Exception) -> str:
    """Return libav's message without the file name."""
    return str(getattr(error, "strerror", None) or error)
