"""What a network learns from the label map of a crop or of a whole photograph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.geometry import UNDEFINED, fill_void_bands, make_targets
from segfix.geometry.label_distance import NO_PREDICTION, label_distance
from segfix.geometry.targets import IGNORE_INDEX, SOBEL_RADIUS
from segfix.training.layouts import VOID
from segfix.training.perturb import perturb_label_map


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
        """Tell whether the network looks at a prediction, too."""
        return self.predicted is not None

    @property
    def margin(self) -> int:
        """Count the pixels around a crop that decide its targets.

        The kernel reaches over the crop's frame by its radius, and the distances it meets there
        are up to 2γ + √2 radii.
        """
        return int(2 * self.boundary_width) + 3 * SOBEL_RADIUS

    def prepare(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Fill thin void in (H, W) ids of a whole photograph."""
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
        labelled = known & (targets.distance_map <= near)
        boundary = np.where(labelled, targets.boundary_map, IGNORE_INDEX)
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
        """Leave (H, W) ids as they are."""
        return labels

    def make(
        self, labels: NDArray[Any], known: NDArray[np.bool_], *_: Any
    ) -> dict[str, NDArray[Any]]:
        """Make the target, (S, S) int32: index of the class, `VOID` where void."""
        return {"target": np.where(known, self.index(labels), VOID).astype(np.int32)}

    def index(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        """Turn ids into indices of classes; void, and ids that are no class, into `VOID`."""
        ids = np.array(self.class_ids)
        place = np.searchsorted(ids, labels).clip(max=len(ids) - 1)
        return np.where(ids[place] == labels, place, VOID)


def make_validation_targets(
    labels: NDArray[Any], *, num_directions: int, boundary_width: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Make boundary and direction of a whole label map; thin void is filled, and stays void.

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


def make_validation_prediction(
    labels: NDArray[Any], *, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Perturb a whole label map, and make what a conditioned network is shown of it.

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
