"""The segmentation network: photographs to probabilities and label maps."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfix.network.session import (
    available_threads,
    open_session,
    read_metadata,
    read_onnx,
    report_failures,
)

OUTPUTS = ("probability",)


class Segmenting(Protocol):
    """Define what makes label maps: a `SegmentationModel`, or the trainer's `CheckpointModel`."""

    @property
    def class_ids(self) -> tuple[int, ...]:
        """Return the id of each class in label maps."""

    @property
    def source(self) -> dict[str, str]:
        """Return name and digest, as label maps record them."""

    def probabilities(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the network on an (H, W, 3) photograph: (C, H, W) probabilities."""


class SegmentationModel:
    """Hold the ONNX file of a segmentation network, ready to run.

    Attributes:
        path: The ONNX file.
        metadata: What the file says: name, network, backbone, class_ids, scores, …
        device: "cpu", "cuda:0", "tensorrt:0".
        digest: SHA-256 of the file.

    Raises:
        FileFormatError: The file is none that `segfix export` made of a segmentation network.
        DeviceError: The device isn't there.
    """

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        self.path = path
        content = read_onnx(path)
        self.digest = hashlib.sha256(content).hexdigest()
        self.session, self.device = open_session(
            path, content, device, threads or available_threads()
        )
        self.metadata = read_metadata(self.session, path, "segmentation network", OUTPUTS)
        self._lock = threading.Lock()

    @property
    def class_ids(self) -> tuple[int, ...]:
        """Return the id of each class in label maps."""
        return tuple(self.metadata["class_ids"])

    @property
    def source(self) -> dict[str, str]:
        """Return name and digest, as label maps record them."""
        return {"weights": str(self.metadata["name"]), "weights_sha256": self.digest}

    def probabilities(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the network on one photograph.

        Args:
            image: (H, W, 3) uint8 RGB, any size.

        Returns:
            (C, H, W) float32, the probability of each class.
        """
        with report_failures(image):
            batch = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
            with self._lock:
                (found,) = self.session.run(OUTPUTS, {"image": batch})
            if found[0].shape != (len(self.class_ids), *image.shape[:2]):
                raise ValueError("its answer is no map of that size")
        probabilities: NDArray[np.float32] = found[0]
        return probabilities


def average_probabilities(
    model: Segmenting,
    image: NDArray[np.uint8],
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> NDArray[np.float32]:
    """Average a network's probabilities over sizes of a photograph, and over its mirror image.

    Args:
        model: The network.
        image: (H, W, 3) uint8 RGB.
        scales: Factors on the size of the photograph.
        flip: Whether to look at the mirrored photographs, too.

    Returns:
        (C, H, W) float32 at the photograph's own size.
    """
    height, width = image.shape[:2]
    total = np.zeros((len(model.class_ids), height, width), np.float32)
    for scale in scales:
        size = max(1, round(scale * width)), max(1, round(scale * height))
        looked_at = image
        if size != (width, height):
            picture = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
            looked_at = np.asarray(picture)
        found = model.probabilities(looked_at)
        if flip:
            mirrored = model.probabilities(np.ascontiguousarray(looked_at[:, ::-1]))
            found = (found + mirrored[..., ::-1]) * np.float32(0.5)
        for place, plane in enumerate(found):
            if size == (width, height):
                total[place] += plane
            else:
                back = Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR)
                total[place] += np.asarray(back)
    total /= len(scales)
    return total


def make_label_map(
    probabilities: NDArray[np.floating[Any]], class_ids: Sequence[int]
) -> NDArray[Any]:
    """Make the label map of the likeliest classes, in the narrowest kind that holds their ids.

    Args:
        probabilities: (C, H, W).
        class_ids: C of them; from 65536 on they are colours, R + 256·G + 256²·B (+ 256³·A).

    Returns:
        (H, W) uint8, or uint16 where an id is above 255; (H, W, 3 or 4) uint8 of colours.

    Example:
        >>> make_label_map(np.array([[[0.9, 0.4]], [[0.1, 0.6]]]), (0, 7))
        array([[0, 7]], dtype=uint8)
    """
    best = probabilities.argmax(axis=0)
    highest = max(class_ids)
    labels: NDArray[Any]
    if highest < 256**2:
        labels = np.array(class_ids, np.uint8 if highest < 256 else np.uint16)
    else:
        labels = np.array(class_ids, "<u4").view(np.uint8).reshape(-1, 4)
        labels = labels[:, : 4 if highest >= 256**3 else 3]
    return np.asarray(labels[best])
