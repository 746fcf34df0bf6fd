"""How good an exported network is on data sets, and how sure it may be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from tqdm import tqdm

from segfix.errors import SegfixError
from segfix.geometry import UNDEFINED
from segfix.geometry.label_distance import DISTANCE_STEPS, WRONG_WITHIN
from segfix.jobs.pool import hide_progress
from segfix.metrics import direction_reliability, offset_counts, offset_scores
from segfix.network.offset_model import BOUNDARY_THRESHOLD, OffsetModel, calibrate
from segfix.network.session import CALIBRATION
from segfix.training.crop_targets import make_validation_prediction, make_validation_targets
from segfix.training.layouts import LabelledImage

CALIBRATION_BINS = 50
PRIOR = 0.001
MAX_LOSS = 0.01
"""So much mask F-score or direction accuracy may int8 lose, on any of the data sets."""


class Measured(NamedTuple):
    """Counts of a network on a data set.

    Attributes:
        offsets: (5,) `segfix.metrics.offset_counts`.
        reliability: (B, 2) `segfix.metrics.direction_reliability` of the product of both
            probabilities.
        conditioned: As `offsets`, of a conditioned network that is shown perturbed label maps.
        wrong: (256, 2) pixels whose label is right and wrong there, by the network's byte.
    """

    offsets: NDArray[np.int64]
    reliability: NDArray[np.int64]
    conditioned: NDArray[np.int64]
    wrong: NDArray[np.int64]

    def scores(self) -> dict[str, float]:
        """Compute scores by name, in [0, 1]; of a conditioned network with `wrong_auc`.

        That is the probability that it finds a wrong label wrong rather than a right one.
        """
        scores = offset_scores(self.offsets)
        if not self.wrong.any(axis=0).all():
            return scores
        seen = offset_scores(self.conditioned)
        right, wrong = self.wrong.T
        below = np.cumsum(right) - right / 2
        auc = float(below @ wrong / (right.sum() * wrong.sum()))
        return {**scores, **{f"conditioned_{k}": v for k, v in seen.items()}, "wrong_auc": auc}


def measure(
    path: Path, held_out: Sequence[Sequence[LabelledImage]], sets: Sequence[str], *, quiet: bool
) -> list[Measured]:
    """Count what tells the scores and the confidence of an exported network, per data set."""
    model = OffsetModel(path, "cpu")
    measured = []
    for name, images in zip(sets, held_out, strict=True):
        found = Measured(
            *(np.zeros(shape, np.int64) for shape in (5, (CALIBRATION_BINS, 2), 5, (256, 2)))
        )
        for number, pair in enumerate(
            tqdm(images, name, unit="image", disable=hide_progress(quiet))
        ):
            image, labels = pair.read()
            direction, boundary, certainty, *_ = model.predict(image)
            true_boundary, true_direction = make_validation_targets(
                labels,
                num_directions=model.num_directions,
                boundary_width=model.metadata["boundary_width"],
            )
            mask = boundary > BOUNDARY_THRESHOLD * 255
            found.offsets[:] += offset_counts(mask, direction, true_boundary, true_direction)
            found.reliability[:] += direction_reliability(
                boundary * (certainty / 255**2),
                direction,
                np.where(mask, true_direction, np.uint8(UNDEFINED)),
                num_directions=model.num_directions,
                num_bins=CALIBRATION_BINS,
            )
            if not model.conditioned:
                continue
            distance, is_wrong = make_validation_prediction(labels, seed=number)
            direction, boundary, _, wrong = model.predict(image, distance)
            mask = boundary > BOUNDARY_THRESHOLD * 255
            found.conditioned[:] += offset_counts(mask, direction, true_boundary, true_direction)
            near = (distance <= WRONG_WITHIN * DISTANCE_STEPS) | (is_wrong == 1)
            for place in (0, 1):
                counted = wrong[near & (is_wrong == place)]
                found.wrong[:, place] += np.bincount(counted, minlength=256)
        measured.append(found)
    return measured


def compare_scores(
    exact: Sequence[Measured], found: Sequence[Measured], sets: Sequence[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """Compare scores in float and in 8 bits, per data set.

    Args:
        exact: What `measure` returned for the float network.
        found: And for the one in 8 bits.
        sets: Names of the data sets.

    Raises:
        SegfixError: A score falls by more than `MAX_LOSS`.
    """
    compared = {}
    for name, *both in zip(sets, exact, found, strict=True):
        before, after = (measured.scores() for measured in both)
        for key, score in after.items():
            if before[key] - score > MAX_LOSS:
                raise SegfixError(
                    f"int8 loses too much on {name}: {key.replace('_', ' ')} falls from "
                    f"{before[key]:.1%} to {score:.1%}, by more than {MAX_LOSS:.0%}; the export "
                    "is not kept."
                )
        compared[name] = {"fp32": before, "int8": after}
    return compared


def fit_calibration(counts: Sequence[NDArray[np.int64]]) -> list[float]:
    """Fit slope and intercept of `segfix.network.offset_model.calibrate`; sets count the same.

    Args:
        counts: Per set, (B, 2) of `measure`.

    Raises:
        SegfixError: There is no direction to measure.
    """
    if not all(count[:, 0].any() for count in counts):
        raise SegfixError("nothing to calibrate on: the network finds no boundary in the images.")
    middles = (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS
    # A little of the usual line, or a few pixels that are all right would be believed for ever.
    usual = np.stack([np.ones_like(middles), calibrate(middles, CALIBRATION)], axis=1)
    total = usual * (len(counts) * PRIOR / CALIBRATION_BINS)
    total += np.sum([count / count[:, 0].sum() for count in counts], axis=0)

    def loss(line: NDArray[np.float64]) -> float:
        odds = line[0] * middles + line[1]
        wrong = total[:, 0] - total[:, 1]
        return float(total[:, 1] @ np.logaddexp(0, -odds) + wrong @ np.logaddexp(0, odds))

    # Surer may not mean less often right.
    bounds = [(0.0, None), (None, None)]
    found = optimize.minimize(loss, np.array(CALIBRATION), bounds=bounds).x
    return [round(float(value), 3) for value in found]
