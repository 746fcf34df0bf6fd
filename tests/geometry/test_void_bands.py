from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from segfix.geometry import fill_void_bands

VOID = 255


def filled_by_definition(labels: NDArray[np.uint8], width: float) -> NDArray[np.uint8]:
    """`fill_void_bands` pixel by pixel, where no two labels are equally near; else 254."""
    filled = labels.copy()
    known, void = np.argwhere(labels != VOID), np.argwhere(labels == VOID)
    if not len(known):
        return filled

    def squares(pixel: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = ((others - pixel) ** 2).sum(axis=1)
        return found

    thick = np.array([p for p in void if squares(p, known).min() > width**2]).reshape(-1, 2)
    for pixel in void:
        distances = squares(pixel, known)
        if distances.min() > width**2:
            continue
        if len(thick) and squares(pixel, thick).min() <= (2 * width) ** 2:
            continue
        nearest = known[distances == distances.min()]
        values = set(labels[tuple(nearest.T)].tolist())
        filled[tuple(pixel)] = values.pop() if len(values) == 1 else 254
    return filled


@given(
    hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=13),
        elements=st.sampled_from([1, 2, VOID]),
        fill=st.just(VOID),
    ),
    st.sampled_from([1, 2, 2.5]),
)
def test_void_bands_are_filled_as_the_definition_says(
    labels: NDArray[np.uint8], width: float
) -> None:
    before = labels.copy()
    filled = fill_void_bands(labels, void_band=width)
    assert np.array_equal(labels, before)
    expected = filled_by_definition(labels, width)
    tied = expected == 254
    assert np.array_equal(filled[~tied], expected[~tied])
    assert np.isin(filled[tied], [1, 2]).all()


def test_a_void_band_is_filled_to_its_middle_and_an_area_stays() -> None:
    labels = np.ones((60, 60), np.uint8)
    labels[:, 30:] = 2
    labels[:, 25:35] = VOID
    expected = np.ones_like(labels)
    expected[:, 30:] = 2
    assert np.array_equal(fill_void_bands(labels), expected)
    area = np.ones((60, 60), np.uint8)
    area[20:32, 10:50] = VOID
    assert fill_void_bands(area).tolist() == area.tolist()


def test_void_along_the_frame_is_filled_up_to_the_width_of_half_a_band() -> None:
    labels = np.full((20, 30), 3, np.uint8)
    labels[:, 25:] = VOID
    assert (fill_void_bands(labels) == 3).all()
    labels[:, 24:] = VOID
    assert np.array_equal(fill_void_bands(labels), labels)


def test_filling_changes_void_alone() -> None:
    # The third pixel's nearest neighbour at the void has another label.
    labels = np.array([[255, 255, 1, 2, 2, 2]])
    assert fill_void_bands(labels).tolist() == [[1, 1, 1, 2, 2, 2]]


@pytest.mark.parametrize("ignore_index", [None, 9])
def test_nothing_is_filled_or_copied_where_there_is_no_void(ignore_index: int | None) -> None:
    labels = np.ones((8, 8), np.uint8)
    assert fill_void_bands(labels, ignore_index=ignore_index) is labels
    void = np.full((8, 8), 9)
    assert np.array_equal(fill_void_bands(void, ignore_index=9), void)


def test_ids_of_any_size_are_filled() -> None:
    labels = np.array([[2**40, -1, 7, 7]])
    assert fill_void_bands(labels, ignore_index=-1)[0].tolist() in (
        [2**40, 2**40, 7, 7],
        [2**40, 7, 7, 7],
    )
