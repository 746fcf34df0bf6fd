"""Files that a command doesn't work on: counted, never passed over in silence."""

from __future__ import annotations

import builtins
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segfix.files.provenance import NOT_TAKEN, own_kind
from tests.cli.commands import pixels, run, run_json

HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(64)


def test_photographs_of_every_ending_are_read(work: Path, tiny_onnx: Path) -> None:
    picture = Image.open("images/a.png").convert("RGB")
    shutil.rmtree("images")
    Path("images").mkdir()
    endings = ("jfif", "jpe", "avif", "jp2", "gif", "ppm", "pgm", "WEBP", "bmp")
    for place, ending in enumerate(endings):
        picture.save(f"images/{place}.{ending}")
    report = run_json("predict-offsets", "images", "--weights", tiny_onnx)
    assert len(report["done"]) == len(endings)
    assert report["passed_over"] == {}


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_what_is_passed_over_is_counted_by_ending(work: Path, tiny_onnx: Path) -> None:
    for name in ("n.txt", "m.txt", "clip.MP4", "README", ".hidden"):
        Path("images", name).touch()
    Path("images/link.png").symlink_to("nowhere.png")
    Path("images/round.png").symlink_to("round.png")
    done = run("predict-offsets", "images", "--weights", tiny_onnx)
    assert done.exit_code == 0
    assert (
        "offsets: 3 written, 6 passed over: 2 .txt, 2 dangling links, 1 .mp4 (videos go to "
        "predict-offsets), 1 without ending\n" in done.stdout
    )
    again = run_json("predict-offsets", "images", "--weights", tiny_onnx)
    assert again["passed_over"] == {".txt": 2, "dangling link": 2, ".mp4": 1, "without ending": 1}


def test_masks_of_every_lossless_ending_are_refined(offsets: Path) -> None:
    prediction = Image.open("preds/a.png")
    ids = Image.fromarray(np.asarray(prediction))
    shutil.rmtree("preds")
    Path("preds").mkdir()
    for ending in ("bmp", "gif", "pgm", "png"):
        ids.save(f"preds/a.{ending}")
    ids.convert("L").save("preds/b.jpg")
    done = run("refine", "preds")
    assert done.exit_code == 0, done.stderr
    assert "4 written, 1 passed over: 1 .jpg (lossy: export label maps as PNG)" in done.stdout
    results = [pixels(Path(f"refined/a.{ending}")) for ending in ("bmp", "gif", "pgm", "png")]
    assert all(np.array_equal(result, results[-1]) for result in results)
    # And again: what isn't PNG has its record beside it.
    assert len(run_json("refine", "preds")["skipped"]) == 4


def test_evaluate_says_what_it_passes_over(work: Path) -> None:
    Image.open("labels/a.png").convert("L").save("labels/z.jpg")
    done = run("evaluate", "preds", "labels")
    assert "note: labels: 1 passed over: 1 .jpg (lossy" in done.stderr


# Our own files


@pytest.fixture
def everything(offsets: Path) -> Path:
    """Photographs, predictions, and one result of every command, in one folder."""
    assert run("refine", "preds").exit_code == 0
    shown = run("show", "images", "--preds", "preds", "--refined", "refined")
    assert shown.exit_code == 0
    assert run("targets", "labels").exit_code == 0
    Image.open("preds/a.png").convert("RGB").save("preds/a.webp", lossless=True)
    assert run("refine", "preds/a.webp", "--offsets", "offsets/a.png", "-o", "webp").exit_code == 0
    return offsets.parent


def test_own_results_are_no_photographs(everything: Path, tiny_onnx: Path) -> None:
    for folder in ("preds", "labels"):
        shutil.rmtree(folder)
    done = run("predict-offsets", ".", "-r", "--weights", tiny_onnx, "-o", "again")
    assert done.exit_code == 0, done.stderr
    assert "again: 3 written" in done.stdout
    for text in ("6 offset maps", "4 refined label maps", "3 shown pictures"):
        assert text in done.stdout
    assert sorted(path.name for path in Path("again").rglob("*.png")) == ["a.png", "b.png", "c.png"]


def test_own_results_but_refined_label_maps_are_no_label_maps(everything: Path) -> None:
    for folder in ("offsets", "shown"):
        for path in Path(folder).glob("*.png"):
            shutil.copy(path, Path("refined", f"{path.stem}_{folder}.png"))
    done = run("refine", "refined", "-o", "twice")
    assert done.exit_code == 0, done.stderr
    assert "twice: 3 written, 6 passed over: 3 offset maps, 3 shown pictures" in done.stdout
    assert "3 had been refined before" in done.stdout


