from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor

from segfix.losses import SegFixLoss, segfix_loss, wrong_label_loss

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture
def batch() -> Batch:
    """Random logits, none near the threshold 0, and targets with void and undefined pixels."""
    generator = torch.Generator().manual_seed(0)
    boundary_logits = torch.randn(2, 1, 5, 6, generator=generator)
    boundary_logits += 0.1 * boundary_logits.sign()
    direction_logits = torch.randn(2, 8, 5, 6, generator=generator)
    boundary = torch.randint(0, 2, (2, 5, 6), generator=generator)
    direction = torch.randint(0, 8, (2, 5, 6), generator=generator)
    direction[:, :, 2] = 255
    boundary[:, 1], direction[:, 1] = 255, 255
    return boundary_logits, direction_logits, boundary, direction


def row_of_pixels() -> Batch:
    """Five pixels in a row, m = 4, with logits whose losses are logarithms of fractions."""
    boundary_logits = torch.tensor([log(3), -log(3), log(3), 5.0, log(3)]).view(1, 1, 1, 5)
    direction_logits = torch.zeros(1, 4, 1, 5)
    direction_logits[0, 2, 0, 0] = log(5)  # sector 2 of the first pixel: 5 / (5 + 3)
    boundary = torch.tensor([1, 1, 0, 255, 1]).view(1, 1, 5)
    direction = torch.tensor([2, 0, 1, 255, 1]).view(1, 1, 5)
    return boundary_logits, direction_logits, boundary, direction


def values(losses: tuple[Tensor, Tensor]) -> list[float]:
    return [loss.item() for loss in losses]


def test_losses_equal_those_derived_by_hand() -> None:
    boundary_loss, direction_loss = segfix_loss(*row_of_pixels())
    # Right with probability 3/4, 1/4, 1/4, void, 3/4.
    assert float(boundary_loss) == pytest.approx((2 * log(4 / 3) + 2 * log(4)) / 4)
    # Counted: pixels 0, 2 and 4; pixel 1 is not predicted boundary, pixel 3 is void.
    assert float(direction_loss) == pytest.approx((log(8 / 5) + 2 * log(4)) / 3)


def test_class_weights_equal_those_derived_by_hand() -> None:
    boundary_loss, direction_loss = segfix_loss(*row_of_pixels(), class_weights=True)
    # Three of four valid pixels are boundary; of three sectors one is 2 and two are 1.
    positive, negative = 1 - 3 / 4, 3 / 4
    assert float(boundary_loss) == pytest.approx(
        (positive * (2 * log(4 / 3) + log(4)) + negative * log(4)) / 4
    )
    assert float(direction_loss) == pytest.approx((2 / 3 * log(8 / 5) + 2 * 1 / 3 * log(4)) / 3)


def test_one_pixel_is_its_own_mean() -> None:
    logits = torch.full((1, 1, 1, 1), log(3)), torch.zeros(1, 4, 1, 1)
    target = torch.ones(1, 1, 1, dtype=torch.int64)
    assert values(segfix_loss(*logits, target, target)) == pytest.approx([log(4 / 3), log(4)])
    # Every class and every sector there is has a share of 1, and so a weight of 0.
    assert values(segfix_loss(*logits, target, target, class_weights=True)) == [0.0, 0.0]


def test_a_pixel_is_predicted_boundary_above_a_probability_of_a_half() -> None:
    boundary_logits = torch.tensor([0.01, 0.0, -0.01]).view(1, 1, 1, 3)
    direction_logits = torch.zeros(1, 4, 1, 3)
    direction_logits[0, 2] = log(5)
    direction = torch.tensor([2, 1, 1]).view(1, 1, 3)
    losses = segfix_loss(boundary_logits, direction_logits, torch.ones_like(direction), direction)
    assert float(losses[1]) == pytest.approx(log(8 / 5))


