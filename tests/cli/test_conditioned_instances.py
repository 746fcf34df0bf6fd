"""`predict-offsets --preds` with files of instances, and `refine` of the same files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segfix.formats import read_offset_map
from tests.cli.commands import run, run_json
from tests.cli.predictions import WARNING, write_instances


@pytest.fixture
def pair(pred: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Both halves of the prediction, as instances that leave a corner out."""
    both = np.stack([pred == 2, pred == 1])
    both[1, :4] = False
    return both


@pytest.mark.parametrize("kind", ["results", "lists", "sam"])
def test_instances_in_files_are_looked_at_together(
    work: Path, predict: tuple[object, ...], pair: NDArray[np.bool_], kind: str
) -> None:
    by_stem = {"a": pair, "b": pair[:1], "c": pair}
    run(*predict, "--preds", *write_instances("masks", by_stem), "-o", "expected")
    preds = write_instances(kind, by_stem)
    found = run(*predict, "--preds", *preds)
    assert (found.exit_code, found.stdout) == (0, "offsets: 3 written\n"), found.stderr
    for stem in "abc":
        made, expected = (
            read_offset_map(Path(folder, f"{stem}.png")) for folder in ("offsets", "expected")
        )
        assert np.array_equal(made.codes, expected.codes)
        assert made.source["prediction_sha256"] == expected.source["prediction_sha256"]
    refined = run("refine", *preds)
    assert refined.exit_code == 0, refined.stderr
    assert WARNING not in refined.stderr
    assert len(run_json(*predict, "--preds", *preds)["skipped"]) == 3
    # Of another prediction, the photograph's own is made anew, and the others are there.
    write_instances(kind, {**by_stem, "b": pair})
    warned = run("refine", *preds, "--overwrite", "--json", "-q")
    assert f"1 of 3 offset maps was {WARNING}" in warned.stderr
    others = [row["other_predictions"] for row in json.loads(warned.stdout)["done"]]
    assert sum(others) == 1
    again = run_json(*predict, "--preds", *preds)
    assert again["skipped"] == ["offsets/a.png", "offsets/c.png"]
    assert again["failed"][0].startswith("offsets/b.png: exists and is not what this run would")
    assert len(run_json(*predict, "--preds", *preds, "--overwrite")["done"]) == 3
    assert WARNING not in run("refine", *preds, "--overwrite").stderr


def test_polygons_of_annotation_tools_are_looked_at_together(
    work: Path, predict: tuple[object, ...], pair: NDArray[np.bool_]
) -> None:
    pytest.importorskip("shapely", reason="needs the extra: pip install 'segfix-refine[polygons]'")
    by_stem = {"a": pair, "b": pair[:1], "c": pair}
    run(*predict, "--preds", *write_instances("masks", by_stem), "-o", "expected")
    rings = [[[22, 0], [40, 0], [40, 24], [22, 24]], [[0, 4], [22, 4], [22, 24], [0, 24]]]
    Path("set/labels").mkdir(parents=True)
    Path("set/data.yaml").write_text("names: {0: left}\n")
    Path("labelme").mkdir()
    for stem, masks in by_stem.items():
        shares = [np.ravel(np.array(ring) / (40, 24)).tolist() for ring in rings[: len(masks)]]
        lines = [" ".join(["0", *map(str, values)]) + "\n" for values in shares]
        Path(f"set/labels/{stem}.txt").write_text("".join(lines))
        shapes = [{"label": "x", "points": ring} for ring in rings[: len(masks)]]
        document = {"version": "5.5.0", "shapes": shapes, "imagePath": f"{stem}.jpg"}
        Path(f"labelme/{stem}.json").write_text(json.dumps(document))
    for preds in ("set", "labelme"):
        found = run(*predict, "--preds", preds, "-o", f"offsets_{preds}")
        assert (found.exit_code, found.stderr) == (0, found.stderr), found.stderr
        for stem in by_stem:
            made, expected = (
                read_offset_map(Path(folder, f"{stem}.png"))
                for folder in (f"offsets_{preds}", "expected")
            )
            assert np.array_equal(made.codes, expected.codes)
            assert made.source["prediction_sha256"] == expected.source["prediction_sha256"]
        done = run("refine", preds, "--offsets", f"offsets_{preds}", "-o", f"refined_{preds}")
        assert done.exit_code == 0, done.stderr
        assert WARNING not in done.stderr


