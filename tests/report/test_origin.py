"""What a page says of where its numbers are from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segfix.report.origin import (
    describe_record,
    find_class_names,
    link_file,
    shorten,
    shorten_command,
    without_folders,
)


def test_absolute_paths_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shorten(tmp_path / "preds") == "preds"
    assert shorten("../preds") == "../preds"
    assert shorten("/data/city/val") == "…/city/val"
    assert shorten("/data") == "…/data"
    typed = ["report", str(tmp_path / "a b"), "--against", "x=/data/city/val", "--images=/p/q/r"]
    assert shorten_command(typed) == (
        "segfix report 'a b' --against 'x=…/city/val' '--images=…/q/r'"
    )
    text = f"{tmp_path / 'preds' / 'a.png'}: broken, but /data/city/val/a.png is not."
    assert without_folders(text, [Path("/data/city/val"), tmp_path / "preds"]) == (
        "preds/a.png: broken, but …/city/val/a.png is not."
    )


def test_links_stay_within_the_folders_of_the_page_and_of_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    assert link_file(Path("preds/a b.png"), Path("pages/x.html")) == "../preds/a%20b.png"
    assert link_file(Path("javascript:alert(1).png"), Path("x.html")) == (
        "javascript%3Aalert%281%29.png"
    )
    assert link_file(Path("../preds/a.png"), Path("x.html")) is None
    assert link_file(tmp_path / "o/preds/a.png", tmp_path / "o/x.html") == "preds/a.png"
    assert link_file(Path("preds/a.png"), tmp_path / "o/x.html") is None


def test_records_tell_weights_and_settings() -> None:
    record = {
        "source": {"weights": "net", "weights_sha256": "0123456789"},
        "settings": {"scale": 4.0, "argmax": False, "keep": None, "iterate": 0},
    }
    assert describe_record(json.dumps(record)) == "net 01234567, scale 4.0"
    record["settings"] = {"scale": None}
    assert describe_record(json.dumps(record)) == "net 01234567, default settings"
    masks = {"settings": {"masks": {"scale": 2, "keep": None}, "form": None}}
    assert describe_record(json.dumps(masks)) == "scale 2"
    for other in (None, "", "no JSON", "[1]", '{"source": 3}', "{}"):
        assert describe_record(other) == ""


def test_class_names_are_found_beside_the_labels_or_by_their_endings(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    assert find_class_names(labels, ["a"]) == ({}, "")
    names, source = find_class_names(labels, ["a_gtFine_labelTrainIds", "b_gtFine_labelTrainIds"])
    assert (len(names), names[0], names[18], source) == (19, "road", "bicycle", "Cityscapes")
    names, _ = find_class_names(labels, ["a_gtFine_labelIds"])
    assert (len(names), names[7], names[33]) == (34, "road", "bicycle")
    (tmp_path / "classes.txt").write_text("sky\ntree\n")
    assert find_class_names(labels, ["a_gtFine_labelIds"]) == ({0: "sky", 1: "tree"}, "classes.txt")
