"""The top of the report: how much was scored, the headline numbers, and what to be wary of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segfix.evaluation.statistics import SCORES
from segfix.report.tables import interval, percent, sure_direction

FEW_IMAGES = 30
"""Fewer give no intervals to rely on."""


@dataclass(frozen=True)
class Card:
    """A headline number, with what it was before and how it differs, if there are two sets."""

    title: str
    value: str
    before: str = ""
    difference: str = ""
    interval: str = ""
    sure: str = ""


def summarize(result: dict[str, Any]) -> str:
    """Tell how much was scored."""
    images, left_out, classes = result["images"], result["left_out"], len(result["classes"])
    void = percent(result["void"] / max(result["pixels"] + result["void"], 1))
    return (
        f"{images:,} image{'s' * (images != 1)} scored{f', {left_out:,} left out' * bool(left_out)}"
        f" · {result['pixels']:,} pixels, and {void} % void, not counted"
        f" · {classes} class{'es' * (classes != 1)}"
    )


def warn_of_few(images: int) -> str:
    """Warn of intervals that rest on few images; empty where there are enough."""
    if images >= FEW_IMAGES:
        return ""
    if images < 2:
        return "No intervals: they take two images at least, and mean something from 30 on."
    return (
        f"Only {images} images: with fewer than {FEW_IMAGES}, intervals are rough and mostly too "
        "narrow."
    )


def headline(result: dict[str, Any]) -> list[Card]:
    """Choose the numbers at the top, in percent, of the second set where there is one."""
    first, *others = result["sets"]
    keys = ("iou", "f_1px", "boundary_iou")
    if not others:
        means = result["sets"][first]["mean"]
        return [Card(SCORES[key], percent(means[key])) for key in (*keys, "pixel_accuracy")]
    second = others[0]
    before, after = (result["sets"][name]["mean"] for name in (first, second))
    change = result["changes"][second]
    cards = [
        difference_card(SCORES[key], percent(after[key]), percent(before[key]), change["mean"][key])
        for key in keys
    ]
    fixed, broken = (
        percent(sum(change["bands"][kind]) / result["pixels"] if result["pixels"] else None)
        for kind in ("fixed", "broken")
    )
    net = change["mean"]["pixel_accuracy"]
    return [*cards, difference_card("fixed − broken", f"{fixed} − {broken}", "", net)]


def difference_card(
    title: str, value: str, before: str, difference: Sequence[float | None]
) -> Card:
    """Make a card of a score with what it was, and [difference, low, high]."""
    number, _, spread = interval(difference).partition(" ")
    return Card(title, value, before, number, spread, sure_direction(difference))
