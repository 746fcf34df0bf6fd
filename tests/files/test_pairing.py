from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from segfix.errors import FileFormatError, PairingError
from segfix.files import Entry, list_entries, pair_entries
from segfix.files.naming import KNOWN_SUFFIXES, read_name_map
from segfix.files.pairing import choose_kind


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def entries(*stems: str) -> list[Entry]:
    return [Entry(Path(f"{stem}.png"), stem) for stem in stems]


def partners(*stems: str, of: list[Entry], suffixes: tuple[str, ...] = ()) -> list[str | None]:
    others = [Entry(Path("other", one.path), one.stem) for one in entries(*stems)]
    pairs = pair_entries(of, others, suffixes=suffixes)
    assert [pair.entry for pair in pairs] == of
    return [pair.partner.stem if pair.partner else None for pair in pairs]


# list_entries


def test_files_come_sorted_with_their_stems(tmp_path: Path) -> None:
    make_files(tmp_path, "b.png", "a.b.png", "c.jpg")
    found = list_entries(tmp_path, (".png", ".jpg"), what="images")
    assert [entry.stem for entry in found] == ["a.b", "b", "c"]
    assert [entry.path for entry in found] == [tmp_path / n for n in ("a.b.png", "b.png", "c.jpg")]
    assert all(entry.problem is None for entry in found)


def test_endings_are_taken_in_any_case(tmp_path: Path) -> None:
    make_files(tmp_path, "a.PNG", "b.Jpg")
    assert len(list_entries(tmp_path, (".png", ".jpg"), what="images")) == 2


def test_hidden_files_hidden_folders_and_other_kinds_are_passed_over(tmp_path: Path) -> None:
    make_files(
        tmp_path, "a.png", ".b.png", ".cache/c.png", "d.txt", "e", "f.png.part", "._a.png", ".png"
    )
    (tmp_path / "folder.png").mkdir()
    found = list_entries(tmp_path, (".png",), what="images", recursive=True)
    assert [entry.stem for entry in found] == ["a"]


def test_folders_within_are_read_only_when_asked_for(tmp_path: Path) -> None:
    make_files(tmp_path, "top.png", "aachen/a.png", "bonn/deep/b.png")
    flat = list_entries(tmp_path, (".png",), what="images")
    assert [entry.stem for entry in flat] == ["top"]
    deep = list_entries(tmp_path, (".png",), what="images", recursive=True)
    assert [entry.stem for entry in deep] == ["top", "aachen/a", "bonn/deep/b"]


def test_files_that_differ_in_their_ending_alone_collide(tmp_path: Path) -> None:
    make_files(tmp_path, "a.jpg", "a.png", "b.png", "sub/a.png")
    found = list_entries(tmp_path, (".jpg", ".png"), what="images", recursive=True)
    assert [entry.stem for entry in found] == ["a", "a", "b", "sub/a"]
    problems = [entry.problem for entry in found]
    assert [problem is None for problem in problems] == [True, False, True, True]
    assert problems[1] == f"{tmp_path / 'a.png'}: same stem as a.jpg; rename one of them."


def test_one_file_is_taken_whatever_its_ending(tmp_path: Path) -> None:
    path = make_files(tmp_path, "photo.one.heic") / "photo.one.heic"
    assert list_entries(path, (".png",), what="images") == [Entry(path, "photo.one", chosen=True)]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(PairingError, match=r"none: no such file or folder"):
        list_entries(tmp_path / "none", (".png",), what="images")


def test_an_empty_folder_is_named_with_what_was_looked_for(tmp_path: Path) -> None:
    make_files(tmp_path, "a.txt")
    with pytest.raises(PairingError) as caught:
        list_entries(tmp_path, (".png", ".jpg"), what="label maps")
    assert str(caught.value) == f"{tmp_path}: no label maps here (.png, .jpg); it holds 1 .txt."


@pytest.mark.parametrize("recursive", [False, True])
def test_recursive_is_suggested_only_where_it_could_help(tmp_path: Path, recursive: bool) -> None:
    make_files(tmp_path, "sub/a.txt")
    with pytest.raises(PairingError) as caught:
        list_entries(tmp_path, (".png",), what="images", recursive=recursive)
    assert ("--recursive" in str(caught.value)) != recursive


