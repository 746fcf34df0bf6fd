from __future__ import annotations

from math import atan, exp, log, pi
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from segfix.losses import LevelSetLoss, level_set_loss
from segfix.losses.level_set import HEAVISIDES, LEVEL_SET_WEIGHT

EPSILON = 0.05
VOID = 255


def softmax(logits: Tensor) -> NDArray[np.float64]:
    """(N, C, H, W) probabilities in float64."""
    values = logits.detach().double().numpy()
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def step(heaviside: str, phi: float) -> float:
    if heaviside == "mahf":
        return 1 / (1 + exp(-2 * phi / EPSILON))
    if heaviside == "ahf":
        return 0.5 * (1 + 2 / pi * atan(phi / EPSILON))
    return float(phi >= 0)


def slope(heaviside: str, phi: float) -> float:
    """The derivative of the step: eq. 7's δ for "mahf"."""
    if heaviside == "mahf":
        tanh = np.tanh(phi / EPSILON)
        return float((1 - tanh) * (1 + tanh) / (2 * EPSILON))
    if heaviside == "ahf":
        return 1 / (pi * EPSILON * (1 + (phi / EPSILON) ** 2))
    return 0.0


def reference(
    logits: Tensor, target: Tensor, heaviside: str, pixels: str
) -> tuple[float, NDArray[np.float64]]:
    """The loss and its gradient by the probabilities (eq. 7), pixel by pixel."""
    preds, labels = softmax(logits), target.numpy()
    batch, classes, height, width = preds.shape
    gradient = np.zeros_like(preds)
    total = 0.0
    for n in range(batch):
        energy = 0.0
        known = [(y, x) for y in range(height) for x in range(width) if labels[n, y, x] != VOID]
        for k in range(classes):
            if not any(labels[n, y, x] == k for y, x in known):
                continue
            inside = outside = true_inside = true_outside = 0.0
            for y, x in known:
                share, true = step(heaviside, preds[n, k, y, x] - 0.5), labels[n, y, x] == k
                inside += share
                outside += 1 - share
                true_inside += share * true
                true_outside += (1 - share) * true
            c1 = true_inside / inside if inside else 0.0
            c2 = true_outside / outside if outside else 0.0
            for y, x in known:
                phi, true = preds[n, k, y, x] - 0.5, float(labels[n, y, x] == k)
                share = step(heaviside, phi)
                energy += (true - c1) ** 2 * share + (true - c2) ** 2 * (1 - share)
                force = (true - c1) ** 2 - (true - c2) ** 2
                gradient[n, k, y, x] = slope(heaviside, phi) * force
        divisor = batch * ((len(known) or 1) if pixels == "mean" else 1)
        total += energy / divisor
        gradient[n] /= divisor
    return total, gradient


def through_softmax(preds: NDArray[np.float64], by_preds: NDArray[np.float64]) -> Tensor:
    """The gradient by the logits, from the one by the probabilities."""
    by_logits = np.zeros_like(preds)
    batch, classes, height, width = preds.shape
    for n in range(batch):
        for y in range(height):
            for x in range(width):
                p, g = preds[n, :, y, x], by_preds[n, :, y, x]
                for k in range(classes):
                    by_logits[n, k, y, x] = p[k] * (g[k] - sum(p[j] * g[j] for j in range(classes)))
    return torch.from_numpy(by_logits)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Float64 logits of four classes, of which the images lack some, and targets with void."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, 4, 5, 6, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 3, (3, 5, 6), generator=generator)
    target[1] = 3 * (target[1] > 0)
    target[0, 1:3, 2:] = VOID
    target[2, :4] = VOID
    return logits, target


