"""Folders of label maps against their ground truth, image after image in constant memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from segfix.errors import OUT_OF_MEMORY, SegfixError
from segfix.evaluation.image_scores import ImageScores, score_image
from segfix.evaluation.totals import Comparison
from segfix.files import Pair
from segfix.files.places import StagedPath
from segfix.formats import read_label_map
from segfix.geometry.targets import IGNORE_INDEX
from segfix.jobs.pool import work_through
from segfix.jobs.urls import fetch_job, is_staged


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
    """Score every image of the sets, in order, a few at a time; see `score_image`.

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
    """Read ground truth and prediction as (H, W) ids.

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
