"""SegFix beside what people use otherwise: filters, superpixels, DenseCRF, an ensemble, a ceiling.

    OPTIONS="--work WORK --set camvid=DATA/camvid/val --preds camvid/fpn=runs/coarse/fpn …"
    python -m tests.bench.baselines $OPTIONS prepare
    python -m tests.bench.baselines $OPTIONS tune --method "DenseCRF"
    python -m tests.bench.baselines $OPTIONS measure
    python -m tests.bench.baselines $OPTIONS table
    python -m tests.bench.baselines $OPTIONS speed --picture camvid/unet --partner fpn

A set is a folder with `images/` and `labels/`; a folder of predictions holds PNG label maps and,
where the network is ours (tests/bench/coarse_predictors.py), its `model.safetensors`: it then gives
soft-max probabilities, too. `tune` looks for one setting per method on some photographs of all
sets given; without it, those that were found are taken. `measure` writes and scores the label maps
of all methods. What is in the work folder already is not done again. Needs
`pip install '.[bench]'`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from segfix.evaluation import evaluate_folders
from segfix.files import Entry, Pair, list_entries, pair_entries
from segfix.formats import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    OffsetMap,
    read_image,
    read_label_map,
    read_offset_map,
)
from segfix.jobs.task import Skipped
from segfix.network.offset_model import OffsetModel, load
from segfix.network.weights import DEFAULT_WEIGHTS, find_weights
from segfix.refinement.apply import refine
from segfix.tasks.ground_truth import target_task
from segfix.tasks.in_memory import keep_model
from segfix.tasks.predict_offsets import predict_task
from tests.bench.coarse_predictors import NETWORKS, normalise, write_label_map

SECOND_WEIGHTS = "hrnet_w18_small_2x"
TRUTH = "ground truth"
ITERATIONS = (5, 10)
F_WEIGHT = 0.2
"""Of Δ F@1px beside Δ mIoU, when a setting is chosen."""

Ids = NDArray[np.uint8]
Soft = NDArray[np.float32]
Setting = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """What a method may look at.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        label_map: (H, W) ids that a network predicted.
        soft: Gives (C, H, W) probabilities of that network, or of the partner named.
        offsets: Gives the offset map of the weights named.
        look: Gives the offset map that conditioned weights make for a label map.
    """

    image: NDArray[np.uint8]
    label_map: Ids
    soft: Callable[[str], Soft]
    offsets: Callable[[str], OffsetMap]
    look: Callable[[Ids], OffsetMap]


@dataclass(frozen=True)
class Method:
    """Something that has settings.

    Attributes:
        run: From a picture and a setting to one label map per variant.
        space: The values tried for each setting, in order.
        variants: Endings of the name; each has a best setting of its own.
        first: The first setting tried.
    """

    run: Callable[..., list[Ids]]
    space: Mapping[str, Sequence[Any]]
    variants: tuple[str, ...] = ("",)
    first: Setting | None = None


@dataclass(frozen=True)
class Predictor:
    """A network's label maps of a set, and the name of the weights that refine them."""

    name: str
    preds: Path
    data: Path
    work: Path
    refiner: str

    @property
    def set_name(self) -> str:
        return self.name.partition("/")[0]

    @property
    def weights(self) -> Path:
        return self.preds / "model.safetensors"

    def photographs(self, part: slice = slice(None)) -> list[Entry]:
        """Of a part of the set, those that have a label map."""
        entries = list_entries(self.data / "images", IMAGE_SUFFIXES, what="images")[part]
        return [entry for entry in entries if (self.preds / f"{entry.stem}.png").exists()]

    def picture(self, photograph: Entry) -> Picture:
        """Read."""
        stem = photograph.stem
        set_folder = self.work / "soft" / self.set_name

        def soft(partner: str = "") -> Soft:
            folder = set_folder / (partner or self.name.partition("/")[2])
            stored: NDArray[np.float16] = np.load(folder / f"{stem}.npy")
            return stored.astype(np.float32)

        @cache
        def offsets(source: str) -> OffsetMap:
            path = offsets_folder(self, source) / f"{stem}.png"
            if path.exists() or source == TRUTH:
                return read_offset_map(path)
            return keep_model(source, "cpu").offsets(image)

        image = read_image(photograph.path)
        look = partial(keep_model(self.refiner, "cpu").offsets, image)
        return Picture(image, read_ids(self.preds / f"{stem}.png"), soft, offsets, look)

    def score(self, folder: Path, stems: Sequence[str]) -> dict[str, float]:
        """Percent."""
        result = score(self.data / "labels", folder, stems)
        return {"miou": 100 * result["iou"], "f1": 100 * result["f_1px"]}


