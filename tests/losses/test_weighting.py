"""Weights that are measured: the share of cross-entropy's gradient by a network's parameters."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segfix.losses import DiceLoss, EdgeNetwork, LevelSetLoss, SemedaLoss
from segfix.losses.weighting import (
    MEASURED_STEPS,
    AutoWeight,
    compare_gradients,
    find_parameters,
    gradient_of,
    parse_weight,
)

VOID = 255


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1))


def scene(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(2, 3, 12, 12, generator=generator)
    target = torch.randint(0, 4, (2, 12, 12), generator=generator)
    target[:, 0] = VOID
    return image, target


def norm(loss: Tensor, parameters: Iterable[Tensor]) -> float:
    """Of the gradient by all parameters, kept apart from what is tested."""
    found = torch.autograd.grad(loss, list(parameters), retain_graph=True)
    return math.sqrt(sum(float(g.square().sum()) for g in found))


@pytest.mark.parametrize("share", [0.3, 2.0])
def test_a_measured_weight_gives_the_share_that_is_asked_for(share: float) -> None:
    model, loss, plain = network(), DiceLoss(weight=f"auto:{share}"), DiceLoss()
    references, own = [], []
    for step in range(MEASURED_STEPS + 3):
        image, target = scene(step)
        logits = model(image)
        value = loss(logits, target)
        if step < MEASURED_STEPS:
            reference = F.cross_entropy(logits, target, ignore_index=VOID)
            references.append(norm(reference, model.parameters()))
            own.append(norm(plain(logits, target), model.parameters()))
        # The weight follows from what was measured up to this step, and then stays.
        expected = share * sum(references) / sum(own)
        assert value.item() == pytest.approx(expected * plain(logits, target).item(), rel=1e-5)
    assert loss.auto is not None
    assert not loss.auto.measuring


def test_a_number_multiplies_the_loss() -> None:
    image, target = scene()
    logits = network()(image)
    assert LevelSetLoss(weight=2.5)(logits, target) == 2.5 * LevelSetLoss()(logits, target)
    assert LevelSetLoss(weight=0)(logits, target) == 0


def test_in_evaluation_and_without_a_graph_nothing_is_measured() -> None:
    loss = DiceLoss(weight="auto:0.3")
    image, target = scene()
    with torch.no_grad():
        assert loss(network()(image), target) == DiceLoss()(network()(image), target)
    loss.eval()(network()(image), target)
    assert loss.auto is not None
    assert loss.auto.steps == 0


def test_a_loss_without_a_gradient_says_so_once_and_goes_on() -> None:
    loss, model = LevelSetLoss(heaviside="hf", weight="auto:0.3"), network()
    image, target = scene()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2 * MEASURED_STEPS):
            value = loss(model(image), target)
    assert len(told) == 1
    text = "LevelSetLoss with the weight auto:0.3 had no gradient that could be measured in its "
    assert f"{text}first 20 steps" in str(told[0].message)
    assert value == LevelSetLoss(heaviside="hf")(model(image), target)


def test_a_step_of_void_alone_tells_nothing() -> None:
    loss, model = DiceLoss(weight="auto:0.3"), network()
    image, target = scene()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(model(image), torch.full_like(target, VOID))
        value = loss(model(image), target)
    alone = DiceLoss(weight="auto:0.3")(model(image), target)
    assert value.item() == pytest.approx(alone.item(), rel=1e-6)


def test_what_was_measured_is_gone_on_with() -> None:
    model, first = network(), AutoWeight(0.3)
    loss = DiceLoss()
    for step in range(3):
        image, target = scene(step)
        logits = model(image)
        first.measure(loss(logits, target), logits, target, VOID)
    second = AutoWeight(0.3)
    second.restore(first.state())
    assert second.steps == 3
    assert second.measuring
    assert second.value() == first.value()


def test_a_state_dict_holds_what_was_measured() -> None:
    first, second = (DiceLoss(weight="auto:0.3") for _ in range(2))
    model, holder = network(), nn.ModuleDict({"criterion": first})
    first(model(scene()[0]), scene()[1])
    assert list(holder.state_dict()) == ["criterion.measured"]
    nn.ModuleDict({"criterion": second}).load_state_dict(holder.state_dict())
    assert first.auto is not None
    assert second.auto is not None
    assert second.auto.state() == first.auto.state()
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*\"measured\""):
        second.load_state_dict({})
    second.load_state_dict({}, strict=False)
    assert second.auto.state() == first.auto.state()
    assert not DiceLoss(weight=0.3).state_dict()


def test_small_gradients_are_measured_in_half_precision() -> None:
    weight = torch.ones(8, dtype=torch.float16, requires_grad=True)
    loss = (weight * 2.0**-10).float().sum() * 2.0**-18
    assert gradient_of(loss, [weight]).tolist() == [2.0**-28] * 8


def test_parameters_are_the_leaves_that_want_a_gradient() -> None:
    model = network()
    next(model.parameters()).requires_grad = False
    found = {id(p) for p in find_parameters(model(scene()[0]))}
    assert found == {id(p) for p in model.parameters() if p.requires_grad}
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    assert find_parameters(logits)[0] is logits


def test_gradients_are_compared_by_length_and_angle() -> None:
    model = nn.Linear(2, 1, bias=False)
    along, across = (model(torch.tensor(x)).sum() for x in ([3.0, 0.0], [0.0, 4.0]))
    share, cosine = compare_gradients(along + across, along, model)
    assert share.item() == pytest.approx(5 / 3)
    assert cosine.item() == pytest.approx(3 / 5)
    assert [x.item() for x in compare_gradients(0 * along, along, model)] == [0, 0]


@pytest.mark.parametrize(
    "wrong", ["auto", "auto:", "auto:0", "auto:-1", "auto:x", "0.3", -1, math.nan, None]
)
def test_a_weight_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"Expected a weight of 0 or more, or 'auto:SHARE'"):
        parse_weight(wrong)


def test_semeda_freezes_its_network() -> None:
    edges = EdgeNetwork(4)
    loss = SemedaLoss(edges, weight="auto:0.5")
    assert not any(p.requires_grad for p in edges.parameters())
    assert "weight='auto:0.5'" in repr(loss)
    image, target = scene()
    torch.autograd.backward(loss(network()(image), target))
