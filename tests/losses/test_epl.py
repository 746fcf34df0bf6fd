"""Contour-aware equipotential learning against loops and examples drawn by hand."""

from __future__ import annotations

from functools import partial
from math import exp
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segfix.losses import (
    EPLLineLoss,
    EPLLoss,
    EPLPointLoss,
    epl_line_loss,
    epl_loss,
    epl_point_loss,
)
from segfix.losses.epl_lines import _kth_values_padded, closeness, kth_values
from tests.losses.epl_reference import (
    BLOCK,
    EDGE,
    ENERGIES,
    SPLITTERS,
    VOID,
    WINDOWS,
    Direction,
    columns,
    counted,
    energy,
    line_reference,
    one_hot,
    point_reference,
    released_reference,
    softmax,
)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Float64 logits of four classes; blocks with void, the second image lacking two classes."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, 4, 8, 9, generator=generator, dtype=torch.float64)
    target = torch.zeros(3, 8, 9, dtype=torch.int64)
    target[0, 2:6, 3:8] = 1
    target[0, 5:, :2] = 2
    target[0, 0, 7:] = VOID
    target[1, :, 5:] = 3
    target[1, 3:, 6] = 0
    target[1, 7, 0] = VOID
    target[2] = torch.randint(0, 4, (8, 9), generator=generator)
    return logits, target


# The tests' own energies, before anything is compared with them.


@pytest.mark.parametrize("direction", list(ENERGIES))
def test_reference_energies_are_those_drawn(direction: Direction) -> None:
    block = np.array(BLOCK)
    rays = counted(block, direction, 5)
    assert {pixel: energy(block, ray, direction) for pixel, ray in rays.items()} == {
        (y, x): ENERGIES[direction][y][x] for y in range(5) for x in range(5)
    }


def test_reference_boxes_are_those_drawn() -> None:
    block = np.array(BLOCK)
    for (y, x), ray in counted(block, None, 5).items():
        assert energy(block, ray, None) == pytest.approx(3 / 25 * WINDOWS[y][x])


# Point loss.


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("splitter", ["A", "B", "C"])
def test_point_loss_of_a_missed_block_is_the_sum_of_its_energies(splitter: str, norm: int) -> None:
    target = torch.tensor([BLOCK])
    missed = one_hot(torch.zeros_like(target), 2)
    directions = SPLITTERS[splitter]
    # Either class is wrong by the block's energy at every pixel.
    total = sum(2 * e**norm for s in directions for line in ENERGIES[s] for e in line)
    options: dict[str, Any] = {"width": 5, "splitter": splitter, "norm": norm}
    mean = epl_point_loss(missed, target, **options)
    assert float(mean) == pytest.approx(total / (2 * len(directions) * 25))
    literal = epl_point_loss(missed, target, **options, pixels="sum")
    assert float(literal) == pytest.approx(total / len(directions))


@pytest.mark.parametrize("norm", [1, 2])
def test_point_loss_of_boxes_is_the_sum_of_their_energies(norm: int) -> None:
    target = torch.tensor([BLOCK])
    missed = one_hot(torch.zeros_like(target), 2)
    total = sum(2 * (3 / 25 * count) ** norm for line in WINDOWS for count in line)
    loss = epl_point_loss(missed, target, width=5, splitter="plain", norm=norm)
    assert float(loss) == pytest.approx(total / 50)


def test_point_loss_counts_only_rays_without_void() -> None:
    target = torch.tensor([[[1, 0, VOID, 0, 1]]])
    missed = one_hot(torch.zeros(1, 1, 5, dtype=torch.int64), 2)
    # Width 3. Up and down stay on their pixel, counted at four, energy 2 at both ends; left and
    # right are counted three times each: energies 2, 1 and 1, and their mirror image.
    total = 2 * (2 * (2 + 2) + (2 + 1 + 1) + (1 + 1 + 2))
    loss = epl_point_loss(missed, target, width=3, norm=1)
    assert float(loss) == pytest.approx(total / (2 * (4 + 4 + 3 + 3)))
    literal = epl_point_loss(missed, target, width=3, norm=1, pixels="sum")
    assert float(literal) == pytest.approx(total / 4)


