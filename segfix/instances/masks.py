"""The mask of an instance as JSON holds it: run lengths, or polygons.

Both are pycocotools' (extra `eval`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import require_extra
from segfix.polygons.tracing import join_rings

LONGEST_OUTLINE, LONGEST_OF_LARGE = 1_000_000, 16_000_000
"""Of a polygon, pixels; the latter where the image is large."""

CORNERS = ("x1", "y1", "x2", "y2")
"""Of a box in Ultralytics' lists."""


def decode_mask(
    item: Mapping[str, Any], height: int, width: int, stated: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Decode the mask of an instance.

    Args:
        item: The instance.
        height: That its image must have, pixels.
        width: That its image must have, pixels.
        stated: Height and width of the image in words of its file, for polygons.

    Returns:
        (height, width) 0 or 1; 0 alone where the instance has no mask.

    Raises:
        ValueError: The mask is of another size, or broken.
        MissingExtraError: pycocotools isn't installed.
    """
    segmentation = segmentation_of(item)
    # To write polygons again takes the rest of that extra.
    with require_extra("polygons" if isinstance(segmentation, list) else "eval"):
        from pycocotools import mask as masks

    if segmentation in ([], [[]]) or (segmentation is None and item.get("segments") is None):
        return np.zeros((height, width), np.uint8)
    try:
        size = segmentation["size"] if isinstance(segmentation, dict) else stated
        if size is not None and tuple(size) != (height, width):
            raise ValueError(f"{size[1]}×{size[0]} pixels, not {width}×{height}")
        if isinstance(segmentation, list):
            _check_polygons(segmentation, height, width, pixels="segmentation" in item)
        rle = run_lengths(segmentation, height, width)
    except (TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(
            "neither run lengths nor polygons; expected 'size' and 'counts', or lists of x and y"
        ) from error
    mask: NDArray[np.uint8] = masks.decode(rle)
    return mask


def with_mask(
    item: Mapping[str, Any], mask: NDArray[Any], rings: Sequence[NDArray[np.float64]] = ()
) -> dict[str, Any]:
    """Give an instance another mask.

    Args:
        item: The instance.
        mask: (H, W) bool, or 0 and 1.
        rings: (N, 2) x and y each, if it is to be polygons.

    Returns:
        The same keys in the same order. Run lengths stay compressed or plain; without `rings`,
        polygons (and Ultralytics' `segments`, as `segmentation`) become compressed ones. Area and
        box are the mask's where the instance has them, whole where they were.
    """
    from pycocotools import mask as masks

    rle = masks.encode(np.asfortranarray(mask, np.uint8))
    x, y, width, height = masks.toBbox(rle).tolist()
    counts: Any = rle["counts"].decode()
    before = segmentation_of(item)
    stated = before if isinstance(before, dict) else {}
    if isinstance(stated.get("counts"), list):
        counts = decode_runs(counts).tolist()
    segmentation: Any = {**stated, "size": list(mask.shape), "counts": counts}
    if rings:
        segmentation = [ring.ravel().tolist() for ring in rings]
    changed: dict[str, Any] = {}
    for key, value in item.items():
        if key == "segments" and rings and segmentation_of(item) is not item.get("segmentation"):
            xs, ys = join_rings(rings).T.tolist()
            changed[key] = {**value, "x": xs, "y": ys}
        elif key in ("segmentation", "segments"):
            changed["segmentation"] = segmentation
        elif key == "area" and value is not None:
            changed[key] = _like([value], [float(masks.area(rle))])[0]
        elif key == "bbox" and isinstance(value, list) and len(value) == 4:
            changed[key] = _like(value, [x, y, width, height])
        elif key == "box" and isinstance(value, dict) and set(CORNERS) <= set(value):
            corners = _like([value[name] for name in CORNERS], [x, y, x + width, y + height])
            changed[key] = {**value, **dict(zip(CORNERS, corners, strict=True))}
        else:
            changed[key] = value
    return changed


def segmentation_of(item: Mapping[str, Any]) -> Any:
    """Find run lengths or polygons, whatever the file calls them."""
    if "segmentation" in item or not isinstance(item.get("segments"), dict):
        return item.get("segmentation")
    xs, ys = (item["segments"].get(axis) for axis in "xy")
    if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
        return None
    return [[value for point in zip(xs, ys, strict=True) for value in point]] if xs else []


def run_lengths(segmentation: Any, height: int, width: int) -> Any:
    """Convert polygons or run lengths to compressed run lengths that pycocotools is safe with.

    Args:
        segmentation: As in the file.
        height: Of the image, pixels.
        width: Of the image, pixels.

    Raises:
        ValueError: They are of another size, or aren't whole: pycocotools would read on, or wait
            for ever.
    """
    from pycocotools import mask as masks

    if isinstance(segmentation, list):
        polygons = read_polygons(segmentation)
        for points in polygons:
            if not (np.abs(points) <= 10 * max(height, width)).all():
                raise ValueError("points far outside of the image")
            steps = np.diff(points.reshape(-1, 2), axis=0, append=points[None, :2])
            length = np.abs(steps).max(axis=1).sum()
            # pycocotools takes some 60 bytes per pixel of the outline.
            if length > min(max(LONGEST_OUTLINE, 4 * height * width), LONGEST_OF_LARGE):
                raise ValueError(f"an outline of {length:.0f} pixels")
        if not polygons:
            raise ValueError("expected polygons or run lengths but got an empty list")
        outlines = [points.tolist() for points in polygons]
        return masks.merge(masks.frPyObjects(outlines, height, width))
    size, counts = segmentation["size"], segmentation["counts"]
    if list(size) != [height, width]:
        raise ValueError(f"{size} high and wide, but the image is {[height, width]}")
    runs = decode_runs(counts) if isinstance(counts, str) else np.asarray(counts)
    if runs.ndim != 1 or runs.dtype.kind != "i" or runs.min(initial=0) < 0:
        raise ValueError("broken run lengths")
    # Looked at before their sum, which may be beyond 64 bits.
    if runs.max(initial=0) > height * width:
        raise ValueError(f"a run of {runs.max()} pixels, but the image has {height * width}")
    if runs.sum() != height * width:
        raise ValueError(f"runs of {runs.sum()} pixels in all, but the image has {height * width}")
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts}
    return masks.frPyObjects({"size": [height, width], "counts": counts}, height, width)


def read_polygons(polygons: Sequence[Any]) -> list[NDArray[np.float64]]:
    """Read the polygons of an instance; those of fewer than three points enclose nothing.

    Returns:
        Numbers of each of the others, x and y in turn; none where all are empty lists.

    Raises:
        ValueError: One is no list of numbers, or none has three points.
    """
    found, short = [], False
    for place, polygon in enumerate(polygons):
        if not isinstance(polygon, list) or not all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in polygon
        ):
            raise ValueError(f"polygon {place} is no list of numbers")
        if len(polygon) % 2:
            raise ValueError(f"polygon {place} has {len(polygon)} numbers, not x and y in turn")
        if len(polygon) >= 6:
            found.append(np.array(polygon, float))
        short = short or bool(polygon)
    if short and not found:
        raise ValueError("no polygon of three points or more, x and y in turn")
    return found


def decode_runs(counts: str) -> Any:
    """Decode COCO's compressed lengths: groups of 5 bits, the fourth on as differences."""
    codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes & 32 == 0)
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or ends[-1:] != codes.size - 1:
        raise ValueError("broken run lengths")
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(codes.size) - np.repeat(starts, ends - starts + 1)
    if place.max() > 6:
        raise ValueError("broken run lengths")
    runs = np.add.reduceat((codes & 31) << (5 * place), starts)
    runs -= np.where(codes[ends] & 16, 32 << (5 * place[ends]), 0)
    for first in (1, 2):
        runs[first::2] = runs[first::2].cumsum()
    return runs


def _check_polygons(polygons: Sequence[Any], height: int, width: int, *, pixels: bool) -> None:
    """Refuse polygons that are drawn for a picture of another size."""
    points = np.concatenate([np.zeros(0), *read_polygons(polygons)])
    right, bottom = points[::2].max(initial=0), points[1::2].max(initial=0)
    if not pixels and max(right, bottom) <= 1:
        raise ValueError("coordinates from 0 to 1; write pixels, to_json(normalize=False)")
    # Some tools round the picture's edge up.
    if right > width + 2 or bottom > height + 2:
        raise ValueError(
            f"polygons up to x = {right:g}, y = {bottom:g}, beyond {width}×{height} pixels"
        )


def _like(before: Any, values: Sequence[float]) -> list[float]:
    """Make numbers whole if all that they replace are."""
    whole = all(isinstance(value, int) for value in before)
    return [int(value) if whole else value for value in values]
