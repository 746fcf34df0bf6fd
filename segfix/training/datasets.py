"""Crops of photographs with targets made after the augmentation, the same for the same seed."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import Dataset

from segfix.geometry import UNDEFINED, fill_void_bands, make_targets
from segfix.geometry.label_distance import NO_PREDICTION, label_distance
from segfix.geometry.targets import IGNORE_INDEX, SOBEL_RADIUS
from segfix.training.layouts import VOID, LabelledImage, folder_name
from segfix.training.perturb import perturb_label_map

REAL = 0.5
"""Share of the crops of photographs with predictions that are seen with one of these."""


@dataclass(frozen=True)
class DataFolder:
    """A data set to train on.

    Attributes:
        path: Its folder, of a layout that `find_labelled_images` knows.
        weight: The share it is drawn with, relative to the other data sets.
        tolerance: Pixels of the photograph by which its labels may miss the true boundaries.
        near: Pixels of the photograph around labelled boundaries beyond which nothing is known of
            boundaries, as where one object alone is labelled.
    """

    path: Path
    weight: float = 1.0
    tolerance: float = 0.0
    near: float = math.inf


@dataclass(frozen=True)
class Source:
    """The labelled images of a data set; the rest as in `DataFolder`."""

    images: Sequence[LabelledImage]
    weight: float = 1.0
    tolerance: float = 0.0
    near: float = math.inf


@dataclass(frozen=True)
class Augmentation:
    """How a crop is varied.

    Attributes:
        scales: Smallest and largest factor on the size of the photograph, drawn log-uniformly.
        jitter: Largest relative change of brightness, contrast, saturation and gamma.
        brightness: Largest value added to or taken from all pixels, of 255.
        blur: Share of the crops blurred (σ 0.3 to 1.5 px).
        jpeg: Share of the crops compressed (quality 30 to 90).
    """

    scales: tuple[float, float] = (0.5, 2.0)
    jitter: float = 0.3
    brightness: float = 0.0
    blur: float = 0.2
    jpeg: float = 0.2


@dataclass(frozen=True)
class OffsetTargets:
    """Boundary and direction of a crop, for the SegFix network.

    Of a void band between two labels, boundary and directions are those of its middle line
    (`fill_void_bands`), and the band itself is void. Directions are undefined within the source's
    tolerance of a boundary: which side such pixels are on is unsure.

    Attributes:
        num_directions: m.
        boundary_width: γ, pixels.
        predicted: Share of the crops with a prediction; None: the network takes none.
    """

    num_directions: int
    boundary_width: float
    predicted: float | None = None

    @property
    def takes_predictions(self) -> bool:
        """Whether the network is told of a prediction."""
        return self.predicted is not None

    @property
    def margin(self) -> int:
        """Pixels around a crop that decide its targets.

        The kernel reaches over the crop's frame by its radius, and the distances it meets there
        are up to 2γ + √2 radii.
        """
        return int(2 * self.boundary_width) + 3 * SOBEL_RADIUS

    def prepare(self, labels: NDArray[Any]) -> NDArray[Any]:
        """(H, W) ids of a whole photograph, thin void filled."""
        return fill_void_bands(labels, ignore_index=VOID)

    def make(
        self,
        labels: NDArray[Any],
        known: NDArray[np.bool_],
        tolerance: float,
        near: float,
        prediction: NDArray[Any] | None,
        rng: np.random.Generator,
    ) -> dict[str, NDArray[Any]]:
        """Make the targets of a crop, and the prediction it is seen with.

        Args:
            labels: (S, S) ids of a crop with its margin.
            known: (S, S), where they are not void.
            tolerance: Pixels of the crop.
            near: Pixels of the crop.
            prediction: (S, S) ids that a network predicted; None: the labels are perturbed.
            rng: What they are perturbed with.

        Returns:
            `boundary` (S, S) uint8 with 255 unknown, `direction` (S, S) uint8 with 255 undefined;
            where there are predictions, `distance` (S, S) uint8 of `label_distance` and `wrong`
            (S, S) uint8, 1 where the prediction is wrong and 255 where that is unknown.
        """
        targets = make_targets(
            np.ascontiguousarray(labels),
            num_directions=self.num_directions,
            boundary_width=self.boundary_width,
            ignore_index=VOID,
        )
        # The boundary itself runs half a pixel before the first pixel of the other side.
        sure = known & (targets.distance_map - 0.5 > tolerance)
        told = known & (targets.distance_map <= near)
        boundary = np.where(told, targets.boundary_map, IGNORE_INDEX)
        direction = np.where(sure, targets.direction_map, UNDEFINED)
        made = {"boundary": boundary.astype(np.uint8), "direction": direction.astype(np.uint8)}
        if self.predicted is None:
            return made
        made["distance"] = np.full(labels.shape, NO_PREDICTION, np.uint8)
        made["wrong"] = np.full(labels.shape, IGNORE_INDEX, np.uint8)
        if rng.random() < self.predicted:
            if prediction is None:
                prediction = perturb_label_map(labels, rng, void=VOID)
            made["distance"] = label_distance(prediction)
            made["wrong"][sure] = (prediction != labels)[sure]
        return made


@dataclass(frozen=True)
class ClassTargets:
    """The classes of a crop, for a segmentation network.

    Attributes:
        class_ids: The id of each class in the label maps, ascending.
    """

    class_ids: tuple[int, ...]
    margin: int = 0
    takes_predictions: bool = False

    def prepare(self, labels: NDArray[Any]) -> NDArray[Any]:
        """(H, W) ids as they are."""
        return labels

    def make(
        self, labels: NDArray[Any], known: NDArray[np.bool_], *_: Any
    ) -> dict[str, NDArray[Any]]:
        """Target (S, S) int32: index of the class, `VOID` where void."""
        return {"target": np.where(known, self.index(labels), VOID).astype(np.int32)}

    def index(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        """Ids to indices of classes; void, and ids that are no class, to `VOID`."""
        ids = np.array(self.class_ids)
        place = np.searchsorted(ids, labels).clip(max=len(ids) - 1)
        return np.where(ids[place] == labels, place, VOID)


class CropDataset(Dataset[dict[str, Tensor]]):
    """Sample i is a pure function of the seed and i, so a training resumes where it stopped.

    Args:
        sources: Data sets.
        num_samples: Length: steps × batch size.
        crop_size: Height and width of a crop, pixels.
        targets: What is made of the label map of a crop.
        ignore_frame: Pixels to cut off at the frame of each photograph, where the labels of
            several data sets are void or wrong.
        augmentation: How crops are varied.
        seed: Of all random choices.

    Items: image (3, S, S) uint8, the targets, and index () int64.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        num_samples: int,
        *,
        crop_size: int,
        targets: OffsetTargets | ClassTargets,
        ignore_frame: int = 0,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.sources = sources
        weights = np.array([source.weight for source in sources], float)
        self.shares = weights / weights.sum()
        self.num_samples = num_samples
        self.crop_size = crop_size
        self.targets = targets
        self.ignore_frame = ignore_frame
        self.augmentation = augmentation or Augmentation()
        self.seed = seed

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        chosen = np.searchsorted(np.cumsum(self.shares), spread(index), side="right")
        source = self.sources[min(int(chosen), len(self.sources) - 1)]
        pair = source.images[int(rng.integers(len(source.images)))]
        image, labels = pair.read()
        layers = [labels]
        if self.targets.takes_predictions and pair.predictions and rng.random() < REAL:
            number = int(rng.integers(len(pair.predictions)))
            layers.append(pair.read_prediction(number, image))
        maps = np.stack(layers, axis=2)
        frame = self.ignore_frame
        if frame and min(labels.shape) > 4 * frame:
            core = np.s_[frame:-frame, frame:-frame]
            image, maps = image[core], maps[core]
        known = maps[..., 0] != VOID
        maps[..., 0] = self.targets.prepare(maps[..., 0])
        # What lies just beyond the crop may decide the targets at its frame.
        margin = self.targets.margin
        size = self.crop_size + 2 * margin
        image, maps, known, scale = random_window(
            image, maps, known, size, self.augmentation.scales, rng
        )
        if rng.random() < 0.5:
            image, maps, known = image[:, ::-1], maps[:, ::-1], known[:, ::-1]
        labels, *predictions = np.ascontiguousarray(np.moveaxis(maps, 2, 0))
        limits = source.tolerance * scale, source.near * scale
        made = self.targets.make(labels, known, *limits, next(iter(predictions), None), rng)
        core = np.s_[margin : margin + self.crop_size, margin : margin + self.crop_size]
        varied = vary_appearance(image[core], self.augmentation, rng)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(varied.transpose(2, 0, 1))),
            **{name: torch.from_numpy(target[core].copy()) for name, target in made.items()},
            "index": torch.tensor(index),
        }


