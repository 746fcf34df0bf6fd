"""The losses by their names: what they are worth on maps that are known, and their options."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segfix.cli.train_options import ADDED_LOSSES
from segfix.errors import SegfixError
from segfix.metrics import class_iou, confusion_matrix
from segfix.training.segmentation_losses import LOSSES, check_options, cross_entropy, make_loss

VOID = -1


def noise() -> tuple[Tensor, Tensor]:
    """(2, 4, 6, 7) logits with a gradient and labels of three of the four classes, some void."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, 7, generator=generator, requires_grad=True)
    target = torch.randint(0, 3, (2, 6, 7), generator=generator)
    target[0, :2] = VOID
    return logits, target


@pytest.mark.parametrize("loss", [cross_entropy, make_loss("lovasz", {})])
def test_a_loss_of_nothing_but_void_is_a_zero_with_a_gradient(loss: Any) -> None:
    logits, _ = noise()
    found = loss(logits, torch.full((2, 6, 7), VOID))
    assert found.shape == ()
    found.backward()
    assert found == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_lovasz_of_label_maps_is_what_their_miou_lacks() -> None:
    logits, target = noise()
    predicted = logits.argmax(dim=1)
    sure = 50 * torch.nn.functional.one_hot(predicted, 4).permute(0, 3, 1, 2).float()
    confusion = confusion_matrix(predicted.numpy(), target.numpy(), 4, ignore_index=VOID)
    miou = np.nanmean(class_iou(confusion))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        found = make_loss("lovasz", {})(sure.to(dtype), target)
        assert float(found) == pytest.approx(1 - miou, abs=1e-6)


def test_lovasz_is_its_sorted_sum_and_leaves_void_out() -> None:
    logits, target = noise()
    loss = make_loss("lovasz", {})(logits, target)
    loss.backward()
    known = (target != VOID).numpy()
    probability = logits.detach().double().softmax(dim=1).permute(0, 2, 3, 1).numpy()[known]
    labels, expected = target.numpy()[known], []
    for label in range(3):
        truth = labels == label
        errors = np.abs(truth - probability[:, label])
        order = np.argsort(-errors)
        # Jaccard losses of the 1, 2, … worst pixels being wrong.
        wrong = np.cumsum(truth[order]), np.cumsum(~truth[order])
        jaccard = 1 - (truth.sum() - wrong[0]) / (truth.sum() + wrong[1])
        expected.append(errors[order] @ np.diff(jaccard, prepend=0))
    assert float(loss.detach()) == pytest.approx(np.mean(expected), abs=1e-6)
    assert logits.grad is not None
    assert not logits.grad[0, :, :2].any()
    assert logits.grad[0, :, 2:].any()


def test_losses_of_the_command_are_those_of_the_table() -> None:
    assert set(ADDED_LOSSES) == LOSSES.keys()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("epl", {"breadth": 3}, "loss epl: no option 'breadth'; it has width, splitter, norm"),
        ("dice", {"width": 3}, "loss dice: no option 'width'; it has none"),
        ("dice", {"weight": 3}, "loss dice: no option 'weight'; it has none"),
        ("epl", {"reduction": "sum"}, "loss epl: no option 'reduction'"),
        ("semeda", {"soften": "much"}, "loss semeda: option soften is a number, not 'much'"),
        ("semeda", {"soften": 7}, "loss semeda: Expected soften from 0 to 1 but got 7"),
        ("epl", {"ignore_index": 3}, "loss epl: no option 'ignore_index'"),
        ("semeda", {"edge_network": 3}, "loss semeda: no option 'edge_network'"),
        ("epl", {"width": 4}, "loss epl: Expected an odd width of 3 or more but got 4"),
        ("epl", {"width": 7.5}, "loss epl: option width is a whole number, not 7.5"),
        ("epl", {"width": "abc"}, "loss epl: option width is a whole number, not 'abc'"),
        ("epl", {"released": "no"}, "loss epl: option released is true or false, not 'no'"),
        ("epl", {"splitter": 3}, "loss epl: option splitter is a word, not 3"),
        ("epl", {"point_weight": math.nan}, "loss epl: option point_weight is a number, not nan"),
        ("epl", {"point_weight": True}, "loss epl: option point_weight is a number, not True"),
        ("epl", {"point_weight": -1.0}, "loss epl: Expected point_weight >= 0 but got -1.0"),
        ("epl", {"released": True, "quarter": True}, "loss epl: Expected no quarter"),
        ("level-set", {"epsilon": math.inf}, "loss level-set: option epsilon is a number, not inf"),
        ("level-set", {"epsilon": 0}, "loss level-set: Expected epsilon > 0 but got 0"),
        ("level-set", {"heaviside": "step"}, "Expected heaviside to be one of 'mahf'"),
        ("semeda", {"weights": 1}, "loss semeda: option weights is 3 numbers, not 1"),
        ("semeda", {"weights": (math.nan, 1, 1)}, "loss semeda: option weights is 3 numbers"),
        ("semeda", {"weights": (1, 1)}, "loss semeda: Expected three weights"),
    ],
)
def test_an_option_that_makes_no_sense_is_one_line(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SegfixError) as caught:
        check_options(name, options)
    assert message in str(caught.value)


def test_options_that_make_sense_pass() -> None:
    check_options("epl", {"width": 11, "splitter": "B", "point_weight": 1, "released": True})
    check_options("level-set", {"epsilon": 1})
    check_options("semeda", {"weights": (2, 4.5, 0), "soften": 0.5, "balanced": False})
