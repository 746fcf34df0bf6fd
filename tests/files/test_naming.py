from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from segfix.errors import PairingError
from segfix.files import Entry, pair_entries
from segfix.files.naming import read_name_map

NUMBERS = (1, 2, 11, 12)


def entries(folder: str, *stems: str) -> list[Entry]:
    return [Entry(Path(folder, f"{stem}.png"), stem) for stem in stems]


def partners(lefts: list[Entry], rights: list[Entry]) -> list[str | None]:
    return [pair.partner.stem if pair.partner else None for pair in pair_entries(lefts, rights)]


def named(scheme: str, numbers: tuple[int, ...] = NUMBERS) -> list[str]:
    return [scheme.format(number) for number in numbers]


@pytest.mark.parametrize(
    ("photographs", "labels"),
    [
        ("{}", "{}_gt"),
        ("{}", "{}_mask"),
        ("{}", "mask_{}"),
        ("{}", "{}_segmentation"),
        ("{}", "{}_labelIds"),
        ("ISIC_{:07d}", "ISIC_{:07d}_segmentation"),
        ("ISIC_{:07d}", "ISIC_{:07d}_Segmentation"),
        ("top_potsdam_{}_10_RGB", "top_potsdam_{}_10_label"),
        ("top_potsdam_{}_10_IRRG", "top_potsdam_{}_10_label_noBoundary"),
        ("P{:04d}", "P{:04d}_instance_color_RGB"),
        ("P{:04d}", "P{:04d}_instance_id_RGB"),
        ("{}_training", "{}_manual1"),
        ("Image_{:02d}L", "Image_{:02d}L_1stHO"),
        ("img_{}", "img_{}_seg0"),
        ("x-{}", "x-{}-mask"),
        ("x.{}", "x.{}.mask"),
        ("x{}", "x{}_color"),
        ("x{}", "GT_x{}"),
        ("x{}", "x{}_GT"),
        ("img_{:03d}", "lab_{:03d}"),
        ("img{}", "mask{:03d}"),
        ("image_{}", "label_{:04d}"),
        ("{}_sat", "{}_mask"),
        ("{}", "{}.jpg"),
        ("{:05d}", "{:05d}.jpg_mask"),
        ("2018_camera_front_{:09d}", "2018_label_front_{:09d}"),
        ("IMG_{}", "img_{}_labels"),
        ("x{}", "x{}_cp_masks"),
        ("im{:04d}", "gt{:04d}"),
        ("frame_{:06d}", "{:06d}"),
        ("{}", "{} mask"),
        ("{}", "label-{}"),
        ("{}_im", "{}_gt"),
        ("{}_orig", "{}_groundTruth"),
        ("{}", "{}_Segmentation_mask"),
        ("Img_{}", "Anno_{}"),
        ("{}", "{}_label_ground-truth"),
        ("a/images/{}", "b/masks/{}_gt"),
        ("city/{}", "{}_gt"),
        ("x_{}", "x_{}_matte"),
    ],
)
def test_naming_schemes_in_public_use_pair_both_ways(photographs: str, labels: str) -> None:
    more = (*NUMBERS, 21)
    for left, right in ((photographs, labels), (labels, photographs)):
        rights = entries("right", *reversed(named(right, more)))
        assert partners(entries("left", *named(left)), rights) == named(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (["train_1", "train_2"], ["val_1", "val_2"]),
        (["left_1", "left_2"], ["right_1", "right_2"]),
        (["day"], ["night"]),
        (["mask"], ["gt"]),
        (["a_1", "b_1"], ["mask_1", "mask_2"]),
        # Of each key two.
        (["x_1", "x_2"], ["1_gt", "01_gt", "2_gt"]),
        (["a_1", "A1"], ["a_1_gt", "a_2_gt"]),
        # One has none.
        (["img_1", "img_2", "img_3"], ["lab_1", "lab_2"]),
    ],
)
def test_names_that_could_be_of_other_pictures_are_not_paired(
    left: list[str], right: list[str]
) -> None:
    with pytest.raises(PairingError):
        pair_entries(entries("left", *left), entries("right", *right))


def test_linked_pairs_are_told_from_others() -> None:
    assert [pair.linked for pair in pair_entries(entries("l", "a"), entries("r", "a"))] == [False]
    linked = pair_entries(entries("l", "a", "b"), entries("r", "a_gt", "b_gt"))
    assert [pair.linked for pair in linked] == [True, True]


@pytest.mark.parametrize(
    ("right", "advice"),
    [
        (["a_v2", "b_v2"], "names differ by '_v2': add --suffix _v2."),
        (["a-tissue", "b-tissue", "c"], "names differ by '-tissue': add --suffix -tissue."),
        (["a_0000", "b_0000"], "names differ by '_0000': add --suffix _0000."),
        (
            ["a_hue", "a_depth", "b_hue", "b_depth"],
            "several kinds fit: add --suffix _depth or _hue.",
        ),
        (["c", "d"], "names must be equal up to a known suffix"),
    ],
)
def test_what_names_differ_by_is_proposed(right: list[str], advice: str) -> None:
    for left, others in ((["a", "b"], right), (right, ["a", "b"])):
        with pytest.raises(PairingError) as caught:
            pair_entries(entries("l", *left), entries("r", *others))
        assert advice in str(caught.value)


