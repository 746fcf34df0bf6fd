"""Harm: how many images a set makes worse than the first set has them, and by how much at worst."""

from __future__ import annotations

from typing import Any

import numpy as np

from segfix.evaluation.image_scores import ImageScores
from segfix.evaluation.statistics import mean_scores

HARMED = ("iou", "f_1px")
"""Keys of the scores that harm is told in."""

ROUNDING = 1e-9
"""A smaller loss is the rounding of sums."""


class Harm:
    """Count images whose own score falls from the first set to each other one.

    An image's own score is the mean over its classes, as if the set were this image alone.

    Args:
        others: Number of sets besides the first.
    """

    def __init__(self, others: int) -> None:
        self._scored = dict.fromkeys(HARMED, 0)
        self._worse = {key: np.zeros(others, np.int64) for key in HARMED}
        self._worst = {key: np.zeros(others) for key in HARMED}
        self._images: dict[str, list[str | None]] = {key: [None] * others for key in HARMED}

    def update(self, image: ImageScores) -> None:
        """Add one image."""
        if len(image.statistics) < 2:
            return
        scores = mean_scores(image.statistics)
        for key in HARMED:
            change = scores[key][1:] - scores[key][0]
            if np.isnan(change).any():
                continue
            self._scored[key] += 1
            self._worse[key] += change < -ROUNDING
            for number in np.flatnonzero(change < self._worst[key] - ROUNDING).tolist():
                self._worst[key][number] = change[number]
                self._images[key][number] = f"{image.paths[0]}" if image.paths else None

    def result(self, number: int) -> dict[str, Any]:
        """Tell the harm of one of the other sets, from 0, JSON-ready.

        Returns:
            For each key of `HARMED`: `images`, how many have the score; `worse`, how many lose;
            `rate`, their share, None where no image has the score; `worst`, the largest loss, at
            most 0; `image`, the ground truth of that loss, None without one.
        """
        return {
            key: {
                "images": self._scored[key],
                "worse": int(self._worse[key][number]),
                "rate": int(self._worse[key][number]) / images if images else None,
                "worst": float(self._worst[key][number]) if images else None,
                "image": self._images[key][number],
            }
            for key, images in self._scored.items()
        }
