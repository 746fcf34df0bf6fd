"""Scores of label maps and of the SegFix network: arrays to counts, counts to numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.geometry.boundary_lines import boundary_lines, count_matches
from segfix.geometry.boundary_regions import NUM_RADII
from segfix.geometry.directions import UNDEFINED
from segfix.geometry.targets import IGNORE_INDEX


def valid_pixels(target: NDArray[Any], ignore_index: int | None) -> NDArray[np.bool_]:
    """Find the pixels that count: all but void."""
    return np.ones(target.shape, bool) if ignore_index is None else target != ignore_index


def confusion_matrix(
    preds: NDArray[Any], target: NDArray[Any], num_classes: int, *, ignore_index: int | None
) -> NDArray[np.int64]:
    """Count the pairs of true and predicted class.

    Args:
        preds: (H, W) ids; those of `num_classes` and above count as one class of their own.
        target: (H, W) ids below `num_classes`, or void.
        num_classes: K.
        ignore_index: The void id; None where there is none.

    Returns:
        (K, K + 1) counts, rows true; the last column holds predictions outside the classes.

    Raises:
        ValueError: The shapes differ, or `target` holds an id outside the classes.

    Example:
        >>> confusion_matrix(np.array([[0, 1, 9]]), np.array([[0, 0, 1]]), 2, ignore_index=255)
        array([[1, 1, 0],
               [0, 0, 1]])
    """
    if preds.shape != target.shape:
        raise ValueError(f"Expected equal shapes but got {preds.shape} and {target.shape}.")
    valid = valid_pixels(target, ignore_index)
    true = target[valid].astype(np.int64)
    predicted = preds[valid].astype(np.int64)
    if true.size and (true.max() >= num_classes or true.min() < 0):
        wrong = true.min() if true.min() < 0 else true.max()
        raise ValueError(f"Expected target ids from 0 to {num_classes - 1} but got {wrong}.")
    predicted[(predicted < 0) | (predicted >= num_classes)] = num_classes
    counts = np.bincount(
        true * (num_classes + 1) + predicted, minlength=num_classes * (num_classes + 1)
    )
    return counts.reshape(num_classes, num_classes + 1)


def class_iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute the intersection over union of each class.

    Args:
        confusion: (K, K + 1) counts of `confusion_matrix`, summed over the set.

    Returns:
        (K,) in [0, 1]; NaN for classes that don't occur in the labels. `numpy.nanmean` of it is
        the mIoU.

    Example:
        >>> class_iou(np.array([[1, 1, 0], [0, 0, 1]]))
        array([0.5, 0. ])
    """
    num_classes = len(confusion)
    hits = np.diagonal(confusion).astype(float)
    true, predicted = confusion.sum(axis=1), confusion[:, :num_classes].sum(axis=0)
    union = true + predicted - hits
    return np.where(true > 0, hits / np.maximum(union, 1), np.nan)


