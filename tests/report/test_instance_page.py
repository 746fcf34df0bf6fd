"""The report on instances and panoptic segments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segfix.report.instance_page import match_instances
from tests.cli.commands import run
from tests.instances.scenes import CAR, FORMATS, LEFT, PERSON, RIGHT, SIZE, every_format, stem

pytest.importorskip("pycocotools", reason="needs the extra: pip install 'segfix-refine[eval]'")
pytest.importorskip(
    "cityscapesscripts", reason="needs the extra: pip install 'segfix-refine[eval]'"
)
pytest.importorskip("jinja2", reason="needs the extra: pip install 'segfix-refine[report]'")

TRUTH = [(0, CAR, LEFT), (0, PERSON, RIGHT), (1, CAR, LEFT)]
SHIFTED = (5, 9, 20, 20)


def make_sets(kind: str, folder: Path) -> tuple[Path, Path, Path]:
    """Predictions of which one lies 4 px beside, better ones, and the ground truth."""
    coarse = [(0, CAR, SHIFTED, 0.9), (0, PERSON, RIGHT, 0.9), (1, CAR, LEFT, 0.9)]
    fine = [(*item, 0.9) for item in TRUTH]
    (folder / "images").mkdir()
    for image in (0, 1):
        name = f"{stem(image)}_leftImg8bit" if kind == "cityscapes" else str(image)
        Image.new("RGB", SIZE[::-1], (90, 120, 60)).save(folder / f"images/{name}.png")
    preds, labels = FORMATS[kind](folder / "first", TRUTH, coarse)
    better, _ = FORMATS[kind](folder / "second", TRUTH, fine)
    return preds, better, labels


@every_format
def test_instances_of_every_kind_are_scored_and_drawn(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    preds, better, labels = make_sets(kind, tmp_path)
    monkeypatch.chdir(tmp_path)
    sets = (str(preds), str(labels), "--against", f"better={better}", "--images", "images")
    result = run("report", *sets)
    assert result.exit_code == 0, result.output
    assert "report.html: 2 images scored, 2 shown" in result.stdout
    page = Path("report.html").read_text(encoding="utf-8")
    assert "better against PREDS" in page
    assert "Gained most" in page
    # 16 of 20 columns are covered: an IoU of 2/3 and one of 1.
    assert "mean IoU 83.33 → 100.00" in page
    assert "80 px fixed, 0 broken" in page if kind == "panoptic" else "160 px fixed" in page
    assert ">PQ<" in page if kind == "panoptic" else ">AP50<" in page
    assert ">Boundary PQ<" in page if kind == "panoptic" else ">Boundary AP<" in page
    assert str(tmp_path) not in page
    # Cars are in both images, and persons in the first: classes stand in the truth's order.
    order = ["person", "car"] if kind == "cityscapes" else ["car", "person"]
    choices = [f'<option value="{place}">{name}</option>' for place, name in enumerate(order)]
    assert "".join(choices) in page
    held = {'data-classes="0 1"', f'data-classes="{order.index("car")}"'}
    assert all(f'class="example" {one}' in page for one in held)
    assert "Δ better [95 %]" in page
    assert "Only 2 images" in page


def test_without_photographs_there_are_scores_alone(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    preds, _, labels = make_sets("coco", tmp_path)
    out = tmp_path / "page.html"
    assert run("report", str(preds), str(labels), "-o", str(out)).exit_code == 0
    page = out.read_text(encoding="utf-8")
    assert '<article class="example"' not in page
    assert ">AP75<" in page
    refused = run("report", str(preds), str(labels), "--void", "0", "-o", str(tmp_path / "o.html"))
    assert refused.exit_code == 2
    assert "--void is for label maps" in refused.stderr


def test_a_mask_of_another_size_is_a_failure_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    preds, _, labels = make_sets("coco", tmp_path)
    Image.new("RGB", (10, 12)).save(tmp_path / "images/1.png")
    monkeypatch.chdir(tmp_path)
    result = run("report", str(preds), str(labels), "--images", "images")
    assert result.exit_code == 1
    assert "80×60 pixels, not 10×12" in result.stderr
    assert "1 failure" in Path("report.html").read_text(encoding="utf-8")


def test_instances_are_matched_by_their_iou() -> None:
    truth = np.array([[1, 1, 1, 2, 2, 0, 0]])
    found = np.array([[9, 9, 9, 9, 5, 0, 4]])
    matched, iou = match_instances(found, truth)
    # Of 9, 3 of 4 pixels are of 1; of 5, the only one is of 2; 4 touches none.
    assert matched[0, :6].tolist() == [1, 1, 1, 1, 2, 0]
    assert matched[0, 6] > 2
    assert iou == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert match_instances(found, np.zeros_like(truth))[1] is None
    assert match_instances(np.zeros_like(truth), truth)[1] == 0
