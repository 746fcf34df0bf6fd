"""True label maps made to look like what imperfect segmentation networks predict."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from segfix.geometry import distance_map

Regions = NDArray[np.unsignedinteger[Any]]
"""(H, W) label map whose ids are 0 … K - 1."""


def perturb_label_map(
    label_map: NDArray[Any], rng: np.random.Generator, *, void: int
) -> NDArray[Any]:
    """Make of a true label map what an imperfect network would have predicted.

    Thin things are lost, labels leak over boundaries, and boundaries are displaced, coarse,
    rounded or ragged: each by chance, and more likely and stronger in some maps than in others.
    Some are off by half a pixel, some by 10 to 20; about one in twenty comes back as it is.

    Args:
        label_map: (H, W) integer ids.
        rng: Decides alone what happens to a map.
        void: The void id. Predictions have none: void takes the nearest label first.

    Returns:
        (H, W) ids of the same dtype: none that `label_map` lacks, and no void unless all is void.

    Example:
        >>> constant = np.full((9, 9), 7)
        >>> bool((perturb_label_map(constant, np.random.default_rng(0), void=255) == 7).all())
        True
    """
    if not label_map.size:
        return label_map.copy()
    flat = label_map.ravel()
    # Each id begins somewhere: far fewer pixels to sort than there are.
    ids = np.unique(np.append(flat[:1], flat[1:][flat[1:] != flat[:-1]]))
    if (ids == void).all():
        return label_map.copy()
    small = np.uint8 if ids.size <= np.iinfo(np.uint8).max else np.uint32
    regions: Regions = np.searchsorted(ids, label_map).astype(small)
    regions = _fill(regions, label_map == void)
    if ids.size > 1:
        regions = _perturb_regions(regions, rng)
    found: NDArray[Any] = ids[regions]
    return found


def _perturb_regions(regions: Regions, rng: np.random.Generator) -> Regions:
    """Add several kinds of error, one after the other; strengths are in pixels.

    One severity for a whole map: if each kind drew for itself, the coarsest of them would decide,
    and hardly a map were good.
    """
    severity = rng.random() ** 0.7

    def chance(share: float) -> bool:
        return bool(rng.random() < share)

    def happens(share: float) -> bool:
        return chance(share * (0.5 + severity))

    def strength(low: float, high: float) -> float:
        return float(low * (high / low) ** (severity * rng.uniform(0.6, 1)))

    if happens(0.3):
        regions = _thin(regions, rng, strength(1, 8))
    if happens(0.25):
        for _ in range(rng.integers(1, 4)):
            regions = _leak(regions, rng, strength(5, 40))
    if happens(0.35):
        for _ in range(rng.integers(1, 3)):
            regions = _grow(regions, rng, strength(1, 6), patchy=chance(0.5))
    if happens(0.6):
        amplitude = strength(0.5, 12)
        # Less smooth, the map would be torn and folded.
        smoothness = max(6 * (50 / 6) ** rng.random(), 2 * amplitude)
        shift = rng.uniform(-1, 1, 2) * (strength(1, 4) if chance(0.25) else 0)
        regions = _displace(regions, rng, smoothness, amplitude, shift)
    if happens(0.5):
        regions = _reduce(regions, rng, strength(2, 32), nearest=chance(1 / 3))
    if happens(0.3):
        # Shares of cells of 2σ, enlarged, are much like those under a Gaussian: rounded outlines.
        regions = _reduce(regions, rng, 2 * strength(1, 8), nearest=False)
    if happens(0.1):
        regions = _speckle(regions, rng, strength(1, 4))
    if happens(0.3):
        regions = _displace(regions, rng, rng.uniform(1, 2), strength(0.5, 2))
    return regions


def _noise(shape: tuple[int, ...], rng: np.random.Generator, smoothness: float) -> NDArray[Any]:
    """Make (H, W) float32 noise, deviation about 0.8, as smooth as white noise after a Gaussian.

    Args:
        shape: H and W.
        rng: Source of the noise.
        smoothness: σ of that Gaussian, pixels.
    """
    spacing = 2 * smoothness
    height, width = shape
    rows, cols = (int(n / spacing) + 3 for n in shape)
    grid = Image.fromarray(rng.standard_normal((rows, cols), dtype=np.float32))
    y, x = rng.random(2)
    box = (x, y, x + width / spacing, y + height / spacing)
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC, box=box))


def _box(area: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """Find the bounding box of an area that isn't empty, widened as far as the frame lets it."""
    top, bottom, left, right = (
        edge for axis in (1, 0) for edge in np.flatnonzero(area.any(axis=axis))[[0, -1]].tolist()
    )
    return (
        slice(max(top - margin, 0), bottom + margin + 1),
        slice(max(left - margin, 0), right + margin + 1),
    )


