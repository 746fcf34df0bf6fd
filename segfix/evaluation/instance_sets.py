"""Sets of predictions of instances, compared on the same images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from segfix.evaluation.totals import find_interval


def compare_instances(results: Mapping[str, dict[str, Any]], first: str) -> dict[str, Any]:
    """Measure how sets of predictions differ from the first.

    Args:
        results: By name, of `evaluate_instances` with `replicas`, which are taken out.
        first: Name of the first; if it isn't among them, nothing is measured.

    Returns:
        JSON-ready, of each set but the first: `mean` and `class` scores as [difference, low, high],
        the ends of its 95 % confidence interval (Poisson bootstrap over images); None where there
        is none, as of a class that one image alone holds.
    """
    drawn = {name: result.pop("replicas", {}) for name, result in results.items()}
    changes = {}
    for name, result in results.items() if first in results else ():
        if name == first:
            continue
        # Replicas of one image are this image alone, again and again.
        spreads = [drawn[one] if result["images"] > 1 else {} for one in (first, name)]
        changes[name] = {
            "mean": _differences(
                results[first]["mean"], result["mean"], *(s.get("mean", {}) for s in spreads)
            ),
            "class": {
                key: _differences(
                    scores,
                    result["class"][key],
                    *(s.get("class", {}).get(key, {}) for s in spreads),
                )
                for key, scores in results[first]["class"].items()
            },
        }
    return changes


def _differences(
    first: Mapping[str, float | None],
    other: Mapping[str, float | None],
    before: Mapping[str, Any],
    after: Mapping[str, Any],
) -> dict[str, list[float | None]]:
    """Measure [difference, low, high] of each score, by those of the replicas of both sets."""
    differences = {}
    for key, score in first.items():
        value, ends = other[key], [math.nan, math.nan]
        if key in before and score is not None and value is not None:
            ends = find_interval(after[key] - before[key]).tolist()
        change = math.nan if score is None or value is None else value - score
        differences[key] = [None if math.isnan(x) else x for x in (change, *ends)]
    return differences
