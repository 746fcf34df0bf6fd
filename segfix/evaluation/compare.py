"""Folders of label maps against their ground truth, image after image in constant memory."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from segfix.errors import OUT_OF_MEMORY, SegfixError
from segfix.evaluation.statistics import (
    BANDS,
    COLUMNS,
    NUM_COLUMNS,
    band_numbers,
    change_counts,
    class_scores,
    class_statistics,
    mean_scores,
)
from segfix.files import Pair
from segfix.files.places import StagedPath
from segfix.formats import read_label_map
from segfix.formats.class_names import MAX_CLASSES
from segfix.geometry.targets import IGNORE_INDEX
from segfix.jobs.pool import work_through
from segfix.jobs.urls import fetch_job, is_staged

REPLICAS = 1000
"""Of the bootstrap."""

PENDING = 64
"""Images that are added to the replicas at once."""

INTERVAL = (2.5, 97.5)
"""Percentiles of the replicas: a confidence of 95 %."""


@dataclass(frozen=True)
class ImageScores:
    """What one image adds to a comparison of N sets.

    Attributes:
        paths: The ground truth, and the label map of each set.
        classes: (k,) ids in any of the maps, or those of the class list.
        statistics: (N, k, S) of `class_statistics`.
        changes: (N - 1, k, B, 3) of `change_counts`, from the first set to each other one.
        void: Number of void pixels.
        pixels: Number of all other pixels.
        outside: For each set, pixels of each predicted id that isn't in the class list.
        failed: One text per failure; the image counts in no set then.
    """

    paths: tuple[Path, ...] = ()
    classes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    statistics: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0, NUM_COLUMNS)))
    changes: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.int64))
    void: int = 0
    pixels: int = 0
    outside: tuple[dict[int, int], ...] = ()
    failed: tuple[str, ...] = ()


def score_image(
    target: NDArray[np.integer[Any]],
    preds: Sequence[NDArray[np.integer[Any]]],
    *,
    ignore_index: int | None = IGNORE_INDEX,
    classes: Sequence[int] | None = None,
    absent: str = "skip",
    paths: tuple[Path, ...] = (),
) -> ImageScores:
    """Score the label maps of one image.

    Args:
        target: (H, W) true ids.
        preds: N label maps (H, W).
        ignore_index: The void id; None where there is none.
        classes: All ids that are classes, void left out; None: whatever the maps hold.
        absent: See `class_statistics`; "one" makes sense with `classes` alone.
        paths: Kept in the result.

    Raises:
        ValueError: Shapes differ, an id is negative or beyond 1023, or a true one is no class.
    """
    for found in preds:
        if found.shape != target.shape:
            raise ValueError(f"Expected equal shapes but got {found.shape} and {target.shape}.")
    valid = np.ones(target.shape, bool) if ignore_index is None else target != ignore_index
    true_ids, *ids = (count_ids(labels[valid]) for labels in (target, *preds))
    known = np.unique(np.concatenate([true_ids[0], *(found for found, _ in ids)])).astype(np.int64)
    known = known[known != ignore_index]  # void predicted is wrong, but no class
    if classes is not None:
        wanted = np.unique(np.asarray(classes, np.int64))
        wanted = wanted[wanted != ignore_index]
        missing = np.setdiff1d(true_ids[0], wanted)
        if missing.size:
            raise ValueError(
                f"the ground truth holds {missing[0]}, none of the {len(wanted)} classes given."
            )
        known = wanted if absent == "one" else np.intersect1d(known, wanted)
    elif known.size and (known[-1] >= MAX_CLASSES or known[0] < 0):
        wrong = known[0] if known[0] < 0 else known[-1]
        holders = zip(paths, (true_ids, *ids), strict=False)
        where = next((f" in {path}" for path, (held, _) in holders if wrong in held), "")
        raise ValueError(
            f"Expected class ids below {MAX_CLASSES} but got {wrong}{where} (colours? instances?)."
        )
    options: dict[str, Any] = {"ignore_index": ignore_index}
    bands = band_numbers(target, ignore_index=ignore_index)
    statistics = [
        class_statistics(found, target, known, bands, absent=absent, **options) for found in preds
    ]
    changes = [
        change_counts(preds[0], after, target, known, bands, **options) for after in preds[1:]
    ]
    return ImageScores(
        paths,
        known,
        np.stack(statistics),
        np.array(changes, np.int64).reshape(len(preds) - 1, len(known), len(BANDS) + 1, 3),
        int(valid.size - valid.sum()),
        int(valid.sum()),
        tuple(
            {int(i): int(n) for i, n in zip(*found, strict=True) if i not in known} for found in ids
        ),
    )


def count_ids(ids: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The distinct ids, ascending, and how often each occurs."""
    if ids.dtype in (np.uint8, np.uint16):
        # Sorting takes ten times as long.
        counts = np.bincount(ids)
        there = np.flatnonzero(counts)
        return there, counts[there]
    return np.unique(ids, return_counts=True)


