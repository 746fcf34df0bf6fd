from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from segfix.geometry.suspicion import MOST_REGIONS, find_suspicion


def halves(height: int = 60, width: int = 80) -> NDArray[np.uint8]:
    """Label 1 left, 2 right."""
    labels = np.ones((height, width), np.uint8)
    labels[:, width // 2 :] = 2
    return labels


def test_right_boundaries_are_not_suspected() -> None:
    found = find_suspicion(halves(), np.zeros((60, 80)))
    assert (found.score, found.share, found.peak, found.regions) == (0, 0, 0, ())


def test_a_wrong_region_is_found_with_its_label_and_box() -> None:
    wrong = np.zeros((60, 80))
    wrong[20:40, 32:38] = 0.75
    found = find_suspicion(halves(), wrong)
    (region,) = found.regions
    # The last two columns before the boundary are within the tolerance: their distance is 3 and 4.
    assert region.box == (32, 20, 6, 20)
    assert (region.label, region.wrong) == (1, 90.0)
    assert found.share == pytest.approx(90 / (2 * 60 + 200))
    assert found.score == pytest.approx(np.sqrt(found.share * found.peak))


def test_what_lies_at_the_boundary_or_far_from_it_says_nothing() -> None:
    for columns in (slice(38, 42), slice(0, 27), slice(53, 80)):
        wrong = np.zeros((60, 80))
        wrong[:, columns] = 1
        assert find_suspicion(halves(), wrong).score == 0


def test_void_and_what_is_near_it_say_nothing() -> None:
    labels, wrong = halves(), np.ones((60, 80))
    labels[:, 20:] = 255
    assert find_suspicion(labels, wrong, ignore_index=0).score > 0
    assert find_suspicion(labels, wrong).regions[0].box == (8, 0, 9, 60)
    assert find_suspicion(np.full((60, 80), 255), wrong).score == 0


def test_more_wrong_pixels_give_a_higher_score() -> None:
    scores = []
    for length in (0, 10, 30, 60):
        wrong = np.zeros((60, 80))
        wrong[:length, 30:38] = 0.9
        scores.append(find_suspicion(halves(), wrong).score)
    assert scores == sorted(set(scores))


def test_regions_come_heaviest_first_and_are_limited() -> None:
    labels = np.kron(np.arange(100).reshape(10, 10) % 7, np.ones((24, 24), np.uint8))
    wrong = np.zeros(labels.shape)
    rng = np.random.default_rng(0)
    for y in range(5, 240, 24):
        for x in range(5, 240, 24):
            wrong[y : y + rng.integers(3, 9), x : x + 4] = 0.9
    regions = find_suspicion(labels, wrong).regions
    assert len(regions) == MOST_REGIONS
    assert [one.wrong for one in regions] == sorted((one.wrong for one in regions), reverse=True)


def test_empty_maps_and_other_shapes() -> None:
    assert find_suspicion(np.zeros((0, 4), np.uint8), np.zeros((0, 4))).score == 0
    with pytest.raises(ValueError, match=r"Expected wrong_map of \(60, 80\)"):
        find_suspicion(halves(), np.zeros((60, 79)))
