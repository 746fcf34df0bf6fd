"""Crops of photographs with targets made after the augmentation, the same for the same seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from segfix.training.augmentation import cut_window, vary_appearance
from segfix.training.crop_targets import ClassTargets, OffsetTargets
from segfix.training.layouts import VOID, LabelledImage, folder_name
from segfix.training.settings import CropSettings, DataFolder

REAL = 0.4
"""Share of the crops of photographs with predictions that are seen with one of these."""


@dataclass(frozen=True)
class Source:
    """The labelled images of a data set; the rest as in `DataFolder`."""

    images: Sequence[LabelledImage]
    weight: float = 1.0
    tolerance: float = 0.0
    near: float = math.inf


def find_sources(
    data: Sequence[DataFolder], find: Callable[[Path, str], list[LabelledImage]]
) -> list[Source]:
    """List the training images of each data set.

    Args:
        data: The data sets.
        find: Their folder and "train" to their images.
    """
    return [Source(find(d.path, "train"), d.weight, d.tolerance, d.near) for d in data]


class CropDataset(Dataset[dict[str, Tensor]]):
    """Sample i is a pure function of the seed and i, so a training resumes where it stopped.

    Args:
        sources: Data sets.
        num_samples: Length: steps × batch size.
        targets: What is made of the label map of a crop.
        crops: Size and augmentation.
        seed: Of all random choices.

    Items: image (3, S, S) uint8, the targets, and index () int64.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        num_samples: int,
        *,
        targets: OffsetTargets | ClassTargets,
        crops: CropSettings,
        seed: int = 0,
    ) -> None:
        self.sources = sources
        weights = np.array([source.weight for source in sources], float)
        self.shares = weights / weights.sum()
        self.num_samples = num_samples
        self.targets = targets
        self.crops = crops
        self.seed = seed

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        chosen = np.searchsorted(np.cumsum(self.shares), spread(index), side="right")
        source = self.sources[min(int(chosen), len(self.sources) - 1)]
        pair = source.images[int(rng.integers(len(source.images)))]
        image, maps = self._read(pair, rng)
        known = maps[..., 0] != VOID
        maps[..., 0] = self.targets.prepare(maps[..., 0])
        # What lies just beyond the crop may decide the targets at its frame.
        margin = self.targets.margin
        size = self.crops.crop_size + 2 * margin
        image, maps, known, scale = cut_window(
            image, maps, known, size, self.crops.augmentation.scales, rng
        )
        if rng.random() < 0.5:
            image, maps, known = image[:, ::-1], maps[:, ::-1], known[:, ::-1]
        labels, *predictions = np.ascontiguousarray(np.moveaxis(maps, 2, 0))
        limits = source.tolerance * scale, source.near * scale
        made = self.targets.make(labels, known, *limits, next(iter(predictions), None), rng)
        core = np.s_[margin : margin + self.crops.crop_size, margin : margin + self.crops.crop_size]
        varied = vary_appearance(image[core], self.crops.augmentation, rng)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(varied.transpose(2, 0, 1))),
            **{name: torch.from_numpy(target[core].copy()) for name, target in made.items()},
            "index": torch.tensor(index),
        }

    def _read(
        self, pair: LabelledImage, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read (H, W, 3) RGB and (H, W, 1 or 2) ids: labels, and a prediction if one is shown."""
        image, labels = pair.read()
        layers = [labels]
        if self.targets.takes_predictions and pair.predictions and rng.random() < REAL:
            number = int(rng.integers(len(pair.predictions)))
            layers.append(pair.read_prediction(number, image))
        maps = np.stack(layers, axis=2)
        frame = self.crops.ignore_frame
        if frame and min(labels.shape) > 4 * frame:
            core = np.s_[frame:-frame, frame:-frame]
            return image[core], maps[core]
        return image, maps


def sum_shares(data: Sequence[DataFolder]) -> dict[str, float]:
    """Add up the weights of data sets of the same name."""
    shares: dict[str, float] = {}
    for folder in data:
        name = folder_name(folder.path)
        shares[name] = shares.get(name, 0) + folder.weight
    return shares


def spread(index: int) -> float:
    """Compute Van der Corput's sequence: any run of indices covers [0, 1) evenly.

    So each mini-batch holds its share of every data set (of 16 crops from two equal ones, 8 and
    8), not just the average of many.

    Example:
        >>> [spread(index) for index in range(4)]
        [0.0, 0.5, 0.25, 0.75]
    """
    return int(f"{index:b}"[::-1], 2) / 2.0 ** max(1, index.bit_length())