def data_shares(data: Sequence[DataFolder]) -> dict[str, float]:
    """Share of each data set, by name."""
    shares: dict[str, float] = {}
    for folder in data:
        name = folder_name(folder.path)
        shares[name] = shares.get(name, 0) + folder.weight
    return shares


def known_targets(
    labels: NDArray[Any], *, num_directions: int, boundary_width: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Boundary and direction of a whole label map; thin void is filled for them and stays void.

    Args:
        labels: (H, W) ids, `VOID` where void.
        num_directions: m.
        boundary_width: γ, pixels.

    Returns:
        (H, W) uint8 boundary and (H, W) uint8 sectors, both 255 on void.
    """
    targets = make_targets(
        fill_void_bands(labels, ignore_index=VOID),
        num_directions=num_directions,
        boundary_width=boundary_width,
        ignore_index=VOID,
    )
    known = labels != VOID
    return (
        np.where(known, targets.boundary_map, np.uint8(IGNORE_INDEX)),
        np.where(known, targets.direction_map, np.uint8(UNDEFINED)),
    )


def known_prediction(
    labels: NDArray[Any], *, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """What a conditioned network is shown of a whole label map that was perturbed.

    Args:
        labels: (H, W) ids, `VOID` where void.
        seed: Of the perturbation.

    Returns:
        (H, W) uint8 of `label_distance`, and (H, W) uint8: 1 where the perturbed label is wrong, 0
        where it is right, 255 on void.
    """
    regions = fill_void_bands(labels, ignore_index=VOID)
    prediction = perturb_label_map(regions, np.random.default_rng(seed), void=VOID)
    wrong = np.where(labels == VOID, IGNORE_INDEX, prediction != regions)
    return label_distance(prediction), wrong.astype(np.uint8)


def spread(index: int) -> float:
    """Van der Corput's sequence: any run of indices covers [0, 1) evenly.

    So each mini-batch holds its share of every data set (of 16 crops from two equal ones, 8 and
    8), not just the average of many.

    Example:
        >>> [spread(index) for index in range(4)]
        [0.0, 0.5, 0.25, 0.75]
    """
    return int(f"{index:b}"[::-1], 2) / 2.0 ** max(1, index.bit_length())


def random_window(
    image: NDArray[np.uint8],
    labels: NDArray[Any],
    known: NDArray[np.bool_],
    size: int,
    scales: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.bool_], float]:
    """A square window of the scaled photograph; where it is larger, edge pixels go on.

    Args:
        image: (H, W, 3) RGB.
        labels: (H, W, …) ids.
        known: (H, W).
        size: Pixels.
        scales: See `Augmentation`.
        rng: Of all choices.

    Returns:
        (size, size, 3) RGB, (size, size, …) ids, (size, size) bool, `known` of the photograph and
        False where it doesn't reach, and the scale.
    """
    height, width = known.shape
    scale = float(np.exp(rng.uniform(*np.log(scales))))
    box, pads, inner = [], [], []
    for length in (width, height):
        span = min(length, size / scale)
        start = rng.uniform(0, length - span)
        pixels = size if span < length else max(1, min(size, round(length * scale)))
        before = int(rng.integers(size - pixels + 1))
        box.append((start, start + span))
        pads.append((before, size - pixels - before))
        inner.append(pixels)
    (x0, x1), (y0, y1) = box
    picture = Image.fromarray(image).resize(
        (inner[0], inner[1]), Image.Resampling.BILINEAR, box=(x0, y0, x1, y1)
    )
    rows = np.minimum((y0 + (np.arange(inner[1]) + 0.5) * (y1 - y0) / inner[1]), height - 1)
    cols = np.minimum((x0 + (np.arange(inner[0]) + 0.5) * (x1 - x0) / inner[0]), width - 1)
    grid = np.ix_(rows.astype(int), cols.astype(int))
    around = (pads[1], pads[0])
    return (
        np.pad(np.asarray(picture), (*around, (0, 0)), mode="edge"),
        np.pad(labels[grid], (*around, *[(0, 0)] * (labels.ndim - 2)), mode="edge"),
        np.pad(known[grid], around),
        scale,
    )


def vary_appearance(
    image: NDArray[np.uint8], augmentation: Augmentation, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Change light and colours of an (H, W, 3) image, then blur and compress some."""
    values = np.arange(256) / 255
    brightness, contrast, saturation, gamma = 1 + rng.uniform(-1, 1, 4) * augmentation.jitter
    curve = np.clip(((values - 0.5) * contrast + 0.5) * brightness, 0, 1) ** gamma
    varied = (curve * 255).astype(np.float32)[image]
    grey = varied.mean(axis=2, keepdims=True)
    varied = grey + saturation * (varied - grey)
    if augmentation.brightness:
        varied += rng.uniform(-1, 1) * augmentation.brightness
    varied = np.clip(varied + 0.5, 0, 255).astype(np.uint8)
    picture = Image.fromarray(varied)
    if rng.random() < augmentation.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
    if rng.random() < augmentation.jpeg:
        file = io.BytesIO()
        picture.save(file, format="JPEG", quality=int(rng.integers(30, 91)))
        picture = Image.open(file)
    return np.array(picture)
