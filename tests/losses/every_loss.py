"""Every loss of two maps, with its options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segfix.losses import (
    BoundaryLoss,
    DiceLoss,
    EdgeNetwork,
    EPLLineLoss,
    EPLLoss,
    EPLPointLoss,
    LevelSetLoss,
    SemedaLoss,
    SobelLoss,
    boundary_loss,
    dice_loss,
    epl_line_loss,
    epl_loss,
    epl_point_loss,
    level_set_loss,
    semeda_loss,
    sobel_loss,
)

VOID = 255
Batch = tuple[Tensor, Tensor]


def edge_network(classes: int, dtype: torch.dtype) -> EdgeNetwork:
    """The same one for the same class count, in float64 for logits in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EdgeNetwork(classes).to(torch.float64 if dtype == torch.float64 else torch.float32)


@dataclass(frozen=True)
class Case:
    """A loss with its options; calls it with an edge network where it takes one."""

    name: str
    function: Callable[..., Tensor]
    module: Callable[..., nn.Module]
    options: dict[str, Any] = field(default_factory=dict)
    has_gradient: bool = True

    def extra(self, classes: int, dtype: torch.dtype) -> list[EdgeNetwork]:
        return [edge_network(classes, dtype)] if self.module is SemedaLoss else []

    def __call__(self, logits: Tensor, target: Tensor, **more: Any) -> Tensor:
        extra = self.extra(logits.shape[1], logits.dtype)
        return self.function(logits, target, *extra, **self.options, **more)


def case(
    name: str,
    function: Callable[..., Tensor],
    module: Callable[..., nn.Module],
    *,
    has_gradient: bool = True,
    **options: Any,
) -> Case:
    return Case(name, function, module, options, has_gradient)


CASES = [
    case("level set", level_set_loss, LevelSetLoss),
    case("level set, ahf", level_set_loss, LevelSetLoss, heaviside="ahf"),
    case("level set, hf", level_set_loss, LevelSetLoss, heaviside="hf", has_gradient=False),
    case("level set, sum", level_set_loss, LevelSetLoss, pixels="sum"),
    case("point", epl_point_loss, EPLPointLoss, width=5),
    case("point, sum", epl_point_loss, EPLPointLoss, width=3, norm=1, pixels="sum"),
    case("point, plain", epl_point_loss, EPLPointLoss, width=3, splitter="plain"),
    case("line", epl_line_loss, EPLLineLoss, width=5),
    case("line, sum", epl_line_loss, EPLLineLoss, width=5, splitter="C", lines="sum"),
    case("line, lines", epl_line_loss, EPLLineLoss, width=5, match="lines", power=2),
    case("line, plain", epl_line_loss, EPLLineLoss, width=3, splitter="plain"),
    case("epl", epl_loss, EPLLoss, width=5, point_weight=0.1, line_weight=0.2),
    case("semeda", semeda_loss, SemedaLoss),
    case("semeda, normalized", semeda_loss, SemedaLoss, normalized=True),
    case("sobel", sobel_loss, SobelLoss),
    case("dice", dice_loss, DiceLoss),
    case("boundary", boundary_loss, BoundaryLoss),
]
every_loss = pytest.mark.parametrize("loss", CASES, ids=lambda c: c.name)
# One of a kind, for what takes long.
one_of_a_kind = pytest.mark.parametrize(
    "loss", [c for c in CASES if "," not in c.name], ids=lambda c: c.name
)


def blocks() -> Tensor:
    """(4, 8, 9) labels of five classes: blocks with void, no void, one class, noise."""
    target = torch.zeros(4, 8, 9, dtype=torch.int64)
    target[0, 2:7, 3:7] = 1
    target[0, 6:, :2] = 3
    target[0, :2, 7:] = VOID
    target[1, :, 4:] = 2
    target[2] = 3
    target[3] = torch.randint(0, 4, (8, 9), generator=torch.Generator().manual_seed(1))
    return target


def value_and_gradient(loss: Case, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, target)
    assert value.shape == ()
    torch.autograd.backward(value)
    assert logits.grad is not None
    assert logits.grad.dtype == logits.dtype
    return value.detach(), logits.grad
