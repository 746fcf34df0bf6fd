"""What every loss of two maps refuses or warns about."""

from __future__ import annotations

import pytest
import torch

from tests.losses.every_loss import (
    VOID,
    Batch,
    Case,
    every_loss,
)


@every_loss
@pytest.mark.parametrize(
    ("logits_shape", "target_shape"),
    [
        ((2, 4, 5, 6), (2, 5, 7)),
        ((2, 4, 5, 6), (3, 5, 6)),
        ((2, 4, 5, 6), (2, 1, 5, 6)),
        ((2, 4, 5, 6), (5, 6)),
        ((4, 5, 6), (5, 6)),
        ((2, 4, 5, 6, 1), (2, 5, 6)),
        ((2, 4, 5), (2, 5)),
        ((2, 4, 5, 6, 1), (2, 5, 6, 1)),
    ],
)
def test_shapes_that_do_not_fit_are_errors(
    loss: Case, logits_shape: tuple[int, ...], target_shape: tuple[int, ...]
) -> None:
    logits, target = torch.randn(logits_shape), torch.zeros(target_shape, dtype=torch.int64)
    extra = loss.extra(4, logits.dtype)
    with pytest.raises(ValueError, match=r"(?s)Expected.*but got"):
        loss.function(logits, target, *extra, **loss.options)


@every_loss
def test_wrong_dtypes_are_type_errors(loss: Case, batch: Batch) -> None:
    logits, target = batch
    with pytest.raises(TypeError, match=r"(?s)Expected.*but got"):
        loss(logits.long(), target)
    with pytest.raises(TypeError, match=r"(?s)Expected.*but got"):
        loss(logits, target.float())


@every_loss
@pytest.mark.parametrize("wrong", [5, 17, -1, 254])
def test_an_id_that_is_no_class_is_an_error(loss: Case, batch: Batch, wrong: int) -> None:
    logits, target = batch[0], batch[1].clone()
    target[1, 2, 3] = wrong
    with pytest.raises(ValueError, match=rf"(?s)(?=.*{wrong}\b)(?=.*\b5\b)"):
        loss(logits, target)


@every_loss
def test_void_of_another_number_is_an_error(loss: Case, batch: Batch) -> None:
    with pytest.raises(ValueError, match=rf"(?s){VOID}"):
        loss(*batch, ignore_index=-1)


@every_loss
def test_probabilities_instead_of_logits_are_warned_about(loss: Case, batch: Batch) -> None:
    logits, target = batch
    with pytest.warns(UserWarning, match="(?i)probabilit"):
        loss(logits.softmax(1), target)
    with pytest.warns(UserWarning, match="(?i)probabilit"):
        loss(logits.float().softmax(1), target)


@every_loss
def test_logits_that_only_lie_between_0_and_1_are_not_warned_about(
    loss: Case, batch: Batch
) -> None:
    logits, target = batch
    loss(logits.sigmoid(), target)
    loss(logits.softmax(1) - 0.1, target)
    loss(torch.zeros_like(logits), target)
