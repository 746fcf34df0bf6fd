"""mIoU and boundary F-score of a folder, image after image in constant memory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from segfix.errors import SegfixError
from segfix.formats import Pair, read_label_map
from segfix.geometry.targets import IGNORE_INDEX
from segfix.metrics import class_boundary_f, class_iou, confusion_matrix

RADII = (1, 2, 3)
"""Tolerances of the boundary F-score, pixels."""

MAX_CLASSES = 1024


@dataclass
class Scores:
    """Running scores of one set of predictions.

    Attributes:
        confusion: (K, K + 1) counts, see `segfix.metrics.confusion_matrix`.
        boundary_sum: (K, R) sum over images of the boundary F-scores.
        boundary_count: (K,) images in which the class occurs in either map.
        images: Number of images.
        void: Number of void pixels in the label maps.
        failed: One text per failure, which names the file.
    """

    confusion: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 1), np.int64))
    boundary_sum: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, len(RADII))))
    boundary_count: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    images: int = 0
    void: int = 0
    failed: list[str] = field(default_factory=list)

    def update(self, preds: NDArray[Any], target: NDArray[Any], ignore_index: int | None) -> None:
        """Add one image: (H, W) ids predicted and true.

        Raises:
            ValueError: The shapes differ, or ids go beyond 1023.
        """
        valid = np.ones(target.shape, bool) if ignore_index is None else target != ignore_index
        top = max(int(ids[valid].max(initial=0)) for ids in (preds, target)) + 1
        if top > MAX_CLASSES:
            raise ValueError(
                f"Expected class ids below {MAX_CLASSES} but got {top - 1} (colours? instances?)."
            )
        self.grow(max(top, len(self.boundary_count)))
        num_classes = len(self.boundary_count)
        self.confusion += confusion_matrix(preds, target, num_classes, ignore_index=ignore_index)
        scores = class_boundary_f(
            preds, target, num_classes, radii=RADII, ignore_index=ignore_index
        )
        self.boundary_sum += np.nan_to_num(scores)
        self.boundary_count += ~np.isnan(scores[:, 0])
        self.images += 1
        self.void += int(valid.size - valid.sum())

    def grow(self, num_classes: int) -> None:
        """Make room for this many classes."""
        more = num_classes - len(self.boundary_count)
        if more > 0:
            # The last column, predictions outside the classes, is empty: classes include them.
            self.confusion = np.pad(self.confusion, ((0, more), (0, more)))
            self.boundary_sum = np.pad(self.boundary_sum, ((0, more), (0, 0)))
            self.boundary_count = np.pad(self.boundary_count, (0, more))

    def merge(self, other: Scores) -> None:
        """Add another set's counts to this one's."""
        for scores in (self, other):
            scores.grow(max(len(self.boundary_count), len(other.boundary_count)))
        self.confusion += other.confusion
        self.boundary_sum += other.boundary_sum
        self.boundary_count += other.boundary_count
        self.images += other.images
        self.void += other.void

    def result(self) -> dict[str, Any]:
        """The numbers, in [0, 1], None where nothing counts; JSON-ready.

        mIoU over the classes present in the labels, from counts summed over the set; boundary F
        as mean over images, then over the classes present in either map.
        """
        iou = class_iou(self.confusion)
        seen = self.boundary_count > 0
        f_scores = self.boundary_sum[seen] / self.boundary_count[seen, None]
        present = np.flatnonzero(~np.isnan(iou))
        total = int(self.confusion.sum())
        means = f_scores.mean(axis=0).tolist() if seen.any() else [None] * len(RADII)
        return {
            "images": self.images,
            "miou": float(iou[present].mean()) if total else None,
            "pixel_accuracy": float(np.trace(self.confusion) / total) if total else None,
            **{f"f{radius}": mean for radius, mean in zip(RADII, means, strict=True)},
            "pixels": total,
            "void": self.void,
            "pixels_of_absent_classes": int(np.delete(self.confusion, present, axis=1).sum()),
            "class_iou": {int(k): float(iou[k]) for k in present},
        }


def evaluate_folder(
    pairs: Sequence[Pair],
    *,
    ignore_index: int | None = IGNORE_INDEX,
    workers: int = 1,
    quiet: bool = True,
    title: str = "",
) -> Scores:
    """Score label maps, each pair a ground truth and its prediction.

    Args:
        pairs: Ground truth and prediction; a missing prediction is a failure, never a score.
        ignore_index: Void id of the ground truth; None where there is none.
        workers: Threads.
        quiet: No progress bar.
        title: What is scored, for the progress bar.
    """

    def score(pair: Pair) -> Scores:
        scores = Scores()
        try:
            target, preds = read_pair(pair)
            scores.update(preds, target, ignore_index)
        except SegfixError as error:
            scores.failed.append(str(error))
        except ValueError as error:
            scores.failed.append(f"{pair.entry.path}: {error}")
        return scores

    total = Scores()
    with ThreadPoolExecutor(workers) as pool:
        bar = tqdm(
            pool.map(score, pairs),
            total=len(pairs),
            unit="image",
            desc=title,
            disable=quiet or sys.stderr is None,
        )
        for scores in bar:
            total.merge(scores)
            total.failed += scores.failed
    return total


def read_pair(pair: Pair) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]:
    """Ground truth and prediction as (H, W) ids.

    Raises:
        SegfixError: One is missing or broken, or the sizes differ.
    """
    if pair.entry.problem:
        raise SegfixError(pair.entry.problem)
    if pair.partner is None:
        raise SegfixError(f"{pair.entry.path}: no prediction of that name.")
    target, preds = read_label_map(pair.entry.path), read_label_map(pair.partner.path)
    if target.array.shape[:2] != preds.array.shape[:2]:
        raise SegfixError(
            f"{pair.partner.path}: {preds.size}, but its label map {pair.entry.path} is "
            f"{target.size}; sizes must be equal."
        )
    for path, label_map in ((pair.entry.path, target), (pair.partner.path, preds)):
        if label_map.array.ndim != 2:
            raise SegfixError(
                f"{path}: colour-coded; scores need class ids (a grey or palette PNG)."
            )
    return target.ids(), preds.ids()
