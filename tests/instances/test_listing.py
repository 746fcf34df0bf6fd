from __future__ import annotations

from pathlib import Path

import pytest

from segfix.files import Entry
from segfix.instances.listing import pair_images


def entries(*stems: str) -> list[Entry]:
    return [Entry(Path("offsets", f"{stem}.png"), stem) for stem in stems]


@pytest.mark.parametrize(
    ("names", "stems", "partner"),
    [
        (["a", "b"], ["b", "a"], "a"),
        (["missing", "b"], ["b", "c"], "b"),
        (["val/a", "a"], ["a"], "a"),
        (["a"], ["town/a", "town/b"], "town/a"),
        (["a"], ["town/a", "city/a"], None),
        (["a_leftImg8bit"], ["a_pred"], "a_pred"),
        (["a"], [], None),
    ],
)
def test_the_first_name_that_an_offset_map_has_counts(
    names: list[str], stems: list[str], partner: str | None
) -> None:
    found = pair_images({1: names}, entries(*stems)).get(1)
    paired = found.partner.path if found and found.partner else None
    assert paired == (Path("offsets", f"{partner}.png") if partner else None)


@pytest.mark.parametrize(
    ("names", "stems", "partners"),
    [
        ([["x/a", "a"], ["y/a", "a"]], ["a"], [None, None]),
        ([["x/a", "a"], ["y/a", "a"]], ["x/a"], ["x/a", None]),
        ([["x/a", "a"], ["y/a", "a"]], ["x/a", "y/a"], ["x/a", "y/a"]),
        ([["a"], ["b", "a"]], ["a"], ["a", None]),
        ([["x/a", "a"], ["x/a", "a"], ["b"]], ["a"], ["a", "a", None]),
    ],
)
def test_two_images_never_share_an_offset_map_unless_they_are_one_file(
    names: list[list[str]], stems: list[str], partners: list[str | None]
) -> None:
    found = pair_images(dict(enumerate(names)), entries(*stems))
    paired = [found[image].partner if image in found else None for image in range(len(names))]
    assert [partner and partner.path.relative_to("offsets").as_posix() for partner in paired] == [
        partner and f"{partner}.png" for partner in partners
    ]


def test_an_image_that_two_offset_maps_fit_has_a_problem() -> None:
    pair = pair_images({1: ["a"], 2: ["b"]}, entries("a_pred", "a_mask", "b"))[1]
    assert pair.partner is None
    assert "both fit" in str(pair.entry.problem)


def test_only_the_one_chosen_file_is_paired_without_a_common_name() -> None:
    (map_entry,) = (Entry(Path("x.png"), "x", chosen=True),)
    assert pair_images({1: ["a"]}, [map_entry], chosen=True)[1].partner is map_entry
    assert pair_images({1: ["a"], 2: ["b"]}, [map_entry], chosen=True) == {}
