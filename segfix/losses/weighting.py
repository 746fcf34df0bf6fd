"""Weights of losses in the unit that counts: the share of cross-entropy's parameter gradient."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEASURED_STEPS = 20
"""After a loss is switched on."""
SCALE = 2.0**12
"""Of losses while their gradients are measured: in float16, small ones would vanish."""
AUTO = "auto:"


class AutoWeight:
    """A weight with which a loss has a given share of cross-entropy's parameter gradient.

    The norms of both gradients are summed over the first steps, with the weight that follows from
    them so far; then it stays.

    Args:
        share: What is wanted, such as 0.3.

    Attributes:
        measuring: Whether the first steps are not over.
        steps: How many were measured.
        norms: (2,) float32, sums of the gradient norms of cross-entropy and of the loss.
    """

    def __init__(self, share: float) -> None:
        self.share, self.steps, self.measuring = share, 0, True
        self.norms = torch.zeros(2)

    def value(self) -> Tensor:
        """Compute the weight, a scalar; 1 where nothing is known."""
        reference, own = self.norms
        known = own > 0
        return torch.where(known, self.share * reference / torch.where(known, own, 1), 1)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def measure(
        self,
        loss: Tensor,
        logits: Tensor,
        target: Tensor,
        ignore_index: int | None,
        name: str = "a loss",
    ) -> None:
        """Add the gradients of a step.

        Args:
            loss: A scalar, or one of each image.
            logits: (N, C, H, W), of which the loss and the cross-entropy are computed.
            target: (N, H, W) integers.
            ignore_index: The void id.
            name: Of the loss, for the warning that it has no gradient.
        """
        void = -100 if ignore_index is None else ignore_index
        parameters = find_parameters(logits)
        reference = F.cross_entropy(logits.float(), target.long(), ignore_index=void)
        norms = torch.stack(
            [gradient_of(x, parameters).norm() for x in (reference, loss.float().mean())]
        )
        shared = torch.distributed.is_available() and torch.distributed.is_initialized()
        if shared:
            torch.distributed.all_reduce(norms)
        # Of a step of void alone, cross-entropy has none.
        usable = norms.isfinite().all()
        self.norms = self.norms.to(norms.device) + torch.where(usable, norms, 0)
        self.steps += 1
        self.measuring = self.steps < MEASURED_STEPS
        first = not shared or torch.distributed.get_rank() == 0
        if first and not self.measuring and not bool(self.norms[1] > 0):
            warnings.warn(
                f"{name} with the weight {AUTO}{self.share:g} had no gradient that could be "
                f"measured in its first {self.steps} steps; it goes on with the weight 1.",
                UserWarning,
                stacklevel=2,
            )

    def state(self) -> list[float]:
        """List what is known, to go on from there with `restore`."""
        return [self.steps, *self.norms.tolist()]

    def restore(self, state: Sequence[float]) -> None:
        """Take over what `state` has listed."""
        self.steps, self.norms = int(state[0]), torch.tensor(state[1:3], dtype=torch.float32)
        self.measuring = self.steps < MEASURED_STEPS


def uncompiled(*, needed: bool) -> AbstractContextManager[None]:
    """Leave compiled networks out of it where gradients are needed several times.

    A compiled graph may be gone through once: what it has kept is overwritten on the way.
    """
    return torch.compiler.set_stance("force_eager") if needed else nullcontext()


def parse_weight(weight: float | str) -> float | AutoWeight:
    """Turn a number, or "auto:SHARE", into a weight.

    Raises:
        ValueError: It is neither.
    """
    share = weight.removeprefix(AUTO) if isinstance(weight, str) else ""
    try:
        number = float(share or weight)
    except (TypeError, ValueError):
        number = math.nan
    auto = isinstance(weight, str) and weight.startswith(AUTO)
    if isinstance(weight, str) != auto or not 0 <= number < math.inf or (auto and not number):
        raise ValueError(
            f"Expected a weight of 0 or more, or 'auto:SHARE' such as 'auto:0.3', but got "
            f"{weight!r}."
        )
    return AutoWeight(number) if auto else number


def find_parameters(output: Tensor) -> list[Tensor]:
    """List the leaves of a tensor's graph that want a gradient: a network's parameters."""
    if output.grad_fn is None:
        return [output]
    seen, waiting, found = set(), [output.grad_fn], []
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [before for before, _ in node.next_functions if before is not None]
    return found


def gradient_of(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Compute the gradient by all parameters as one vector, float32; the graph is kept."""
    found = torch.autograd.grad(
        SCALE * loss, list(parameters), retain_graph=True, allow_unused=True
    )
    scaled = [
        (torch.zeros_like(p) if g is None else g).float().flatten()  # type: ignore[redundant-expr]
        for g, p in zip(found, parameters, strict=True)
    ]
    return torch.cat(scaled) / SCALE


def compare_gradients(loss: Tensor, reference: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]:
    """Compare a loss's gradient by a network's parameters with that of another one.

    Args:
        loss: A scalar.
        reference: Another one, of the same step.
        network: Its parameters that want a gradient count.

    Returns:
        Norm relative to the reference's, and cosine of the angle between them; scalars.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    own, other = (gradient_of(x, parameters) for x in (loss, reference))
    tiny = torch.finfo(torch.float32).tiny
    return (
        own.norm() / other.norm().clamp(min=tiny),
        F.cosine_similarity(own, other, dim=0, eps=tiny),
    )
