"""Refinement: each boundary pixel of a prediction takes the label its offset leads to."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from segfix.formats import LabelMap, OffsetMap
from segfix.formats.arguments import as_array, as_integers, check_offset_map, describe
from segfix.formats.array_kinds import kind_of_array
from segfix.formats.label_maps import pixel_digest
from segfix.formats.soft_masks import PHOTOGRAPH, is_photograph, is_soft_mask
from segfix.geometry import apply_offsets, fit_offsets, follow_offsets, unit_offsets
from segfix.geometry.evidence import MAX_DISTANCE
from segfix.refinement.kept_ids import find_kept

PREDICTION_KEY = "prediction_sha256"
"""In an offset map's `source`, where it was made for one prediction: `pixel_digest` of that."""

MADE_FOR_ANOTHER = (
    "the offset map was made for another prediction; make one with "
    "OffsetModel.offsets(image, label_map)"
)

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True)
class RefineSettings:
    """How a label map is refined.

    Attributes:
        scale: Steps per offset; None: as many as fit the label map.
        iterate: Instead of one scaled step, follow the offsets for up to this many steps; 0: don't.
        min_confidence: Pixels less confident than this keep their label.
        keep: Ids that neither give nor take, see `refine`; of instances, None: crowd regions and
            void do neither, (): they do.
    """

    scale: float | None = None
    iterate: int = 0
    min_confidence: float = 0.0
    keep: Sequence[int] | None = None

    def __post_init__(self) -> None:
        given: tuple[Any, Any, Any] = (self.scale, self.iterate, self.min_confidence)
        scale, iterate, least = given
        if scale is not None and not (isinstance(scale, Real) and 0 <= float(scale) < math.inf):
            raise ValueError(
                "Expected a finite scale from 0 on, or None for the step that fits, but got "
                f"{describe(scale)}."
            )
        if not isinstance(iterate, Integral) or iterate < 0:
            raise ValueError(
                f"Expected iterate as a number of steps, or 0, but got {describe(iterate)}."
            )
        if not isinstance(least, Real) or not 0 <= float(least) <= 1:
            raise ValueError(f"Expected min_confidence from 0 to 1 but got {describe(least)}.")
        if self.keep is not None:
            # In the form in which a record gives them back.
            ids = as_integers(self.keep, "keep", "ids")
            object.__setattr__(self, "keep", sorted(set(ids)))


def refine(
    label_map: NDArray[_Scalar],
    offset_map: OffsetMap,
    *,
    scale: float | None = None,
    iterate: int = 0,
    min_confidence: float = 0.0,
    keep: Iterable[int] | None = None,
) -> NDArray[_Scalar]:
    """Refine a label map or a soft prediction.

    Args:
        label_map: An array (or what NumPy makes one of, such as a tensor on the CPU): (H, W) ids
            of any type or, if floats with fractions, scores of the foreground;
            (H, W, 3 or 4) uint8 colours; (C, H, W) or (H, W, C) scores of classes: probabilities
            or logits, of which every channel is looked up alike.
        offset_map: Of the same photograph, of the same size.
        scale: Steps per offset: a pixel on the boundary takes the label found there (the paper's
            rule, with 2 for semantic label maps and 1 for instance masks). None: the step fits the
            label map, see `segfix.geometry.fit_offsets`.
        iterate: Instead of one scaled step, follow the offsets for up to this many steps.
        min_confidence: Pixels less confident than this keep their label.
        keep: Ids that mean "not known": pixels of theirs stay as they are, and no other pixel
            takes them. Negative ids and NaN are added. Of scores, the likeliest class counts; of
            colours, R + 256·G + 256²·B. None: 255, if it is the highest id and there are two others
            from 0 on. (): none at all, not even negative ones.

    Warns:
        UserWarning: The offset map was made for another prediction.

    Returns:
        A new array like `label_map`. It holds no value that `label_map` lacks, and pixels off the
        predicted boundary keep theirs.

    Raises:
        TypeError: `label_map` is no array of numbers, `offset_map` no offset map, or `keep` no
            iterable of integers.
        ValueError: The sizes differ, an array has a mask, a setting is out of its range, or
            `label_map` holds grey levels of a soft mask: divide it by its type's highest value.

    Example:
        >>> boundary, right = np.array([[True, False, False]]), np.full((1, 3), 4, np.uint8)
        >>> offset_map = OffsetMap.encode(boundary, right)
        >>> refine(np.array([[1, 2, 3]]), offset_map)
        array([[2, 2, 3]])
        >>> refine(np.array([[1, 2, 3]]), offset_map, scale=2)
        array([[3, 2, 3]])

    Reference:
        Yuan et al., SegFix, ECCV 2020, eq. 1.
    """
    label_map = as_array(label_map, "label_map")
    check_offset_map(offset_map)
    whole = as_label_map(label_map, offset_map.codes.shape, "offset map")
    if made_for_another(whole, offset_map):
        warnings.warn(MADE_FOR_ANOTHER, stacklevel=2)
    ids = None if keep is None else as_integers(keep, "keep", "ids")
    settings = RefineSettings(scale, iterate, min_confidence, ids)
    _, kept = find_kept(whole, settings.keep)
    return refine_planes(whole, offset_map, settings, kept).array


