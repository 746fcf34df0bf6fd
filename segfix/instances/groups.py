"""Shapes that are parts of one object: refined as one area, which they share afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.polygons.regions import Region
from segfix.refinement.apply import surroundings

Masks = list[NDArray[np.bool_]]
Decode = Callable[[int], NDArray[np.uint8]]


def group_places(items: Mapping[int, Any]) -> dict[int, list[int]]:
    """Group the places of instances that are parts of one object; others are alone.

    Returns:
        By the first place of each, all.
    """
    firsts, groups = dict[Any, int](), dict[int, list[int]]()
    for place, item in items.items():
        group = item.group if isinstance(item, Region) else None
        first = place if group is None else firsts.setdefault(group, place)
        groups.setdefault(first, []).append(place)
    return groups


def decode_together(places: Sequence[int], decode: Decode) -> NDArray[np.uint8]:
    """Decode the mask (H, W), 0 or 1, of all these places together."""
    mask = decode(places[0])
    for place in places[1:]:
        mask = mask | decode(place)
    return mask


def are_apart(places: Sequence[int], decode: Decode) -> bool:
    """Tell whether none of these masks shares a pixel with another."""
    if len(places) == 1:
        return True
    total = sum(int(decode(place).sum()) for place in places)
    return total == int(decode_together(places, decode).sum())


def share_area(
    refined: NDArray[Any], before: Sequence[NDArray[Any]], *, restore: bool
) -> tuple[Masks, list[int]]:
    """Share the refined area of an object among its parts.

    A part keeps those of its pixels that are left, also where others have them, and gets those new
    ones that are nearest to it.

    Args:
        refined: (H, W), not 0 where the object is.
        before: Its parts, alike.
        restore: Whether a part of which nothing is left gets back what it was.

    Returns:
        The parts, and the numbers, from 0, of those of which nothing was left.
    """
    from scipy.ndimage import distance_transform_edt

    if len(before) == 1:
        return [refined != 0], []
    owner = np.zeros(refined.shape, np.int32)
    for number, mask in enumerate(before, 1):
        owner[(mask != 0) & (owner == 0)] = number
    box = surroundings((refined != 0) | (owner != 0), 0)
    here = owner[box]
    nearest = distance_transform_edt(here == 0, return_distances=False, return_indices=True)
    gained = np.zeros_like(owner)
    gained[box] = np.where(here == 0, here[tuple(nearest)], 0)
    parts = [
        (refined != 0) & ((mask != 0) | (gained == number)) for number, mask in enumerate(before, 1)
    ]
    lost = [number for number, part in enumerate(parts) if not part.any() and before[number].any()]
    if restore:
        for number in lost:
            parts[number] = before[number] != 0
    return parts, lost


def number_parts(
    labels: NDArray[np.int32], groups: Sequence[Sequence[int]], masks: Callable[[int], Masks]
) -> NDArray[np.int32]:
    """Number the parts of objects, from 1 in the order of all, in a label map of objects.

    Args:
        labels: (H, W) numbers of `groups`, from 1; 0 elsewhere.
        groups: Of the parts.
        masks: Gives the parts (H, W) of the object of a number.
    """
    ends = np.cumsum([0, *map(len, groups)])
    found: NDArray[np.int32] = np.concatenate([[0], ends[:-1] + 1]).astype(np.int32)[labels]
    for number in np.unique(labels[labels > 0]).tolist():
        if len(groups[number - 1]) > 1:
            for place, mask in enumerate(masks(number)):
                found[mask] = ends[number - 1] + 1 + place
    return found
