"""segfix show: what is drawn where, conduct, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segfix.files.provenance import read_record
from segfix.report import PANELS
from segfix.report.error_map import BROKEN, ERROR_COLOURS, FIXED, WRONG
from segfix.report.sheet import Words, caption_strips
from tests.cli.commands import run, run_json

WIDTH, HEIGHT = 40, 24
GIVEN = ("--preds", "preds", "--refined", "refined", "--labels", "labels", "--offsets", "offsets")
BARE = ("--no-captions", "-o", "bare")


def drawn(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture)


@pytest.fixture
def maps(work: Path) -> Path:
    """The folder `work` with `offsets` of the truth and `refined` of them.

    Of the two wrong columns, 20 is fixed and 21 is not; column 5 is broken.
    """
    assert run("targets", "labels", "-o", "offsets", "-q").exit_code == 0
    refined = np.ones((HEIGHT, WIDTH), np.uint8)
    refined[:, 20] = refined[:, 22:] = refined[:, 5] = 2
    Path("refined").mkdir()
    for stem in "abc":
        Image.fromarray(refined).save(f"refined/{stem}.png")
    return work


def panel_sizes(path: str, columns: int, rows: int) -> tuple[float, float]:
    """Width and height of one panel with its caption, told from the whole."""
    height, width, _ = drawn(path).shape
    return (width + 8) / columns - 8, (height + 8) / rows - 8


def test_each_photograph_gets_all_panels_that_the_folders_allow(maps: Path) -> None:
    result = run("show", "images", *GIVEN)
    assert (result.exit_code, result.stdout) == (0, "shown: 3 written\n")
    width, height = panel_sizes("shown/a.png", 3, 2)
    assert width == WIDTH
    assert HEIGHT < height < 2 * HEIGHT, "a caption on top"
    record = json.loads(read_record(Path("shown/a.png")) or "")
    assert record["settings"]["panels"] == ["preds", "refined", "labels", "offsets", "errors"]


@pytest.mark.parametrize(
    ("given", "panels"),
    [
        (("--preds", "preds"), ["preds"]),
        (("--labels", "labels"), ["labels"]),
        (("--offsets", "offsets"), ["offsets"]),
        (("--preds", "preds", "--labels", "labels"), ["preds", "labels", "errors"]),
        (("--preds", "preds", "--refined", "refined"), ["preds", "refined", "changes"]),
    ],
)
def test_panels_follow_from_what_is_given(
    maps: Path, given: tuple[str, ...], panels: list[str]
) -> None:
    assert run("show", "images", *given).exit_code == 0
    record = json.loads(read_record(Path("shown/a.png")) or "")
    assert record["settings"]["panels"] == panels
    assert panel_sizes("shown/a.png", len(panels), 1)[0] == WIDTH


@pytest.mark.parametrize("captions", ["--captions", "--no-captions"])
@pytest.mark.parametrize("panel", PANELS)
def test_one_panel_has_the_size_of_the_photograph(maps: Path, panel: str, captions: str) -> None:
    assert run("show", "images", *GIVEN, "--panel", panel, captions, "--arrows").exit_code == 0
    assert drawn("shown/a.png").shape == (HEIGHT, WIDTH, 3)


def test_panels_come_in_the_order_asked_for_and_once(maps: Path) -> None:
    panels = ("--panel", "labels", "--panel", "preds", "--panel", "labels", "--opacity", 1)
    assert run("show", "images", *GIVEN, *panels, *BARE).exit_code == 0
    sheet = drawn("bare/a.png")
    assert sheet.shape == (HEIGHT, 2 * WIDTH + 8, 3)
    assert (sheet[:, WIDTH : WIDTH + 8] == 255).all()
    labels, preds = sheet[:, :WIDTH], sheet[:, WIDTH + 8 :]
    # Label maps have their boundary left of column 20, predictions left of 22.
    assert labels[3, 20].tolist() == preds[3, 22].tolist() != preds[3, 20].tolist()
    for picture, column in ((labels, 19), (preds, 21)):
        line = picture[:, column].astype(int)
        assert (line >= 178).all(), "light, but not all white"
        assert (line < 255).any(axis=1).all()


@pytest.mark.parametrize(("number", "columns", "rows"), [(2, 2, 1), (3, 3, 1), (4, 2, 2)])
def test_panels_stand_in_rows(maps: Path, number: int, columns: int, rows: int) -> None:
    panels = [word for name in list(PANELS)[:number] for word in ("--panel", name)]
    assert run("show", "images", *GIVEN, *panels, *BARE).exit_code == 0
    assert panel_sizes("bare/a.png", columns, rows) == (WIDTH, HEIGHT)


def test_where_most_has_changed_is_enlarged_below(maps: Path) -> None:
    for folder in ("images", "preds", "refined"):
        with Image.open(f"{folder}/a.png") as picture:
            picture.resize((400, 240), Image.Resampling.NEAREST).save(f"{folder}/a.png")
    two = ("images/a.png", "--preds", "preds/a.png", "--refined", "refined/a.png")
    assert run("show", *two, "--panel", "preds", "--panel", "changes").exit_code == 0
    sheet = drawn("shown/a.png")
    # A caption, the panel, a gap, 36 rows four times as high.
    assert sheet.shape[0] - 240 - 4 - 4 * 36 in range(10, 40)
    changed = (sheet[-4 * 36 :, -400:] == (255, 0, 255)).all(axis=2)
    assert changed.any()
    blocks = changed.reshape(36, 4, 100, 4)
    assert (blocks.all(axis=(1, 3)) == blocks.any(axis=(1, 3))).all()
    assert run("show", *two, "--no-captions", "-o", "bare").exit_code == 0
    assert drawn("bare/a.png").shape == (240, 3 * 400 + 16, 3)


def test_captions_break_into_lines_instead_of_being_cut() -> None:
    words: Words = [(f"word {k}", (k, 0, 0)) for k in range(12)]
    strip, other = caption_strips([words, words[:1]], 300, 200)
    assert strip.shape == other.shape
    for k in range(12):
        assert (strip == (k, 0, 0)).all(axis=2).any(), f"the colour of word {k} is there"
    assert len(caption_strips([words[:2]], 300, 200)[0]) < len(strip)
    assert len(caption_strips([words], 60, 24)[0]) < 24, "no higher than there is room"


def test_errors_show_and_count_fixed_and_broken_pixels(maps: Path) -> None:
    report = run_json("show", "images", *GIVEN, "--panel", "errors", *BARE)
    for row in report["done"]:
        counts = {name: row[name] / HEIGHT for name in ("right", "fixed", "broken", "wrong")}
        assert counts == {"right": WIDTH - 3, "fixed": 1, "broken": 1, "wrong": 1}
    picture = drawn("bare/a.png")
    for column, code in ((20, FIXED), (5, BROKEN), (21, WRONG)):
        assert (picture[:, column] == ERROR_COLOURS[code]).all()


def test_errors_without_refined_are_wrong_or_void(maps: Path) -> None:
    truth = np.asarray(Image.open("labels/a.png")).copy()
    truth[:4] = 255
    Image.fromarray(truth).save("labels/a.png")
    two = ("--preds", "preds", "--labels", "labels", "--panel", "errors")
    row = run_json("show", "images", *two)["done"][0]
    assert (row["wrong"], row["void"], row["fixed"]) == (2 * (HEIGHT - 4), 4 * WIDTH, 0)
    row = run_json("show", "images", *two, "--void", -1, "-o", "counted")["done"][0]
    assert (row["wrong"], row["void"]) == (2 * (HEIGHT - 4) + 4 * WIDTH, 0)


def test_changes_are_counted(maps: Path) -> None:
    report = run_json("show", "images", *GIVEN[:4])
    assert [row["changed"] for row in report["done"]] == [2 * HEIGHT] * 3


def test_all_maps_are_drawn_in_the_first_palette(maps: Path) -> None:
    with Image.open("labels/a.png") as ids:
        ids.putpalette([0, 0, 0, 10, 200, 30, 220, 20, 60])
        ids.save("labels/a.png")
    panels = ("--panel", "preds", "--panel", "labels", "--opacity", 1)
    assert run("show", "images", *GIVEN, *panels, *BARE).exit_code == 0
    for left in (0, WIDTH + 8):
        sheet = drawn("bare/a.png")[:, left:]
        assert (sheet[3, 3].tolist(), sheet[3, 30].tolist()) == ([10, 200, 30], [220, 20, 60])
    other = drawn("bare/b.png")
    assert other[3, 3].tolist() != [10, 200, 30]


def test_grey_palettes_are_no_colours(maps: Path) -> None:
    plain = ("show", "images", "--preds", "preds", *BARE)
    run(*plain)
    expected = drawn("bare/a.png")
    with Image.open("preds/a.png") as ids:
        ids.putpalette([level for k in range(256) for level in (k, k, k)])
        ids.save("preds/a.png")
    run(*plain, "--overwrite")
    assert np.array_equal(drawn("bare/a.png"), expected)


def test_colour_coded_maps_keep_their_colours_but_have_no_errors(maps: Path) -> None:
    colours = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    colours[:, 20:] = (7, 8, 9, 10)
    Image.fromarray(colours).save("preds/b.png")
    result = run("show", "images", *GIVEN)
    assert result.exit_code == 1
    assert "2 written, 1 failed" in result.stdout
    assert "failed: preds/b.png: colour-coded; errors need class ids" in result.stderr
    assert "--panel" in result.stderr
    shutil.rmtree("shown")
    assert run("show", "images", "--preds", "preds", "--opacity", 1, *BARE).exit_code == 0
    assert drawn("bare/b.png")[3, 30].tolist() == [7, 8, 9]


@pytest.mark.parametrize("array", [np.full((HEIGHT, WIDTH), 300, np.uint16), None])
def test_many_ids_and_16_bits_are_drawn(maps: Path, array: np.ndarray | None) -> None:
    if array is None:
        array = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    Image.fromarray(array).save("preds/a.png")
    assert run("show", "images", *GIVEN).exit_code == 0


def test_nothing_given_is_a_usage_error_that_says_what_to_give(maps: Path) -> None:
    result = run("show", "images")
    assert result.exit_code == 2
    for option in ("--preds", "--refined", "--labels", "--offsets"):
        assert option in result.stderr
    assert not Path("shown").exists()


def test_a_panel_that_lacks_a_folder_says_which(maps: Path) -> None:
    result = run("show", "images", "--preds", "preds", "--panel", "errors")
    assert result.exit_code == 2
    assert "--panel errors needs --labels." in result.stderr
    result = run("show", "images", "--offsets", "offsets", "--panel", "changes")
    assert "--panel changes needs --preds and --refined." in result.stderr
    assert run("show", "images", *GIVEN, "--panel", "nonsense").exit_code == 2
    assert run("show", "images", *GIVEN, "--opacity", "nan").exit_code == 2


@pytest.mark.parametrize("name", ["preds", "refined", "labels", "offsets"])
def test_one_map_of_another_size_fails_alone(maps: Path, name: str) -> None:
    Image.fromarray(np.ones((10, 12), np.uint8)).save("labels/b.png")
    if name == "offsets":
        run("targets", "labels", "-o", "offsets", "--overwrite", "-q")
    Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint8)).save("labels/b.png")
    if name != "offsets":
        Image.fromarray(np.ones((10, 12), np.uint8)).save(f"{name}/b.png")
    result = run("show", "images", *GIVEN)
    assert result.exit_code == 1
    assert "2 written, 1 failed" in result.stdout
    assert f"failed: {name}/b.png: 12×10, but its photograph images/b.png is 40×24" in result.stderr
    assert sorted(path.name for path in Path("shown").iterdir()) == ["a.png", "c.png"]


def test_broken_and_missing_files_fail_alone(maps: Path) -> None:
    Path("images/a.png").write_text("no picture")
    Path("labels/b.png").unlink()
    shutil.copy("labels/c.png", "offsets/c.png")
    shutil.copy("images/b.png", "images/d.bmp")
    Image.open("images/b.png").save("images/b.bmp")
    report = run_json("show", "images", *GIVEN)
    assert report["done"] == []
    failed = {text.split(":")[0]: text for text in report["failed"]}
    assert "not a readable image" in failed["images/a.png"]
    assert "no map of that name in --labels" in failed["images/b.png"]
    assert "same stem as b.png" in failed["images/b.bmp"]
    assert "a picture, but not an offset map" in failed["offsets/c.png"]
    assert "no map of that name in --preds" in failed["images/d.bmp"]
    assert not any("\n" in text for text in report["failed"])


def test_a_photograph_that_two_maps_fit_is_named(maps: Path) -> None:
    for suffix in ("_pred", "_mask"):
        shutil.copy("preds/b.png", f"preds/b{suffix}.png")
    Path("preds/b.png").unlink()
    result = run("show", "images", *GIVEN)
    assert result.exit_code == 1
    assert "failed: images/b.png: preds/b_" in result.stderr
    assert "both fit; --suffix _mask or _pred takes one kind" in result.stderr


def test_names_are_paired_by_known_and_given_suffixes(maps: Path) -> None:
    for stem in "abc":
        Path(f"images/{stem}.png").rename(f"images/{stem}_leftImg8bit.png")
        Path(f"labels/{stem}.png").rename(f"labels/{stem}_gtFine_labelIds.png")
        Path(f"preds/{stem}.png").rename(f"preds/{stem}_mine.png")
    assert run("show", "images", "--labels", "labels", "-q").exit_code == 0
    assert Path("shown/a_leftImg8bit.png").is_file()
    unpaired = run("show", "images", "--preds", "preds", "-o", "other")
    assert unpaired.exit_code == 2
    assert "preds/a_mine.png" in unpaired.stderr
    suffixed = run("show", "images", "--preds", "preds", "-o", "other", "--suffix", "_mine")
    assert suffixed.exit_code == 0


def test_single_files_belong_to_each_other(maps: Path) -> None:
    shutil.copy("preds/b.png", "mine.png")
    assert run("show", "images/a.png", "--preds", "mine.png").exit_code == 0
    assert run("show", "images/a.png", *GIVEN, "-o", "folders").exit_code == 0
    assert [path.name for path in Path("folders").iterdir()] == ["a.png"]


def test_a_second_run_skips_and_other_settings_are_refused(maps: Path) -> None:
    command = ("show", "images", *GIVEN)
    assert len(run_json(*command)["done"]) == 3
    Path("shown/b.png").unlink()
    again = run_json(*command)
    assert [row["output"] for row in again["done"]] == ["shown/b.png"]
    assert again["skipped"] == ["shown/a.png", "shown/c.png"]
    for other in (
        ("--opacity", 0.5),
        ("--arrows",),
        ("--void", 1),
        ("--no-captions",),
        ("--panel", "preds"),
    ):
        result = run(*command, *other)
        assert result.exit_code == 1
        assert "--overwrite replaces it" in result.stderr
    assert len(run_json(*command, "--arrows", "--overwrite")["done"]) == 3


def test_a_picture_of_a_changed_map_is_not_taken_for_done(maps: Path) -> None:
    command = ("show", "images", *GIVEN)
    run(*command)
    shutil.copy("labels/a.png", "refined/a.png")
    report = run_json(*command)
    assert len(report["skipped"]) == 2
    assert report["failed"][0].startswith("shown/a.png: exists")


def test_recursive_mirrors_the_tree(maps: Path) -> None:
    for folder in ("images", "preds", "refined", "labels", "offsets"):
        Path(folder, "town").mkdir()
        shutil.move(f"{folder}/b.png", f"{folder}/town/b.png")
    assert run("show", "images", *GIVEN, "-r", "--workers", 2).exit_code == 0
    assert Path("shown/town/b.png").is_file()
    assert Path("shown/a.png").is_file()


def test_maps_and_pictures_within_the_photographs_folder_are_not_photographs(maps: Path) -> None:
    shutil.move("preds", "images/preds")
    command = ("show", "images", "--preds", "images/preds", "-r", "-o", "images/shown")
    assert len(run_json(*command)["done"]) == 3
    assert len(run_json(*command)["skipped"]) == 3


@pytest.mark.parametrize("out", ["images", "preds", "labels", "offsets", "preds/../refined"])
def test_the_folders_that_are_read_are_never_written(maps: Path, out: str) -> None:
    before = Path(out, "a.png").read_bytes()
    result = run("show", "images", *GIVEN, "-o", out, "--overwrite")
    assert result.exit_code == 2
    assert "choose another one with -o" in " ".join(result.stderr.split())
    assert Path(out, "a.png").read_bytes() == before


def test_missing_folders_are_usage_errors(maps: Path) -> None:
    Path("empty").mkdir()
    for given in (("nowhere", *GIVEN), ("images", "--preds", "nowhere")):
        result = run("show", *given)
        assert result.exit_code == 2
        assert "nowhere: no such file or folder" in result.stderr
    result = run("show", "images", "--offsets", "empty")
    assert result.exit_code == 2
    assert "empty: no offset maps here" in result.stderr


def test_max_failures_gives_up(maps: Path) -> None:
    for number in range(20):
        Path(f"images/a{number}.png").write_bytes(b"")
    result = run("show", "images", *GIVEN, "--max-failures", 2)
    assert result.exit_code == 1
    assert "not tried (--max-failures)" in result.stdout
