"""What the three measures of instances share: the form of their results and of their notes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segfix.errors import PairingError, tell_number


def summarize(
    kind: str,
    images: int,
    mean: Mapping[str, Any],
    per_class: Mapping[str, Mapping[str, Any]],
    notes: Sequence[str],
    replicas: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Put scores in the form that `evaluate_instances` returns.

    Args:
        kind: Of the files.
        images: Number of images scored.
        mean: Scores in [0, 1]; None or NaN where nothing counts.
        per_class: The same of each class, by its name.
        notes: What else there is to say.
        replicas: Arrays of the scores of replicas, if there are any.
    """
    means = _plain(mean)
    if all(score is None for score in means.values()):
        notes = [*notes, "the ground truth holds nothing that counts"]
    return {
        "kind": kind,
        "images": images,
        "mean": means,
        "class": {name: _plain(scores) for name, scores in per_class.items()},
        "notes": list(notes),
        **({"replicas": replicas} if replicas else {}),
    }


def _plain(scores: Mapping[str, Any]) -> dict[str, float | None]:
    """Convert scores to numbers of Python, NaN to None."""
    return {
        key: None if score is None or math.isnan(score) else float(score)
        for key, score in scores.items()
    }


def list_some(values: Iterable[Any]) -> str:
    """List the first three of the distinct values, for a message."""
    shown = sorted({str(value) for value in values})
    return ", ".join(shown[:3]) + (", …" if len(shown) > 3 else "")


def name_categories(categories: Sequence[Mapping[str, Any]]) -> dict[Any, str]:
    """Name the categories of a COCO table by id; a name that two of them have gets the id, too."""
    names = {category["id"]: str(category["name"]) for category in categories}
    often = Counter(names.values())
    return {key: name if often[name] == 1 else f"{name} ({key})" for key, name in names.items()}


def check_complete(preds: Path, missing: Sequence[Any], total: int) -> None:
    """Refuse predictions that lack some of the ground truth's images."""
    if missing:
        raise PairingError(
            f"{preds}: no prediction for {len(missing)} of {tell_number(total, 'image')} of the "
            f"ground truth ({list_some(missing)}); predict them too, or keep the ground truth of "
            "the others."
        )
