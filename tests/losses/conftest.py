"""A batch for every loss."""

from __future__ import annotations

import pytest
import torch

from tests.losses.every_loss import (
    Batch,
    blocks,
)


@pytest.fixture
def batch() -> Batch:
    """Float64 logits of five classes, the last of which no image shows."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4, 5, 8, 9, generator=generator, dtype=torch.float64)
    return logits, blocks()