def class_boundary_f(
    preds: NDArray[Any],
    target: NDArray[Any],
    classes: NDArray[np.integer[Any]],
    *,
    radii: Sequence[float] = (1, 2, 3),
    ignore_index: int | None = IGNORE_INDEX,
) -> NDArray[np.float64]:
    """Compute the boundary F-score of classes of one image.

    Void is left out of both maps. Precision and recall are shares of the pixels of one mask's line
    (`boundary_lines`) that have a pixel of the other's within the radius.

    Args:
        preds: (H, W) ids.
        target: (H, W) ids.
        classes: (K,) ascending ids to score.
        radii: R ascending tolerances, pixels (Euclidean).
        ignore_index: The void id; None where there is none.

    Returns:
        (K, R) in [0, 1]; NaN for classes in neither map, 1 where neither mask has a boundary, 0
        where one alone has. Mean over images, then over classes, is the score.

    Reference:
        Perazzi et al., DAVIS, CVPR 2016; SegFix, Section 4.1.
    """
    valid = valid_pixels(target, ignore_index)
    found, true = (class_numbers(ids, classes, valid) for ids in (preds, target))
    scores = np.full((len(classes), len(radii)), np.nan)
    for first in range(0, len(classes), 64):
        inside = [found, true]
        if len(classes) > 64:
            inside = [np.where(n >= first + 64, -1, np.maximum(n - first, -1)) for n in inside]
        lines, true_lines = (boundary_lines(numbers) for numbers in inside)
        length, met = count_matches(lines, true_lines, target.shape, radii)
        true_length, true_met = count_matches(true_lines, lines, target.shape, radii)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision, recall = met / length[:, None], true_met / true_length[:, None]
            f_scores = np.nan_to_num(2 * precision * recall / (precision + recall))
        # A mask without a line is empty or the whole image.
        lineless = (length == 0) & (true_length == 0)
        whole = np.isin(np.arange(64), [numbers.flat[:1] for numbers in inside])
        f_scores[lineless] = np.where(whole, 1, np.nan)[lineless, None]
        scores[first : first + 64] = f_scores[: len(classes) - first]
    return scores


def class_numbers(
    ids: NDArray[Any], classes: NDArray[np.integer[Any]], valid: NDArray[np.bool_]
) -> NDArray[np.int16]:
    """Find the place of each (H, W) id in the ascending (K,) classes; -1 for void and others."""
    if ids.dtype in (np.uint8, np.uint16):
        # A table is far faster than a search.
        table = np.full(np.iinfo(ids.dtype).max + 1, -1, np.int16)
        there = (classes >= 0) & (classes < len(table))
        table[classes[there]] = np.flatnonzero(there)
        numbers = table.take(ids)
        numbers[~valid] = -1
        return numbers
    if not len(classes):
        return np.full(ids.shape, -1, np.int16)
    place = np.minimum(np.searchsorted(classes, ids), len(classes) - 1)
    return np.where(valid & (classes[place] == ids), place, -1).astype(np.int16)


def band_width(shape: tuple[int, ...], ratio: float = 0.02) -> int:
    """Compute the width of the bands of Boundary IoU: this share of the diagonal, at least 1 px."""
    return max(1, round(ratio * math.hypot(*shape)))


def inner_band(label_map: NDArray[Any], width: int) -> NDArray[np.bool_]:
    """Find the pixels of each region within `width` (chessboard) of its edge or of the frame.

    Args:
        label_map: (H, W) integers ≥ -1.
        width: Pixels.

    Returns:
        (H, W) bool.

    Example:
        >>> inner_band(np.array([[1] * 5 + [2] * 5] * 9), 1)[4].astype(int)
        array([1, 0, 0, 0, 1, 1, 0, 0, 0, 1])
    """
    if 2 * width >= min(label_map.shape):
        return np.ones(label_map.shape, bool)
    band = np.zeros(label_map.shape, bool)
    band[:width] = band[-width:] = band[:, :width] = band[:, -width:] = True
    # A window holds another label where it holds a change between two neighbours.
    for labels, inner in ((label_map, band), (label_map.T, band.T)):
        changes = labels[1:] != labels[:-1]
        near = _any_in_window(_any_in_window(changes, width, 2 * width).T, width, 2 * width + 1)
        inner |= near.T  # noqa: PLW2901 - a view, written in place
    return band


def _any_in_window(mask: NDArray[np.bool_], margin: int, size: int) -> NDArray[np.bool_]:
    """Tell where any of `size` entries along the first axis is set, with `margin` unset around."""
    found = np.pad(mask, ((margin, margin), (0, 0)))
    done = 1
    while done < size:
        step = min(done, size - done)
        found = found[:-step] | found[step:]
        done += step
    return found


