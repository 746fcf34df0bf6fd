"""From photographs to offset map files, and from label maps to ground-truth offset map files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import SegfixError
from segfix.formats import (
    Entry,
    OffsetMap,
    read_frames,
    read_label_map,
    write_offset_map,
)
from segfix.formats.images import Photograph, open_photograph, read_orientation
from segfix.formats.records import content_digest
from segfix.geometry import make_targets
from segfix.inference.batch import check_output, output_path, png_path
from segfix.inference.model import OffsetModel


def predict_file(
    model: OffsetModel, image: Entry, out: Path, *, overwrite: bool = False
) -> dict[str, Any]:
    """Predict the offset map of one photograph file.

    Args:
        model: The network.
        image: The photograph.
        out: Folder of the result, named after the photograph.
        overwrite: Whether to replace an existing result.

    Returns:
        The paths, the number of pixels and of those on a boundary.

    Raises:
        Skipped: The result is there already.
        SegfixError: The photograph is missing or broken.
    """
    if image.problem:
        raise SegfixError(image.problem)
    path = png_path(image, out)
    source: dict[str, Any] = {**model.source, "image": content_digest(image.path)}
    orientation = read_orientation(image.path)
    if orientation != 1:
        # For predictions that were made of the photograph as it is stored.
        source["orientation"] = orientation
    check_output(path, {"source": source}, ("source",), overwrite)
    with open_photograph(image.path) as photograph:
        offset_map = predict_map(model, photograph, str(image.path), source)
    return write_row(image.path, path, offset_map)


def predict_map(
    model: OffsetModel, image: NDArray[np.uint8] | Photograph, name: str, source: dict[str, Any]
) -> OffsetMap:
    """Predict an offset map that says what it was made from; `name` is for messages."""
    try:
        return replace(model.offsets(image), source=source)
    except SegfixError as error:
        raise SegfixError(f"{name}: {error}") from error


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        video: The file.
        digest: Of its bytes.
        number: From 1.
        image: (H, W, 3) uint8 RGB.
    """

    video: Path
    digest: str
    number: int
    image: NDArray[np.uint8]


def video_frames(video: Path) -> Iterator[Frame]:
    """The frames of a video, to predict one after the other; see `read_frames`."""
    images, digest = read_frames(video), content_digest(video)
    return (Frame(video, digest, number, image) for number, image in enumerate(images, 1))


def frame_path(frame: Frame, out: Path) -> Path:
    """Where a frame's offset map goes: numbered as ffmpeg numbers what it writes to %06d.png."""
    return output_path(out, f"{frame.number:06d}")


def predict_frame(
    model: OffsetModel, frame: Frame, out: Path, *, overwrite: bool = False
) -> dict[str, Any]:
    """Predict the offset map of one frame, named after its number; see `predict_file`."""
    path = frame_path(frame, out)
    source = {**model.source, "video": frame.digest, "frame": frame.number}
    check_output(path, {"source": source}, ("source",), overwrite)
    name = f"{frame.video}, frame {frame.number}"
    return write_row(frame.video, path, predict_map(model, frame.image, name, source))


def predict_stream(model: OffsetModel, image: bytes) -> bytes:
    """Predict the offset map of one photograph: the bytes of a file from those of a file.

    Raises:
        SegfixError: The photograph is broken.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "-")
        path.write_bytes(image)
        try:
            row = predict_file(model, Entry(path, "offsets"), Path(folder))
        except SegfixError as error:
            raise SegfixError(str(error).replace(str(path), "standard input")) from error
        return Path(row["output"]).read_bytes()


def target_file(
    labels: Entry,
    out: Path,
    *,
    num_directions: int,
    boundary_width: int,
    ignore_index: int,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Make the ground-truth offset map of one label map file; see `predict_file`."""
    if labels.problem:
        raise SegfixError(labels.problem)
    path = png_path(labels, out)
    source = {
        "labels": content_digest(labels.path),
        "num_directions": num_directions,
        "boundary_width": boundary_width,
        "ignore_index": ignore_index,
    }
    check_output(path, {"source": source}, ("source",), overwrite)
    targets = make_targets(
        read_label_map(labels.path).ids(),
        num_directions=num_directions,
        boundary_width=boundary_width,
        ignore_index=ignore_index,
    )
    offset_map = OffsetMap.encode(
        targets.boundary_map == 1,
        targets.direction_map,
        num_directions=num_directions,
        lowest_confidence=1.0,
        num_levels=1,
        boundary_width=boundary_width,
        source=source,
    )
    return write_row(labels.path, path, offset_map)


def write_row(source: Path, path: Path, offset_map: OffsetMap) -> dict[str, Any]:
    """Write an offset map and report it."""
    write_offset_map(path, offset_map)
    return {
        "input": str(source),
        "output": str(path),
        "pixels": offset_map.codes.size,
        "boundary": int((offset_map.codes > 0).sum()),
    }
