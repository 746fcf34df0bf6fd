"""Every score against the definition it has in print, with plain loops or scikit-learn."""

from __future__ import annotations

import itertools
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
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from segfix.evaluation.statistics import (
    BANDS,
    COLUMNS,
    NUM_COLUMNS,
    RADII,
    RELATIVE_RADII,
    SCORES,
    Surroundings,
    change_counts,
    class_scores,
    class_statistics,
    mean_scores,
    measure_surroundings,
)

Maps = tuple[NDArray[Any], NDArray[Any]]

VOID = 255
CROPS = Path(__file__).parents[1] / "data" / "camvid"
CLASSES = np.array([*range(11), 40, 41])
"""CamVid's, one that labels alone hold in the synthetic maps, and one that predictions alone do."""


def crops() -> list[Maps]:
    """Real predictions and labels."""
    return [
        (np.array(Image.open(path)), np.array(Image.open(CROPS / "labels" / path.name)))
        for path in sorted((CROPS / "preds").glob("*.png"))
    ]


def synthetic(seed: int, shape: tuple[int, int]) -> Maps:
    """Smooth regions of a few classes, with void in both maps and ids that are no classes."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal((2, *shape)), (0, 2, 2))
    target = np.digitize(smooth[0], np.quantile(smooth[0], [0.3, 0.5, 0.8])).astype(np.int32)
    target[target == 3] = 40
    preds = np.roll(target, (1, -2), axis=(0, 1))
    preds[rng.random(shape) < 0.02] = 41
    preds[rng.random(shape) < 0.02] = VOID
    preds[:3, :4] = 777
    target[smooth[1] > np.quantile(smooth[1], 0.9)] = VOID
    return preds, target


IMAGES: list[Maps] = [
    *crops(),
    synthetic(0, (30, 41)),
    synthetic(1, (17, 60)),
    (np.full((5, 6), 2, np.uint8), np.full((5, 6), 2, np.uint8)),
    (np.array([[1]], np.uint8), np.array([[0]], np.uint8)),
    (np.zeros((4, 4), np.uint8), np.full((4, 4), VOID, np.uint8)),
]


def statistics_of(
    images: list[Maps], *, absent: str = "skip", classes: NDArray[np.int64] = CLASSES
) -> NDArray[np.float64]:
    """Summed over images."""
    total = np.zeros((len(classes), NUM_COLUMNS))
    for preds, target in images:
        near = measure_surroundings(target, ignore_index=VOID)
        total += class_statistics(preds, target, classes, near, absent=absent)
    return total


@pytest.fixture(scope="module")
def total() -> NDArray[np.float64]:
    return statistics_of(IMAGES)


@pytest.fixture(scope="module")
def scores(total: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    return class_scores(total)


def distances_to_other_labels(target: NDArray[Any]) -> NDArray[np.float64]:
    """From each pixel to the nearest pixel with another id, void an id like the others."""
    distances = np.full(target.shape, np.inf)
    for k in np.unique(target):
        if not (target == k).all():
            inside = target == k
            distances[inside] = ndimage.distance_transform_edt(inside)[inside]
    return distances


def pooled(max_distance: float = math.inf) -> tuple[NDArray[Any], NDArray[Any]]:
    """True and predicted ids of all images' pixels that are near enough to another label."""
    true, found = [], []
    for preds, target in IMAGES:
        counted = (target != VOID) & (distances_to_other_labels(target) <= max_distance)
        true.append(target[counted])
        found.append(preds[counted])
    return np.concatenate(true), np.concatenate(found)


def mean_of(values: list[float]) -> float:
    """Mean of the numbers among them."""
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers)


def check(key: str, expected: list[float], found: dict[str, NDArray[np.float64]]) -> None:
    np.testing.assert_allclose(found[key], expected, rtol=0, atol=1e-12, err_msg=key)


# Scores from pooled pixels.


@pytest.mark.parametrize("width", [*BANDS, math.inf])
def test_iou_and_trimap_iou_equal_the_jaccard_score_of_sklearn(
    width: float, scores: dict[str, NDArray[np.float64]], total: NDArray[np.float64]
) -> None:
    key = f"trimap_iou_{width}px" if width < math.inf else "iou"
    true, found = pooled(width)
    expected = [
        jaccard_score(true == k, found == k) if np.any(true == k) else math.nan for k in CLASSES
    ]
    check(key, expected, scores)
    assert mean_scores(total)[key] == pytest.approx(mean_of(expected), abs=1e-12)
    held = np.unique(true)
    macro = jaccard_score(true, found, labels=held, average="macro")
    assert mean_scores(total)[key] == pytest.approx(macro, abs=1e-12)


