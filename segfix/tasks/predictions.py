"""Predictions in files, each read to fit its photograph or its offset map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segfix.errors import SegfixError
from segfix.files import Entry
from segfix.files.provenance import content_digest
from segfix.formats import LabelMap, OffsetMap, read_label_map, read_offset_map
from segfix.formats.label_maps import peek_label_map
from segfix.formats.tiff import GEO_REFERENCE
from segfix.jobs.task import Output
from segfix.refinement.sizes import Fit, advise_fit, as_displayed, match_sizes, see_whole

LARGE = 1 << 26
"""Bytes of a prediction, unpacked, from which on its size is looked at before."""

RESIZE = "write predictions of the photographs' size, or leave --preds out and let refine --fit"
"""Advice where a prediction has another size."""


@dataclass(frozen=True)
class FileSettings:
    """How a prediction's file is read, and what of it is written.

    Attributes:
        soft: Whether integers are scores, too, not ids.
        key: The array of an .npz file that is meant; None: the largest.
        fit: What is resized where prediction and offset map differ in size; None: it is an error.
        argmax: Whether scores become a label map.
        drop_empty: Whether masks and instance ids of which nothing is left are left out, not kept
            as they were.
    """

    soft: bool = False
    key: str | None = None
    fit: Fit | None = None
    argmax: bool = False
    drop_empty: bool = False


def record_prediction(prediction: Entry, reading: FileSettings, output: Output) -> dict[str, Any]:
    """Tell, for the record of an offset map, which prediction it is made for.

    Raises:
        SegfixError: The prediction can't be read, or the offset map would be among its masks.
    """
    # Not above: label maps are refined without what reads files of instances.
    from segfix.instances.photographs import InstanceEntry

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
    georeference: Mapping[str, Any] | None = None,
) -> LabelMap | None:
    """Read a prediction of a photograph, as that is displayed.

    Args:
        prediction: Its file, or the photograph's instances in one.
        reading: How to read it.
        image: The photograph, for messages.
        size: Height and width of the photograph as displayed.
        orientation: How the photograph is stored, see `as_displayed`.
        georeference: Where it lies, for shapes in coordinates of the earth.

    Returns:
        The prediction; None where there is no instance.

    Raises:
        SegfixError: The file is missing or broken, or of another size.
    """
    from segfix.instances.photographs import InstanceEntry

    if isinstance(prediction, InstanceEntry):
        return prediction.read(size, image.path, georeference)
    told = {
        "expected": f"its photograph {image.path} is {size[1]}×{size[0]}",
        "advice": RESIZE,
    }
    large = None
    if reading.fit is None:
        large = peek_misfit(prediction.path, size, orientation, key=reading.key)
    if large:
        raise SegfixError(large.size, path=prediction.path, **told)
    found = read_label_map(
        prediction.path, soft=reading.soft, key=reading.key, masks=True, shape=size
    )
    try:
        return see_whole(found, size, orientation, reading.fit)
    except ValueError as error:
        raise SegfixError(found.size, path=prediction.path, **told) from error


def read_pair(
    labels: Path, offsets: Path, reading: FileSettings, like: str | None = None
) -> tuple[LabelMap, OffsetMap]:
    """Read a prediction and its offset map, of one size.

    Args:
        labels: The prediction.
        offsets: The offset map.
        reading: How to read the prediction.
        like: What messages compare its size with; None: the offset map.

    Raises:
        SegfixError: A file is missing or broken, or the sizes differ.
    """
    offset_map = read_offset_map(offsets)
    height, width = offset_map.codes.shape
    expected = f"its {like or f'offset map {offsets}'} is {width}×{height}"
    turn = offset_map.source.get("orientation", 1)
    large = None
    if reading.fit is None:
        large = peek_misfit(labels, (height, width), turn, key=reading.key)
    if large:
        advice = advise_fit(large, offset_map)
        raise SegfixError(large.size, path=labels, expected=expected, advice=advice)
    found = read_label_map(
        labels, soft=reading.soft, key=reading.key, masks=True, shape=(height, width)
    )
    # Probabilities that are all 0 or 1 hold no fraction either.
    certain = found.kind == "ids" and found.array.dtype.kind == "f"
    if reading.argmax and certain and np.isin(found.array, (0, 1)).all():
        found = replace(found, kind="scores")
    if reading.argmax and found.kind != "scores":
        raise SegfixError(f"{found.kind}, not scores", path=labels, advice="leave --argmax out")
    try:
        label_map, offset_map = match_sizes(found, offset_map, reading.fit)
    except ValueError as error:
        array_name = f"array {found.rest['key']!r} is " if "key" in found.rest else ""
        raise SegfixError(
            f"{array_name}{found.size}",
            path=labels,
            expected=expected,
            advice=advise_fit(found, offset_map),
        ) from error
    if label_map.shape != found.shape and GEO_REFERENCE & found.rest.get("tags", {}).keys():
        raise SegfixError(
            "its geo-reference wouldn't fit another size", path=labels, advice="use --fit labels"
        )
    return label_map, offset_map


def peek_misfit(
    path: Path, size: tuple[int, int], orientation: Any, *, key: str | None
) -> LabelMap | None:
    """Find out whether a large prediction is of another size, before it is unpacked.

    Args:
        path: The prediction.
        size: Height and width that it must have.
        orientation: See `as_displayed`.
        key: See `FileSettings`.

    Returns:
        Of a large one of another size, what `peek_label_map` gives. Small ones tell more once read.
    """
    hollow = peek_label_map(path, key=key, shape=size)
    fits = as_displayed(hollow, size, orientation).shape == size
    return None if fits or hollow.array.nbytes < LARGE else hollow