def read_ids(path: Path) -> Ids:
    """Of a label map file."""
    return read_label_map(path).ids().astype(np.uint8)


def offsets_folder(predictor: Predictor, source: str) -> Path:
    """Where a set's offset maps lie."""
    return predictor.work / "offsets" / source.replace(" ", "-") / predictor.set_name


def score(labels: Path, preds: Path, stems: Sequence[str]) -> dict[str, Any]:
    """Scores in [0, 1] of the label maps of these names; none may be missing."""
    chosen = set(stems)
    truth, found = (
        [e for e in list_entries(folder, LABEL_SUFFIXES, what="label maps") if e.stem in chosen]
        for folder in (labels, preds)
    )
    comparison = evaluate_folders({"": pair_entries(truth, found)})
    if comparison.failed:
        raise SystemExit("\n".join(comparison.failed))
    means: dict[str, Any] = comparison.result()["sets"][""]["mean"]
    return means


# Methods


def one_hot(label_map: Ids) -> tuple[NDArray[Any], Soft]:
    """The ids that occur, and a (C, H, W) mask for each."""
    ids = np.unique(label_map)
    return ids, (label_map == ids[:, None, None]).astype(np.float32)


def majority_filter(picture: Picture, *, radius: int) -> list[Ids]:
    """The most frequent id of a disc."""
    from skimage.filters.rank import majority
    from skimage.morphology import disk

    footprint = disk(radius)  # type: ignore[no-untyped-call]
    return [majority(picture.label_map, footprint)]  # type: ignore[no-untyped-call]


def median_filter(picture: Picture, *, radius: int) -> list[Ids]:
    """The median of each id's mask in a square; where no id has more than half, the pixel's own."""
    import cv2

    found = picture.label_map.copy()
    for value in np.unique(picture.label_map):
        mask = (picture.label_map == value).astype(np.uint8)
        found[cv2.medianBlur(mask, 2 * radius + 1) > 0] = value
    return [found]


def guided(masks: Soft, image: NDArray[np.uint8], radius: int, eps: float) -> NDArray[np.intp]:
    """Arg-max of masks after the guided filter, with the photograph as guide."""
    import cv2

    # In units of 255: of values in [0, 1], OpenCV takes most covariances for singular.
    guide = cv2.ximgproc.createGuidedFilter(image, radius, eps * 255**2)
    smooth: Soft = np.stack([guide.filter(mask) for mask in masks])
    winners: NDArray[np.intp] = smooth.argmax(0)
    return winners


def guided_labels(picture: Picture, *, radius: int, eps: float) -> list[Ids]:
    """The guided filter of each id's mask."""
    ids, masks = one_hot(picture.label_map)
    return [ids[guided(masks, picture.image, radius, eps)]]


def guided_soft(picture: Picture, *, radius: int, eps: float) -> list[Ids]:
    """The guided filter of probabilities."""
    return [guided(picture.soft(""), picture.image, radius, eps).astype(np.uint8)]


def superpixels(picture: Picture, *, area: int, compactness: float) -> list[Ids]:
    """The most frequent id of each SLIC superpixel."""
    from skimage.segmentation import slic

    segments = slic(
        picture.image,
        n_segments=picture.label_map.size // area,
        compactness=compactness,
        start_label=0,
    )
    ids, index = np.unique(picture.label_map, return_inverse=True)
    cells = segments.ravel() * len(ids) + index.ravel()
    votes = np.bincount(cells, minlength=(int(segments.max()) + 1) * len(ids))
    return [ids[votes.reshape(-1, len(ids)).argmax(1)[segments]]]


