"""The maths of SegFix on NumPy arrays: the compass, the targets, the offsets."""

from segfix.geometry.directions import (
    NUM_DIRECTIONS,
    UNDEFINED,
    direction_angles,
    flip_direction_map,
    quantize_directions,
    unit_offsets,
)
from segfix.geometry.evidence import fit_offsets
from segfix.geometry.label_distance import DISTANCE_STEPS, NO_PREDICTION, label_distance
from segfix.geometry.offsets import apply_offsets, direction_to_offsets, follow_offsets
from segfix.geometry.targets import (
    Targets,
    boundary_map,
    direction_map,
    distance_map,
    fill_void_bands,
    make_targets,
)

__all__ = [
    "DISTANCE_STEPS",
    "NO_PREDICTION",
    "NUM_DIRECTIONS",
    "UNDEFINED",
    "Targets",
    "apply_offsets",
    "boundary_map",
    "direction_angles",
    "direction_map",
    "direction_to_offsets",
    "distance_map",
    "fill_void_bands",
    "fit_offsets",
    "flip_direction_map",
    "follow_offsets",
    "label_distance",
    "make_targets",
    "quantize_directions",
    "unit_offsets",
]