def _fill(regions: Regions, unknown: NDArray[np.bool_]) -> Regions:
    """Give unknown pixels the label of the nearest known one, if there are any of both."""
    if not unknown.any() or unknown.all():
        return regions
    # All around the box is known, so one pixel more than it holds the nearest ones.
    box = _box(unknown, 1)
    rows, cols = ndimage.distance_transform_edt(
        unknown[box], return_distances=False, return_indices=True
    )
    filled = regions.copy()
    filled[box] = regions[box][rows, cols]
    return filled


def _move(regions: Regions, dy: NDArray[Any], dx: NDArray[Any]) -> Regions:
    """Take each pixel's label from where its offset points, at the frame from the frame."""
    height, width = regions.shape
    rows = np.clip(np.rint(np.arange(height, dtype=np.float32)[:, None] + dy), 0, height - 1)
    cols = np.clip(np.rint(np.arange(width, dtype=np.float32) + dx), 0, width - 1)
    moved: Regions = regions.take(rows.astype(np.int32) * width + cols.astype(np.int32))
    return moved


def _displace(
    regions: Regions,
    rng: np.random.Generator,
    smoothness: float,
    amplitude: float,
    shift: NDArray[Any] | tuple[float, float] = (0, 0),
) -> Regions:
    """Displace by smooth noise and a constant shift, in pixels, rows first."""
    dy, dx = (amplitude * _noise(regions.shape, rng, smoothness) + part for part in shift)
    return _move(regions, dy, dx)


def _reduce(regions: Regions, rng: np.random.Generator, stride: float, *, nearest: bool) -> Regions:
    """Reduce and enlarge again, over a grid at a random phase.

    Args:
        regions: (H, W) labels.
        rng: Chooses the phase and, for the arg-max, how the labels are favoured.
        stride: Pixels, at least 1.
        nearest: Whether blocks take the label of their middle, instead of the arg-max of
            smoothly enlarged shares of the labels.
    """
    phases = rng.random(2) * stride
    cells = [
        ((np.arange(n) + 0.5 + phase) / stride).astype(np.intp)
        for n, phase in zip(regions.shape, phases, strict=True)
    ]
    if nearest or regions.dtype != np.uint8:  # of so many labels, planes would fill the memory
        rows, cols = (
            np.clip((cell + 0.5) * stride - phase, 0, cell.size - 1).astype(np.intp)
            for cell, phase in zip(cells, phases, strict=True)
        )
        return regions[np.ix_(rows, cols)]
    rows, cols = cells
    num_labels = int(regions.max()) + 1
    height, width = (
        int((n + phase) / stride) + 1 for n, phase in zip(regions.shape, phases, strict=True)
    )
    index = (rows[:, None] * width + cols) * num_labels + regions
    counts = np.bincount(index.ravel(), minlength=height * width * num_labels)
    shares = counts.reshape(height, width, num_labels).transpose(2, 0, 1).astype(np.float32)
    # Networks favour some labels over others.
    favour = 200 * np.exp(rng.uniform(-0.2, 0.2, num_labels))
    areas = np.outer(*(np.bincount(c, minlength=n) for c, n in ((rows, height), (cols, width))))
    # The first and the last cells may hold no pixel's middle.
    shares *= favour[:, None, None] / np.maximum(areas, 1)
    planes = np.ascontiguousarray(np.rint(shares).astype(np.uint8))
    y, x = phases
    enlarged = regions.copy()
    best = np.zeros(regions.shape, np.uint8)
    for label in range(num_labels):
        # What its shares can reach, no more.
        reach = [np.flatnonzero(planes[label].any(axis=axis)) for axis in (1, 0)]
        if not reach[0].size:
            continue
        (top, bottom), (left, right) = (
            np.searchsorted(cell, (found[0] - 1, found[-1] + 2)).tolist()
            for cell, found in zip(cells, reach, strict=True)
        )
        x0, y0, x1, y1 = (edge / stride for edge in (left + x, top + y, right + x, bottom + y))
        plane = Image.fromarray(planes[label])
        size = (right - left, bottom - top)
        share = np.asarray(plane.resize(size, Image.Resampling.BILINEAR, box=(x0, y0, x1, y1)))
        window = np.s_[top:bottom, left:right]
        np.copyto(enlarged[window], label, where=share > best[window], casting="unsafe")
        np.maximum(share, best[window], out=best[window])
    return enlarged