def dense_crf(
    image: NDArray[np.uint8],
    unary: NDArray[np.floating[Any]],
    *,
    sxy: float,
    srgb: float,
    compat: float,
    near_sxy: float,
    near_compat: float,
    iterations: Sequence[int] = ITERATIONS,
) -> list[NDArray[np.intp]]:
    """Arg-max after these numbers of iterations, of (C, H · W) energies."""
    from pydensecrf.densecrf import DenseCRF2D

    height, width = image.shape[:2]
    crf = DenseCRF2D(width, height, len(unary))
    crf.setUnaryEnergy(np.ascontiguousarray(unary, np.float32))
    crf.addPairwiseGaussian(sxy=near_sxy, compat=near_compat)
    crf.addPairwiseBilateral(sxy=sxy, srgb=srgb, rgbim=np.ascontiguousarray(image), compat=compat)
    found = []
    beliefs, *buffers = crf.startInference()
    for k in range(1, max(iterations) + 1):
        crf.stepInference(beliefs, *buffers)
        if k in iterations:
            found.append(np.array(beliefs).argmax(0).reshape(height, width))
    return found


def crf_labels(picture: Picture, *, certainty: float, **kernels: Any) -> list[Ids]:
    """DenseCRF of a label map: each pixel's id has this probability, the others share the rest."""
    from pydensecrf.utils import unary_from_labels

    ids, index = np.unique(picture.label_map, return_inverse=True)
    if len(ids) == 1:
        return [picture.label_map] * len(ITERATIONS)
    if len(ids) == 2:
        # One other id would get all the rest, and at 0.5 the map would say nothing: of two, the
        # pixel's own is as much more probable than the other as of ten.
        certainty = 9 * certainty / (9 * certainty + 1 - certainty)
    unary = unary_from_labels(index.ravel(), len(ids), certainty, zero_unsure=False)
    return [ids[found] for found in dense_crf(picture.image, unary, **kernels)]


def crf_soft(picture: Picture, *, temperature: float, **kernels: Any) -> list[Ids]:
    """DenseCRF of probabilities."""
    soft = picture.soft("")
    energy = -np.log(np.maximum(soft, 1e-5)) / temperature
    found = dense_crf(picture.image, energy.reshape(len(soft), -1), **kernels)
    return [ids.astype(np.uint8) for ids in found]


def segfix(picture: Picture, label_map: Ids, source: str, scale: float | None = None) -> Ids:
    """`segfix refine`."""
    return refine(label_map, picture.offsets(source), scale=scale)


KERNELS = {
    "sxy": (3, 5, 10, 20, 40, 80, 160),
    "srgb": (2, 3, 5, 8, 13, 20, 30),
    "compat": (0.5, 1, 2, 4, 8, 16, 32),
    "near_sxy": (0.5, 1, 2, 3, 5, 8),
    "near_compat": (0.25, 0.5, 1, 2, 4, 8),
}
SHADES = {"radius": (1, 2, 4, 8, 12, 16, 24), "eps": (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)}
NUMBERS = tuple(f", {k} iterations" for k in ITERATIONS)
METHODS = {
    "majority filter": Method(majority_filter, {"radius": (1, 2, 3, 4, 5, 6, 8, 10)}),
    "median filter": Method(median_filter, {"radius": (1, 2, 3, 4, 5, 6, 8, 10)}),
    "guided filter": Method(guided_labels, SHADES),
    "guided filter of soft-max": Method(guided_soft, SHADES),
    "SLIC majority": Method(
        superpixels,
        {"area": (8, 16, 32, 64, 128, 256, 512), "compactness": (0.3, 1, 3, 10, 30, 100)},
    ),
    "DenseCRF": Method(
        crf_labels,
        {"certainty": (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95), **KERNELS},
        NUMBERS,
        {"certainty": 0.6, "sxy": 10, "srgb": 8, "compat": 8, "near_sxy": 2, "near_compat": 0.5},
    ),
    "DenseCRF of soft-max": Method(
        crf_soft, {"temperature": (0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5), **KERNELS}, NUMBERS
    ),
}
EXAMPLE = {"certainty": 0.7, "sxy": 80, "srgb": 13, "compat": 10, "near_sxy": 3, "near_compat": 3}
"""Of DenseCRF's own example program."""
NARROW = {"certainty": 0.5, "sxy": 10, "srgb": 8}
CHOSEN: dict[str, list[Setting]] = {
    "median filter": [{"radius": 1}],
    "majority filter": [{"radius": 1}],
    "guided filter": [{"radius": 12, "eps": 1e-4}],
    "SLIC majority": [{"area": 8, "compactness": 10}],
    "DenseCRF": [
        {**NARROW, "compat": 16, "near_sxy": 2, "near_compat": 0.5},
        {**NARROW, "compat": 8, "near_sxy": 1, "near_compat": 0.5},
    ],
}
"""What `tune` found for each variant, for all sets; taken where the work folder holds nothing."""