def test_without_any_instance_offsets_fit_all(
    work: Path, predict: tuple[object, ...], pair: NDArray[np.bool_]
) -> None:
    assert run(*predict, "-o", "plain").exit_code == 0
    for kind in ("results", "lists", "sam"):
        preds = write_instances(kind, {"a": pair[:0], "b": pair})
        out = f"{kind.partition('.')[0]}-offsets"
        found = run(*predict, "--preds", *preds, "-o", out)
        assert found.exit_code == 1
        assert found.stdout == f"{out}: 2 written, 1 failed\n"
        (line,) = [line for line in found.stderr.splitlines() if line.startswith("failed: ")]
        assert line.startswith("failed: images/c.png: no instances of that name; say with --map")
        made, plain = (read_offset_map(Path(folder, "a.png")) for folder in (out, "plain"))
        assert np.array_equal(made.codes, plain.codes)
        assert made.confidence == plain.confidence
        assert "prediction_sha256" not in made.source
        assert read_offset_map(Path(out, "b.png")).source["prediction_sha256"]
    # Once it has an instance, it is another prediction.
    write_instances("sam", {"a": pair})
    report = run_json(*predict, "--preds", "sam", "-o", "sam-offsets")
    assert report["skipped"] == ["sam-offsets/b.png"]
    assert report["failed"][1].startswith("sam-offsets/a.png: exists and is not")


def test_images_of_annotations_count_whichever_file_has_their_instances(
    work: Path, predict: tuple[object, ...], pair: NDArray[np.bool_]
) -> None:
    _, *names = write_instances("results", {"a": pair, "b": pair, "c": pair[:0]})
    items = json.loads(Path("results.json").read_text())
    Path("parts").mkdir()
    for number in range(2):
        part = [item for item in items if item["image_id"] == number]
        Path(f"parts/{number}.json").write_text(json.dumps(part))
    found = run(*predict, "--preds", "parts", *names)
    assert found.stdout == "offsets: 3 written\n", found.stderr
    assert WARNING not in run("refine", "parts", *names).stderr


def test_faulty_files_of_instances_fail_alone(
    work: Path, predict: tuple[object, ...], pair: NDArray[np.bool_]
) -> None:
    for stem in ("small", "torn", "strange", "lonely"):
        shutil.copy("images/a.png", f"images/{stem}.png")
    write_instances("sam", {**dict.fromkeys("abc", pair), "small": pair[:, :9]})
    Path("sam/torn.json").write_text("[{")
    Path("sam/other.json").write_text("{}")
    Path("sam/strange.json").write_text('[{"segmentation": {"size": [24, 40], "counts": "?"}}]')
    again = json.loads(Path("sam/a.json").read_text())
    Path("sam/twice.json").write_text(json.dumps([{**one, "image_id": "a"} for one in again]))
    found = run(*predict, "--preds", "sam")
    assert found.stdout == "offsets: 3 written, 6 failed\n"
    lines = [line.removeprefix("failed: ") for line in found.stderr.splitlines()]
    starts = (
        "images/lonely.png: no instances of that name",
        "sam/other.json: no list 'annotations'",
        "sam/small.json: image 'small': the mask of instance 0 is broken, or doesn't fit its phot",
        "sam/strange.json: image 'strange': the mask of instance 0 is broken",
        "sam/torn.json: not a whole JSON file",
        "sam/twice.json: image 'a': of images/a.png, as are the instances of sam/a.json",
    )
    assert len([line for line in lines if "sam/" in line or "images/" in line]) == len(starts)
    for start in starts:
        assert any(line.startswith(start) for line in lines), start


def test_a_faulty_file_alone_is_one_line(work: Path, predict: tuple[object, ...]) -> None:
    Path("results.json").write_text("[{")
    found = run(*predict, "--preds", "results.json")
    assert found.exit_code == 1
    assert [line for line in found.stderr.splitlines() if "results.json" in line] == [
        line for line in found.stderr.splitlines() if "not a whole JSON file" in line
    ]


