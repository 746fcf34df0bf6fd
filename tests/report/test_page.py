from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segfix.errors import PairingError
from segfix.evaluation import evaluate_folders
from segfix.evaluation.harm import HARMED
from segfix.evaluation.statistics import SCORES
from segfix.files import Pair, list_entries, pair_entries
from segfix.formats import LABEL_SUFFIXES
from segfix.formats.class_names import read_class_names
from segfix.report.examples import ImageRow
from segfix.report.page import render, write_report
from segfix.report.tables import MAX_IMAGES, image_table
from segfix.report.wording import interval, percent

Scenes = Callable[[list[str]], Path]
NAMES = [f"scene{number}" for number in range(9)]


def entries(folder: Path) -> Any:
    return list_entries(folder, LABEL_SUFFIXES, what="files")


def pairs(folder: Path, *kinds: str) -> dict[str, list[Pair]]:
    truth = entries(folder / "labels")
    return {kind: pair_entries(truth, entries(folder / kind), itself=True) for kind in kinds}


def written(folder: Path, *kinds: str, **options: Any) -> tuple[str, dict[str, Any]]:
    out = folder / "report.html"
    if "class_names" not in options:
        options["class_names"] = read_class_names(folder / "classes.txt")
    options.setdefault("photographs", entries(folder / "images"))
    summary = write_report(out, pairs(folder, *kinds), **options)
    return out.read_text(encoding="utf-8"), summary


def table(page: str, label: str) -> list[list[str]]:
    """Texts of the cells of the table in the region of that name."""
    match = re.search(rf'aria-label="{label}">\s*<table.*?</table>', page, re.DOTALL)
    assert match, label
    rows = re.findall(r"<tr>(.*?)</tr>", match[0], re.DOTALL)
    return [
        [
            unescape(re.sub("<[^>]*>", "", cell)).replace("−", "-")
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        ]
        for row in rows
    ]


def test_the_tables_hold_the_numbers_of_the_comparison(scenes: Scenes) -> None:
    folder = scenes(NAMES)
    page, summary = written(folder, "preds", "refined", "labels")
    assert summary == {"images": 9, "shown": 9, "failed": []}
    result = evaluate_folders(
        pairs(folder, "preds", "refined", "labels"),
        class_names=read_class_names(folder / "classes.txt"),
    ).result()
    scores = {row[0]: row[1:] for row in table(page, "Scores")[1:]}
    for key, title in SCORES.items():
        if key.startswith("f_0"):
            # A pixel on images as small as these.
            assert title not in scores
            continue
        expected = [percent(result["sets"]["preds"]["mean"][key])]
        for name in ("refined", "labels"):
            expected.append(percent(result["sets"][name]["mean"][key]))
            expected.append(interval(result["changes"][name]["mean"][key]))
        assert scores[title] == expected
    for key in HARMED:
        harm = [result["changes"][name]["harm"][key] for name in ("refined", "labels")]
        expected = [percent(told[kind]) for told in harm for kind in ("rate", "worst")]
        assert scores[f"images worse in {SCORES[key]}, at worst"] == ["–", *expected]
    for i, row in enumerate(table(page, "Classes")[1:]):
        entry, change = result["classes"][i], result["changes"]["refined"]["class"]
        assert row[0] == entry["name"]
        assert row[1] == percent(entry["pixels"] / result["pixels"])
        assert row[3] == percent(result["sets"]["preds"]["class"]["iou"][i])
        assert row[4] == interval(change["iou"][i])
        assert row[6] == percent(result["sets"]["preds"]["class"]["f_1px"][i])
        assert row[7] == interval(change["f_1px"][i])
    assert "On images of this size, F@0.0003, F@0.0006, F@0.0009 equal F@1px." in page
    near = table(page, "Errors by distance to the boundaries")
    wrong = sum(result["sets"]["preds"]["errors"][:1])
    assert near[1][2] == percent(wrong / sum(entry["within"][0] for entry in result["classes"]))


def test_names_come_out_as_text(scenes: Scenes) -> None:
    name = "<script>alert(1)<|script>"
    page, _ = written(scenes([name]), "preds", "refined", sources={"PREDS": "<b>"})
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert(1)&lt;|script&gt;" in page
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "<b></dd>" not in page
    assert 'href="labels/%3Cscript%3Ealert%281%29%3C%7Cscript%3E.png"' in page


def test_the_page_needs_no_network_and_is_small(scenes: Scenes) -> None:
    page, _ = written(scenes(NAMES), "preds", "refined")
    assert not re.search(r"https?:|url\(|@import|<link|<iframe", page)
    sources = re.findall(r'\bsrc="([^"]*)"', page)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    links = set(re.findall(r'\bhref="([^"]*)"', page))
    assert links == {
        f"{k}/{n}.png" for k in ("images", "labels", "preds", "refined") for n in NAMES
    }
    assert "default-src 'none'" in page
    assert len(page) < 170_000


def test_the_same_input_gives_the_same_page(scenes: Scenes) -> None:
    folder = scenes(NAMES)
    first, _ = written(folder, "preds", "refined", examples=2, workers=3)
    again, _ = written(folder, "preds", "refined", examples=2)
    assert first == again
    assert written(folder, "preds", "refined", examples=2, seed=1)[0] != first


def test_a_single_set_has_errors_and_no_slider(scenes: Scenes) -> None:
    page, summary = written(scenes(NAMES), "preds", examples=2)
    assert summary["shown"] == 4
    assert '<div class="handle">' not in page
    assert "Lowest mIoU" in page
    assert "Changes" not in page
    assert 'value="errors" checked' in page
    assert [row[0] for row in table(page, "Images")[:1]] == ["image"]


