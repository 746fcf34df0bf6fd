"""The confusion matrix of a set: which class is taken for which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from segfix.evaluation.image_scores import ImageScores
from segfix.report.tables import Cell, Table

MOST_CLASSES = 24
"""The most frequent ones have rows and columns of their own."""


class Confusion:
    """Add up which class is taken for which, for each of N sets of the same images."""

    def __init__(self, sets: int) -> None:
        self._pixels = [Counter[tuple[int, int]]() for _ in range(sets)]

    def update(self, image: ImageScores) -> None:
        """Add one image, scored with `confusion`."""
        for pixels, found in zip(self._pixels, image.confusion, strict=True):
            for true, predicted, number in found.tolist():
                pixels[true, predicted] += number

    def tables(self, classes: Sequence[dict[str, Any]]) -> list[Table]:
        """Tabulate the shares of each class's pixels, for each set.

        Args:
            classes: Of `segfix.evaluation.Comparison.result`.
        """
        held = sorted((entry for entry in classes if entry["pixels"]), key=lambda e: -e["pixels"])
        shown = sorted(held[:MOST_CLASSES], key=lambda entry: entry["id"])
        ids = [entry["id"] for entry in shown]
        columns = ["class", *(entry["name"] for entry in shown), "others"]
        tables = []
        for pixels in self._pixels:
            rows = []
            for entry in shown:
                taken = [pixels[entry["id"], other] / entry["pixels"] for other in ids]
                row = [Cell(entry["name"], entry["name"])]
                for other, share in zip([*ids, None], [*taken, 1 - sum(taken)], strict=True):
                    kind = "hit" if other == entry["id"] else "miss"
                    text = "" if share < 5e-4 else f"{100 * share:.1f}"
                    row.append(Cell(text, sure=kind, heat=round(max(share, 0), 3)))
                rows.append(row)
            tables.append(Table(columns, rows, sortable=False))
        return tables
