from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from segfix.losses import dice_loss
from segfix.losses.inputs import (
    check_choice,
    check_inputs,
    class_counts,
    class_maps,
    class_slices,
    mean_where,
)

VOID = 255


def is_warned_about(logits: Tensor) -> bool:
    """Whether (N, C, H, W) logits are taken for probabilities."""
    target = torch.zeros(logits.shape[0], *logits.shape[2:], dtype=torch.int64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_inputs(logits, target, VOID)
    return bool(caught)


def constant(*scores: float, size: tuple[int, int] = (3, 3)) -> Tensor:
    """(1, C, H, W) logits, the same at every pixel."""
    return torch.tensor(scores)[None, :, None, None].repeat(1, 1, *size)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (3, 3), (40, 50)])
@pytest.mark.parametrize("scores", [(0.25, 0.75), (0.0, 1.0), (0.5, 0.25, 0.25), (0.3, 0.7004)])
def test_probabilities_are_warned_about(scores: tuple[float, ...], size: tuple[int, int]) -> None:
    assert is_warned_about(constant(*scores, size=size))


@pytest.mark.parametrize(
    "scores",
    [(1.0,), (-0.5, 1.5), (-0.25, 0.5, 0.75), (0.25, 0.5), (0.5, 0.75), (0.3, 0.7016)],
    ids=str,
)
def test_what_is_no_distribution_is_not_warned_about(scores: tuple[float, ...]) -> None:
    assert not is_warned_about(constant(*scores))


@pytest.mark.parametrize("size", [(2, 3), (3, 2), (3, 3), (5, 3), (3, 5), (7, 7)])
def test_in_small_maps_one_pixel_with_other_scores_is_seen(size: tuple[int, int]) -> None:
    for y, x in torch.ones(size).nonzero().tolist():
        for other in ((0.5, 0.75), (-0.5, 1.5)):
            logits = constant(0.25, 0.75, size=size)
            logits[0, :, y, x] = torch.tensor(other)
            assert not is_warned_about(logits)


def test_the_warning_names_the_line_that_called_the_loss() -> None:
    with pytest.warns(UserWarning, match=r"^The logits look like prob.* taken here\.$") as caught:
        dice_loss(constant(0.25, 0.75), torch.zeros(1, 3, 3, dtype=torch.int64))
    assert caught[0].filename == __file__


def test_the_mean_is_of_what_counts() -> None:
    values = torch.tensor([3.0, 5.0, 8.0], requires_grad=True)
    assert mean_where(values, torch.tensor([False, True, False])) == 5
    assert mean_where(values, torch.tensor([True, True, False])) == 4
    nothing = mean_where(values, torch.zeros(3, dtype=torch.bool))
    assert nothing == 0
    torch.autograd.backward(nothing)
    assert values.grad is not None
    assert not values.grad.any()


def test_present_classes_are_those_drawn() -> None:
    target = torch.tensor([[[0, 2, VOID]], [[1, 1, 1]], [[VOID, VOID, VOID]]])
    _, target, valid = check_inputs(torch.zeros(3, 3, 1, 3), target, VOID)
    counts = class_counts(target, valid, 3)
    assert counts.tolist() == [[1, 0, 1], [0, 3, 0], [0, 0, 0]]
    images = [slice(0, 1), slice(0, 1), slice(1, 2)]
    assert class_slices(counts) == list(zip(images, [0, 2, 1], strict=True))
    # Elsewhere than on the CPU, values are not looked at.
    assert class_slices(counts.to("meta")) == [(slice(None), label) for label in range(3)]


def test_class_maps_are_those_drawn() -> None:
    target = torch.tensor([[[0, 2, VOID]]])
    logits = torch.tensor([1.0, 4.0, 5.0]).log()[None, :, None, None].repeat(1, 1, 1, 3)
    probability, truth = class_maps(*check_inputs(logits, target, VOID))
    torch.testing.assert_close(
        probability[0, :, 0], torch.tensor([[0.1, 0.1, 0], [0.4, 0.4, 0], [0.5, 0.5, 0]])
    )
    assert truth[0, :, 0].tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_a_choice_that_is_none_is_told_which_there_are() -> None:
    check_choice("norm", 2, (1, 2))
    with pytest.raises(ValueError, match=r"^Expected norm to be one of 1, 2 but got 3\.$"):
        check_choice("norm", 3, (1, 2))


def test_a_batch_without_images_is_no_error() -> None:
    logits, target, valid = check_inputs(torch.zeros(0, 3, 4, 5), torch.zeros(0, 4, 5).long(), VOID)
    assert logits.shape == (0, 3, 4, 5)
    assert target.shape == valid.shape == (0, 4, 5)
