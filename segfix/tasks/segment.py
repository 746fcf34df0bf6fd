"""Predict label map files of photographs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

from segfix.errors import SegfixError
from segfix.files import Entry
from segfix.files.provenance import content_digest
from segfix.formats import LabelMap, write_label_map
from segfix.formats.images import open_photograph
from segfix.jobs.task import Output, Row, Task
from segfix.network.segmentation_model import Segmenting, average_probabilities, make_label_map


def segment_task(
    model: Segmenting,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    bands: Sequence[int] | None = None,
) -> Task[Entry]:
    """Make the task of predicting label maps of photographs.

    Args:
        model: The network.
        scales: See `average_probabilities`.
        flip: See `average_probabilities`.
        bands: See `segfix.formats.read_image`.
    """
    work = partial(segment_file, model=model, scales=scales, flip=flip, bands=bands)
    return Task(work, "image", network=True, takes="photograph")


def segment_file(
    image: Entry,
    output: Output,
    *,
    model: Segmenting,
    scales: Sequence[float],
    flip: bool,
    bands: Sequence[int] | None = None,
) -> Row:
    """Predict the label map of one photograph file.

    Returns:
        The number of pixels, and the `scaling` of values that weren't bytes.
    """
    chosen = {"bands": list(bands)} if bands else {}
    record = {
        "kind": "predicted label map",
        "settings": {"scales": list(scales), "flip": flip, **chosen},
        "source": {**model.source, "image": content_digest(image.path)},
    }
    output.check(record)
    with open_photograph(image.path, bands) as photograph:
        pixels = photograph[:, :]
    try:
        probabilities = average_probabilities(model, pixels, scales=scales, flip=flip)
    except SegfixError as error:
        raise SegfixError(f"{image.path}: {error}") from error
    labels = make_label_map(probabilities, model.class_ids)
    write_label_map(output.path, LabelMap(labels), record=json.dumps(record, sort_keys=True))
    height, width = labels.shape[:2]
    scaling = {"scaling": photograph.scaling} if photograph.scaling else {}
    return {"pixels": height * width, **scaling}