class Comparison:
    """Running scores of several sets of predictions of the same images.

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
        self._draws = np.random.default_rng(seed)
        self._pending: list[tuple[list[int], NDArray[np.float64]]] = []
        self._rows: dict[int, int] = {}
        self._holders = np.zeros(0, np.int64)
        self._sums = np.zeros((len(names), 0, NUM_COLUMNS))
        self._replicas = np.zeros((REPLICAS, len(names), 0, NUM_COLUMNS))
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
        self._holders[rows] += image.statistics[0][:, COLUMNS["true"]].any(axis=1)
        self._pending.append((rows, image.statistics))
        if len(self._pending) == PENDING:
            self._add_replicas()
        for counts, found in zip(self._outside, image.outside, strict=True):
            counts.update(found)
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
            self._changes = np.pad(self._changes, ((0, 0), more, (0, 0), (0, 0)))

    def result(self) -> dict[str, Any]:
        """All numbers, JSON-ready: scores and shares in [0, 1], None where nothing counts.

        Returns:
            `images`, `left_out`, `void_images`, `pixels`, `void`, `failed`; `classes`, one entry
            each with `id`, `name`, `pixels` and `within`, its pixels up to each of `bands` px from
            a boundary; `sets`, by name: `mean` and `class` scores, `errors` in each band,
            `outside`, pixels of predicted ids that no label holds or the class list lacks; and
            `changes`, by the name of every other set: differences to the first with their
            confidence interval (`mean` and `class`, each [difference, low, high]), and pixels
            `moved`, `fixed` and `broken` in each band and per class.
        """
        self._add_replicas()
        ids = sorted(self._rows)
        order = [self._rows[k] for k in ids]
        sums, changes = self._sums[:, order], self._changes[:, order]
        true = sums[0][:, COLUMNS["true"]] if self.names else np.zeros((0, len(BANDS) + 1))
        names = self.class_names or {}
        sets = {}
        for name, total, unlisted in zip(self.names, sums, self._outside, strict=True):
            predicted, hits = (total[:, COLUMNS[key]] for key in ("predicted", "hits"))
            outside = Counter(unlisted)
            if self.class_names is None:
                absent = (true.sum(axis=1) == 0) & (predicted.sum(axis=1) > 0)
                outside.update({ids[i]: int(predicted[i].sum()) for i in np.flatnonzero(absent)})
            sets[name] = {
                "mean": _plain(mean_scores(total)),
                "class": _plain(class_scores(total)),
                "errors": (true - hits).sum(axis=0).astype(int).tolist(),
                "outside": {str(k): outside[k] for k in sorted(outside)},
            }
        return {
            "images": self.images,
            "left_out": self.left_out,
            "void_images": self.void_images,
            "pixels": self.pixels,
            "void": self.void,
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
                name: {
                    "mean": self._differences(
                        mean_scores, n, order, np.array(self.images - self.void_images > 1)
                    ),
                    "class": self._differences(class_scores, n, order, self._holders[order] > 1),
                    "bands": _changed(changes[n - 1].sum(axis=0)),
                    "class_pixels": _changed(changes[n - 1].sum(axis=1)),
                }
                for n, name in enumerate(self.names[1:], start=1)
            },
            "failed": self.failed,
        }

    def _differences(
        self, scores: Any, number: int, order: list[int], several: NDArray[np.bool_]
    ) -> dict[str, Any]:
        """[difference, low, high] of each score of a set to the first set's.

        No interval where it would be that of a single image, drawn again and again: not `several`.
        """
        first, other = (scores(self._sums[n][order]) for n in (0, number))
        replicas = [scores(self._replicas[:, n, order]) for n in (0, number)]
        differences = {}
        for key in first:
            spread = replicas[1][key] - replicas[0][key]
            known = several & ~np.isnan(spread).all(axis=0)
            ends = np.nanpercentile(np.where(known, spread, 0), INTERVAL, axis=0)
            low, high = np.where(known, ends.reshape(2, *known.shape), np.nan)
            differences[key] = np.stack([other[key] - first[key], low, high], axis=-1)
        return _plain(differences)


def _plain(scores: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Arrays to lists and numbers, NaN to None."""
    plain = {}
    for name, values in scores.items():
        objects = np.array(values, object)
        objects[np.isnan(values)] = None
        plain[name] = objects.tolist()
    return plain


