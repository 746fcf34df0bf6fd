"""Coarse masks of one object: SegFix beside every free method that takes a mask and a photograph.

    python -m tests.bench.masks --work WORK --set davis=DATA/davis16/val --set camvid=… \
        --tune ecssd --tune camvid

A set is a folder with `images/` and `labels/`. Of each photograph one object, or one class of
several, becomes a mask, and that is perturbed as DAVIS-585 and CascadePSP's training masks were:
outlines simplified to polygons, pieces of them shifted, grown and shrunk in places, by chance but
the same each time, until the IoU lies in one of two bins. It shares no code with the
perturbations that the network was trained on (`segfix.training.perturb`). Each method gets one
setting for all masks: the best on other photographs than those measured, half as many, of the sets
named by --tune. What is in the work folder already is not done again. Needs
`pip install '.[bench]' pymatting`.
"""

from __future__ import annotations

import json
import statistics
import time
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from segfix.evaluation.image_scores import score_image
from segfix.evaluation.statistics import class_scores, mean_scores
from segfix.files import Entry, list_entries
from segfix.formats import IMAGE_SUFFIXES, read_image
from segfix.network.offset_model import OffsetModel
from segfix.network.weights import DEFAULT_WEIGHTS, find_weights
from tests.bench.baselines import F_WEIGHT, Ids, Method, Picture, candidates, parse_named, read_ids
from tests.bench.coarse_predictors import write_label_map
from tests.bench.mask_methods import PEERS, segfix_rows

BINS = {"0.75–0.85": (0.75, 0.85), "0.85–0.95": (0.85, 0.95)}
VOID = 255
AREAS = 0.01, 0.6
"""Shares of the photograph that an object may cover."""
SCORES = "iou", "f_1px", "mba"


# Masks


def redraw(mask: Ids, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Ids:
    """The mask with its outlines, (N, 2) x and y each, changed."""
    outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    drawn = [np.rint(change(one[:, 0])).astype(np.int32)[:, None] for one in outlines]
    return np.asarray(cv2.drawContours(np.zeros_like(mask), drawn, -1, 1, cv2.FILLED))


def simplify(mask: Ids, rng: np.random.Generator, size: float) -> Ids:
    """Polygons in place of outlines."""
    farthest = size * rng.uniform(0.01, 0.04)
    return redraw(mask, lambda outline: cv2.approxPolyDP(outline, farthest, closed=True)[:, 0])


def shift_pieces(mask: Ids, rng: np.random.Generator, size: float) -> Ids:
    """A piece of each outline moved, most in its middle."""

    def shift(outline: NDArray[Any]) -> NDArray[Any]:
        place = np.arange(len(outline)) / len(outline) + rng.random()
        length = rng.uniform(0.05, 0.3)
        along = np.clip(2 * np.abs(place % 1 - 0.5) / length, 0, 1)
        bell = 0.5 + 0.5 * np.cos(np.pi * along)
        return outline + bell[:, None] * rng.normal(0, 0.12 * size, 2)

    return redraw(mask, shift)


def grow_or_shrink(mask: Ids, rng: np.random.Generator, size: float) -> Ids:
    """Dilated or eroded within a disc somewhere on the outline."""
    edge = np.argwhere(cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)))
    centre = rng.choice(edge)
    width = 2 * max(1, round(size * rng.uniform(0.02, 0.12))) + 1
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    changed = (cv2.dilate if rng.random() < 0.5 else cv2.erode)(mask, element)
    distance = np.hypot(*(np.indices(mask.shape) - centre[:, None, None]))
    return np.where(distance < size * rng.uniform(0.1, 0.5), changed, mask)


LOCAL = shift_pieces, grow_or_shrink


def iou(mask: Ids, truth: Ids) -> float:
    """Of a mask with labels 0, 1 and void."""
    found, true = mask[truth != VOID] == 1, truth[truth != VOID] == 1
    return float((found & true).sum() / max((found | true).sum(), 1))


def perturb(truth: Ids, limits: tuple[float, float], rng: np.random.Generator) -> Ids | None:
    """A mask whose IoU with the true labels lies within these limits.

    No outline stays as it was: all become polygons, coarse ones if that leaves enough. Then pieces
    of them change; changes that would go beyond the IoU wanted, drawn from within the limits, are
    smaller the next time. None: it was not reached.
    """
    true = (truth == 1).astype(np.uint8)
    wanted = rng.uniform(limits[0] + 0.01, limits[1] - 0.01)
    size = float(np.sqrt(true.sum()))
    mask: Ids = true
    for shrink in (1, 0.5, 0.25):
        mask = simplify(true, rng, shrink * size)
        if iou(mask, truth) > wanted:
            break
    for _ in range(300):
        before = iou(mask, truth)
        if abs(before - wanted) < 0.01:
            return mask
        changed = LOCAL[rng.integers(len(LOCAL))](mask, rng, size)
        if wanted - 0.01 < iou(changed, truth) < before:
            mask = changed
        else:
            size = max(0.95 * size, 8)
    return None


