from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from segfix.geometry import fill_void_bands, label_distance, make_targets
from segfix.training import crop_targets
from segfix.training.augmentation import cut_window, vary_appearance
from segfix.training.crop_targets import ClassTargets, OffsetTargets
from segfix.training.datasets import CropDataset, Source
from segfix.training.layouts import LabelledImage, find_labelled_images
from segfix.training.settings import Augmentation, CropSettings

WritePair = Callable[..., None]
PLAIN = Augmentation(scales=(1, 1), jitter=0, blur=0, jpeg=0)


def crops(
    images: list[LabelledImage],
    *,
    length: int = 100,
    size: int = 32,
    width: float = 2,
    augmentation: Augmentation | None = PLAIN,
    tolerance: float = 0,
    ignore_frame: int = 0,
    **options: Any,
) -> CropDataset:
    return CropDataset(
        [Source(images, tolerance=tolerance)],
        length,
        targets=OffsetTargets(8, width),
        crops=CropSettings(
            size, ignore_frame=ignore_frame, augmentation=augmentation or Augmentation()
        ),
        **options,
    )


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_samples_have_the_shapes_and_types_of_the_loss(data: Path) -> None:
    dataset = crops(find_labelled_images(data), augmentation=None)
    assert len(dataset) == 100
    sample = dataset[0]
    assert {key: (tuple(v.shape), v.dtype) for key, v in sample.items()} == {
        "image": ((3, 32, 32), torch.uint8),
        "boundary": ((32, 32), torch.uint8),
        "direction": ((32, 32), torch.uint8),
        "index": ((), torch.int64),
    }
    for index in range(20):
        assert set(dataset[index]["boundary"].flatten().tolist()) <= {0, 1, 255}
        assert set(dataset[index]["direction"].flatten().tolist()) <= {*range(8), 255}


def test_a_sample_is_a_pure_function_of_seed_and_index(data: Path) -> None:
    images = find_labelled_images(data)
    dataset = crops(images, augmentation=None, seed=3)
    first = [dataset[index] for index in range(6)]
    again = crops(images, augmentation=None, seed=3, length=7)
    assert all(same(again[index], first[index]) for index in (5, 0, 3, 3, 1, 2, 4))
    assert not any(same(a, b) for i, a in enumerate(first) for b in first[:i])
    other = crops(images, augmentation=None, seed=4)
    assert not any(same(other[index], sample) for index in range(6) for sample in first)


@pytest.mark.parametrize("width", [1, 5])
def test_targets_of_a_crop_are_those_of_the_whole_label_map_cut_to_it(
    tmp_path: Path, write_pair: WritePair, blobs: NDArray[np.uint8], width: int
) -> None:
    blobs = blobs.copy()
    # A band of void, and an area.
    blobs[70:75, 60:100] = 255
    blobs[100:120, 20:60] = 255
    image = np.repeat((blobs == 1)[..., None] * np.uint8(255), 3, axis=2)
    write_pair(tmp_path, "blobs", blobs, image)
    dataset = crops(find_labelled_images(tmp_path), size=48, width=width)
    whole, windows = [], []
    # Filled before it is mirrored: in the middle of a band, two labels may be equally near.
    filled = fill_void_bands(blobs)
    for labels, regions in ((blobs, filled), (blobs[:, ::-1], filled[:, ::-1])):
        targets = make_targets(regions.copy(), boundary_width=width)
        whole.append(labels)
        windows.append(
            [
                sliding_window_view(np.where(labels == 255, np.uint8(255), maps), (48, 48))
                for maps in targets[1:]
            ]
        )
    mirrored = 0
    for index in range(16):
        sample = {key: value.numpy() for key, value in dataset[index].items()}
        places = []
        for flip, (boundary, direction) in enumerate(windows):
            # One row settles nearly all, the whole window the rest.
            alike = (boundary[:, :, 20] == sample["boundary"][20]).all(axis=2)
            places += [
                (flip, y, x)
                for y, x in np.argwhere(alike)
                if (boundary[y, x] == sample["boundary"]).all()
                and (direction[y, x] == sample["direction"]).all()
            ]
        assert len(places) == 1
        flip, y, x = places[0]
        mirrored += flip
        labels = whole[flip][y : y + 48, x : x + 48]
        # The photograph is cut at a fraction of a pixel: it may differ beside a boundary only.
        inner = sample["boundary"] == 0
        assert inner.any()
        assert ((sample["image"][0] > 127) == (labels == 1))[inner].all()
    assert 0 < mirrored < 16


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
def test_photograph_and_labels_stay_aligned_at_any_scale(
    blobs: NDArray[np.uint8], scale: float
) -> None:
    labels = (blobs == 1).astype(np.uint8)
    image = np.repeat(labels[..., None] * np.uint8(255), 3, axis=2)
    rng = np.random.default_rng(0)
    for _ in range(5):
        picture, ids, inside, drawn = cut_window(
            image, labels, np.ones_like(labels, bool), 60, (scale, scale), rng
        )
        assert drawn == pytest.approx(scale)
        assert picture.shape == (60, 60, 3)
        assert ids.shape == (60, 60)
        assert inside.all()
        distances = make_targets(ids, ignore_index=None).distance_map
        away = distances > max(1.5, 1.5 * scale)
        assert away.mean() > 0.3
        assert ((picture[..., 0] > 127) == ids)[away].all()


