"""`segfix evaluate`: table, CSV, notes, class lists, exit status."""

from __future__ import annotations

import csv
import io
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segfix.evaluation.statistics import BANDS, SCORES
from tests.cli import commands

CAMVID = Path(__file__).parents[1] / "data" / "camvid"

run = partial(commands.run, "evaluate")
run_json = partial(commands.run_json, "evaluate")


def cells(line: str) -> list[str]:
    return [cell for cell in line.split("  ") if cell.strip()]


def rows(table: str) -> dict[str, list[str]]:
    """Cells of each line by the first one."""
    lines = [[cell.strip() for cell in cells(line)] for line in table.splitlines() if line]
    return {line[0]: line[1:] for line in lines}


def write(path: str, ids: Any) -> None:
    Path(path).parent.mkdir(exist_ok=True)
    Image.fromarray(np.asarray(ids, np.uint8)).save(path)


@pytest.fixture
def moved(work: Path) -> Path:
    """The folder `work` with a second set, `after`: right in a and b, as before in c."""
    for stem in "ab":
        Path("after").mkdir(exist_ok=True)
        shutil.copy(f"labels/{stem}.png", f"after/{stem}.png")
    shutil.copy("preds/c.png", "after/c.png")
    Path("classes.txt").write_text("1 road\n2 sky\n")
    return work


def test_the_table_of_one_set(work: Path) -> None:
    result = run("preds", "labels")
    assert (result.exit_code, result.stderr.count("failed")) == (0, 0)
    scores, classes = result.stdout.split("\n\n")
    # One half is true, 5 % more are found; the masks of the two classes are opposites.
    e_measure = sum(
        share * (1 + 2 * p * g / (p * p + g * g)) ** 2 / 4
        for share, p, g in ((0.5, 0.45, 0.5), (0.05, 0.45, -0.5), (0.45, -0.55, -0.5))
    )
    assert rows(scores) == {
        "3 images, 0.00 % void": ["PREDS"],
        "mIoU": ["90.45"],
        "F@1px": ["0.00"],
        "F@2px": ["100.00"],
        "F@3px": ["100.00"],
        # A band of 1 px, along the frame too: 84 true ones each, 88 and 80 found, 62 and 58 both.
        "boundary IoU": [f"{100 * (62 / 110 + 58 / 106) / 2:.2f}"],
        "F1": [f"{100 * (40 / 42 + 36 / 38) / 2:.2f}"],
        "E-measure": [f"{100 * e_measure:.2f}"],
        # 3 px each side of the edge, 2 of the right ones wrong: 3/5 and 1/3.
        "trimap mIoU 3px": [f"{100 * (3 / 5 + 1 / 3) / 2:.2f}"],
        # All radii are 1 px here: one column each side, one of them wrong.
        "mBA": ["50.00"],
        "pixel accuracy": ["95.00"],
    }
    assert rows(classes) == {
        "class": ["% of pixels", "IoU", "F@1px"],
        "1": ["50.00", "90.91", "0.00"],
        "2": ["50.00", "90.00", "0.00"],
    }


def test_the_table_of_several_sets(moved: Path) -> None:
    result = run("preds", "labels", "--against", "after", "--against", "truth=labels")
    scores, changed, harmed, classes = result.stdout.split("\n\n")
    report = run_json("preds", "labels", "--against", "after", "--against", "truth=labels")
    table = rows(scores)
    assert table["3 images, 0.00 % void"] == ["PREDS", "after", "truth"]
    for key, title in SCORES.items():
        # On pictures this small the shares of the diagonal are 1 px: the row of F@1px.
        if (key.startswith("trimap") and key != "trimap_iou_3px") or key.startswith("f_0"):
            assert title not in table
            continue
        assert table[title][0] == f"{100 * report['sets']['PREDS']['mean'][key]:.2f}"
        for name, cell in zip(("after", "truth"), table[title][1:], strict=True):
            value = report["sets"][name]["mean"][key]
            difference = [100 * v for v in report["changes"][name]["mean"][key]]
            texts = [f"{v:+.2f}" for v in difference]
            assert cell == f"{100 * value:.2f} {texts[0]} [{texts[1]} {texts[2]}]"
    assert rows(changed) == {
        "% of pixels": ["after", "truth"],
        "moved (another label)": ["3.33", "5.00"],
        "fixed (now right)": ["3.33", "5.00"],
        "broken (was right)": ["0.00", "0.00"],
    }
    assert rows(harmed) == {
        "% of images": ["after", "truth"],
        "worse in mIoU": ["0.00, at worst 0.00"] * 2,
        "worse in F@1px": ["0.00, at worst 0.00"] * 2,
    }
    assert rows(classes)["class"][3:] == ["Δ IoU after", "Δ F@1px", "Δ IoU truth", "Δ F@1px"]
    assert rows(classes)["2"][5] == "+10.00 [+10.00 +10.00]"