def test_what_is_proposed_pairs() -> None:
    lefts, rights = entries("l", "a", "b"), entries("r", "a_hue", "a_depth", "b_hue", "b_depth")
    pairs = pair_entries(lefts, rights, suffixes=["_hue"])
    assert [pair.partner and pair.partner.stem for pair in pairs] == ["a_hue", "b_hue"]


def test_four_kinds_side_by_side_are_one_error_that_names_them() -> None:
    kinds = ("color", "instanceIds", "labelIds", "labelTrainIds")
    stems = [f"{town}_000_gtFine_{kind}" for town in ("aachen", "bonn") for kind in kinds]
    lefts = entries("l", "aachen_000_leftImg8bit", "bonn_000_leftImg8bit")
    with pytest.raises(PairingError) as caught:
        pair_entries(lefts, entries("gtFine", *stems))
    assert "several files fit each, such as l/aachen_000_leftImg8bit.png" in str(caught.value)
    assert "--suffix _gtFine_color or _gtFine_instanceIds or _gtFine_labelIds" in str(caught.value)
    assert partners(lefts, entries("gtFine", *stems[2::4])) == stems[2::4]


def test_composed_and_decomposed_letters_are_one_name() -> None:
    name = "ワークショップ/Mütze_é"
    composed, decomposed = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    assert composed != decomposed
    for left, right in ((composed, decomposed), (decomposed, composed)):
        assert partners(entries("l", left), entries("r", f"{right}_mask")) == [f"{right}_mask"]


def test_where_both_forms_are_there_each_has_its_own() -> None:
    both = [unicodedata.normalize(form, "ä") for form in ("NFC", "NFD")]
    assert partners(entries("l", *both), entries("r", *both)) == both


@pytest.mark.parametrize(
    ("masks", "photographs", "found"),
    [
        (["a/0", "a/1", "b/0"], ["a", "b", "c"], ["a", "a", "b"]),
        (["a/masks/f00", "b/masks/17"], ["a", "b"], ["a", "b"]),
        (["a/masks/f00", "b/masks/17"], ["a/images/a", "b/images/b"], ["a/images/a", "b/images/b"]),
        (["000/0012/charseg", "000/0013/charseg"], ["0012", "0013"], ["0012", "0013"]),
        (["rgb/0", "rgb/1"], ["rgb"], ["rgb", "rgb"]),
        (["x/rgb/0", "y/rgb/0"], ["x/rgb", "y/rgb"], ["x/rgb", "y/rgb"]),
    ],
)
def test_masks_in_a_folder_of_each_photographs_name_are_its(
    masks: list[str], photographs: list[str], found: list[str]
) -> None:
    assert partners(entries("l", *masks), entries("r", *photographs)) == found


def test_one_photograph_for_two_objects_is_refused_where_pairs_must_be_one_to_one() -> None:
    masks, photographs = entries("l", "a/0", "a/1"), entries("r", "a")
    with pytest.raises(PairingError, match="both belong to"):
        pair_entries(masks, photographs, one_to_one=True)


def test_the_folder_that_is_listed_may_be_the_photographs() -> None:
    assert partners(entries("out/coffee", "0", "1"), entries("r", "coffee", "tea")) == [
        "coffee",
        "coffee",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "images/a.jpg,masks/one.png\nimages/b.jpg,masks/two.png\n",
        "./data/images/a.jpg\t./data/masks/one.png\ndata\\images\\b.jpg\tdata\\masks\\two.png\n",
        "{}/data/images/a.jpg {}/data/masks/one.png\n{}/data/masks/two.png b.jpg\n",
        "a.jpg masks/one.png\nimages/b two.png\n",
    ],
)
def test_a_map_may_hold_more_of_the_paths(tmp_path: Path, text: str) -> None:
    (tmp_path / "names.txt").write_text(text.replace("{}", tmp_path.as_posix()))
    lefts = entries(str(tmp_path / "data/images"), "a", "b")
    rights = entries(str(tmp_path / "data/masks"), "two", "one")
    name_map = read_name_map(tmp_path / "names.txt")
    pairs = pair_entries(lefts, rights, name_map=name_map)
    assert [pair.partner and pair.partner.stem for pair in pairs] == ["one", "two"]


def test_a_path_of_another_folder_is_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("val/a.jpg val/one.png\ntrain/b.jpg train/two.png\n")
    lefts, rights = entries("train", "a", "b"), entries("train", "one", "two")
    name_map = read_name_map(tmp_path / "names.txt")
    pairs = pair_entries(lefts, rights, name_map=name_map)
    assert [pair.partner and pair.partner.stem for pair in pairs] == [None, "two"]
