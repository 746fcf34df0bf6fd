"""Loss functions as modules that say their settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class LossModule(nn.Module):
    """Call a loss function with the options that were given once.

    Args:
        function: (N, C, H, W) logits and an (N, H, W) target to a scalar.
        options: Its keyword arguments; `print` shows them.
    """

    def __init__(self, function: Callable[..., Tensor], **options: Any) -> None:
        super().__init__()
        self.function, self.options = function, options

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of (N, C, H, W) logits for an (N, H, W) target."""
        return self.function(logits, target, **self.options)

    def extra_repr(self) -> str:
        """List the options, as they would be written in a call."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())
