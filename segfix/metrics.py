"""Scores of label maps and of the SegFix network: arrays to counts, counts to numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segfix.geometry.directions import UNDEFINED
from segfix.geometry.targets import IGNORE_INDEX, distance_map


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
    valid = np.ones(target.shape, bool) if ignore_index is None else target != ignore_index
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
    """Intersection over union of each class.

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


def trimap(target: NDArray[Any], width: float, *, ignore_index: int | None) -> NDArray[np.bool_]:
    """The band about the boundaries of a label map in which trimap mIoU is taken.

    Args:
        target: (H, W) true ids.
        width: Pixels on each side.
        ignore_index: The void id; None where there is none.

    Returns:
        (H, W) bool: not void, and another label is at most so far away.

    Example:
        >>> trimap(np.array([[1, 1, 1, 2, 2, 2]]), 2, ignore_index=None).astype(int)
        array([[0, 1, 1, 1, 1, 0]])

    Reference:
        Kohli et al., Robust higher order potentials, IJCV 2009.
    """
    distances = distance_map(target, ignore_index=ignore_index)
    return (distances > 0) & (distances <= width)


def mask_boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels whose right, lower or lower right neighbour differs: DAVIS's `seg2bmap`.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) bool, a line one pixel wide.

    Example:
        >>> mask_boundary(np.array([[True, True, False, False]])).astype(int)
        array([[0, 1, 0, 0]])
    """
    boundary = np.zeros(mask.shape, bool)
    boundary[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    boundary[:-1] |= mask[:-1] != mask[1:]
    boundary[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return boundary


def boundary_f(
    preds: NDArray[np.bool_], target: NDArray[np.bool_], radii: tuple[float, ...]
) -> NDArray[np.float64]:
    """Boundary F-score of one class mask at several tolerances.

    Args:
        preds: (H, W) bool, the predicted mask of one class, void left out.
        target: (H, W) bool, the true mask, void left out.
        radii: Tolerances, pixels (Euclidean).

    Returns:
        One F in [0, 1] per radius; 1 where neither mask has a boundary, 0 where one alone has.

    Reference:
        Perazzi et al., DAVIS, CVPR 2016; SegFix, Section 4.1.
    """
    lines = mask_boundary(preds), mask_boundary(target)
    if not (lines[0].any() and lines[1].any()):
        return np.full(len(radii), float(lines[0].any() == lines[1].any()))
    # Beyond this box neither has a boundary.
    rows, cols = np.nonzero(lines[0] | lines[1])
    box = np.s_[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]
    found, true = lines[0][box], lines[1][box]
    to_true = ndimage.distance_transform_edt(~true)[found]
    to_found = ndimage.distance_transform_edt(~found)[true]
    scores = []
    for radius in radii:
        precision, recall = np.mean(to_true <= radius), np.mean(to_found <= radius)
        total = precision + recall
        scores.append(2 * precision * recall / total if total else 0.0)
    return np.array(scores)


def class_boundary_f(
    preds: NDArray[Any],
    target: NDArray[Any],
    num_classes: int,
    *,
    radii: tuple[float, ...] = (1, 2, 3),
    ignore_index: int | None = IGNORE_INDEX,
) -> NDArray[np.float64]:
    """Boundary F-score of every class of one image.

    Args:
        preds: (H, W) ids.
        target: (H, W) ids.
        num_classes: K.
        radii: Tolerances, pixels.
        ignore_index: Void is left out of both maps.

    Returns:
        (K, R); NaN for void and for classes in neither map. Mean over images, then over classes,
        is the score.
    """
    valid = np.ones(target.shape, bool) if ignore_index is None else target != ignore_index
    scores = np.full((num_classes, len(radii)), np.nan)
    for k in np.union1d(preds[valid], target[valid]):
        if 0 <= k < num_classes and k != ignore_index:
            scores[k] = boundary_f((preds == k) & valid, target == k, radii)
    return scores


def offset_counts(
    boundary_mask: NDArray[np.bool_],
    direction_map: NDArray[np.uint8],
    target_boundary: NDArray[np.uint8],
    target_direction: NDArray[np.uint8],
) -> NDArray[np.int64]:
    """Counts behind mask F-score and direction accuracy, to be summed over a set.

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
    """How often directions of a given confidence lead to the right side.

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
    """Mask F-score and direction accuracy of summed `offset_counts`.

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
