"""Predict offset map files of photographs, of the frames of a video, of standard input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import ArgumentError, SegfixError, require_extra
from segfix.files import Entry, Pair, list_entries, pair_entries
from segfix.files.georeference import read_georeference
from segfix.files.places import StandardInput
from segfix.files.provenance import NOT_TAKEN, content_digest
from segfix.formats import (
    IMAGE_SUFFIXES,
    LabelMap,
    OffsetMap,
    read_frames,
    write_offset_map,
)
from segfix.formats.arguments import as_path
from segfix.formats.images import Photograph, open_photograph, turn_transform
from segfix.instances.by_image import read_file_names
from segfix.instances.listing import holds_instances, is_yolo_set, list_instance_files
from segfix.instances.photographs import pair_instances
from segfix.jobs.run import Summary, run_task
from segfix.jobs.run_settings import RunSettings, Workers
from segfix.jobs.sources import check_folders, check_results, list_preds, refuse_video
from segfix.jobs.task import Output, Row, Task, name_png
from segfix.jobs.urls import stage_urls
from segfix.network.offset_model import OffsetModel, load
from segfix.refinement.apply import PREDICTION_KEY
from segfix.refinement.orientation import settle_orientation
from segfix.tasks.predictions import FileSettings, read_prediction, record_prediction


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
    bands: Sequence[int] | None = None,
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
        bands: See `segfix.formats.read_image`.
        recursive: Whether to go into folders within.
        naming: `suffixes` and `name_map` of `segfix.files.pair_entries`.
        run: `workers`, `shard`, `overwrite`, `max_failures`, `quiet`, `cluster` of
            `segfix.jobs.run_settings.RunSettings`.

    Returns:
        Rows of the files written (`done`), paths of those that were there (`skipped`), and a text
        for each failure (`failed`).

    Raises:
        TypeError: An argument is no path.
        SegfixError: There is nothing to predict or to pair, or the weights can't be used.
        DeviceError: The device isn't there.

    Example:
        >>> summary = predict_folder("images", "offsets", overwrite=True)  # doctest: +SKIP
        >>> summary.failed  # doctest: +SKIP
        []
    """
    for name, value in {
        "images": images,
        "out": out,
        "preds": "." if preds is None else preds,
    }.items():
        as_path(value, name)
    settings = RunSettings(**run)
    with stage_urls(images, preds, out=out, recursive=recursive) as (source, maps, folder):
        passed = Counter[str]()
        jobs = list_photographs(
            source,
            folder,
            maps,
            annotations=annotations,
            recursive=recursive,
            naming=naming,
            passed_over=passed,
        )
        model = load_for(settings.cluster, weights, device)
        task = predict_task(
            model, max_side=max_side, reading=None if maps is None else reading, bands=bands
        )
        with require_extra("eval"):
            return run_task(task, jobs, folder, settings, passed_over=passed)


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
    passed_over: Counter[str] | None = None,
    share: bool = False,
    missing: dict[str, str] | None = None,
) -> Iterable[Pair]:
    """List photographs, each with its prediction if there are any.

    Args:
        images: A photograph or a folder of them.
        out: Folder of the results.
        preds: Predictions: label maps, arrays, or files of instances.
        annotations: COCO JSON with the file names of image ids, for instances.
        recursive: Whether to go into folders within.
        naming: Of `pair_entries`.
        passed_over: Of `list_entries`, for the folder of the photographs.
        share: See `pair_instances`.
        missing: See `pair_instances`.

    Raises:
        PairingError: There is nothing to list or to pair.
        ArgumentError: A result would replace an input, or `images` is a video.
    """
    check_folders({"IMAGES": images, "PREDS": preds}, out)
    refuse_video(images)
    leave_out = [out] if preds is None else [out, preds]
    instances = preds is not None and holds_instances(preds, recursive=recursive, images=images)
    # Beside the photographs, as LabelMe's, they aren't passed over.
    beside = instances and preds is not None and images.resolve() == preds.resolve()
    entries = list_entries(
        images,
        IMAGE_SUFFIXES,
        what="images",
        recursive=recursive or (instances and preds is not None and is_yolo_set(preds)),
        leave_out=leave_out,
        passed_over=None if beside else passed_over,
    )
    maps: list[Entry] = []
    jobs: Iterable[Pair] = [Pair(entry, None) for entry in entries]
    if preds is not None and instances:
        maps = list_instance_files(
            preds,
            away=[images, out],
            recursive=recursive,
            leave_out=[out, images],
            passed_over=passed_over if beside else None,
        )
        root = preds if preds.is_dir() else preds.parent
        file_names = read_file_names(annotations) if annotations else None
        how: dict[str, Any] = {"naming": naming, "file_names": file_names}
        jobs = pair_instances(maps, entries, root, share=share, missing=missing, **how)
        # Of one file, how many there are is known soon.
        jobs = list(jobs) if len(maps) == 1 else jobs
    elif preds is not None:
        maps = list_preds(preds, recursive=recursive, leave_out=[out, images])
        jobs = pair_entries(entries, maps, leave=NOT_TAKEN["label map"], **(naming or {}))
    inputs = (entry.path for entry in (*entries, *maps))
    check_results((out / name_png(entry) for entry in entries), inputs)
    return jobs


