"""Refine the instances of one image: each on its own, but polygons that touch as one label map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.formats import LabelMap, OffsetMap
from segfix.formats.images import turn_back
from segfix.instances.groups import (
    Decode,
    Masks,
    are_apart,
    decode_together,
    group_places,
    number_parts,
    share_area,
)
from segfix.instances.masks import segmentation_of, with_mask
from segfix.instances.refine_images import InstanceSettings
from segfix.polygons.regions import Region
from segfix.polygons.tracing import list_rings, trace_regions
from segfix.refinement.apply import refine_into, restore_ids, surroundings


@dataclass
class RefinedImage:
    """What became of an image's instances.

    Attributes:
        instances: By place, those that are to be replaced, None where one is left out.
        changed: How many masks are others.
        emptied: Places of those of which nothing would have been left.
        nothing: How many had no mask before.
        crowds: How many are crowd regions, which stay as they are.
    """

    instances: dict[int, Any] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)
    emptied: list[int] = field(default_factory=list)
    nothing: int = 0
    crowds: int = 0


def refine_instances_of(
    items: Mapping[int, Any],
    decode: Decode,
    offset_map: OffsetMap,
    settings: InstanceSettings,
    *,
    turn: int = 1,
) -> RefinedImage:
    """Refine the instances of an image.

    Parts of one object, see `Region.group`, are refined as one area, and stay parts. Polygons that
    touch others and overlap none are looked up as one label map, and those of them that hang
    together, one of which changed, are traced together: they go on sharing their vertices.

    Args:
        items: By place, objects of COCO's kind or regions.
        decode: Decodes the mask (H, W), 0 or 1, of a place, as the image is displayed.
        offset_map: Of the image.
        settings: How to refine.
        turn: How the masks are stored, 1 … 8, as EXIF counts.

    Raises:
        SegfixError: A mask can't be decoded.
        ModuleNotFoundError: shapely isn't installed, and a polygon is to be written.
    """
    size = offset_map.codes.shape
    crowds = find_crowds(items, settings)
    found = RefinedImage(crowds=len(crowds))
    kept = np.any([decode(place) for place in crowds], axis=0) if crowds else None
    items = {place: item for place, item in items.items() if place not in crowds}
    objects = list(group_places(items).values())
    outlines = [
        places
        for places in objects
        if all(is_outline(items[one]) or _traced(items[one], settings) for one in places)
        and are_apart(places, decode)
    ]
    touching: list[int] = []
    if len(outlines) > 1:
        before = paint_touching(outlines, decode, (size[0], size[1]))
        touching = np.unique(before[before > 0]).tolist()
    if touching:
        after = before.copy()
        refine_into(after, before, offset_map, settings.masks, kept)
        lost = restore_ids(LabelMap(before), after, touching, restore=not settings.drop_empty)
        found.emptied.extend(one for number in lost for one in outlines[number - 1])
        _enter_objects(before, after, outlines, items, decode, settings, found, turn)
    done = {outlines[number - 1][0] for number in touching}
    for places in objects:
        if places[0] in done:
            continue
        mask = decode_together(places, decode)
        if not mask.any() and not settings.drop_empty:
            found.nothing += len(places)
            continue
        refined = mask.copy(order="K")  # column by column, as run lengths are
        refine_into(refined, mask, offset_map, settings.masks, kept)
        if not refined.any():
            found.emptied.extend(places)
            if settings.drop_empty:
                found.instances |= dict.fromkeys(places)
                continue
            refined = mask
        _enter_alone(refined, places, items, decode, settings, found, turn)
    found.emptied.sort()
    return found


def find_crowds(items: Mapping[int, Any], settings: InstanceSettings) -> list[int]:
    """List the places of crowd regions, unless they are refined, too."""
    if settings.masks.keep is not None:
        return []
    return [
        place for place, item in items.items() if isinstance(item, Mapping) and item.get("iscrowd")
    ]


def is_outline(item: Mapping[str, Any] | Region) -> bool:
    """Tell polygons from masks."""
    if isinstance(item, Region):
        return item.points is not None
    return isinstance(segmentation_of(item), list)


def replace_area(item: Mapping[str, Any] | Region, mask: NDArray[Any], area: Any = None) -> Any:
    """Give an instance another mask (H, W); or the polygons of shapely's `area`, if it is given."""
    if not isinstance(item, Region):
        return with_mask(item, mask, list_rings(area) if area is not None else ())
    height, width = mask.shape
    return item.with_mask(mask) if area is None else item.with_area(area, (height, width))


def paint_touching(
    objects: Sequence[Sequence[int]], decode: Decode, size: tuple[int, int]
) -> NDArray[np.int32]:
    """Paint the objects that touch others, but overlap none, into one label map.

    Args:
        objects: Places of the parts of each.
        decode: Decodes the mask of a place, (H, W).
        size: Height and width.

    Returns:
        (H, W) numbers of objects, from 1 in their order; 0 elsewhere.
    """
    labels = np.zeros(size, np.int32)
    apart = np.ones(len(objects) + 1, bool)
    for number, places in enumerate(objects, 1):
        mask = decode_together(places, decode)
        if box := surroundings(mask, 0):
            inside, here = mask[box] != 0, labels[box]
            under = np.unique(here[inside & (here > 0)])
            apart[under] = False
            apart[number] = not under.size
            here[inside & (here == 0)] = number
    labels[~apart[labels]] = 0
    touching = np.zeros(len(objects) + 1, bool)
    touching[find_neighbours(labels)] = True
    labels[~touching[labels]] = 0
    return labels


