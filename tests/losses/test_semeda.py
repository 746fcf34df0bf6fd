from __future__ import annotations

import re
from math import log

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segfix.losses import (
    EdgeNetwork,
    SemedaLoss,
    SobelLoss,
    edge_map,
    edge_network_loss,
    semeda_loss,
    sobel_loss,
)
from segfix.losses.semeda import SOBEL_WEIGHT

VOID = 255
AROUND = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


def softmax(logits: Tensor) -> NDArray[np.float64]:
    """(N, C, H, W) probabilities in float64."""
    values = logits.detach().double().numpy()
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def convolutions(network: EdgeNetwork) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def convolve(
    maps: NDArray[np.float64], weight: NDArray[np.float64], bias: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(C, H, W) → (c, H, W): 3×3, what lies past the frame read at the frame."""
    _, height, width = maps.shape
    output = np.zeros((len(weight), height, width))
    for y in range(height):
        for x in range(width):
            window = np.zeros((len(maps), 3, 3))
            for dy, dx in AROUND:
                row, column = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
                window[:, dy + 1, dx + 1] = maps[:, row, column]
            for c in range(len(weight)):
                output[c, y, x] = (weight[c] * window).sum() + bias[c]
    return output


def reference_features(
    network: EdgeNetwork, maps: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """The three layers of one image, after their activations."""
    features = []
    for layer, convolution in enumerate(convolutions(network)):
        assert convolution.bias is not None
        weight = convolution.weight.detach().double().numpy()
        maps = convolve(maps, weight, convolution.bias.detach().double().numpy())
        if layer < 2:
            maps = np.maximum(maps, 0)
        else:
            powers = np.exp(maps - maps.max(axis=0))
            maps = powers / powers.sum(axis=0)
        features.append(maps)
    return features


def prepared(
    preds: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One image's probabilities and one-hot labels, (C, H, W), both zero at void."""
    preds, true = preds.copy(), np.zeros_like(preds)
    for y, x in np.ndindex(*labels.shape):
        if labels[y, x] == VOID:
            preds[:, y, x] = 0
        else:
            true[labels[y, x], y, x] = 1
    return preds, true


def clear(labels: NDArray[np.int64], reach: int) -> list[tuple[int, int]]:
    """Pixels with no void in the window of this reach, as far as it lies in the frame."""
    pixels = []
    for y, x in np.ndindex(*labels.shape):
        window = labels[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
        if not (window == VOID).any():
            pixels.append((y, x))
    return pixels


def semeda_reference(
    logits: Tensor, target: Tensor, network: EdgeNetwork, weights: tuple[float, float, float]
) -> float:
    preds, labels = softmax(logits), target.numpy()
    losses = []
    for n in range(len(preds)):
        total, terms = [0.0] * 3, [0] * 3
        pair = (reference_features(network, maps) for maps in prepared(preds[n], labels[n]))
        for layer, (pred, true) in enumerate(zip(*pair, strict=True)):
            for y, x in clear(labels[n], layer + 1):
                for c in range(len(pred)):
                    total[layer] += abs(pred[c, y, x] - true[c, y, x])
                    terms[layer] += 1
        losses.append(sum(w * t / (k or 1) for w, t, k in zip(weights, total, terms, strict=True)))
    return sum(losses) / len(losses)


def sobel_reference(logits: Tensor, target: Tensor) -> float:
    preds, labels = softmax(logits), target.numpy()
    across = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    kernels = np.stack((across, across.T))[:, None]
    losses = []
    for n in range(len(preds)):
        total, terms = 0.0, 0
        pred, true = prepared(preds[n], labels[n])
        for k in range(len(pred)):
            difference = convolve(pred[k : k + 1] - true[k : k + 1], kernels, np.zeros(2))
            for y, x in clear(labels[n], 1):
                for c in range(2):
                    total += abs(difference[c, y, x])
                    terms += 1
        losses.append(total / (terms or 1))
    return sum(losses) / len(losses)


def edge_reference(labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    edges = np.zeros(labels.shape, np.uint8)
    height, width = labels.shape
    for y, x in np.ndindex(height, width):
        around = [
            labels[y + dy, x + dx]
            for dy, dx in AROUND
            if 0 <= y + dy < height and 0 <= x + dx < width
        ]
        if VOID in around:
            edges[y, x] = VOID
        elif any(label != labels[y, x] for label in around):
            edges[y, x] = 1
    return edges


def edge_network_reference(network: EdgeNetwork, target: Tensor, classes: int) -> float:
    costs: dict[int, list[float]] = {0: [], 1: []}
    for labels in target.numpy():
        true = prepared(np.zeros((classes, *labels.shape)), labels)[1]
        shares = reference_features(network, true)[2]
        edges = edge_reference(labels)
        for y, x in np.ndindex(*labels.shape):
            if edges[y, x] != VOID:
                costs[int(edges[y, x])].append(-log(shares[int(edges[y, x]), y, x]))
    means = [sum(values) / len(values) for values in costs.values() if values]
    return sum(means) / (len(means) or 1)


def new_network(classes: int) -> EdgeNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EdgeNetwork(classes)


@pytest.fixture
def network() -> EdgeNetwork:
    """An edge network of four classes, untrained, in float64."""
    return new_network(4).double()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Float64 logits of four classes and blocks of labels, with void in two images."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, 4, 9, 8, generator=generator, dtype=torch.float64)
    target = torch.zeros(3, 9, 8, dtype=torch.int64)
    target[0, 2:6, 3:] = 1
    target[0, 6:, :2] = 3
    target[0, 0, 6:] = VOID
    target[1] = torch.randint(0, 4, (9, 8), generator=generator)
    target[2, :5] = VOID
    target[2, 7:, 2:] = 2
    return logits, target


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Logits that are sure of these labels."""
    return 200.0 * torch.nn.functional.one_hot(labels, classes).movedim(-1, 1)


# The map of edges.


def test_edge_map_equals_one_drawn_by_hand() -> None:
    target = torch.tensor(
        [
            [
                [0, 0, 0, 1, 1],
                [0, 0, 0, 1, 1],
                [0, 0, 0, 0, VOID],
                [2, 0, 0, 0, 0],
            ]
        ]
    )
    edges = edge_map(target)
    assert edges.dtype == torch.uint8
    assert edges.tolist() == [
        [
            [0, 0, 1, 1, 0],
            [0, 0, 1, VOID, VOID],
            [1, 1, 1, VOID, VOID],
            [1, 1, 0, VOID, VOID],
        ]
    ]
    other = target.masked_fill(target == VOID, 7)
    assert torch.equal(edge_map(other, ignore_index=7), edges)


def test_without_a_void_id_its_number_is_a_label() -> None:
    target = torch.tensor([[[0, 0, 0, VOID, VOID, VOID]]])
    assert edge_map(target, ignore_index=None).tolist() == [[[0, 0, 1, 1, 0, 0]]]


def test_the_frame_is_no_edge() -> None:
    assert not edge_map(torch.full((2, 3, 4), 5)).any()
    assert not edge_map(torch.zeros(1, 1, 1, dtype=torch.int64)).any()


def test_edge_map_equals_loops_over_pixels(batch: tuple[Tensor, Tensor]) -> None:
    expected = np.stack([edge_reference(labels) for labels in batch[1].numpy()])
    assert np.array_equal(edge_map(batch[1]).numpy(), expected)
    assert np.array_equal(edge_map(batch[1].byte()).numpy(), expected)


# The network.


def test_features_are_three_layers_after_their_activations(network: EdgeNetwork) -> None:
    maps = torch.rand(2, 4, 6, 7, generator=torch.Generator().manual_seed(1)).double()
    features = network.features(maps)
    assert [tuple(layer.shape) for layer in features] == [
        (2, channels, 6, 7) for channels in (16, 32, 2)
    ]
    for layer in features[:2]:
        assert layer.min() == 0
        assert layer.max() > 0
    torch.testing.assert_close(features[2].sum(1), torch.ones(2, 6, 7).double())
    assert len(network.features(maps, layers=2)) == 2
    logits = network(maps)
    assert logits.shape == (2, 2, 6, 7)
    torch.testing.assert_close(logits.softmax(1), features[2])
    assert network.num_classes == 4


def test_features_equal_loops_over_pixels(network: EdgeNetwork) -> None:
    maps = torch.rand(1, 4, 5, 6, generator=torch.Generator().manual_seed(1)).double()
    expected = reference_features(network, maps[0].numpy())
    for layer, loops in zip(network.features(maps), expected, strict=True):
        np.testing.assert_allclose(layer[0].detach().numpy(), loops, rtol=1e-10, atol=1e-12)


def test_a_constant_map_has_constant_features_up_to_the_frame(network: EdgeNetwork) -> None:
    maps = torch.rand(1, 4, 1, 1, generator=torch.Generator().manual_seed(1)).double()
    for layer in network.features(maps.expand(1, 4, 6, 7)):
        torch.testing.assert_close(layer, layer[..., :1, :1].expand_as(layer))


def test_a_network_trained_on_edges_finds_them() -> None:
    network = new_network(2)
    target = torch.zeros(1, 12, 12, dtype=torch.int64)
    target[0, 3:8, 4:10] = 1
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        torch.autograd.backward(edge_network_loss(network, target))
        optimizer.step()
    found = network(torch.nn.functional.one_hot(target, 2).movedim(-1, 1).float()).argmax(1)
    assert torch.equal(found, edge_map(target).long())


def test_edges_and_the_rest_weigh_the_same(network: EdgeNetwork) -> None:
    # P(edge) = 3/4 everywhere.
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    bias = convolutions(network)[2].bias
    assert bias is not None
    bias.data[1] = log(3)
    target = torch.zeros(1, 3, 10, dtype=torch.int64)
    target[0, :, 0] = 1
    both = edge_network_loss(network, target)
    assert both.item() == pytest.approx((log(4 / 3) + log(4)) / 2)
    nothing = edge_network_loss(network, torch.zeros_like(target))
    assert nothing.item() == pytest.approx(log(4))
    with_void = torch.zeros_like(target)
    with_void[0, :, 9] = VOID
    assert edge_network_loss(network, with_void).item() == pytest.approx(log(4))
    everything = edge_network_loss(network, target[..., :2])
    assert everything.item() == pytest.approx(log(4 / 3))


def test_edge_network_loss_equals_loops_over_pixels(
    network: EdgeNetwork, batch: tuple[Tensor, Tensor]
) -> None:
    expected = edge_network_reference(network, batch[1], 4)
    assert edge_network_loss(network, batch[1]).item() == pytest.approx(expected, rel=1e-5)


def test_softening_spreads_no_void() -> None:
    seen: list[Tensor] = []

    class Spy(EdgeNetwork):
        def forward(self, maps: Tensor) -> Tensor:
            seen.append(maps)
            return super().forward(maps)

    target = torch.full((1, 8, 8), 1)
    target[..., :4] = VOID
    torch.manual_seed(0)
    edge_network_loss(Spy(3), target, soften=1.0)
    (maps,) = seen
    assert not maps[..., :4].any()
    assert (maps[0, 1, :, 4:] > 0.4).all()
    torch.testing.assert_close(maps[0, 0], maps[0, 2])
    torch.testing.assert_close(maps[..., 4:].sum(dim=1), torch.ones(1, 8, 4))


def test_edge_network_loss_takes_bytes(network: EdgeNetwork, batch: tuple[Tensor, Tensor]) -> None:
    expected = edge_network_loss(network, batch[1])
    assert edge_network_loss(network, batch[1].byte()) == expected


def test_edge_network_loss_without_a_void_id_counts_every_pixel(network: EdgeNetwork) -> None:
    target = torch.tensor([[[0, 0, 0, 2, 2, 2]]])
    assert edge_network_loss(network, target, ignore_index=None) == edge_network_loss(
        network, target
    )


def test_edge_network_loss_looks_into_a_wrapper(
    network: EdgeNetwork, batch: tuple[Tensor, Tensor]
) -> None:
    wrapped = nn.DataParallel(network)
    assert edge_network_loss(wrapped, batch[1]) == edge_network_loss(network, batch[1])


def test_edge_network_loss_of_an_id_that_is_no_class_is_an_error(network: EdgeNetwork) -> None:
    for wrong in (4, -1):
        with pytest.raises(ValueError, match=f"from 0 to 3 .* or 255 for void but got {wrong}"):
            edge_network_loss(network, torch.tensor([[[0, 3, VOID, wrong]]]))


def test_one_class_and_void_have_a_finite_edge_loss() -> None:
    loss = edge_network_loss(new_network(1), torch.tensor([[[0, 0, 0, VOID]]]))
    assert loss.isfinite()
    assert loss > 0


def test_edge_network_loss_reaches_every_parameter(
    network: EdgeNetwork, batch: tuple[Tensor, Tensor]
) -> None:
    torch.autograd.backward(edge_network_loss(network, batch[1]))
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_edge_network_loss_without_a_valid_pixel_is_a_zero_with_a_gradient(
    network: EdgeNetwork,
) -> None:
    loss = edge_network_loss(network, torch.full((2, 4, 5), VOID))
    assert loss == 0
    torch.autograd.backward(loss)
    for parameter in network.parameters():
        assert parameter.grad is None or not parameter.grad.any()


# The loss.


@pytest.mark.parametrize("weights", [(4.0, 2.0, 0.0), (2.0, 4.0, 0.0), (0.0, 0.0, 3.0)])
def test_semeda_loss_equals_loops_over_pixels(
    network: EdgeNetwork, batch: tuple[Tensor, Tensor], weights: tuple[float, float, float]
) -> None:
    loss = semeda_loss(*batch, network, weights=weights)
    assert loss.dtype == torch.float64
    expected = semeda_reference(*batch, network, weights)
    assert expected > 0
    assert float(loss) == pytest.approx(expected, rel=1e-9)


def test_default_weights_are_those_for_cityscapes(
    network: EdgeNetwork, batch: tuple[Tensor, Tensor]
) -> None:
    first, second = (
        float(semeda_loss(*batch, network, weights=weights))
        for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    )
    assert float(semeda_loss(*batch, network)) == pytest.approx(4 * first + 2 * second)
    assert SOBEL_WEIGHT == 4


def test_weights_of_zero_cost_nothing_and_keep_the_graph(
    network: EdgeNetwork, batch: tuple[Tensor, Tensor]
) -> None:
    logits = batch[0].requires_grad_()
    loss = semeda_loss(logits, batch[1], network, weights=(0.0, 0.0, 0.0))
    assert loss == 0
    torch.autograd.backward(loss)
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_layer_whose_windows_all_hold_void_is_left_out(network: EdgeNetwork) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(1, 4, 3, 3, generator=generator, dtype=torch.float64)
    target = torch.zeros(1, 3, 3, dtype=torch.int64)
    target[0, 2, 2] = VOID
    # Layer 1 keeps five pixels, layer 2 none.
    first = semeda_loss(logits, target, network, weights=(1.0, 0.0, 0.0))
    assert first > 0
    assert semeda_loss(logits, target, network, weights=(1.0, 5.0, 5.0)) == first


def test_a_perfect_prediction_costs_nothing(
    network: EdgeNetwork, batch: tuple[Tensor, Tensor]
) -> None:
    target = batch[1]
    logits = one_hot(target.masked_fill(target == VOID, 0), 4).double()
    assert semeda_loss(logits, target, network, weights=(1.0, 1.0, 1.0)) < 1e-9
    assert sobel_loss(logits, target) < 1e-9


def test_the_edge_network_gets_no_gradient_and_stays_as_it_was(
    network: EdgeNetwork, batch: tuple[Tensor, Tensor]
) -> None:
    before = [parameter.clone() for parameter in network.parameters()]
    logits = batch[0].requires_grad_()
    torch.autograd.backward(semeda_loss(logits, batch[1], network))
    assert logits.grad is not None
    assert logits.grad.any()
    for parameter, old in zip(network.parameters(), before, strict=True):
        assert parameter.grad is None
        assert parameter.requires_grad
        assert torch.equal(parameter, old)


def test_gradients_agree_with_finite_differences(
    network: EdgeNetwork, batch: tuple[Tensor, Tensor]
) -> None:
    target = batch[1][:1, :4, 2:6]

    def loss(logits: Tensor) -> Tensor:
        return semeda_loss(logits, target, network, weights=(4.0, 2.0, 1.0))

    assert torch.autograd.gradcheck(loss, (batch[0][:1, :, :4, 2:6].clone().requires_grad_(),))


def test_module_equals_function(network: EdgeNetwork, batch: tuple[Tensor, Tensor]) -> None:
    weights = (1.0, 0.5, 0.25)
    module = SemedaLoss(network, ignore_index=3, weights=weights)
    target = batch[1].masked_fill(batch[1] == VOID, 3)
    expected = semeda_loss(batch[0], target, network, ignore_index=3, weights=weights)
    assert module(batch[0], target) == expected


def test_a_network_of_another_class_count_is_an_error(batch: tuple[Tensor, Tensor]) -> None:
    for loss in (
        lambda: semeda_loss(*batch, new_network(3)),
        lambda: SemedaLoss(new_network(3))(*batch),
    ):
        with pytest.raises(ValueError, match=r"(?s)(3.*4|4.*3)"):
            loss()


@pytest.mark.parametrize("weights", [(4.0, 2.0), (4.0, 2.0, 0.0, 0.0), (4.0, -1.0, 0.0)])
def test_other_than_three_weights_of_0_or_more_are_an_error(
    network: EdgeNetwork, batch: tuple[Tensor, Tensor], weights: tuple[float, ...]
) -> None:
    with pytest.raises(ValueError, match=f"three weights .* but got {re.escape(str(weights))}"):
        semeda_loss(*batch, network, weights=weights)


# The baseline with fixed kernels.


def test_sobel_loss_equals_that_derived_by_hand() -> None:
    target = torch.tensor([[0, 0, 1, 1]]).expand(1, 3, 4)
    # Nothing known: no gradient of P; of G, ½ in the two columns beside the edge, across only.
    loss = sobel_loss(torch.zeros(1, 2, 3, 4), target)
    assert float(loss) == pytest.approx((1 / 2 * 2 / 4 + 0) / 2)


def test_sobel_loss_equals_loops_over_pixels(batch: tuple[Tensor, Tensor]) -> None:
    expected = sobel_reference(*batch)
    assert float(sobel_loss(*batch)) == pytest.approx(expected, rel=1e-9)
    assert float(SobelLoss()(*batch)) == pytest.approx(expected, rel=1e-9)