# Choosing settings


@dataclass
class Trials:
    """Gains of settings, kept in a file.

    Attributes:
        gains: By setting and predictor: Δ mIoU + 0.2 Δ F@1px of each variant.
        inputs: By predictor: scores of the predictions themselves.
    """

    method: Method
    predictors: list[Predictor]
    file: Path
    gains: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    inputs: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if self.file.exists():
            for line in self.file.read_text().splitlines():
                setting, name, gains = json.loads(line)
                self.gains[setting, name] = gains

    def run(self, setting: Setting) -> None:
        """Try a setting."""
        text = json.dumps(setting)
        for predictor in self.predictors:
            key = text, predictor.name
            if key not in self.gains:
                self.gains[key] = self.measure(predictor, setting)
                with self.file.open("a") as file:
                    file.write(json.dumps([*key, self.gains[key]]) + "\n")
        means = [self.mean(text, variant) for variant in range(len(self.method.variants))]
        print(f"{text} {np.round(means, 3)}", flush=True)

    def measure(self, predictor: Predictor, setting: Setting) -> list[float]:
        """Gain of each variant over one predictor."""
        # Few photographs, but each network of a set has others.
        start = 5 + 12 * (self.predictors.index(predictor) % 4)
        photographs = predictor.photographs(slice(start, None, 48))
        stems = [entry.stem for entry in photographs]
        if predictor.name not in self.inputs:
            self.inputs[predictor.name] = predictor.score(predictor.preds, stems)
        scratch = self.file.with_suffix(".scratch")
        for entry in photographs:
            maps = self.method.run(predictor.picture(entry), **setting)
            for k, found in enumerate(maps):
                write_label_map(scratch / f"{k}" / f"{entry.stem}.png", found)
        before, gains = self.inputs[predictor.name], []
        for k in range(len(self.method.variants)):
            scores = predictor.score(scratch / f"{k}", stems)
            gains.append(scores["miou"] - before["miou"] + F_WEIGHT * (scores["f1"] - before["f1"]))
        shutil.rmtree(scratch)
        return gains

    def mean(self, setting: str, variant: int, set_name: str = "") -> float:
        """Over the predictors, of one set or of all."""
        names = [p.name for p in self.predictors if set_name in ("", p.set_name)]
        return statistics.mean(self.gains[setting, name][variant] for name in names)

    def best(self, variant: int, set_name: str = "") -> Setting:
        """The setting with the largest mean, among those tried with all predictors."""
        last = self.predictors[-1].name
        tried = [text for text, name in self.gains if name == last]
        best: Setting = json.loads(max(tried, key=lambda t: self.mean(t, variant, set_name)))
        return best


def candidates(space: Mapping[str, Sequence[Any]], count: int, seed: int = 0) -> list[Setting]:
    """All settings, or so many of them at random, from inside the ranges."""
    inner = {name: values[1:-1] for name, values in space.items()}
    if np.prod([len(values) for values in inner.values()]) <= count:
        return [dict(zip(inner, values, strict=True)) for values in product(*inner.values())]
    rng = np.random.default_rng(seed)
    draws = [{k: v[int(rng.integers(len(v)))] for k, v in inner.items()} for _ in range(count)]
    return [json.loads(text) for text in dict.fromkeys(json.dumps(draw) for draw in draws)]


def climb(trials: Trials) -> None:
    """From the best setting known, change one value after the other as long as that is better."""
    variant = len(trials.method.variants) - 1
    for name, values in trials.method.space.items():
        for step in (-1, 1):
            best = trials.best(variant)
            at = list(values).index(best[name]) + step
            while 0 <= at < len(values):
                setting = {**best, name: values[at]}
                trials.run(setting)
                if trials.best(variant) != setting:
                    break
                at += step


def choose(trials: Trials, count: int, rounds: int) -> dict[str, Any]:
    """The best setting of each variant, for all sets together and for each alone.

    Some settings at random, then one value after the other while that is better.
    """
    groups = ["", *sorted({predictor.set_name for predictor in trials.predictors})]
    first = [trials.method.first] if trials.method.first else []
    known = map(json.loads, dict.fromkeys(text for text, _ in trials.gains))
    for setting in [*first, *candidates(trials.method.space, count), *known]:
        trials.run(setting)
    for _ in range(rounds):
        climb(trials)
    return {
        "tried": len({text for text, _ in trials.gains}),
        "predictors": [predictor.name for predictor in trials.predictors],
        "best": {
            ending: {group or "all": trials.best(variant, group) for group in groups}
            for variant, ending in enumerate(trials.method.variants)
        },
    }


