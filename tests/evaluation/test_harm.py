"""Harm: images made worse, against each image scored alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segfix.evaluation import Comparison, score_image
from segfix.evaluation.harm import HARMED

VOID = 255
KEYS = ("images", "worse", "rate", "worst", "image")


def harm_of(images: Sequence[tuple[NDArray[Any], ...]]) -> dict[str, Any]:
    """Harm of the second set to the first."""
    comparison = Comparison("AB")
    for number, (target, *preds) in enumerate(images):
        paths = tuple(Path(f"{number}{name}.png") for name in ("", "a", "b"))
        comparison.update(score_image(target, preds, paths=paths))
    harm: dict[str, Any] = comparison.result()["changes"]["B"]["harm"]
    return harm


def halves(column: int) -> NDArray[np.uint8]:
    """Two classes, the second from this column on."""
    return np.repeat([[0] * column + [1] * (10 - column)], 4, axis=0).astype(np.uint8)


def test_the_rate_and_the_worst_loss_are_those_worked_out_by_hand() -> None:
    truth = halves(5)
    # Better, as good at other places, worse by a column, worse by two, and void alone.
    pairs = [(3, 5), (4, 6), (5, 6), (5, 7)]
    images = [(truth, halves(before), halves(after)) for before, after in pairs]
    images.append((np.full_like(truth, VOID), truth, halves(9)))
    harm = harm_of(images)["iou"]
    loss = 1 - (5 / 7 + 3 / 5) / 2
    assert [harm[key] for key in KEYS] == [4, 2, 0.5, pytest.approx(-loss), "3.png"]


def test_a_set_does_no_harm_to_itself_and_the_truth_does_none_to_any() -> None:
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 3, (2, 9, 9)).astype(np.uint8) for _ in range(4)]
    for images in ([(t, p, p) for t, p in maps], [(t, p, t) for t, p in maps]):
        for told in harm_of(images).values():
            assert [told[key] for key in KEYS] == [4, 0, 0.0, 0.0, None]


def test_without_an_image_that_has_a_score_there_is_no_rate() -> None:
    void = np.full((4, 4), VOID, np.uint8)
    for images in ([], [(void, void, void)]):
        for told in harm_of(images).values():
            assert [told[key] for key in KEYS] == [0, 0, None, None, None]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_the_harm_is_that_of_the_images_scored_one_by_one(seed: int, number: int) -> None:
    rng = np.random.default_rng(seed)
    images = [tuple(rng.integers(0, 3, (3, 6, 6)).astype(np.uint8)) for _ in range(number)]
    for target, *_ in images:
        target[rng.random(target.shape) < 0.2] = VOID
    harm = harm_of(images)
    for key in HARMED:
        losses = []
        for image in images:
            alone = Comparison("AB")
            alone.update(score_image(image[0], image[1:]))
            change = alone.result()["changes"]["B"]["mean"][key][0]
            losses += [] if change is None else [change]
        told = harm[key]
        assert told["images"] == len(losses)
        assert told["worse"] == sum(loss < -1e-9 for loss in losses)
        assert told["worst"] == pytest.approx(min([0, *losses]) if losses else None)
