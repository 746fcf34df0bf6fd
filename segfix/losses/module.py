"""Loss functions as modules that say their settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from segfix.losses.inputs import check_values
from segfix.losses.weighting import AutoWeight, parse_weight

MEASURED = "measured"
"""Key of a state dict: steps and gradient norms of a weight of auto."""


class LossModule(nn.Module):
    """Call a loss function with the options that were given once, and weigh it.

    Args:
        function: (N, C, H, W) logits and an (N, H, W) target to a loss.
        weight: λ; "auto:0.3": such that the loss has 0.3 of cross-entropy's gradient by the
            parameters that the logits come from, measured over the first steps in training mode.
        options: Keyword arguments of the function; `print` shows them.

    Attributes:
        auto: The measured weight; None where it is a number.

    Raises:
        ValueError: The weight is neither a number of 0 or more nor "auto:SHARE".
    """

    def __init__(
        self, function: Callable[..., Tensor], *, weight: float | str = 1.0, **options: Any
    ) -> None:
        super().__init__()
        self.function, self.options, self.weight = function, options, weight
        parsed = parse_weight(weight)
        self.auto = parsed if isinstance(parsed, AutoWeight) else None
        self.factor = 1.0 if isinstance(parsed, AutoWeight) else parsed
        self.checked = False
        if self.auto:
            self.register_state_dict_post_hook(keep_measured)  # type: ignore[no-untyped-call]
            self.register_load_state_dict_pre_hook(restore_measured)  # type: ignore[no-untyped-call]

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss without its weight."""
        return self.function(logits, target, **self.options)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of (N, C, H, W) logits for an (N, H, W) target, times its weight."""
        void = self.options.get("ignore_index")
        if not (self.checked or logits.is_cpu or torch.compiler.is_compiling()):
            # Once: to look at values, the host waits for the device.
            check_values(logits, target, void)
            self.checked = True
        loss = self.compute(logits, target)
        if self.auto is None:
            return loss if self.factor == 1 else self.factor * loss
        if self.auto.measuring and self.training and loss.requires_grad:
            self.auto.measure(loss, logits, target, void, type(self).__name__)
        return self.auto.value().to(loss) * loss

    def extra_repr(self) -> str:
        """List the options, as they would be written in a call."""
        given = {**self.options, "weight": self.weight}
        return ", ".join(f"{name}={value!r}" for name, value in given.items())


def keep_measured(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Add to a state dict what a weight of auto has measured."""
    state[f"{prefix}{MEASURED}"] = torch.tensor(cast(Any, module).auto.state())


def restore_measured(
    module: nn.Module,
    state: dict[str, Any],
    prefix: str,
    _: Any,
    strict: bool,
    missing: list[str],
    *others: Any,  # noqa: ARG001
) -> None:
    """Take over from a state dict what a weight of auto has measured."""
    found = state.pop(f"{prefix}{MEASURED}", None)
    if found is not None:
        cast(Any, module).auto.restore(found.tolist())
    elif strict:
        missing.append(f"{prefix}{MEASURED}")
