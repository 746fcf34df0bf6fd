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
from segfix.files import Entry, Pair
from segfix.files.provenance import content_digest
from segfix.formats import LabelMap, OffsetMap, read_frames, read_label_map, write_offset_map
from segfix.formats.images import Photograph, open_photograph, orientation_of
from segfix.instances.photographs import InstanceEntry
from segfix.jobs.run import check_output, output_path, png_path
from segfix.network.offset_model import OffsetModel
from segfix.refinement.apply import PREDICTION_KEY
from segfix.refinement.sizes import as_displayed
from segfix.tasks.refine import FileSettings


def predict_file(
    model: OffsetModel,
    image: Entry,
    out: Path,
    *,
    prediction: Entry | None = None,
    reading: FileSettings | None = None,
    max_side: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Predict the offset map of one photograph file.

    Args:
        model: The network.
        image: The photograph.
        out: Folder of the result, named after the photograph.
        prediction: What is to be refined, where the offset map is to fit that alone: a file, or a
            photograph's instances in one; without any, the offset map fits all.
        reading: How to read the prediction; None: as it looks.
        max_side: See `OffsetModel.offsets`.
        overwrite: Whether to replace an existing result.

    Returns:
        The paths, the number of pixels and of those on a boundary.

    Raises:
        Skipped: The result is there already.
        SegfixError: A file is missing or broken, or the sizes differ.
    """
    if image.problem:
        raise SegfixError(image.problem)
    path = png_path(image, out)
    digest = content_digest(image.path)
    with open_photograph(image.path) as photograph:
        source = {**model.record(photograph.shape, max_side), "image": digest}
        orientation = orientation_of(photograph.picture)
        if orientation != 1:
            # For predictions that were made of the photograph as it is stored.
            source["orientation"] = orientation
    reading = reading or FileSettings()
    following: tuple[str, ...] = ()
    if isinstance(prediction, InstanceEntry):
        masks = {item.parent.resolve() for item in prediction.items if isinstance(item, Path)}
        if path.parent.resolve() in masks:
            raise SegfixError(
                f"{path.parent}: the folder of the masks of {prediction.where}; choose another one "
                "with -o."
            )
        source["prediction"] = prediction.digest()
        following = (PREDICTION_KEY,)
    elif prediction is not None:
        settings = {"soft": reading.soft or None, "key": reading.key}
        source |= {name: value for name, value in settings.items() if value is not None}
        source["prediction"] = content_digest(prediction.path)
        following = (PREDICTION_KEY,)
    check_output(path, {"source": source}, ("source",), overwrite, following=following)
    with open_photograph(image.path) as photograph:
        size = photograph.shape[0], photograph.shape[1]
        label_map = None
        if isinstance(prediction, InstanceEntry):
            label_map = prediction.read(size, image.path)
        elif prediction is not None:
            label_map = read_prediction(prediction.path, reading, image.path, size, orientation)
        offset_map = predict_map(model, photograph, max_side, str(image.path), source, label_map)
    row = write_row(image.path, path, offset_map)
    return row if prediction is None else {**row, "prediction": str(prediction.path)}


def predict_pair(
    model: OffsetModel, pair: Pair, out: Path, reading: FileSettings, **settings: Any
) -> dict[str, Any]:
    """Predict the offset map of a photograph that fits its prediction; see `predict_file`.

    Raises:
        SegfixError: As there; or there is no prediction.
    """
    image, prediction = pair.entry, pair.partner
    if prediction is None and not image.problem:
        raise SegfixError(
            f"{image.path}: no prediction of that name; say with --map or --suffix which one it "
            "is, or leave --preds out."
        )
    return predict_file(model, image, out, prediction=prediction, reading=reading, **settings)


def read_prediction(
    path: Path, reading: FileSettings, image: Path, size: tuple[int, int], orientation: int
) -> LabelMap:
    """Read a prediction of a photograph, as that is displayed.

    Args:
        path: Its file.
        reading: How to read it.
        image: The photograph's file, for messages.
        size: Height and width of the photograph as displayed.
        orientation: How the photograph is stored, see `as_displayed`.

    Raises:
        SegfixError: The file is missing or broken, or of another size.
    """
    found = read_label_map(path, soft=reading.soft, key=reading.key, masks=True, shape=size)
    label_map = as_displayed(found, size, orientation)
    if label_map.shape != size:
        raise SegfixError(
            f"{path}: {found.size}, but its photograph {image} is {size[1]}×{size[0]}; write "
            "predictions of the photographs' size, or leave --preds out and let refine --fit."
        )
    return label_map


def predict_map(
    model: OffsetModel,
    image: NDArray[np.uint8] | Photograph,
    max_side: int | None,
    name: str,
    source: dict[str, Any],
    label_map: LabelMap | None = None,
) -> OffsetMap:
    """Predict an offset map that says what it was made from; `name` is for messages."""
    try:
        offset_map = model.offsets(image, label_map, max_side=max_side)
        return replace(offset_map, source={**offset_map.source, **source})
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
    model: OffsetModel,
    frame: Frame,
    out: Path,
    *,
    max_side: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Predict the offset map of one frame, named after its number; see `predict_file`."""
    path = frame_path(frame, out)
    settings = model.record(frame.image.shape, max_side)
    source = {**settings, "video": frame.digest, "frame": frame.number}
    check_output(path, {"source": source}, ("source",), overwrite)
    name = f"{frame.video}, frame {frame.number}"
    return write_row(frame.video, path, predict_map(model, frame.image, max_side, name, source))


def predict_stream(model: OffsetModel, image: bytes, *, max_side: int | None = None) -> bytes:
    """Predict the offset map of one photograph: the bytes of a file from those of a file.

    Raises:
        SegfixError: The photograph is broken.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "-")
        path.write_bytes(image)
        try:
            row = predict_file(model, Entry(path, "offsets"), Path(folder), max_side=max_side)
        except SegfixError as error:
            raise SegfixError(str(error).replace(str(path), "standard input")) from error
        return Path(row["output"]).read_bytes()


def write_row(source: Path, path: Path, offset_map: OffsetMap) -> dict[str, Any]:
    """Write an offset map and report it."""
    write_offset_map(path, offset_map)
    return {
        "input": str(source),
        "output": str(path),
        "pixels": offset_map.codes.size,
        "boundary": int((offset_map.codes > 0).sum()),
    }