def test_f1_and_pixel_accuracy_equal_those_of_sklearn(
    scores: dict[str, NDArray[np.float64]], total: NDArray[np.float64]
) -> None:
    true, found = pooled()
    expected = [f1_score(true == k, found == k) if np.any(true == k) else math.nan for k in CLASSES]
    check("f1", expected, scores)
    means = mean_scores(total)
    assert means["f1"] == pytest.approx(mean_of(expected))
    assert means["pixel_accuracy"] == pytest.approx(accuracy_score(true, found))


def test_errors_on_void_count_nowhere_and_void_predicted_is_wrong() -> None:
    target = np.array([[0, 0, VOID, 1]], np.uint8)
    near = measure_surroundings(target, ignore_index=VOID)
    for there in (0, 1, 9, VOID):
        preds = np.array([[0, VOID, there, 1]], np.uint8)
        found = class_scores(class_statistics(preds, target, np.array([0, 1]), near))
        assert found["iou"].tolist() == [0.5, 1]


# Bands.


@given(
    hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.sampled_from([0, 1, 2, VOID]),
    )
)
def test_bands_equal_those_of_all_pairs_of_pixels(target: NDArray[np.uint8]) -> None:
    bands = measure_surroundings(target, ignore_index=VOID).bands
    places = list(np.ndindex(*target.shape))
    for here in places:
        if target[here] == VOID:
            assert bands[here] == 0
            continue
        others = [math.dist(here, there) for there in places if target[there] != target[here]]
        nearest = min(others, default=math.inf)
        assert bands[here] == sum(nearest > limit for limit in BANDS)


def test_a_distance_equal_to_a_limit_is_within_it() -> None:
    target = np.zeros((1, 130), np.uint8)
    target[0, 64:] = 1
    bands = measure_surroundings(target, ignore_index=None).bands[0]
    distances = [64 - x if x < 64 else x - 63 for x in range(130)]
    assert bands.tolist() == [sum(d > limit for limit in BANDS) for d in distances]
    alone = measure_surroundings(np.zeros((3, 3), np.uint8), ignore_index=None).bands
    assert np.all(alone == len(BANDS))


# Scores per image.


