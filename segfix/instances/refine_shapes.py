"""Refine shapes in coordinates of the earth, of which a photograph holds many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import FileFormatError
from segfix.formats import OffsetMap
from segfix.instances.photographs import decode_instance, paint_shapes
from segfix.instances.refine_images import InstanceSettings
from segfix.instances.refine_regions import RefinedImage, refine_instances_of
from segfix.jobs.task import Row
from segfix.polygons.shapes import Shape, find_parts, locate_shapes
from segfix.refinement.apply import find_reach, made_for_another


def refine_shapes(
    given: Mapping[int, Shape],
    offset_map: OffsetMap,
    settings: InstanceSettings,
    where: str,
    like: str,
) -> tuple[Row, dict[int, Any]]:
    """Refine the shapes on a photograph, see `refine_instances_of`.

    Args:
        given: By place; some may lie elsewhere.
        offset_map: Of the photograph, with its geo-reference.
        settings: How to refine.
        where: Begins messages of faults.
        like: What messages say that a mask is compared with.

    Returns:
        What is reported of the photograph, and by place the shapes that are to be replaced, None
        where one is left out.

    Raises:
        SegfixError: Nobody knows where the photograph lies, no shape lies on it, or each has a
            fault.
        ModuleNotFoundError: The extra isn't installed.
    """
    size = offset_map.codes.shape[0], offset_map.codes.shape[1]
    items = locate_shapes(given, offset_map.source.get("georeference"), size, where)
    faults = []
    for place, shape in items.items():
        if shape.fault:
            try:
                decode_instance(shape, size, None, where, place, like)
            except FileFormatError as error:
                faults.append(error)
    if len(faults) == len(items) > 0:
        raise faults[0]
    found = _refine_parts(items, offset_map, settings, where, like)
    other = offset_map.conditioned and made_for_another(
        paint_shapes(list(items.values()), size), offset_map
    )
    left = [place for place, item in found.instances.items() if item is not None]
    return {
        "emptied": [{"place": place, "id": None} for place in sorted(found.emptied)],
        "changed": len(found.changed),
        "kept": {},
        "other_prediction": other,
        "left_alone": {"shapes outside of their photograph": len(given) - len(items)},
        "flattened": sum(bool(items[place].geometry.has_z) for place in left),
        "faults": [str(error) for error in faults],
        "nothing": found.nothing,
    }, found.instances


def _refine_parts(
    items: Mapping[int, Shape],
    offset_map: OffsetMap,
    settings: InstanceSettings,
    where: str,
    like: str,
) -> RefinedImage:
    """Refine the shapes of one part of the photograph after the other."""
    size = offset_map.codes.shape[0], offset_map.codes.shape[1]
    sound = {place: shape for place, shape in items.items() if not shape.fault}
    found = RefinedImage()
    # Those of two parts are twice as far from each other: no offset leads from one to the other.
    margin = find_reach(offset_map, settings.masks) + 1
    for places, box in find_parts(sound, size, margin) if sound else []:
        near = replace(offset_map, codes=offset_map.codes[box])
        here = {place: sound[place].cut_out(box) for place in places}

        def decode(
            place: int, here: Mapping[int, Shape] = here, near: OffsetMap = near
        ) -> NDArray[np.uint8]:
            part = near.codes.shape[0], near.codes.shape[1]
            return decode_instance(here[place], part, None, where, place, like)

        some = refine_instances_of(here, decode, near, settings)
        found.instances |= some.instances
        found.changed |= some.changed
        found.emptied += some.emptied
        found.nothing += some.nothing
    return found
