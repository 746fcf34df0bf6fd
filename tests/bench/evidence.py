"""Fit the weights of `segfix.geometry.evidence` on label maps with ground truth.

    python tests/bench/evidence.py --triple LABELS OFFSETS PREDS [--triple …]

LABELS, OFFSETS (of `segfix predict-offsets`, all with --preds or all without) and PREDS are folders
of PNG files of equal stems.
Every boundary pixel that sees another label ahead is a case: either that label is right, or the
pixel's own (where neither is, it says nothing). A logistic regression on what `fit_offsets` knows
of the pixel gives the weights; each triple counts the same. Also fitted with each folder of LABELS
left out in turn, to see what the rule gains on a data set it wasn't fitted on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from segfix.files import list_entries
from segfix.formats import LABEL_SUFFIXES, read_label_map, read_offset_map
from segfix.geometry.evidence import (
    CONDITIONED_WEIGHTS,
    MAX_DISTANCE,
    THIN,
    WEIGHTS,
    Weights,
    cast_rays,
    ends,
    logit,
    share_on_wrong_side,
    share_wrong_at_changes,
)

VOID = 255
CASES = 20_000
Cases = tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.intp]]


def cases(labels: Path, offsets: Path, preds: Path) -> Cases:
    """(N, 6) features as `Weights` has them after the bias, whether ahead is right, distances."""
    features, right, distances = [], [], []
    for entry in list_entries(preds, LABEL_SUFFIXES, what="label maps"):
        truth = read_label_map(labels / f"{entry.stem}.png").ids()
        label_map = read_label_map(entry.path).ids()
        offset_map = read_offset_map(offsets / f"{entry.stem}.png")
        vectors, confidences = offset_map.vectors(), offset_map.confidence_map()
        unit = max(1, int(np.abs(vectors).max(initial=0)))
        rays = cast_rays(label_map, vectors, MAX_DISTANCE // unit)
        share = (
            share_wrong_at_changes(label_map, confidences)
            if offset_map.conditioned
            else share_on_wrong_side(rays, confidences.ravel()[rays.places], unit)
        )
        there = ends(rays, label_map.shape)
        own, next_label = label_map.ravel()[rays.places], label_map.ravel()[there]
        true = truth.ravel()[rays.places]
        distance = rays.ahead * unit
        told = (rays.ahead > 0) & (true != VOID) & ((own == true) != (next_label == true))
        columns = [
            logit(confidences.ravel()[rays.places]),
            distance * np.log(share),
            (rays.behind > 0) & (rays.behind * unit <= THIN),
            logit(confidences.ravel()[there]),
            distance,
            np.full(len(distance), np.log(share)),
        ]
        features.append(np.stack(columns, 1)[told].astype(float))
        right.append((next_label == true)[told])
        distances.append(distance[told])
    return np.concatenate(features), np.concatenate(right), np.concatenate(distances)


def fit(data: list[Cases], columns: int) -> Weights:
    """Logistic regression on the first features in which each triple counts the same."""
    rng = np.random.default_rng(0)
    chosen = [rng.permutation(len(right))[:CASES] for _, right, _ in data]
    features = np.concatenate([x[c] for (x, _, _), c in zip(data, chosen, strict=True)])
    right = np.concatenate([y[c] for (_, y, _), c in zip(data, chosen, strict=True)])
    weight = np.concatenate([np.full(len(c), CASES / len(c)) for c in chosen])
    model = LogisticRegression(C=1e4, max_iter=1000).fit(features[:, :columns], right, weight)
    return Weights(float(model.intercept_[0]), *(float(value) for value in model.coef_[0]))


def odds(features: NDArray[Any], weights: Weights) -> NDArray[np.float64]:
    """Log-odds of cases."""
    return np.asarray(weights.bias + features @ np.array(weights[1:]))


@click.command()
@click.option("--triple", "triples", type=(Path, Path, Path), multiple=True, required=True)
def main(triples: tuple[tuple[Path, Path, Path], ...]) -> None:
    """Fit and print."""
    data = [cases(*triple) for triple in triples]
    kinds = {read_offset_map(next(offsets.glob("*.png"))).conditioned for _, offsets, _ in triples}
    if len(kinds) > 1:
        raise click.UsageError("offset maps with and without predictions; fit them one by one.")
    (conditioned,) = kinds
    today, columns = (CONDITIONED_WEIGHTS, 6) if conditioned else (WEIGHTS, 3)
    weights = fit(data, columns)
    click.echo("Weights(" + ", ".join(f"{value:.2f}" for value in weights) + ")")
    sets = sorted({labels for labels, _, _ in triples})
    held_out = {
        left_out: fit([d for d, t in zip(data, triples, strict=True) if t[0] != left_out], columns)
        for left_out in sets
        if len(sets) > 1
    }
    click.echo(
        "net gain in pixels: distance 1 alone, up to 2, today's weights, fitted, set left out"
    )
    for (features, right, distance), (labels, _, preds) in zip(data, triples, strict=True):
        rules = {
            "1": distance <= 1,
            "2": distance <= 2,
            "today": odds(features, today) > 0,
            "fitted": odds(features, weights) > 0,
        }
        if held_out:
            rules["left out"] = odds(features, held_out[labels]) > 0
        gains = " ".join(
            f"{name} {np.sum(r * (2.0 * right - 1)):+.0f}" for name, r in rules.items()
        )
        loss = log_loss(right, 1 / (1 + np.exp(-odds(features, weights))), labels=[False, True])
        click.echo(f"{preds}: {gains}; log-loss {loss:.3f}, right {right.mean():.2f}")


if __name__ == "__main__":
    main()