def find_neighbours(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Find the pairs (N, 2) of ids, not 0, of which two pixels have an edge in common."""
    pairs = [np.zeros((0, 2), np.int64)]
    for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        border = (one != other) & (one > 0) & (other > 0)
        found = np.stack([one[border], other[border]], axis=1).astype(np.int64)
        pairs.append(np.unique(found, axis=0))
    return np.concatenate(pairs)


def _enter_alone(
    refined: NDArray[np.uint8],
    places: Sequence[int],
    items: Mapping[int, Any],
    decode: Decode,
    settings: InstanceSettings,
    found: RefinedImage,
    turn: int,
) -> None:
    """Enter what became of an object that is refined on its own, whose parts may overlap."""
    before = [decode(place) for place in places]
    parts, lost = share_area(refined, before, restore=not settings.drop_empty)
    found.emptied.extend(places[number] for number in lost)
    for place, mask, part in zip(places, before, parts, strict=True):
        if not part.any():
            found.instances |= {place: None} if settings.drop_empty else {}
            continue
        if not np.array_equal(part, mask != 0):
            found.changed.add(place)
        elif not _converted(items[place], settings):
            continue
        whole, area = turn_back(part, turn), None
        if _traced(items[place], settings):
            area = _trace(whole.astype(np.uint8), settings.simplify)[1]
        found.instances[place] = replace_area(items[place], whole, area)


def _enter_objects(
    before: NDArray[np.int32],
    after: NDArray[np.int32],
    objects: Sequence[Sequence[int]],
    items: Mapping[int, Any],
    decode: Decode,
    settings: InstanceSettings,
    found: RefinedImage,
    turn: int,
) -> None:
    """Enter what became of objects that touch, in a label map before and after."""

    def masks_of(number: int) -> Masks:
        return [decode(place) != 0 for place in objects[number - 1]]

    def parts_of(number: int) -> Masks:
        restore = not settings.drop_empty
        parts, lost = share_area(after == number, masks_of(number), restore=restore)
        found.emptied.extend(objects[number - 1][one] for one in lost)
        return parts

    maps = number_parts(before, objects, masks_of), number_parts(after, objects, parts_of)
    before, after = (turn_back(labels, turn) for labels in maps)
    touching = np.unique(before[before > 0]).tolist()
    places = [place for one in objects for place in one]
    _enter_touching(before, after, touching, places, items, settings, found)


def _enter_touching(
    before: NDArray[np.int32],
    after: NDArray[np.int32],
    touching: Sequence[int],
    polygons: Sequence[int],
    items: Mapping[int, Any],
    settings: InstanceSettings,
    found: RefinedImage,
) -> None:
    """Enter what became of the regions that touch, in a label map before and after."""
    moved = before != after
    changed = np.union1d(before[moved], after[moved])
    changed = changed[changed > 0]
    found.changed.update(polygons[number - 1] for number in changed.tolist())
    written = changed
    if settings.form != "rle":
        # A border of one that changed is its neighbours', too, and so on.
        pairs = np.concatenate([find_neighbours(before), find_neighbours(after)])
        written = _reach(changed, pairs) if settings.form is None else np.array(touching)
    elif any(_converted(items[polygons[number - 1]], settings) for number in touching):
        written = np.array(touching)
    members = np.zeros(len(polygons) + 1, bool)
    members[written] = True
    areas = {}
    if settings.form != "rle" and len(written):
        areas = _trace(np.where(members[after], after, 0), settings.simplify)
    left = set(np.unique(after).tolist())
    for number in written.tolist():
        place = polygons[number - 1]
        if number not in left:
            found.instances[place] = None
            found.changed.discard(place)
        else:
            area = areas.get(number)
            found.instances[place] = replace_area(items[place], after == number, area)


def _reach(members: NDArray[Any], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Add to ids all that are connected with them through pairs."""
    while True:
        near = pairs[np.isin(pairs, members).any(axis=1)]
        grown = np.union1d(members, near).astype(np.int64)
        if len(grown) == len(members):
            return grown
        members = grown


def _trace(labels: NDArray[Any], tolerance: float) -> dict[int, Any]:
    """Trace the area of each id, in pixels of the whole image; see `trace_regions`."""
    import shapely

    rows, cols = surroundings(labels, 0)
    corner = (cols.start, rows.start)
    traced = trace_regions(labels[rows, cols], tolerance)
    return {
        one: shapely.transform(area, lambda points: points + corner) for one, area in traced.items()
    }


def _traced(item: Mapping[str, Any] | Region, settings: InstanceSettings) -> bool:
    """Tell whether an instance is to be polygons."""
    if settings.form == "polygons":
        # COCO's crowds are run lengths by definition.
        return isinstance(item, Region) or is_outline(item) or not item.get("iscrowd")
    return settings.form is None and is_outline(item)


def _converted(item: Mapping[str, Any] | Region, settings: InstanceSettings) -> bool:
    return _traced(item, settings) != is_outline(item)