def boundary_iou_counts(
    preds: NDArray[Any],
    target: NDArray[Any],
    classes: NDArray[np.integer[Any]],
    *,
    ratio: float = 0.02,
    ignore_index: int | None = IGNORE_INDEX,
) -> NDArray[np.int64]:
    """Count intersection and union of the inner bands of each class's two masks.

    Args:
        preds: (H, W) ids.
        target: (H, W) ids; void is left out of both maps.
        classes: (K,) ascending ids to score.
        ratio: Width of the bands as a share of the image's diagonal, at least one pixel.
        ignore_index: The void id; None where there is none.

    Returns:
        (K, 2) pixels. Summed over a set, their quotient is the boundary IoU.

    Reference:
        Cheng et al., Boundary IoU, CVPR 2021.
    """
    valid = valid_pixels(target, ignore_index)
    width = band_width(target.shape, ratio)
    counts = []
    found, true = (class_numbers(ids, classes, valid) for ids in (preds, target))
    bands = [np.where(inner_band(numbers, width), numbers, -1) for numbers in (found, true)]
    for numbers in (*bands, np.where(bands[0] == bands[1], bands[0], -1)):
        counts.append(np.bincount(numbers.ravel() + 1, minlength=len(classes) + 1)[1:])
    return np.stack([counts[2], counts[0] + counts[1] - counts[2]], axis=1)


def boundary_accuracy_shares(
    preds: NDArray[Any],
    target: NDArray[Any],
    classes: NDArray[np.integer[Any]],
    regions: NDArray[np.int64],
    *,
    ignore_index: int | None = IGNORE_INDEX,
) -> NDArray[np.float64]:
    """Compute what each true class adds to the mean boundary accuracy of one image.

    Accuracy is the share of right pixels in the region along the true boundaries, averaged over
    its radii.

    Args:
        preds: (H, W) ids.
        target: (H, W) ids; void is left out.
        classes: (K,) ascending ids.
        regions: (H, W) of `number_regions` for `accuracy_radii`.
        ignore_index: The void id; None where there is none.

    Returns:
        (K, 2): the class's part of the accuracy, and its share of the regions. Summed over the
        classes, they are the image's mean boundary accuracy, and 1; both 0 without a boundary.

    Reference:
        Cheng et al., CascadePSP, CVPR 2020, Section 4.2.
    """
    near = np.nonzero(valid_pixels(target, ignore_index) & (regions < NUM_RADII))
    numbers = class_numbers(target[near], classes, np.ones(len(near[0]), bool))
    places = (numbers.astype(np.int64) + 1) * NUM_RADII + regions[near]
    size = (len(classes) + 1) * NUM_RADII
    right = places[preds[near] == target[near]]
    within = [
        np.bincount(found, minlength=size).reshape(-1, NUM_RADII).cumsum(axis=1)
        for found in (right, places)
    ]
    pixels = np.maximum(within[1].sum(axis=0), 1)
    return np.stack([(counts / pixels).mean(axis=1)[1:] for counts in within], axis=1)


def e_measure(
    true: NDArray[np.floating[Any]],
    predicted: NDArray[np.floating[Any]],
    hits: NDArray[np.floating[Any]],
    pixels: float,
) -> NDArray[np.float64]:
    """Compute the enhanced-alignment measure of binary masks from their counts.

    With φ a mask less its mean, ξ = 2 φ_P φ_G / (φ_P² + φ_G²) takes four values, one per pair of
    true and predicted; the measure is the mean of (1 + ξ)² / 4. Of an empty ground truth it is the
    share of pixels not predicted, of a full one the share predicted.

    Args:
        true: Pixels of the class in the ground truth, any shape.
        predicted: Pixels predicted as the class, same shape.
        hits: Pixels that are both.
        pixels: All pixels but void.

    Returns:
        The same shape, in [0, 1].

    Example:
        >>> e_measure(np.array([2.0]), np.array([2.0]), np.array([2.0]), 8)
        array([1.])

    Reference:
        Fan et al., Enhanced-alignment measure, IJCAI 2018.
    """
    share_p, share_g = predicted / pixels, true / pixels
    total = np.zeros(np.shape(true))
    for in_p, in_g, count in (
        (1, 1, hits),
        (1, 0, predicted - hits),
        (0, 1, true - hits),
        (0, 0, pixels - predicted - true + hits),
    ):
        phi_p, phi_g = in_p - share_p, in_g - share_g
        norm = phi_p**2 + phi_g**2
        alignment = 2 * phi_p * phi_g / np.where(norm > 0, norm, 1)
        total += count * (1 + alignment) ** 2 / 4
    constant = np.where(share_g == 0, 1 - share_p, share_p)
    measure: NDArray[np.float64] = np.where(
        (share_g == 0) | (share_g == 1), constant, total / pixels
    )
    return measure


