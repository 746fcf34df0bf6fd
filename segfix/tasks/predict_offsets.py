"""Predict offset map files of photographs, of the frames of a video, of standard input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import ArgumentError, SegfixError, require_extra
from segfix.files import Entry, Pair, list_entries, pair_entries
from segfix.files.places import StandardInput
from segfix.files.provenance import content_digest
from segfix.formats import (
    IMAGE_SUFFIXES,
    LabelMap,
    OffsetMap,
    read_frames,
    read_label_map,
    write_offset_map,
)
from segfix.formats.images import Photograph, open_photograph, orientation_of
from segfix.instances.by_image import read_file_names
from segfix.instances.listing import holds_instances, list_instance_files
from segfix.instances.photographs import InstanceEntry, pair_instances
from segfix.jobs.run import Summary, run_task
from segfix.jobs.run_settings import RunSettings, Workers
from segfix.jobs.sources import check_folders, check_results, list_preds
from segfix.jobs.task import Output, Row, Task, name_png
from segfix.jobs.urls import stage_urls
from segfix.network.offset_model import OffsetModel, load
from segfix.refinement.apply import PREDICTION_KEY
from segfix.refinement.sizes import Fit, match_sizes
from segfix.tasks.refine import FileSettings

RESIZE = "write predictions of the photographs' size, or leave --preds out and let refine --fit"
"""Advice where a prediction has another size."""


def predict_folder(
    images: Path | str,
    out: Path | str = "offsets",
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    preds: Path | str | None = None,
    reading: FileSettings = FileSettings(),
    annotations: Path | None = None,
    max_side: int | None = None,
    recursive: bool = False,
    naming: Mapping[str, Any] | None = None,
    **run: Any,
) -> Summary:
    """Predict the offset maps of a folder of photographs, as `segfix predict-offsets` does.

    Args:
        images: A photograph or a folder of them; may be a URL, as `preds` and `out`.
        out: Folder of the results, named after the photographs.
        weights: See `segfix.load`.
        device: See `segfix.load`.
        preds: Predictions that the offset maps are to fit; None: they fit any.
        reading: How predictions are read.
        annotations: COCO JSON with the file names of image ids, for instances in `preds`.
        max_side: See `OffsetModel.offsets`.
        recursive: Whether to go into folders within.
        naming: `suffixes` and `name_map` of `segfix.files.pair_entries`.
        run: `workers`, `shard`, `overwrite`, `max_failures`, `quiet`, `cluster` of
            `segfix.jobs.run_settings.RunSettings`.

    Returns:
        Rows of the files written (`done`), paths of those that were there (`skipped`), and a text
        for each failure (`failed`).

    Raises:
        SegfixError: There is nothing to predict or to pair, or the weights can't be used.
        DeviceError: The device isn't there.

    Example:
        >>> summary = predict_folder("images", "offsets", overwrite=True)  # doctest: +SKIP
        >>> summary.failed  # doctest: +SKIP
        []
    """
    settings = RunSettings(**run)
    with stage_urls(images, preds, out=out, recursive=recursive) as (source, maps, folder):
        jobs = list_photographs(
            source, folder, maps, annotations=annotations, recursive=recursive, naming=naming
        )
        model = load_for(settings.cluster, weights, device)
        task = predict_task(model, max_side=max_side, reading=None if maps is None else reading)
        with require_extra("eval"):
            return run_task(task, jobs, folder, settings)


def load_for(
    cluster: Workers | None, weights: str | Path | None = None, device: str = "auto"
) -> OffsetModel:
    """Load the network that predicts here or, if there is a cluster, there; see `segfix.load`."""
    model = load(weights, device="cpu" if cluster else device)
    if cluster:
        # Opened there again; here nobody runs it.
        model.device, model.threads = cluster.device(device), cluster.threads
    return model


def list_photographs(
    images: Path,
    out: Path,
    preds: Path | None = None,
    *,
    annotations: Path | None = None,
    recursive: bool = False,
    naming: Mapping[str, Any] | None = None,
) -> Iterable[Pair]:
    """List photographs, each with its prediction if there are any.

    Args:
        images: A photograph or a folder of them.
        out: Folder of the results.
        preds: Predictions: label maps, arrays, or files of instances.
        annotations: COCO JSON with the file names of image ids, for instances.
        recursive: Whether to go into folders within.
        naming: Of `pair_entries`.

    Raises:
        PairingError: There is nothing to list or to pair.
        ArgumentError: A result would replace an input.
    """
    check_folders({"IMAGES": images, "PREDS": preds}, out)
    leave_out = [out] if preds is None else [out, preds]
    entries = list_entries(
        images, IMAGE_SUFFIXES, what="images", recursive=recursive, leave_out=leave_out
    )
    maps: list[Entry] = []
    jobs: Iterable[Pair] = [Pair(entry, None) for entry in entries]
    if preds is not None and holds_instances(preds, recursive=recursive):
        maps = list_instance_files(
            preds, away=[images, out], recursive=recursive, leave_out=[out, images]
        )
        root = preds if preds.is_dir() else preds.parent
        file_names = read_file_names(annotations) if annotations else None
        jobs = pair_instances(maps, entries, root, naming=naming, file_names=file_names)
        # Of one file, how many there are is known soon.
        jobs = list(jobs) if len(maps) == 1 else jobs
    elif preds is not None:
        maps = list_preds(preds, recursive=recursive, leave_out=[out, images])
        jobs = pair_entries(entries, maps, **(naming or {}))
    inputs = (entry.path for entry in (*entries, *maps))
    check_results((out / name_png(entry) for entry in entries), inputs)
    return jobs


def predict_task(
    model: OffsetModel, *, max_side: int | None = None, reading: FileSettings | None = None
) -> Task[Pair]:
    """Make the task of predicting offset maps of photographs.

    Args:
        model: The network.
        max_side: See `OffsetModel.offsets`.
        reading: How to read the predictions that the offset maps are to fit, which every
            photograph must have; None: offset maps fit all.

    Raises:
        ArgumentError: There are to be predictions, and the network looks at photographs alone.
    """
    if reading is not None:
        try:
            model.check_conditioned()
        except SegfixError as error:
            raise ArgumentError(str(error)) from error
    work = partial(predict_file, model=model, max_side=max_side, reading=reading)
    return Task(work, "image", network=True)


def predict_file(
    pair: Pair,
    output: Output,
    *,
    model: OffsetModel,
    max_side: int | None = None,
    reading: FileSettings | None = None,
) -> Row:
    """Predict the offset map of one photograph file; see `predict_task`.

    Returns:
        The number of pixels and of those on a boundary, and the `prediction` if there is one.
    """
    image, prediction = pair.entry, pair.partner
    if reading is not None and prediction is None:
        raise SegfixError(
            "no prediction of that name",
            path=image.path,
            advice="say with --map or --suffix which one it is, or leave --preds out",
        )
    with open_photograph(image.path) as photograph:
        source = {**model.record(photograph.shape, max_side), "image": content_digest(image.path)}
        orientation = orientation_of(photograph.picture)
        if orientation != 1:
            # For predictions that were made of the photograph as it is stored.
            source["orientation"] = orientation
        if prediction is not None:
            source |= record_prediction(prediction, reading or FileSettings(), output)
        output.check({"source": source}, following=(PREDICTION_KEY,))
        label_map = None
        if prediction is not None:
            size = photograph.shape[0], photograph.shape[1]
            label_map = read_prediction(
                prediction, reading or FileSettings(), image, size, orientation
            )
        offset_map = predict_map(model, photograph, max_side, f"{image.path}", source, label_map)
    write_offset_map(output.path, offset_map)
    row = count_pixels(offset_map)
    return row if prediction is None else {**row, "prediction": f"{prediction.path}"}


def record_prediction(prediction: Entry, reading: FileSettings, output: Output) -> dict[str, Any]:
    """Tell, for the record of an offset map, which prediction it is made for.

    Raises:
        SegfixError: The prediction can't be read, or the offset map would be among its masks.
    """
    if isinstance(prediction, InstanceEntry):
        folder = output.path.parent
        if folder.resolve() in prediction.folders():
            raise SegfixError(
                f"the folder of the masks of {prediction.where}",
                path=folder,
                advice="choose another one with -o",
            )
        return {"prediction": prediction.digest()}
    settings = {"soft": reading.soft or None, "key": reading.key, "fit": reading.fit}
    given = {name: value for name, value in settings.items() if value is not None}
    return {**given, "prediction": content_digest(prediction.path)}


def read_prediction(
    prediction: Entry,
    reading: FileSettings,
    image: Entry,
    size: tuple[int, int],
    orientation: int,
) -> LabelMap | None:
    """Read a prediction of a photograph, as that is displayed.

    Args:
        prediction: Its file, or the photograph's instances in one.
        reading: How to read it.
        image: The photograph, for messages.
        size: Height and width of the photograph as displayed.
        orientation: How the photograph is stored, see `as_displayed`.

    Returns:
        The prediction; None where there is no instance.

    Raises:
        SegfixError: The file is missing or broken, or of another size.
    """
    if isinstance(prediction, InstanceEntry):
        return prediction.read(size, image.path)
    found = read_label_map(
        prediction.path, soft=reading.soft, key=reading.key, masks=True, shape=size
    )
    # What is resized in the end, the network sees in its photograph's size.
    fit: Fit | None = "image" if reading.fit == "labels" else reading.fit
    like = OffsetMap(np.zeros(size, np.uint8), source={"orientation": orientation})
    try:
        return match_sizes(found, like, fit)[0]
    except ValueError as error:
        raise SegfixError(
            found.size,
            path=prediction.path,
            expected=f"its photograph {image.path} is {size[1]}×{size[0]}",
            advice=RESIZE,
        ) from error


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


def count_pixels(offset_map: OffsetMap) -> Row:
    """Count the pixels of an offset map, and those on a boundary."""
    return {"pixels": offset_map.codes.size, "boundary": int((offset_map.codes > 0).sum())}


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        entry: The video's file; the stem is the frame's number, as ffmpeg writes it to %06d.png.
        digest: Of the file's bytes.
        number: From 1.
        image: (H, W, 3) uint8 RGB.
    """

    entry: Entry
    digest: str
    number: int
    image: NDArray[np.uint8]