def as_label_map(array: NDArray[Any], size: tuple[int, ...], like: str) -> LabelMap:
    """An array, or what NumPy makes one of, as the label map that `refine` takes it for.

    Args:
        array: See `refine`; or (N, H, W) masks.
        size: Height and width that it must have.
        like: What has that size, for the message.

    Raises:
        TypeError: It is no array of numbers.
        ValueError: The sizes differ, it has a mask, or it holds grey levels of a soft mask.
    """
    array = as_array(array, "label_map")
    first = array.ndim == 3 and array.shape[:2] != size and array.shape[1:] == size
    if array.ndim not in (2, 3) or (not first and array.shape[:2] != size):
        height, width = size
        raise ValueError(
            f"Expected label_map of ({height}, {width}), (C, {height}, {width}) or "
            f"({height}, {width}, C), as the {like} is, but got {array.shape}"
            f"{' (height and width swapped?)' * (array.shape[:2] == size[::-1])}."
        )
    kind = kind_of_array(array)
    if kind in ("ids", "colours") and is_soft_mask(array):
        highest = 255 if array.max() <= 255 else 65535
        raise ValueError(
            "Expected label_map of ids or of probabilities but got grey levels of a soft mask "
            f"(antialiased or blurred): divide one band of them by {highest}."
        )
    if kind in ("ids", "colours") and is_photograph(array):
        raise ValueError(f"Expected label_map of ids or of probabilities but got {PHOTOGRAPH}.")
    return LabelMap(array, kind, channels_first=first)


def made_for_another(label_map: LabelMap, offset_map: OffsetMap) -> bool:
    """Whether an offset map was made for one prediction, and not for this one."""
    made_for = offset_map.source.get(PREDICTION_KEY)
    return made_for is not None and made_for != pixel_digest(label_map.layers())


def refine_planes(
    label_map: LabelMap,
    offset_map: OffsetMap,
    settings: RefineSettings,
    kept: NDArray[np.bool_] | None = None,
) -> LabelMap:
    """Refine a label map of any kind, all its channels alike; see `refine`.

    Args:
        label_map: Of any kind but masks.
        offset_map: Of the same size.
        settings: How; `keep` is what `kept` was made of.
        kept: (H, W) pixels that neither give nor take; None: there are none.
    """
    vectors, scale = offset_map.vectors(settings.min_confidence), settings.scale
    if settings.iterate:
        move = partial(follow_offsets, vectors=vectors, max_steps=settings.iterate)
    else:
        if scale is None:
            vectors = fit_offsets(
                label_map.ids(),
                vectors,
                offset_map.confidence_map(),
                conditioned=offset_map.conditioned,
            )
            scale = 1
        move = partial(apply_offsets, vectors=vectors, scale=scale)
    refined = move(label_map.planes)
    if kept is not None:
        back = kept | move(kept)
        refined[back] = label_map.planes[back]
    return label_map.with_planes(refined)


def refine_masks(
    masks: NDArray[_Scalar],
    offset_map: OffsetMap,
    *,
    scale: float | None = None,
    iterate: int = 0,
    min_confidence: float = 0.0,
    keep: Sequence[int] = (),
) -> NDArray[_Scalar]:
    """Refine the masks of an image's instances, which may overlap.

    refined[n, p] = masks[n, clip(p + round(scale · offset[p]))]: each mask is looked up on its own
    through the same offsets, as if it were the only one, so that pixels may belong to several.

    Args:
        masks: (N, H, W) bool, or numbers of which 0 is the background (0 and 1, 0 and 255).
        offset_map: Of the same photograph, H × W pixels.
        scale: Steps per offset; the paper's rule for instances is 1. None: the step fits each
            mask, see `segfix.geometry.fit_offsets`: on stand-ins for instances
            (`tests/bench/instances.py`) that gains more.
        iterate: Instead of one scaled step, follow the offsets for up to this many steps.
        min_confidence: Pixels less confident than this stay as they are.
        keep: Places, from 0, of masks that mark crowd regions or what is not known: they stay as
            they are, and no other mask gains or loses a pixel there, or by looking there.

    Warns:
        UserWarning: The offset map was made for another prediction.

    Returns:
        A new array like `masks`, equal to `segfix.refine` of each mask. Of a mask a few pixels
        small or thin, nothing may be left.

    Raises:
        TypeError: `masks` is no array of numbers, `offset_map` no offset map, or `keep` no iterable
            of integers.
        ValueError: The sizes differ, or `masks` has not three axes, has a mask of its own, or holds
            NaN; or a setting is out of its range.
        IndexError: There is no mask in one of the places to `keep`.

    Example:
        >>> boundary, left = np.array([[False, True, True, False]]), np.zeros((1, 4), np.uint8)
        >>> offset_map = OffsetMap.encode(boundary, left)
        >>> masks = np.array([[[0, 1, 1, 1]], [[255, 255, 0, 0]]], np.uint8)
        >>> refine_masks(masks, offset_map, scale=1)[:, 0]
        array([[  0,   0,   1,   1],
               [255, 255, 255,   0]], dtype=uint8)

    Reference:
        Yuan et al., SegFix, ECCV 2020, eq. 1.
    """
    masks = as_array(masks, "masks")
    check_offset_map(offset_map)
    size = offset_map.codes.shape
    if masks.ndim != 3 or masks.shape[1:] != size:
        advice = {size: "; one mask: masks[None]"}.get(masks.shape, "")
        if masks.ndim == 3 and masks.shape[:2] == size:
            advice = "; np.moveaxis(masks, -1, 0)"
        raise ValueError(f"Expected masks of shape {('N', *size)} but got {masks.shape}{advice}.")
    if masks.dtype.kind == "f" and np.isnan(masks).any():
        raise ValueError("Expected masks without NaN; np.nan_to_num(masks) makes it background.")
    # Masks that leave no pixel out and share none pass for classes where nobody says what they are.
    if made_for_another(
        LabelMap(masks, "masks", channels_first=True), offset_map
    ) and made_for_another(as_label_map(masks, masks.shape[1:], "offset map"), offset_map):
        warnings.warn(MADE_FOR_ANOTHER, stacklevel=2)
    settings = RefineSettings(scale, iterate, min_confidence)
    refined = masks.copy()
    crowds = np.zeros(len(masks), np.bool_)
    for one in as_integers(keep, "keep", "places"):
        if not 0 <= one < len(masks):
            raise IndexError(f"Expected places to keep among {len(masks)} masks but got {one}.")
        crowds[one] = True
    kept = (masks[crowds] != 0).any(axis=0) if crowds.any() else None
    for place in np.flatnonzero(~crowds):
        refine_into(refined[place], masks[place], offset_map, settings, kept)
    return refined