def choose_object(labels: Ids, rng: np.random.Generator) -> Ids | None:
    """0, 1 and void: the object, or of several classes one by chance that is of middling size."""
    known = labels != VOID
    shares = {int(k): (labels == k).sum() / known.sum() for k in np.unique(labels[known])}
    several = len(shares) > 2
    fit = [k for k, share in shares.items() if (several or k) and AREAS[0] < share < AREAS[1]]
    if not fit:
        return None
    return np.where(known, labels == rng.choice(fit), VOID).astype(np.uint8)


def make_masks(data: Path, work: Path, name: str) -> None:
    """WORK/NAME/labels, and a folder of masks for each bin; photographs that don't do lack."""
    done = work / name / "made.json"
    if done.exists():
        return
    made: dict[str, list[float]] = {}
    for entry in list_entries(data / "images", IMAGE_SUFFIXES, what="images"):
        rng = np.random.default_rng(zlib.crc32(f"{name}/{entry.stem}".encode()))
        truth = choose_object(read_ids(data / "labels" / f"{entry.stem}.png"), rng)
        if truth is None:
            continue
        masks = [m for limits in BINS.values() if (m := perturb(truth, limits, rng)) is not None]
        if len(masks) < len(BINS):
            continue
        write_label_map(work / name / "labels" / f"{entry.stem}.png", truth)
        for (bin_name, (low, high)), mask in zip(BINS.items(), masks, strict=True):
            path = work / name / bin_name / f"{entry.stem}.png"
            write_label_map(path, mask)
            reached = iou(read_ids(path), truth)
            assert low <= reached <= high, (entry.stem, reached)
            made.setdefault(entry.stem, []).append(reached)
    done.write_text(json.dumps(made))


def spread(stems: list[str], count: int) -> list[str]:
    """So many names, evenly spaced."""
    places = np.linspace(0, len(stems) - 1, count).round().astype(int)
    return [stems[k] for k in np.unique(places)]


class Masks:
    """The masks of a set and bin.

    Attributes:
        name: "camvid, 0.75–0.85".
        measured: Names of the photographs measured, evenly spaced.
        tuned_on: Of those that settings are chosen on, half as many of the others.
    """

    def __init__(self, data: Path, work: Path, set_name: str, bin_name: str, limit: int) -> None:
        self.data, self.folder, self.bin_name = data, work / set_name, bin_name
        self.name = f"{set_name}, {bin_name}"
        stems = sorted(json.loads((self.folder / "made.json").read_text()))
        self.measured = spread(stems, limit)
        self.tuned_on = spread([s for s in stems if s not in self.measured], limit // 2)
        self.images = {
            entry.stem: entry for entry in list_entries(data / "images", IMAGE_SUFFIXES, what="")
        }

    def picture(self, stem: str) -> Picture:
        """Photograph and mask."""
        entry: Entry = self.images[stem]
        mask = read_ids(self.folder / self.bin_name / f"{stem}.png")
        nothing: Any = None
        return Picture(read_image(entry.path), mask, nothing, nothing, nothing)

    def score(self, stem: str, mask: Ids) -> dict[str, float]:
        """IoU and boundary F of the object, and mean boundary accuracy, percent."""
        truth = read_ids(self.folder / "labels" / f"{stem}.png")
        scored = score_image(truth, [mask])
        place = int(np.flatnonzero(scored.classes == 1)[0])
        own = class_scores(scored.statistics[0])
        found = {key: own[key][place] for key in ("iou", "f_1px")}
        found["mba"] = mean_scores(scored.statistics[0])["mba"]
        return {key: 100 * float(value) for key, value in found.items()}


# Settings


def tune(method: Method, masks: list[Masks], file: Path, count: int) -> dict[str, Any]:
    """The best of some settings, then value by value as long as that is better."""
    gains: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}

    def run(setting: dict[str, Any]) -> float:
        key = json.dumps(setting, sort_keys=True)
        if key not in gains:
            differences = []
            for one in masks:
                for stem in one.tuned_on:
                    picture = one.picture(stem)
                    before = one.score(stem, picture.label_map)
                    after = one.score(stem, method.run(picture, **setting)[-1])
                    change = {name: after[name] - before[name] for name in SCORES}
                    differences.append(change["iou"] + F_WEIGHT * change["f_1px"])
            gains[key] = statistics.mean(differences)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(gains, indent=1))
        return gains[key]

    tried = [method.first] if method.first else candidates(method.space, count)
    best = max(tried, key=run)
    for name, values in method.space.items():
        for step in (-1, 1):
            at = list(values).index(best[name]) + step
            while 0 <= at < len(values) and run({**best, name: values[at]}) > run(best):
                best = {**best, name: values[at]}
                at += step
    return best