def read_video(video: Path) -> Iterator[Frame]:
    """Read the frames of a video, to predict one after the other; see `read_frames`."""
    images, digest = read_frames(video), content_digest(video)
    return (
        Frame(Entry(video, f"{number:06d}"), digest, number, image)
        for number, image in enumerate(images, 1)
    )


def frame_task(model: OffsetModel, *, max_side: int | None = None) -> Task[Frame]:
    """Make the task of predicting offset maps of a video's frames; see `predict_task`."""
    return Task(partial(predict_frame, model=model, max_side=max_side), "frame", network=True)


def predict_frame(frame: Frame, output: Output, *, model: OffsetModel, max_side: int | None) -> Row:
    """Predict the offset map of one frame; see `predict_file`."""
    settings = model.record(frame.image.shape, max_side)
    source = {**settings, "video": frame.digest, "frame": frame.number}
    output.check({"source": source})
    name = f"{frame.entry.path}, frame {frame.number}"
    offset_map = predict_map(model, frame.image, max_side, name, source)
    write_offset_map(output.path, offset_map)
    return count_pixels(offset_map)


def predict_stream(model: OffsetModel, image: bytes, *, max_side: int | None = None) -> bytes:
    """Predict the offset map of one photograph: the bytes of a file from those of a file.

    Raises:
        SegfixError: The photograph is broken.
    """
    with TemporaryDirectory() as folder:
        path = StandardInput(folder, "-")
        path.write_bytes(image)
        task = predict_task(model, max_side=max_side)
        row = task.do(Pair(Entry(path, "offsets"), None), Path(folder))
        return Path(row["output"]).read_bytes()
