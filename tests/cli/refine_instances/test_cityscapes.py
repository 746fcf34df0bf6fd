"""`segfix refine` on the lists and masks of Cityscapes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segfix.formats import read_label_map
from tests.cli.refine_instances.instance_files import FOUND, IMAGES, box, refined, run


def write_cityscapes(folder: Path) -> Path:
    """Masks of several kinds of PNG, in a folder below."""
    (folder / "town" / "masks").mkdir(parents=True)
    for image, stem in IMAGES.items():
        lines = []
        for place, mask in enumerate(FOUND[image]):
            name = f"masks/{stem}_{place}.png"
            picture = Image.fromarray(mask.astype(np.uint8) * (255, 1, 255)[place])
            if place == 1:
                picture.putpalette([0, 0, 0, 9, 99, 199])
            if place == 2:
                picture = picture.convert("1")
            picture.save(folder / "town" / name)
            lines.append(f"{name}  26 0.{place}50\r\n")
        path = folder / "town" / f"{stem}_leftImg8bit_pred.txt"
        path.write_bytes("".join([*lines, "\r\n"]).encode())
    return folder


def test_cityscapes_offsets_that_lead_nowhere_give_the_same_files() -> None:
    write_cityscapes(Path("preds"))
    done = run("preds", "--offsets", "zeros")
    assert done.exit_code == 0
    assert "zeros" not in done.stdout
    assert "refined: 2 written; 0 of 5 instances changed" in done.stdout
    for path in (path for path in Path("preds").rglob("*") if path.is_file()):
        result = Path("refined", path.relative_to("preds"))
        if path.suffix == ".txt":
            assert result.read_bytes() == path.read_bytes()
        else:
            before, after = Image.open(path), Image.open(result)
            assert (before.mode, before.getpalette()) == (after.mode, after.getpalette())
            assert np.array_equal(np.asarray(before), np.asarray(after))


def test_cityscapes_masks_are_those_of_the_plain_path() -> None:
    write_cityscapes(Path("preds"))
    assert run("preds", "--scale", "2").exit_code == 0
    for path in Path("preds/town/masks").iterdir():
        before, after = (
            read_label_map(file).array for file in (path, Path("refined/town/masks", path.name))
        )
        assert np.array_equal(after, refined(before, scale=2))
        assert not np.array_equal(after, before)
    assert "2 already there" in run("preds", "--scale", "2").stdout
    Path("refined/town/masks/a_1.png").unlink()
    assert "1 written, 1 already there" in run("preds", "--scale", "2").stdout
    assert Path("refined/town/masks/a_1.png").exists()


def test_cityscapes_offsets_may_lie_in_folders_and_one_list_may_be_given() -> None:
    write_cityscapes(Path("preds"))
    Path("deep/city").mkdir(parents=True)
    for stem in "ab":
        shutil.copy(f"offsets/{stem}.png", f"deep/city/{stem}_leftImg8bit.png")
    assert run("preds", "--offsets", "deep").exit_code == 0
    one = Path("preds/town/a_leftImg8bit_pred.txt")
    for offsets in ("deep", "deep/city/b_leftImg8bit.png"):
        done = run(one, "--offsets", offsets, "-o", "one", "--overwrite")
        assert "one: 1 written; 3 of 3 instances changed" in done.stdout
    files = {path.relative_to("one").as_posix() for path in Path("one").rglob("[!.]*.*")}
    assert files == {f"masks/a_{place}.png" for place in range(3)} | {one.name}
    for place in range(3):
        before, after = (
            read_label_map(Path(folder, f"masks/a_{place}.png")).array
            for folder in ("refined/town", "one")
        )
        assert np.array_equal(before, after)


def test_an_interrupted_run_over_cityscapes_is_completed() -> None:
    write_cityscapes(Path("preds"))
    run("preds")
    kept = Path("refined/town/masks/a_1.png").stat().st_mtime_ns
    Path("refined/town/masks/a_0.png").unlink()
    Path("refined/town/a_leftImg8bit_pred.txt").unlink()
    assert "1 written, 1 already there" in run("preds").stdout
    assert Path("refined/town/masks/a_0.png").exists()
    assert Path("refined/town/masks/a_1.png").stat().st_mtime_ns == kept


@pytest.mark.parametrize("empty", ["keep", "drop"])
def test_a_cityscapes_mask_that_would_vanish_stays_or_is_left_out(empty: str) -> None:
    write_cityscapes(Path("preds"))
    thin = box(8, 9, 16, 1)
    Image.fromarray(thin.astype(np.uint8)).save("preds/town/masks/a_1.png")
    report = json.loads(run("preds", "--empty", empty, "--json", "-q").stdout)
    (emptied,) = report["emptied"]
    assert emptied == {
        "file": "preds/town/a_leftImg8bit_pred.txt",
        "image": "town/a_leftImg8bit",
        "mask": "town/masks/a_1.png",
    }
    text, before = (
        Path(folder, "town/a_leftImg8bit_pred.txt").read_bytes() for folder in ("refined", "preds")
    )
    lines = before.splitlines(keepends=True)
    assert text == (before if empty == "keep" else b"".join([lines[0], *lines[2:]]))
    assert Path("refined/town/masks/a_1.png").exists() == (empty == "keep")
    assert "2 already there" in run("preds", "--empty", empty).stdout
    Path("refined/town/masks/a_0.png").unlink()
    assert "1 written, 1 already there" in run("preds", "--empty", empty).stdout
    assert Path("refined/town/masks/a_0.png").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.parametrize("place", ["masks/a_0.png", "masks"])
def test_masks_may_not_be_links_that_lead_outside(place: str) -> None:
    write_cityscapes(Path("preds"))
    shutil.move(Path("preds/town", place), "secret.png")
    Path("preds/town", place).symlink_to(Path("secret.png").absolute())
    done = run("preds")
    assert done.exit_code == 1
    assert "a_leftImg8bit_pred.txt: line 1: masks/a_0.png is a link to " in done.stderr
    assert "outside of preds; copy that file there." in done.stderr
    assert not Path("refined/town/masks/a_0.png").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_towns_may_be_links() -> None:
    write_cityscapes(Path("elsewhere"))
    Path("preds").mkdir()
    Path("preds/town").symlink_to(Path("elsewhere/town").absolute())
    assert run("preds").exit_code == 0
    assert Path("refined/town/masks/a_0.png").is_file()


def test_faulty_cityscapes_lists_and_masks_fail_alone() -> None:
    write_cityscapes(Path("preds"))
    for stem in "cdef":
        shutil.copy("offsets/a.png", f"offsets/{stem}.png")
    town = Path("preds/town")
    (town / "c_pred.txt").write_text("masks/a_0.png cat 1\n")
    (town / "d_pred.txt").write_text("masks/none.png 26 1\n")
    (town / "e_pred.txt").write_text("../../offsets/a.png 26 1\n")
    (town / "f_pred.txt").write_text("masks/small.png 26 1\n")
    (town / "g_pred.txt").write_text("masks/a_0.png 26 1\n")
    shutil.copy("offsets/a.png", "offsets/h.png")
    (town / "h_pred.txt").write_text("masks/a\0.png 26 1\n")
    Image.new("L", (20, 30), 1).save(town / "masks" / "small.png")
    done = run("preds")
    assert done.exit_code == 1
    told = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert len(told) == 6
    for text in (
        r"h_pred.txt: line 1: 'masks/a\x00.png' is no file name",
        "c_pred.txt: line 1 is 'masks/a_0.png cat 1'",
        "none.png: can't be read",
        "e_pred.txt: line 1: ../../offsets/a.png lies outside of preds",
        "small.png: 20×30, but its offset map offsets/f.png is 60×40",
        "g_pred.txt: no offset map of that name",
    ):
        assert any(text in line for line in told), (text, told)
    assert "2 written, 6 failed" in done.stdout
