"""What can be done with a finished mask and its photograph: the methods that `masks.py` compares.

Guided filter, SLIC majority, DenseCRF and the median filter are those of `baselines.py`; here are
those that want one mask of an object. Each has its settings to be tried, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import cv2
import numpy as np

from segfix.network.offset_model import OffsetModel
from segfix.refinement.apply import refine
from tests.bench.baselines import KERNELS, METHODS, Ids, Method, Picture


def joint_bilateral(picture: Picture, *, radius: int, colours: float) -> list[Ids]:
    """The mask averaged over neighbours alike in colour."""
    smooth = cv2.ximgproc.jointBilateralFilter(
        picture.image.astype(np.float32),
        picture.label_map.astype(np.float32),
        2 * radius + 1,
        colours,
        radius / 2,
    )
    return [(smooth > 0.5).astype(np.uint8)]


def weighted_median(picture: Picture, *, radius: int, colours: float) -> list[Ids]:
    """The median of the mask, neighbours alike in colour counting more."""
    return [cv2.ximgproc.weightedMedianFilter(picture.image, picture.label_map, radius, colours)]


def trimap(mask: Ids, band: float) -> Ids:
    """Three levels: 0 and 2 farther from the mask's boundary than a share of its size, 1 between.

    Of a mask that is nowhere so thick, the innermost pixels are sure.
    """
    width = band * np.sqrt(mask.sum())
    inside, outside = (cv2.distanceTransform(m, cv2.DIST_L2, 5) for m in (mask, 1 - mask))
    known = np.ones(mask.shape, np.uint8)
    known[outside > min(width, 0.9 * outside.max())] = 0
    known[inside > min(width, 0.9 * inside.max())] = 2
    return known


def grabcut(picture: Picture, *, band: float, iterations: int) -> list[Ids]:
    """GrabCut of a band around the boundary; the mask is its first guess there."""
    known, mask = trimap(picture.label_map, band), picture.label_map
    states = np.where(mask == 1, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    states[known == 0], states[known == 2] = cv2.GC_BGD, cv2.GC_FGD
    cv2.setRNGSeed(0)
    bgr = np.ascontiguousarray(picture.image[..., ::-1])
    mixtures = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(bgr, states, None, *mixtures, iterations, cv2.GC_INIT_WITH_MASK)
    return [np.isin(states, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)]


def matting(picture: Picture, *, band: float) -> list[Ids]:
    """Closed-form matting of a band around the boundary, cut at ½."""
    from pymatting import estimate_alpha_cf

    known = trimap(picture.label_map, band)
    rows, cols = np.nonzero(known == 1)
    if not rows.size:
        return [picture.label_map]
    # What is farther away than the matting's windows has no say.
    box = np.s_[max(rows.min() - 8, 0) : rows.max() + 9, max(cols.min() - 8, 0) : cols.max() + 9]
    alpha = estimate_alpha_cf(picture.image[box] / 255, known[box] / 2)
    found = picture.label_map.copy()
    found[box] = alpha >= 0.5
    return [found]


def edge_snap(picture: Picture, *, tolerance: int, sigma: float) -> list[Ids]:
    """The documented steps of "Mask Edge Snap", a block of Roboflow's workflows.

    Sobel edges above their surroundings' mean + sigma · deviation, closed, thinned, small ones
    dropped; each contour point moves to the strongest edge within the tolerance.
    """
    grey = cv2.cvtColor(picture.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    strength = cv2.magnitude(*(cv2.Sobel(grey, cv2.CV_32F, dx, 1 - dx) for dx in (1, 0)))
    window = (31, 31)
    mean = cv2.blur(strength, window)
    deviation = np.sqrt(np.maximum(cv2.blur(strength**2, window) - mean**2, 0))
    edges = (strength > mean + sigma * deviation).astype(np.uint8)
    edges = cv2.morphologyEx(edges, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    edges = cv2.ximgproc.thinning(255 * edges, thinningType=cv2.ximgproc.THINNING_ZHANGSUEN)
    _, parts, figures, _ = cv2.connectedComponentsWithStats(edges)
    edges[figures[parts, cv2.CC_STAT_AREA] < 10] = 0
    strength[edges == 0] = 0
    height, width = strength.shape
    around = np.arange(-tolerance, tolerance + 1)
    dy, dx = np.meshgrid(around, around, indexing="ij")
    disc = np.hypot(dy, dx) <= tolerance
    dy, dx = dy[disc], dx[disc]
    contours, _ = cv2.findContours(picture.label_map, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    snapped = []
    for contour in contours:
        x, y = contour[:, 0, 0], contour[:, 0, 1]
        rows = np.clip(y[:, None] + dy, 0, height - 1)
        cols = np.clip(x[:, None] + dx, 0, width - 1)
        near = strength[rows, cols]
        best = near.argmax(1)[:, None]
        there = np.take_along_axis(near, best, 1)[:, 0] > 0
        y = np.where(there, np.take_along_axis(rows, best, 1)[:, 0], y)
        x = np.where(there, np.take_along_axis(cols, best, 1)[:, 0], x)
        snapped.append(np.stack([x, y], 1)[:, None].astype(np.int32))
    return [cv2.drawContours(np.zeros_like(picture.label_map), snapped, -1, 1, cv2.FILLED)]


def binary_crf(picture: Picture, **setting: Any) -> list[Ids]:
    """DenseCRF, 10 iterations; three values are those of the best of five settings tried first."""
    near = {"certainty": 0.5, "near_sxy": 3, "near_compat": 4}
    return METHODS["DenseCRF"].run(picture, **near, **setting, iterations=(10,))


BANDS = (0.02, 0.04, 0.08, 0.12, 0.18, 0.25)
COLOURS = (4, 8, 16, 32, 64, 128)
RADII = (2, 4, 8, 12, 16, 24, 32)
SHARED = ("guided filter", "median filter", "SLIC majority")
PEERS = {
    **{name: METHODS[name] for name in SHARED},
    "GrabCut": Method(grabcut, {"band": BANDS, "iterations": (1, 2, 5)}),
    "matting, cut at ½": Method(matting, {"band": BANDS}),
    "Mask Edge Snap": Method(
        edge_snap, {"tolerance": (2, 3, 5, 8, 12, 15, 20), "sigma": (0.1, 0.5, 1, 1.5, 2)}
    ),
    "weighted median filter": Method(weighted_median, {"radius": RADII, "colours": COLOURS}),
    "joint bilateral filter": Method(joint_bilateral, {"radius": RADII, "colours": COLOURS}),
    "DenseCRF, 10 iterations": Method(
        binary_crf,
        {name: KERNELS[name] for name in ("sxy", "srgb", "compat")},
        first={"sxy": 5, "srgb": 3, "compat": 16},
    ),
}


def reduced(picture: Picture, scale: float) -> Picture:
    """Photograph and mask at another size."""
    size = [max(32, round(scale * n)) for n in picture.label_map.shape[::-1]]
    image = cv2.resize(picture.image, size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(picture.label_map, size, interpolation=cv2.INTER_NEAREST)
    return replace(picture, image=image, label_map=mask)


def look_and_refine(model: OffsetModel, scales: Sequence[float], picture: Picture) -> Ids:
    """Conditioned passes, each with a fresh look at what the pass before has left.

    Of a reduced pass, the mask takes over what has changed; the rest keeps its resolution.
    """
    mask = picture.label_map
    for scale in scales:
        seen = reduced(replace(picture, label_map=mask), scale)
        found = refine(seen.label_map, model.offsets(seen.image, seen.label_map))
        changed = (found != seen.label_map).astype(np.uint8)
        size = mask.shape[::-1]
        changed, found = (
            cv2.resize(plane, size, interpolation=cv2.INTER_NEAREST) for plane in (changed, found)
        )
        mask = np.where(changed > 0, found, mask)
    return mask


def segfix_rows(model: OffsetModel) -> dict[str, Callable[[Picture], Ids]]:
    """SegFix in its variants."""
    return {
        "SegFix, without --preds": lambda p: refine(p.label_map, model.offsets(p.image)),
        "SegFix": partial(look_and_refine, model, (1,)),
        "SegFix, two passes": partial(look_and_refine, model, (1, 1)),
        "SegFix, half size, then full": partial(look_and_refine, model, (0.5, 1)),
    }