def test_a_scale_of_two_doubles_lengths() -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[5:15, 10:20] = 1
    image = np.zeros((20, 30, 3), np.uint8)
    known = labels == 0
    rng = np.random.default_rng(0)
    _, ids, inside, _ = cut_window(image, labels, known, 80, (2, 2), rng)
    assert ids.sum() == 20 * 20
    # Beyond the photograph nothing is known.
    assert inside.sum() == 40 * 60 - 20 * 20


def test_where_the_photograph_does_not_reach_all_is_void(
    tmp_path: Path, write_pair: WritePair
) -> None:
    height, width = 40, 44
    rows, cols = np.indices((height, width), np.uint8)
    # Red and green tell a pixel's row and column.
    write_pair(tmp_path, "small", cols // 22, np.stack([rows * 4, cols * 4, rows], axis=2))
    dataset = crops(find_labelled_images(tmp_path), width=3)
    corners = set()
    for index in range(12):
        sample = {key: value.numpy() for key, value in dataset[index].items()}
        red, green = sample["image"][0] // 4, sample["image"][1] // 4
        if (np.diff(green[0].astype(int)) < 0).any():
            green = width - 1 - green
        i, j = np.argwhere(sample["boundary"] != 255)[0]
        top, left = int(i) - int(red[i, j]), int(j) - int(green[i, j])
        corners.add((top, left))
        y, x = np.indices((32, 32)) - np.array([top, left])[:, None, None]
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        assert np.array_equal(sample["boundary"] != 255, inside)
        assert (sample["direction"][~inside] == 255).all()
        # The frame of the photograph is no boundary: only the line between both halves is.
        line = inside & (x >= 22 - 3) & (x < 22 + 3)
        assert np.array_equal(sample["boundary"] == 1, line)
    assert min(corners)[0] < 0 < max(corners)[0]


def test_the_frame_is_cut_off_before_anything_else(tmp_path: Path, write_pair: WritePair) -> None:
    labels = np.full((40, 40), 7, np.uint8)
    labels[4:-4, 4:-4] = 1
    write_pair(tmp_path, "framed", labels)
    images = find_labelled_images(tmp_path)
    for index in range(5):
        assert not (crops(images, ignore_frame=4)[index]["boundary"] == 1).any()
        assert (crops(images, size=64, ignore_frame=3)[index]["boundary"] == 1).any()


def test_the_void_id_is_void_in_the_targets(tmp_path: Path, write_pair: WritePair) -> None:
    labels = np.tile((np.arange(90) // 10 % 2).astype(np.uint8), (90, 1))
    write_pair(tmp_path, "stripes", labels, np.repeat(labels[..., None] * np.uint8(255), 3, axis=2))
    sample = crops(find_labelled_images(tmp_path, ignore_index=0))[0]
    void = sample["image"][0] < 128
    assert 0 < void.sum() < void.numel()
    assert torch.equal(sample["boundary"] == 255, void)
    assert (sample["direction"][void] == 255).all()


def test_data_sets_are_drawn_by_their_weights(tmp_path: Path, write_pair: WritePair) -> None:
    plain, halves = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    halves[:, 32:] = 1
    # The share is that of the weights, whatever the number of photographs.
    for number in range(3):
        write_pair(tmp_path / "plain", f"{number}", plain)
    write_pair(tmp_path / "halves", "0", halves)
    dataset = CropDataset(
        [
            Source(find_labelled_images(tmp_path / "plain"), 0.5),
            Source(find_labelled_images(tmp_path / "halves"), 1.5),
        ],
        120,
        targets=OffsetTargets(4, 1),
        crops=CropSettings(32, ignore_frame=0, augmentation=PLAIN),
    )
    drawn = [bool((dataset[index]["boundary"] == 1).any()) for index in range(120)]
    # Not on average but in each mini-batch: of 8 crops, 6.
    assert [sum(drawn[start : start + 8]) for start in range(0, 120, 8)] == [6] * 15


def test_appearance_varies_values_and_not_places(blobs: NDArray[np.uint8]) -> None:
    image = np.repeat((blobs[:64, :64] * np.uint8(100))[..., None], 3, axis=2)
    rng = np.random.default_rng(0)
    assert np.array_equal(vary_appearance(image, PLAIN, rng), image)
    jitter = Augmentation(jitter=0.3, blur=0, jpeg=0)
    varied = [vary_appearance(image, jitter, rng) for _ in range(5)]
    assert len({v.tobytes() for v in varied}) == 5
    for v in varied:
        # One value per class, in their order.
        values = [np.unique(v[image == level]) for level in (0, 100, 200)]
        assert [len(found) for found in values] == [1, 1, 1]
        assert values[0] <= values[1] <= values[2]
    for kind in (Augmentation(jitter=0, blur=1, jpeg=0), Augmentation(jitter=0, blur=0, jpeg=1)):
        changed = vary_appearance(image, kind, rng)
        assert changed.shape == image.shape
        assert changed.dtype == np.uint8
        assert 0 < np.abs(changed.astype(int) - image).mean() < 20


def columns_about_a_band(folder: Path, write_pair: WritePair, width: int) -> dict[int, set[Any]]:
    """Boundary and direction of columns 60 … 99; 1 and 2 meet in a void band about column 80."""
    labels = np.ones((160, 160), np.uint8)
    labels[:, 80:] = 2
    labels[:, 80 - width // 2 : 80 + width // 2] = 255
    # The photograph's values are its columns.
    ruler = np.repeat(np.tile(np.arange(160, dtype=np.uint8), (160, 1))[..., None], 3, axis=2)
    write_pair(folder, "band", labels, ruler)
    dataset = crops(find_labelled_images(folder), size=48, width=5)
    found: dict[int, set[Any]] = {column: set() for column in range(60, 100)}
    for index in range(12):
        sample = dataset[index]
        image, boundary, direction = (
            sample[key].numpy() for key in ("image", "boundary", "direction")
        )
        mirrored = image[0, 0, 0] > image[0, 0, -1]
        for column, edge, sector in zip(image[0].flat, boundary.flat, direction.flat, strict=True):
            # Seen in a mirror, left is right.
            true_sector = {0: 4, 4: 0}.get(int(sector), int(sector)) if mirrored else int(sector)
            if int(column) in found:
                found[int(column)].add((int(edge), true_sector))
    return found


def test_a_void_band_is_one_boundary_at_its_middle_and_void_itself(
    tmp_path: Path, write_pair: WritePair
) -> None:
    found = columns_about_a_band(tmp_path, write_pair, 4)
    # Directions point away from the middle, and distances, 5 px for the boundary and 10 for the
    # directions, are counted from there: two of each are the band itself.
    expected = {
        **dict.fromkeys(range(60, 70), (0, 255)),
        **dict.fromkeys(range(70, 75), (0, 0)),
        **dict.fromkeys(range(75, 78), (1, 0)),
        **dict.fromkeys(range(78, 82), (255, 255)),
        **dict.fromkeys(range(82, 85), (1, 4)),
        **dict.fromkeys(range(85, 90), (0, 4)),
        **dict.fromkeys(range(90, 100), (0, 255)),
    }
    assert found == {column: {targets} for column, targets in expected.items()}


def test_an_area_of_void_keeps_its_edges(tmp_path: Path, write_pair: WritePair) -> None:
    found = columns_about_a_band(tmp_path, write_pair, 20)
    expected = {
        **dict.fromkeys(range(60, 65), (0, 0)),
        **dict.fromkeys(range(65, 70), (1, 0)),
        **dict.fromkeys(range(70, 90), (255, 255)),
        **dict.fromkeys(range(90, 95), (1, 4)),
        **dict.fromkeys(range(95, 100), (0, 4)),
    }
    assert found == {column: {targets} for column, targets in expected.items()}


@pytest.mark.parametrize(("tolerance", "scale", "unsure"), [(0, 1, 0), (2, 1, 2), (2, 2, 4)])
def test_directions_within_the_tolerance_of_a_boundary_are_left_out(
    tmp_path: Path, write_pair: WritePair, tolerance: float, scale: float, unsure: int
) -> None:
    labels = np.ones((80, 80), np.uint8)
    labels[:, 40:] = 2
    write_pair(tmp_path, "halves", labels)
    dataset = crops(
        find_labelled_images(tmp_path),
        size=64,
        width=5,
        tolerance=tolerance,
        augmentation=Augmentation(scales=(scale, scale), jitter=0, blur=0, jpeg=0),
    )
    whole = 0
    for index in range(20):
        boundary, direction = (dataset[index][key][32].numpy() for key in ("boundary", "direction"))
        if (boundary == 1).sum() < 10:
            continue
        whole += 1
        # The boundary is taught to its middle; of the directions, that much is missing.
        at = np.flatnonzero(boundary == 1)
        assert np.array_equal(at, np.arange(at[0], at[0] + 10))
        expected = np.ones(10, bool)
        expected[5 - unsure : 5 + unsure] = False
        assert np.array_equal(direction[at] != 255, expected)
    assert whole


def test_brightness_moves_all_pixels_by_one_value_within_its_range() -> None:
    image = np.full((4, 4, 3), 100, np.uint8)
    image[0] = 130
    rng = np.random.default_rng(0)
    bright = Augmentation(jitter=0, brightness=10, blur=0, jpeg=0)
    moves = {
        int((vary_appearance(image, bright, rng) - image.astype(int)).mean()) for _ in range(50)
    }
    assert min(moves) < -5
    assert max(moves) > 5
    assert max(map(abs, moves)) <= 10
    moved = vary_appearance(image, bright, rng).astype(int) - image
    assert np.ptp(moved) == 0


def test_classes_of_a_crop_are_indices_and_void_stays_void(
    tmp_path: Path, write_pair: WritePair
) -> None:
    labels = np.full((64, 64), 7, np.uint8)
    labels[:, 20:] = 200
    labels[:, 40:] = 255
    write_pair(tmp_path, "three", labels)
    images = find_labelled_images(tmp_path)
    dataset = CropDataset(
        [Source(images)],
        4,
        targets=ClassTargets((3, 7, 200)),
        crops=CropSettings(64, ignore_frame=0, augmentation=PLAIN),
    )
    sample = dataset[1]
    assert {key: (tuple(v.shape), v.dtype) for key, v in sample.items()} == {
        "image": ((3, 64, 64), torch.uint8),
        "target": ((64, 64), torch.int32),
        "index": ((), torch.int64),
    }
    columns = [sorted(set(sample["target"][:, column].tolist())) for column in range(64)]
    expected = [[1]] * 20 + [[2]] * 20 + [[-1]] * 24
    assert columns in (expected, expected[::-1])


def test_ids_that_are_no_class_are_void() -> None:
    targets = ClassTargets((3, 7, 200))
    assert targets.index(np.array([0, 3, 5, 7, 200, 201, -1])).tolist() == [-1, 0, -1, 1, 2, -1, -1]


def test_two_fifths_of_the_crops_see_what_a_network_predicted(
    tmp_path: Path, write_pair: WritePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.zeros((48, 48), np.uint8)
    labels[:, 24:] = 1
    write_pair(tmp_path, "a", labels=labels)
    predicted = labels.copy()
    predicted[:, 24:30] = 0
    (tmp_path / "preds/unet").mkdir(parents=True)
    Image.fromarray(predicted).save(tmp_path / "preds/unet/a.png")
    monkeypatch.setattr(crop_targets, "perturb_label_map", lambda labels, *_, **__: labels)
    dataset = CropDataset(
        [Source(find_labelled_images(tmp_path))],
        64,
        targets=OffsetTargets(8, 2, predicted=1.0),
        crops=CropSettings(32, ignore_frame=0, augmentation=Augmentation(scales=(1, 1))),
    )
    wrong = []
    for sample in map(dataset.__getitem__, range(64)):
        known = sample["wrong"] != 255
        wrong.append(int((sample["wrong"][known] == 1).any()))
        # What is wrong lies beside the predicted boundary, on its first side.
        assert (sample["distance"][sample["wrong"] == 1] <= 6 * 8).all()
    assert 0.2 < np.mean(wrong) < 0.6


def targets_of(
    labels: NDArray[np.int64], predicted: float | None, prediction: Any = None, **limits: float
) -> dict[str, NDArray[Any]]:
    made = OffsetTargets(8, 2, predicted).make(
        labels,
        labels != -1,
        limits.get("tolerance", 0),
        limits.get("near", np.inf),
        prediction,
        np.random.default_rng(0),
    )
    return {name: np.asarray(array) for name, array in made.items()}


def columns(edge: int, void: int = 0) -> NDArray[np.int64]:
    labels = np.zeros((20, 30), np.int64)
    labels[:, edge:] = 1
    labels[:void] = -1
    return labels


def test_a_prediction_tells_its_distances_and_where_it_is_wrong() -> None:
    labels, prediction = columns(15, void=3), columns(18)
    made = targets_of(labels, 1.0, prediction)
    assert np.array_equal(made["distance"], label_distance(prediction))
    assert (made["wrong"][:3] == 255).all()
    assert np.array_equal(made["wrong"][3:] == 1, (labels != prediction)[3:])
    assert set(np.unique(made["wrong"][3:])) == {0, 1}
    # Within 2 px of the true boundary it is unsure what is right.
    unsure = targets_of(labels, 1.0, prediction, tolerance=2)["wrong"][10]
    assert unsure.tolist() == [0] * 13 + [255] * 4 + [1] + [0] * 12


def test_without_a_prediction_there_is_no_distance_and_nothing_is_wrong() -> None:
    labels = columns(15)
    assert targets_of(labels, None).keys() == {"boundary", "direction"}
    made = targets_of(labels, 0.0)
    assert (made["distance"] == 255).all()
    assert (made["wrong"] == 255).all()


def test_labels_are_perturbed_where_no_network_predicted_anything() -> None:
    rng = np.random.default_rng(0)
    labels, wrong = columns(15), []
    for _ in range(20):
        made = OffsetTargets(8, 2, 1.0).make(labels, labels >= 0, 0, np.inf, None, rng)
        assert (made["distance"] != 255).all()
        wrong.append((made["wrong"] == 1).any())
    assert sum(wrong) > 10


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_that_share_of_the_crops_has_a_prediction(share: float) -> None:
    labels, rng = columns(15), np.random.default_rng(0)
    targets = OffsetTargets(8, 2, share)
    made = [targets.make(labels, labels >= 0, 0, np.inf, labels, rng) for _ in range(400)]
    assert abs(np.mean([one["distance"].min() < 255 for one in made]) - share) < 0.06


def test_near_is_in_pixels_of_the_photograph(tmp_path: Path, write_pair: WritePair) -> None:
    labels = np.ones((80, 80), np.uint8)
    labels[:, 40:] = 2
    write_pair(tmp_path, "halves", labels)
    for scale in (1, 2):
        plain = Augmentation(scales=(scale, scale), jitter=0, blur=0, jpeg=0)
        dataset = CropDataset(
            [Source(find_labelled_images(tmp_path), near=5)],
            20,
            targets=OffsetTargets(8, 2),
            crops=CropSettings(64, ignore_frame=0, augmentation=plain),
        )
        widths = {int((dataset[index]["boundary"][32] != 255).sum()) for index in range(20)}
        assert max(widths) == 10 * scale


def test_far_from_labelled_boundaries_it_is_unknown_whether_there_are_others() -> None:
    boundary = targets_of(columns(15), None, near=5)["boundary"][10]
    assert boundary.tolist() == [255] * 10 + [0] * 3 + [1] * 4 + [0] * 3 + [255] * 10
    assert (targets_of(columns(15), None)["boundary"] != 255).all()
