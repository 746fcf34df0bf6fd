"""A picture of a prediction before and after, for notebooks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from segfix.formats import LabelMap
from segfix.formats.images import reduced_size
from segfix.refinement.sizes import resize_nearest
from segfix.report.overlay import CHANGED
from segfix.report.sheet import Words
from segfix.report.show import ShowSettings, draw_sheet
from segfix.tasks.in_memory import as_photograph, as_prediction

PANELS = {"before": "preds", "after": "refined", "changed": "changes"}
"""Captions, and the panels of `segfix show` below them."""


def compare(image: Any, before: Any, after: Any, *, max_side: int | None = 640) -> Image.Image:
    """Draw a prediction before and after on its photograph, and the pixels that changed.

    Args:
        image: The photograph, as `segfix.fix` takes it.
        before: The prediction, as `segfix.fix` takes it.
        after: Another of the same photograph, such as what `segfix.fix` made of it.
        max_side: Photographs that are higher or wider, pixels, are reduced to this; None: none.

    Returns:
        An RGB picture of three panels side by side; notebooks show it. Of masks, the last of those
        that share a pixel is drawn.

    Raises:
        ValueError: `image` is no photograph, or a prediction of another size.
        SegfixError: A file can't be read.

    Example:
        >>> photograph = np.zeros((40, 50, 3), np.uint8)
        >>> compare(photograph, np.zeros((40, 50), int), np.ones((40, 50), int)).mode
        'RGB'
    """
    photograph, orientation = as_photograph(image)
    height, width, _ = size = photograph.shape
    maps = {
        name: number_masks(as_prediction(given, (height, width), orientation)[0])
        for name, given in (("preds", before), ("refined", after))
    }
    shares = float((maps["preds"].ids() != maps["refined"].ids()).mean())
    if max_side is not None and max(height, width) > max_side:
        size = reduced_size(height, width, max_side)
        photograph = np.array(Image.fromarray(photograph).resize(size[::-1], reducing_gap=3))
        maps = {
            name: one.with_planes(resize_nearest(one.planes, size)) for name, one in maps.items()
        }
    settings = ShowSettings(tuple(PANELS.values()))
    said: dict[str, Words] = {"changes": [(f"{shares:.2%} of the pixels", CHANGED)]}
    return draw_sheet(PANELS, photograph, maps, None, settings, said)[0]


def number_masks(label_map: LabelMap) -> LabelMap:
    """Number masks, of which 0 is the background; leave any other label map as it is."""
    if label_map.kind != "masks":
        return label_map
    ids = np.zeros(label_map.shape, np.int64)
    for number, mask in enumerate(label_map.layers(), 1):
        ids[mask] = number
    return replace(label_map, array=ids, kind="ids", channels_first=False)
