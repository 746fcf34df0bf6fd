"""`segfix refine` on label maps and the offset maps of networks and ground truths."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segfix.formats import OffsetMap, write_offset_map
from tests.cli.commands import flat, pixels, run


def test_offsets_may_be_left_out_or_given_before_preds(offsets: Path) -> None:
    assert run("refine", "preds").exit_code == 0
    assert run("refine", "--offsets", offsets, "preds", "-o", "other").exit_code == 0


def test_a_bare_offsets_option_that_swallows_preds_is_explained(offsets: Path) -> None:
    result = run("refine", "--offsets", "preds")
    assert result.exit_code == 2
    assert "--offsets took 'preds' as its folder; write PREDS first" in " ".join(
        result.stderr.split()
    )
    assert run("refine").exit_code == 2


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("labels of another size", (10, 12), "sizes"),
        ("no label map", b"text", "not a readable label map"),
        ("truncated", None, "broken or truncated"),
    ],
)
def test_one_bad_label_map_fails_alone(
    offsets: Path, name: str, content: tuple[int, int] | bytes | None, reason: str
) -> None:
    path = Path("preds/b.png")
    if content is None:
        path.write_bytes(path.read_bytes()[:55])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(np.zeros(content, np.uint8)).save(path)
    result = run("refine", "preds")
    assert result.exit_code == 1
    assert "2 written, 1 failed" in result.stdout
    assert "failed: preds/b.png: " in result.stderr
    if reason != "sizes":
        assert reason in result.stderr
    else:
        assert "12×10" in result.stderr
        assert "40×24" in result.stderr
    assert sorted(path.name for path in Path("refined").iterdir()) == ["a.png", "c.png"]


def test_an_offset_file_that_is_none_is_named(offsets: Path) -> None:
    shutil.copy("labels/a.png", offsets / "a.png")
    result = run("refine", "preds")
    assert result.exit_code == 1
    assert "offsets/a.png: a picture, but not an offset map" in result.stderr
    assert "2 written, 1 failed" in result.stdout


def test_a_label_map_without_partner_is_a_failure(offsets: Path) -> None:
    (offsets / "b.png").unlink()
    result = run("refine", "preds")
    assert result.exit_code == 1
    assert "preds/b.png: no offset map of that name" in result.stderr


def test_nothing_paired_shows_two_names_of_each_side(offsets: Path) -> None:
    for stem in "abc":
        Path(f"preds/{stem}.png").rename(f"preds/{stem}_mine.png")
    result = run("refine", "preds")
    assert result.exit_code == 2
    for name in ("preds/a_mine.png", "preds/b_mine.png", "offsets/a.png", "offsets/b.png"):
        assert name in result.stderr
    assert run("refine", "preds", "--suffix", "_mine").exit_code == 0


def test_label_maps_come_back_in_their_kind(offsets: Path) -> None:
    ids = pixels(Path("preds/a.png"))
    palette = Image.fromarray(ids)
    palette.putpalette([0, 0, 0, 200, 10, 10, 10, 200, 10])
    palette.save("preds/a.png")
    Image.fromarray(ids.astype(np.uint16) * 1000).save("preds/b.png")
    colours = np.stack([ids * 100, ids * 50, 255 - ids], axis=-1)
    Image.fromarray(colours).save("preds/c.png")
    assert run("refine", "preds").exit_code == 0
    truth = pixels(Path("labels/a.png"))
    with Image.open("refined/a.png") as picture:
        assert picture.mode == "P"
        assert (picture.getpalette() or [])[3:9] == [200, 10, 10, 10, 200, 10]
    assert np.array_equal(pixels(Path("refined/a.png")), truth)
    assert np.array_equal(pixels(Path("refined/b.png")), truth.astype(np.uint16) * 1000)
    assert np.array_equal(pixels(Path("refined/c.png"))[..., 0], truth * 100)


def test_min_confidence_leaves_unsure_pixels_alone(work: Path) -> None:
    sectors = np.full((24, 40), 4, np.uint8)
    confidence = np.where(np.arange(24) < 12, 0.9, 0.3)[:, None] * np.ones((1, 40))
    moving = np.zeros((24, 40), bool)
    moving[:, 20:22] = True
    for stem in "abc":
        write_offset_map(Path(f"offsets/{stem}.png"), OffsetMap.encode(moving, sectors, confidence))
    assert run("refine", "preds", "--min-confidence", 0.5).exit_code == 0
    refined = pixels(Path("refined/a.png"))
    assert np.array_equal(refined[:12], pixels(Path("labels/a.png"))[:12])
    assert np.array_equal(refined[12:], pixels(Path("preds/a.png"))[12:])


def test_targets_mend_predictions_near_the_truth(work: Path) -> None:
    assert run("targets", "labels").exit_code == 0
    assert "already there" in run("targets", "labels").stdout
    result = run("refine", "preds", "--offsets", "targets", "--scale", 3)
    assert result.exit_code == 0
    assert np.array_equal(pixels(Path("refined/a.png")), pixels(Path("labels/a.png")))


def test_the_step_fits_the_label_map_unless_a_number_is_given(work: Path) -> None:
    run("targets", "labels")
    assert run("refine", "preds", "--offsets", "targets", "-o", "fitted").exit_code == 0
    assert run("refine", "preds", "--offsets", "targets", "--scale", "auto").exit_code == 0
    fitted, auto = Path("fitted/a.png"), Path("refined/a.png")
    assert fitted.read_bytes() == auto.read_bytes()
    # Two pixels off: one step is too short.
    assert np.array_equal(pixels(fitted), pixels(Path("labels/a.png")))
    for scale in (0.5, 1):
        out = f"by-{scale}"
        run("refine", "preds", "--offsets", "targets", "--scale", scale, "-o", out)
        assert not np.array_equal(pixels(Path(out) / "a.png"), pixels(Path("labels/a.png")))
    refused = run("refine", "preds", "--scale", "much", "-o", "never")
    assert refused.exit_code == 2
    assert "'much': expected auto or a number from 0 to 64" in refused.stderr


@pytest.mark.parametrize("option", ["--scale", "--min-confidence"])
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_numbers_that_are_none_are_refused(offsets: Path, option: str, number: str) -> None:
    assert run("refine", "preds", option, number).exit_code == 2
    assert not Path("refined").exists()


def test_offsets_from_ground_truth_are_fully_confident(work: Path) -> None:
    run("targets", "labels")
    assert run("refine", "preds", "--offsets", "targets", "--min-confidence", 1).exit_code == 0
    assert (pixels(Path("refined/a.png")) != pixels(Path("preds/a.png"))).any()


def test_a_scale_that_would_be_ignored_is_refused(offsets: Path) -> None:
    result = run("refine", "preds", "--iterate", "5", "--scale", "3")
    assert result.exit_code == 2
    assert "--scale has no effect with --iterate" in result.stderr


def test_an_offset_map_of_the_label_map_itself_is_refused(work: Path, tiny_onnx: Path) -> None:
    for stem in "abc":
        shutil.copy(f"preds/{stem}.png", f"images/{stem}_mask.png")
    run("predict-offsets", "images", "--weights", tiny_onnx)
    for path in Path("images").glob("?.png"):
        path.unlink()
    result = run("refine", "images")
    assert result.exit_code == 1
    assert "a_mask.png was made of this very file, but its photograph's" in flat(result.stderr)
    assert not list(Path("refined").glob("*.png"))


def test_refining_again_is_said(offsets: Path) -> None:
    assert "before" not in run("refine", "preds").stdout
    assert "; 3 had been refined before" in run("refine", "refined", "-o", "again").stdout
