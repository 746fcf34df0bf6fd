"""What `segfix evaluate` prints of instances."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from segfix.cli import main
from tests.instances.scenes import (
    CAR,
    LEFT,
    PERSON,
    RIGHT,
    write_coco,
    write_json,
)

pytest.importorskip("pycocotools", reason="needs the extra: pip install 'segfix-refine[eval]'")
pytest.importorskip(
    "cityscapesscripts", reason="needs the extra: pip install 'segfix-refine[eval]'"
)


def report(preds: Path, labels: Path, against: dict[str, Path], *options: str) -> Result:
    sets = [word for name, path in against.items() for word in ("--against", f"{name}={path}")]
    arguments = ["evaluate", *map(str, (preds, labels)), *sets, *options]
    return CliRunner().invoke(main, arguments)


Sets = tuple[Path, Path, dict[str, Path]]


@pytest.fixture
def sets(tmp_path: Path) -> Sets:
    truth = [(0, CAR, LEFT), (0, PERSON, RIGHT)]
    preds, labels = write_coco(tmp_path, truth, [(0, CAR, LEFT, 1)])
    better, _ = write_coco(tmp_path / "better", truth, [(*item, 1) for item in truth])
    return preds, labels, {"refined": better}


def test_the_table_compares_sets_and_classes(sets: Sets) -> None:
    done = report(*sets)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["1", "image", "PREDS", "refined"]
    assert lines[1] == ["AP", "50.00", "100.00", "+50.00"]
    assert ["AP", "medium", "–", "–"] in lines
    assert ["AP", "of", "PREDS", "refined"] in lines
    assert ["person", "0.00", "100.00", "+100.00"] in lines
    assert ["truck", "–", "–"] in lines


def test_the_json_holds_every_set(sets: Sets) -> None:
    answer = json.loads(report(*sets, "--json").stdout)
    assert answer["failed"] == []
    assert answer["sets"]["refined"]["mean"]["ap"] == pytest.approx(1)
    assert answer["sets"]["PREDS"]["class"]["person"]["ap"] == 0


def test_the_csv_has_a_line_per_set_class_and_score(sets: Sets) -> None:
    rows = list(csv.DictReader(io.StringIO(report(*sets, "--csv").stdout)))
    values = {(row["set"], row["class"], row["score"]): row["value"] for row in rows}
    assert len(values) == len(rows)
    assert float(values["PREDS", "", "ap"]) == pytest.approx(0.5)
    assert float(values["refined", "person", "ap50"]) == pytest.approx(1)
    assert values["PREDS", "", "ap_large"] == ""


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_notes_name_their_set_and_quiet_leaves_them_out(sets: Sets, form: list[str]) -> None:
    preds, labels, against = sets
    write_json(preds, [])
    done = report(preds, labels, against, *form)
    assert done.stderr == "PREDS: 1 of 1 image has no result: their objects are missed\n"
    quiet = report(preds, labels, against, *form, "-q")
    assert (quiet.stdout, quiet.stderr) == (done.stdout, "")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_set_that_fails_leaves_the_others(sets: Sets, options: list[str], tmp_path: Path) -> None:
    preds, labels, against = sets
    broken = tmp_path / "broken.json"
    broken.write_text("[")
    done = report(preds, labels, {"broken": broken, **against}, *options)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"failed: {broken}: ")
    assert "refined" in done.stdout
    if options:
        assert len(json.loads(done.stdout)["failed"]) == 1
    first = report(broken, labels, against, *options)
    assert first.exit_code == 1
    assert "refined" in first.stdout
    assert "+" not in first.stdout


def test_a_missing_file_is_a_usage_error(sets: Sets, tmp_path: Path) -> None:
    preds, labels, _ = sets
    missing = tmp_path / "missing.json"
    for arguments in ((missing, labels), (preds, missing)):
        done = report(*arguments, {})
        assert (done.exit_code, done.stdout) == (2, "")
        assert f"{missing}: no such file" in done.stderr


@pytest.mark.parametrize("option", ["--errors", "--void=0", "--suffix=_mine", "--absent=skip"])
def test_options_of_label_maps_are_refused(sets: Sets, option: str) -> None:
    done = report(*sets, option)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{option.partition('=')[0]} is for label maps" in " ".join(done.stderr.split())


def test_boundary_ap_is_measured_on_request_alone(sets: Sets) -> None:
    plain, done = report(*sets), report(*sets, "--boundary")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "Boundary" not in plain.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["Boundary", "AP", "50.00", "100.00", "+50.00"] in lines
    answer = json.loads(report(*sets, "--boundary", "--json").stdout)["sets"]["PREDS"]
    assert answer["mean"]["boundary_ap50"] == pytest.approx(0.5)
    assert answer["class"]["car"]["boundary_ap75"] == pytest.approx(1)


def test_faulty_ground_truth_is_told_once(sets: Sets) -> None:
    preds, labels, against = sets
    labels.write_text("{")
    done = report(preds, labels, against)
    assert (done.exit_code, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1


def test_without_the_extra_the_advice_names_it(sets: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'pycocotools'", name="pycocotools")

    monkeypatch.setattr("segfix.evaluation.evaluate_instances", absent)
    done = report(*sets)
    assert done.exit_code != 0
    assert "pip install 'segfix-refine[eval]'" in done.output