# Measuring


def measure(
    name: str, run: Callable[[Picture], Ids], setting: Any, masks: Masks, work: Path
) -> dict[str, dict[str, float]]:
    """Scores and CPU seconds per megapixel of a method by photograph; maps are kept."""
    file = work / "scores" / name / f"{masks.name}.json"
    known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if known.get("setting") != setting:
        known = {"setting": setting}
    rows: dict[str, dict[str, float]] = {stem: known.get(stem, {}) for stem in masks.measured}
    for stem, row in rows.items():
        if row:
            continue
        picture = masks.picture(stem)
        start = time.process_time()
        found = run(picture)
        seconds = time.process_time() - start
        row.update(masks.score(stem, found), seconds=seconds / found.size * 1e6)
        write_label_map(work / "maps" / name / masks.name / f"{stem}.png", found)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(known | rows, indent=1))
    return rows


Rows = Mapping[str, dict[str, dict[str, float]]]
"""Of a method: by set and bin and by photograph."""


def table(results: Mapping[str, Rows], bin_name: str) -> str:
    """Markdown: a row per method, a column per set."""
    names = [name for name in next(iter(results.values())) if name.endswith(bin_name)]
    first = results["mask"]

    def values(rows: Rows, name: str, key: str) -> NDArray[Any]:
        return np.array([row[key] for row in rows[name].values()])

    sets = [f"{name.partition(',')[0]} ({len(first[name])})" for name in names]
    head = ["masks of IoU " + bin_name, *sets, "mBA", "images worse", "CPU s / megapixel"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method, rows in results.items():
        change = {
            key: [values(rows, name, key) - values(first, name, key) for name in names]
            for key in SCORES
        }
        if method == "mask":
            means = [[values(rows, name, key).mean() for name in names] for key in SCORES]
            cells = [f"{a:.2f} / {b:.2f}" for a, b in zip(*means[:2], strict=True)]
            cells += [f"{statistics.mean(means[2]):.2f}", "", ""]
        else:
            cells = [
                f"{a.mean():+.2f} / {b.mean():+.2f}"
                for a, b in zip(change["iou"], change["f_1px"], strict=True)
            ]
            cells.append(f"{statistics.mean(float(one.mean()) for one in change['mba']):+.2f}")
            worse = [100 * (np.concatenate(change[key]) < -1e-9).mean() for key in SCORES[:2]]
            cells.append(" / ".join(f"{share:.0f} %" for share in worse))
            seconds = np.concatenate([values(rows, name, "seconds") for name in names])
            cells.append(f"{np.median(seconds):.2f}")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--set", "sets", multiple=True, required=True, callback=parse_named, help="NAME=DIR")
@click.option("--tune", "tuned_on", multiple=True, help="NAME of sets to choose settings on.")
@click.option("--limit", default=16, show_default=True, help="Photographs of a set.")
@click.option("--trials", default=12, show_default=True, help="Settings tried first.")
@click.option("--weights", default=DEFAULT_WEIGHTS, show_default=True)
@click.option("--only", multiple=True, help="Rows whose name contains this.")
def main(
    work: Path,
    sets: dict[str, Path],
    tuned_on: tuple[str, ...],
    limit: int,
    trials: int,
    weights: str,
    only: tuple[str, ...],
) -> None:
    """Compare."""
    cv2.setNumThreads(1)
    for name, data in sets.items():
        make_masks(data, work, name)
    masks = [
        Masks(data, work, name, bin_name, limit) for bin_name in BINS for name, data in sets.items()
    ]
    chosen = [one for one in masks if one.name.partition(",")[0] in tuned_on]
    model = OffsetModel(find_weights(weights), "cpu", threads=1)
    rows: dict[str, Callable[[Picture], Ids]] = {
        "mask": lambda picture: picture.label_map,
        **segfix_rows(model),
    }
    results = {}
    for name in (*rows, *PEERS):
        if only and name != "mask" and not any(text in name for text in only):
            continue
        run = rows.get(name)
        setting: Any = model.digest
        if run is None:
            file = work / "tuned" / f"{name}.json"
            setting = tune(PEERS[name], chosen, file, trials)
            click.echo(f"{name}: {json.dumps(setting)}", err=True)
            run = partial(run_last, PEERS[name], setting)
        results[name] = {one.name: measure(name, run, setting, one, work) for one in masks}
    for bin_name in BINS:
        click.echo(f"\n{table(results, bin_name)}")


def run_last(method: Method, setting: dict[str, Any], picture: Picture) -> Ids:
    """Of the variants of a method the last."""
    return method.run(picture, **setting)[-1]


if __name__ == "__main__":
    main()
