"""The losses of a segmentation network, by their names on the command line."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torch.nn import functional as F

from segfix.errors import SegfixError
from segfix.losses import (
    BoundaryLoss,
    DiceLoss,
    EdgeNetwork,
    EPLLoss,
    LevelSetLoss,
    SemedaLoss,
    SobelLoss,
    edge_network_loss,
)
from segfix.losses.inputs import check_inputs
from segfix.losses.level_set import LEVEL_SET_WEIGHT
from segfix.losses.module import LossModule
from segfix.losses.semeda import SOBEL_WEIGHT
from segfix.training.layouts import VOID


class LovaszLoss(LossModule):
    """Compute the Lovász-Softmax loss of segmentation-models-pytorch as a module like ours.

    A surrogate of 1 - mIoU over the classes present in the whole batch (Berman et al., CVPR 2018).
    """

    def __init__(self, *, ignore_index: int | None = VOID, weight: float | str = 1.0) -> None:
        super().__init__(lovasz_loss, ignore_index=ignore_index, weight=weight)


def lovasz_loss(logits: Tensor, target: Tensor, *, ignore_index: int | None) -> Tensor:
    """Compute it of (N, C, H, W) logits, in [0, 1]; a zero with a gradient where all is void."""
    with torch.autocast(logits.device.type, enabled=False):
        logits, target, valid = check_inputs(logits, target, ignore_index)
        loss = smp.losses.LovaszLoss("multiclass", ignore_index=VOID)
        # Of void alone, it has no value: the sum has.
        found: Tensor = loss(logits.float(), target.masked_fill(~valid, VOID)).sum()
        return found


LOSSES: dict[str, tuple[Callable[..., LossModule], float]] = {
    "level-set": (LevelSetLoss, LEVEL_SET_WEIGHT),
    "semeda": (SemedaLoss, 1.0),
    "epl": (EPLLoss, 1.0),
    "sobel": (SobelLoss, SOBEL_WEIGHT),
    "dice": (DiceLoss, 1.0),
    "lovasz": (LovaszLoss, 1.0),
    "boundary": (BoundaryLoss, 0.1),
}
"""What can be added to the cross-entropy, with its weight λ."""
EDGE_OPTIONS: dict[str, Any] = {"soften": 0.0, "balanced": True}
"""Options of SEMEDA for the training of its edge network: those of `edge_network_loss`."""
RISING = ("boundary",)
"""Losses whose weight rises from 0 to λ during the training, as their paper has it."""


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the mean over what isn't void; a zero with a gradient where all is."""
    total = F.cross_entropy(logits.float(), target, ignore_index=VOID, reduction="sum")
    return total / (target != VOID).sum().clamp(min=1)


def make_loss(name: str, options: Mapping[str, Any]) -> LossModule:
    """Make one of `LOSSES`, its void that of `LabelledImage`."""
    return LOSSES[name][0](ignore_index=VOID, **options)


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a loss doesn't have, or not with these values, before any work is done.

    Args:
        name: One of `LOSSES`.
        options: As the command line has them: numbers, words, true and false, tuples of numbers.

    Raises:
        SegfixError: An option is wrong.
    """
    known = {
        key: parameter.default
        for key, parameter in inspect.signature(LOSSES[name][0]).parameters.items()
        if key not in ("ignore_index", "edge_network", "weight", "reduction")
    }
    if name == "semeda":
        known |= EDGE_OPTIONS
    for key, value in options.items():
        if key not in known:
            listed = ", ".join(known) or "none"
            raise SegfixError(f"loss {name}: no option {key!r}; it has {listed}.")
        default = known[key]
        values = value if isinstance(default, tuple) else (value,)
        wanted: tuple[type, ...]
        if isinstance(default, bool | str):
            wanted, kind = (type(default),), {bool: "true or false", str: "a word"}[type(default)]
        elif isinstance(default, int):
            wanted, kind = (int,), "a whole number"
        else:
            wanted, kind = (int, float), "a number"
        if not isinstance(values, tuple) or any(
            not isinstance(v, wanted)
            or (isinstance(v, bool) and bool not in wanted)
            or (isinstance(v, float) and not math.isfinite(v))
            for v in values
        ):
            several = f"{len(default)} numbers" if isinstance(default, tuple) else kind
            raise SegfixError(f"loss {name}: option {key} is {several}, not {value!r}.")
    try:
        needed = {"edge_network": EdgeNetwork(2)} if name == "semeda" else {}
        own = {key: value for key, value in options.items() if key not in EDGE_OPTIONS}
        loss = make_loss(name, {**own, **needed})
        target = torch.zeros(1, 2, 2, dtype=torch.int64)
        loss(torch.zeros(1, 2, 2, 2), target)
        if name == "semeda":
            of_edges = {key: value for key, value in options.items() if key in EDGE_OPTIONS}
            edge_network_loss(needed["edge_network"], target, ignore_index=VOID, **of_edges)
    except ValueError as error:
        raise SegfixError(f"loss {name}: {error}") from error