def _changed(counts: NDArray[np.int64]) -> dict[str, list[int]]:
    """(…, 3) counts to named lists."""
    return dict(zip(("moved", "fixed", "broken"), counts.T.tolist(), strict=True))


def evaluate_folders(
    sets: Mapping[str, Sequence[Pair]],
    *,
    ignore_index: int | None = IGNORE_INDEX,
    class_names: Mapping[int, str] | None = None,
    absent: str = "skip",
    workers: int = 1,
    quiet: bool = True,
) -> Comparison:
    """Score several sets of label maps of the same images.

    Args:
        sets: By name, pairs of ground truth and prediction, the ground truths alike and in one
            order. The first set is the one that the others are compared with.
        ignore_index: Void id of the ground truth; None where there is none.
        class_names: Name of each class id, void left out; None: whatever ids the maps hold.
        absent: See `segfix.evaluation.statistics.class_statistics`.
        workers: Threads.
        quiet: No progress bar.
    """
    comparison = Comparison(list(sets), class_names, ignore_index=ignore_index)
    for image in score_images(
        sets,
        ignore_index=ignore_index,
        classes=None if class_names is None else list(class_names),
        absent=absent,
        workers=workers,
        quiet=quiet,
    ):
        comparison.update(image)
    return comparison


def score_images(
    sets: Mapping[str, Sequence[Pair]],
    *,
    workers: int = 1,
    quiet: bool = True,
    **options: Any,
) -> Iterator[ImageScores]:
    """`score_image` of every image of the sets, in order, a few at a time.

    Args:
        sets: See `evaluate_folders`.
        workers: Threads.
        quiet: No progress bar.
        options: Of `score_image`.
    """

    def score(pairs: tuple[Pair, ...]) -> ImageScores:
        try:
            with fetch_job(pairs) if is_staged(pairs) else nullcontext(pairs) as near:
                return score_files(near)
        except SegfixError as error:
            return ImageScores(failed=(str(error),))

    def score_files(pairs: tuple[Pair, ...]) -> ImageScores:
        failed, target, preds, paths = [], None, [], []
        for pair in pairs:
            try:
                target, found = read_pair(pair)
            except SegfixError as error:
                failed.append(str(error))
                continue
            except MemoryError:
                failed.append(f"{pair.entry.path}: {OUT_OF_MEMORY}")
                continue
            except OSError as error:
                where = StagedPath(error.filename or pair.entry.path)
                failed.append(f"{where}: {error.strerror or error}.")
                continue
            preds.append(found)
            paths.append(pair.partner.path if pair.partner else pair.entry.path)
        if failed or target is None:
            # A broken ground truth fails once, not once per set.
            return ImageScores(failed=tuple(dict.fromkeys(failed)))
        truth = pairs[0].entry.path
        try:
            return score_image(target, preds, paths=(truth, *paths), **options)
        except ValueError as error:
            return ImageScores(failed=(f"{truth}: {error}",))
        except MemoryError:
            return ImageScores(failed=(f"{truth}: {OUT_OF_MEMORY}",))

    jobs = list(zip(*sets.values(), strict=True))
    outcomes = work_through(
        iter(jobs),
        score,
        workers=workers,
        total=len(jobs),
        processes=not any(map(is_staged, jobs)),
        in_order=True,
    )
    bar = tqdm(total=len(jobs), unit="image", disable=quiet or sys.stderr is None)
    with bar, closing(outcomes):
        for _, scores in outcomes:
            yield scores.result()
            bar.update()


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
    if target.shape != preds.shape:
        raise SegfixError(
            f"{pair.partner.path}: {preds.size}, but its label map {pair.entry.path} is "
            f"{target.size}; sizes must be equal."
        )
    for path, label_map in ((pair.entry.path, target), (pair.partner.path, preds)):
        if label_map.kind == "colours":
            raise SegfixError(
                f"{path}: colour-coded; scores need class ids (a grey or palette PNG)."
            )
    return target.ids(), preds.ids()