@pytest.mark.parametrize("pixels", ["mean", "sum"])
@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("width", [3, 5, 7])
@pytest.mark.parametrize("splitter", list(SPLITTERS))
def test_point_loss_equals_loops_over_pixels(
    batch: tuple[Tensor, Tensor], splitter: Any, width: int, norm: Any, pixels: Any
) -> None:
    loss = epl_point_loss(*batch, width=width, splitter=splitter, norm=norm, pixels=pixels)
    assert loss.dtype == torch.float64
    expected = point_reference(*batch, width, splitter, norm, pixels)
    assert float(loss) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("splitter", list(SPLITTERS))
def test_a_perfect_prediction_costs_no_points(batch: tuple[Tensor, Tensor], splitter: Any) -> None:
    target = batch[1]
    logits = one_hot(target.masked_fill(target == VOID, 0), 4)
    assert epl_point_loss(logits, target, splitter=splitter) < 1e-6


# Line loss.


def test_line_loss_equals_algorithm_1_by_hand() -> None:
    # Width 3: one line, the column beside the edge. Both sides rank it rightly, where the energy
    # is 1.1 for class 1 and 0.9 for class 0; up and down have no line.
    logits = columns(0.1, 0.2, 0.3, 0.8, 0.9)
    d_hat = exp(-(0.1**2))
    expected = 1 - 2 * d_hat / (1 + d_hat)
    loss = epl_line_loss(logits, EDGE, width=3, power=2)
    assert float(loss) == pytest.approx(expected, rel=1e-9)
    # Two classes × two directions, over four directions.
    literal = epl_line_loss(logits, EDGE, width=3, power=2, lines="sum")
    assert float(literal) == pytest.approx(expected, rel=1e-9)


def test_line_loss_is_1_where_the_regions_are_disjoint() -> None:
    # Energies of class 1 to the right: 0.8 1.0 0.7 1.3 1.8; the third column by rank is column 1.
    logits = columns(0.1, 0.7, 0.3, 0.4, 0.9)
    assert float(epl_line_loss(logits, EDGE, width=3, power=2)) == pytest.approx(1)


def test_ties_at_the_ends_of_the_region_are_all_in_it() -> None:
    # Every energy is 1, so that the predicted region is the image: 5 pixels of 25 overlap.
    logits = torch.zeros(1, 2, 5, 5)
    loss = epl_line_loss(logits, EDGE, width=3)
    assert float(loss) == pytest.approx(1 - 2 * 5 / (5 + 25))


def test_the_mean_of_one_line_is_that_line() -> None:
    # Void leaves one box, of 3×3: 5 pixels of class 0, 2 of either other. Energies are 2/9 of
    # these, so that only class 0 has a line.
    target = torch.full((1, 5, 5), VOID)
    target[0, 1:4, 1:4] = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 2, 2]])
    d, d_hat = exp(-((10 / 9 - 1) ** 2)), exp(-((6 / 9 - 1) ** 2))
    loss = epl_line_loss(torch.zeros(1, 3, 5, 5), target, width=3, splitter="plain", power=2)
    assert float(loss) == pytest.approx(1 - 2 * d_hat / (d + d_hat))


def test_line_matching_sees_what_region_matching_does_not() -> None:
    # Width 5: energies of class 1 to the right are 0.9 1.6 1.4 1.9 1.8, truly 0 1 2 3 3: the
    # region is right, its two lines are swapped. So it is to the left, and for class 0.
    logits = columns(1e-12, 0.8, 0.1, 0.7, 0.6)
    d, d_hat = (1, exp(-1)), (exp(-(0.6**2)), exp(-(0.4**2)))
    scale = (d[0] + d[1]) / (d[0] ** 2 + d[1] ** 2)
    overlap = d[0] * d_hat[0] + d[1] * d_hat[1]
    expected = 1 - 2 * scale * overlap / (d[0] + d[1] + d_hat[0] + d_hat[1])
    loss = epl_line_loss(logits, EDGE, width=5, power=2)
    assert float(loss) == pytest.approx(expected, rel=1e-9)
    # Two classes × two directions × two lines, over four directions.
    literal = epl_line_loss(logits, EDGE, width=5, power=2, lines="sum")
    assert float(literal) == pytest.approx(2 * expected, rel=1e-9)
    assert float(epl_line_loss(logits, EDGE, width=5, power=2, match="lines")) == pytest.approx(1)


