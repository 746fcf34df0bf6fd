"""`predict-offsets --preds`: offset maps that fit one prediction, and `refine` of others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import segfix
from segfix.formats import read_label_map, read_offset_map
from tests.cli.commands import flat, run, run_json
from tests.cli.predictions import WARNING


def test_offsets_that_fit_predictions_refine_them(
    work: Path, predict: tuple[object, ...], conditioned_onnx: Path
) -> None:
    found = run(*predict, "--preds", "preds")
    assert (found.exit_code, found.stdout) == (0, "offsets: 3 written\n")
    assert found.stderr == "weights conditioned on cpu\n" or "3/3" in found.stderr
    refined = run("refine", "preds", "-q")
    assert (refined.exit_code, refined.stderr) == (0, "")
    for stem in "abc":
        truth = read_label_map(Path(f"labels/{stem}.png")).array
        assert np.array_equal(read_label_map(Path(f"refined/{stem}.png")).array, truth)
    offset_map = read_offset_map(Path("offsets/a.png"))
    image = np.array(Image.open("images/a.png"))
    label_map = np.array(Image.open("preds/a.png"))
    expected = segfix.load(conditioned_onnx).offsets(image, label_map)
    assert np.array_equal(offset_map.codes, expected.codes)
    assert offset_map.confidence == expected.confidence
    assert expected.source.items() < offset_map.source.items()
    assert offset_map.source.keys() - expected.source.keys() == {"image", "prediction"}


def test_what_is_done_is_skipped_and_a_changed_prediction_asked_for(
    work: Path, predict: tuple[object, ...], pred: NDArray[np.uint8]
) -> None:
    predict = (*predict, "--preds", "preds")
    rows = run_json(*predict)["done"]
    assert [row["prediction"] for row in rows] == [f"preds/{stem}.png" for stem in "abc"]
    pred[:5] = 2
    Image.fromarray(pred).save("preds/b.png")
    Path("offsets/c.png").write_bytes(Path("offsets/c.png").read_bytes()[:-8])
    again = run(*predict, "--json", "-q")
    report = json.loads(again.stdout)
    assert again.exit_code == 1
    assert report["skipped"] == ["offsets/a.png"]
    assert [row["output"] for row in report["done"]] == ["offsets/c.png"]
    assert report["failed"][0].startswith("offsets/b.png: exists and is not what this run would")
    assert len(run_json(*predict, "--overwrite")["done"]) == 3
    assert len(run_json(*predict)["skipped"]) == 3
    # Made for any prediction, or read in another way, they are others.
    for other in (predict[:-2], (*predict, "--soft")):
        assert len(run_json(*other)["failed"]) == 3


def test_other_predictions_are_refined_with_a_warning(
    work: Path, predict: tuple[object, ...], pred: NDArray[np.uint8]
) -> None:
    assert run(*predict, "--preds", "preds").exit_code == 0
    # The same pixels in another file are the same prediction.
    picture = Image.fromarray(pred)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save("preds/a.png")
    pred[0] = 2
    Image.fromarray(pred).save("preds/c.png")
    found = run("refine", "preds", "--json", "-q")
    assert found.exit_code == 0
    assert found.stderr == (
        f"segfix: 1 of 3 offset maps was {WARNING}preds/c.png; run predict-offsets again with "
        "--preds preds.\n"
    )
    report = json.loads(found.stdout)
    assert [row["other_prediction"] for row in report["done"]] == [False, False, True]
    # What has been refined is another prediction.
    again = run("refine", "refined", "-o", "twice")
    assert f"3 of 3 offset maps were {WARNING}refined/a.png; run" in again.stderr
    assert again.exit_code == 0
    # Where nothing is done, nothing is said.
    assert "other predictions" not in run("refine", "refined", "-o", "twice").stderr


def test_offsets_that_fit_any_prediction_warn_of_none(
    work: Path, predict: tuple[object, ...], tiny_onnx: Path
) -> None:
    assert run(*predict).exit_code == 0
    assert "other predictions" not in run("refine", "preds").stderr
    Path("refined").rename("first")
    assert run("predict-offsets", "images", "--weights", tiny_onnx, "-o", "old").exit_code == 0
    for stem in "abc":
        old, new = (read_offset_map(Path(folder, f"{stem}.png")) for folder in ("old", "offsets"))
        assert np.array_equal(old.codes, new.codes)


def test_converted_offsets_still_know_their_prediction(
    work: Path, predict: tuple[object, ...]
) -> None:
    assert run(*predict, "--preds", "preds").exit_code == 0
    assert run("convert", "offsets", "-o", "mat", "--format", "mat").exit_code == 0
    assert WARNING not in run("refine", "preds", "--offsets", "mat").stderr
    other = run("refine", "labels", "--offsets", "mat", "-o", "other")
    assert f"3 of 3 offset maps were {WARNING}labels/a.png" in other.stderr
    assert run("show", "images", "--offsets", "offsets", "--preds", "preds").exit_code == 0


@pytest.mark.parametrize("kind", ["npy", "npz", "soft", "16 bits", "colours", "tif", "scores"])
def test_every_kind_of_prediction_is_looked_at(
    work: Path, predict: tuple[object, ...], pred: NDArray[np.uint8], kind: str
) -> None:
    assert run(*predict, "--preds", "preds", "-o", "expected").exit_code == 0
    shutil.rmtree("preds")
    Path("preds").mkdir()
    options: tuple[object, ...] = ()
    for stem in "abc":
        path = Path("preds", stem)
        if kind == "npy":
            np.save(path.with_suffix(".npy"), pred.astype(np.int32))
        elif kind == "npz":
            np.savez(path.with_suffix(".npz"), ids=pred, other=np.zeros((60, 60)))
            options = ("--key", "ids")
        elif kind == "soft":
            Image.fromarray(np.where(pred == 2, 200, 9).astype(np.uint8)).save(f"{path}.png")
            options = ("--soft",)
        elif kind == "16 bits":
            Image.fromarray(pred.astype(np.uint16) * 1000).save(f"{path}.png")
        elif kind == "colours":
            Image.fromarray(np.stack([pred, pred, 7 * pred], axis=2)).save(f"{path}.png")
        elif kind == "tif":
            Image.fromarray(pred).save(f"{path}.tif")
        else:
            scores = np.where(pred == np.arange(3)[:, None, None], 0.8, 0.1)
            np.save(path.with_suffix(".npy"), scores)
    assert run(*predict, "--preds", "preds", *options).exit_code == 0
    for stem in "abc":
        found, expected = (
            read_offset_map(Path(folder, f"{stem}.png")) for folder in ("offsets", "expected")
        )
        assert np.array_equal(found.codes, expected.codes)
        same = found.source["prediction_sha256"] == expected.source["prediction_sha256"]
        assert same == (kind in ("npy", "npz", "tif", "scores"))
    refined = run("refine", "preds", *options)
    assert refined.exit_code == 0
    assert WARNING not in refined.stderr


def test_masks_are_looked_at_together(
    work: Path, predict: tuple[object, ...], pred: NDArray[np.uint8]
) -> None:
    masks = np.zeros((3, 24, 40), bool)
    masks[0] = pred == 2
    masks[1, 3:9, 3:9] = True
    Path("masks").mkdir()
    for stem in "abc":
        np.save(f"masks/{stem}.npy", masks)
    assert run(*predict, "--preds", "masks").exit_code == 0
    found = run("refine", "masks")
    assert found.exit_code == 0
    assert WARNING not in found.stderr
    assert np.load("refined/a.npy")[0, :, 20:].all()
    np.save("masks/b.npy", masks[:2])
    assert (
        f"1 of 3 offset maps was {WARNING}masks/b.npy"
        in run("refine", "masks", "--overwrite").stderr
    )


def test_names_are_paired_as_everywhere(work: Path, conditioned_onnx: Path) -> None:
    Path("photos/aachen").mkdir(parents=True)
    Path("found").mkdir()
    for stem in "abc":
        shutil.copy(f"images/{stem}.png", f"photos/aachen/{stem}_leftImg8bit.png")
        shutil.copy(f"preds/{stem}.png", f"found/{stem}_mine.png")
        Image.new("L", (40, 24)).save(f"found/{stem}_other.png")
    predict = ("predict-offsets", "photos", "-r", "--weights", conditioned_onnx, "--preds", "found")
    assert "no file has a partner" in run(*predict).stderr
    assert run(*predict, "--suffix", "_mine").stdout == "offsets: 3 written\n"
    refined = run("refine", "found", "-r", "--suffix", "_mine")
    assert "3 written, 3 failed" in refined.stdout
    assert WARNING not in refined.stderr
    Path("names.txt").write_text("aachen/a_leftImg8bit b_mine\n")
    mapped = run(*predict, "--map", "names.txt", "-o", "mapped", "--shard", "1/3")
    assert mapped.stdout == "mapped: 1 written\n"
    source = read_offset_map(Path("mapped/aachen/a_leftImg8bit.png")).source
    assert (
        source["prediction_sha256"]
        == read_offset_map(Path("offsets/aachen/b_leftImg8bit.png")).source["prediction_sha256"]
    )


def test_predictions_within_the_photographs_are_no_photographs(
    work: Path, conditioned_onnx: Path
) -> None:
    shutil.move("preds", "images/preds")
    found = run_json(
        "predict-offsets", "images", "-r", "--weights", conditioned_onnx, "--preds", "images/preds"
    )
    assert len(found["done"]) == 3
    assert run_json("refine", "images/preds")["done"][0]["other_prediction"] is False


@pytest.mark.parametrize("turned", ["stored", "displayed"])
def test_turned_photographs_are_looked_at_as_displayed(
    work: Path, predict: tuple[object, ...], pred: NDArray[np.uint8], turned: str
) -> None:
    exif = Image.Exif()
    exif[274] = 6
    for stem in "abc":
        with Image.open(f"images/{stem}.png") as picture:
            picture.load()
            picture.save(f"images/{stem}.png", exif=exif)
        array = pred if turned == "stored" else np.rot90(pred, -1)
        Image.fromarray(np.ascontiguousarray(array)).save(f"preds/{stem}.png")
    assert run(*predict, "--preds", "preds").exit_code == 0
    offset_map = read_offset_map(Path("offsets/a.png"))
    assert offset_map.codes.shape == (40, 24)
    assert np.flatnonzero((offset_map.codes > 0).all(1)).tolist() == [20, 21]
    assert WARNING not in run("refine", "preds").stderr


def test_bad_predictions_fail_alone(work: Path, predict: tuple[object, ...]) -> None:
    for name in ("small", "torn", "lonely", "blurred"):
        shutil.copy("images/a.png", f"images/{name}.png")
    Image.new("L", (10, 12)).save("preds/small.png")
    Path("preds/torn.png").write_bytes(Path("preds/a.png").read_bytes()[:60])
    Image.new("L", (40, 24)).save("preds/blurred.jpg")
    Path("preds/blurred.jpg").rename("preds/blurred.png")
    found = run(*predict, "--preds", "preds")
    assert found.exit_code == 1
    assert found.stdout == "offsets: 3 written, 4 failed\n"
    lines = [line for line in found.stderr.splitlines() if line.startswith("failed: ")]
    assert lines[0].startswith("failed: images/lonely.png: no prediction of that name; say with")
    assert lines[1].startswith("failed: preds/blurred.png: expected a PNG label map but got JPEG")
    assert lines[2] == (
        "failed: preds/small.png: 10×12, but its photograph images/small.png is 40×24; write "
        "predictions of the photographs' size, or leave --preds out and let refine --fit."
    )
    assert lines[3].startswith("failed: preds/torn.png: broken or truncated")
    assert sorted(path.name for path in Path("offsets").iterdir()) == ["a.png", "b.png", "c.png"]


def test_old_weights_are_refused_at_once(work: Path, tiny_onnx: Path) -> None:
    found = run("predict-offsets", "images", "--weights", tiny_onnx, "--preds", "preds")
    assert found.exit_code == 2
    assert "weights tiny look at photographs alone; leave the predictions out" in flat(found.stderr)
    assert not Path("offsets").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("images", "--suffix", "_x"), "--suffix is for --preds"),
        (("images", "--soft"), "--soft is for --preds"),
        (("images", "--annotations", "some.json"), "--annotations is for --preds"),
        (("images", "--preds", "some.json", "--soft"), "--soft is not for files of instances"),
        (
            ("images", "--preds", "preds", "--annotations", "some.json"),
            "--annotations is not for label maps and arrays",
        ),
        (("-", "--preds", "preds"), "--preds is for files"),
        (("clip.mkv", "--preds", "preds"), "--preds is for photographs"),
        (("images", "--preds", "nowhere"), "nowhere: no such file or folder"),
        (("images", "--preds", "twins"), "twins/a.tif: same stem as a.png"),
        (("images", "--preds", "preds", "-o", "preds"), "preds is the folder of PREDS"),
        (("images", "--preds", "empty"), "no predictions here"),
    ],
)
def test_wrong_use_is_told_at_once(
    work: Path, conditioned_onnx: Path, arguments: tuple[str, ...], reason: str
) -> None:
    Path("clip.mkv").touch()
    Path("some.json").write_text("[]")
    Path("empty").mkdir()
    Path("twins").mkdir()
    for name in ("a.png", "a.tif"):
        Image.new("L", (40, 24)).save(f"twins/{name}")
    found = run("predict-offsets", *arguments, "--weights", conditioned_onnx)
    assert found.exit_code == 2
    assert reason in flat(found.stderr)


def test_weights_say_what_they_look_at(conditioned_onnx: Path, tiny_onnx: Path) -> None:
    assert "looks at predictions, too" in run("weights", conditioned_onnx).stdout
    assert "looks at predictions" not in run("weights", tiny_onnx).stdout
    (row,) = json.loads(run("weights", conditioned_onnx, "--json").stdout)
    assert row["conditioned"] is True
