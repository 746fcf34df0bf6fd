"""Measure how well `segfix audit` finds faults that were planted into label maps.

    python tests/bench/audit.py --set NAME IMAGES LABELS [--set …] [--half second] [--photos 30]

Of every photograph the label map as it is and one with each kind of fault are scored. Then sets are
drawn in which a fifth of the maps has one fault, of a kind chosen at random; they are ranked, and
counted is how many of the first n / 2 and of the first n have one, n being the number of maps that
do. AUC: how often a map with a fault ranks above one of the same set without. Found: how often the
first region of a map lies on its fault. `--half` takes photographs from the first or the second
half of each folder: the score was chosen on first halves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score

import segfix
from segfix.files import list_entries, pair_entries
from segfix.formats import IMAGE_SUFFIXES, LABEL_SUFFIXES, read_image, read_label_map
from segfix.geometry.suspicion import Suspicion, find_suspicion

VOID = 255
DRAWS, PLANTED = 500, 0.2
Map = NDArray[np.integer[Any]]


def pick_region(labels: Map, rng: np.random.Generator, least: float) -> NDArray[np.bool_] | None:
    """A connected region of at least this share of the map, and at most 40 %."""
    found = []
    for label in np.setdiff1d(np.unique(labels), VOID):
        numbered, count = ndimage.label(labels == label)
        sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:] / labels.size
        found += [numbered == i + 1 for i in np.flatnonzero((sizes >= least) & (sizes <= 0.4))]
    return found[rng.integers(len(found))] if found else None


def fill(labels: Map, hole: NDArray[np.bool_], source: NDArray[np.bool_]) -> Map | None:
    """Give a hole the labels nearest to it in the source, but void."""
    source = source & (labels != VOID)
    if not source.any():
        return None
    nearest = ndimage.distance_transform_edt(~source, return_distances=False, return_indices=True)
    filled = labels.copy()
    filled[hole] = labels[tuple(axis[hole] for axis in nearest)]
    return filled


def shift(labels: Map, rng: np.random.Generator, other: Map) -> Map | None:
    """Move the whole map by 3 to 8 px."""
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(3, 8)
    height, width = labels.shape
    rows = np.arange(height) - round(length * np.sin(angle))
    columns = np.arange(width) - round(length * np.cos(angle))
    moved: Map = labels[np.clip(rows, 0, height - 1)][:, np.clip(columns, 0, width - 1)]
    return moved


def resize(labels: Map, rng: np.random.Generator, other: Map) -> Map | None:
    """Grow or shrink one region by 3 to 8 px."""
    region = pick_region(labels, rng, 0.003)
    if region is None:
        return None
    outside, inside = (ndimage.distance_transform_edt(mask) for mask in (~region, region))
    by = rng.integers(3, 9)
    if rng.random() < 0.5:
        grown = (outside <= by) & (labels != VOID)
        return np.where(grown, labels[region][0], labels)
    rim = region & (inside <= by)
    return fill(labels, rim, ~region)


def cut_corner(labels: Map, rng: np.random.Generator, other: Map) -> Map | None:
    """Cut 10 to 25 % off one region by a straight line."""
    region = pick_region(labels, rng, 0.01)
    if region is None:
        return None
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.nonzero(region)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    away = along > np.quantile(along, 1 - rng.uniform(0.1, 0.25))
    hole = np.zeros_like(region)
    hole[rows[away], columns[away]] = True
    return fill(labels, hole, ~region)


def merge(labels: Map, rng: np.random.Generator, other: Map) -> Map | None:
    """Give one region the label of its longest neighbour."""
    region = pick_region(labels, rng, 0.003)
    if region is None or len(np.setdiff1d(labels, VOID)) < 3:
        return None
    ring = ndimage.binary_dilation(region, iterations=2) & ~region & (labels != VOID)
    if not ring.any():
        return None
    return np.where(region, np.bincount(labels[ring].astype(np.intp)).argmax(), labels)


def rename(labels: Map, rng: np.random.Generator, other: Map) -> Map | None:
    """Give one region a label that none of its neighbours has."""
    region = pick_region(labels, rng, 0.003)
    if region is None:
        return None
    near = labels[ndimage.binary_dilation(region, iterations=2)]
    return np.where(region, rng.choice(np.setdiff1d(np.arange(40), near)), labels)


def swap(labels: Map, rng: np.random.Generator, other: Map) -> Map | None:
    """Mirror the map, or take another photograph's."""
    if rng.random() < 0.5:
        return labels[:, ::-1]
    rows, columns = (
        np.arange(here) * there // here
        for here, there in zip(labels.shape, other.shape, strict=True)
    )
    return other[np.ix_(rows, columns)]


