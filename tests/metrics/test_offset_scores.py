"""Scores of the boundary and the directions that a network finds."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from segfix.metrics import offset_counts, offset_scores


def test_offset_counts_of_a_literal_example() -> None:
    boundary = np.array([[1, 1, 1, 1, 0, 0, 1]], bool)
    direction = np.array([[0, 1, 2, 3, 4, 5, 6]], np.uint8)
    target_boundary = np.array([[1, 1, 0, 255, 1, 0, 1]], np.uint8)
    target_direction = np.array([[0, 2, 2, 3, 4, 5, 255]], np.uint8)
    counts = offset_counts(boundary, direction, target_boundary, target_direction)
    # Found 4 off void, 3 of them among the 4 true ones; 2 of the 3 with a direction are right.
    assert counts.tolist() == [3, 4, 4, 2, 3]
    assert offset_scores(counts) == {"mask_f": 0.75, "direction_accuracy": 2 / 3}


def test_mask_f_and_direction_accuracy_equal_those_of_sklearn() -> None:
    rng = np.random.default_rng(0)
    boundary, direction = rng.random((30, 30)) < 0.4, rng.integers(0, 8, (30, 30), np.uint8)
    target_boundary = rng.choice([0, 1, 255], (30, 30)).astype(np.uint8)
    target_direction = rng.choice([0, 1, 2, 3, 255], (30, 30)).astype(np.uint8)
    scores = offset_scores(offset_counts(boundary, direction, target_boundary, target_direction))
    valid = target_boundary != 255
    directed = valid & boundary & (target_direction != 255)
    f1 = sklearn_metrics.f1_score(target_boundary[valid] == 1, boundary[valid])
    accuracy = sklearn_metrics.accuracy_score(target_direction[directed], direction[directed])
    assert scores["mask_f"] == pytest.approx(f1)
    assert scores["direction_accuracy"] == pytest.approx(accuracy)


def test_scores_of_nothing_are_zero() -> None:
    assert offset_scores(np.zeros(5, np.int64)) == {"mask_f": 0, "direction_accuracy": 0}