def offset_counts(
    boundary_mask: NDArray[np.bool_],
    direction_map: NDArray[np.uint8],
    target_boundary: NDArray[np.uint8],
    target_direction: NDArray[np.uint8],
) -> NDArray[np.int64]:
    """Count what mask F-score and direction accuracy are made of, to be summed over a set.

    Args:
        boundary_mask: (H, W) bool, predicted.
        direction_map: (H, W) uint8, predicted sectors.
        target_boundary: (H, W) uint8: 1, 0, 255 void.
        target_direction: (H, W) uint8 sectors, 255 undefined.

    Returns:
        (5,): true positives, predicted positives, actual positives; right directions, and pixels
        of predicted boundary where a direction is defined.
    """
    valid = target_boundary != IGNORE_INDEX
    actual, found = target_boundary == 1, boundary_mask & valid
    directed = found & (target_direction != UNDEFINED)
    right = directed & (direction_map == target_direction)
    return np.array(
        [(found & actual).sum(), found.sum(), actual.sum(), right.sum(), directed.sum()]
    )


def direction_reliability(
    confidence_map: NDArray[np.floating[Any]],
    direction_map: NDArray[np.uint8],
    target_direction: NDArray[np.uint8],
    *,
    num_directions: int = 8,
    num_bins: int = 20,
) -> NDArray[np.int64]:
    """Count how often directions of a given confidence lead to the right side.

    Args:
        confidence_map: (H, W) in [0, 1].
        direction_map: (H, W) uint8, predicted sectors.
        target_direction: (H, W) uint8 sectors, 255 where undefined: not counted.
        num_directions: m.
        num_bins: Equal steps of confidence.

    Returns:
        (B, 2) counts: pixels, and those whose direction is right to within 45°. Add them up over
        a set.

    Example:
        >>> found, true = np.array([[0, 1, 4, 7]], np.uint8), np.array([[0, 0, 0, 255]], np.uint8)
        >>> direction_reliability(np.full((1, 4), 0.7), found, true, num_bins=2)
        array([[0, 0],
               [3, 2]])
    """
    counted = target_direction != UNDEFINED
    turn = (direction_map[counted].astype(int) - target_direction[counted]) % num_directions
    right = np.minimum(turn, num_directions - turn) * 360 <= 45 * num_directions
    bins = np.minimum((confidence_map[counted] * num_bins).astype(int), num_bins - 1)
    return np.stack(
        [np.bincount(bins[which], minlength=num_bins) for which in (right | True, right)], axis=1
    )


def offset_scores(counts: NDArray[np.int64]) -> dict[str, float]:
    """Compute mask F-score and direction accuracy from summed `offset_counts`.

    Returns:
        `mask_f` and `direction_accuracy`, in [0, 1]; 0 where nothing counts.

    Example:
        >>> offset_scores(np.array([1, 2, 2, 1, 4]))
        {'mask_f': 0.5, 'direction_accuracy': 0.25}
    """
    hits, found, actual, right, directed = (int(count) for count in counts)
    return {
        "mask_f": 2 * hits / max(found + actual, 1),
        "direction_accuracy": right / max(directed, 1),
    }