def row(*class_1: float) -> Tensor:
    """(1, 2, 1, W) logits in float64 with these probabilities of class 1."""
    preds = torch.tensor(class_1, dtype=torch.float64)
    return torch.stack((1 - preds, preds)).log()[None, :, None]


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Logits that are sure of these labels."""
    return 200.0 * torch.nn.functional.one_hot(labels, classes).movedim(-1, 1)


def test_steps_are_those_of_the_paper() -> None:
    phi = torch.tensor([-0.25, 0.0, 0.25], dtype=torch.float64)
    soft = [(1 + np.tanh(z)) / 2 for z in (-1, 0, 1)]
    assert HEAVISIDES["mahf"](phi, 0.25).tolist() == pytest.approx(soft)
    assert HEAVISIDES["ahf"](phi, 0.25).tolist() == pytest.approx([1 / 4, 1 / 2, 3 / 4])
    assert HEAVISIDES["hf"](phi, 0.25).tolist() == [0, 1, 1]


def test_hard_step_equals_the_energy_derived_by_hand() -> None:
    logits, target = row(0.9, 0.2, 0.4, 0.3), torch.tensor([[[1, 1, 0, 0]]])
    # Class 1: inside only pixel 0, c1 = 1; c2 = 1/3 of three pixels. Class 0 mirrors it.
    energy = 2 * ((2 / 3) ** 2 + 2 * (1 / 3) ** 2)
    assert float(level_set_loss(logits, target, heaviside="hf")) == pytest.approx(energy / 4)
    total = level_set_loss(logits, target, heaviside="hf", pixels="sum")
    assert float(total) == pytest.approx(energy)


def test_hard_step_counts_a_half_as_inside() -> None:
    logits, target = torch.zeros(1, 2, 1, 2), torch.tensor([[[1, 0]]])
    # Both pixels are inside both classes: c1 = 1/2, and no pixel is outside.
    assert level_set_loss(logits, target, heaviside="hf", pixels="sum") == 1.0


def test_hard_step_counts_a_half_as_inside_not_outside() -> None:
    # Of three classes, so that what one class takes in the other does not leave out.
    preds = torch.tensor([[0.5, 0.1, 0.1], [0.5, 0.8, 0.1], [0.0, 0.1, 0.8]], dtype=torch.float64)
    logits = preds.log().clamp(min=-300)[None, :, None]
    target = torch.tensor([[[1, 1, 2]]])
    # Inside class 1 are its two pixels, inside class 2 its one.
    assert level_set_loss(logits, target, heaviside="hf") == 0


@pytest.mark.parametrize(("heaviside", "epsilon"), [("mahf", 0.5 / log(3)), ("ahf", 0.25)])
def test_soft_steps_equal_the_energy_derived_by_hand(heaviside: Any, epsilon: float) -> None:
    logits, target = row(0.75, 0.25), torch.tensor([[[1, 0]]])
    # At these ε, H = P: c1 = 3/4 and c2 = 1/4 for either class.
    energy = 2 * 2 * (3 / 4 * (1 / 4) ** 2 + 1 / 4 * (3 / 4) ** 2)
    loss = level_set_loss(logits, target, heaviside=heaviside, epsilon=epsilon)
    assert float(loss) == pytest.approx(energy / 2)
    total = level_set_loss(logits, target, heaviside=heaviside, epsilon=epsilon, pixels="sum")
    assert float(total) == pytest.approx(energy)


def test_void_and_absent_classes_leave_the_energy_derived_by_hand() -> None:
    logits = torch.nn.functional.pad(row(0.75, 0.6, 0.25), (0, 0, 0, 0, 0, 1), value=-300.0)
    target = torch.tensor([[[1, VOID, 0]]])
    assert float(level_set_loss(logits, target, epsilon=0.5 / log(3))) == pytest.approx(3 / 8)


def test_defaults_are_those_of_the_paper(batch: tuple[Tensor, Tensor]) -> None:
    expected = level_set_loss(*batch, heaviside="mahf", epsilon=1 / 20, pixels="mean")
    assert level_set_loss(*batch) == expected
    assert LevelSetLoss()(*batch) == expected
    # 0.67 in the text for the sum over the 41×41 pixels of a network's output.
    assert pytest.approx(4e-4 * 41**2, abs=5e-3) == LEVEL_SET_WEIGHT


@pytest.mark.parametrize("pixels", ["mean", "sum"])
@pytest.mark.parametrize("heaviside", HEAVISIDES)
def test_loss_equals_loops_over_pixels(
    batch: tuple[Tensor, Tensor], heaviside: Any, pixels: Any
) -> None:
    loss = level_set_loss(*batch, heaviside=heaviside, pixels=pixels)
    assert loss.dtype == torch.float64
    assert float(loss) == pytest.approx(reference(*batch, heaviside, pixels)[0], rel=1e-9)


@pytest.mark.parametrize("heaviside", HEAVISIDES)
def test_float32_equals_loops_over_pixels(batch: tuple[Tensor, Tensor], heaviside: Any) -> None:
    logits, target = batch[0].float(), batch[1]
    loss = level_set_loss(logits, target, heaviside=heaviside)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(reference(logits, target, heaviside, "mean")[0], rel=1e-4)


@pytest.mark.parametrize("pixels", ["mean", "sum"])
@pytest.mark.parametrize("heaviside", HEAVISIDES)
def test_autograd_equals_equation_7(
    batch: tuple[Tensor, Tensor], heaviside: Any, pixels: Any
) -> None:
    logits, target = batch[0].requires_grad_(), batch[1]
    torch.autograd.backward(level_set_loss(logits, target, heaviside=heaviside, pixels=pixels))
    expected = through_softmax(softmax(logits), reference(*batch, heaviside, pixels)[1])
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected, rtol=1e-8, atol=1e-12)
    assert bool(logits.grad.any()) == (heaviside != "hf")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("heaviside", ["mahf", "ahf"])
def test_on_the_contour_the_slope_is_that_of_equation_7(heaviside: Any, dtype: Any) -> None:
    # The second pixel's probability is exactly 1/2, where the step is steepest.
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]], dtype=dtype)[None, :, None]
    target = torch.tensor([[[0, 1, 1]]])
    logits.requires_grad_()
    torch.autograd.backward(level_set_loss(logits, target, heaviside=heaviside))
    by_preds = reference(logits, target, heaviside, "mean")[1]
    expected = through_softmax(softmax(logits), by_preds).to(dtype)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected, rtol=1e-5, atol=0)
    largest = logits.grad.abs().amax(dim=(0, 1, 2)).argmax()
    assert largest == 1


@pytest.mark.parametrize("heaviside", ["mahf", "ahf"])
def test_gradients_agree_with_finite_differences(
    batch: tuple[Tensor, Tensor], heaviside: Any
) -> None:
    target = batch[1][:, 1:4, :4]

    def loss(logits: Tensor) -> Tensor:
        return level_set_loss(logits, target, heaviside=heaviside)

    assert torch.autograd.gradcheck(loss, (batch[0][..., 1:4, :4].clone().requires_grad_(),))


def test_a_perfect_prediction_costs_nothing_and_a_useless_one_the_maximum() -> None:
    target = torch.tensor([[[0, 0], [1, 1]]])
    assert level_set_loss(one_hot(target, 2), target) < 1e-6
    # A prediction that knows nothing of the class: g (n − g) / n for either, here 1 each.
    for useless in (one_hot(target.mT, 2), torch.zeros(1, 2, 2, 2)):
        assert float(level_set_loss(useless, target)) == pytest.approx(2 / 4, rel=1e-6)


def test_loss_does_not_know_inside_from_outside() -> None:
    target = torch.tensor([[[0, 0], [1, 1]]])
    assert level_set_loss(one_hot(1 - target, 2), target) < 1e-6  # the cross-entropy does


@pytest.mark.parametrize("heaviside", HEAVISIDES)
def test_a_class_that_fills_the_image_costs_nothing(heaviside: Any) -> None:
    target = torch.full((1, 3, 4), 2)
    generator = torch.Generator().manual_seed(1)
    predictions = (one_hot(target, 5), one_hot(target - 1, 5), torch.zeros(1, 5, 3, 4))
    for logits in (*predictions, torch.randn(1, 5, 3, 4, generator=generator)):
        logits.requires_grad_()
        loss = level_set_loss(logits, target, heaviside=heaviside)
        assert loss.item() == pytest.approx(0, abs=1e-6)
        torch.autograd.backward(loss)
        assert logits.grad is not None
        torch.testing.assert_close(logits.grad, torch.zeros_like(logits.grad), rtol=0, atol=1e-5)


@pytest.mark.parametrize("heaviside", HEAVISIDES)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["float32", "float16", "bfloat16"]
)
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_a_uniform_softmax_over_150_classes_has_a_value_and_gradients(
    heaviside: Any, dtype: torch.dtype, autocast: bool
) -> None:
    generator = torch.Generator().manual_seed(2)
    target = torch.randint(0, 150, (2, 6, 7), generator=generator)
    target[0, 0] = VOID
    logits = torch.zeros(2, 150, 6, 7, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = level_set_loss(logits, target, heaviside=heaviside)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(reference(logits, target, heaviside, "mean")[0], rel=1e-4)
    torch.autograd.backward(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_float32_has_the_gradient_of_equation_7_for_a_nearly_uniform_softmax() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = 0.1 * torch.randn(1, 150, 5, 5, generator=generator)
    target = torch.randint(0, 3, (1, 5, 5), generator=generator)
    logits.requires_grad_()
    torch.autograd.backward(level_set_loss(logits, target, pixels="sum"))
    by_preds = reference(logits, target, "mahf", "sum")[1]
    expected = through_softmax(softmax(logits), by_preds).float()
    assert logits.grad is not None
    assert expected.any()
    torch.testing.assert_close(
        logits.grad, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item()
    )


@pytest.mark.parametrize("sure", [1e-1, 4.0])
def test_float32_has_the_gradient_of_equation_7_on_either_side(sure: float) -> None:
    # 1 - H would be 0 in float32 for the surer.
    generator = torch.Generator().manual_seed(4)
    target = torch.randint(0, 2, (1, 4, 5), generator=generator)
    guess = torch.randint(0, 2, (1, 4, 5), generator=generator)
    noise = 0.1 * torch.randn(1, 2, 4, 5, generator=generator)
    logits = sure * torch.nn.functional.one_hot(guess, 2).movedim(-1, 1) + noise
    logits.requires_grad_()
    torch.autograd.backward(level_set_loss(logits, target))
    by_preds = reference(logits, target, "mahf", "mean")[1]
    expected = through_softmax(softmax(logits), by_preds).float()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected, rtol=1e-3, atol=1e-3 * float(expected.max()))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"heaviside": "soft"}, "Expected heaviside to be one of 'mahf', 'ahf', 'hf' but.*'soft'"),
        ({"reduction": "max"}, "Expected reduction to be one of 'mean', 'sum', 'none' but.*'max'"),
        ({"pixels": "none"}, "Expected pixels to be one of 'mean', 'sum' but.*'none'"),
        ({"epsilon": 0.0}, r"Expected epsilon > 0 but got 0\.0"),
        ({"epsilon": -1.0}, r"Expected epsilon > 0 but got -1\.0"),
    ],
)
def test_wrong_options_say_what_was_found(
    batch: tuple[Tensor, Tensor], options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        level_set_loss(*batch, **options)