def test_perfect_logits_cost_nothing() -> None:
    boundary = torch.tensor([[[1, 0], [1, 0]]])
    direction = torch.tensor([[[3, 255], [0, 255]]])
    boundary_logits = torch.where(boundary == 1, 200.0, -200.0)[:, None]
    sectors = torch.nn.functional.one_hot(direction.clamp(max=7), 8).movedim(-1, 1)
    losses = segfix_loss(boundary_logits, 200.0 * sectors, boundary, direction)
    assert values(losses) == [0.0, 0.0]


@pytest.mark.parametrize("class_weights", [False, True])
def test_gradients_agree_with_finite_differences_in_float64(
    batch: Batch, class_weights: bool
) -> None:
    part = [values[:1, ..., :3, :4] for values in batch]
    loss = SegFixLoss(class_weights=class_weights)

    def total(boundary_logits: Tensor, direction_logits: Tensor) -> Tensor:
        boundary_loss, direction_loss = loss(boundary_logits, direction_logits, *part[2:])
        return torch.as_tensor(boundary_loss + 2 * direction_loss)

    assert total(*part[:2]) > 0
    inputs = tuple(logits.double().requires_grad_() for logits in part[:2])
    assert torch.autograd.gradcheck(total, inputs)


@pytest.mark.parametrize("class_weights", [False, True])
def test_logits_at_void_pixels_change_nothing(batch: Batch, class_weights: bool) -> None:
    before = segfix_loss(*batch, class_weights=class_weights)
    void = (batch[2] == 255)[:, None]
    for boundary_value, direction_value in ((50.0, -7.0), (-50.0, 30.0)):
        changed = segfix_loss(
            batch[0].masked_fill(void, boundary_value),
            batch[1].masked_fill(void.expand_as(batch[1]), direction_value),
            *batch[2:],
            class_weights=class_weights,
        )
        assert values(changed) == values(before)


def test_void_pixels_of_the_boundary_count_in_no_direction(batch: Batch) -> None:
    with_sectors = batch[3].masked_fill(batch[2] == 255, 3)
    changed = segfix_loss(*batch[:3], with_sectors)
    assert changed[1] == segfix_loss(*batch)[1]


def test_direction_counts_only_inside_the_predicted_boundary(batch: Batch) -> None:
    boundary_logits, direction_logits, boundary, direction = batch
    before = segfix_loss(*batch)[1]
    outside = boundary_logits <= 0
    inside = ~outside & (direction != 255)[:, None]
    ramp = torch.arange(8.0)[:, None, None]
    changed = segfix_loss(boundary_logits, direction_logits + outside * ramp, boundary, direction)
    assert changed[1] == before
    changed = segfix_loss(boundary_logits, direction_logits + inside * ramp, boundary, direction)
    assert changed[1] != before


def test_direction_counts_wherever_predicted_whatever_the_true_boundary(batch: Batch) -> None:
    interior = torch.where(batch[2] == 1, 0, batch[2])
    changed = segfix_loss(*batch[:2], interior, batch[3])
    assert changed[1] == segfix_loss(*batch)[1]
    assert changed[0] != segfix_loss(*batch)[0]


@pytest.mark.parametrize("class_weights", [False, True])
def test_without_a_valid_pixel_both_losses_are_zeros_with_a_gradient(
    batch: Batch, class_weights: bool
) -> None:
    boundary_logits, direction_logits = (logits.requires_grad_() for logits in batch[:2])
    void = torch.full_like(batch[2], 255)
    losses = segfix_loss(boundary_logits, direction_logits, void, void, class_weights=class_weights)
    assert values(losses) == [0.0, 0.0]
    torch.autograd.backward(losses)
    for logits in (boundary_logits, direction_logits):
        assert logits.grad is not None
        assert not logits.grad.any()


@pytest.mark.parametrize("class_weights", [False, True])
def test_without_predicted_boundary_the_direction_loss_is_a_zero_with_a_gradient(
    batch: Batch, class_weights: bool
) -> None:
    direction_logits = batch[1].requires_grad_()
    losses = segfix_loss(-batch[0].abs(), direction_logits, *batch[2:], class_weights=class_weights)
    assert losses[0] > 0
    assert losses[1] == 0
    torch.autograd.backward(losses[1])
    assert direction_logits.grad is not None
    assert not direction_logits.grad.any()