def test_convert_takes_offset_maps_alone(everything: Path) -> None:
    for folder in ("images", "preds", "labels", "webp"):
        shutil.rmtree(folder)
    done = run("convert", ".", "-r", "--format", "flo")
    assert done.exit_code == 0, done.stderr
    assert "6 written, 6 passed over: 3 refined label maps, 3 shown pictures" in done.stdout


def test_nothing_but_own_results_is_a_failure(offsets: Path, tiny_onnx: Path) -> None:
    for given in ("offsets", "offsets/a.png"):
        done = run("predict-offsets", given, "--weights", tiny_onnx, "-o", "more")
        assert done.exit_code == 1
        assert "offsets/a.png: an offset map, not a photograph; give another folder." in done.stderr
        assert "passed over" not in done.stdout
        assert not list(Path().glob("more/*.png"))


def test_offset_maps_beside_predictions_leave_one_partner(everything: Path) -> None:
    shutil.rmtree("labels/targets", ignore_errors=True)
    Path("all").mkdir()
    for folder in ("offsets", "preds", "shown"):
        shutil.copytree(folder, Path("all", folder))
    done = run("evaluate", "all", "labels", "-r")
    assert done.exit_code == 0, done.stderr
    assert "3 images" in done.stdout


def test_every_kind_of_result_is_known(everything: Path) -> None:
    kinds = {own_kind(path) for path in everything.rglob("*.*") if path.is_file()}
    assert kinds == {None, "offset map", "refined label map", "shown picture"}
    assert kinds - {None} <= set(NOT_TAKEN["photograph"])


def test_a_record_is_found_without_the_pixels(offsets: Path, tmp_path: Path) -> None:
    whole = (offsets / "a.png").read_bytes()
    for length, kind in ((len(whole) - 30, "offset map"), (20, None), (0, None)):
        (tmp_path / "cut.png").write_bytes(whole[:length])
        assert own_kind(tmp_path / "cut.png") == kind
    (tmp_path / "text.png").write_bytes(whole.replace(b'"offset map"', b'["offset map'))
    assert own_kind(tmp_path / "text.png") is None
    assert own_kind(tmp_path) is None
    assert own_kind(tmp_path / "none.png") is None


# HEIF


def test_heif_without_the_extra_is_counted_with_the_remedy(
    work: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name in ("x.heic", "y.HEIC", "z.heif"):
        Path("images", name).write_bytes(HEIC)
    done = run("predict-offsets", "images", "--weights", tiny_onnx)
    assert done.exit_code == 0
    advice = "(pip install 'segfix-refine[heif]' reads them)"
    assert f"3 passed over: 2 .heic {advice}, 1 .heif {advice}" in done.stdout
    # Telephones' photographs, called something else.
    Path("b.jpg").write_bytes(HEIC)
    done = run("predict-offsets", "b.jpg", "--weights", tiny_onnx)
    assert done.exit_code == 1
    assert "b.jpg: HEIF, which needs the extra 'heif'; pip install" in done.stderr


def test_the_heif_package_is_imported_only_for_such_a_file(
    work: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = builtins.__import__

    def watch(name: str, *arguments: Any, **options: Any) -> Any:
        assert name != "pillow_heif"
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", watch)
    assert run("predict-offsets", "images", "--weights", tiny_onnx).exit_code == 0


def test_heif_is_read_with_the_extra(
    work: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    Image.open("images/a.png").convert("RGB").save("images/h.heic")
    monkeypatch.delitem(Image.OPEN, "HEIF")
    assert len(run_json("predict-offsets", "images", "--weights", tiny_onnx)["done"]) == 4


# Names


def test_pairs_by_link_are_told(offsets: Path) -> None:
    for stem in "abc":
        Path(f"preds/{stem}.png").rename(f"preds/GT_{stem}.png")
    done = run("refine", "preds")
    assert done.exit_code == 0
    assert (
        "segfix: names differ; 3 files are paired like preds/GT_a.png with offsets/a.png (--map "
        "pairs them otherwise).\n" in done.stderr
    )
    assert "names differ" not in run("refine", "preds", "-q").stderr
    assert "names differ" in run("evaluate", "preds", "labels").stderr


def test_folders_of_objects_are_refined(offsets: Path) -> None:
    for stem in "ab":
        Path("sam", stem).mkdir(parents=True)
        for number in range(2):
            shutil.copy(f"preds/{stem}.png", f"sam/{stem}/{number}.png")
        Path("sam", stem, "metadata.csv").touch()
    done = run("refine", "sam", "-r")
    assert done.exit_code == 0, done.stderr
    assert "4 written, 2 passed over: 2 .csv" in done.stdout
    assert Path("refined/a/1.png").is_file()