def test_a_folder_that_cant_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "in").mkdir()
    listed = os.scandir

    def refused(folder: Path) -> object:
        if folder.name == "in":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", refused)
    assert len(list_entries(tmp_path, (".png",), what="images")) == 1
    found = list_entries(tmp_path, (".png",), what="images", recursive=True)
    assert [entry.problem for entry in found] == [
        None,
        f"{tmp_path / 'in'}: can't be listed (Permission denied).",
    ]
    with pytest.raises(PairingError, match=r"in: can't be listed \(Permission denied\)\.$"):
        list_entries(tmp_path / "in", (".png",), what="images")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")
def test_a_pipe_is_told_from_nothing(tmp_path: Path) -> None:
    with pytest.raises(PairingError, match="no such file or folder"):
        list_entries(tmp_path / "pipe", (".png",), what="images")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileFormatError, match="pipe: can't be read"):
        list_entries(tmp_path / "pipe", (".png",), what="images")


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_to_nowhere_or_itself_is_passed_over(tmp_path: Path) -> None:
    make_files(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "c.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "d.png").symlink_to("d.png")
    found = list_entries(tmp_path, (".png",), what="images")
    assert [entry.stem for entry in found] == ["a", "c"]


# pair_entries


def test_equal_stems_are_pairs_and_the_rest_stays_alone() -> None:
    assert partners("c", "a", of=entries("a", "b", "c")) == ["a", None, "c"]


@pytest.mark.parametrize("suffix", KNOWN_SUFFIXES)
def test_known_suffixes_are_passed_over_on_either_side(suffix: str) -> None:
    assert partners(f"a{suffix}", "z", of=entries("a", "b")) == [f"a{suffix}", None]
    assert partners("a", "z", of=entries(f"a{suffix}", "b")) == ["a", None]


@pytest.mark.parametrize(
    "labels",
    [
        "frankfurt/frankfurt_000000_000294_gtFine_labelTrainIds",
        "frankfurt/frankfurt_000000_000294_gtFine_labelIds",
        "frankfurt/frankfurt_000000_000294_gtFine_instanceIds",
        "frankfurt/frankfurt_000000_000294_gtCoarse_labelIds",
        "frankfurt/frankfurt_000000_000294_pred",
    ],
)
def test_cityscapes_photographs_find_their_labels(labels: str) -> None:
    photographs = entries(
        "frankfurt/frankfurt_000000_000294_leftImg8bit",
        "frankfurt/frankfurt_000000_000576_leftImg8bit",
    )
    assert partners(labels, "frankfurt/other_gtFine_labelIds", of=photographs) == [labels, None]


def test_camvid_photographs_find_their_labels() -> None:
    assert partners("0001TP_008550_L", "0001TP_008580_L", of=entries("0001TP_008550", "x")) == [
        "0001TP_008550_L",
        None,
    ]


def test_a_suffix_of_the_user_is_passed_over_too() -> None:
    assert partners("a_v2", "z", of=entries("a", "b"), suffixes=("_v2",)) == ["a_v2", None]
    with pytest.raises(PairingError):
        partners("a_v2", "z", of=entries("a", "b"))


@pytest.mark.parametrize("suffix", ["_gtFine_labelTrainIds", "_labelTrainIds", "TrainIds"])
def test_the_visible_end_of_a_known_suffix_chooses_the_kind(suffix: str) -> None:
    stems = [f"{stem}_gtFine_{kind}" for stem in "ab" for kind in ("labelIds", "labelTrainIds")]
    photographs = entries("a_leftImg8bit", "b_leftImg8bit")
    assert partners(*stems, of=photographs, suffixes=(suffix,)) == stems[1::2]


def test_an_equal_stem_goes_before_a_stem_without_suffix() -> None:
    assert partners("a_pred", "a", of=entries("a", "b")) == ["a", None]
    assert partners("a", "a_pred", of=entries("a_pred", "b")) == ["a_pred", None]


def test_only_one_suffix_is_passed_over() -> None:
    assert partners("a_mask_pred", "b", of=entries("a", "b")) == [None, "b"]


def test_two_candidates_are_none_and_both_are_named() -> None:
    (pair, other) = pair_entries(entries("a", "b"), entries("a_pred", "a_mask", "b_pred"))
    for name in ("a.png", "a_pred.png", "a_mask.png"):
        assert name in (pair.entry.problem or "")
    assert pair.partner is None
    assert other.partner == entries("b_pred")[0]


def test_one_candidate_for_two_is_refused_where_pairs_must_be_one_to_one() -> None:
    truth, found = entries("a_gtFine_labelIds", "a_gtFine_labelTrainIds"), entries("a_pred")
    assert [pair.partner for pair in pair_entries(truth, found)] == [*found, *found]
    with pytest.raises(PairingError, match="both belong to a_pred") as caught:
        pair_entries(truth, found, one_to_one=True)
    advice = "--suffix _gtFine_labelIds or _gtFine_labelTrainIds takes one kind."
    assert str(caught.value).endswith(advice)
    with pytest.raises(PairingError, match="--map says which it is"):
        pair_entries(
            entries("a", "b"), found, one_to_one=True, name_map={s: ["a_pred"] for s in "ab"}
        )
    # In folders of their own, it is by their names alone that they would be found.
    with pytest.raises(PairingError, match="no file has a partner") as caught:
        pair_entries(entries(*(f"aachen/{one.stem}" for one in truth)), found, one_to_one=True)
    assert str(caught.value).endswith(advice)


def test_suffixes_of_the_user_that_all_fit_are_told() -> None:
    (pair, _) = pair_entries(entries("a", "b"), entries("a-x", "a-y", "b"), suffixes=("-x", "-y"))
    assert str(pair.entry.problem).endswith("both fit; --suffix -x or -y takes one kind.")


def test_a_suffix_proposed_beside_another_is_that_of_the_other_side() -> None:
    for left in ("a_v2", "aachen/a_gtFine_labelIds"):
        with pytest.raises(PairingError, match="names differ by '_mine': add --suffix _mine"):
            partners("a_mine", "b", of=entries(left, "c"), suffixes=("_v2", "_labelIds"))


KINDS = entries(*(f"{stem}_gtFine_{kind}" for stem in "ab" for kind in ("color", "labelIds")))


def test_of_kinds_of_ground_truth_one_must_be_chosen() -> None:
    for suffixes in ((), ("_other",)):
        with pytest.raises(PairingError) as caught:
            choose_kind(KINDS, suffixes=suffixes)
        assert str(caught.value) == (
            "several label maps are of one photograph, such as a_gtFine_color.png, "
            "a_gtFine_labelIds.png; --suffix _gtFine_color or _gtFine_labelIds takes one kind."
        )
    passed = Counter[str]()
    assert choose_kind(KINDS, suffixes=["_labelIds"], passed_over=passed) == KINDS[1::2]
    assert passed == {"without the --suffix": 2}
    assert choose_kind(KINDS, suffixes=["_labelIds", "_color"], passed_over=passed) == KINDS
    assert choose_kind(KINDS, name_map={"a": ["b"]}, passed_over=passed) == KINDS
    assert passed.total() == 2


def test_predictions_of_several_networks_are_all_taken() -> None:
    several = entries("a_pred", "a_mask", "a_seg", "a_gtFine_labelIds", "x/a_labelIds", "a_mine")
    assert choose_kind(several) == several


def test_two_endings_of_one_candidate_are_one() -> None:
    photographs = [
        Entry(Path("a_leftImg8bit.jpg"), "a_leftImg8bit"),
        Entry(Path("a_leftImg8bit.png"), "a_leftImg8bit", "same stem"),
        *entries("z"),
    ]
    pairs = pair_entries(entries("a_pred", "b"), photographs)
    assert [pair.partner for pair in pairs] == [photographs[0], None]


def test_folders_are_part_of_the_name() -> None:
    assert partners("x/a", "y/a_pred", of=entries("x/a", "y/a", "a")) == ["x/a", "y/a_pred", None]


def test_a_name_that_is_a_suffix_and_nothing_else_is_kept_whole() -> None:
    assert partners("x/_pred", "x/b", of=entries("x/_mask", "x/b")) == [None, "x/b"]


def test_two_files_the_user_named_are_a_pair_whatever_the_names(tmp_path: Path) -> None:
    folder = make_files(tmp_path, "day.png", "night.png")
    day, night = (
        list_entries(folder / name, (".png",), what="images") for name in ("day.png", "night.png")
    )
    assert pair_entries(day, night)[0].partner == night[0]


def test_the_only_files_of_two_folders_are_no_pair_unless_their_names_agree() -> None:
    with pytest.raises(PairingError, match="no file has a partner"):
        pair_entries(entries("day"), entries("night"))


def test_folders_left_out_are_not_entered_and_links_are_followed_once(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "in", "a.png", "out/b.png")
    elsewhere = make_files(tmp_path / "elsewhere", "c.png")
    (folder / "link").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    found = list_entries(
        folder, (".png",), what="images", recursive=True, leave_out=[folder / "out"]
    )
    assert [entry.stem for entry in found] == ["a", "link/c"]


@pytest.mark.parametrize("others", [["c", "d", "e"], ["c"], []])
def test_no_pair_at_all_is_an_error_that_shows_both_sides(others: list[str]) -> None:
    with pytest.raises(PairingError) as caught:
        partners(*others, of=entries("a", "b", "f"))
    text = str(caught.value)
    assert "a.png, b.png on one side" in text
    assert ", ".join(f"{Path('other', stem)}.png" for stem in others[:2]) in text
    assert "e.png" not in text


@pytest.mark.parametrize(
    ("text", "partners"),
    [
        ("a b\nb a\n", ["b", "a"]),
        ("a b\na b\n", ["b", "a"]),
        ("a missing\n", [None, "b"]),
        ("other.png more.png\nb a\n", ["b", "a"]),
    ],
)
def test_a_map_goes_before_equal_names(
    tmp_path: Path, text: str, partners: list[str | None]
) -> None:
    (tmp_path / "names.txt").write_text(text)
    name_map = read_name_map(tmp_path / "names.txt")
    files, others = (
        [Entry(Path(folder, f"{stem}.png"), stem) for stem in "ab"] for folder in ("one", "two")
    )
    with pytest.raises(PairingError, match="--map names none of the files"):
        pair_entries(files, others, name_map={"other": ["more"]})
    found = pair_entries(files, others, name_map=name_map)
    assert [pair.partner and pair.partner.stem for pair in found] == partners


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (("a/{}", "b/{}"), "give one of their folders, such as a."),
        (("a/{}_pred", "b/{}_pred"), "give one of their folders, such as a."),
        (("a/{}_pred", "b/{}"), "--suffix _pred takes one kind."),
    ],
)
def test_files_of_one_name_are_told_apart_by_their_folders(
    names: tuple[str, ...], advice: str
) -> None:
    one = entries(*(name.format("x") for name in names))
    two = entries(*(name.format(stem) for stem in ("x", "y") for name in names))
    with pytest.raises(PairingError) as raised:
        pair_entries(entries("x", "y"), two)
    assert str(raised.value).endswith(advice)
    (pair, _) = pair_entries(entries("x", "z"), [*one, *entries("z")])
    assert ("give one of their folders" in str(pair.entry.problem)) == ("folders" in advice)


# Files of both kinds in one folder


def test_a_file_is_its_own_partner_only_where_that_is_meant() -> None:
    maps, photographs = entries("a_mask", "b_mask"), entries("a", "a_mask", "b", "b_mask")
    assert [pair.partner for pair in pair_entries(maps, photographs)] == photographs[::2]
    # Both could be photographs: then what isn't the file itself.
    assert pair_entries(photographs[:2], photographs)[0].partner == photographs[1]
    assert [pair.partner for pair in pair_entries(maps, maps, itself=True)] == maps
    with pytest.raises(PairingError, match="these are the same files"):
        pair_entries(maps, maps)
    chosen = replace(maps[0], chosen=True)
    with pytest.raises(PairingError, match="one file can't be both"):
        pair_entries([chosen], [chosen])


def test_files_of_one_folder_are_linked_by_other_words() -> None:
    maps, photographs = entries("lab_1", "lab_2"), entries("img_1", "img_2", "lab_1", "lab_2")
    assert [pair.partner for pair in pair_entries(maps, photographs)] == photographs[:2]
