"""What all segmentation losses share: checks, void, and the probabilities of present classes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

REDUCTIONS = ("mean", "sum")


@dataclass(frozen=True)
class PresentClasses:
    """The classes that occur in each image of a batch, void left out; M pairs (image, class).

    Attributes:
        image: (M,) index of the image.
        probability: (M, H, W) soft-max probability of the class in the image, 0 on void.
        truth: (M, H, W) of the same type, 1 where the image has the class, else 0.
        other: (M, H, W) of the same type, 1 where it has another class, else 0.
    """

    image: Tensor
    probability: Tensor
    truth: Tensor
    other: Tensor


def check_inputs(
    logits: Tensor, target: Tensor, ignore_index: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Check the two inputs of a loss and bring them into one form.

    Args:
        logits: (N, C, H, W) float.
        target: (N, H, W) integers, 0 … C - 1 or `ignore_index`.
        ignore_index: The void id; None where there is none.

    Returns:
        Logits in float32 at least, target as int64 with 0 on void, and (N, H, W) bool, where it
        is not void.

    Raises:
        TypeError: A tensor has the wrong type.
        ValueError: A tensor has the wrong shape, or the target an id outside the classes.
    """
    if not logits.is_floating_point():
        raise TypeError(f"Expected floating point logits but got {logits.dtype}.")
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(f"Expected an integer target of class ids but got {target.dtype}.")
    if logits.ndim != 4:
        raise ValueError(f"Expected logits (N, C, H, W) but got shape {tuple(logits.shape)}.")
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(target.shape) != expected:
        raise ValueError(
            f"Expected a target of shape {expected} (N, H, W) for logits {tuple(logits.shape)} but "
            f"got {tuple(target.shape)}."
        )
    num_classes = logits.shape[1]
    target = target.long()
    valid = torch.ones_like(target, dtype=torch.bool)
    if ignore_index is not None:
        valid = target != ignore_index
    target = torch.where(valid, target, 0)
    check_ids(target, num_classes, ignore_index)
    _warn_of_probabilities(logits)
    return logits.to(torch.promote_types(logits.dtype, torch.float32)), target, valid


def present_classes(logits: Tensor, target: Tensor, valid: Tensor) -> PresentClasses:
    """Find the classes that occur in each image, with their probabilities and masks.

    Only these are soft-maxed in full: of 150 classes, an image has a handful.

    Args:
        logits: (N, C, H, W), as from `check_inputs`, like the other two.
        target: (N, H, W) int64.
        valid: (N, H, W) bool.
    """
    size, num_classes = logits.shape[:2]
    offset = torch.arange(size, device=target.device)[:, None, None] * num_classes
    counts = torch.bincount((target + offset)[valid], minlength=size * num_classes)
    pairs = counts.nonzero()[:, 0]
    image, label = pairs // num_classes, pairs % num_classes
    log_total = logits.logsumexp(dim=1)
    chosen = logits.flatten(0, 1).index_select(0, pairs)
    probability = (chosen - log_total.index_select(0, image)).exp()
    # Products with 0 and 1: several times as fast as choosing, on the CPU.
    known = valid.to(logits.dtype)[image]
    truth = known * (target[image] == label[:, None, None])
    return PresentClasses(image, probability * known, truth, known - truth)


def class_maps(logits: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Compute soft-max and one-hot target, (N, C, H, W) each, both zero on void."""
    known = valid[:, None].to(logits.dtype)
    probability = logits.softmax(dim=1) * known
    return probability, torch.zeros_like(probability).scatter_(1, target[:, None], known)


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuse an option that isn't one of its choices."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"Expected {name} to be one of {listed} but got {value!r}.")


def mean_where(values: Tensor, counted: Tensor) -> Tensor:
    """Average the elements that count; a zero that keeps the graph where none does."""
    return (values * counted).sum() / counted.sum().clamp(min=1)


# Neither stops torch.compile, which can't look at values.


@torch.compiler.disable  # type: ignore[untyped-decorator]
def check_ids(target: Tensor, num_classes: int, ignore_index: int | None) -> None:
    """Refuse ids outside the classes; the target is 0 on void."""
    if not target.numel():
        return
    lowest, highest = (int(value) for value in torch.aminmax(target))
    if lowest < 0 or highest >= num_classes:
        void = "" if ignore_index is None else f" or {ignore_index} for void"
        raise ValueError(
            f"Expected target ids from 0 to {num_classes - 1} ({num_classes} classes in the "
            f"logits){void} but got {lowest if lowest < 0 else highest}."
        )


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _warn_of_probabilities(logits: Tensor) -> None:
    if not logits.numel():
        return
    height, width = logits.shape[-2:]
    sample = logits.detach()[:, :, :: max(1, height // 4), :: max(1, width // 4)].float()
    if logits.shape[1] > 1 and bool(
        (sample >= 0).all() & ((sample.sum(dim=1) - 1).abs() < 1e-3).all()
    ):
        warnings.warn(
            "The logits look like probabilities (in [0, 1], adding up to 1): pass what comes "
            "before the soft-max; it is taken here.",
            UserWarning,
            # Past torch's wrapper of this function, the check and the loss, at its caller.
            stacklevel=5,
        )