def test_harm_is_told_with_the_image_of_the_worst_loss(moved: Path) -> None:
    arguments = ("after", "labels", "--against", "preds")
    harm = run_json(*arguments)["changes"]["preds"]["harm"]["iou"]
    assert (harm["images"], harm["worse"], harm["image"]) == (3, 2, "labels/a.png")
    cell = rows(run(*arguments).stdout)["worse in mIoU"]
    assert cell == [f"66.67, at worst {100 * harm['worst']:.2f}"]
    assert cell == ["66.67, at worst -9.55"]


def test_a_single_image_has_no_interval(work: Path) -> None:
    result = run("preds/a.png", "labels/a.png", "--against", "truth=labels/a.png")
    assert rows(result.stdout)["mIoU"] == ["90.45", "100.00 +9.55"]
    assert "[" not in result.stdout


def test_errors_by_distance(moved: Path) -> None:
    arguments = ("preds", "labels", "--against", "after")
    plain = run(*arguments).stdout
    result = run(*arguments, "--errors", "--class-names", "classes.txt")
    *_, first, second, near = result.stdout.split("\n\n")
    assert "px from a boundary" not in plain
    before, after = rows(first), rows(second)
    assert next(iter(before)) == "PREDS: px from a boundary"
    assert list(before)[1:] == ["1", "2", "3", "4", "5", "6–10", "11–20", "21–50", "> 50"]
    # One column of 24 pixels on each side, in each of three images.
    assert before["1"][:3] == ["5.00", "72", "50.00"]
    assert after["1"][1:3] == ["24", "16.67"]
    assert after["1"][-2:] == ["48", "0"]
    assert before["3"][:3] == ["5.00", "0", "0.00"]
    assert before["> 50"][1:3] == ["0", "–"]
    report = run_json(*arguments)
    for name, table in (("PREDS", before), ("after", after)):
        widths = [f"trimap_iou_{width}px" for width in BANDS]
        means = report["sets"][name]["mean"]
        expected = [f"{100 * means[key]:.2f}" for key in [*widths, "iou"]]
        assert [row[3] for row in [*table.values()][1:]] == expected
    assert rows(near) == {
        "% of the class's pixels": ["≤ 1 px", "≤ 2 px", "≤ 3 px", "≤ 4 px", "≤ 5 px"],
        "road": ["5.00", "10.00", "15.00", "20.00", "25.00"],
        "sky": ["5.00", "10.00", "15.00", "20.00", "25.00"],
    }


