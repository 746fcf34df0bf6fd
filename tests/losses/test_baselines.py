from __future__ import annotations

from math import hypot

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from segfix.losses import BoundaryLoss, DiceLoss, boundary_loss, dice_loss

VOID = 255


def softmax(logits: Tensor) -> NDArray[np.float64]:
    """(N, C, H, W) probabilities in float64."""
    values = logits.detach().double().numpy()
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def dice_reference(logits: Tensor, target: Tensor) -> float:
    if len(target) > 1:
        pairs = zip(logits[:, None], target[:, None], strict=True)
        return sum(dice_reference(*pair) for pair in pairs) / len(target)
    preds, labels = softmax(logits), target.numpy()
    terms = []
    for n, k in np.ndindex(preds.shape[:2]):
        if not (labels[n] == k).any():
            continue
        overlap, total = 0.0, 0.0
        for y, x in np.ndindex(labels[n].shape):
            if labels[n, y, x] != VOID:
                p, g = float(preds[n, k, y, x]), float(labels[n, y, x] == k)
                overlap += p * g
                total += p + g
        terms.append(1 - 2 * overlap / total)
    return sum(terms) / (len(terms) or 1)


def signed_distances(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance to the nearest pixel of the other side, negative inside; 0 where there is none."""
    distances = np.zeros(inside.shape)
    for y, x in np.ndindex(inside.shape):
        others = [
            hypot(y - v, x - u) for v, u in np.ndindex(inside.shape) if inside[v, u] != inside[y, x]
        ]
        distances[y, x] = min(others, default=0.0) * (-1 if inside[y, x] else 1)
    return distances


def boundary_reference(logits: Tensor, target: Tensor) -> float:
    if len(target) > 1:
        pairs = zip(logits[:, None], target[:, None], strict=True)
        return sum(boundary_reference(*pair) for pair in pairs) / len(target)
    preds, labels = softmax(logits), target.numpy()
    total, terms = 0.0, 0
    for n, k in np.ndindex(preds.shape[:2]):
        if not (labels[n] == k).any():
            continue
        distances = signed_distances(labels[n] == k)
        for y, x in np.ndindex(labels[n].shape):
            if labels[n, y, x] != VOID:
                total += float(preds[n, k, y, x] * distances[y, x])
                terms += 1
    return total / (terms or 1)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Float64 logits of four classes; blocks with void, the second image of one class only."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4, 4, 7, 8, generator=generator, dtype=torch.float64)
    target = torch.zeros(4, 7, 8, dtype=torch.int64)
    target[0, 2:6, 3:7] = 1
    target[0, 5:, :2] = 2
    target[0, 3, 4:6] = VOID
    target[1] = 3
    target[2] = torch.randint(0, 3, (7, 8), generator=generator)
    target[3, :, 6:] = VOID  # one class, and void beside it
    return logits, target


def row(*class_1: float) -> Tensor:
    """(1, 2, 1, W) logits in float64 with these probabilities of class 1."""
    preds = torch.tensor(class_1, dtype=torch.float64)
    return torch.stack((1 - preds, preds)).log()[None, :, None]


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Logits that are sure of these labels."""
    return 200.0 * torch.nn.functional.one_hot(labels, classes).movedim(-1, 1)


# Dice loss.


def test_dice_loss_equals_that_derived_by_hand() -> None:
    logits = torch.nn.functional.pad(row(0.9, 0.7, 0.2, 0.4), (0, 0, 0, 0, 0, 1), value=-300.0)
    target = torch.tensor([[[1, VOID, 0, 0]]])
    # Class 1: 2 · 0.9 / (0.9 + 0.2 + 0.4 + 1); class 0: 2 · (0.8 + 0.6) / (0.1 + 0.8 + 0.6 + 2).
    expected = ((1 - 1.8 / 2.5) + (1 - 2.8 / 3.5)) / 2
    assert float(dice_loss(logits, target)) == pytest.approx(expected, rel=1e-9)


def test_dice_loss_is_0_at_best_and_1_at_worst() -> None:
    target = torch.tensor([[[0, 0, 1], [1, 1, 1]]])
    assert float(dice_loss(one_hot(target, 3), target)) == pytest.approx(0, abs=1e-6)
    assert float(dice_loss(one_hot(1 - target, 3), target)) == pytest.approx(1)


def test_dice_loss_equals_loops_over_pixels(batch: tuple[Tensor, Tensor]) -> None:
    expected = dice_reference(*batch)
    assert float(dice_loss(*batch)) == pytest.approx(expected, rel=1e-9)
    assert float(DiceLoss()(*batch)) == pytest.approx(expected, rel=1e-9)


# Boundary loss.


def test_boundary_loss_equals_that_derived_by_hand() -> None:
    # Signed distances of class 1: 2 1 −1 −2; of class 0 the opposite.
    loss = boundary_loss(row(0.1, 0.2, 0.7, 0.6), torch.tensor([[[0, 0, 1, 1]]]))
    class_1 = 2 * 0.1 + 1 * 0.2 - 1 * 0.7 - 2 * 0.6
    class_0 = -2 * 0.9 - 1 * 0.8 + 1 * 0.3 + 2 * 0.4
    assert float(loss) == pytest.approx((class_1 + class_0) / 8, rel=1e-9)


def test_boundary_loss_takes_void_as_outside() -> None:
    # Signed distances of class 1: −2 −1, then void, then 2; of class 0: 3 2, void, −1.
    logits = row(0.9, 0.8, 0.5, 0.4)
    loss = boundary_loss(logits, torch.tensor([[[1, 1, VOID, 0]]]))
    class_1 = -2 * 0.9 - 1 * 0.8 + 2 * 0.4
    class_0 = 3 * 0.1 + 2 * 0.2 - 1 * 0.6
    assert float(loss) == pytest.approx((class_1 + class_0) / 6, rel=1e-9)


def test_reference_distances_equal_those_of_scipy(batch: tuple[Tensor, Tensor]) -> None:
    for labels in batch[1][::2].numpy():
        for k in np.setdiff1d(labels, [VOID]):
            inside = labels == k
            expected = distance_transform_edt(~inside) - distance_transform_edt(inside)
            np.testing.assert_allclose(signed_distances(inside), expected)


def test_boundary_loss_equals_loops_over_pixels(batch: tuple[Tensor, Tensor]) -> None:
    expected = boundary_reference(*batch)
    assert float(boundary_loss(*batch)) == pytest.approx(expected, rel=1e-6)
    assert float(BoundaryLoss()(*batch)) == pytest.approx(expected, rel=1e-6)


def test_a_class_that_fills_the_image_has_no_boundary() -> None:
    logits = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = boundary_loss(logits, torch.full((1, 4, 5), 2))
    assert loss == 0
    torch.autograd.backward(loss)
    assert logits.grad is not None
    assert not logits.grad.any()


def test_boundary_loss_falls_as_the_prediction_grows_towards_the_truth() -> None:
    target = torch.zeros(1, 9, 9, dtype=torch.int64)
    target[0, 2:7, 2:7] = 1
    smaller, larger = torch.zeros_like(target), torch.zeros_like(target)
    smaller[0, 3:6, 3:6] = 1
    larger[0, 1:8, 1:8] = 1
    right, small, large = (
        float(boundary_loss(one_hot(labels, 2), target)) for labels in (target, smaller, larger)
    )
    assert right < 0
    assert right < small
    assert right < large