# Rows of the table


@dataclass(frozen=True)
class Row:
    """A method with its setting.

    Attributes:
        run: From a picture and the maps of the rows before to a label map.
        setting: Tells the maps of one setting from those of another.
        soft: Whether it needs probabilities.
    """

    run: Callable[[Picture, dict[str, Ids]], Ids]
    setting: Any = None
    soft: bool = False

    def folder(self, name: str) -> str:
        digest = hashlib.sha256(json.dumps(self.setting).encode()).hexdigest()[:6]
        return "-".join(name.replace(",", "").replace("→", "to").split()) + f"-{digest}"


def variant_of(method: Method, variant: int, setting: Setting) -> Callable[[Picture], Ids]:
    """A method with its setting, and of several variants one alone."""
    several = len(method.variants) > 1
    alone = {"iterations": (ITERATIONS[variant],)} if several else {}
    return lambda picture: method.run(picture, **setting, **alone)[-1]


def tuned_row(method: Method, variant: int, setting: Setting, *, soft: bool) -> Row:
    """Of a method with settings."""
    run = variant_of(method, variant, setting)
    return Row(lambda picture, _: run(picture), setting, soft)


def segfix_row(source: str, scale: float | None = None) -> Row:
    """Of the prediction itself."""
    digest = None if source == TRUTH else keep_model(source, "cpu").digest
    return Row(lambda picture, _: segfix(picture, picture.label_map, source, scale), digest)


def look_row(source: str, name: str = "") -> Row:
    """Conditioned SegFix of the prediction or of another row's map."""

    def run(picture: Picture, done: dict[str, Ids]) -> Ids:
        label_map = done[name] if name else picture.label_map
        return refine(label_map, picture.look(label_map))

    return Row(run, keep_model(source, "cpu").digest)


def after(name: str, row: Row, source: str) -> Row:
    """SegFix of another row's map."""
    setting = [row.setting, keep_model(source, "cpu").digest]
    return Row(lambda p, done: segfix(p, done[name], source), setting, row.soft)


def ensemble_row(partner: str) -> Row:
    """Mean probabilities of two networks."""
    return Row(lambda p, _: (p.soft("") + p.soft(partner)).argmax(0).astype(np.uint8), soft=True)


def rows_of(predictor: Predictor, partners: Sequence[str]) -> dict[str, Row]:
    """All rows that a predictor can have; of methods with settings, those that are tuned."""
    rows: dict[str, Row] = {}
    for name, method in METHODS.items():
        soft = name.endswith("soft-max")
        tuned = predictor.work / "tuned" / f"{name}.json"
        if tuned.exists():
            best = json.loads(tuned.read_text())["best"]
        elif name in CHOSEN:
            settings = zip(method.variants, CHOSEN[name], strict=True)
            best = {ending: {"all": setting} for ending, setting in settings}
        else:
            continue
        for variant, ending in enumerate(method.variants):
            by_set = dict(best[ending])
            rows[name + ending] = tuned_row(method, variant, by_set["all"], soft=soft)
            if variant == 1 and predictor.set_name in by_set:
                own = by_set[predictor.set_name]
                rows[f"{name}{ending}, tuned per set"] = tuned_row(method, variant, own, soft=soft)
    last = len(ITERATIONS) - 1
    if "DenseCRF" + NUMBERS[last] in rows:
        rows[f"DenseCRF{NUMBERS[last]}, its example's parameters"] = tuned_row(
            METHODS["DenseCRF"], last, EXAMPLE, soft=False
        )
    for partner in partners:
        rows[f"ensemble with {partner}"] = ensemble_row(partner)
    weights = predictor.refiner
    conditioned = keep_model(weights, "cpu").conditioned
    rows["SegFix"] = segfix_row(weights)
    if conditioned:
        rows["SegFix, --preds"] = look_row(weights)
    rows["SegFix, the paper's scale 2"] = segfix_row(weights, 2)
    rows[f"SegFix, {SECOND_WEIGHTS}"] = segfix_row(SECOND_WEIGHTS)
    first = ["DenseCRF" + NUMBERS[last], "DenseCRF of soft-max" + NUMBERS[last]]
    for name in [*first, *(f"ensemble with {partner}" for partner in partners)]:
        if name in rows:
            rows[f"{name} → SegFix"] = after(name, rows[name], weights)
    if conditioned and first[0] in rows:
        rows[f"{first[0]} → SegFix, --preds"] = look_row(weights, first[0])
    rows["ground-truth offsets"] = segfix_row(TRUTH)
    rows["ground-truth offsets, scale 2"] = segfix_row(TRUTH, 2)
    return {name: row for name, row in rows.items() if predictor.weights.exists() or not row.soft}