FAULTS: dict[str, Callable[[Map, np.random.Generator, Map], Map | None]] = {
    "shifted": shift,
    "resized": resize,
    "corner cut": cut_corner,
    "merged": merge,
    "renamed": rename,
    "swapped": swap,
}
LOCAL = ("resized", "corner cut", "merged")
Scores = dict[str, dict[int, tuple[float, bool]]]


def hits(suspicion: Suspicion, changed: NDArray[np.bool_]) -> bool:
    """Whether the first region lies on the fault."""
    if not suspicion.regions:
        return False
    x, y, width, height = suspicion.regions[0].box
    return bool(changed[y : y + height, x : x + width].any())


def score_set(
    model: segfix.OffsetModel, images: Path, labels: Path, half: str, most: int
) -> Scores:
    """By kind of fault, "" for none, and number of the photograph: the score, and whether found."""
    entries = list_entries(labels, LABEL_SUFFIXES, what="labels")
    middle = len(entries) // 2
    halves = {"first": slice(middle), "second": slice(middle, None), "all": slice(None)}
    entries = entries[halves[half]]
    chosen = np.linspace(0, len(entries) - 1, min(most, len(entries))).round().astype(int)
    photographs = list_entries(images, IMAGE_SUFFIXES, what="photographs")
    pairs = pair_entries([entries[i] for i in chosen], photographs)
    maps = [read_label_map(pair.entry.path).ids() for pair in pairs]
    scores: Scores = defaultdict(dict)
    for number, (pair, truth) in enumerate(zip(pairs, maps, strict=True)):
        assert pair.partner is not None
        image = read_image(pair.partner.path)
        other = maps[(number + len(maps) // 2) % len(maps)]
        for place, kind in enumerate(("", *FAULTS)):
            rng = np.random.default_rng([number, place])
            faulty = FAULTS[kind](truth, rng, other) if kind else truth
            if faulty is None or (kind and np.array_equal(faulty, truth)):
                continue
            wrong = model.offsets(image, faulty).confidence_map()
            suspicion = find_suspicion(faulty, wrong, ignore_index=VOID)
            scores[kind][number] = suspicion.score, hits(suspicion, faulty != truth)
    return scores


def draw_precision(scores: Scores) -> NDArray[np.float64]:
    """Share of planted faults among the first half as many, and as many; means over draws."""
    numbers, rng, shares = list(scores[""]), np.random.default_rng(0), []
    planted = max(1, round(PLANTED * len(numbers)))
    for _ in range(DRAWS):
        faulty = dict.fromkeys(rng.choice(numbers, planted, replace=False).tolist(), "")
        for number in faulty:
            kinds = [kind for kind in FAULTS if number in scores[kind]]
            faulty[number] = kinds[rng.integers(len(kinds))]
        ranked = sorted(numbers, key=lambda n: -scores[faulty.get(n, "")][n][0])
        hit = [n in faulty for n in ranked[:planted]]
        shares.append([np.mean(hit[: -(-planted // 2)]), np.mean(hit)])
    mean: NDArray[np.float64] = np.mean(shares, axis=0)
    return mean


def area(scores: Scores, kind: str) -> float:
    """AUC of a kind of fault against maps without any, percent."""
    clean, faulty = ([one for one, _ in scores[name].values()] for name in ("", kind))
    if not faulty:
        return np.nan
    truth = [0] * len(clean) + [1] * len(faulty)
    return 100 * float(roc_auc_score(truth, clean + faulty))


@click.command()
@click.option("--set", "sets", type=(str, Path, Path), multiple=True, required=True)
@click.option("--half", type=click.Choice(["first", "second", "all"]), default="second")
@click.option("--photos", default=30, show_default=True)
@click.option("--weights", default=None)
def main(
    sets: tuple[tuple[str, Path, Path], ...], half: str, photos: int, weights: str | None
) -> None:
    """Print a row of the table in docs/audit.md for each set."""
    model = segfix.load(weights, device="cpu")
    print(f"| set (photographs) | first n/2 | first n | {' | '.join(FAULTS)} | found |")
    print("|---" * (len(FAULTS) + 4) + "|")
    for name, images, labels in sets:
        scores = score_set(model, images, labels, half, photos)
        half_of, all_of = 100 * draw_precision(scores)
        areas = [area(scores, kind) for kind in FAULTS]
        cells = ["–" if np.isnan(one) else f"{one:.0f}" for one in areas]
        found = [hit for kind in LOCAL for _, hit in scores[kind].values()]
        print(
            f"| {name} ({len(scores[''])}) | {half_of:.0f} % | {all_of:.0f} % | "
            f"{' | '.join(cells)} | {100 * np.mean(found):.0f} % |",
            flush=True,
        )


if __name__ == "__main__":
    main()
