"""Boundary F, against that of DAVIS."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from skimage.morphology import dilation, disk

from segfix.geometry.boundary_lines import boundary_lines
from segfix.metrics import boundary_iou_counts, class_boundary_f
from tests.metrics.label_maps import STEMS, VOID, blobs, crop, mask_pairs


def mask_boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The line of one mask."""
    lines = np.zeros(mask.shape, bool)
    places, _ = boundary_lines(np.where(mask, 0, -1))
    lines.flat[places] = True
    return lines


def boundary_f(
    preds: NDArray[np.bool_], target: NDArray[np.bool_], radii: tuple[float, ...]
) -> NDArray[np.float64]:
    """F of one mask, 1 where it is in neither map."""
    found, true = (mask.astype(np.uint8) for mask in (preds, target))
    scores = class_boundary_f(found, true, np.array([1]), radii=radii, ignore_index=None)
    return np.where(np.isnan(scores[0]), 1, scores[0])


def davis_boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`seg2bmap` as DAVIS has it: neighbours to the right, below, and both; corner off."""
    right, below, both = (np.zeros_like(mask) for _ in range(3))
    right[:, :-1] = mask[:, 1:]
    below[:-1, :] = mask[1:, :]
    both[:-1, :-1] = mask[1:, 1:]
    boundary = (mask ^ right) | (mask ^ below) | (mask ^ both)
    boundary[-1, :] = mask[-1, :] ^ right[-1, :]
    boundary[:, -1] = mask[:, -1] ^ below[:, -1]
    boundary[-1, -1] = False
    return boundary


def davis_f(preds: NDArray[np.bool_], target: NDArray[np.bool_], radius: int) -> float:
    """`db_eval_boundary` as DAVIS has it: lines dilated with a disk."""
    found, true = davis_boundary(preds), davis_boundary(target)
    footprint = disk(radius)  # type: ignore[no-untyped-call]
    near_found, near_true = (dilation(line, footprint) for line in (found, true))
    num_found, num_true = found.sum(), true.sum()
    if num_found == 0 and num_true > 0:
        precision, recall = 1.0, 0.0
    elif num_found > 0 and num_true == 0:
        precision, recall = 0.0, 1.0
    elif num_found == num_true == 0:
        precision = recall = 1.0
    else:
        precision = (found & near_true).sum() / num_found
        recall = (true & near_found).sum() / num_true
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_mask_boundary_equals_that_of_davis(mask: NDArray[np.bool_]) -> None:
    assert np.array_equal(mask_boundary(mask), davis_boundary(mask))


def test_mask_boundary_of_a_square_lies_above_and_left_of_its_edges() -> None:
    mask = np.zeros((6, 6), bool)
    mask[2:4, 2:4] = True
    expected = [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 0, 1, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert mask_boundary(mask).astype(int).tolist() == expected


@given(mask_pairs)
def test_boundary_f_equals_that_of_davis_on_noise(
    masks: tuple[NDArray[np.bool_], NDArray[np.bool_]],
) -> None:
    found = boundary_f(*masks, (1, 2, 3))
    expected = [davis_f(*masks, radius) for radius in (1, 2, 3)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_boundary_f_equals_that_of_davis_on_blobs(seed: int) -> None:
    preds, target = blobs(seed), np.roll(blobs(seed), (1, 2), axis=(0, 1))
    radii = (1, 2, 3, 5, 9)
    expected = [davis_f(preds, target, radius) for radius in radii]
    assert 0 < expected[0] < 1
    np.testing.assert_allclose(boundary_f(preds, target, radii), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("shift", "expected"), [(0, [1, 1, 1]), (2, [0, 1, 1]), (4, [0, 0, 0])])
def test_boundary_f_of_a_shifted_edge_is_one_from_the_shift_upwards(
    shift: int, expected: list[float]
) -> None:
    columns = np.broadcast_to(np.arange(30), (20, 30))
    scores = boundary_f(columns < 10, columns < 10 + shift, (1, 2, 3))
    assert scores.tolist() == expected


@pytest.mark.parametrize("empty", [False, True])
def test_boundary_f_without_any_boundary_is_one_and_with_one_alone_zero(empty: bool) -> None:
    flat, square = np.full((9, 9), empty), np.zeros((9, 9), bool)
    square[3:6, 3:6] = True
    assert boundary_f(flat, flat, (1, 2)).tolist() == [1, 1]
    assert boundary_f(flat, square, (1, 2)).tolist() == [0, 0]
    assert boundary_f(square, flat, (1, 2)).tolist() == [0, 0]


@given(mask_pairs)
def test_boundary_f_is_symmetric_within_0_and_1_and_grows_with_the_radius(
    masks: tuple[NDArray[np.bool_], NDArray[np.bool_]],
) -> None:
    scores = boundary_f(*masks, (1, 1.5, 2, 9))
    assert np.all((scores >= 0) & (scores <= 1))
    assert np.all(np.diff(scores) >= -1e-12)
    np.testing.assert_allclose(scores, boundary_f(masks[1], masks[0], (1, 1.5, 2, 9)))


def test_class_boundary_f_is_boundary_f_of_each_class_and_nan_where_absent() -> None:
    rng = np.random.default_rng(3)
    preds = np.kron(rng.integers(0, 3, (4, 5)), np.ones((6, 6), int))
    target = np.kron(rng.integers(0, 3, (4, 5)), np.ones((6, 6), int))
    scores = class_boundary_f(preds, target, np.arange(5))
    assert scores.shape == (5, 3)
    for k in range(3):
        assert np.array_equal(scores[k], boundary_f(preds == k, target == k, (1, 2, 3)))
    assert np.all(np.isnan(scores[3:]))


def test_a_class_in_one_map_alone_scores_zero() -> None:
    target = np.zeros((12, 12), np.uint8)
    preds = target.copy()
    preds[4:8, 4:8] = 1
    scores = class_boundary_f(preds, target, np.arange(3), radii=(1,))
    assert scores[:2, 0].tolist() == [0, 0]
    assert np.isnan(scores[2, 0])


def test_void_is_left_out_of_both_maps() -> None:
    target = np.zeros((20, 20), np.uint8)
    target[:, 10:] = 1
    target[5:9, 3:17] = VOID
    agreeing = np.where(target == VOID, 0, target)
    agreeing[5:9, 10:17] = 1
    careless = np.where(target == VOID, 2, target)
    for preds in (agreeing, careless):
        scores = class_boundary_f(preds, target, np.arange(3))
        assert scores[:2].tolist() == [[1, 1, 1], [1, 1, 1]]
        assert np.all(np.isnan(scores[2]))


@pytest.mark.parametrize("void", [0, 2])
def test_a_prediction_of_void_takes_pixels_from_its_class(void: int) -> None:
    target = np.full((12, 12), 1)
    target[:, 6:] = 3
    target[:2] = void
    preds = target.copy()
    preds[5:9, 2:5] = void
    scores = class_boundary_f(preds, target, np.array([1, 3]), radii=(1,), ignore_index=void)
    assert 0 < scores[0, 0] < 1
    assert scores[1, 0] == 1


def test_ids_outside_the_classes_get_no_score_of_their_own() -> None:
    target = np.array([[0, 0, 1, 1]], np.uint8)
    preds = np.array([[0, 0, 200, 200]], np.uint8)
    scores = class_boundary_f(preds, target, np.arange(2), radii=(1,))
    assert scores.shape == (2, 1)
    assert scores[0, 0] == 1


@pytest.mark.parametrize("stem", STEMS)
def test_class_boundary_f_of_a_real_map_equals_that_of_davis(stem: str) -> None:
    preds, target = crop(stem)
    valid = target != VOID
    radii = (1, 2, 4)
    scores = class_boundary_f(preds, target, np.arange(12), radii=radii)
    for k in range(12):
        found, true = (preds == k) & valid, target == k
        if (found | true).any():
            expected = [davis_f(found, true, radius) for radius in radii]
            np.testing.assert_allclose(scores[k], expected, rtol=0, atol=1e-12)
        else:
            assert np.isnan(scores[k]).all()


@pytest.mark.parametrize("number", [64, 65, 128, 150])
def test_more_classes_than_a_word_has_bits(number: int) -> None:
    rng = np.random.default_rng(number)
    classes = np.sort(rng.choice(1024, number, replace=False))
    target = rng.permutation(np.resize(classes, 196)).reshape(14, 14)
    preds = np.where(rng.random((14, 14)) < 0.5, target, np.roll(target, 1, axis=1))
    scores = class_boundary_f(preds, target, classes, radii=(1, 2), ignore_index=None)
    for k, found in zip(classes, scores, strict=True):
        expected = [davis_f(preds == k, target == k, radius) for radius in (1, 2)]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int32, np.int64, np.uint64])
def test_the_integer_type_of_the_maps_does_not_matter(dtype: Any) -> None:
    rng = np.random.default_rng(5)
    preds, target = rng.integers(0, 2, (2, 9, 11))
    classes = np.arange(2)
    for score in (class_boundary_f, boundary_iou_counts):
        expected = score(preds, target, classes)
        assert np.array_equal(score(preds.astype(dtype), target.astype(dtype), classes), expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1)])
def test_radii_may_be_larger_than_the_image(shape: tuple[int, int]) -> None:
    target = np.arange(shape[0] * shape[1]).reshape(shape) % 2
    scores = class_boundary_f(1 - target, target, np.arange(2), radii=(1, 50), ignore_index=None)
    assert np.all(scores == 1)