def test_surfaces_are_compared_on_request_alone(moved: Path) -> None:
    arguments = ("preds", "labels", "--against", "after", "--surface", "1", "--spacing", "2", "0.5")
    assert "HD95" not in run(*arguments[:4]).stdout
    table = rows(run(*arguments).stdout.split("\n\n")[-1])
    report = run_json(*arguments)
    for name, row in (("PREDS", slice(0, 2)), ("after", slice(2, 4))):
        mean = report["sets"][name]["surface"]["mean"]
        assert table["mean"][row] == [f"{mean['hd95']:.2f}", f"{100 * mean['nsd']:.2f}"]
    lines = list(csv.DictReader(io.StringIO(run(*arguments, "--csv").stdout)))
    found = {(line["set"], line["class_id"], line["score"]): line["value"] for line in lines}
    assert float(found["after", "", "nsd"]) == report["sets"]["after"]["surface"]["mean"]["nsd"]
    assert float(found["PREDS", "2", "hd95"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--spacing", "1", "1"), "--spacing needs --surface"),
        (("--surface", "-1"), "-1.0 is not in the range"),
        (("--surface", "1", "--spacing", "0", "1"), "0.0 is not in the range"),
        (("--boundary",), "--boundary is for instances"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    work: Path, options: tuple[str, ...], text: str
) -> None:
    done = run("preds", "labels", *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert text in " ".join(done.stderr.split())


@pytest.mark.parametrize("absent", ["skip", "one"])
def test_csv_holds_what_json_holds(absent: str, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("".join(f'{k} class "{k}", so called\n' for k in [*range(11), 30]))
    arguments: tuple[object, ...] = (
        *(CAMVID / "preds", CAMVID / "labels", "--against", f"truth={CAMVID / 'labels'}"),
        *("--class-names", names, "--absent", absent),
    )
    report = run_json(*arguments)
    result = run(*arguments, "--csv", "-q")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = list(csv.DictReader(io.StringIO(result.stdout)))
    header = ["set", "class_id", "class", "score", "value", "difference", "low", "high"]
    assert list(lines[0]) == header
    found = {(line["set"], line["class_id"], line["score"]): line for line in lines}
    assert len(found) == len(lines)
    ids = [str(entry["id"]) for entry in report["classes"]]
    assert ids == [*map(str, range(11)), "30"]
    expected: dict[tuple[str, str, str], list[float | None]] = {}
    for name, scores in report["sets"].items():
        change = report["changes"].get(name)
        for key, value in scores["mean"].items():
            expected[name, "", key] = [value, *(change["mean"][key] if change else [None] * 3)]
        for key, values in scores["class"].items():
            for i, k in enumerate(ids):
                difference = change["class"][key][i] if change else [None] * 3
                expected[name, k, key] = [values[i], *difference]
        for kind in ("moved", "fixed", "broken") if change else ():
            share = sum(change["bands"][kind]) / report["pixels"]
            expected[name, "", kind] = [share, None, None, None]
        for key, harm in change["harm"].items() if change else ():
            for kind, told in (("harm_rate", "rate"), ("worst", "worst")):
                expected[name, "", f"{kind}_{key}"] = [harm[told], None, None, None]
    assert found.keys() == expected.keys()
    for place, numbers in expected.items():
        texts = [found[place][column] for column in header[4:]]
        assert [float(text) if text else None for text in texts] == numbers
    assert found["truth", "4", "iou"]["class"] == 'class "4", so called'


def test_names_of_classes_and_gaps_in_the_list(work: Path) -> None:
    Path("classes.txt").write_text("0: ego\n2: sky\n1: road\n7: rare\n255: void\n")
    result = run("preds", "labels", "--class-names", "classes.txt")
    table = rows(result.stdout.split("\n\n")[1])
    assert list(table) == ["class", "0 ego", "1 road", "2 sky", "7 rare"]
    assert table["0 ego"] == ["0.00", "–", "–"]
    assert rows(result.stdout)["mIoU"] == ["90.45"]
    assert "no label map holds ego, rare: no IoU, not in its mean" in result.stderr
    names = [entry["name"] for entry in run_json("preds", "labels")["classes"]]
    assert names == ["1", "2"]


def test_absent_one_counts_classes_in_neither_map_as_one(work: Path) -> None:
    Path("classes.txt").write_text("1 road\n2 sky\n7 rare\n8 rarer\n")
    arguments = ("preds", "labels", "--class-names", "classes.txt")
    skip, one = (run_json(*arguments, "--absent", how) for how in ("skip", "one"))
    assert skip["sets"]["PREDS"]["mean"]["f_1px"] == 0
    assert one["sets"]["PREDS"]["mean"]["f_1px"] == 0.5
    assert one["sets"]["PREDS"]["class"]["f_1px"] == [0, 0, 1, 1]
    assert one["sets"]["PREDS"]["class"]["e_measure"][2:] == [1, 1]
    assert one["sets"]["PREDS"]["mean"]["iou"] == skip["sets"]["PREDS"]["mean"]["iou"]
    result = run("preds", "labels", "--absent", "one")
    assert result.exit_code == 2
    assert "--absent one needs --class-names" in result.stderr


def test_a_true_id_that_the_list_lacks_fails_and_a_predicted_one_is_wrong(work: Path) -> None:
    Path("classes.txt").write_text("1 road\n2 sky\n")
    write("labels/a.png", np.full((24, 40), 9))
    write("preds/b.png", np.full((24, 40), 9))
    result = run("preds", "labels", "--class-names", "classes.txt")
    assert result.exit_code == 1
    assert "failed: labels/a.png: the ground truth holds 9, none of the 2 classes" in result.stderr
    assert "1 of 3 images failed and counts in no set" in result.stderr
    assert "PREDS: 960 pixels predicted as ids that are no classes (9)" in result.stderr
    assert rows(result.stdout)["pixel accuracy"] == ["47.50"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"0 road\n0 sky\n", "id 0 is there twice"),
        (b"\n", "no class names"),
        ("straße".encode("latin-1"), "not a text file in UTF-8"),
        (b"id name\n1 road\n2 sky\n", "'id name' has no id"),
    ],
)
def test_a_bad_class_list_is_named(work: Path, content: bytes, reason: str) -> None:
    Path("classes.txt").write_bytes(content)
    result = run("preds", "labels", "--class-names", "classes.txt")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("segfix: classes.txt: ")
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_missing_class_list_is_a_usage_error(work: Path) -> None:
    for path in ("nowhere.txt", "preds"):
        result = run("preds", "labels", "--class-names", path)
        assert result.exit_code == 2
        assert path in result.stderr


def test_json_and_csv_exclude_each_other(work: Path) -> None:
    result = run("preds", "labels", "--json", "--csv")
    assert result.exit_code == 2
    assert "--json and --csv both take the output" in " ".join(result.stderr.split())


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_notes_go_to_stderr_and_quiet_keeps_failures(work: Path, form: str) -> None:
    write("preds/a.png", np.full((24, 40), 9))
    Path("preds/b.png").unlink()
    loud, quiet = run("preds", "labels", form), run("preds", "labels", form, "-q")
    assert (loud.exit_code, quiet.exit_code) == (1, 1)
    assert loud.stdout == quiet.stdout
    assert "960 pixels predicted as ids that are no class in LABELS (9)" in loud.stderr
    assert "swapped?" in loud.stderr
    assert quiet.stderr == "failed: labels/b.png: no prediction of that name.\n"


def test_images_of_void_alone_are_told(work: Path) -> None:
    write("labels/a.png", np.full((24, 40), 255))
    result = run("preds", "labels")
    assert result.exit_code == 0
    assert "1 image holds void (255) alone: nothing to score" in result.stderr
    assert rows(result.stdout)["mIoU"] == ["90.45"]
    assert list(rows(result.stdout.split("\n\n")[1])) == ["class", "1", "2"]


def test_nothing_but_failures_is_no_table(work: Path) -> None:
    for stem in "abc":
        write(f"preds/{stem}.png", np.zeros((3, 3)))
    for extra in ((), ("--errors",), ("--csv",), ("--json",)):
        result = run("preds", "labels", "--against", "labels", *extra)
        assert result.exit_code == 1
        assert result.stderr.count("failed: preds/") == 3
    assert run("preds", "labels").stdout == ""
    report = run_json("preds", "labels")
    assert (report["images"], report["left_out"]) == (0, 3)
    assert len(report["failed"]) == 3


def test_a_missing_folder_is_a_usage_error(work: Path) -> None:
    for arguments in (
        ("nowhere", "labels"),
        ("preds", "nowhere"),
        ("preds", "labels", "--against", "x=nowhere"),
        ("preds", "labels", "--against", "nowhere"),
        ("preds", "labels", "--against", "nowhere="),
    ):
        result = run(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "nowhere" in result.stderr


def test_workers_do_not_change_the_output(moved: Path) -> None:
    outputs = {
        run("preds", "labels", "--against", "after", "--workers", n).stdout for n in (1, 2, 8)
    }
    assert len(outputs) == 1


def test_the_folder_of_a_set_may_be_the_current_one(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("labels")
    assert set(run_json("../preds", "../labels", "--against", ".")["sets"]) == {"PREDS", "."}
