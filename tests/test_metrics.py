from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.morphology import dilation, disk
from sklearn import metrics as sklearn_metrics

from segfix.geometry.boundary_lines import boundary_lines
from segfix.metrics import (
    boundary_iou_counts,
    class_boundary_f,
    class_iou,
    class_numbers,
    confusion_matrix,
    e_measure,
    inner_band,
    offset_counts,
    offset_scores,
)

VOID = 255
CROPS = Path(__file__).parent / "data" / "camvid"
STEMS = sorted(path.stem for path in (CROPS / "labels").glob("*.png"))


def crop(stem: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A real prediction and its ground truth, void 255."""
    found, true = (
        np.array(Image.open(CROPS / kind / f"{stem}.png")) for kind in ("preds", "labels")
    )
    return found, true


@st.composite
def predictions(draw: st.DrawFn) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A predicted map, with an id outside the four classes, and a true one with void."""
    shape = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    found = hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, 9, VOID]))
    true = hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, VOID]))
    return draw(found), draw(true)


mask_pairs = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(
    lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
)


def blobs(seed: int, shape: tuple[int, int] = (40, 50)) -> NDArray[np.bool_]:
    """Discs, cut by the frame."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    mask = np.zeros(shape, bool)
    for _ in range(4):
        cy, cx, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(2, 12)
        mask ^= np.hypot(y - cy, x - cx) < radius
    return mask


# Confusion and IoU.


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


# Boundary F.


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


def test_class_numbers_are_places_in_a_list_with_gaps() -> None:
    ids = np.array([[0, 3, 7, 1023, 1024, 255, 5]])
    found = class_numbers(ids, np.array([0, 5, 7, 255, 1023]), ids != 255)
    assert found.tolist() == [[0, -1, 2, 4, -1, -1, 1]]
    assert class_numbers(ids, np.array([], np.int64), ids >= 0).tolist() == [[-1] * 7]


# Boundary IoU.


def cheng_band(mask: NDArray[np.bool_], ratio: float = 0.02) -> NDArray[np.bool_]:
    """`mask_to_boundary` as Cheng et al. have it: the mask less the mask eroded d times."""
    height, width = mask.shape
    dilation_px = max(1, round(ratio * math.sqrt(height**2 + width**2)))
    padded = np.pad(mask, 1)  # "to make sure mask truncated by image border is also eroded"
    eroded = ndimage.binary_erosion(padded, np.ones((3, 3)), iterations=dilation_px)
    band: NDArray[np.bool_] = mask & ~eroded[1:-1, 1:-1]
    return band


def cheng_counts(
    preds: NDArray[np.bool_], target: NDArray[np.bool_], ratio: float
) -> tuple[int, int]:
    """Intersection and union of the bands of two masks."""
    found, true = (cheng_band(mask, ratio) for mask in (preds, target))
    return int((found & true).sum()), int((found | true).sum())


@given(predictions(), st.sampled_from([0.02, 0.3, 2]))
def test_boundary_iou_equals_that_of_cheng_et_al_on_noise(
    maps: tuple[NDArray[np.uint8], NDArray[np.uint8]], ratio: float
) -> None:
    preds, target = maps
    classes = np.array([0, 1, 2, 9])
    counts = boundary_iou_counts(preds, target, classes, ratio=ratio)
    for k, found in zip(classes, counts.tolist(), strict=True):
        expected = cheng_counts((preds == k) & (target != VOID), target == k, ratio)
        assert tuple(found) == expected


@pytest.mark.parametrize("stem", STEMS)
def test_boundary_iou_equals_that_of_cheng_et_al_on_real_maps(stem: str) -> None:
    preds, target = crop(stem)
    counts = boundary_iou_counts(preds, target, np.arange(11))
    for k in range(11):
        expected = cheng_counts((preds == k) & (target != VOID), target == k, 0.02)
        assert tuple(counts[k].tolist()) == expected
    assert 0 < counts[:, 0].sum() < counts[:, 1].sum()


def test_the_band_of_a_region_runs_along_the_frame_too() -> None:
    label_map = np.zeros((7, 9), int)
    assert inner_band(label_map, 1).sum() == 63 - 5 * 7
    assert inner_band(label_map, 2).sum() == 63 - 3 * 5
    assert inner_band(label_map, 40).all()


# E-measure.


def fan_measure(preds: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    """`Enhancedmeasure` as Fan et al. have it, pixel by pixel, as a mean over pixels."""
    found, true = preds.astype(float).ravel(), target.astype(float).ravel()
    if true.sum() == 0:
        return float(np.mean(1 - found))
    if true.sum() == true.size:
        return float(np.mean(found))
    enhanced = []
    mean_found, mean_true = found.mean(), true.mean()
    for p, g in zip(found, true, strict=True):
        align_p, align_g = p - mean_found, g - mean_true
        align = 2 * align_g * align_p / (align_g**2 + align_p**2 + np.finfo(float).eps)
        enhanced.append((align + 1) ** 2 / 4)
    return float(np.mean(enhanced))


def measured(preds: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    true, found, hits = (np.array(mask.sum(), float) for mask in (target, preds, preds & target))
    return float(e_measure(true, found, hits, preds.size))


@given(mask_pairs)
def test_e_measure_equals_that_of_fan_et_al(
    masks: tuple[NDArray[np.bool_], NDArray[np.bool_]],
) -> None:
    assert measured(*masks) == pytest.approx(fan_measure(*masks), abs=1e-9)


@pytest.mark.parametrize("true", [False, True])
@pytest.mark.parametrize("share", [0, 3, 25])
def test_e_measure_of_an_empty_or_a_full_ground_truth(true: bool, share: int) -> None:
    target = np.full((5, 5), true)
    preds = np.arange(25).reshape(5, 5) < share
    expected = share / 25 if true else 1 - share / 25
    assert measured(preds, target) == pytest.approx(expected)
    assert fan_measure(preds, target) == pytest.approx(expected)


@pytest.mark.parametrize("found", [False, True])
def test_e_measure_of_an_empty_or_a_full_prediction_is_a_quarter(found: bool) -> None:
    target = np.arange(24).reshape(4, 6) < 7
    assert measured(np.full((4, 6), found), target) == 0.25


@pytest.mark.parametrize("seed", range(3))
def test_e_measure_of_blobs_and_of_their_opposite(seed: int) -> None:
    preds, target = blobs(seed), np.roll(blobs(seed), (1, 2), axis=(0, 1))
    assert measured(preds, target) == pytest.approx(fan_measure(preds, target), abs=1e-12)
    assert measured(target, target) == 1
    assert measured(~target, target) == 0


# Boundary and direction of a network.


def test_offset_counts_of_a_literal_example() -> None:
    boundary = np.array([[1, 1, 1, 1, 0, 0, 1]], bool)
    direction = np.array([[0, 1, 2, 3, 4, 5, 6]], np.uint8)
    target_boundary = np.array([[1, 1, 0, 255, 1, 0, 1]], np.uint8)
    target_direction = np.array([[0, 2, 2, 3, 4, 5, 255]], np.uint8)
    counts = offset_counts(boundary, direction, target_boundary, target_direction)
    # Found 4 off void, 3 of them among the 4 true ones; 2 of the 3 with a direction are right.
    assert counts.tolist() == [3, 4, 4, 2, 3]
    assert offset_scores(counts) == {"mask_f": 0.75, "direction_accuracy": 2 / 3}


def test_mask_f_and_direction_accuracy_equal_those_of_sklearn() -> None:
    rng = np.random.default_rng(0)
    boundary, direction = rng.random((30, 30)) < 0.4, rng.integers(0, 8, (30, 30), np.uint8)
    target_boundary = rng.choice([0, 1, 255], (30, 30)).astype(np.uint8)
    target_direction = rng.choice([0, 1, 2, 3, 255], (30, 30)).astype(np.uint8)
    scores = offset_scores(offset_counts(boundary, direction, target_boundary, target_direction))
    valid = target_boundary != 255
    directed = valid & boundary & (target_direction != 255)
    f1 = sklearn_metrics.f1_score(target_boundary[valid] == 1, boundary[valid])
    accuracy = sklearn_metrics.accuracy_score(target_direction[directed], direction[directed])
    assert scores["mask_f"] == pytest.approx(f1)
    assert scores["direction_accuracy"] == pytest.approx(accuracy)


def test_scores_of_nothing_are_zero() -> None:
    assert offset_scores(np.zeros(5, np.int64)) == {"mask_f": 0, "direction_accuracy": 0}