def test_masks_of_a_list_may_lie_on_each_other_in_colour(
    work: Path, predict: tuple[object, ...], pair: NDArray[np.bool_]
) -> None:
    write_instances("lists", {"a": pair})
    colours = np.repeat(pair[0, ..., None] * np.uint8(200), 3, axis=2)
    Image.fromarray(colours).save("lists/a_0.png")
    assert run("predict-offsets", "images/a.png", *predict[2:], "--preds", "lists").exit_code == 0
    source = read_offset_map(Path("offsets/a.png")).source
    write_instances("masks", {"a": pair})
    run("predict-offsets", "images/a.png", *predict[2:], "--preds", "masks", "-o", "expected")
    expected = read_offset_map(Path("expected/a.png")).source
    assert source["prediction_sha256"] == expected["prediction_sha256"]
    assert WARNING not in run("refine", "lists").stderr


def test_too_many_masks_are_refused(
    work: Path, predict: tuple[object, ...], pair: NDArray[np.bool_]
) -> None:
    write_instances("sam", {"a": np.repeat(pair, 20, axis=0), "b": pair})
    found = run(*predict, "--preds", "sam", "--max-bytes", 30_000)
    assert "sam/a.json: image 'a': 38400 bytes once unpacked, more than the 30000" in found.stderr
    assert "offsets: 1 written, 2 failed" in found.stdout


def test_results_do_not_replace_masks(
    work: Path, predict: tuple[object, ...], pair: NDArray[np.bool_]
) -> None:
    write_instances("lists", {"a": pair})
    Path("lists/within").mkdir()
    shutil.copy("lists/a_0.png", "lists/within/a.png")
    Path("lists/a_pred.txt").write_text("within/a.png 26 0.9\n")
    before = Path("lists/within/a.png").read_bytes()
    found = run(*predict, "--preds", "lists", "-o", "lists/within", "--overwrite")
    assert found.exit_code == 1
    assert "lists/within: the folder of the masks of lists/a_pred.txt; choose" in found.stderr
    assert Path("lists/within/a.png").read_bytes() == before


def test_panoptic_pictures_are_label_maps(
    work: Path, predict: tuple[object, ...], pred: NDArray[np.uint8]
) -> None:
    Path("panoptic").mkdir()
    annotations = []
    for number, stem in enumerate("abc"):
        Image.fromarray(np.stack([pred, 0 * pred, 0 * pred], axis=2)).save(f"panoptic/{stem}.png")
        segments = [{"id": one, "category_id": one} for one in (1, 2)]
        annotations.append(
            {"image_id": number, "file_name": f"{stem}.png", "segments_info": segments}
        )
    Path("panoptic.json").write_text(json.dumps({"annotations": annotations}))
    assert run(*predict, "--preds", "panoptic").exit_code == 0
    assert run(*predict, "--preds", "panoptic.json", "-o", "of-table").exit_code == 0
    for stem in "abc":
        made, of_table = (
            read_offset_map(Path(folder, f"{stem}.png")) for folder in ("offsets", "of-table")
        )
        assert np.array_equal(made.codes, of_table.codes)
        assert made.source["prediction_sha256"] == of_table.source["prediction_sha256"]
    found = run("refine", "panoptic.json", "--json", "-q")
    assert (found.exit_code, found.stderr) == (0, "")
    (row,) = json.loads(found.stdout)["done"]
    assert (row["images"], row["other_predictions"], row["changed"]) == (3, 0, 6)
    alone = run("fix", "images/a.png", "panoptic.json", *predict[2:], "-o", "alone/panoptic.json")
    assert "; 2 images of other photographs kept" in alone.stdout, alone.stderr
    for stem, folder in {"a": "refined", "b": ".", "c": "."}.items():
        written, same = (Image.open(f"{place}/panoptic/{stem}.png") for place in ("alone", folder))
        assert np.array_equal(np.array(written), np.array(same))
    Image.fromarray(np.stack([0 * pred, pred, pred], axis=2)).save("panoptic/b.png")
    other = run("refine", "panoptic.json", "--overwrite")
    assert f"1 of 3 offset maps was {WARNING}panoptic.json; run" in other.stderr
