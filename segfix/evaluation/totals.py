"""Running scores of several sets of predictions, with confidence intervals, in constant memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.evaluation.harm import Harm
from segfix.evaluation.image_scores import ImageScores
from segfix.evaluation.statistics import (
    BANDS,
    CHANGES,
    COLUMNS,
    NUM_COLUMNS,
    class_scores,
    mean_scores,
)
from segfix.evaluation.surfaces import summarize_surfaces
from segfix.formats.label_maps import NO_ID
from segfix.geometry.targets import IGNORE_INDEX

REPLICAS = 1000
"""Of the bootstrap."""

PENDING = 64
"""Images that are added to the replicas at once."""

INTERVAL = (2.5, 97.5)
"""Percentiles of the replicas: a confidence of 95 %."""


class Comparison:
    """Add up the scores of several sets of predictions of the same images.

    Memory goes with classes and sets, not with images: of the images, their sum is kept, and the
    sums of 1000 replicas of the set in which each image counts a Poisson-distributed number of
    times, the same in every set (the Poisson bootstrap).

    Args:
        names: Of the sets; the first is the one that the others are compared with.
        class_names: Name of each class id; None: whatever ids the maps hold.
        ignore_index: The void id, no class even if it has a name; None where there is none.
        seed: Of the bootstrap.

    Attributes:
        images: Number of images scored.
        left_out: Number of images that failed in one set at least, and count in none.
        void_images: Number of images, of those scored, that hold void alone.
        failed: One text per failure, which names the file.
    """

    def __init__(
        self,
        names: Sequence[str],
        class_names: Mapping[int, str] | None = None,
        *,
        ignore_index: int | None = IGNORE_INDEX,
        seed: int = 0,
    ) -> None:
        self.names = list(names)
        if class_names is not None:
            class_names = {k: name for k, name in class_names.items() if k != ignore_index}
        self.class_names = class_names
        self.images = self.left_out = self.void_images = self.pixels = self.void = 0
        self.failed: list[str] = []
        self._outside: list[Counter[int]] = [Counter() for _ in names]
        self._shifted = np.zeros((len(names), 2), np.int64)
        self._renumbered = np.zeros(len(names), np.int64)
        self._refined_labels = 0
        self._harm = Harm(len(names) - 1)
        self._draws = np.random.default_rng(seed)
        self._pending: list[tuple[list[int], NDArray[np.float64]]] = []
        self._rows: dict[int, int] = {}
        self._holders = np.zeros(0, np.int64)
        self._sums = np.zeros((len(names), 0, NUM_COLUMNS))
        self._replicas = np.zeros((REPLICAS, len(names), 0, NUM_COLUMNS))
        self._surfaces = np.zeros((len(names), 0, 3))
        self._changes = np.zeros((len(names) - 1, 0, len(BANDS) + 1, 3), np.int64)
        self._grow(class_names or ())

    def update(self, image: ImageScores) -> None:
        """Add one image."""
        if image.failed:
            self.failed += image.failed
            self.left_out += 1
            return
        self._grow(image.classes.tolist())
        rows = [self._rows[k] for k in image.classes.tolist()]
        self._sums[:, rows] += image.statistics
        self._changes[:, rows] += image.changes
        if len(image.surfaces):
            self._surfaces[:, rows] += image.surfaces
        self._holders[rows] += image.statistics[0][:, COLUMNS["true"]].any(axis=1)
        self._pending.append((rows, image.statistics))
        if len(self._pending) == PENDING:
            self._add_replicas()
        for counts, found in zip(self._outside, image.outside, strict=True):
            counts.update(found)
        self._shifted += np.array(image.shifted or 0)
        self._renumbered += np.array(image.renumbered or 0)
        self._refined_labels += image.refined_label
        self._harm.update(image)
        self.images += 1
        self.void_images += not image.pixels
        self.pixels += image.pixels
        self.void += image.void

    def _add_replicas(self) -> None:
        """Add the latest images to the replicas, all at once: a product of matrices for each set.

        In one product for all, some CPUs round equal sets differently.
        """
        more = len(self._rows) - self._replicas.shape[2]
        if more:
            # Here, not class by class: of many classes, a copy takes seconds.
            self._replicas = np.pad(self._replicas, ((0, 0), (0, 0), (0, more), (0, 0)))
        images = np.zeros((len(self._pending), *self._sums.shape))
        for image, (rows, statistics) in zip(images, self._pending, strict=True):
            image[:, rows] = statistics
        times = self._draws.poisson(1, (len(images), REPLICAS)).astype(float)
        for number in range(images.shape[1]):
            self._replicas[:, number] += np.tensordot(times, images[:, number], axes=(0, 0))
        self._pending.clear()

    def _grow(self, classes: Sequence[int] | Mapping[int, str]) -> None:
        """Make a row for each class that has none."""
        new = [k for k in classes if k not in self._rows]
        if new:
            self._rows |= {k: len(self._rows) + i for i, k in enumerate(new)}
            more = (0, len(new))
            self._holders = np.pad(self._holders, more)
            self._sums = np.pad(self._sums, ((0, 0), more, (0, 0)))
            self._surfaces = np.pad(self._surfaces, ((0, 0), more, (0, 0)))
            self._changes = np.pad(self._changes, ((0, 0), more, (0, 0), (0, 0)))

    def result(self) -> dict[str, Any]:
        """Compute all numbers, JSON-ready: scores in [0, 1], None where nothing counts.

        Returns:
            `images`, `left_out`, `void_images`, `pixels`, `void`, `failed`; `refined_labels`, how
            many labels are results of `segfix refine`; `classes`, one entry
            each with `id`, `name`, `pixels` and `within`, its pixels up to each of `bands` px from
            a boundary; `sets`, by name: `mean` and `class` scores, `errors` in each band,
            `outside`, pixels of predicted ids that no label holds or the class list lacks,
            `shifted`, pixels right with 1 added to or taken from their id, of images wrong for the
            most part, `renumbered`, images whose palette has the label's colours at other ids, and
            `surface` of `summarize_surfaces`, if it was asked for;
            `changes`, by the name of every other set: differences to the first with their
            confidence interval (`mean` and `class`, each [difference, low, high]), pixels `moved`,
            `fixed` and `broken` in each band and per class, and `harm`, see `Harm.result`.
        """
        self._add_replicas()
        ids = sorted(self._rows)
        order = [self._rows[k] for k in ids]
        sums = self._sums[:, order]
        true = sums[0][:, COLUMNS["true"]] if self.names else np.zeros((0, len(BANDS) + 1))
        names = self.class_names or {}
        sets: dict[str, dict[str, Any]] = {}
        for number, (name, total, unlisted) in enumerate(
            zip(self.names, sums, self._outside, strict=True)
        ):
            predicted, hits = (total[:, COLUMNS[key]] for key in ("predicted", "hits"))
            outside = Counter(unlisted)
            if self.class_names is None:
                absent = (true.sum(axis=1) == 0) & (predicted.sum(axis=1) > 0)
                outside.update({ids[i]: int(predicted[i].sum()) for i in np.flatnonzero(absent)})
            sets[name] = {
                "mean": _plain(mean_scores(total)),
                "class": _plain(class_scores(total)),
                "errors": (true - hits).sum(axis=0).astype(int).tolist(),
                "outside": {"NaN" if k == NO_ID else str(k): outside[k] for k in sorted(outside)},
                "shifted": self._shifted[number].tolist(),
                "renumbered": int(self._renumbered[number]),
            }
            if self._surfaces.any():
                sets[name]["surface"] = summarize_surfaces(self._surfaces[number, order])
        return {
            "images": self.images,
            "left_out": self.left_out,
            "void_images": self.void_images,
            "pixels": self.pixels,
            "void": self.void,
            "refined_labels": self._refined_labels,
            "bands": [*BANDS, None],
            "classes": [
                {
                    "id": k,
                    "name": names.get(k, str(k)),
                    "pixels": int(pixels.sum()),
                    "within": pixels.cumsum().astype(int).tolist(),
                }
                for k, pixels in zip(ids, true, strict=True)
            ],
            "sets": sets,
            "changes": {
                name: self._compare(number, order)
                for number, name in enumerate(self.names[1:], start=1)
            },
            "failed": self.failed,
        }

    def _compare(self, number: int, order: list[int]) -> dict[str, Any]:
        """Compare a set with the first one, classes in this order."""
        changes = self._changes[number - 1, order]
        several = np.array(self.images - self.void_images > 1)
        return {
            "mean": self._differences(mean_scores, number, order, several),
            "class": self._differences(class_scores, number, order, self._holders[order] > 1),
            "bands": _name_changes(changes.sum(axis=0)),
            "class_pixels": _name_changes(changes.sum(axis=1)),
            "harm": self._harm.result(number - 1),
        }

    def _differences(
        self, scores: Any, number: int, order: list[int], several: NDArray[np.bool_]
    ) -> dict[str, Any]:
        """Measure [difference, low, high] of each score of a set to the first set's.

        No interval where it would be that of a single image, drawn again and again: not `several`.
        """
        first, other = (scores(self._sums[n][order]) for n in (0, number))
        replicas = [scores(self._replicas[:, n, order]) for n in (0, number)]
        differences = {}
        for key in first:
            spread = np.where(several, replicas[1][key] - replicas[0][key], np.nan)
            differences[key] = np.stack([other[key] - first[key], *find_interval(spread)], axis=-1)
        return _plain(differences)


def find_interval(spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """Find the interval that holds 95 % of the replicas.

    Args:
        spread: (R, …) differences of replicas; NaN where there is none.

    Returns:
        (2, …) low and high; NaN where no replica has a difference.
    """
    known = ~np.isnan(spread).all(axis=0)
    ends = np.nanpercentile(np.where(known, spread, 0), INTERVAL, axis=0)
    return np.where(known, ends.reshape(2, *known.shape), np.nan)


def _plain(scores: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Convert arrays to lists and numbers, NaN to None."""
    plain = {}
    for name, values in scores.items():
        objects = np.array(values, object)
        objects[np.isnan(values)] = None
        plain[name] = objects.tolist()
    return plain


def _name_changes(counts: NDArray[np.int64]) -> dict[str, list[int]]:
    """Name the (…, 3) counts of `change_counts`."""
    return dict(zip(CHANGES, counts.T.tolist(), strict=True))
