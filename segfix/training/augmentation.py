"""How a photograph becomes a crop: a window of it, scaled, in another light."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from segfix.training.settings import Augmentation


def cut_window(
    image: NDArray[np.uint8],
    labels: NDArray[Any],
    known: NDArray[np.bool_],
    size: int,
    scales: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.bool_], float]:
    """Cut a square window out of the scaled photograph; where it is larger, edge pixels go on.

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
