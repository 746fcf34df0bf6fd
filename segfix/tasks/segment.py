"""From photographs to label map files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segfix.errors import SegfixError
from segfix.files import Entry
from segfix.files.provenance import content_digest
from segfix.formats import LabelMap, read_image, write_label_map
from segfix.jobs.run import check_output, png_path
from segfix.network.segmentation_model import Segmenting, average_probabilities, make_label_map


def segment_file(
    model: Segmenting,
    image: Entry,
    out: Path,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Predict the label map of one photograph file.

    Args:
        model: The network.
        image: The photograph.
        out: Folder of the result, named after the photograph.
        scales: See `average_probabilities`.
        flip: See `average_probabilities`.
        overwrite: Whether to replace an existing result.

    Returns:
        The paths and the number of pixels.

    Raises:
        Skipped: The result is there already.
        SegfixError: The photograph is missing or broken.
    """
    if image.problem:
        raise SegfixError(image.problem)
    path = png_path(image, out)
    record = {
        "kind": "predicted label map",
        "settings": {"scales": list(scales), "flip": flip},
        "source": {**model.source, "image": content_digest(image.path)},
    }
    check_output(path, record, record, overwrite)
    pixels = read_image(image.path)
    try:
        probabilities = average_probabilities(model, pixels, scales=scales, flip=flip)
    except SegfixError as error:
        raise SegfixError(f"{image.path}: {error}") from error
    labels = make_label_map(probabilities, model.class_ids)
    write_label_map(path, LabelMap(labels), record=json.dumps(record, sort_keys=True))
    height, width = labels.shape[:2]
    return {"input": str(image.path), "output": str(path), "pixels": height * width}
