"""Sets of label maps side by side: sums, intervals, failures, memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import jaccard_score

from segfix.evaluation import Comparison, compare, evaluate_folders, score_image
from segfix.evaluation.image_scores import ImageScores
from segfix.evaluation.statistics import BANDS, COLUMNS, NUM_COLUMNS, mean_scores
from segfix.files import Entry, Pair
from segfix.metrics import class_boundary_f

Maps = tuple[NDArray[Any], ...]
"""The ground truth, then a label map per set."""

VOID = 255


def blocks(seed: int, classes: int = 5, sets: int = 2, size: int = 5) -> Maps:
    """A blocky label map with void, and predictions that err at the edges of blocks."""
    rng = np.random.default_rng(seed)
    target = np.kron(rng.integers(0, classes, (6, 8)), np.ones((size, size), int)).astype(np.uint8)
    preds = [np.roll(target, (1 - n, 2), axis=(0, 1)) for n in range(sets)]
    for found in preds:
        noise = rng.random(target.shape) < 0.1
        found[noise] = rng.integers(0, classes, np.count_nonzero(noise))
    target[rng.random(target.shape) < 0.1] = VOID
    return target, *preds


def scored(
    images: Sequence[Maps],
    *,
    class_names: Mapping[int, str] | None = None,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    comparison = Comparison("ABC"[: len(images[0]) - 1], class_names, seed=seed)
    classes = None if class_names is None else list(class_names)
    for target, *preds in images:
        comparison.update(score_image(target, preds, classes=classes, **options))
    result = comparison.result()
    json.dumps(result, allow_nan=False)
    return result


def flat(value: Any, path: str = "") -> dict[str, float | None]:
    """The numbers of a result by their places, for comparison within float tolerance."""
    if isinstance(value, dict):
        items = [(str(key), child) for key, child in value.items()]
    elif isinstance(value, list):
        items = [(str(key), child) for key, child in enumerate(value)]
    else:
        return {} if isinstance(value, str) else {path: value}
    return {k: v for key, child in items for k, v in flat(child, f"{path}/{key}").items()}


def without_intervals(result: dict[str, Any]) -> dict[str, float | None]:
    return {k: v for k, v in flat(result).items() if k[-2:] not in ("/1", "/2") or "sets" in k}


# Scores of a set.


def test_miou_of_a_set_equals_scikit_learn_on_all_pixels_together() -> None:
    images = [blocks(seed) for seed in range(4)]
    valid = np.concatenate([(target != VOID).ravel() for target, *_ in images])
    target = np.concatenate([target.ravel() for target, *_ in images])[valid]
    result = scored(images)
    for number, name in enumerate("AB", start=1):
        preds = np.concatenate([image[number].ravel() for image in images])[valid]
        means = result["sets"][name]["mean"]
        assert means["iou"] == pytest.approx(jaccard_score(target, preds, average="macro"))
        assert means["pixel_accuracy"] == pytest.approx(np.mean(preds == target))
        assert sum(result["sets"][name]["errors"]) == np.sum(preds != target)
    assert (result["pixels"], result["void"]) == (valid.sum(), (~valid).sum())
    assert [entry["pixels"] for entry in result["classes"]] == np.bincount(target).tolist()


def test_boundary_f_is_the_mean_over_images_then_over_classes() -> None:
    # Class 4 is missing in the first image, so that the order of the means matters.
    images = [blocks(1, classes=4), blocks(2), blocks(3)]
    per_image = np.stack([class_boundary_f(a, target, np.arange(5)) for target, a, _ in images])
    assert np.isnan(per_image[0, 4]).all()
    expected = np.nanmean(per_image, axis=0).mean(axis=0)
    means = scored(images)["sets"]["A"]["mean"]
    assert [means[f"f_{r}px"] for r in (1, 2, 3)] == pytest.approx(list(expected))
    assert means["f_1px"] != pytest.approx(np.nanmean(per_image[..., 0]))


def test_the_order_of_images_and_the_growth_of_classes_do_not_matter() -> None:
    images = [blocks(seed, classes=3 + seed) for seed in range(5)]
    first, last = scored(images), scored(images[::-1])
    assert without_intervals(first) == pytest.approx(without_intervals(last))


def test_ids_from_0_to_1023_and_a_class_list_with_gaps() -> None:
    target = np.array([[0, 0, 1023, 1023, 700, 700]])
    preds = np.array([[0, 0, 1023, 700, 700, 3]])
    free = scored([(target, preds)])
    assert [entry["id"] for entry in free["classes"]] == [0, 3, 700, 1023]
    assert free["sets"]["A"]["class"]["iou"] == [1, None, pytest.approx(1 / 3), 0.5]
    names = {1023: "last", 0: "first", 700: "middle", 701: "nowhere"}
    listed = scored([(target, preds)], class_names=names)
    assert [entry["name"] for entry in listed["classes"]] == ["first", "middle", "nowhere", "last"]
    assert listed["sets"]["A"]["class"]["iou"] == [1, pytest.approx(1 / 3), None, 0.5]
    assert listed["sets"]["A"]["mean"]["iou"] == free["sets"]["A"]["mean"]["iou"]
    # F is taken over the classes in either map, and a listed one only.
    assert listed["sets"]["A"]["mean"]["f_1px"] > free["sets"]["A"]["mean"]["f_1px"]
    for result in (free, listed):
        assert result["sets"]["A"]["outside"] == {"3": 1}


def test_within_counts_each_class_up_to_each_distance() -> None:
    target = np.zeros((1, 20), np.uint8)
    target[0, 4:] = 1
    entries = scored([(target, target)])["classes"]
    assert entries[0]["within"] == [1, 2, 3, 4, 4, 4, 4, 4, 4]
    assert entries[1]["within"] == [1, 2, 3, 4, 5, 10, 16, 16, 16]


# Void, and ids that are no classes.


def test_void_decides_nothing() -> None:
    target, preds, other = blocks(0)
    changed = np.where(target == VOID, 3, preds).astype(np.uint8)
    assert scored([(target, preds, other)]) == scored([(target, changed, other)])


def test_void_in_a_prediction_is_a_wrong_answer_and_counted() -> None:
    target = np.zeros((4, 4), np.uint8)
    preds = target.copy()
    preds[0] = VOID
    for names in (None, {0: "all", 1: "nothing"}, {0: "all", VOID: "void"}):
        result = scored([(target, preds)], class_names=names)
        assert result["sets"]["A"]["mean"]["iou"] == 0.75
        assert result["sets"]["A"]["outside"] == {str(VOID): 4}


@pytest.mark.parametrize("absent", ["skip", "one"])
def test_void_in_the_class_list_is_no_class(tmp_path: Path, absent: str) -> None:
    target = np.zeros((6, 6), np.uint8)
    target[:, 3:] = 1
    preds = np.roll(target, 1, axis=1)
    preds[:, :1] = VOID
    with_void = evaluate_folders(
        save(tmp_path, [(target, preds)]),
        class_names={0: "a", 1: "b", 2: "nowhere", VOID: "void"},
        absent=absent,
    ).result()
    without = evaluate_folders(
        save(tmp_path, [(target, preds)]),
        class_names={0: "a", 1: "b", 2: "nowhere"},
        absent=absent,
    ).result()
    assert with_void == without
    assert with_void["sets"]["A"]["outside"] == {str(VOID): 6}


@pytest.mark.parametrize("void", [None, -1])
def test_without_void_every_id_is_a_class(void: int | None) -> None:
    target = np.where(np.arange(30).reshape(5, 6) < 12, 0, VOID).astype(np.uint8)
    preds = np.where(np.arange(30).reshape(5, 6) < 15, 0, VOID).astype(np.uint8)
    result = scored([(target, preds)], ignore_index=void)
    assert [entry["id"] for entry in result["classes"]] == [0, VOID]
    assert result["sets"]["A"]["class"]["iou"] == pytest.approx([12 / 15, 15 / 18])
    assert result["void"] == 0


@pytest.mark.parametrize("void", [VOID, 0])
@pytest.mark.parametrize("names", [None, {1: "one", 2: "two"}])
def test_an_all_void_image_counts_as_an_image_without_pixels(
    void: int, names: dict[int, str] | None
) -> None:
    empty = np.full((4, 4), void, np.uint8)
    ones = np.ones((4, 4), np.uint8)
    alone = scored([(empty, ones, ones)], class_names=names, ignore_index=void)
    assert (alone["images"], alone["void_images"], alone["pixels"], alone["void"]) == (1, 1, 0, 16)
    assert set(alone["sets"]["A"]["mean"].values()) == {None}
    assert alone["sets"]["A"]["outside"] == {}
    # It adds no class of its own either.
    target, preds, other = blocks(0, classes=3)
    image = (np.where(target == VOID, void, target % 2 + 1), preds % 2 + 1, other % 2 + 1)
    both = scored([(empty, ones, ones), image], class_names=names, ignore_index=void)
    one = scored([image], class_names=names, ignore_index=void)
    assert [entry["id"] for entry in both["classes"]] == [1, 2]
    assert both["sets"] == one["sets"]
    assert both["classes"] == one["classes"]


def test_predicted_ids_are_outside_without_a_list_where_no_label_map_of_the_set_holds_them() -> (
    None
):
    first = np.array([[0, 0, 1]]), np.array([[0, 2, 5]])
    second = np.array([[2, 2, 0]]), np.array([[2, 5, 0]])
    assert scored([first, second])["sets"]["A"]["outside"] == {"5": 2}
    listed = scored([first, second], class_names={0: "a", 1: "b", 2: "c", 5: "d"})
    assert listed["sets"]["A"]["outside"] == {}
    shorter = scored([first, second], class_names={0: "a", 1: "b", 2: "c"})
    assert shorter["sets"]["A"]["outside"] == {"5": 2}
    assert (
        shorter["sets"]["A"]["mean"]["iou"] == scored([first, second])["sets"]["A"]["mean"]["iou"]
    )


def test_ids_beyond_any_class_list_are_refused() -> None:
    zeros, colours = np.zeros((2, 2), int), np.full((2, 2), 26001)
    for maps in ((colours, zeros), (zeros, colours)):
        with pytest.raises(ValueError, match="below 1024 but got 26001"):
            score_image(maps[0], [maps[1]])
    with pytest.raises(ValueError, match="below 1024 but got -3"):
        score_image(zeros - 3, [zeros])
    assert score_image(zeros, [colours], classes=[0]).outside == ({26001: 4},)


def test_a_true_id_outside_the_class_list_is_refused() -> None:
    ids = np.array([[0, 1, 7]])
    with pytest.raises(ValueError, match="ground truth holds 7, none of the"):
        score_image(ids, [ids], classes=[0, 1])


def test_maps_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        score_image(np.zeros((3, 2), int), [np.zeros((3, 2), int), np.zeros((2, 3), int)])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int32, np.int64])
def test_the_integer_type_does_not_matter(dtype: Any) -> None:
    images = [tuple(maps % 2 for maps in blocks(seed)) for seed in range(2)]
    cast = [tuple(maps.astype(dtype) for maps in image) for image in images]
    assert scored(cast, ignore_index=None) == scored(images, ignore_index=None)


# Differences and their intervals.


def test_the_difference_to_the_first_set_lies_in_its_interval() -> None:
    images = [blocks(seed, sets=3, size=3) for seed in range(70)]
    result = scored(images)
    assert list(result["changes"]) == ["B", "C"]
    for name, change in result["changes"].items():
        for key, (difference, low, high) in change["mean"].items():
            there, here = (result["sets"][n]["mean"][key] for n in (name, "A"))
            assert difference == pytest.approx(there - here, abs=1e-12)
            assert low < difference < high, key
        for key, rows in change["class"].items():
            for i, (difference, low, high) in enumerate(rows):
                there, here = (result["sets"][n]["class"][key][i] for n in (name, "A"))
                assert difference == pytest.approx(there - here, abs=1e-12)
                assert low <= difference <= high, key


def test_a_set_against_itself_differs_by_exactly_nothing() -> None:
    images = [(target, preds, preds) for target, preds, _ in (blocks(seed) for seed in range(9))]
    result = scored(images)
    assert result["sets"]["A"] == result["sets"]["B"]
    assert all(value == [0, 0, 0] for value in result["changes"]["B"]["mean"].values())
    assert all(row == [0, 0, 0] for v in result["changes"]["B"]["class"].values() for row in v)
    for counts in result["changes"]["B"]["class_pixels"].values():
        assert counts == [0] * len(result["classes"])


def test_the_other_sets_and_their_names_do_not_matter_to_a_set() -> None:
    images = [blocks(seed, sets=3, size=3) for seed in range(20)]
    three, two = scored(images), scored([image[:3] for image in images])
    assert three["sets"]["B"] == two["sets"]["B"]
    for kind in ("mean", "class"):
        assert flat(three["changes"]["B"][kind]) == pytest.approx(flat(two["changes"]["B"][kind]))


def test_images_that_all_differ_alike_leave_no_doubt() -> None:
    target, first, second = blocks(0)
    result = scored([(target, first, second)] * 12)
    for difference, low, high in result["changes"]["B"]["mean"].values():
        assert low == pytest.approx(difference, abs=1e-9)
        assert high == pytest.approx(difference, abs=1e-9)


def test_a_single_image_has_no_interval_nor_has_a_class_that_a_single_image_holds() -> None:
    image = blocks(0)
    empty = np.full_like(image[0], VOID)
    for images in ([image], [image, (empty, *image[1:])]):
        changes = scored(images)["changes"]["B"]
        for difference, low, high in [*changes["mean"].values(), *changes["class"]["iou"]]:
            assert difference is not None
            assert low is high is None
    rare = tuple(np.where(maps == 4, 9, maps) for maps in blocks(7))
    several = [*(blocks(seed, classes=4) for seed in range(5)), rare]
    result = scored(several)
    assert [entry["id"] for entry in result["classes"]] == [0, 1, 2, 3, 9]
    for rows in result["changes"]["B"]["class"].values():
        assert all(value is not None for row in rows[:4] for value in row)
        assert rows[4][1:] == [None, None]


def test_intervals_agree_with_those_of_a_bootstrap_that_draws_images() -> None:
    images = [blocks(seed, size=3) for seed in range(90)]
    statistics = np.zeros((len(images), 2, 5, NUM_COLUMNS))
    for total, (target, *preds) in zip(statistics, images, strict=True):
        image = score_image(target, preds)
        total[:, image.classes] = image.statistics
    times = np.random.default_rng(1).multinomial(90, np.full(90, 1 / 90), 1500)
    drawn = mean_scores(np.einsum("ri,inks->rnks", times.astype(float), statistics, optimize=True))
    found = scored(images)["changes"]["B"]["mean"]
    for key in ("iou", "f_1px", "f1", "e_measure", "pixel_accuracy", "trimap_iou_3px"):
        expected = np.percentile(drawn[key][:, 1] - drawn[key][:, 0], [2.5, 97.5])
        atol = 0.12 * np.ptp(expected)
        np.testing.assert_allclose(found[key][1:], expected, rtol=0, atol=atol, err_msg=key)


def test_an_interval_holds_the_true_difference_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    repeats, held = 60, 0
    for seed in range(repeats):
        comparison = Comparison("AB", seed=seed)
        for _ in range(40):
            accuracy = rng.uniform(0.5, 0.9)
            gain = rng.normal(0.03, 0.05)
            statistics = np.zeros((2, 1, NUM_COLUMNS))
            statistics[:, 0, COLUMNS["true"].start] = 1000
            statistics[:, 0, COLUMNS["boundary_iou"]] = 1
            hits = 1000 * accuracy, 1000 * (accuracy + gain)
            statistics[:, 0, COLUMNS["hits"].start] = hits
            comparison.update(
                ImageScores(
                    classes=np.zeros(1, np.int64),
                    statistics=statistics,
                    changes=np.zeros((1, 1, len(BANDS) + 1, 3), np.int64),
                    pixels=1000,
                    outside=({}, {}),
                )
            )
        _, low, high = comparison.result()["changes"]["B"]["mean"]["pixel_accuracy"]
        held += low <= 0.03 <= high
    # An interval of 40 images holds it in 94 %; three standard errors of 60 trials are 9 %.
    assert 0.85 <= held / repeats < 1


def test_the_seed_decides_the_replicas() -> None:
    images = [blocks(seed, size=2) for seed in range(10)]
    assert scored(images) == scored(images)
    one, other = (scored(images, seed=seed)["changes"]["B"]["mean"] for seed in (0, 1))
    assert one != other
    assert {k: v[0] for k, v in one.items()} == {k: v[0] for k, v in other.items()}


def test_a_result_may_be_asked_for_along_the_way() -> None:
    images = [blocks(seed, size=2) for seed in range(6)]
    comparison = Comparison("AB")
    for target, *preds in images:
        comparison.update(score_image(target, preds))
        between = comparison.result()
    assert comparison.result() == between
    assert without_intervals(between) == without_intervals(scored(images))


def test_changes_are_summed_over_images() -> None:
    images = [blocks(seed) for seed in range(3)]
    expected = {"moved": 0, "fixed": 0, "broken": 0}
    for target, before, after in images:
        moved = (target != VOID) & (before != after)
        expected["moved"] += int(moved.sum())
        expected["fixed"] += int((moved & (after == target)).sum())
        expected["broken"] += int((moved & (before == target)).sum())
    changes = scored(images)["changes"]["B"]
    for kind, total in expected.items():
        assert sum(changes["bands"][kind]) == total
        assert sum(changes["class_pixels"][kind]) == total
        assert total > 0


# Folders.


def save(folder: Path, images: Sequence[Maps]) -> dict[str, list[Pair]]:
    """Write label maps; the sets as `evaluate_folders` takes them."""
    sets: dict[str, list[Pair]] = {name: [] for name in "ABC"[: len(images[0]) - 1]}
    for number, maps in enumerate(images):
        entries = []
        for name, array in zip(["truth", *sets], maps, strict=True):
            path = folder / name / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(path)
            entries.append(Entry(path, str(number)))
        for pairs, entry in zip(sets.values(), entries[1:], strict=True):
            pairs.append(Pair(entries[0], entry))
    return sets


def test_threads_and_files_give_the_same_numbers(tmp_path: Path) -> None:
    images = [blocks(seed) for seed in range(7)]
    sets = save(tmp_path, images)
    comparison = Comparison("AB")
    for (target, *preds), pair in zip(images, sets["A"], strict=True):
        comparison.update(score_image(target, preds, paths=(pair.entry.path,)))
    expected = comparison.result()
    for workers in (1, 4, 9):
        assert evaluate_folders(sets, workers=workers).result() == expected


def test_images_come_back_in_order_with_their_paths(tmp_path: Path) -> None:
    sets = save(tmp_path, [blocks(seed) for seed in range(5)])
    found = [image.paths for image in compare.score_images(sets, workers=3)]
    assert [[path.parent.name for path in paths] for paths in found] == [["truth", "A", "B"]] * 5
    assert [paths[2].name for paths in found] == [f"{i}.png" for i in range(5)]


def test_what_fails_in_one_set_counts_in_none_and_is_stated(tmp_path: Path) -> None:
    images = [blocks(seed) for seed in range(8)]
    sets = save(tmp_path, images)
    sets["B"][0] = Pair(sets["B"][0].entry, None)
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "A/1.png")
    Image.new("RGB", (40, 30), (128, 64, 128)).save(tmp_path / "B/2.png")
    (tmp_path / "truth/3.png").write_bytes(b"no picture")
    truth = images[4][0].copy()
    truth[0, 0] = 77
    Image.fromarray(truth).save(tmp_path / "truth/4.png")
    sets["A"][5] = Pair(Entry(tmp_path / "truth/5.png", "5", problem="same stem"), None)
    comparison = evaluate_folders(sets, class_names={k: f"class {k}" for k in range(5)})
    assert (comparison.images, comparison.left_out) == (2, 6)
    expected = (
        "truth/0.png: no prediction of that name",
        "A/1.png: 4×3, but its label map",
        "B/2.png: colour-coded",
        "truth/3.png: not a readable label map",
        "truth/4.png: the ground truth holds 77",
        "same stem",
    )
    for text, part in zip(comparison.failed, expected, strict=True):
        assert part in text
    result = comparison.result()
    rest = scored(images[6:], class_names={k: f"class {k}" for k in range(5)})
    assert result["failed"] == comparison.failed
    assert (result["sets"], result["changes"]) == (rest["sets"], rest["changes"])


def test_an_image_that_fails_in_two_sets_is_left_out_once(tmp_path: Path) -> None:
    sets = save(tmp_path, [blocks(0), blocks(1)])
    for name in "AB":
        Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / name / "1.png")
    comparison = evaluate_folders(sets)
    assert (comparison.images, comparison.left_out, len(comparison.failed)) == (1, 1, 2)


def test_the_file_with_impossible_ids_is_named(tmp_path: Path) -> None:
    sets = save(tmp_path, [blocks(0)])
    Image.fromarray(np.full((30, 40), 26001, np.uint16)).save(tmp_path / "B/0.png")
    (text,) = evaluate_folders(sets).failed
    assert "26001" in text
    assert str(tmp_path / "B/0.png") in text


def test_when_everything_fails_there_are_no_scores(tmp_path: Path) -> None:
    sets = save(tmp_path, [blocks(0)])
    sets["A"][0] = Pair(sets["A"][0].entry, None)
    result = evaluate_folders(sets).result()
    assert (result["images"], result["left_out"], result["classes"]) == (0, 1, [])
    assert set(result["sets"]["B"]["mean"].values()) == {None}
    assert result["changes"]["B"]["mean"]["iou"] == [None, None, None]


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    images = [
        score_image(target, preds) for target, *preds in (blocks(s, size=2) for s in range(7))
    ]

    def peak(number: int) -> int:
        tracemalloc.start()
        comparison = Comparison("AB")
        for i in range(number):
            comparison.update(images[i % 7])
        comparison.result()
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(1)
    few, many, most = (peak(number) for number in (20, 200, 400))
    assert many < 1.3 * few, "but for the images that wait for the replicas"
    assert most < 1.02 * many
