"""What all segmentation losses share: checks, void, classes present, and the batch axis."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

REDUCTIONS = ("mean", "sum", "none")


def check_inputs(
    logits: Tensor, target: Tensor, ignore_index: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Check the two inputs of a loss and bring them into one form.

    Values are looked at on the CPU alone, outside `torch.compile`; elsewhere the device itself
    stops at an id outside the classes.

    Args:
        logits: (N, C, H, W) float.
        target: (N, H, W) integers, 0 … C - 1 or `ignore_index`.
        ignore_index: The void id; None where there is none.

    Returns:
        Logits in float32 at least and contiguous, target as int64 with 0 on void, and (N, H, W)
        bool, where it is not void.

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
    precision = torch.promote_types(logits.dtype, torch.float32)
    if not looks_at_values(logits):
        target, valid = split_void(target, ignore_index)
        inside = ((target >= 0) & (target < logits.shape[1])).all()
        torch._assert_async(inside, f"a target id outside the {logits.shape[1]} classes")
    else:
        target, valid = check_values(logits, target, ignore_index)
    return logits.to(precision).contiguous(), target, valid


def looks_at_values(logits: Tensor) -> bool:
    """Tell whether Python may branch on values: no device is waited for, no graph broken."""
    return logits.is_cpu and not torch.compiler.is_compiling()


def check_values(logits: Tensor, target: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """Refuse ids outside the classes, and warn of probabilities in the place of logits.

    Returns:
        As `split_void` does.
    """
    target, valid = split_void(target, ignore_index)
    check_ids(target, logits.shape[1], ignore_index)
    _warn_of_probabilities(logits)
    return target, valid


def split_void(target: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """Split a target into ids as int64, 0 on void, and bool, where it is not void."""
    target = target.long()
    if ignore_index is None:
        return target, torch.ones_like(target, dtype=torch.bool)
    valid = target != ignore_index
    return torch.where(valid, target, 0), valid


def class_counts(target: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """Count the pixels of each class in each image: (N, C) int64."""
    counts = valid.new_zeros((len(target), num_classes), dtype=torch.int64)
    return counts.scatter_add_(1, target.flatten(1), valid.flatten(1).long())


def class_slices(counts: Tensor) -> list[tuple[slice, int]]:
    """List which images to look at together, with which class.

    On the CPU each image with each class that it has: maps of a megabyte stay in the cache. On
    other devices all images with every class: to ask for those present would make the host wait.

    Args:
        counts: (N, C) pixels.
    """
    if counts.is_cpu:
        return [(slice(image, image + 1), label) for image, label in counts.nonzero().tolist()]
    return [(slice(None), label) for label in range(counts.shape[1])]


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


def reduce_images(losses: Tensor, valid: Tensor, reduction: str) -> Tensor:
    """Reduce the (N,) losses of images as torch does: "none", "sum" or "mean".

    The mean is over the images that have a pixel, of (N, H, W) bool, which is not void.
    """
    if reduction == "none":
        return losses
    total = losses.sum()
    if reduction == "sum":
        return total
    return total / valid.flatten(1).any(dim=1).sum().clamp(min=1)


class Quarter(NamedTuple):
    """A quarter of each image, with a margin towards the others.

    Attributes:
        logits: (N, C, h, w).
        target: (N, h, w) int64.
        valid: (N, h, w) bool.
        counted: (h, w) bool, what lies in the quarter, not in its margin.
        share: Of the pixels of an image that a mean over the quarter stands for: 1/4, or 1 where
            it is the whole image.
    """

    logits: Tensor
    target: Tensor
    valid: Tensor
    counted: Tensor
    share: float


def choose_quarter(
    logits: Tensor, target: Tensor, valid: Tensor, margin: int, *, whole: bool
) -> Quarter:
    """Choose a random quarter, the same of all images; or take them whole.

    Every pixel lies in one of the four, so that four times a sum over one is, on average, the sum
    over the image.

    Args:
        logits: (N, C, H, W), as from `check_inputs`, like the other two.
        target: (N, H, W).
        valid: (N, H, W).
        margin: Pixels around it that are looked at as well.
        whole: Whether no quarter is wanted.
    """
    height, width = target.shape[1:]
    if whole or min(height, width) < 2:
        counted = valid.new_ones((height, width))
        return Quarter(logits, target, valid, counted, 1.0)
    inside = []
    for axis, length in ((1, height), (2, width)):
        half = (length + 1) // 2
        size = min(length, half + margin)
        second = torch.randint(2, (), device=logits.device)
        places = second * (length - size) + torch.arange(size, device=logits.device)
        inside.append(torch.where(second > 0, places >= half, places < half))
        if looks_at_values(logits):
            # A slice, whose gradient costs less.
            start = int(places[0])
            logits = logits.narrow(axis + 1, start, size)
            target, valid = (maps.narrow(axis, start, size) for maps in (target, valid))
        else:
            logits = logits.index_select(axis + 1, places)
            target, valid = (maps.index_select(axis, places) for maps in (target, valid))
    return Quarter(logits, target, valid, inside[0][:, None] & inside[1], 0.25)


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
            # Past the checks and the loss, at its caller.
            stacklevel=5,
        )
