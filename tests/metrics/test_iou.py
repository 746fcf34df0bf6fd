"""Confusion and IoU, against those of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from segfix.metrics import class_iou, class_numbers, confusion_matrix
from tests.metrics.label_maps import VOID, predictions


@given(predictions())
def test_confusion_equals_that_of_sklearn(
    maps: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> None:
    preds, target = maps
    valid = target != VOID
    found = confusion_matrix(preds, target, 4, ignore_index=VOID)
    assert found.shape == (4, 5)
    assert found.sum() == valid.sum()
    if valid.any():
        outside_is_4 = np.minimum(preds[valid], 4)
        expected = sklearn_metrics.confusion_matrix(target[valid], outside_is_4, labels=range(5))
        assert np.array_equal(found, expected[:4])


def test_pixels_of_void_count_nowhere_whatever_was_predicted_there() -> None:
    target = np.array([[0, VOID, 1, VOID]], np.uint8)
    for there in (0, 1, 7, VOID):
        preds = np.array([[0, there, 1, there]], np.uint8)
        counts = confusion_matrix(preds, target, 2, ignore_index=VOID)
        assert counts.tolist() == [[1, 0, 0], [0, 1, 0]]


def test_a_prediction_of_void_on_a_labelled_pixel_is_wrong() -> None:
    counts = confusion_matrix(
        np.array([[VOID, 0]], np.uint8), np.array([[0, 0]], np.uint8), 1, ignore_index=VOID
    )
    assert counts.tolist() == [[1, 1]]
    assert class_iou(counts).tolist() == [0.5]


def test_without_a_void_id_every_pixel_counts() -> None:
    ids = np.array([[0, 255]], np.uint8)
    counts = confusion_matrix(ids, ids, 256, ignore_index=None)
    assert counts.sum() == 2
    assert counts[255, 255] == 1


def test_negative_predictions_are_outside_the_classes() -> None:
    counts = confusion_matrix(np.array([[-1, 0]]), np.array([[0, 0]]), 2, ignore_index=VOID)
    assert counts.tolist() == [[1, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("wrong", [3, -2])
def test_a_true_id_outside_the_classes_is_refused_by_name(wrong: int) -> None:
    ids = np.array([[0, wrong, 1]])
    with pytest.raises(ValueError, match=f"from 0 to 2 but got {wrong}"):
        confusion_matrix(ids, ids, 3, ignore_index=VOID)


def test_maps_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        confusion_matrix(np.zeros((2, 3), int), np.zeros((3, 2), int), 1, ignore_index=None)


@given(predictions())
def test_iou_equals_the_jaccard_score_of_sklearn(
    maps: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> None:
    preds, target = maps
    valid = target != VOID
    found = class_iou(confusion_matrix(preds, target, 4, ignore_index=VOID))
    for k in range(4):
        if np.any(target == k):
            expected = sklearn_metrics.jaccard_score(target[valid] == k, preds[valid] == k)
            assert found[k] == pytest.approx(expected, abs=1e-12)
        else:
            assert np.isnan(found[k])


def test_counts_of_two_images_add_up_to_those_of_both_together() -> None:
    rng = np.random.default_rng(0)
    preds, target = rng.integers(0, 6, (2, 10, 12)), rng.integers(0, 5, (2, 10, 12))
    apart = [confusion_matrix(*pair, 5, ignore_index=3) for pair in zip(preds, target, strict=True)]
    together = confusion_matrix(preds.reshape(20, 12), target.reshape(20, 12), 5, ignore_index=3)
    assert np.array_equal(apart[0] + apart[1], together)


def test_class_numbers_are_places_in_a_list_with_gaps() -> None:
    ids = np.array([[0, 3, 7, 1023, 1024, 255, 5]])
    found = class_numbers(ids, np.array([0, 5, 7, 255, 1023]), ids != 255)
    assert found.tolist() == [[0, -1, 2, 4, -1, -1, 1]]
    assert class_numbers(ids, np.array([], np.int64), ids >= 0).tolist() == [[-1] * 7]
