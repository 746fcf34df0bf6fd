"""The SegFix network: photographs to offset maps."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfix.errors import SegfixError
from segfix.formats import LabelMap, OffsetMap
from segfix.formats.arguments import as_array
from segfix.formats.images import Photograph
from segfix.formats.label_maps import pixel_digest
from segfix.formats.offset_maps import NUM_LEVELS, WRONG_LABEL
from segfix.geometry import NO_PREDICTION, label_distance
from segfix.geometry.label_distance import DISTANCE_STEPS, WRONG_WITHIN
from segfix.network.session import (
    CALIBRATION,
    DISTANCE,
    WRONG,
    available_threads,
    check_image,
    read_metadata,
    read_onnx,
    report_failures,
)
from segfix.network.split_session import open_network
from segfix.network.tiles import Box, Size, enlarge_tile, tile_boxes
from segfix.network.weights import check_digest, locate_weights
from segfix.refinement.apply import PREDICTION_KEY, as_label_map, surroundings
from segfix.refinement.sizes import resize_nearest

BOUNDARY_THRESHOLD = 0.5
OUTPUTS = ("direction", "boundary", "certainty")
CONFIDENCE = "probability that the direction is right to within 45 degrees"
LOWEST_WRONG = 0.05
"""Where a prediction is less likely wrong, it keeps its label: the pixel is not coded."""
MOST_LEVELS = 31
"""Of the probability that a label is wrong, as many as 8 directions leave room for."""
DISTANCE_REACH = 32
"""Pixels; how far `label_distance` looks."""


class OffsetModel:
    """Hold a SegFix network, ready to run.

    Attributes:
        path: The ONNX file.
        metadata: What the file says: name, backbone, num_directions, boundary_width, scores, …
        device: "cpu", "cuda:0", "tensorrt:0".
        threads: Of the CPU.
        digest: SHA-256 of the file; where one is asked for, another is refused.
    """

    def __init__(
        self,
        path: Path,
        device: str = "auto",
        threads: int | None = None,
        *,
        sha256: str | None = None,
    ) -> None:
        self.path, self.threads = path, threads or available_threads()
        content = read_onnx(path)
        self.digest = hashlib.sha256(content).hexdigest()
        if sha256 is not None:
            check_digest(path, self.digest, sha256)
        self.session, self.device = open_network(path, content, device, self.threads)
        self.metadata = read_metadata(self.session, path, "segfix network", OUTPUTS)
        # One inference at a time uses all threads; more at once would only fight for them.
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle holds the file: another machine opens it anew, on a device of its own.
        return open_copy, (self.path.name, self.path.read_bytes(), self.device, self.threads)

    @property
    def num_directions(self) -> int:
        """Return m, the number of sectors."""
        return int(self.metadata["num_directions"])

    @property
    def source(self) -> dict[str, str]:
        """Return name and digest, as offset maps record them."""
        return {"weights": str(self.metadata["name"]), "weights_sha256": self.digest}

    @property
    def conditioned(self) -> bool:
        """Tell whether it looks at a prediction, too, if there is one."""
        return bool(self.metadata.get("conditioned", False))

    def check_conditioned(self) -> None:
        """Raise `SegfixError` unless the network looks at a prediction, too."""
        if not self.conditioned:
            raise SegfixError(
                f"weights {self.metadata['name']} look at photographs alone; leave the predictions "
                "out, or use --weights that look at them, too ('segfix weights' says which do)."
            )

    def predict(
        self,
        image: NDArray[np.uint8],
        distance: NDArray[np.uint8] | None = None,
        *,
        outputs: Sequence[str] = (),
    ) -> tuple[NDArray[np.uint8], ...]:
        """Run the network on one photograph.

        Args:
            image: (H, W, 3) uint8 RGB, any size.
            distance: (H, W) uint8 of `segfix.geometry.label_distance` of a prediction, for a
                conditioned network; None: there is no prediction.
            outputs: Which of the maps, "direction" first, if not all: these take less time.

        Returns:
            Three (H, W) uint8 maps: sector, probability of boundary × 255, probability of that
            sector × 255. Of a conditioned network a fourth: probability × 255 that the pixel's
            label in the prediction is wrong; without a prediction it means nothing.

        Raises:
            ValueError: The arrays are no photograph and no distances of its size.
            SegfixError: The network failed, or looks at photographs alone.
        """
        if distance is not None:
            self.check_conditioned()
            if distance.shape != image.shape[:2] or distance.dtype != np.uint8:
                raise ValueError(
                    f"Expected distance of {image.shape[:2]} uint8, as the image is, but got "
                    f"{distance.shape} {distance.dtype}."
                )
        with report_failures(image):
            size = image.shape[:2]
            inputs = {"image": np.ascontiguousarray(image.transpose(2, 0, 1)[None])}
            if self.conditioned:
                if distance is None:
                    distance = np.full(size, NO_PREDICTION, np.uint8)
                inputs[DISTANCE] = np.ascontiguousarray(distance[None])
            names = outputs or ((*OUTPUTS, WRONG) if self.conditioned else OUTPUTS)
            with self._lock:
                maps = tuple(found[0] for found in self.session.run(names, inputs))
            if not all(one.shape == size and one.dtype == np.uint8 for one in maps):
                raise ValueError("its answers are no maps of that size")
            if maps[0].max(initial=0) >= self.num_directions:
                raise ValueError(f"its answers are not {self.num_directions} directions")
        return maps

    def record(self, shape: Sequence[int], max_side: int | None) -> dict[str, Any]:
        """Tell what makes an offset map: `source`, and `max_side` where it reduces the photograph.

        Args:
            shape: (H, W, …) of the photograph.
            max_side: See `offsets`.
        """
        reduced = max_side is not None and max(shape[:2]) > max_side
        return {**self.source, **({"max_side": max_side} if reduced else {})}

    def offsets(
        self,
        image: NDArray[np.uint8] | Photograph,
        label_map: NDArray[Any] | LabelMap | None = None,
        *,
        max_side: int | None = None,
    ) -> OffsetMap:
        """Predict the offset map of one photograph, a large one in tiles.

        Args:
            image: (H, W, 3) uint8 RGB, any size.
            label_map: The prediction that is to be refined, of the photograph's size, as
                `segfix.refine` or `segfix.refine_masks` will be given it: a conditioned network
                looks at its boundaries, too, and the offset map fits this prediction alone. None:
                the offset map fits any.
            max_side: A photograph that is higher or wider, pixels, is looked at reduced to this;
                None: at its own size.

        Returns:
            The offset map, of the photograph's own size: boundary where its probability exceeds
            0.5, with the arg-max sector; with `label_map`, where a label within 12 px of its
            boundaries is wrong with a probability above 0.05, which is then the confidence.

        Raises:
            TypeError: `image` or `label_map` is no array of numbers.
            ValueError: `image` is no photograph, `label_map` of another size, or `max_side` below
                1.
            SegfixError: The network failed, or looks at photographs alone.

        Example:
            >>> model = load()
            >>> offset_map = model.offsets(np.zeros((40, 50, 3), np.uint8))
            >>> offset_map.vectors().shape
            (2, 40, 50)
        """
        longest: Any = max_side
        if longest is not None and not (isinstance(longest, Integral) and int(longest) >= 1):
            raise ValueError(f"Expected max_side to be at least 1 but got {longest!r}.")
        if not isinstance(image, Photograph):
            image = as_array(image, "image")
            check_image(image)
        size = image.shape[0], image.shape[1]
        layers = None if label_map is None else self._layers(label_map, size)
        offset_map = self._empty_map(size, layers, max_side)
        if "max_side" in offset_map.source:
            image = reduce_image(image, offset_map.source["max_side"])
        seen = image.shape[0], image.shape[1]
        if layers is not None:
            layers = fit_layers(layers, seen)
        for look, keep in tile_boxes(*seen):
            maps = self._look(image[look], layers, look)
            for part, found in enlarge_tile(maps, look, keep, seen, size):
                offset_map.codes[part] = self._encode(found, offset_map)
        return offset_map

    def _layers(self, label_map: NDArray[Any] | LabelMap, size: Size) -> NDArray[Any]:
        """Check a prediction, and give its ids or masks: see `LabelMap.layers`."""
        self.check_conditioned()
        if not isinstance(label_map, LabelMap):
            label_map = as_label_map(label_map, size, "image")
        if label_map.shape != size:
            raise ValueError(
                f"Expected label_map of {size}, as the image is, but got {label_map.shape}."
            )
        return label_map.layers()

    def _empty_map(
        self, size: Size, layers: NDArray[Any] | None, max_side: int | None
    ) -> OffsetMap:
        """Make an offset map without any boundary, for `_encode` to fill."""
        source = self.record(size, max_side)
        if layers is None:
            # The lowest product there is: a boundary at the threshold, all sectors alike.
            least = BOUNDARY_THRESHOLD / self.num_directions
            lowest = float(calibrate(least, self._calibration))
            levels, confidence = NUM_LEVELS, CONFIDENCE
        else:
            lowest, confidence = LOWEST_WRONG, WRONG_LABEL
            levels = min(MOST_LEVELS, 255 // self.num_directions)
            source[PREDICTION_KEY] = pixel_digest(layers)
        return OffsetMap(
            np.zeros(size, np.uint8),
            num_directions=self.num_directions,
            lowest_confidence=round(lowest, 4),
            boundary_width=self.metadata["boundary_width"],
            num_levels=levels,
            confidence=confidence,
            source=source,
        )

    def _look(
        self, image: NDArray[np.uint8], layers: NDArray[Any] | None, look: Box
    ) -> tuple[NDArray[np.uint8], ...]:
        """Run the network on one tile, and on the same tile of a prediction if there is one."""
        if layers is None:
            return self.predict(image, outputs=OUTPUTS)
        distance = layer_distance(layers, look)
        direction, wrong = self.predict(image, distance, outputs=(OUTPUTS[0], WRONG))
        # Farther from the prediction's boundaries the network was never told.
        wrong[distance > WRONG_WITHIN * DISTANCE_STEPS] = 0
        return direction, wrong

    def _encode(self, maps: Sequence[NDArray[np.uint8]], like: OffsetMap) -> NDArray[np.uint8]:
        """Turn the network's answers into the codes of an offset map like this one."""
        if like.conditioned:
            direction, wrong = maps
            confidence: NDArray[np.floating[Any]] = wrong / np.float32(255)
            sure = confidence > LOWEST_WRONG
        else:
            direction, boundary, certainty = maps
            product = boundary * (certainty / np.float32(255**2))
            confidence = calibrate(product, self._calibration)
            sure = boundary > BOUNDARY_THRESHOLD * 255
        return OffsetMap.encode(
            sure,
            direction,
            confidence,
            num_directions=like.num_directions,
            lowest_confidence=like.lowest_confidence,
            num_levels=like.num_levels,
        ).codes

    @property
    def _calibration(self) -> Sequence[float]:
        calibration: Sequence[float] = self.metadata.get("calibration", CALIBRATION)
        return calibration