def test_failures_stand_on_the_page_and_the_rest_is_done(scenes: Scenes) -> None:
    folder = scenes(NAMES)
    (folder / "preds" / "scene0.png").unlink()
    (folder / "refined" / "scene1.png").write_bytes(b"none")
    (folder / "images" / "scene2.png").unlink()
    Image.new("RGB", (10, 12)).save(folder / "images" / "scene3.png")
    page, summary = written(folder, "preds", "refined")
    assert summary["images"] == 7
    texts = [
        "scene0.png: no prediction of that name",
        "scene1.png: not a readable label map",
        "scene2.png: no photograph of that name",
        "scene3.png: 10×12, but its label map",
    ]
    assert len(summary["failed"]) == len(texts)
    for failure, text in zip(summary["failed"], texts, strict=True):
        assert text in failure
        assert text in page
    assert str(folder) not in page
    assert "4 failures" in page
    assert "7 images scored, 2 left out" in page
    # Drawn on grey: only these two have no photograph.
    assert page.count('class="photograph"') == summary["shown"] - 2


def test_without_photographs_label_maps_are_drawn_on_grey(scenes: Scenes) -> None:
    page, summary = written(scenes(NAMES), "preds", "refined", photographs=None)
    assert summary["failed"] == []
    assert 'class="photograph"' not in page
    assert page.count('<div class="handle">') == 9


def test_photographs_of_other_names_are_refused(scenes: Scenes) -> None:
    folder = scenes(["one", "two"])
    for path in list((folder / "images").iterdir()):
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(PairingError, match="no file has a partner"):
        written(folder, "preds")


def test_void_alone_and_no_image_at_all_still_give_a_page(scenes: Scenes) -> None:
    folder = scenes(["one"])
    Image.new("L", (64, 48), 255).save(folder / "labels" / "one.png")
    page, summary = written(folder, "preds", "refined")
    assert summary == {"images": 1, "shown": 0, "failed": []}
    assert "void (255) alone" in page
    (folder / "preds" / "one.png").write_bytes(b"none")
    page, summary = written(folder, "preds", "refined")
    assert summary["images"] == 0
    assert "1 failure" in page


def test_a_failing_page_leaves_the_old_one(scenes: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = scenes(["one"])
    old, _ = written(folder, "preds")

    def broken(*_: Any, **__: Any) -> str:
        raise RuntimeError

    monkeypatch.setattr("segfix.report.page.render", broken)
    with pytest.raises(RuntimeError):
        written(folder, "preds", "refined")
    assert (folder / "report.html").read_text(encoding="utf-8") == old
    assert render is not broken


def test_the_table_of_images_is_cut_where_a_browser_would_choke() -> None:
    paths = (Path("a"), Path("b"))
    rows = [
        ImageRow(f"{n:05}", Path("t"), paths, None, (0.5, 0.5 + n / 1e5), (n,), (0,), 100)
        for n in range(MAX_IMAGES + 5)
    ]
    cut = image_table(rows, ["a", "b"])
    assert len(cut.rows) == MAX_IMAGES
    assert cut.rows[0][0].text == f"{MAX_IMAGES + 4:05}"
    assert cut.rows[-1][0].text == "00005"


def test_sums_of_the_confusion_matrix_are_whole_and_its_diagonal_is_recall(scenes: Scenes) -> None:
    folder = scenes(NAMES)
    page, _ = written(folder, "preds", "labels")
    for name in ("preds", "labels"):
        head, *rows = table(page, f"Confusion of {name}")
        assert head[1:] == [row[0] for row in rows] + ["others"]
        for place, row in enumerate(rows, start=1):
            shares = [float(cell or 0) for cell in row[1:]]
            assert sum(shares) == pytest.approx(100, abs=0.3)
            if name == "labels":
                assert shares[place - 1] == 100
    hits = np.zeros(2, int)
    for scene in NAMES:
        truth, found = (
            np.asarray(Image.open(folder / kind / f"{scene}.png")) for kind in ("labels", "preds")
        )
        hits += [((truth == 1) & (found == 1)).sum(), (truth == 1).sum()]
    row = next(row for row in table(page, "Confusion of preds") if row[0] == "road & kerb")
    assert float(row[2]) == pytest.approx(100 * hits[0] / hits[1], abs=0.06)


@pytest.mark.parametrize(("number", "warned"), [(29, True), (30, False)])
def test_few_images_are_warned_of(scenes: Scenes, number: int, warned: bool) -> None:
    names = [f"s{k}" for k in range(number)]
    page, _ = written(scenes(names), "preds", "refined", examples=0)
    assert ("with fewer than 30, intervals are rough" in page) == warned


def test_class_names_of_the_data_set_are_shown_and_change_no_score(scenes: Scenes) -> None:
    folder = scenes(NAMES)
    sources = {"PREDS": str(folder / "preds"), "LABELS": str(folder / "labels")}
    page, _ = written(folder, "preds", class_names=None, sources=sources)
    names = {row[0]: row[1:] for row in table(page, "Classes")[1:]}
    assert list(names) == ["<img src=x onerror=alert(1)>", "road & kerb", "car", "tree"]
    listed = folder / "classes.txt"
    listed.unlink()
    plain, _ = written(folder, "preds", class_names=None, sources=sources)
    assert [row[1:] for row in table(plain, "Classes")[1:]] == list(names.values())
    assert [row[0] for row in table(plain, "Classes")[1:]] == ["0", "1", "3", "4"]
    listed.write_text("0 a\n0 b\n")
    faulty, _ = written(folder, "preds", class_names=None, sources=sources)
    assert "classes.txt: id 0 is there twice" in faulty
    assert str(folder) not in faulty
