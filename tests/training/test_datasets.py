from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from segfix.errors import FileFormatError, PairingError
from segfix.geometry import make_targets
from segfix.training.datasets import (
    Augmentation,
    CropDataset,
    LabelledImage,
    find_labelled_images,
    random_window,
    vary_appearance,
)

WritePair = Callable[..., None]
PLAIN = Augmentation(scales=(1, 1), jitter=0, blur=0, jpeg=0)


def crops(
    images: list[LabelledImage],
    *,
    length: int = 100,
    size: int = 32,
    width: float = 2,
    augmentation: Augmentation | None = PLAIN,
    **options: Any,
) -> CropDataset:
    return CropDataset(
        [(images, 1.0)],
        length,
        crop_size=size,
        num_directions=8,
        boundary_width=width,
        augmentation=augmentation,
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
    blobs[70:75, 60:100] = 255
    image = np.repeat((blobs == 1)[..., None] * np.uint8(255), 3, axis=2)
    write_pair(tmp_path, "blobs", blobs, image)
    dataset = crops(find_labelled_images(tmp_path), size=48, width=width)
    whole, windows = [], []
    for labels in (blobs, blobs[:, ::-1].copy()):
        targets = make_targets(labels, boundary_width=width)
        whole.append((targets.boundary_map, targets.direction_map, labels))
        windows.append([sliding_window_view(maps, (48, 48)) for maps in targets[1:]])
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
        labels = whole[flip][2][y : y + 48, x : x + 48]
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
        picture, ids, inside = random_window(image, labels, 60, (scale, scale), rng)
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
    _, ids, inside = random_window(image, labels, 80, (2, 2), np.random.default_rng(0))
    assert inside.sum() == 40 * 60
    assert ids.sum() == 20 * 20


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
    sample = crops(find_labelled_images(tmp_path), ignore_index=0)[0]
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
            (find_labelled_images(tmp_path / "plain"), 0.5),
            (find_labelled_images(tmp_path / "halves"), 1.5),
        ],
        120,
        crop_size=32,
        num_directions=4,
        boundary_width=1,
        augmentation=PLAIN,
    )
    drawn = sum(bool((dataset[index]["boundary"] == 1).any()) for index in range(120))
    # Four standard deviations about 90.
    assert 71 <= drawn <= 109


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


def test_sizes_that_differ_are_an_error_that_names_both_files(
    tmp_path: Path, write_pair: WritePair
) -> None:
    write_pair(tmp_path, "a", np.zeros((20, 30), np.uint8), np.zeros((21, 30, 3), np.uint8))
    dataset = crops(find_labelled_images(tmp_path))
    with pytest.raises(FileFormatError) as caught:
        dataset[0]
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "labels" / "a.png"))
    assert "30×20" in text
    assert "30×21 (a.png)" in text


def test_a_photograph_without_label_map_is_an_error_that_names_it(
    tmp_path: Path, write_pair: WritePair
) -> None:
    for name in ("a", "b", "c"):
        write_pair(tmp_path, name, np.zeros((8, 8), np.uint8))
    (tmp_path / "labels" / "b.png").unlink()
    with pytest.raises(PairingError) as caught:
        find_labelled_images(tmp_path)
    assert str(tmp_path / "images" / "b.png") in str(caught.value)
    assert str(tmp_path / "labels") in str(caught.value)


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_folder_that_is_missing_or_empty_is_an_error_that_names_it(
    tmp_path: Path, write_pair: WritePair, kind: str
) -> None:
    write_pair(tmp_path, "a", np.zeros((8, 8), np.uint8))
    (tmp_path / kind / "a.png").unlink()
    with pytest.raises(PairingError, match=r"no (images|label maps) here") as caught:
        find_labelled_images(tmp_path)
    assert str(tmp_path / kind) in str(caught.value)
    (tmp_path / kind).rmdir()
    with pytest.raises(PairingError, match="no such file or folder") as caught:
        find_labelled_images(tmp_path)
    assert str(tmp_path / kind) in str(caught.value)


def test_pairs_are_found_in_folders_within_and_past_known_suffixes(
    tmp_path: Path, write_pair: WritePair
) -> None:
    for name in ("x_leftImg8bit", "y_leftImg8bit"):
        write_pair(tmp_path, name, np.zeros((8, 8), np.uint8))
    for folder, suffix in (("images", "_leftImg8bit"), ("labels", "_gtFine_labelIds")):
        (tmp_path / folder / "city").mkdir()
        for stem in "xy":
            old = tmp_path / folder / f"{stem}_leftImg8bit.png"
            old.rename(tmp_path / folder / "city" / f"{stem}{suffix}.png")
    found = find_labelled_images(tmp_path)
    assert [(pair.image.name, pair.labels.name) for pair in found] == [
        (f"{stem}_leftImg8bit.png", f"{stem}_gtFine_labelIds.png") for stem in "xy"
    ]


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