def open_copy(name: str, content: bytes, device: str, threads: int) -> OffsetModel:
    """Open a SegFix network from the bytes of its file."""
    with tempfile.TemporaryDirectory(prefix="segfix-") as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        return OffsetModel(path, device, threads)


def calibrate(
    product: NDArray[np.floating[Any]] | float, calibration: Sequence[float]
) -> NDArray[np.floating[Any]]:
    """Estimate the probability that a direction is right to within 45°.

    Args:
        product: Probability of boundary × probability of the arg-max sector, in [0, 1].
        calibration: Slope a and intercept b, measured on validation sets.

    Returns:
        1 / (1 + exp(-(a · product + b))).
    """
    slope, intercept = calibration
    return np.asarray(1 / (1 + np.exp(-(slope * product + intercept))))


def reduce_image(image: NDArray[np.uint8] | Photograph, max_side: int) -> NDArray[np.uint8]:
    """Reduce a photograph to so many pixels on its longer side."""
    if not isinstance(image, Photograph):
        image = Photograph(Image.fromarray(image))
    return image.reduce(max_side)


def fit_layers(layers: NDArray[Any], size: Size) -> NDArray[Any]:
    """Bring a prediction's layers, (H, W) or (N, H, W), to the size looked at: (N, h, w)."""
    layers = layers if layers.ndim == 3 else layers[None]
    if layers.shape[1:] == size:
        return layers
    return np.moveaxis(resize_nearest(np.moveaxis(layers, 0, -1), size), -1, 0)


