"""Predict label map files of photographs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

from segfix.errors import SegfixError
from segfix.files import Entry
from segfix.files.provenance import content_digest
from segfix.formats import LabelMap, read_image, write_label_map
from segfix.jobs.task import Output, Row, Task
from segfix.network.segmentation_model import Segmenting, average_probabilities, make_label_map


def segment_task(
    model: Segmenting, *, scales: Sequence[float] = (1.0,), flip: bool = False
) -> Task[Entry]:
    """Make the task of predicting label maps of photographs.

    Args:
        model: The network.
        scales: See `average_probabilities`.
        flip: See `average_probabilities`.
    """
    work = partial(segment_file, model=model, scales=scales, flip=flip)
    return Task(work, "image", network=True, takes="photograph")


def segment_file(
    image: Entry, output: Output, *, model: Segmenting, scales: Sequence[float], flip: bool
) -> Row:
    """Predict the label map of one photograph file.

    Returns:
        The number of pixels.
    """
    record = {
        "kind": "predicted label map",
        "settings": {"scales": list(scales), "flip": flip},
        "source": {**model.source, "image": content_digest(image.path)},
    }
    output.check(record)
    pixels = read_image(image.path)
    try:
        probabilities = average_probabilities(model, pixels, scales=scales, flip=flip)
    except SegfixError as error:
        raise SegfixError(f"{image.path}: {error}") from error
    labels = make_label_map(probabilities, model.class_ids)
    write_label_map(output.path, LabelMap(labels), record=json.dumps(record, sort_keys=True))
    height, width = labels.shape[:2]
    return {"pixels": height * width}