def refine_into(
    result: NDArray[_Scalar],
    mask: NDArray[_Scalar],
    offset_map: OffsetMap,
    settings: RefineSettings,
    kept: NDArray[np.bool_] | None = None,
) -> None:
    """Refine one mask, (H, W) or (H, W, C), within a copy of it; see `refine_planes`."""
    crop = surroundings(mask, find_reach(offset_map, settings))
    if crop:
        codes = replace(offset_map, codes=offset_map.codes[crop])
        part = LabelMap(mask[crop], kind_of_array(mask[crop]))
        kept = None if kept is None else kept[crop]
        result[crop] = refine_planes(part, codes, settings, kept).array


def find_reach(offset_map: OffsetMap, settings: RefineSettings) -> int:
    """Find how far offsets lead, pixels: farther from a mask there is background at both ends."""
    unit = int(np.abs(unit_offsets(offset_map.num_directions)).max())
    if settings.iterate:
        return settings.iterate * unit
    return MAX_DISTANCE if settings.scale is None else max(math.ceil(settings.scale * unit), 1)


def surroundings(mask: NDArray[Any], margin: int) -> tuple[slice, ...]:
    """The box of a mask and so many pixels around, in the frame; () where it is empty."""
    marked: Any = mask.any(axis=2) if mask.ndim == 3 else mask
    found = []
    for axis in (1, 0):
        places = np.flatnonzero(marked.any(axis=axis))
        if not places.size:
            return ()
        found.append(slice(max(int(places[0]) - margin, 0), int(places[-1]) + margin + 1))
    return tuple(found)


def restore_ids(
    label_map: LabelMap,
    refined: NDArray[Any],
    listed: Iterable[int],
    ids_of: Callable[[LabelMap], NDArray[np.integer[Any]]] = LabelMap.ids,
    *,
    restore: bool = True,
) -> list[int]:
    """Find ids of which nothing is left, and give them back their pixels.

    Args:
        label_map: Before refinement.
        refined: Its planes afterwards; changed in place.
        listed: The ids to look for.
        ids_of: Of a label map.
        restore: Whether to put the pixels back.

    Returns:
        The ids of which nothing was left, or would not have been without others put back.
    """
    ids = ids_of(label_map)
    before, after = ids.ravel(), ids_of(label_map.with_planes(refined)).ravel()
    left = count_ids(after)
    wanted = dict.fromkeys(listed)
    lost = [one for one in wanted if one not in left]
    if not restore or not lost:
        return lost
    order = before.argsort(kind="stable")
    numbers = count_ids(before)
    places = dict(zip(numbers, np.split(order, np.cumsum([*numbers.values()])), strict=False))
    back = np.zeros(before.shape, np.bool_)
    # What is put back may take the last pixels of one that had moved there.
    for one in lost:
        here = places.get(one, order[:0])
        for other, number in count_ids(after[here]).items():
            left[other] -= number
            if not left[other] and other in wanted:
                lost.append(other)
        back[here] = True
    kept = back.reshape(ids.shape)
    refined[kept] = label_map.planes[kept]
    return lost


def count_ids(ids: NDArray[np.integer[Any]]) -> dict[int, int]:
    """How many pixels each id has, in the order of the ids."""
    found, numbers = np.unique(ids, return_counts=True)
    return dict(zip(found.tolist(), numbers.tolist(), strict=True))