def davis_line(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`seg2bmap`, pixel by pixel."""
    height, width = mask.shape
    line = np.zeros(mask.shape, bool)
    for y, x in np.ndindex(height, width):
        right, below = min(x + 1, width - 1), min(y + 1, height - 1)
        others = (mask[y, right], mask[below, x], mask[below, right])
        if y == height - 1 and x < width - 1:
            others = (mask[y, right],) * 3
        line[y, x] = any(other != mask[y, x] for other in others)
    return line


def davis_f(found: NDArray[np.bool_], true: NDArray[np.bool_], radius: int) -> float:
    """`db_eval_boundary`: dilation with a disc."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    lines = davis_line(found), davis_line(true)
    near = [ndimage.binary_dilation(line, x * x + y * y <= radius**2) for line in lines]
    sizes = [line.sum() for line in lines]
    if sizes[0] == 0 or sizes[1] == 0:
        return float(sizes[0] == sizes[1])
    precision, recall = (lines[0] & near[1]).sum() / sizes[0], (lines[1] & near[0]).sum() / sizes[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def fan_measure(found: NDArray[np.bool_], true: NDArray[np.bool_], valid: NDArray[Any]) -> float:
    """E-measure of the pixels off void, each with its own alignment."""
    p, g = found[valid].astype(float), true[valid].astype(float)
    if g.min() == g.max():
        return float(np.mean(p == g))
    p, g = p - p.mean(), g - g.mean()
    return float(np.mean((1 + 2 * p * g / (p * p + g * g)) ** 2 / 4))


def expected_per_image(key: str, preds: NDArray[Any], target: NDArray[Any], k: int) -> float:
    """A score of one class of one image, NaN where it is in neither map."""
    valid = target != VOID
    found, true = (preds == k) & valid, target == k
    if not (found | true).any():
        return math.nan
    if key == "e_measure":
        return fan_measure(found, true, valid)
    tolerance = key.removeprefix("f_")
    if tolerance.endswith("px"):
        radius = int(tolerance[:-2])
    else:
        radius = int(np.ceil(float(tolerance) * np.linalg.norm(target.shape)))
    return davis_f(found, true, radius)


PER_IMAGE = [*(f"f_{r}px" for r in RADII), *(f"f_{r}" for r in RELATIVE_RADII), "e_measure"]


@pytest.fixture(scope="module")
def per_image() -> dict[str, NDArray[np.float64]]:
    """(images, classes) of each score."""
    return {
        key: np.array([[expected_per_image(key, *maps, k) for k in CLASSES] for maps in IMAGES[3:]])
        for key in PER_IMAGE
    }


@pytest.mark.parametrize("key", PER_IMAGE)
@pytest.mark.parametrize("absent", ["skip", "one"])
def test_boundary_f_and_e_measure_are_means_over_images_then_over_classes(
    key: str, absent: str, per_image: dict[str, NDArray[np.float64]]
) -> None:
    table = per_image[key]
    if absent == "one":
        table = np.where(np.isnan(table), 1, table)
    expected = [
        mean_of(list(column)) if not np.isnan(column).all() else math.nan for column in table.T
    ]
    total = statistics_of(IMAGES[3:], absent=absent)
    check(key, expected, class_scores(total))
    assert mean_scores(total)[key] == pytest.approx(mean_of(expected), abs=1e-12)


def test_radii_follow_the_size_of_the_image() -> None:
    # The diagonal is nearly 5000: 1.5, 3 and 4.5 px, rounded up; the edge is 3 px off.
    target, preds = np.zeros((2, 20, 4999), np.uint8)
    target[:, 2000:] = preds[:, 2003:] = 1
    nowhere = np.zeros(target.shape, np.int64)
    near = Surroundings(nowhere, nowhere)
    found = class_scores(class_statistics(preds, target, np.array([0, 1]), near))
    wanted = {"f_1px": 0, "f_2px": 0, "f_3px": 1, "f_0.0003": 0, "f_0.0006": 1, "f_0.0009": 1}
    assert {key: found[key].tolist() for key in wanted} == {k: [v, v] for k, v in wanted.items()}


def test_boundary_iou_is_a_quotient_of_sums(total: NDArray[np.float64]) -> None:
    sums = np.zeros((len(CLASSES), 2))
    for preds, target in IMAGES:
        valid = target != VOID
        steps = max(1, round(0.02 * math.hypot(*target.shape)))
        for i, k in enumerate(CLASSES):
            bands = [
                mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=steps)
                for mask in ((preds == k) & valid, target == k)
            ]
            sums[i] += (bands[0] & bands[1]).sum(), (bands[0] | bands[1]).sum()
    held = np.isin(CLASSES, pooled()[0])
    expected = [a / b if there else math.nan for (a, b), there in zip(sums, held, strict=True)]
    check("boundary_iou", expected, class_scores(total))
    assert mean_scores(total)["boundary_iou"] == pytest.approx(mean_of(expected))


# What has a score, and what hasn't.


def test_a_class_in_predictions_alone_has_a_boundary_f_but_no_iou(
    scores: dict[str, NDArray[np.float64]],
) -> None:
    row = int(np.flatnonzero(CLASSES == 41)[0])
    assert scores["f_1px"][row] == 0
    assert 0 < scores["e_measure"][row] < 1
    for key in ("iou", "f1", "boundary_iou", "trimap_iou_50px"):
        assert math.isnan(scores[key][row])


def test_there_is_a_mean_of_every_score_and_all_lie_within_0_and_1(
    total: NDArray[np.float64], scores: dict[str, NDArray[np.float64]]
) -> None:
    means = mean_scores(total)
    assert list(means) == list(SCORES)
    assert set(scores) == set(SCORES) - {"mba", "pixel_accuracy"}
    for values in [*means.values(), *scores.values()]:
        known = values[~np.isnan(values)]
        assert np.all((known >= 0) & (known <= 1))


def test_nothing_has_no_score() -> None:
    for shape in ((0, NUM_COLUMNS), (3, NUM_COLUMNS)):
        assert all(np.isnan(value) for value in mean_scores(np.zeros(shape)).values())


def test_scores_of_many_sets_at_once_are_those_of_each(total: NDArray[np.float64]) -> None:
    sets = np.stack([total, statistics_of(IMAGES[:3]), np.zeros_like(total)])
    for function in (class_scores, mean_scores):
        together = function(sets)
        for i, one in enumerate(sets):
            for key, value in function(one).items():
                np.testing.assert_array_equal(together[key][i], value)


def test_a_perfect_map_scores_one_everywhere_but_of_nothing() -> None:
    _, target = crops()[0]
    total = statistics_of([(target, target)])
    assert all(value == 1 for value in mean_scores(total).values())


def test_the_classes_of_one_list_do_not_disturb_each_other() -> None:
    preds, target = synthetic(3, (25, 25))
    near = measure_surroundings(target, ignore_index=VOID)
    whole = class_statistics(preds, target, CLASSES, near)
    for i, k in enumerate(CLASSES):
        alone = class_statistics(preds, target, np.array([k]), near)
        np.testing.assert_array_equal(alone[0], whole[i])


@given(
    hnp.arrays(np.uint8, (2, 4, 5), elements=st.sampled_from([0, 1, 2, VOID])),
    st.sampled_from([0, VOID, None, -1]),
)
def test_columns_hold_what_they_are_called(maps: NDArray[np.uint8], void: int | None) -> None:
    preds, target = maps
    classes = np.array([k for k in (0, 1, 2, VOID) if k != void])
    near = measure_surroundings(target, ignore_index=void)
    found = class_statistics(preds, target, classes, near, ignore_index=void)
    for i, k in enumerate(classes):
        for band in range(len(BANDS) + 1):
            here = near.bands == band
            if void is not None:
                here &= target != void
            counts = [found[i, COLUMNS[name]][band] for name in ("true", "predicted", "hits")]
            true, there = here & (target == k), here & (preds == k)
            assert counts == [true.sum(), there.sum(), (true & there).sum()]


def test_more_classes_than_64_in_one_image() -> None:
    rng = np.random.default_rng(2)
    target = rng.integers(0, 150, (30, 30)) * 6
    preds = np.where(rng.random((30, 30)) < 0.3, rng.integers(0, 1024, (30, 30)), target)
    classes = np.union1d(preds, target)
    near = measure_surroundings(target, ignore_index=None)
    found = class_scores(class_statistics(preds, target, classes, near, ignore_index=None))
    for i, k in itertools.islice(enumerate(classes), 0, None, 20):
        assert found["f_1px"][i] == pytest.approx(davis_f(preds == k, target == k, 1))
        if np.any(target == k):
            expected = jaccard_score((target == k).ravel(), (preds == k).ravel())
            assert found["iou"][i] == pytest.approx(expected)


# What changed.


@pytest.mark.parametrize("void", [VOID, None, 0])
def test_changes_are_those_of_a_loop_over_pixels(void: int | None) -> None:
    before, target = synthetic(4, (21, 33))
    after = np.where(np.roll(before, 1, axis=1) % 2 == 0, target, np.roll(before, 2, axis=0))
    classes = np.array([k for k in np.unique(target) if k != void])
    near = measure_surroundings(target, ignore_index=void)
    found = change_counts(before, after, target, classes, near.bands, ignore_index=void)
    expected = np.zeros((len(classes), len(BANDS) + 1, 3), int)
    for place in np.ndindex(*target.shape):
        if target[place] == void or before[place] == after[place]:
            continue
        row = expected[list(classes).index(target[place]), near.bands[place]]
        row += [1, after[place] == target[place], before[place] == target[place]]
    assert np.array_equal(found, expected)
    assert np.all(expected.sum(axis=(0, 1)) > 0)


def test_fixed_less_broken_is_the_gain_in_hits() -> None:
    (before, target), (other, _) = crops()[0], crops()[1]
    after = np.where(np.arange(before.size).reshape(before.shape) % 3 == 0, other, before)
    near = measure_surroundings(target, ignore_index=VOID)
    first, second = (
        class_statistics(maps, target, CLASSES, near)[:, COLUMNS["hits"]]
        for maps in (before, after)
    )
    changes = change_counts(before, after, target, CLASSES, near.bands)
    assert np.array_equal(changes[..., 1] - changes[..., 2], second - first)
    assert not change_counts(before, before, target, CLASSES, near.bands).any()
