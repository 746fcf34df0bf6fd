from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from segfix.geometry import DISTANCE_STEPS, NO_PREDICTION, label_distance

label_maps = hnp.arrays(
    st.sampled_from([np.uint8, np.int32, np.int64]),
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=80),
    elements=st.sampled_from([0, 1, 7]),
    fill=st.just(1),
)


def slow_label_distance(label_map: NDArray[np.integer]) -> NDArray[np.uint8]:
    """In float64, label by label."""
    distances = np.full(label_map.shape, np.inf)
    for label in np.unique(label_map):
        own = label_map == label
        if not own.all():
            distances[own] = distance_transform_edt(own)[own]
    codes = np.minimum(np.rint(DISTANCE_STEPS * distances), NO_PREDICTION - 1)
    return np.asarray(codes, np.uint8)


@given(label_maps)
def test_equals_a_transform_per_label(label_map: NDArray[np.integer]) -> None:
    found = label_distance(label_map)
    assert np.array_equal(found, slow_label_distance(label_map))
    assert found.dtype == np.uint8
    assert np.array_equal(label_distance(label_map.T), found.T)


@pytest.mark.parametrize("seed", range(4))
def test_equals_a_transform_per_label_on_blobs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    label_map = np.kron(generator.integers(0, 3, (7, 9)), np.ones((19, 23), int))
    label_map[generator.random(label_map.shape) < 0.001] = 9
    assert np.array_equal(label_distance(label_map), slow_label_distance(label_map))


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 1), (1, 90), (90, 1), (40, 40)])
def test_one_label_has_no_boundary(shape: tuple[int, int]) -> None:
    found = label_distance(np.full(shape, 3))
    assert found.shape == shape
    assert (found == NO_PREDICTION - 1).all()


def test_counts_eighths_of_pixels_and_is_clipped() -> None:
    line = label_distance((np.arange(80) < 40).astype(np.uint8)[None])[0]
    assert line[40:].tolist() == [8 * d for d in range(1, 32)] + [254] * 9
    assert line[39::-1].tolist() == line[40:].tolist()