def measure_predictor(
    predictor: Predictor, rows: dict[str, Row], part: slice
) -> dict[str, dict[str, float]]:
    """Scores of all rows over a part of the set; their maps are kept."""
    photographs = predictor.photographs(part)
    home = predictor.work / "maps" / predictor.name
    folders = {name: home / row.folder(name) for name, row in rows.items()}
    for entry in photographs:
        picture = predictor.picture(entry)
        done: dict[str, Ids] = {}
        for name, row in rows.items():
            path = folders[name] / f"{entry.stem}.png"
            if path.exists():
                done[name] = read_ids(path)
            else:
                done[name] = row.run(picture, done)
                write_label_map(path, done[name])
    stems = [entry.stem for entry in photographs]
    return {
        name: predictor.score(folder, stems)
        for name, folder in {"input": predictor.preds, **folders}.items()
    }


# Command line


def parse_named(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, Path]:
    """NAME=DIR options to a dictionary."""
    return {name: Path(folder) for name, _, folder in (v.partition("=") for v in values)}


@click.group()
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--set", "sets", multiple=True, required=True, callback=parse_named, help="NAME=DIR")
@click.option("--preds", multiple=True, required=True, callback=parse_named, help="SET/NAME=DIR")
@click.option("--weights", default=DEFAULT_WEIGHTS, show_default=True)
@click.pass_context
def main(
    context: click.Context, work: Path, sets: dict[str, Path], preds: dict[str, Path], weights: str
) -> None:
    """Compare."""
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    context.obj = [
        Predictor(name, folder, sets[name.partition("/")[0]], work, weights)
        for name, folder in preds.items()
    ]


def read_network(weights: Path) -> torch.nn.Module:
    """A network of coarse_predictors; its folder has its name."""
    with safe_open(weights, "pt") as stored:
        num_classes = int(stored.metadata()["num_classes"])
    network = NETWORKS[weights.parent.name][0](num_classes)
    network.load_state_dict(load_file(weights))
    return network.eval().to(memory_format=torch.channels_last)


@torch.inference_mode()
def probabilities(network: torch.nn.Module, image: NDArray[np.uint8]) -> Soft:
    """(C, H, W), computed as coarse_predictors does."""
    pixels = normalise(np.asarray(image, np.float32) / 255)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(pixels[None].contiguous(memory_format=torch.channels_last))
    soft: Soft = logits[0].float().softmax(0).numpy()
    return soft


@main.command()
@click.pass_obj
def prepare(predictors: list[Predictor]) -> None:
    """Probabilities of the networks, and offset maps."""
    models = [load(predictors[0].refiner), load(SECOND_WEIGHTS)]
    for predictor in predictors:
        for entry in predictor.photographs():
            labels = Entry(predictor.data / "labels" / f"{entry.stem}.png", entry.stem)
            jobs: list[Callable[[], Any]] = [
                partial(
                    predict_task(model).do,
                    Pair(entry, None),
                    offsets_folder(predictor, model.metadata["name"]),
                )
                for model in models
            ]
            task = target_task(
                num_directions=models[0].num_directions, boundary_width=5, ignore_index=255
            )
            jobs.append(partial(task.do, labels, offsets_folder(predictor, TRUTH)))
            for job in jobs:
                try:
                    job()
                except Skipped:
                    continue
        if not predictor.weights.exists():
            continue
        network = read_network(predictor.weights)
        other = total = 0
        for entry in predictor.photographs():
            path = predictor.work / "soft" / predictor.name / f"{entry.stem}.npy"
            if not path.exists():
                soft = probabilities(network, read_image(entry.path))
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, soft.astype(np.float16))
                label_map = read_ids(predictor.preds / f"{entry.stem}.png")
                other += int((soft.argmax(0) != label_map).sum())
                total += label_map.size
        if total:
            click.echo(f"{predictor.name}: {other / total:.1e} of the pixels differ from the maps")


