"""What makes scores of label maps meaningless: refused, or said beside them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import ArgumentError, SegfixError
from segfix.files import Entry
from segfix.formats import LabelMap, read_label_map
from segfix.jobs.urls import fetch_job


def read_ids(label_map: LabelMap, path: Path) -> NDArray[np.integer[Any]]:
    """Give (H, W) class ids, also of grey stored as three equal colours.

    Raises:
        SegfixError: It is colour-coded.
    """
    if label_map.kind != "colours":
        return label_map.ids()
    colours, opacity = label_map.array[..., :3], label_map.array[..., 3:]
    grey = colours.shape[2] == 3 and (colours == colours[..., :1]).all()
    if not grey or (opacity != opacity.max(initial=0)).any():
        raise SegfixError(f"{path}: colour-coded; scores need class ids (a grey or palette PNG).")
    ids: NDArray[np.integer[Any]] = colours[..., 0]
    return ids


def are_renumbered(preds: LabelMap, target: LabelMap) -> bool:
    """Tell whether palettes give one colour to another id of each of two label maps."""
    if preds.palette is None or target.palette is None:
        return False
    colours = []
    for one in (preds, target):
        palette = one.palette or b""
        table = [palette[start : start + 3] for start in range(0, len(palette), 3)]
        used = np.unique(one.array).tolist()
        colours.append({number: table[number] for number in used if number < len(table)})
    places = {colour: number for number, colour in colours[1].items()}
    return any(places.get(colour, number) != number for number, colour in colours[0].items())


def count_shifted(
    preds: NDArray[np.integer[Any]], target: NDArray[np.integer[Any]]
) -> tuple[int, int]:
    """Count pixels that are right with 1 added, and with 1 taken away; 0 where most are right.

    Args:
        preds: (N,) ids.
        target: (N,) true ids.
    """
    if 2 * (preds == target).sum() > target.size:
        return 0, 0
    difference = target.astype(np.int64) - preds
    return int((difference == 1).sum()), int((difference == -1).sum())


def check_void(
    result: dict[str, Any], labels: Path | str, ignore_index: int | None, *, given: bool
) -> None:
    """Refuse masks of 0 and 255 whose 255 would be taken for void.

    Args:
        result: Of `Comparison.result`.
        labels: The ground truth, for the message.
        ignore_index: The void id.
        given: Whether the user said that it is.

    Raises:
        ArgumentError: There is one other id.
    """
    held = [entry["name"] for entry in result["classes"] if entry["pixels"]]
    if result["void"] and len(held) == 1 and not given:
        raise ArgumentError(
            f"{labels} holds {held[0]} and void ({ignore_index}) alone. For masks of 0 and 255 say "
            f"--void -1, or --void {ignore_index} if that is what you mean."
        )


def check_void_of(
    maps: Iterable[Entry],
    labels: Path | str,
    ignore_index: int,
    *,
    given: bool,
    key: str | None = None,
) -> None:
    """Do as `check_void` before any work, reading label maps until two ids beside void are found.

    Args:
        maps: The files of the ground truth; of those that can't be read, the work itself tells.
        labels: See `check_void`.
        ignore_index: See `check_void`.
        given: See `check_void`.
        key: The array of an .npz file that is meant; None: the largest.
    """
    held: set[int] = set()
    for entry in maps:
        if given or len(held - {ignore_index}) > 1:
            return
        with suppress(SegfixError, ValueError, OSError, MemoryError), fetch_job(entry) as near:
            held.update(np.unique(read_label_map(near.path, key=key).ids()).tolist())
    classes = [{"name": one, "pixels": 1} for one in held - {ignore_index}]
    check_void(
        {"classes": classes, "void": ignore_index in held}, labels, ignore_index, given=given
    )
