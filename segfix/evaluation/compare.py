"""Folders of label maps against their ground truth, image after image in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from segfix.errors import OUT_OF_MEMORY, SegfixError
from segfix.evaluation.checks import are_renumbered, read_ids
from segfix.evaluation.image_scores import ImageScores, score_image
from segfix.evaluation.surfaces import SurfaceSettings
from segfix.evaluation.totals import Comparison
from segfix.files import Pair
from segfix.files.places import StagedPath
from segfix.files.provenance import read_record
from segfix.formats import LabelMap, read_label_map
from segfix.geometry.targets import IGNORE_INDEX
from segfix.jobs.pool import hide_progress, work_through
from segfix.jobs.urls import fetch_job, is_staged
from segfix.tasks.refine import KIND as REFINED


def evaluate_folders(
    sets: Mapping[str, Sequence[Pair]],
    *,
    ignore_index: int | None = IGNORE_INDEX,
    class_names: Mapping[int, str] | None = None,
    absent: str = "skip",
    surface: SurfaceSettings | None = None,
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
        surface: How to compare surfaces; None: not at all.
        workers: Threads.
        quiet: No progress bar.
    """
    comparison = Comparison(list(sets), class_names, ignore_index=ignore_index)
    for image in score_images(
        sets,
        ignore_index=ignore_index,
        classes=None if class_names is None else list(class_names),
        absent=absent,
        surface=surface,
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
        renumbered = []
        for pair in pairs:
            try:
                true, found = read_pair(pair)
                target = read_ids(true, pair.entry.path)
                path = pair.partner.path if pair.partner else pair.entry.path
                preds.append(read_ids(found, path))
                paths.append(path)
                renumbered.append(are_renumbered(found, true))
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
        if failed or target is None:
            # A broken ground truth fails once, not once per set.
            return ImageScores(failed=tuple(dict.fromkeys(failed)))
        truth = pairs[0].entry.path
        try:
            scores = score_image(target, preds, paths=(truth, *paths), **options)
            refined = f'"{REFINED}"' in (read_record(truth) or "")
            return replace(scores, renumbered=tuple(renumbered), refined_label=refined)
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
    bar = tqdm(total=len(jobs), unit="image", disable=hide_progress(quiet))
    with bar, closing(outcomes):
        for _, scores in outcomes:
            yield scores.result()
            bar.update()


def read_pair(pair: Pair) -> tuple[LabelMap, LabelMap]:
    """Read ground truth and prediction.

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
    return target, preds
