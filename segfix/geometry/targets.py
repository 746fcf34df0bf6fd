"""From a label map to what the network learns: distance, boundary and direction."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

# SciPy is imported where it is used: that takes longer than refining a photograph.
import numpy as np
from numpy.typing import NDArray

from segfix.geometry.directions import UNDEFINED, check_num_directions, quantize_directions

BOUNDARY_WIDTH = 5
"""γ of the paper, pixels on each side of a boundary."""

IGNORE_INDEX = 255
"""The void label, and the boundary target of void pixels."""

VOID_BAND = 5
"""Void no farther than this from a label, in pixels, is a band and not an area."""

TILE = (64, 256)
"""Rows and columns worked on at a time."""

SOBEL_RADIUS = 4
"""The Sobel kernel is 9×9."""


class Targets(NamedTuple):
    """What the network learns about one label map.

    Attributes:
        distance_map: (H, W) float32, pixels; see `distance_map`.
        boundary_map: (H, W) uint8, 1 boundary, 0 interior, 255 void.
        direction_map: (H, W) uint8, sector towards the interior, 255 where undefined.
    """

    distance_map: NDArray[np.float32]
    boundary_map: NDArray[np.uint8]
    direction_map: NDArray[np.uint8]


def fill_void_bands(
    label_map: NDArray[Any],
    *,
    ignore_index: int | None = IGNORE_INDEX,
    void_band: float = VOID_BAND,
) -> NDArray[Any]:
    """Give thin void the nearest label, so that two objects meet in the middle of a void band.

    Annotators leave a strip of void where they are unsure of the boundary; for `distance_map`
    void is another label, so each edge of the strip would be a boundary.

    A void pixel is filled if a labelled pixel lies within `void_band` of it, and no void pixel
    within 2 `void_band` lies farther from all labels. Thick void stays as it is, to its edges and
    into corners down to 60°; of a band that leads into it, the last pixels stay, too. A strip of
    void along the frame is filled up to `void_band` pixels wide.

    Args:
        label_map: (H, W) integer class ids.
        ignore_index: The void id; None where there is none.
        void_band: Pixels, half the width of the widest band.

    Returns:
        (H, W) ids; `label_map` itself where there is nothing to fill.

    Example:
        >>> fill_void_bands(np.array([[1, 255, 255, 2, 2, 255]]))
        array([[1, 1, 2, 2, 2, 2]])
    """
    void = label_map == ignore_index
    if ignore_index is None or not void.any() or void.all():
        return label_map
    from scipy import ndimage
    from scipy.spatial import cKDTree

    # Trees over the rims alone: their cost goes with the length of the edges, not with the area.
    near = ndimage.maximum_filter(~void, 2 * int(void_band) + 1) & void
    pixels, rim = np.argwhere(near), np.argwhere(_rim(~void))
    distances, nearest = cKDTree(rim).query(pixels, distance_upper_bound=_up_to(void_band))
    thin = np.isfinite(distances)
    thick = void.copy()
    thick[tuple(pixels[thin].T)] = False
    if thick.any():
        tree = cKDTree(np.argwhere(_rim(thick)))
        thin &= np.isinf(tree.query(pixels, distance_upper_bound=_up_to(2 * void_band))[0])
    filled = label_map.copy()
    filled[tuple(pixels[thin].T)] = label_map[tuple(rim[nearest[thin]].T)]
    return filled


def _rim(area: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find the pixels of an area that touch what is outside it."""
    from scipy import ndimage

    rim: NDArray[np.bool_] = area & ndimage.maximum_filter(~area, 3)
    return rim


def _up_to(distance: float) -> float:
    """Raise a bound a little, so that SciPy, which leaves the bound itself out, takes it in."""
    return float(np.nextafter(distance, np.inf))


