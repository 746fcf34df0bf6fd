"""Scores of the label maps of one image, in the form that adds up over a set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.evaluation.checks import count_shifted
from segfix.evaluation.statistics import (
    BANDS,
    NUM_COLUMNS,
    change_counts,
    class_statistics,
    measure_surroundings,
)
from segfix.evaluation.surfaces import SurfaceSettings, surface_scores
from segfix.formats.class_names import MAX_CLASSES
from segfix.geometry.targets import IGNORE_INDEX
from segfix.metrics import class_numbers, valid_pixels


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
        shifted: For each set, pixels that would be right with 1 added, and with 1 taken away, see
            `count_shifted`.
        renumbered: For each set, whether its palette numbers the colours otherwise.
        refined_label: Whether the ground truth is a result of `segfix refine`.
        surfaces: (N, k, 3) of `surface_scores`, if they were asked for.
        confusion: If asked for: for each set, (n, 3) true id, predicted id (-1: no class) and how
            many pixels have both.
        failed: One text per failure; the image counts in no set then.
    """

    paths: tuple[Path, ...] = ()
    classes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    statistics: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0, NUM_COLUMNS)))
    changes: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.int64))
    void: int = 0
    pixels: int = 0
    outside: tuple[dict[int, int], ...] = ()
    shifted: tuple[tuple[int, int], ...] = ()
    renumbered: tuple[bool, ...] = ()
    refined_label: bool = False
    surfaces: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0, 3)))
    confusion: tuple[NDArray[np.int64], ...] = ()
    failed: tuple[str, ...] = ()


def score_image(
    target: NDArray[np.integer[Any]],
    preds: Sequence[NDArray[np.integer[Any]]],
    *,
    ignore_index: int | None = IGNORE_INDEX,
    classes: Sequence[int] | None = None,
    absent: str = "skip",
    surface: SurfaceSettings | None = None,
    paths: tuple[Path, ...] = (),
    confusion: bool = False,
) -> ImageScores:
    """Score the label maps of one image.

    Args:
        target: (H, W) true ids.
        preds: N label maps (H, W).
        ignore_index: The void id; None where there is none.
        classes: All ids that are classes, void left out; None: whatever the maps hold.
        absent: See `class_statistics`; "one" makes sense with `classes` alone.
        surface: How to compare surfaces; None: not at all.
        paths: Kept in the result.
        confusion: Whether to count which class is taken for which.

    Raises:
        ValueError: Shapes differ, an id is beyond 1023, or a true one is negative or no class.
    """
    for found in preds:
        if found.shape != target.shape:
            raise ValueError(f"Expected equal shapes but got {found.shape} and {target.shape}.")
    valid = valid_pixels(target, ignore_index)
    true_ids, *ids = (count_ids(labels[valid]) for labels in (target, *preds))
    known = np.unique(np.concatenate([true_ids[0], *(found for found, _ in ids)])).astype(np.int64)
    # Void, negative ids and NaN predicted are wrong, but no classes.
    known = known[(known != ignore_index) & ((known >= 0) | np.isin(known, true_ids[0]))]
    if classes is not None:
        wanted = np.unique(np.asarray(classes, np.int64))
        wanted = wanted[wanted != ignore_index]
        missing = np.setdiff1d(true_ids[0], wanted)
        if missing.size:
            raise ValueError(
                f"the ground truth holds {missing[0]}, none of the {len(wanted)} classes given."
            )
        known = wanted if absent == "one" else np.intersect1d(known, wanted)
    else:
        _check_ids(known, [found for found, _ in (true_ids, *ids)], paths)
    options: dict[str, Any] = {"ignore_index": ignore_index}
    near = measure_surroundings(target, ignore_index=ignore_index)
    statistics = [
        class_statistics(found, target, known, near, absent=absent, **options) for found in preds
    ]
    changes = [
        change_counts(preds[0], after, target, known, near.bands, **options) for after in preds[1:]
    ]
    surfaces = np.zeros((0, len(known), 3))
    if surface:
        surfaces = np.stack(
            [surface_scores(found, target, known, surface, **options) for found in preds]
        )
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
        tuple(count_shifted(found[valid], target[valid]) for found in preds),
        surfaces=surfaces,
        confusion=tuple(_confuse(found, target, known, valid) for found in preds)
        if confusion
        else (),
    )


def _confuse(
    preds: NDArray[Any], target: NDArray[Any], known: NDArray[np.int64], valid: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Count, (n, 3), the pixels of each pair of a true and a predicted id that occurs."""
    found, true = (class_numbers(ids, known, valid)[valid] for ids in (preds, target))
    counts = np.bincount(true.astype(np.int64) * (len(known) + 1) + found + 1)
    pairs = np.flatnonzero(counts)
    ids = np.append(-1, known)
    rows, columns = np.divmod(pairs, len(known) + 1)
    return np.stack([known[rows], ids[columns], counts[pairs]], axis=1)


def _check_ids(
    known: NDArray[np.int64], held: Sequence[NDArray[Any]], paths: Sequence[Path]
) -> None:
    """Refuse ascending ids that can't be classes, and name the label map that holds one."""
    if known.size and (known[-1] >= MAX_CLASSES or known[0] < 0):
        wrong = known[0] if known[0] < 0 else known[-1]
        holders = (path for path, ids in zip(paths, held, strict=False) if wrong in ids)
        where = next((f" in {path}" for path in holders), "")
        raise ValueError(
            f"Expected class ids below {MAX_CLASSES} but got {wrong}{where} (colours? instances?)."
        )


def count_ids(ids: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Count how often each of the distinct ids, ascending, occurs."""
    if ids.dtype in (np.uint8, np.uint16):
        # Sorting takes ten times as long.
        counts = np.bincount(ids)
        there = np.flatnonzero(counts)
        return there, counts[there]
    return np.unique(ids, return_counts=True)