@pytest.mark.parametrize("lines", ["mean", "sum"])
@pytest.mark.parametrize("match", ["region", "lines"])
@pytest.mark.parametrize("width", [3, 5, 7])
@pytest.mark.parametrize("splitter", list(SPLITTERS))
def test_line_loss_equals_loops_over_pixels(
    batch: tuple[Tensor, Tensor], splitter: Any, width: int, match: Any, lines: Any
) -> None:
    for power in (2, 10):
        loss = epl_line_loss(
            *batch, width=width, splitter=splitter, power=power, match=match, lines=lines
        )
        expected = line_reference(*batch, width, splitter, power, match, lines)
        assert expected > 0
        assert float(loss) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("match", ["region", "lines"])
@pytest.mark.parametrize("splitter", list(SPLITTERS))
def test_a_perfect_prediction_costs_no_lines(
    batch: tuple[Tensor, Tensor], splitter: Any, match: Any
) -> None:
    target = batch[1]
    logits = one_hot(target.masked_fill(target == VOID, 0), 4).double()
    for width in (3, 7, 11):
        loss = epl_line_loss(logits, target, width=width, splitter=splitter, match=match)
        assert float(loss) == pytest.approx(0, abs=1e-9)


def test_an_image_of_one_class_has_no_lines() -> None:
    logits = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = epl_line_loss(logits, torch.ones(1, 6, 6, dtype=torch.int64))
    assert loss == 0
    torch.autograd.backward(loss)
    assert logits.grad is not None
    assert not logits.grad.any()


# Both.


