"""`segfix fix`: what `predict-offsets --preds` and `refine` do, in one go and to the byte."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

import segfix
from segfix.files.provenance import read_record
from segfix.formats import read_label_map
from segfix.network import OffsetModel
from tests.cli.commands import flat, pixels, run, run_json
from tests.cli.predictions import write_instances

COMMAND = Path(sys.executable).with_name("segfix")


@pytest.fixture
def weights(conditioned_onnx: Path) -> tuple[object, ...]:
    return ("--weights", conditioned_onnx)


def contents(folder: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def test_one_photograph_and_one_mask(work: Path, weights: tuple[object, ...]) -> None:
    found = run("fix", "images/a.png", "preds/b.png", *weights)
    assert (found.exit_code, found.stderr) == (0, "weights conditioned on cpu\n")
    told = "b_fixed.png: 1 written; 5.00% of the pixels changed their label\n"
    assert found.stdout == told
    truth = pixels(work / "labels/a.png")
    assert np.array_equal(pixels(work / "b_fixed.png"), truth)
    before = [f"{folder}/{stem}.png" for folder in ("images", "labels", "preds") for stem in "abc"]
    assert sorted(contents(".")) == sorted([*before, "b_fixed.png"])
    assert "1 already there" in run("fix", "images/a.png", "preds/b.png", *weights).stdout
    for out, place in (("some.png", "some.png"), ("to", "to/b.png"), ("labels", "labels/b.png")):
        again = run(
            "fix", "images/a.png", "preds/b.png", *weights, "-o", out, "--overwrite", "--json", "-q"
        )
        report = json.loads(again.stdout)
        assert (report["out"], report["done"][0]["output"]) == (place, place)
        assert report["done"][0]["photograph"] == "images/a.png"
        assert np.array_equal(pixels(Path(place)), truth)
    # A folder of photographs serves as well: the names tell.
    assert run("fix", "images", "preds/b.png", *weights, "-o", "x.png").exit_code == 0
    assert Path("x.png").read_bytes() == Path("some.png").read_bytes()


KINDS = ("ids", "npy", "npz", "soft", "colours", "tif", "scores", "masks", "argmax")


def write_kind(kind: str, pred: NDArray[np.uint8]) -> tuple[object, ...]:
    """Write the prediction in another kind to `preds`; return the options to read it."""
    shutil.rmtree("preds")
    Path("preds").mkdir()
    scores = np.where(pred == np.arange(3)[:, None, None], 0.8, 0.1)
    for stem in "abc":
        path = Path("preds", stem)
        if kind == "npz":
            np.savez(path.with_suffix(".npz"), ids=pred, other=np.zeros((60, 60)))
        elif kind == "soft":
            Image.fromarray(np.where(pred == 2, 200, 9).astype(np.uint8)).save(f"{path}.png")
        elif kind == "colours":
            Image.fromarray(np.stack([pred, pred, 7 * pred], axis=2)).save(f"{path}.png")
        elif kind == "tif":
            Image.fromarray(pred).save(f"{path}.tif")
        elif kind == "ids":
            Image.fromarray(pred).save(f"{path}.png")
        else:
            masks = np.stack([pred == 2, pred == 7])
            arrays = {"npy": pred.astype(np.int32), "masks": masks}
            np.save(path.with_suffix(".npy"), arrays.get(kind, scores))
    return {"npz": ("--key", "ids"), "soft": ("--soft",)}.get(kind, ())


@pytest.mark.parametrize("kind", KINDS)
def test_fixing_is_looking_and_refining_to_the_byte(
    work: Path, weights: tuple[object, ...], pred: NDArray[np.uint8], kind: str
) -> None:
    reading = write_kind(kind, pred)
    refining = ("--argmax",) if kind == "argmax" else ()
    run("predict-offsets", "images", "--preds", "preds", *weights, *reading)
    refined = run("refine", "preds", *reading, *refining)
    fixed = run("fix", "images", "preds", *weights, *reading, *refining)
    assert (refined.exit_code, fixed.exit_code) == (0, 0), fixed.stderr
    assert fixed.stdout == refined.stdout.replace("refined", "fixed")
    assert contents("fixed") == contents("refined")
    # So each takes the other's results for its own, and fix before it looks.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OffsetModel, "predict", None)
        again = run("fix", "images", "preds", *weights, *reading, *refining, "-o", "refined")
    assert "3 already there" in again.stdout
    assert "3 already there" in run("refine", "preds", *reading, *refining, "-o", "fixed").stdout


@pytest.mark.parametrize("kind", KINDS)
def test_two_passes_are_fix_of_fix(
    work: Path, weights: tuple[object, ...], pred: NDArray[np.uint8], kind: str
) -> None:
    reading = write_kind(kind, pred)
    refining = ("--argmax",) if kind == "argmax" else ()
    step = ("--scale", 1, *weights, *reading)
    once = run_json("fix", "images", "preds", *step)
    run("fix", "images", "fixed", *step, *refining, "-o", "again")
    both = run_json("fix", "images", "preds", *step, *refining, "--passes", 2, "-o", "both")
    assert sorted(contents("again")) == sorted(contents("both"))
    for name in contents("again"):
        if not name.endswith(".segfix"):
            first, second = (read_label_map(Path(at, name), masks=True) for at in ("again", "both"))
            assert first.array.dtype == second.array.dtype
            assert np.array_equal(first.array, second.array)
    # Of the prediction that was given, not of what the first pass left.
    changed, more = ([row["changed"] for row in found["done"]] for found in (once, both))
    assert all(a < b for a, b in zip(changed, more, strict=True))
    assert [row["passes"] for row in (*once["done"], *both["done"])] == [1, 1, 1, 2, 2, 2]
    assert not any(row["refined_before"] for row in both["done"])
    assert len({row["input"] for row in once["done"] + both["done"]}) == 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OffsetModel, "predict", None)
        there = run("fix", "images", "preds", *step, *refining, "--passes", 2, "-o", "both")
    assert "3 already there" in there.stdout
    other = run("fix", "images", "preds", *step, *refining, "-o", "both")
    assert "exists and is not what this run would make" in other.stderr


def test_passes_go_as_far_as_they_are_many(work: Path, weights: tuple[object, ...]) -> None:
    for k in (1, 2):
        once = ("fix", "images", "preds", "--scale", 1, *weights, "--passes", k, "-o", f"{k}")
        assert run(*once, "--keep-offsets", f"kept{k}").exit_code == 0
    run("fix", "images", "2", "--scale", 1, *weights, "-o", "2 + 1")
    done = run("fix", "images", "preds", "--scale", 1, *weights, "--passes", 3, "-o", "3")
    assert "of the pixels changed their label in 3 passes" in done.stdout
    assert np.array_equal(pixels(Path("2 + 1/a.png")), pixels(Path("3/a.png")))
    assert contents("kept1") == contents("kept2")
    made = read_record(Path("2/a.png")), read_record(Path("1/a.png"))
    settings = [json.loads(record or "")["settings"] for record in made]
    assert settings[0] == {**settings[1], "passes": 2}
    refused = run("fix", "images", "preds", *weights, "--passes", 0)
    assert (refused.exit_code, "0 is not in the range x>=1" in refused.stderr) == (2, True)


@pytest.mark.parametrize("kind", ["results", "lists", "sam"])
def test_instances_are_fixed_to_the_byte(
    work: Path, weights: tuple[object, ...], pred: NDArray[np.uint8], kind: str
) -> None:
    both = np.stack([pred == 2, pred == 1])
    both[1, :4] = False
    preds = write_instances(kind, {"a": both, "b": both[:1]})
    Path("images/c.png").unlink()
    assert run("predict-offsets", "images", "--preds", *preds, *weights).exit_code == 0
    assert run("refine", *preds).exit_code == 0
    # Photographs without an instance are none of its business.
    for stem in "cd":
        shutil.copy("images/a.png", f"images/{stem}.png")
    fixed = run("fix", "images", *preds, *weights, "-o", "fixed")
    assert fixed.exit_code == 0, fixed.stderr
    assert "changed" in fixed.stdout
    assert contents("fixed") == contents("refined")
    assert "already there" in run("fix", "images", *preds, *weights, "-o", "fixed").stdout


def test_a_file_of_instances_is_fixed_here(
    work: Path, weights: tuple[object, ...], pred: NDArray[np.uint8]
) -> None:
    preds = write_instances("results", {"a": np.stack([pred == 2]), "z": np.stack([pred == 1])})
    found = run("fix", "images", *preds, *weights)
    assert found.exit_code == 1
    counted = "1 written, 1 failed, 2 photographs without a prediction (b.png, c.png)"
    assert found.stdout.startswith(f"results_fixed.json: {counted}; 1 of 2 instances")
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("failed: ")]
    assert line.startswith("failed: results.json: image 1: no photograph of that name; say")
    assert len(json.loads(Path("results_fixed.json").read_text())) == 2
    refused = run("fix", "images", *preds, *weights, "--shard", "1/2")
    assert (refused.exit_code, "--shard is for label maps" in flat(refused.stderr)) == (2, True)
    shutil.rmtree("images")
    Path("images").mkdir()
    Image.new("RGB", (40, 24)).save("images/other.png")
    nothing = run("fix", "images", *preds, *weights)
    assert nothing.exit_code == 2
    assert "no photograph in images has instances in results.json" in nothing.stderr


def test_offsets_are_kept_where_asked(work: Path, weights: tuple[object, ...]) -> None:
    fix = ("fix", "images", "preds", *weights, "--keep-offsets", "kept")
    assert run(*fix).exit_code == 0
    run("predict-offsets", "images", "--preds", "preds", *weights)
    assert contents("kept") == contents("offsets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OffsetModel, "predict", None)
        other = run(*fix, "--scale", 1, "-o", "other")
        assert other.stdout == "other: 3 written; 2.50% of the pixels changed their label\n"
    assert run(*fix[:-1], "preds").exit_code == 2


def test_weights_that_look_at_photographs_alone_say_so(work: Path, tiny_onnx: Path) -> None:
    found = run("fix", "images", "preds", "--weights", tiny_onnx)
    assert found.exit_code == 0
    assert "segfix: these weights look at photographs alone" in found.stderr
    run("predict-offsets", "images", "--weights", tiny_onnx)
    run("refine", "preds")
    assert contents("fixed") == contents("refined")


@pytest.mark.parametrize("fit", ["image", "labels"])
def test_predictions_of_another_size(
    work: Path, weights: tuple[object, ...], pred: NDArray[np.uint8], fit: str
) -> None:
    for stem in "abc":
        Image.fromarray(pred[::2, ::2]).save(f"preds/{stem}.png")
    found = run("fix", "images", "preds", *weights)
    assert found.exit_code == 1
    assert "preds/a.png: 20×12, but its photograph images/a.png is 40×24; --fit" in found.stderr
    fitted = run("fix", "images", "preds", *weights, "--fit", fit)
    assert (fitted.exit_code, "other predictions" in fitted.stderr) == (0, False)
    truth = pixels(Path("labels/a.png"))
    assert np.array_equal(pixels(Path("fixed/a.png")), truth if fit == "image" else truth[::2, ::2])


def test_what_is_in_the_way_or_broken_fails_alone(work: Path, weights: tuple[object, ...]) -> None:
    Path("fixed").mkdir()
    shutil.copy("preds/a.png", "fixed/a.png")
    Path("images/b.png").write_bytes(b"no picture")
    Image.new("L", (40, 24)).save("preds/lonely.png")
    found = run("fix", "images", "preds", *weights)
    assert (found.exit_code, found.stdout[:36]) == (1, "fixed: 1 written, 3 failed; 5.00% of")
    lines = [line for line in found.stderr.splitlines() if line.startswith("failed: ")]
    assert lines[0].startswith("failed: fixed/a.png: exists and is not what this run would make")
    assert lines[1].startswith("failed: images/b.png: not a readable image")
    assert lines[2].startswith("failed: preds/lonely.png: no photograph of that name; say with")
    assert sorted(contents("fixed")) == ["a.png", "c.png"]
    assert Path("fixed/a.png").read_bytes() == Path("preds/a.png").read_bytes()
    made = read_record(Path("fixed/c.png"))
    assert made is not None
    assert json.loads(made)["source"]["weights"] == "conditioned"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("images", "nowhere"), "nowhere: no such file or folder"),
        (("nowhere", "preds"), "nowhere: no such file or folder"),
        (("images", "preds", "-o", "preds"), "preds is the folder of MASK"),
        (("images", "preds", "--keep-offsets", "images"), "images is the folder of PHOTO"),
        (
            ("images", "preds", "--keep-offsets", "new", "-o", "new"),
            "new is the folder of --keep-offsets",
        ),
        (("images/a.png", "preds/a.png", "-o", "a.jpg"), "the result is a .png file"),
        (("images/a.png", "preds/a.png", "-o", "images"), "would replace an input"),
        (("images", "preds", "--scale", "1", "--iterate", "2"), "--scale has no effect"),
        (("images", "preds", "--annotations", "some.json"), "--annotations is not for label maps"),
        (("preds/a.png", "photo.jpg"), "comes first: segfix fix photo.jpg preds/a.png"),
        (("images", "some.json", "--passes", "2"), "--passes is for label maps and arrays"),
        (("images", "some.json", "--soft"), "--soft is not for files of instances"),
    ],
)
def test_wrong_use_is_told_at_once(
    work: Path, weights: tuple[object, ...], arguments: tuple[str, ...], reason: str
) -> None:
    Path("some.json").write_text("[]")
    before = contents(".")
    found = run("fix", *arguments, *weights)
    assert found.exit_code == 2
    assert reason in flat(found.stderr)
    assert contents(".") == before


def test_shares_recursion_and_names(work: Path, weights: tuple[object, ...]) -> None:
    shutil.move("images", "photos/in")
    Path("found/in").mkdir(parents=True)
    for stem in "abc":
        shutil.copy(f"preds/{stem}.png", f"found/in/{stem}_mine.png")
    fix = ("fix", "photos", "found", *weights, "-r", "--suffix", "_mine")
    first, second = (run_json(*fix, "--shard", f"{share}/2")["done"] for share in (1, 2))
    assert [Path(row["output"]).name for row in first] == ["a_mine.png", "c_mine.png"]
    assert [row["output"] for row in second] == ["fixed/in/b_mine.png"]
    Path("names.txt").write_text("in/a in/c_mine\n")
    mapped: dict[str, Any] = run_json(*fix[:-2], "--map", "names.txt", "-o", "mapped")
    assert [row["photograph"] for row in mapped["done"]] == ["photos/in/a.png"]
    assert len(mapped["failed"]) == 2


def test_fixing_as_a_user_types_it(work: Path, conditioned_onnx: Path) -> None:
    command = [str(COMMAND), "fix", "images/a.png", "preds/a.png", "--weights"]
    done = subprocess.run(
        [*command, str(conditioned_onnx)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "weights conditioned on cpu\n")
    assert done.stdout.startswith("a_fixed.png: 1 written; 5.00%")
    several = [*command, str(conditioned_onnx), "--passes", "2", "--overwrite"]
    done = subprocess.run(several, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout[-12:]) == (0, "in 2 passes\n")
    missing = subprocess.run([*command[:3], "x.png"], capture_output=True, text=True, check=False)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == "segfix: x.png: no such file or folder.\n"


def test_folders_from_python_give_the_bytes_of_the_command(
    work: Path, weights: tuple[object, ...], conditioned_onnx: Path
) -> None:
    run("fix", "images", "preds", *weights, "-o", "f")
    summary = segfix.fix_folder("images", "preds", weights=conditioned_onnx)
    assert [row["output"] for row in summary.done] == [f"fixed/{stem}.png" for stem in "abc"]
    assert contents("f") == contents("fixed")
    alone = segfix.fix_folder("images/a.png", "preds/a.png", weights=conditioned_onnx)
    assert [row["output"] for row in alone.done] == ["a_fixed.png"]


def test_a_broken_instance_is_told_with_its_photograph(
    work: Path, weights: tuple[object, ...], pred: NDArray[np.uint8]
) -> None:
    preds = write_instances("results", {"a": np.stack([pred == 2, pred == 1])})
    path = Path("results.json")
    items = json.loads(path.read_text())
    items[0]["segmentation"] = [[10, 10, 20, 20]]
    path.write_text(json.dumps(items))
    # As the service has it, which keeps the offset maps.
    for kept in ((), ("--keep-offsets", "kept")):
        done = run("fix", "images", *preds, *weights, *kept, "--overwrite")
        assert done.exit_code == 1
        assert "doesn't fit its photograph images/a.png (no polygon of three" in flat(done.stderr)
        assert "offset map" not in flat(done.stderr)


def test_a_file_is_no_folder_of_results(work: Path, weights: tuple[object, ...]) -> None:
    Path("there.txt").write_text("mine")
    done = run("fix", "images", "preds", *weights, "-o", "there.txt")
    assert done.exit_code == 2
    assert "there.txt: a file, but results go to a folder" in flat(done.stderr)
    assert Path("there.txt").read_text() == "mine"


def test_shapes_on_a_geotiff(work: Path, weights: tuple[object, ...]) -> None:
    pytest.importorskip("pyproj", reason="needs the extra: pip install 'segfix-refine[geo]'")
    picture, tags = Image.open("images/a.png"), TiffImagePlugin.ImageFileDirectory_v2()
    for tag, kind, value in (
        (33550, 12, (0.5, 0.5, 0.0)),
        (33922, 12, (0.0, 0.0, 0.0, 500_000.0, 5_400_000.0, 0.0)),
        (34735, 3, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633)),
    ):
        tags.tagtype[tag] = kind
        tags[tag] = value
    picture.save("photo.tif", tiffinfo=tags)
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}

    def write(left: float) -> None:
        columns = (left, 40, 40, left, left)
        rows = (0, 0, 24, 24, 0)
        ring = [[500_000 + x / 2, 5_400_000 - y / 2] for x, y in zip(columns, rows, strict=True)]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features = [{"type": "Feature", "properties": {"class": "a"}, "geometry": geometry}]
        document = {"type": "FeatureCollection", "crs": crs, "features": features}
        Path("shapes.geojson").write_text(json.dumps(document))

    write(22)
    done = run("fix", "photo.tif", "shapes.geojson", *weights)
    assert (done.exit_code, done.stderr) == (0, "weights conditioned on cpu\n")
    assert done.stdout == "shapes_fixed.geojson: 1 written; 1 of 1 instance changed\n"
    fixed = json.loads(Path("shapes_fixed.geojson").read_text())
    (ring,) = fixed["features"][0]["geometry"]["coordinates"]
    assert sorted({x for x, _ in ring}) == [500_010, 500_020]
    # In two steps, to the byte.
    look = ("predict-offsets", "photo.tif", "--preds", "shapes.geojson", *weights, "-q")
    assert run(*look).exit_code == 0
    done = run("refine", "shapes.geojson")
    assert (done.exit_code, done.stderr) == (0, "")
    assert Path("refined/shapes.geojson").read_bytes() == Path("shapes_fixed.geojson").read_bytes()
    write(24)
    assert "made for other predictions" in run("refine", "shapes.geojson", "--overwrite").stderr
    write(1000)
    done = run("fix", "photo.tif", "shapes.geojson", *weights, "--overwrite", "-q")
    assert done.exit_code == 1
    assert "none of its 1 shapes lies on the photograph" in done.stderr
    done = run("fix", "images/a.png", "shapes.geojson", *weights, "--overwrite", "-q")
    assert "no geo-reference is known of its photograph" in done.stderr


def test_files_of_any_tool_pair_with_the_only_photograph(
    work: Path, weights: tuple[object, ...], pred: NDArray[np.uint8]
) -> None:
    write_instances("results", {"a": np.stack([pred == 2, pred == 1])})
    items = json.loads(Path("results.json").read_text())
    Path("one.json").write_text(json.dumps([{"segmentation": items[0]["segmentation"]}]))
    done = run("fix", "images/b.png", "one.json", *weights)
    assert (done.exit_code, done.stdout) == (
        0,
        "one_fixed.json: 1 written; 1 of 1 instance changed\n",
    )


def test_every_broken_file_is_named_where_none_is_sound(
    work: Path, weights: tuple[object, ...]
) -> None:
    shape = {"label": "x", "points": [[1, 1], ["x", 9], [9, 9]], "shape_type": "polygon"}
    Path("shapes").mkdir()
    for stem in "ab":
        document = {"version": "5.5.0", "shapes": [shape], "imagePath": f"{stem}.png"}
        Path(f"shapes/{stem}.json").write_text(json.dumps(document))
    done = run("fix", "images", "shapes", *weights, "-q")
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    assert [line.partition(" is broken")[0] for line in lines] == [
        f"failed: shapes/{stem}.json: shapes[0]" for stem in "ab"
    ]
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("0 0.1 0.1 x 0.2 0.3 0.3\n")
    done = run("fix", "images", "texts", *weights, "-q")
    assert "texts/a.txt: line 1 is '0 0.1 0.1 x 0.2 0.3 0.3'; expected YOLO's" in done.stderr
    assert len(done.stderr.splitlines()) == 1
