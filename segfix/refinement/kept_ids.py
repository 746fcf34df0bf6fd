"""Which pixels of a label map are not known, and so neither give nor take a label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segfix.formats import LabelMap
from segfix.formats.label_maps import NO_ID
from segfix.geometry.targets import IGNORE_INDEX

KeptIds = list[int | str]
"""Ids, and "NaN" for what is no number."""


def find_kept(
    label_map: LabelMap, keep: Sequence[int] | None = None
) -> tuple[KeptIds, NDArray[np.bool_] | None]:
    """Find the ids of a label map that mean "not known", and mark their pixels.

    Args:
        label_map: Of any kind; of masks, there are none.
        keep: Such ids, to which negative ones and NaN are added; of scores, likeliest classes; of
            colours, R + 256·G + 256²·B. None: the nodata value that a GeoTIFF file states, and 255
            if it is the highest of three ids or more. Empty: there are none.

    Returns:
        Those of them that it holds, and their pixels (H, W); [] and None where it holds none.
    """
    nothing = keep is not None and not keep
    if nothing or label_map.kind == "masks" or (label_map.kind == "colours" and not keep):
        return [], None
    if label_map.kind == "scores":
        return _find_in_scores(label_map, keep)
    opaque = label_map.array[..., :3] if label_map.kind == "colours" else label_map.array
    ids = label_map.with_array(opaque).ids()
    lowest, highest = int(ids.min(initial=0)), int(ids.max(initial=0))
    if keep is None:
        nodata = label_map.nodata
        keep = [int(nodata)] if nodata is not None and nodata.is_integer() else []
        if highest == IGNORE_INDEX and _is_void(ids):
            keep.append(IGNORE_INDEX)
    keep = [one for one in keep if max(lowest, 0) <= one <= highest]
    if not keep and lowest >= 0:
        return [], None
    kept = np.isin(ids, keep)
    if lowest < 0:
        kept |= ids < 0
    found = np.unique(ids[kept]).tolist()
    return (["NaN" if one == NO_ID else one for one in found], kept) if found else ([], None)


def _is_void(ids: NDArray[np.integer]) -> bool:
    """Tell whether there are two ids or more from 0 up to the highest, 255: no mask."""
    lowest = ids.min(initial=IGNORE_INDEX, where=ids >= 0) if ids.min() < 0 else ids.min()
    return bool(((ids > lowest) & (ids < IGNORE_INDEX)).any())


def _find_in_scores(
    label_map: LabelMap, keep: Sequence[int] | None
) -> tuple[KeptIds, NDArray[np.bool_] | None]:
    """Find NaN, the nodata value and likeliest classes; see `find_kept`."""
    kept, found = np.zeros(label_map.shape, np.bool_), KeptIds()
    unknown = label_map.unknown_scores()
    if unknown is not None:
        kept |= unknown
        found.append("NaN")
    if keep:
        ids = label_map.ids()
        listed = np.isin(ids, keep) & ~kept
        found = [*np.unique(ids[listed]).tolist(), *found]
        kept |= listed
    return (found, kept) if found else ([], None)


def parse_id(text: str) -> int:
    """Parse a number, or a colour as its R + 256·G + 256²·B."""
    text = text.strip()
    if len(text) == 7 and text.startswith("#"):
        return int.from_bytes(bytes.fromhex(text[1:]), "little")
    return int(text)