def distance_map(
    label_map: NDArray[Any], *, ignore_index: int | None = IGNORE_INDEX
) -> NDArray[np.float32]:
    """Measure the Euclidean distance from each pixel to the nearest pixel of another label.

    The frame of the image is not a boundary, and void counts as another label.

    Args:
        label_map: (H, W) integer class ids.
        ignore_index: The void id; None where there is none.

    Returns:
        (H, W) float32, pixels: at least 1, 0 on void, infinite where there is no other label.

    Example:
        >>> distance_map(np.array([[7, 7, 7, 1, 1, 255]]))
        array([[3., 2., 1., 1., 1., 0.]], dtype=float32)

    Reference:
        Yuan et al., SegFix, ECCV 2020, Section 3.3.
    """
    regions: NDArray[np.integer[Any]]
    if label_map.dtype == np.uint8:
        # Of 8 bits, the last id becomes 0, as void does.
        small = ignore_index == np.iinfo(np.uint8).max
        regions = label_map.astype(np.uint8 if small else np.uint16)
    else:
        _, index = np.unique(label_map, return_inverse=True)
        regions = index.reshape(label_map.shape).astype(np.uint32)
    regions += 1
    if ignore_index is not None:
        regions[label_map == ignore_index] = 0
    if not regions.size or 0 < regions.min() == regions.max():
        return np.full(regions.shape, np.inf, np.float32)
    try:
        edt: Any = importlib.import_module("edt")
    except ImportError:
        return _distance_by_region(regions)
    distances: NDArray[np.float32] = edt.edt(np.ascontiguousarray(regions), black_border=False)
    return distances