@main.command()
@click.option("--method", "names", type=click.Choice(list(METHODS)), multiple=True)
@click.option("--trials", "count", default=20, show_default=True)
@click.option("--rounds", default=1, show_default=True, help="Of climbing from the best setting.")
@click.pass_obj
def tune(predictors: list[Predictor], names: tuple[str, ...], count: int, rounds: int) -> None:
    """Look for the best settings."""
    folder = predictors[0].work / "tuned"
    for name in names or METHODS:
        trials = Trials(METHODS[name], predictors, folder / f"{name}.jsonl")
        found = choose(trials, count, rounds)
        (folder / f"{name}.json").write_text(json.dumps(found, indent=1))
        print(f"{name} {json.dumps(found, indent=1)}", flush=True)


@main.command()
@click.option("--every", default=1, show_default=True, help="Nth photograph, from the second on.")
@click.option("--only", multiple=True, help="SET/NAME; the others can be partners in ensembles.")
@click.option("--skip", multiple=True, help="Leave out rows whose name contains this.")
@click.pass_obj
def measure(
    predictors: list[Predictor], every: int, only: tuple[str, ...], skip: tuple[str, ...]
) -> None:
    """Write and score the label maps of all methods."""
    for predictor in predictors:
        if only and predictor.name not in only:
            continue
        part = slice(min(1, every - 1), None, every)
        own = {entry.stem for entry in predictor.photographs(part)}
        partners = [
            other.name.partition("/")[2]
            for other in predictors
            if other.set_name == predictor.set_name
            and other is not predictor
            and other.weights.exists()
            and own <= {entry.stem for entry in other.photographs(part)}
        ]
        rows = {
            name: row
            for name, row in rows_of(predictor, partners).items()
            if not any(text in name for text in skip)
        }
        results = measure_predictor(predictor, rows, part)
        out = predictor.work / "results" / f"{predictor.name}.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=1))
        click.echo(f"{predictor.name}\n{table({predictor.name: results})}\n")


@main.command("table")
@click.option("--apart", multiple=True, help="NAME of predictors to leave out of mean ensembles.")
@click.pass_obj
def print_table(predictors: list[Predictor], apart: tuple[str, ...]) -> None:
    """All results that were measured, one table per set, and the means."""
    results: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for predictor in predictors:
        path = predictor.work / "results" / f"{predictor.name}.json"
        rows = json.loads(path.read_text())
        results.setdefault(predictor.set_name, {})[predictor.name.partition("/")[2]] = rows
    for name, columns in results.items():
        click.echo(f"\n{name}\n\n{table(columns)}")
        for predictor_name, rows in columns.items():
            if predictor_name not in apart:
                rows.update(mean_ensembles(rows, apart))
    click.echo(f"\nMean over the predictors of a set\n\n{means(results)}")


def gain(rows: Mapping[str, Mapping[str, float]], name: str) -> str:
    """Δ mIoU / Δ F@1px of a row."""
    differences = (rows[name][key] - rows["input"][key] for key in ("miou", "f1"))
    return " / ".join(f"{difference:+.2f}" for difference in differences)


