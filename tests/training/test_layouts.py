from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segfix.errors import FileFormatError, PairingError
from segfix.training.layouts import VOID, LabelledImage, find_labelled_images

# Two classes, void above; an instance of the second class is in two columns.
ROWS, COLS = 6, 8


def save(path: Path, pixels: NDArray[Any], palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if palette:
        picture.putpalette(list(range(256)) * 3)
    picture.save(path)


def photograph(path: Path) -> None:
    save(path, np.zeros((ROWS, COLS, 3), np.uint8))


def label_map(void: int, left: int, right: int, dtype: Any = np.uint8) -> NDArray[Any]:
    """A row of void, then `left` in four columns and `right` in four."""
    labels = np.full((ROWS, COLS), left, dtype)
    labels[:, 4:] = right
    labels[0] = void
    return labels


def instance_map(first: int, second: int, dtype: Any = np.uint8) -> NDArray[Any]:
    """Nothing on the left, two instances of two columns each on the right."""
    instances = np.zeros((ROWS, COLS), dtype)
    instances[:, 4:6], instances[:, 6:] = first, second
    return instances


def plain(root: Path) -> None:
    for name in ("a", "b"):
        photograph(root / f"images/{name}.png")
        save(root / f"labels/{name}.png", label_map(255, 7, 24))
        save(root / f"instances/{name}.png", instance_map(300, 556, np.uint16))


def cityscapes(root: Path) -> None:
    for split, stem in (("train", "aachen/aachen_0_1"), ("val", "ulm/ulm_0_1")):
        photograph(root / f"leftImg8bit/{split}/{stem}_leftImg8bit.png")
        truth = root / f"gtFine/{split}"
        save(truth / f"{stem}_gtFine_labelIds.png", label_map(3, 7, 26))
        save(truth / f"{stem}_gtFine_labelTrainIds.png", label_map(255, 0, 13))
        save(truth / f"{stem}_gtFine_color.png", np.zeros((ROWS, COLS, 3), np.uint8))
        save(truth / f"{stem}_gtFine_instanceIds.png", instance_map(26000, 26001, np.uint16))


def ade20k(root: Path) -> None:
    for split, stem in (("training", "ADE_train_1"), ("validation", "ADE_val_1")):
        photograph(root / f"images/{split}/{stem}.jpg")
        save(root / f"annotations/{split}/{stem}.png", label_map(0, 3, 150))
        first = instance_map(9, 9)
        rgb = np.stack([first, instance_map(1, 2), np.zeros_like(first)], axis=2)
        save(root / f"annotations_instance/{split}/{stem}.png", rgb)


def voc(root: Path) -> None:
    for split, stem in (("train", "2007_000032"), ("val", "2007_000033")):
        photograph(root / f"JPEGImages/{stem}.jpg")
        save(root / f"SegmentationClass/{stem}.png", label_map(255, 0, 15), palette=True)
        save(root / f"SegmentationObject/{stem}.png", instance_map(1, 2), palette=True)
        listed = root / f"ImageSets/Segmentation/{split}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text(f"{stem}\n")
    # Photographs of other tasks have no label map.
    photograph(root / "JPEGImages/2008_000001.jpg")


def segnet_camvid(root: Path) -> None:
    for split in ("train", "val"):
        photograph(root / f"{split}/{split}_1.png")
        save(root / f"{split}annot/{split}_1.png", label_map(11, 0, 4))


def camvid(root: Path) -> None:
    photograph(root / "701_StillsRaw_full/0001TP_1.png")
    colours = np.zeros((ROWS, COLS, 3), np.uint8)
    colours[1:, :4], colours[1:, 4:] = (128, 64, 128), (64, 0, 0)
    save(root / "LabeledApproved_full/0001TP_1_L.png", colours)


# How to make it, stems of the photographs of both splits, ids of the two labels.
PUBLISHED = {
    "cityscapes": (cityscapes, "aachen_0_1_leftImg8bit", "ulm_0_1_leftImg8bit", 7, 26),
    "ade20k": (ade20k, "ADE_train_1", "ADE_val_1", 3, 150),
    "voc": (voc, "2007_000032", "2007_000033", 0, 15),
    "segnet_camvid": (segnet_camvid, "train_1", "val_1", 0, 4),
}
WITH_INSTANCES = {"plain": plain, "cityscapes": cityscapes, "ade20k": ade20k, "voc": voc}


def read_only(found: list[LabelledImage]) -> NDArray[np.int64]:
    (pair,) = found
    image, labels = pair.read()
    assert image.shape == (ROWS, COLS, 3)
    return labels


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_split_of_a_published_data_set_is_found_with_its_own_void(
    tmp_path: Path, name: str
) -> None:
    make, train, val, left, right = PUBLISHED[name]
    make(tmp_path)
    for split, stem in (("train", train), ("val", val)):
        # The void id of plain folders is not theirs.
        found = find_labelled_images(tmp_path, split, ignore_index=right)
        assert [pair.image.stem for pair in found] == [stem]
        assert np.array_equal(read_only(found), label_map(VOID, left, right, np.int64))


def test_camvid_as_published_is_all_training_and_black_is_void(tmp_path: Path) -> None:
    camvid(tmp_path)
    labels = read_only(find_labelled_images(tmp_path))
    road, car = 128 + 256 * 64 + 256**2 * 128, 64
    assert np.array_equal(labels, label_map(VOID, road, car, np.int64))
    with pytest.raises(PairingError, match=r"CamVid as published has no val split"):
        find_labelled_images(tmp_path, "val")


def test_a_plain_folder_is_of_any_split_and_its_void_is_asked_for(tmp_path: Path) -> None:
    plain(tmp_path)
    for split in ("train", "val"):
        found = find_labelled_images(tmp_path, split, ignore_index=7)
        assert [pair.image.stem for pair in found] == ["a", "b"]
        assert np.array_equal(found[0].read()[1], label_map(255, VOID, 24, np.int64))


def test_cityscapes_is_read_from_train_ids_where_there_are_no_label_ids(tmp_path: Path) -> None:
    cityscapes(tmp_path)
    for path in tmp_path.rglob("*_labelIds.png"):
        path.unlink()
    labels = read_only(find_labelled_images(tmp_path))
    assert np.array_equal(labels, label_map(VOID, 0, 13, np.int64))


@pytest.mark.parametrize("void", [0, 1, 2, 3, 4])
def test_of_cityscapes_ids_the_first_four_have_no_content(tmp_path: Path, void: int) -> None:
    cityscapes(tmp_path)
    (path,) = tmp_path.rglob("train/**/*_labelIds.png")
    save(path, label_map(void, 7, 26))
    assert (read_only(find_labelled_images(tmp_path))[0] == VOID).all() == (void < 4)


@pytest.mark.parametrize("below", ["VOC2012", "VOCdevkit/VOC2012"])
def test_voc_is_found_from_the_folders_it_is_unpacked_in(tmp_path: Path, below: str) -> None:
    voc(tmp_path / below)
    assert [pair.image.stem for pair in find_labelled_images(tmp_path)] == ["2007_000032"]


@pytest.mark.parametrize("name", WITH_INSTANCES)
def test_every_instance_is_a_region_of_its_own(tmp_path: Path, name: str) -> None:
    WITH_INSTANCES[name](tmp_path)
    for split in ("train", "val"):
        image = find_labelled_images(tmp_path, split, instances=True)[0]
        regions = image.read()[1]
        assert (regions[0] == VOID).all()
        left, first, second = (regions[1:, columns] for columns in np.s_[:4, 4:6, 6:])
        ids = [set(part.flatten().tolist()) for part in (left, first, second)]
        assert [len(found) for found in ids] == [1, 1, 1]
        assert len(set.union(*ids)) == 3
        assert VOID not in set.union(*ids)
        merged = find_labelled_images(tmp_path, split)[0].read()[1]
        assert (merged[1:, 4:6] == merged[1:, 6:]).all()


def test_equal_instances_of_different_labels_are_different_regions(tmp_path: Path) -> None:
    plain(tmp_path)
    save(tmp_path / "instances/a.png", np.full((ROWS, COLS), 65535, np.uint16))
    regions = find_labelled_images(tmp_path, instances=True)[0].read()[1]
    assert len(np.unique(regions[1:])) == 2


@pytest.mark.parametrize("make", [segnet_camvid, camvid])
def test_a_layout_without_instances_says_so(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    with pytest.raises(PairingError, match=r"CamVid.* has no instance maps; .*without --instances"):
        find_labelled_images(tmp_path, instances=True)


@pytest.mark.parametrize("name", WITH_INSTANCES)
def test_a_missing_instance_map_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    WITH_INSTANCES[name](tmp_path)
    part = {"plain": "instances/b", "cityscapes": "instanceIds"}.get(name, "")
    part = part or {"ade20k": "annotations_instance/training", "voc": "Object/2007_000032"}[name]
    for path in tmp_path.rglob("*.png"):
        if part in path.as_posix():
            path.unlink()
    assert find_labelled_images(tmp_path)
    with pytest.raises(PairingError, match=r"no (such )?instance map") as caught:
        find_labelled_images(tmp_path, instances=True)
    assert "\n" not in str(caught.value)


def test_a_plain_folder_without_instances_says_which_folder_is_missing(tmp_path: Path) -> None:
    plain(tmp_path)
    (tmp_path / "instances").rename(tmp_path / "other")
    with pytest.raises(PairingError) as caught:
        find_labelled_images(tmp_path, instances=True)
    assert str(caught.value) == (
        f"{tmp_path / 'instances'}: no such folder; add instance maps or train without --instances."
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_photograph_without_label_map_is_an_error_that_names_both(
    tmp_path: Path, name: str
) -> None:
    make, stem, *_ = PUBLISHED[name]
    make(tmp_path)
    for path in tmp_path.rglob("*.png"):
        if any(part in path.as_posix() for part in ("gtFine", "annot", "SegmentationClass")):
            path.unlink()
    with pytest.raises(PairingError, match=f"{stem}.*: no label map .*png") as caught:
        find_labelled_images(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["cityscapes", "ade20k"])
def test_a_split_that_is_not_there_is_an_error_that_names_its_folder(
    tmp_path: Path, name: str
) -> None:
    make, *_ = PUBLISHED[name]
    make(tmp_path)
    (folder,) = (*tmp_path.glob("leftImg8bit/val"), *tmp_path.glob("images/validation"))
    folder.rename(folder.with_name("elsewhere"))
    assert find_labelled_images(tmp_path)
    with pytest.raises(PairingError, match="no such file or folder") as caught:
        find_labelled_images(tmp_path, "val")
    assert str(folder) in str(caught.value)


def test_a_folder_of_other_files_is_an_error_that_names_it(tmp_path: Path) -> None:
    cityscapes(tmp_path)
    (image,) = tmp_path.glob("leftImg8bit/train/**/*.png")
    image.rename(image.with_name("aachen.png"))
    with pytest.raises(PairingError, match=r"train: no images here \(\*_leftImg8bit\.png\)"):
        find_labelled_images(tmp_path)


@pytest.mark.parametrize("text", [None, "", "2007_000099"])
def test_a_list_that_is_missing_or_empty_or_lists_nothing_we_have_is_named(
    tmp_path: Path, text: str | None
) -> None:
    voc(tmp_path)
    listed = tmp_path / "ImageSets/Segmentation/train.txt"
    listed.unlink()
    named = listed
    if text is not None:
        listed.write_text(text)
        named = tmp_path / "JPEGImages/2007_000099.jpg" if text else listed
    with pytest.raises(PairingError) as caught:
        find_labelled_images(tmp_path)
    assert str(caught.value).startswith(f"{named}: ")


@pytest.mark.parametrize("stem", ["x" * 252, "../../a", "a\0"])
def test_a_list_of_what_is_no_name_within_is_named(tmp_path: Path, stem: str) -> None:
    voc(tmp_path)
    listed = tmp_path / "ImageSets/Segmentation/train.txt"
    listed.write_text(f"{stem}\n")
    with pytest.raises(FileFormatError) as caught:
        find_labelled_images(tmp_path)
    assert str(caught.value).startswith(f"{listed}: ")


@pytest.mark.parametrize("gone", ["images", "labels"])
def test_a_folder_of_no_known_layout_is_told_what_was_looked_for(tmp_path: Path, gone: str) -> None:
    plain(tmp_path)
    (tmp_path / gone).rename(tmp_path / "other")
    with pytest.raises(PairingError) as caught:
        find_labelled_images(tmp_path)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}: no data set of a known layout; looked for images/ and")
    for told in ("labels/ (plain)", "gtFine/ (Cityscapes)", "annotations/ (ADE20K)", "Segmentat"):
        assert told in text
    assert "trainannot/" in text
    assert "LabeledApproved_full/ (CamVid)" in text
    assert "\n" not in text


@pytest.mark.parametrize("what", ["labels", "instances"])
def test_sizes_that_differ_are_an_error_that_names_both_files(tmp_path: Path, what: str) -> None:
    plain(tmp_path)
    save(tmp_path / what / "a.png", np.zeros((ROWS, COLS + 1), np.uint8))
    image, _ = find_labelled_images(tmp_path, instances=True)
    with pytest.raises(FileFormatError) as caught:
        image.read()
    text = str(caught.value)
    assert text.startswith(str(tmp_path / what / "a.png"))
    assert {"labels": "label map", "instances": "instance map"}[what] in text
    assert f"{COLS + 1}×{ROWS}" in text
    assert f"{COLS}×{ROWS} (a.png)" in text


def test_a_plain_photograph_without_label_map_is_an_error_that_names_it(tmp_path: Path) -> None:
    plain(tmp_path)
    (tmp_path / "labels/b.png").unlink()
    with pytest.raises(PairingError) as caught:
        find_labelled_images(tmp_path)
    assert str(tmp_path / "images/b.png") in str(caught.value)
    assert str(tmp_path / "labels") in str(caught.value)


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_plain_folder_that_is_empty_is_an_error_that_names_it(tmp_path: Path, kind: str) -> None:
    plain(tmp_path)
    for path in (tmp_path / kind).iterdir():
        path.unlink()
    with pytest.raises(PairingError, match=r"no (images|label maps) here") as caught:
        find_labelled_images(tmp_path)
    assert str(tmp_path / kind) in str(caught.value)


def test_plain_pairs_are_found_in_folders_within_and_past_known_suffixes(tmp_path: Path) -> None:
    for stem in "xy":
        photograph(tmp_path / f"images/city/{stem}_leftImg8bit.png")
        save(tmp_path / f"labels/city/{stem}_gtFine_labelIds.png", label_map(255, 1, 2))
    found = find_labelled_images(tmp_path)
    assert [(pair.image.name, pair.labels.name) for pair in found] == [
        (f"{stem}_leftImg8bit.png", f"{stem}_gtFine_labelIds.png") for stem in "xy"
    ]


def test_predictions_of_networks_are_found_where_there_are_any(tmp_path: Path) -> None:
    plain(tmp_path)
    save(tmp_path / "preds/unet/a.png", label_map(7, 7, 24))
    save(tmp_path / "preds/fpn/a.png", label_map(24, 7, 24))
    save(tmp_path / "preds/fpn/b.png", label_map(24, 24, 24))
    first, second = find_labelled_images(tmp_path)
    assert [path.parent.name for path in first.predictions] == ["fpn", "unet"]
    assert [path.parent.name for path in second.predictions] == ["fpn"]
    assert (first.read_prediction(0, first.read()[0]) == label_map(24, 7, 24)).all()
    # Networks predict classes, of which an instance is no more than a part.
    assert not any(pair.predictions for pair in find_labelled_images(tmp_path, instances=True))


def test_a_prediction_of_another_size_is_named(tmp_path: Path) -> None:
    plain(tmp_path)
    save(tmp_path / "preds/unet/a.png", np.zeros((2, 2), np.uint8))
    first, _ = find_labelled_images(tmp_path)
    image, _ = first.read()
    with pytest.raises(FileFormatError, match=r"preds.unet.a\.png: prediction of 2×2 for an"):
        first.read_prediction(0, image)