@pytest.mark.parametrize("class_weights", [False, True])
def test_module_equals_function(batch: Batch, class_weights: bool) -> None:
    module = SegFixLoss(class_weights=class_weights)
    expected = segfix_loss(*batch, class_weights=class_weights)
    assert values(module(*batch)) == values(expected)
    assert SegFixLoss().class_weights is False


@pytest.mark.parametrize("class_weights", [False, True])
def test_bytes_as_targets_equal_long_integers(batch: Batch, class_weights: bool) -> None:
    as_bytes = segfix_loss(
        *batch[:2], batch[2].byte(), batch[3].byte(), class_weights=class_weights
    )
    expected = segfix_loss(*batch, class_weights=class_weights)
    assert values(as_bytes) == values(expected)


@pytest.mark.parametrize("class_weights", [False, True])
def test_half_precision_under_autocast_is_computed_in_float32(
    batch: Batch, class_weights: bool
) -> None:
    boundary_logits, direction_logits = batch[0].bfloat16(), batch[1].bfloat16()
    loss = SegFixLoss(class_weights=class_weights)
    expected = loss(boundary_logits.float(), direction_logits.float(), *batch[2:])
    with torch.autocast("cpu", torch.bfloat16):
        losses = loss(boundary_logits, direction_logits, *batch[2:])
    assert [loss.dtype for loss in losses] == [torch.float32, torch.float32]
    assert values(losses) == values(expected)


def test_direction_counts_where_asked_for_as_well(batch: Batch) -> None:
    boundary_logits, direction_logits, boundary, direction = batch
    nowhere = torch.full_like(boundary_logits, -9)
    counted = torch.zeros_like(boundary, dtype=torch.bool)
    counted[0, 0, 0] = counted[0, 0, 2] = True  # of which the second is undefined
    loss = segfix_loss(nowhere, direction_logits, boundary, direction, counted=counted)[1]
    sectors = direction_logits[0, :, 0, 0].log_softmax(0)
    torch.testing.assert_close(loss, -sectors[int(direction[0, 0, 0])])


def test_what_is_wrong_costs_its_cross_entropy_near_boundaries_and_where_it_is_wrong() -> None:
    logits = torch.tensor([log(3), -log(3), 0.0, 0.0, 7.0]).view(1, 1, 1, 5)
    wrong = torch.tensor([[[1, 0, 1, 0, 255]]], dtype=torch.uint8)
    # The third is far and wrong, the fourth far and right, the last unknown.
    distance = torch.tensor([[[8, 96, 97, 97, 8]]], dtype=torch.uint8)
    expected = (2 * log(4 / 3) + log(2)) / 3
    assert wrong_label_loss(logits, wrong, distance).item() == pytest.approx(expected)


def test_without_a_prediction_the_loss_is_a_zero_with_a_gradient() -> None:
    logits = torch.randn(1, 1, 3, 3, requires_grad=True)
    nothing = torch.full((1, 3, 3), 255, dtype=torch.uint8)
    loss = wrong_label_loss(logits, nothing, nothing)
    torch.autograd.backward(loss)
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_gradient_of_what_is_wrong_agrees_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    wrong = torch.randint(0, 2, (2, 4, 4), generator=generator, dtype=torch.uint8)
    wrong[:, 0] = 255
    distance = torch.randint(8, 200, (2, 4, 4), generator=generator).to(torch.uint8)
    assert torch.autograd.gradcheck(lambda x: wrong_label_loss(x, wrong, distance), (logits,))


def test_what_is_wrong_is_computed_in_float32_under_autocast() -> None:
    logits = torch.full((1, 1, 2, 2), 9.0, dtype=torch.bfloat16)
    one = torch.ones(1, 2, 2, dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        loss = wrong_label_loss(logits, one, 8 * one)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1.2340e-4, rel=1e-3)