def _distance_by_region(regions: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Measure `distance_map` with SciPy alone: a transform per region, on its bounding box."""
    from scipy import ndimage

    distances = np.zeros(regions.shape, np.float32)
    boxes: list[Any] = ndimage.find_objects(regions.astype(np.int32)) if regions.size else []
    for region, box in enumerate(boxes, start=1):
        if box is None:
            continue
        # One pixel more than the box holds the nearest other label, so the crop is exact.
        window = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
        inside = regions[window] == region
        distances[window][inside] = ndimage.distance_transform_edt(inside)[inside]
    return distances


def boundary_map(
    distance_map: NDArray[np.float32], *, boundary_width: float = BOUNDARY_WIDTH
) -> NDArray[np.uint8]:
    """Mark the pixels within γ of another label.

    Args:
        distance_map: (H, W) pixels, 0 on void, as `distance_map` makes it.
        boundary_width: γ, pixels.

    Returns:
        (H, W) uint8: 1 where 0 < distance ≤ γ, 0 beyond, 255 on void.

    Example:
        >>> boundary_map(np.array([[0, 1, 5, 5.1]], np.float32))
        array([[255,   1,   1,   0]], dtype=uint8)
    """
    boundary = (distance_map <= boundary_width).astype(np.uint8)
    boundary[distance_map == 0] = IGNORE_INDEX
    return boundary


def direction_map(
    label_map: NDArray[Any],
    distance_map: NDArray[np.float32],
    *,
    num_directions: int = 8,
    max_distance: float = 2 * BOUNDARY_WIDTH,
) -> NDArray[np.uint8]:
    """Find the sector that points from each pixel near a boundary into its own object.

    The gradient is the 9×9 Sobel filter k[j, i] = i / (i² + j²) of the distance map of the
    pixel's own class, which is 0 outside that class; past the frame the map goes on as at the
    frame.

    Args:
        label_map: (H, W) integer class ids.
        distance_map: (H, W) pixels, as `distance_map` makes it of `label_map`.
        num_directions: m, one of 4, 8, 16.
        max_distance: Pixels farther than this from another label get no direction.

    Returns:
        (H, W) uint8 sectors; 255 beyond `max_distance`, on void, and where the gradient vanishes
        (a line one pixel wide, a ridge).

    Raises:
        ValueError: `num_directions` is not one of 4, 8, 16.

    Example:
        >>> labels = np.array([[1, 1, 1, 2, 2, 2]])
        >>> direction_map(labels, distance_map(labels))
        array([[0, 0, 0, 4, 4, 4]], dtype=uint8)
    """
    check_num_directions(num_directions)
    r = SOBEL_RADIUS
    band = (distance_map > 0) & (distance_map <= max_distance)
    sectors = np.full(label_map.shape, UNDEFINED, np.uint8)
    if not band.any():
        return sectors
    # Beyond this no pixel of the band can see a difference, and infinity must not meet itself.
    capped = np.minimum(distance_map, np.float32(max_distance + 2 * r))
    distances = np.pad(capped, r, mode="edge")
    labels = np.pad(label_map, r, mode="edge")
    # In tiles that stay in the processor's cache.
    for top in range(0, label_map.shape[0], TILE[0]):
        for left in range(0, label_map.shape[1], TILE[1]):
            tile = band[top : top + TILE[0], left : left + TILE[1]]
            rows, cols = (np.flatnonzero(tile.any(axis=axis)) for axis in (1, 0))
            if not rows.size:
                continue
            # The box of what there is in it.
            y0, y1, x0, x1 = top + rows[0], top + rows[-1] + 1, left + cols[0], left + cols[-1] + 1
            around = np.s_[y0 : y1 + 2 * r, x0 : x1 + 2 * r]
            dy, dx = _own_gradient(distances[around], labels[around])
            inside = band[y0:y1, x0:x1]
            found = quantize_directions(dy[inside], dx[inside], num_directions)
            sectors[y0:y1, x0:x1][inside] = found
    return sectors


def _own_gradient(
    distances: NDArray[np.float32], labels: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Apply the Sobel filter, down and right, over neighbours of a pixel's own label.

    Args:
        distances: (H + 2r, W + 2r) pixels.
        labels: Of the same shape.

    Returns:
        Two (H, W).
    """
    r = SOBEL_RADIUS
    centre = labels[r:-r, r:-r]
    height, width = centre.shape
    same = np.empty(centre.shape, bool)
    dy, dx, one, other, *corners = np.zeros((8, height, width), np.float32)

    def own(j: int, i: int, out: NDArray[np.float32]) -> NDArray[np.float32]:
        there = np.s_[r + j : r + j + height, r + i : r + i + width]
        np.equal(labels[there], centre, out=same)
        return np.multiply(distances[there], same, out=out)

    def add(total: NDArray[np.float32], part: NDArray[np.float32], weight: float) -> None:
        total += np.multiply(part, np.float32(weight), out=part)

    # Mirrored neighbours are subtracted from each other first: across a line of symmetry they
    # cancel to exactly zero, and what is left over doesn't choose between two sectors.
    for k in range(1, r + 1):
        add(dy, np.subtract(own(k, 0, one), own(-k, 0, other), out=one), 1 / k)
        add(dx, np.subtract(own(0, k, one), own(0, -k, other), out=one), 1 / k)
    for j in range(1, r + 1):
        for i in range(1, r + 1):
            places = ((j, i), (j, -i), (-j, i), (-j, -i))
            a, b, c, d = (own(*place, out) for place, out in zip(places, corners, strict=True))
            weight = 1 / (i * i + j * j)
            np.add(a, b, out=one)
            add(dy, np.subtract(one, np.add(c, d, out=other), out=one), j * weight)
            np.subtract(a, b, out=one)
            add(dx, np.add(one, np.subtract(c, d, out=other), out=one), i * weight)
    return dy, dx


def make_targets(
    label_map: NDArray[Any],
    *,
    num_directions: int = 8,
    boundary_width: float = BOUNDARY_WIDTH,
    ignore_index: int | None = IGNORE_INDEX,
) -> Targets:
    """Make distance, boundary and direction of a label map.

    Args:
        label_map: (H, W) integer class ids.
        num_directions: m, one of 4, 8, 16.
        boundary_width: γ, pixels.
        ignore_index: The void id; None where there is none.

    Returns:
        The three maps; directions exist to distance 2γ, since a network's boundary is wider than
        the true one.

    Raises:
        ValueError: `label_map` is not two-dimensional or not of integers, or `num_directions` is
            not one of 4, 8, 16.

    Example:
        >>> targets = make_targets(np.array([[1, 1, 1, 2, 255]]), boundary_width=2)
        >>> targets.boundary_map
        array([[  0,   1,   1,   1, 255]], dtype=uint8)
        >>> targets.direction_map
        array([[  0,   0,   0, 255, 255]], dtype=uint8)

    Reference:
        Yuan et al., SegFix, ECCV 2020, Section 3.3.
    """
    if label_map.ndim != 2 or label_map.dtype.kind not in "biu":
        raise ValueError(
            "Expected label_map to be a two-dimensional array of integers but got "
            f"{label_map.ndim} dimensions of {label_map.dtype}."
        )
    distances = distance_map(label_map, ignore_index=ignore_index)
    return Targets(
        distances,
        boundary_map(distances, boundary_width=boundary_width),
        direction_map(
            label_map,
            distances,
            num_directions=num_directions,
            max_distance=2 * boundary_width,
        ),
    )