@pytest.mark.parametrize("summed", ["mean", "sum"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_epl_loss_is_the_weighted_sum(
    batch: tuple[Tensor, Tensor], reduction: Any, summed: Any
) -> None:
    common: dict[str, Any] = {"width": 5, "splitter": "C", "reduction": reduction}
    points = {"norm": 1, "pixels": summed, **common}
    lines = {"power": 4, "match": "lines", "lines": summed, **common}
    loss = epl_loss(*batch, point_weight=0.3, line_weight=0.7, **(points | lines))
    point = epl_point_loss(*batch, **points)
    line = epl_line_loss(*batch, **lines)
    assert float(loss) == pytest.approx(float(0.3 * point + 0.7 * line), rel=1e-12)


def test_modules_equal_functions(batch: tuple[Tensor, Tensor]) -> None:
    point: dict[str, Any] = {"width": 5, "splitter": "B", "norm": 1, "reduction": "sum"}
    assert EPLPointLoss(**point)(*batch) == epl_point_loss(*batch, **point)
    line: dict[str, Any] = {"width": 5, "splitter": "B", "power": 4, "match": "lines"}
    assert EPLLineLoss(**line)(*batch) == epl_line_loss(*batch, **line)
    both = {**point, **line, "point_weight": 0.5, "line_weight": 0.25}
    assert EPLLoss(**both)(*batch) == epl_loss(*batch, **both)


def test_defaults_are_those_of_the_paper(batch: tuple[Tensor, Tensor]) -> None:
    assert epl_point_loss(*batch) == epl_point_loss(*batch, width=7, splitter="A", pixels="mean")
    expected = epl_line_loss(*batch, width=7, splitter="A", power=10, match="region", lines="mean")
    assert epl_line_loss(*batch) == expected
    assert epl_point_loss(*batch, norm=2) == epl_point_loss(*batch)
    both = 0.1 * epl_point_loss(*batch) + 0.2 * expected
    torch.testing.assert_close(epl_loss(*batch), both)
    for module, loss in ((EPLPointLoss, epl_point_loss), (EPLLineLoss, epl_line_loss)):
        assert module()(*batch) == loss(*batch)
    assert EPLLoss()(*batch) == epl_loss(*batch)
    # Algorithm 1 sums over the lines, and λ2 is 0.01 (Section IV-B).
    summed = 0.1 * epl_point_loss(*batch) + 0.01 * epl_line_loss(*batch, lines="sum")
    torch.testing.assert_close(epl_loss(*batch, lines="sum"), summed)


def test_closeness_is_a_float32_far_from_the_line_too() -> None:
    for power in (2, 10):
        far = closeness(torch.tensor([6.0, 1e6]), 1, power)
        assert (far.square() > 0).all()
        assert (far[1] < 1e-16).all()
    near = closeness(torch.tensor([1.0, 2.0, 0.0, 1.5]), 1, 2)
    torch.testing.assert_close(near, torch.tensor([1, exp(-1), exp(-1), exp(-0.25)]))


@pytest.mark.parametrize("kth", [kth_values, _kth_values_padded])
def test_values_of_a_rank_are_those_of_the_sorted_rows(kth: Any) -> None:
    generator = torch.Generator().manual_seed(6)
    rows = torch.randint(0, 9, (5, 12), generator=generator).double()  # with ties
    rows[1, 3:] = torch.inf
    ranks = torch.randint(0, 12, (5, 4), generator=generator)
    ranks[0, 0], ranks[1, 0], ranks[2, 1] = 0, 11, 11
    ranks[3] = torch.tensor([5, 5, 0, 11])
    for dtype in (torch.float32, torch.float64):
        expected = rows.to(dtype).sort(dim=1).values.gather(1, ranks)
        assert torch.equal(kth(rows.to(dtype), ranks), expected)
        assert torch.equal(kth(rows.to(dtype), ranks[:, :1]), expected[:, :1])
    for nothing in (rows[:0], rows[:0, :1]):
        assert kth(nothing, ranks[:0]).shape == (0, 4)


def squares() -> Tensor:
    """(3, 12, 11) labels: a square, one cut by another class, one class alone."""
    target = torch.zeros(3, 12, 11, dtype=torch.int64)
    target[:, 3:9, 2:10], target[1, :, 5:], target[2] = 1, 2, 1
    return target


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (squares(), {"width": 3, "power": 2}),
        (squares(), {"width": 5, "power": 4, "norm": 1}),
        (squares(), {"width": 7, "power": 10}),
        (squares(), {"width": 3, "power": 2, "splitter": "C"}),
        (squares(), {"width": 5, "power": 2, "splitter": "plain"}),
        # Every box holds 9 of 25: no line at 2.
        (torch.zeros(1, 3, 3, dtype=torch.int64), {"width": 5, "power": 2, "splitter": "plain"}),
    ],
)
def test_released_form_equals_loops_over_pixels(target: Tensor, options: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(options["width"])
    shape = (len(target), 3, *target.shape[1:])
    logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    truth = (one_hot(target, 3) / 200).double().numpy()
    expected = {"splitter": "A", "norm": 2, **options}
    point, line = released_reference(softmax(logits), truth, **expected)
    loss = partial(epl_loss, logits, target, released=True, **options)
    assert loss().item() == pytest.approx(0.02 * point + 0.2 * line)
    assert loss(point_weight=3.0, line_weight=0.0).item() == pytest.approx(3 * point)


def test_released_form_without_a_valid_pixel_is_zero() -> None:
    logits = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    assert epl_loss(logits, torch.full((1, 12, 12), VOID), released=True) == 0


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["float32", "float16", "bfloat16"]
)
@pytest.mark.parametrize("match", ["region", "lines"])
@pytest.mark.parametrize("sure", [0.0, 1.0, 30.0])
def test_power_10_at_width_13_overflows_nowhere(
    dtype: torch.dtype, autocast: bool, sure: float, match: Any
) -> None:
    generator = torch.Generator().manual_seed(2)
    target = torch.zeros(1, 14, 15, dtype=torch.int64)
    target[0, 4:, 3:9] = 1
    logits = (sure * torch.randn(1, 3, 14, 15, generator=generator)).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = epl_loss(
            logits, target, width=13, splitter="C", power=10, line_weight=1.0, match=match
        )
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    torch.autograd.backward(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("splitter", ["C", "plain"])
def test_gradients_of_points_agree_with_finite_differences(
    batch: tuple[Tensor, Tensor], splitter: Any, norm: Any
) -> None:
    logits = batch[0][:1, :, :4, 4:8].clone().requires_grad_()
    target = batch[1][:1, :4, 4:8]

    def loss(values: Tensor) -> Tensor:
        return epl_point_loss(values, target, width=5, splitter=splitter, norm=norm)

    assert torch.autograd.gradcheck(loss, (logits,))


@pytest.mark.parametrize("match", ["region", "lines"])
@pytest.mark.parametrize("splitter", ["C", "plain"])
def test_gradients_of_lines_agree_with_finite_differences(
    batch: tuple[Tensor, Tensor], splitter: Any, match: Any
) -> None:
    # Random energies: none are tied, so that no pixel enters a region under a small change.
    logits = batch[0][:1, :, :5, 3:7].clone().requires_grad_()
    target = batch[1][:1, :5, 3:7]

    def loss(values: Tensor) -> Tensor:
        return epl_line_loss(values, target, width=5, splitter=splitter, power=2, match=match)

    assert torch.autograd.gradcheck(loss, (logits,))
    torch.autograd.backward(loss(logits))
    assert logits.grad is not None
    assert logits.grad.any()


def test_gradients_of_the_released_form_agree_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(1, 3, 5, 6, generator=generator, dtype=torch.float64).requires_grad_()
    target = torch.zeros(1, 5, 6, dtype=torch.int64)
    target[0, 1:4, 2:5] = 1

    def loss(values: Tensor) -> Tensor:
        return epl_loss(values, target, width=5, power=2, released=True)

    assert torch.autograd.gradcheck(loss, (logits,))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"width": 6}, "an odd width of 3 or more but got 6"),
        ({"width": 1}, "an odd width of 3 or more but got 1"),
        ({"splitter": "D"}, "splitter to be one of 'A', 'B', 'C', 'plain' but got 'D'"),
        ({"norm": 3}, "norm to be one of 1, 2 but got 3"),
        ({"power": 9}, "an even power μ of 2 or more but got 9"),
        ({"power": 0}, "an even power μ of 2 or more but got 0"),
        ({"match": "points"}, "match to be one of 'region', 'lines' but got 'points'"),
        ({"reduction": "max"}, "reduction to be one of 'mean', 'sum', 'none' but got 'max'"),
        ({"pixels": "none"}, "pixels to be one of 'mean', 'sum' but got 'none'"),
        ({"lines": "none"}, "lines to be one of 'mean', 'sum' but got 'none'"),
    ],
)
def test_wrong_options_say_what_was_found(
    batch: tuple[Tensor, Tensor], options: dict[str, Any], told: str
) -> None:
    (name,) = options
    losses = [partial(epl_loss, released=released) for released in (False, True)]
    if name in ("match", "reduction", "pixels", "lines"):  # the released form has one of each
        losses.pop()
    losses += [partial(epl_point_loss)] if name not in ("power", "match", "lines") else []
    losses += [partial(epl_line_loss)] if name not in ("norm", "pixels") else []
    for loss in losses:
        with pytest.raises(ValueError, match=f"^Expected {told}\\.$"):
            loss(*batch, **options)


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, "point_weight=0.1, line_weight=0.2"),
        ({"lines": "sum"}, "point_weight=0.1, line_weight=0.01"),
        ({"released": True}, "point_weight=0.02, line_weight=0.2"),
        ({"line_weight": 0.5}, "point_weight=0.1, line_weight=0.5"),
    ],
)
def test_the_module_shows_the_weights_in_force(options: dict[str, Any], weights: str) -> None:
    assert weights in repr(EPLLoss(**options))