def layer_distance(layers: NDArray[Any], look: Box) -> NDArray[np.uint8]:
    """Measure distances in a tile to the nearest boundary of any layer, also beyond the tile.

    Args:
        layers: (N, H, W): one of ids, or bool masks.
        look: Rows and columns of the tile.

    Returns:
        (h, w) the least of `label_distance` of the layers, of whole pictures.
    """
    around = tuple(
        slice(max(part.start - DISTANCE_REACH, 0), part.stop + DISTANCE_REACH) for part in look
    )
    inner = tuple(
        slice(part.start - wide.start, part.stop - wide.start)
        for part, wide in zip(look, around, strict=True)
    )
    nearest = np.broadcast_to(np.uint8(NO_PREDICTION - 1), layers.shape[1:])[around].copy()
    for layer in layers:
        tile = layer[around]
        # Farther from a mask there is no boundary of it.
        box = surroundings(tile, DISTANCE_REACH) if tile.dtype == bool else np.s_[:, :]
        if box:
            np.minimum(nearest[box], label_distance(tile[box]), out=nearest[box])
    return nearest[inner]


def load(weights: str | Path | None = None, *, device: str = "auto") -> OffsetModel:
    """Load a SegFix network.

    Args:
        weights: Name of shipped weights, or path of an ONNX file; by default the shipped default.
        device: "auto", "cpu", "cuda", "cuda:1", "tensorrt".

    Raises:
        SegfixError: There are no such weights, or the file is none of ours.
        DeviceError: The device isn't there.
    """
    path, sha256 = locate_weights(weights)
    return OffsetModel(path, device, sha256=sha256)