def _grow(regions: Regions, rng: np.random.Generator, pixels: float, *, patchy: bool) -> Regions:
    """Grow or shrink a label, everywhere alike or by what differs from place to place."""
    label = rng.integers(int(regions.max()) + 1)
    chosen = regions == label
    if not chosen.any():
        return regions
    grown = regions.copy()
    box = _box(chosen, int(3 * pixels) + 1)
    inside = chosen[box]
    amount: Any = pixels * rng.choice((-1, 1))
    if patchy:
        amount = amount * _noise(inside.shape, rng, rng.uniform(8, 40))
    distances = distance_map(inside.astype(np.uint8), ignore_index=None)
    lost = inside & (distances <= -amount)
    if lost.any():
        grown[box][lost] = _fill(regions[box], inside)[lost]
    grown[box][~inside & (distances <= amount)] = label
    return grown


def _thin(regions: Regions, rng: np.random.Generator, radius: float) -> Regions:
    """Lose what is narrower than about two radii, here more and there less, to its neighbours."""
    distances = distance_map(regions, ignore_index=None)
    return _fill(regions, distances <= radius * np.exp(0.5 * _noise(regions.shape, rng, 20)))


def _leak(regions: Regions, rng: np.random.Generator, radius: float) -> Regions:
    """Give a blob at a boundary the label of the other side."""
    leaked = regions.copy()
    turned = leaked.T if rng.random() < 0.5 else leaked
    pairs = np.argwhere(turned[:, 1:] != turned[:, :-1])
    if not pairs.size:
        return regions
    row, col = rng.choice(pairs).tolist()
    here, there = rng.permutation(turned[row, col : col + 2])
    reach = int(2 * radius)
    top, left = max(row - reach, 0), max(col - reach, 0)
    around = turned[top : row + reach + 1, left : col + reach + 1]
    height, width = around.shape
    distances = np.hypot(np.arange(height)[:, None] + top - row, np.arange(width) + left - col)
    blob = distances < radius * (1 + 0.4 * _noise(around.shape, rng, max(2, radius / 3)))
    around[blob & (around == here)] = there
    return leaked


def _speckle(regions: Regions, rng: np.random.Generator, size: float) -> Regions:
    """Strew small blobs of labels from elsewhere, most of them from near by."""
    blobs = _noise(regions.shape, rng, size) > rng.uniform(1.5, 2.5)
    reach = 5 * 20 ** rng.random()
    elsewhere = _displace(regions, rng, 2 * size, reach)
    return np.where(blobs, elsewhere, regions)
