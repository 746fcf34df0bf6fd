"""Losses whose gradient is known in closed form, as single operators that nothing looks into."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Compute = Callable[..., tuple[Tensor, Tensor]]


def closed_form(compute: Compute) -> Callable[..., Tensor]:
    """Make a differentiable function of one that computes losses and their gradient together.

    To `torch.compile` it is one operator: loops over the classes present, which depend on values,
    break no graph.

    Args:
        compute: (N, C, H, W) maps and more arguments, annotated, to the (N,) losses of the images
            and the gradient of each by its maps, contiguous like these.
    """
    name, num_others = compute.__name__, len(inspect.signature(compute).parameters) - 1
    operator: Any = torch.library.custom_op(f"segfix::{name}", compute, mutates_args=())

    def fake(maps: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        return maps.new_empty(len(maps)), torch.empty_like(maps)

    def keep(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:  # noqa: ARG001
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1])

    def backward(ctx: Any, outer: Tensor | None, twice: Any) -> tuple[Tensor | None, ...]:
        if twice is not None:
            raise RuntimeError(f"segfix::{name} can be differentiated only once.")
        (gradient,) = ctx.saved_tensors
        by_maps = None if outer is None else gradient * outer[:, None, None, None]
        return by_maps, *(None,) * num_others

    operator.register_fake(fake)
    operator.register_autograd(backward, setup_context=keep)

    def call(*arguments: Any) -> Tensor:
        losses: Tensor = operator(*arguments)[0]
        return losses

    return call