def predict_task(
    model: OffsetModel,
    *,
    max_side: int | None = None,
    reading: FileSettings | None = None,
    bands: Sequence[int] | None = None,
) -> Task[Pair]:
    """Make the task of predicting offset maps of photographs.

    Args:
        model: The network.
        max_side: See `OffsetModel.offsets`.
        reading: How to read the predictions that the offset maps are to fit, which every
            photograph must have; None: offset maps fit all.
        bands: See `segfix.formats.read_image`.

    Raises:
        ArgumentError: There are to be predictions, and the network looks at photographs alone.
    """
    if reading is not None:
        try:
            model.check_conditioned()
        except SegfixError as error:
            raise ArgumentError(str(error)) from error
    work = partial(predict_file, model=model, max_side=max_side, reading=reading, bands=bands)
    return Task(work, "image", network=True, takes="photograph")


def predict_file(
    pair: Pair,
    output: Output,
    *,
    model: OffsetModel,
    max_side: int | None = None,
    reading: FileSettings | None = None,
    bands: Sequence[int] | None = None,
) -> Row:
    """Predict the offset map of one photograph file; see `predict_task`.

    Returns:
        The number of pixels and of those on a boundary, the `scaling` of values that weren't bytes,
        and the `prediction` if there is one.
    """
    image, prediction = pair.entry, pair.partner
    if reading is not None and prediction is None:
        raise SegfixError(
            "no prediction of that name",
            path=image.path,
            advice="say with --map or --suffix which one it is, or leave --preds out",
        )
    with open_photograph(image.path, bands) as photograph:
        source = {**model.record(photograph.shape, max_side), "image": content_digest(image.path)}
        if bands:
            source["bands"] = list(bands)
        if photograph.deep and photograph.deep.sample_type != "uint8":
            source["values"] = photograph.deep.sample_type
        orientation = photograph.orientation
        if orientation != 1:
            # For predictions that were made of the photograph as it is stored.
            source["orientation"] = orientation
        size = photograph.shape[0], photograph.shape[1]
        if georeference := read_georeference(image.path):
            # For shapes in coordinates of the earth.
            turned = turn_transform(georeference["transform"], size, orientation)
            source["georeference"] = {**georeference, "transform": turned}
        if prediction is not None:
            source |= record_prediction(prediction, reading or FileSettings(), output)
        output.check({"source": source}, following=(PREDICTION_KEY,))
        label_map = None
        if prediction is not None:
            label_map = read_prediction(
                *(prediction, reading or FileSettings(), image, size, orientation),
                source.get("georeference"),
            )
            if label_map and orientation != 1:
                with open_photograph(image.path, bands) as again:
                    plain = model.offsets(again, max_side=max_side)
                plain = replace(plain, source={"orientation": orientation})
                label_map = settle_orientation(label_map, plain)
        photograph.decode()
        offset_map = predict_map(model, photograph, max_side, f"{image.path}", source, label_map)
    write_offset_map(output.path, offset_map)
    row = count_pixels(offset_map)
    if photograph.scaling:
        row["scaling"] = photograph.scaling
    return row if prediction is None else {**row, "prediction": f"{prediction.path}"}


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


def predict_stream(
    model: OffsetModel,
    image: bytes,
    *,
    max_side: int | None = None,
    bands: Sequence[int] | None = None,
) -> tuple[bytes, Row]:
    """Predict the offset map of one photograph: the bytes of a file from those of a file.

    Returns:
        The file, and what `predict_file` reports.

    Raises:
        SegfixError: The photograph is broken.
    """
    with TemporaryDirectory() as folder:
        path = StandardInput(folder, "-")
        path.write_bytes(image)
        task = predict_task(model, max_side=max_side, bands=bands)
        row = task.do(Pair(Entry(path, "offsets"), None), Path(folder))
        return Path(row["output"]).read_bytes(), row
