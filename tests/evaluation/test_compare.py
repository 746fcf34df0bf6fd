from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import jaccard_score

from segfix.evaluation import Scores, evaluate_folder
from segfix.formats import Entry, Pair
from segfix.metrics import class_boundary_f


def random_maps(seed: int, classes: int = 5) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A blocky label map with void, and a prediction that errs at some blocks."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, (6, 8)).repeat(5, axis=0).repeat(5, axis=1).astype(np.uint8)
    preds = np.roll(target, (1, 2), axis=(0, 1))
    target[rng.random(target.shape) < 0.1] = 255
    return preds, target


def numbers(scores: Scores) -> dict[str, float | None]:
    """The result without nesting, for comparison within float tolerance."""
    result = scores.result()
    return result | {f"iou of {k}": iou for k, iou in result.pop("class_iou").items()}


def scored(maps: list[tuple[NDArray[Any], NDArray[Any]]]) -> dict[str, float | None]:
    scores = Scores()
    for preds, target in maps:
        scores.update(preds, target, 255)
    return numbers(scores)


def test_miou_of_a_set_equals_scikit_learn_on_all_pixels_together() -> None:
    maps = [random_maps(seed) for seed in range(4)]
    valid = np.concatenate([(target != 255).ravel() for _, target in maps])
    preds = np.concatenate([preds.ravel() for preds, _ in maps])[valid]
    target = np.concatenate([target.ravel() for _, target in maps])[valid]
    result = scored(maps)
    assert result["miou"] == pytest.approx(jaccard_score(target, preds, average="macro"))
    assert result["pixel_accuracy"] == pytest.approx(np.mean(preds == target))
    assert result["pixels"] == valid.sum()


def test_boundary_f_is_the_mean_over_images_then_over_classes() -> None:
    # Class 4 is missing in the first image, so that the order of the means matters.
    maps = [random_maps(1, classes=4), random_maps(2), random_maps(3)]
    per_image = np.stack([class_boundary_f(preds, target, 5) for preds, target in maps])
    assert np.isnan(per_image[0, 4]).all()
    expected = np.nanmean(per_image, axis=0).mean(axis=0)
    result = scored(maps)
    assert [result["f1"], result["f2"], result["f3"]] == pytest.approx(list(expected))
    assert result["f1"] != pytest.approx(np.nanmean(per_image[..., 0]))


def test_the_order_of_images_and_the_growth_of_classes_do_not_matter() -> None:
    maps = [random_maps(seed, classes=3 + seed) for seed in range(5)]
    assert scored(maps) == pytest.approx(scored(maps[::-1]))


def test_merged_parts_equal_the_whole() -> None:
    maps = [random_maps(seed, classes=3 + seed) for seed in range(4)]
    left, right = Scores(), Scores()
    for number, (preds, target) in enumerate(maps):
        (left if number % 2 else right).update(preds, target, 255)
    left.merge(right)
    assert numbers(left) == pytest.approx(scored(maps))


def test_void_decides_nothing() -> None:
    preds, target = random_maps(0)
    changed = np.where(target == 255, 3, preds).astype(np.uint8)
    assert scored([(preds, target)]) == scored([(changed, target)])


def test_void_in_a_prediction_is_a_wrong_answer() -> None:
    target = np.zeros((4, 4), np.uint8)
    preds = target.copy()
    preds[0] = 255
    result = scored([(preds, target)])
    assert result["miou"] == 0.75
    assert result["pixels_of_absent_classes"] == 4


def test_ids_beyond_any_class_list_are_refused() -> None:
    with pytest.raises(ValueError, match="below 1024 but got 26001"):
        Scores().update(np.zeros((2, 2), int), np.full((2, 2), 26001), 255)


def test_an_all_void_image_counts_as_an_image_without_pixels() -> None:
    void = np.full((4, 4), 255, np.uint8)
    result = scored([(np.zeros((4, 4), np.uint8), void)])
    assert (result["images"], result["pixels"]) == (1, 0)
    assert result["miou"] is None


def test_threads_give_the_same_numbers(tmp_path: Path) -> None:
    pairs = []
    for seed in range(6):
        entries = []
        for name, array in zip("pt", random_maps(seed), strict=True):
            path = tmp_path / f"{name}{seed}.png"
            Image.fromarray(array).save(path)
            entries.append(Entry(path, str(seed)))
        pairs.append(Pair(entries[1], entries[0]))
    one, four = (numbers(evaluate_folder(pairs, workers=n)) for n in (1, 4))
    assert one == four
    assert one == pytest.approx(scored([random_maps(seed) for seed in range(6)]))