def table(columns: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Markdown: a row per method, a column per predictor."""
    lines = [f"| Δ mIoU / Δ F@1px | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    first = [
        f"{rows['input']['miou']:.2f} / {rows['input']['f1']:.2f}" for rows in columns.values()
    ]
    lines.append(f"| input: mIoU / F@1px | {' | '.join(first)} |")
    names = dict.fromkeys(name for rows in columns.values() for name in rows if name != "input")
    for name in names:
        cells = [gain(rows, name) if name in rows else "" for rows in columns.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def mean_ensembles(
    rows: Mapping[str, Mapping[str, float]], apart: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Means over the partners of an ensemble."""
    found = {}
    for ending in ("", " → SegFix"):
        chosen = [
            row
            for name, row in rows.items()
            if name.startswith("ensemble with ")
            and ("→" in name) == bool(ending)
            and name.split()[2] not in apart
        ]
        if chosen:
            found["ensemble" + ending] = mean_scores(chosen)
    return found


def mean_scores(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each kind."""
    return {key: statistics.mean(row[key] for row in rows) for key in ("miou", "f1")}


def means(results: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> str:
    """Markdown: mean over those predictors of a set that have the row."""
    lines = [f"| Δ mIoU / Δ F@1px | {' | '.join(results)} |", "|---" * (1 + len(results)) + "|"]
    every = [rows for columns in results.values() for rows in columns.values()]
    for name in dict.fromkeys(name for rows in every for name in rows if " with " not in name):
        cells = []
        for columns in results.values():
            having = [rows for rows in columns.values() if name in rows]
            if having:
                average = {
                    kind: mean_scores([rows[kind] for rows in having]) for kind in ("input", name)
                }
                scores = average[name]
                plain = f"{scores['miou']:.2f} / {scores['f1']:.2f}"
                cells.append(plain if name == "input" else gain(average, name))
            else:
                cells.append("")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


@main.command()
@click.option("--picture", "chosen", required=True, help="SET/NAME of the predictor to time.")
@click.option("--partner", required=True, help="Second network of the ensemble.")
@click.option("--size", type=(int, int), help="Width and height to enlarge the photographs to.")
@click.option("--photographs", "count", default=8, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--skip", multiple=True, help="Leave out rows whose name contains this.")
@click.pass_obj
def speed(
    predictors: list[Predictor],
    chosen: str,
    partner: str,
    size: tuple[int, int] | None,
    count: int,
    repeats: int,
    skip: tuple[str, ...],
) -> None:
    """Medians per photograph on one thread, from arrays to arrays; all methods in turn."""
    by_name = {predictor.name: predictor for predictor in predictors}
    predictor = by_name[chosen]
    second = read_network(by_name[f"{predictor.set_name}/{partner}"].weights)
    model, slow_model = (
        OffsetModel(find_weights(name), "cpu", threads=1)
        for name in (predictor.refiner, SECOND_WEIGHTS)
    )
    entries = predictor.photographs()
    pictures = [
        in_memory(predictor.picture(entry), model, size)
        for entry in entries[:: len(entries) // count][:count]
    ]
    jobs: dict[str, Callable[[Picture], Any]] = {
        "SegFix, network": lambda p: model.offsets(p.image),
        "SegFix, refinement": lambda p: refine(p.label_map, p.offsets("")),
        "SegFix": lambda p: refine(p.label_map, model.offsets(p.image)),
        "SegFix, --preds": lambda p: refine(p.label_map, model.offsets(p.image, p.label_map)),
        "SegFix, the paper's scale 2": lambda p: refine(
            p.label_map, model.offsets(p.image), scale=2
        ),
        f"SegFix, {SECOND_WEIGHTS}": lambda p: refine(p.label_map, slow_model.offsets(p.image)),
        f"ensemble with {partner}: its second network": lambda p: (
            p.soft("") + probabilities(second, p.image)
        ).argmax(0),
    }
    rows = rows_of(predictor, [])
    for name, method in METHODS.items():
        for variant, ending in enumerate(method.variants):
            setting = rows[name + ending].setting
            jobs[name + ending] = variant_of(method, variant, setting)
    jobs = {name: job for name, job in jobs.items() if not any(text in name for text in skip)}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for repeat in range(repeats + 1):
        for picture in pictures if repeat else pictures[:1]:
            for name, job in jobs.items():
                start = time.process_time(), time.perf_counter()
                job(picture)
                end = time.process_time(), time.perf_counter()
                if repeat:
                    times[name].append((end[0] - start[0], end[1] - start[1]))
    click.echo("| method | CPU seconds | seconds by the clock |\n|---|---|---|")
    for name, values in times.items():
        processor, clock = np.median(values, axis=0)
        click.echo(f"| {name} | {processor:.3f} | {clock:.3f} |")
    click.echo(f"{len(pictures)} photographs of {pictures[0].label_map.shape[::-1]}")


def in_memory(picture: Picture, model: OffsetModel, size: tuple[int, int] | None) -> Picture:
    """A picture whose probabilities and offsets are there already, enlarged if a size is given."""
    image, label_map, soft = picture.image, picture.label_map, picture.soft("")
    if size:
        image = np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
        label_map = np.array(Image.fromarray(label_map).resize(size, Image.Resampling.NEAREST))
        soft = np.stack(
            [
                np.array(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR))
                for plane in soft
            ]
        )
    offset_map = model.offsets(image)
    look = partial(model.offsets, image)
    return Picture(image, label_map, lambda _: soft, lambda _: offset_map, look)


if __name__ == "__main__":
    main()
