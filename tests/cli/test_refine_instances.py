"""`segfix refine` on instances: the same kind of file back, the same pixels as of the arrays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

import segfix
from segfix.cli import main
from segfix.files.provenance import record_path
from segfix.formats import OffsetMap, read_label_map, read_offset_map, write_offset_map
from segfix.geometry import make_targets

pytest.importorskip("pycocotools", reason="needs the extra: pip install 'segfix-refine[eval]'")

SIZE = (40, 60)
IMAGES = {7: "a", 12: "b"}
"""File names by image id."""

Mask = NDArray[np.bool_]


def box(top: int, left: int, height: int, width: int) -> Mask:
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


# Of the true objects, which the offset maps lead to, and of the predictions: shifted, overlapping.
TRUE = [box(8, 10, 16, 18), box(8, 34, 20, 18)]
FOUND = {
    7: [box(9, 12, 16, 18), box(6, 33, 20, 21), box(10, 11, 15, 40)],
    12: [box(7, 8, 16, 18), box(9, 36, 20, 18)],
}


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder with `offsets`, and with `zeros` that lead nowhere."""
    monkeypatch.chdir(tmp_path)
    labels = TRUE[0] + 2 * TRUE[1].astype(np.uint8)
    targets = make_targets(labels)
    offsets = OffsetMap.encode(targets.boundary_map == 1, targets.direction_map, 0.95)
    for stem in IMAGES.values():
        write_offset_map(Path("offsets", f"{stem}.png"), offsets)
        write_offset_map(Path("zeros", f"{stem}.png"), OffsetMap(np.zeros(SIZE, np.uint8)))
    return tmp_path


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, ["refine", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def refined(mask: Mask, **settings: Any) -> Mask:
    """By the plain path over arrays."""
    offset_map = read_offset_map(Path("offsets/a.png"))
    return segfix.refine(mask, offset_map, **settings)


# --- Writing and reading each kind of file ---


def compressed(mask: Mask) -> dict[str, Any]:
    from pycocotools import mask as masks

    rle = masks.encode(np.asfortranarray(mask, np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def plain(mask: Mask) -> dict[str, Any]:
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)}


def polygons(mask: Mask) -> list[list[float]]:
    left, top, width, height = bounds(mask)
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]


def bounds(mask: Mask) -> list[int]:
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(cols[0])
    return [left, top, int(cols[-1]) + 1 - left, int(rows[-1]) + 1 - top]


def decoded(segmentation: Any) -> Mask:
    from pycocotools import mask as masks

    if isinstance(segmentation, list) or isinstance(segmentation["counts"], list):
        segmentation = masks.frPyObjects(segmentation, *SIZE)
    found = masks.decode(segmentation)
    return np.array(found.any(axis=2) if found.ndim == 3 else found, bool)


def write_json(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1))
    return path


def results(form: Callable[[Mask], Any], **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image,
            "category_id": 3,
            "bbox": [float(value) for value in bounds(mask)],
            "score": 0.1 + place / 10,
            "segmentation": form(mask),
            "extra": {"kept": ["as", "it", None]},
            **{key: value(image) for key, value in more.items()},
        }
        for image, masks in FOUND.items()
        for place, mask in enumerate(masks)
    ]


def write_results(folder: Path, form: Callable[[Mask], Any] = compressed) -> Path:
    """As Detectron2 and Ultralytics do."""
    names = {"file_name": lambda image: f"val/{IMAGES[image]}.jpg"}
    return write_json(folder / "x.json", results(form, **names))


def write_dataset(folder: Path) -> Path:
    annotations: list[dict[str, Any]] = [
        {**item, "id": number, "area": int(decoded(item["segmentation"]).sum()), "iscrowd": 0}
        for number, item in enumerate(results(compressed), 1)
    ]
    images = [
        {"id": image, "file_name": f"{stem}.jpg", "height": SIZE[0], "width": SIZE[1]}
        for image, stem in IMAGES.items()
    ]
    categories = [{"id": 3, "name": "thing"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    return write_json(folder / "x.json", document)


def sam_list() -> list[dict[str, Any]]:
    return [
        {
            "segmentation": form(mask),
            "area": int(mask.sum()),
            "bbox": bounds(mask),
            "predicted_iou": 0.9,
        }
        for mask, form in zip(FOUND[7], (plain, compressed, plain), strict=True)
    ]


def write_sam(folder: Path) -> Path:
    return write_json(folder / "a.json", sam_list())


def write_sa1b(folder: Path) -> Path:
    image = {"image_id": 7, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}
    return write_json(folder / "sa_7.json", {"image": image, "annotations": sam_list()})


def write_ultralytics(folder: Path) -> Path:
    items = []
    for mask in FOUND[7]:
        (polygon,) = polygons(mask)
        left, top, width, height = bounds(mask)
        items.append(
            {
                "name": "cat",
                "class": 15,
                "confidence": 0.77,
                "box": {"x1": left - 0.4, "y1": top, "x2": left + width, "y2": top + height},
                "segments": {"x": polygon[::2], "y": polygon[1::2]},
            }
        )
    return write_json(folder / "a.json", items)


KINDS: dict[str, Callable[[Path], Path]] = {
    "compressed": write_results,
    "plain": lambda folder: write_results(folder, plain),
    "polygons": lambda folder: write_results(folder, polygons),
    "dataset": write_dataset,
    "sam": write_sam,
    "sa1b": write_sa1b,
    "ultralytics": write_ultralytics,
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def items_of(path: Path) -> list[dict[str, Any]]:
    document = json.loads(path.read_text())
    found: list[dict[str, Any]] = (
        document if isinstance(document, list) else document["annotations"]
    )
    return found


def masks_of(path: Path) -> list[Mask]:
    found = []
    for item in items_of(path):
        if "segmentation" in item:
            found.append(decoded(item["segmentation"]))
        else:
            points = zip(item["segments"]["x"], item["segments"]["y"], strict=True)
            found.append(decoded([[value for point in points for value in point]]))
    return found


# --- JSON of instances ---


@every_kind
def test_offsets_that_lead_nowhere_give_the_same_file(kind: str) -> None:
    path = KINDS[kind](Path("preds"))
    done = run(path, "--offsets", "zeros")
    assert (done.exit_code, done.stderr) == (0, done.stderr)
    assert "; 0 of " in done.stdout
    # As text, so that the order of keys and the kinds of numbers count.
    before, after = (json.dumps(json.loads(file.read_text())) for file in (path, out_of(path)))
    assert after == before


def out_of(path: Path) -> Path:
    return Path("refined", path.name)


@every_kind
@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ([], {}),
        (["--scale", "3"], {"scale": 3}),
        (["--scale", "1"], {"scale": 1}),
        (["--iterate", "4"], {"iterate": 4}),
        (["--min-confidence", "0.99"], {"min_confidence": 0.99}),
    ],
)
def test_masks_are_those_of_the_plain_path(
    kind: str, options: list[str], settings: dict[str, Any]
) -> None:
    path = KINDS[kind](Path("preds"))
    done = run(path, *options, "-q")
    assert done.exit_code == 0, done.stderr
    before, after = masks_of(path), masks_of(out_of(path))
    assert len(before) == len(after) == (3 if "a" in path.stem else 5)
    for old, new, item in zip(before, after, items_of(out_of(path)), strict=True):
        assert np.array_equal(new, refined(old, **settings))
        assert settings == {"min_confidence": 0.99} or not np.array_equal(new, old)
        if np.array_equal(new, old):
            continue
        if "bbox" in item:
            assert item["bbox"] == bounds(new)
        if "box" in item:
            left, top, width, height = bounds(new)
            assert list(item["box"].values()) == [left, top, left + width, top + height]
        if "area" in item:
            assert item["area"] == new.sum()


@every_kind
def test_all_else_stays_as_it_is(kind: str) -> None:
    path = KINDS[kind](Path("preds"))
    assert run(path).exit_code == 0
    for old, new in zip(items_of(path), items_of(out_of(path)), strict=True):
        renamed = ["segmentation" if key == "segments" else key for key in old]
        assert list(new) == renamed
        masked = ("segmentation", "bbox", "box", "area")
        assert all(new[key] == old[key] for key in new if key not in masked)
        for key in {"bbox", "area"} & set(old):
            kinds = [
                {type(value) for value in (item[key] if key == "bbox" else [item[key]])}
                for item in (old, new)
            ]
            assert kinds[0] == kinds[1], "whole numbers stay whole, others don't"
        plain_before = isinstance(old.get("segmentation"), dict) and isinstance(
            old["segmentation"]["counts"], list
        )
        assert isinstance(new["segmentation"]["counts"], list) == plain_before


def test_the_rest_of_a_dataset_stays_as_it_is() -> None:
    path = write_dataset(Path("preds"))
    run(path)
    before, after = (json.loads(file.read_text()) for file in (path, out_of(path)))
    assert list(before) == list(after)
    assert (before["images"], before["categories"]) == (after["images"], after["categories"])


def test_the_fields_evaluator_reads_the_result_and_finds_it_better() -> None:
    path = write_results(Path("preds"))
    run(path, "--scale", "2")
    truth = json.loads(write_dataset(Path("truth")).read_text())
    truth["annotations"] = [
        {
            "id": 1 + 2 * number + place,
            "image_id": image,
            "category_id": 3,
            "iscrowd": 0,
            "area": int(mask.sum()),
            "segmentation": compressed(mask),
        }
        for number, image in enumerate(IMAGES)
        for place, mask in enumerate(TRUE)
    ]
    labels = write_json(Path("truth/x.json"), truth)
    from segfix.evaluation import evaluate_instances

    before, after = (evaluate_instances(file, labels)["mean"] for file in (path, out_of(path)))
    assert after["ap"] > before["ap"] + 0.1


def test_a_folder_of_files_is_a_batch_that_goes_on_after_failures() -> None:
    write_json(Path("preds/a.json"), sam_list())
    write_json(Path("preds/b.json"), [])
    write_json(Path("preds/c.json"), sam_list())
    Path("preds/broken.json").write_text("[{")
    done = run("preds", "--json")
    report = json.loads(done.stdout)
    assert done.exit_code == 1
    assert [Path(row["output"]).name for row in report["done"]] == ["a.json", "b.json"]
    assert len(report["failed"]) == 2
    assert report["failed"][0].startswith("preds/broken.json: not a whole JSON file")
    assert report["failed"][1].startswith("preds/c.json: image 'c': no offset map of that name; ")
    assert json.loads(Path("refined/b.json").read_text()) == []


# --- Which offset map an image has ---


@pytest.mark.parametrize(
    ("image_id", "more", "stem", "options"),
    [
        (7, {"file_name": "val2017/street.one.jpg"}, "street.one", []),
        (7, {"file_name": "C:\\photos\\street.jpg"}, "street", []),
        (7, {"file_name": "street_leftImg8bit.png"}, "street", []),
        (7, {}, "000000000007", []),
        (7, {}, "7", []),
        (7, {}, "0007", []),
        ("street", {}, "street", []),
        ("street", {}, "street_mine", ["--suffix", "_mine"]),
        (7, {}, "town/street", ["--annotations", "names.json", "-r"]),
        (7, {"file_name": "street.jpg"}, "town/street", ["-r"]),
    ],
)
def test_images_are_matched_by_file_name_annotations_or_id(
    image_id: int | str, more: dict[str, str], stem: str, options: list[str]
) -> None:
    write_json(Path("names.json"), {"images": [{"id": 7, "file_name": "street.jpg"}]})
    item = {"image_id": image_id, "score": 1, "segmentation": compressed(FOUND[7][0]), **more}
    # A second one, that names other than the chosen file's matter.
    path = write_json(Path("preds/x.json"), [item, item | {"score": 0.5}])
    shutil.move("offsets/a.png", "a.png")
    Path("offsets", stem).parent.mkdir(exist_ok=True)
    shutil.move("a.png", f"offsets/{stem}.png")
    assert run(path, *options).exit_code == 0
    assert np.array_equal(masks_of(out_of(path))[1], refined_by(FOUND[7][0], f"offsets/{stem}.png"))


def test_an_image_of_known_name_never_takes_the_offset_map_of_its_number() -> None:
    images = [{"id": 1, "file_name": "0000.jpg"}, {"id": 2, "file_name": "0001.jpg"}]
    items = [
        {"id": place, "image_id": place, "segmentation": compressed(FOUND[7][0])}
        for place in (1, 2)
    ]
    path = write_json(Path("preds/x.json"), {"images": images, "annotations": items})
    shutil.move("offsets/a.png", "offsets/0001.png")
    done = run(path)
    assert done.exit_code == 1
    assert "image 1: no offset map of that name" in done.stderr
    before, after = (json.loads(file.read_text())["annotations"] for file in (path, out_of(path)))
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False]


def refined_by(mask: Mask, offsets: str) -> Mask:
    return segfix.refine(mask, read_offset_map(Path(offsets)))


def test_the_file_of_one_image_and_one_offset_map_are_a_pair_whatever_their_names() -> None:
    path = write_json(Path("preds/other.json"), sam_list())
    assert run(path, "--offsets", "offsets/a.png").exit_code == 0


def test_the_one_image_of_a_file_may_be_named_after_it() -> None:
    item = {"image_id": 0, "segmentation": compressed(FOUND[7][0])}
    write_json(Path("preds/a.json"), [item])
    write_json(Path("preds/b.json"), [item, item | {"image_id": 1}])
    done = run("preds")
    assert "1 written, 1 failed" in done.stdout
    assert Path("refined/a.json").exists()


def test_images_without_offset_map_are_listed_and_a_later_run_completes_the_file() -> None:
    path = write_results(Path("preds"))
    shutil.move("offsets/b.png", "b.png")
    for _ in range(2):
        done = run(path)
        assert done.exit_code == 1
        assert "refined: 1 written, 1 failed; 3 of 5 instances changed" in done.stdout
        assert done.stderr.splitlines()[-1].startswith(
            "failed: preds/x.json: image 12: no offset map of that name; run predict-offsets"
        )
        assert items_of(out_of(path))[3:] == items_of(path)[3:]
    shutil.move("b.png", "offsets/b.png")
    done = run(path)
    assert (done.exit_code, done.stderr.count("failed")) == (0, 0)
    for old, new in zip(masks_of(path), masks_of(out_of(path)), strict=True):
        assert np.array_equal(new, refined(old))
    assert "1 already there" in run(path).stdout


def test_no_offset_map_at_all_leaves_nothing_behind() -> None:
    path = write_results(Path("preds"))
    for stem in "ab":
        shutil.move(f"offsets/{stem}.png", f"offsets/other_{stem}.png")
    done = run(path)
    assert done.exit_code == 1
    assert "no offset map of that name" in done.stderr
    assert not Path("refined").exists()


# --- Skipping, replacing, dying ---


@every_kind
def test_a_second_run_skips_and_changes_are_noticed(kind: str) -> None:
    path = KINDS[kind](Path("preds"))
    run(path)
    written = out_of(path).read_bytes()
    assert "0 written, 1 already there" in run(path).stdout
    for options in (["--scale", "2"], ["--empty", "drop"]):
        done = run(path, *options)
        assert done.exit_code == 1
        assert "--overwrite replaces it" in done.stderr
    path.write_text(path.read_text() + "\n")
    assert run(path).exit_code == 1
    assert out_of(path).read_bytes() == written
    assert run(path, "--overwrite", "--scale", "2").exit_code == 0
    assert out_of(path).read_bytes() != written


def test_a_file_that_is_not_ours_is_never_replaced_unasked() -> None:
    path = write_sam(Path("preds"))
    out_of(path).parent.mkdir()
    out_of(path).write_text("precious")
    done = run(path)
    assert done.exit_code == 1
    assert "refined/a.json: exists and is not what this run would make" in done.stderr
    assert out_of(path).read_text() == "precious"


def test_a_result_cut_short_is_made_again() -> None:
    path = write_sam(Path("preds"))
    run(path)
    whole = out_of(path).read_bytes()
    out_of(path).write_bytes(whole[:50])
    assert run(path).exit_code == 0
    assert out_of(path).read_bytes() == whole


def test_dying_while_writing_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sam(Path("preds"))
    run(path)
    before = out_of(path).read_bytes()

    def die(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("segfix.files.provenance.content_digest", die)
        run(path, "--overwrite", "--scale", "2")
    assert out_of(path).read_bytes() == before
    assert sorted(Path("refined").iterdir()) == [record_path(out_of(path)), out_of(path)]


def test_results_never_replace_what_is_read() -> None:
    path = write_sam(Path("preds"))
    assert run(path, "-o", "preds").exit_code == 2


# --- Instances of which nothing is left ---


@pytest.mark.parametrize("empty", ["keep", "drop"])
@every_kind
def test_an_instance_that_would_vanish_stays_and_is_flagged_or_is_left_out(
    kind: str, empty: str
) -> None:
    path = KINDS[kind](Path("preds"))
    # A line beside the true object, from which every offset leads away.
    thin = box(8, 9, 16, 1)
    assert not refined(thin).any()
    document = json.loads(path.read_text())
    items = document if isinstance(document, list) else document["annotations"]
    if "segments" in items[1]:
        (polygon,) = polygons(thin)
        items[1]["segments"] = {"x": polygon[::2], "y": polygon[1::2]}
    else:
        form = polygons if isinstance(items[1]["segmentation"], list) else compressed
        items[1]["segmentation"] = form(thin)
    write_json(path, document)
    before = items_of(path)
    done = run(path, "--empty", empty, "--json", "-q")
    report = json.loads(done.stdout)
    assert done.exit_code == 0
    (emptied,) = report["emptied"]
    assert emptied["place"] == 1
    assert emptied["id"] == before[1].get("id")
    after = items_of(out_of(path))
    assert len(after) == len(before) - (empty == "drop")
    assert (before[1] in after) == (empty == "keep")
    text = run(path, "--empty", empty, "--overwrite").stdout
    told = "would have vanished and stay as they were" if empty == "keep" else "are left out"
    assert told in text


@pytest.mark.parametrize("empty", ["keep", "drop"])
def test_masks_that_were_empty_stay_unless_dropped(empty: str) -> None:
    items = [*sam_list(), {"segmentation": compressed(np.zeros(SIZE, bool)), "area": 0}]
    items.append({"segmentation": []})
    path = write_json(Path("preds/a.json"), items)
    report = json.loads(run(path, "--empty", empty, "--json", "-q").stdout)
    assert [item["place"] for item in report["emptied"]] == [3, 4]
    assert items_of(out_of(path))[3:] == (items[3:] if empty == "keep" else [])


# --- Faulty files ---


@pytest.mark.parametrize(
    ("segmentation", "text"),
    [
        ({"size": [40, 60], "counts": [2000]}, "runs of 2000 pixels in all"),
        ({"size": [40, 60], "counts": [2401, -1]}, "broken run lengths"),
        ({"size": [40, 60], "counts": [2**62] * 4}, "a run of 4611686018427387904 pixels"),
        ({"size": [40, 60], "counts": [10**30]}, "broken run lengths"),
        ({"size": [40, 60], "counts": "oooooooooo0"}, "broken run lengths"),
        ({"size": [40, 60], "counts": "é"}, "codec"),
        ({"size": [40, 60], "counts": {}}, "broken run lengths"),
        ({"size": [60, 40], "counts": [2400]}, "40×60 pixels, not 60×40"),
        ({"size": [10**9, 10**9], "counts": [10**18]}, "1000000000×1000000000 pixels, not 60×40"),
        ({"size": 3, "counts": [2400]}, "neither run lengths nor polygons"),
        ({"counts": [2400]}, "neither run lengths nor polygons"),
        ([[1, 1, 5, 5]], "three points or more"),
        ([[1, 1, 5, 5, float("nan"), 2]], "far outside"),
        ([[1, 1, 5, 5, 9, float("inf")]], "beyond 60×40"),
        ([[1, 1, 300, 1, 300, 5]], "polygons up to x = 300, y = 5, beyond 60×40 pixels"),
        ([[[[[1]]]]], ""),
        ("text", "neither run lengths nor polygons"),
        (True, "neither run lengths nor polygons"),
    ],
)
def test_a_broken_mask_is_named_and_other_images_are_done(segmentation: Any, text: str) -> None:
    path = write_results(Path("preds"))
    items = items_of(path)
    items[4]["segmentation"] = segmentation
    write_json(path, items)
    done = run(path)
    assert done.exit_code == 1
    (told,) = (line for line in done.stderr.splitlines() if line.startswith("failed: "))
    assert told.startswith("failed: preds/x.json: image 12: the mask of instance 4 is broken, or")
    assert text in told
    assert "offsets/b.png" in told
    after = items_of(out_of(path))
    assert json.dumps(after[3:]) == json.dumps(items[3:])
    assert np.array_equal(decoded(after[0]["segmentation"]), refined(FOUND[7][0]))


def test_polygons_of_a_dataset_of_other_size_are_refused() -> None:
    document = json.loads(write_dataset(Path("preds")).read_text())
    for image in document["images"]:
        image["width"] = 61
    for item in document["annotations"]:
        item["segmentation"] = polygons(decoded(item["segmentation"]))
    done = run(write_json(Path("preds/x.json"), document))
    assert done.exit_code == 1
    assert "61×40 pixels, not 60×40" in done.stderr


def test_normalised_polygons_of_ultralytics_are_refused() -> None:
    path = write_ultralytics(Path("preds"))
    items = items_of(path)
    items[0]["segments"] = {"x": [0.1, 0.5, 0.5], "y": [0.1, 0.1, 0.5]}
    done = run(write_json(path, items))
    assert done.exit_code == 1
    assert "normalize=False" in done.stderr


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "not a whole JSON file"),
        ("[" * 100_000, "not a whole JSON file"),
        ("[1" + "0" * 10_000 + "]", "not a whole JSON file"),
        ("3", "no list 'annotations'"),
        ('{"images": []}', "no list 'annotations'"),
        ("[3]", "results[0] has no 'segmentation'"),
        ('[{"image_id": 7, "bbox": [1, 2, 3, 4]}]', "results[0] has no 'segmentation'"),
        ('[{"segments": {"x": [1, 2], "y": [1]}}]', "results[0] has no 'segmentation'"),
        ('[{"segmentation": [], "image_id": 7}, {"segmentation": []}]', "has no 'image_id'"),
        ('[{"segmentation": [], "image_id": [7]}]', "expected a number or a text"),
        ('{"images": 3, "annotations": [{"segmentation": [], "image_id": 7}]}', "images is no"),
    ],
)
def test_a_faulty_file_is_named(content: str, text: str) -> None:
    write_sam(Path("preds"))
    Path("preds/x.json").write_text(content)
    done = run("preds")
    assert done.exit_code == 1
    (told,) = (line for line in done.stderr.splitlines() if line.startswith("failed: "))
    assert told.startswith("failed: preds/x.json: ")
    assert text in told
    assert Path("refined/a.json").exists()
    assert not Path("refined/x.json").exists()


def test_a_json_nested_deep_in_other_keys_does_not_crash() -> None:
    text = json.dumps(sam_list())
    deep = '"deep": ' + "[" * 900 + "]" * 900 + ", "
    Path("preds").mkdir()
    Path("preds/a.json").write_text(text.replace("[{", "[{" + deep, 1))
    assert run("preds/a.json").exit_code in (0, 1)


def test_max_failures_gives_up_on_the_images_of_a_file() -> None:
    items = [
        {"image_id": number, "segmentation": compressed(FOUND[7][0])} for number in range(100, 130)
    ]
    path = write_json(
        Path("preds/x.json"), [items[0] | {"image_id": 1, "file_name": "a.jpg"}, *items]
    )
    done = run(path, "--max-failures", "2", "--workers", "1")
    assert done.exit_code == 1
    assert "not tried (--max-failures)" in done.stdout


def test_options_that_would_be_ignored_are_refused() -> None:
    write_json(Path("names.json"), {"images": []})
    Path("preds").mkdir()
    Image.new("L", SIZE[::-1]).save("preds/a.png")
    done = run("preds", "--annotations", "names.json")
    assert done.exit_code == 2
    assert "--annotations is not for label maps" in " ".join(done.stderr.split())
    path = write_json(Path("x.json"), [])
    for option in (["--fit", "image"], ["--soft"], ["--argmax"], ["--key", "a"]):
        done = run(path, *option)
        assert done.exit_code == 2
        assert f"{option[0]} is not for JSON and lists of instances" in " ".join(
            done.stderr.split()
        )


def test_without_the_extra_the_advice_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'pycocotools'", name="pycocotools")

    monkeypatch.setattr("segfix.instances.photographs.decode_mask", absent)
    done = run(write_sam(Path("preds")))
    assert done.exit_code == 1
    assert "pip install 'segfix-refine[eval]'" in done.stderr


# --- Panoptic ---


SEGMENTS = {3: 0, 70_000: 1, 70_001: 2}
"""Ids of the background and of the two objects."""


def write_panoptic(folder: Path, mode: str = "RGB") -> Path:
    annotations = []
    for image, stem in IMAGES.items():
        ids = np.full(SIZE, 3)
        ids[:2] = 0
        for mask, segment in zip(FOUND[image], (70_000, 70_001), strict=False):
            ids[mask] = segment
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        (folder / "x").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).convert(mode).save(folder / "x" / f"{stem}.png")
        segments = [
            {
                "id": segment,
                "category_id": place,
                "isthing": place > 0,
                "bbox": bounds(ids == segment),
                "area": int((ids == segment).sum()),
            }
            for segment, place in SEGMENTS.items()
        ]
        annotations.append(
            {"image_id": image, "file_name": f"{stem}.png", "segments_info": segments}
        )
    return write_json(folder / "x.json", {"info": {"v": 1}, "annotations": annotations})


def segment_ids(path: Path) -> NDArray[np.int64]:
    colours = np.asarray(Image.open(path), np.int64)
    ids: NDArray[np.int64] = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
    return ids


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_panoptic_offsets_that_lead_nowhere_give_the_same_files(mode: str) -> None:
    path = write_panoptic(Path("preds"), mode)
    assert run(path, "--offsets", "zeros").exit_code == 0
    assert json.dumps(json.loads(path.read_text())) == json.dumps(
        json.loads(out_of(path).read_text())
    )
    for stem in "ab":
        before, after = (
            Image.open(folder / "x" / f"{stem}.png") for folder in (path.parent, Path("refined"))
        )
        assert (before.mode, before.tobytes()) == (after.mode, after.tobytes())


@pytest.mark.parametrize("options", [[], ["--scale", "1"]])
def test_panoptic_maps_are_looked_up_whole_and_segments_measured(options: list[str]) -> None:
    path = write_panoptic(Path("preds"))
    done = run(path, *options)
    assert (done.exit_code, "; 6 of 6 instances changed" in done.stdout) == (0, True)
    document = json.loads(out_of(path).read_text())
    assert document["info"] == {"v": 1}
    for annotation, original in zip(
        document["annotations"], json.loads(path.read_text())["annotations"], strict=True
    ):
        name = annotation["file_name"]
        before = np.asarray(Image.open(path.parent / "x" / name))
        expected = refined(before, scale=1 if options else None)
        assert np.array_equal(np.asarray(Image.open(Path("refined/x", name))), expected)
        ids = segment_ids(Path("refined/x", name))
        assert [list(segment) for segment in annotation["segments_info"]] == [
            list(segment) for segment in original["segments_info"]
        ]
        for segment in annotation["segments_info"]:
            assert segment["area"] == (ids == segment["id"]).sum()
            assert segment["bbox"] == bounds(ids == segment["id"])
    assert "1 already there" in run(path, *options).stdout
    Path("refined/x/a.png").unlink()
    assert "1 written" in run(path, *options).stdout
    assert Path("refined/x/a.png").exists()


@pytest.mark.parametrize("empty", ["keep", "drop"])
def test_a_panoptic_segment_that_would_vanish_keeps_its_pixels_or_is_left_out(empty: str) -> None:
    path = write_panoptic(Path("preds"))
    document = json.loads(path.read_text())
    thin = box(8, 9, 16, 1)
    picture = np.array(Image.open("preds/x/a.png"))
    picture[thin] = (9, 0, 0)
    Image.fromarray(picture).save("preds/x/a.png")
    extra = {"id": 9, "category_id": 1, "area": 16}
    document["annotations"][0]["segments_info"].append(extra)
    write_json(path, document)
    report = json.loads(run(path, "--empty", empty, "--json", "-q").stdout)
    assert report["emptied"] == [{"file": "preds/x.json", "image": 7, "id": 9}]
    segments = json.loads(out_of(path).read_text())["annotations"][0]["segments_info"]
    assert len(segments) == (4 if empty == "keep" else 3)
    left = segment_ids(Path("refined/x/a.png")) == 9
    assert np.array_equal(left, thin if empty == "keep" else np.zeros(SIZE, bool))


def test_panoptic_images_without_offset_map_are_copied_until_there_is_one() -> None:
    path = write_panoptic(Path("preds"))
    shutil.move("offsets/b.png", "b.png")
    for _ in range(2):
        done = run(path)
        assert done.exit_code == 1
        assert "image 12: no offset map" in done.stderr
        assert np.array_equal(
            segment_ids(Path("refined/x/b.png")), segment_ids(Path("preds/x/b.png"))
        )
    shutil.move("b.png", "offsets/b.png")
    assert run(path).exit_code == 0
    expected = refined(np.asarray(Image.open("preds/x/b.png")))
    assert np.array_equal(np.asarray(Image.open("refined/x/b.png")), expected)


def long_name() -> str:
    return Path("preds/x.json").read_text().replace("b.png", f"{'b' * 300}.png")


def test_a_panoptic_picture_that_has_changed_is_noticed() -> None:
    path = write_panoptic(Path("preds"))
    assert run(path).exit_code == 0
    assert "1 already there" in run(path).stdout
    shutil.copy("preds/x/a.png", "preds/x/b.png")
    done = run(path)
    assert done.exit_code == 1
    assert "exists and is not what this run would make" in done.stderr
    assert run(path, "--overwrite").exit_code == 0
    expected = refined(np.asarray(Image.open("preds/x/a.png")))
    assert np.array_equal(np.asarray(Image.open("refined/x/b.png")), expected)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda: Path("preds/x/b.png").unlink(), "preds/x/b.png: no such file"),
        (lambda: Path("preds/x/b.png").write_bytes(b"x"), "not a readable panoptic map"),
        (lambda: Path("preds/x.json").write_text(long_name()), "File name too long"),
        (lambda: Image.new("P", (60, 40)).save("preds/x/b.png"), "mode P; expected a panoptic"),
        (lambda: Image.new("RGB", (30, 40)).save("preds/x/b.png"), "30×40, but its offset map"),
    ],
)
def test_a_faulty_panoptic_picture_is_named(spoil: Callable[[], object], text: str) -> None:
    path = write_panoptic(Path("preds"))
    spoil()
    done = run(path)
    assert done.exit_code == 1
    assert text in done.stderr
    assert Path("refined/x/a.png").exists()


@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", ".."])
def test_panoptic_file_names_may_not_leave_the_folder(name: str) -> None:
    path = write_panoptic(Path("preds"))
    document = json.loads(path.read_text())
    document["annotations"][1]["file_name"] = name
    done = run(write_json(path, document))
    assert done.exit_code == 1
    assert "lies outside of preds/x" in done.stderr
    assert not Path("refined").exists()


@pytest.mark.parametrize("name", ["a\0.png", "\ud800.png"])
def test_panoptic_file_names_that_can_be_none_are_told(name: str) -> None:
    path = write_panoptic(Path("preds"))
    document = json.loads(path.read_text())
    document["annotations"][1]["file_name"] = name
    done = run(write_json(path, document))
    assert done.exit_code == 1
    assert "is no file name" in done.stderr


# --- Arrays ---


def write_archive(folder: Path, dtype: Any = bool, factor: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    masks = np.stack(FOUND[7]).astype(dtype) * dtype(factor)
    np.savez(folder / "a.npz", scores=[0.1, 0.2, 0.3], masks=masks, info=np.array(7))
    return folder / "a.npz"


@pytest.mark.parametrize(("dtype", "factor"), [(bool, 1), (np.uint8, 255), (np.int64, 1)])
@pytest.mark.parametrize("source", ["preds", "preds/a.npz"])
def test_archives_of_masks_come_back_with_all_arrays(dtype: Any, factor: int, source: str) -> None:
    path = write_archive(Path("preds"), dtype, factor)
    assert run(source, "-o", "same", "--offsets", "zeros").exit_code == 0
    done = run(source)
    assert "refined: 1 written; 13.12% of the pixels changed" in done.stdout
    assert "1 already there" in run(source).stdout
    before, same, after = (
        arrays_of(file) for file in (path, Path("same/a.npz"), Path("refined/a.npz"))
    )
    assert list(before) == list(same) == list(after)
    for name, array in before.items():
        assert same[name].dtype == after[name].dtype == array.dtype
        assert np.array_equal(same[name], array)
    assert np.array_equal(after["masks"], segfix.refine_masks(before["masks"], offsets_of("a")))


def arrays_of(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path) as archive:
        return dict(archive)


def offsets_of(stem: str) -> OffsetMap:
    return read_offset_map(Path("offsets", f"{stem}.png"))


@pytest.mark.parametrize("empty", ["keep", "drop"])
def test_an_empty_mask_of_an_archive_stays_or_is_left_out_of_all_arrays(empty: str) -> None:
    masks = np.stack([FOUND[7][0], box(8, 9, 16, 1), np.zeros(SIZE, bool)])
    Path("preds").mkdir()
    np.savez("preds/a.npz", masks=masks, scores=[0.1, 0.2, 0.3], info=np.arange(5))
    report = json.loads(run("preds", "--empty", empty, "--json", "-q").stdout)
    assert [item["place"] for item in report["emptied"]] == [1, 2]
    after = arrays_of(Path("refined/a.npz"))
    assert after["scores"].tolist() == [0.1, 0.2, 0.3][: 3 if empty == "keep" else 1]
    assert np.array_equal(after["masks"][1:], masks[1:] if empty == "keep" else masks[:0])
    assert after["info"].tolist() == list(range(5))


@pytest.mark.parametrize("empty", ["keep", "drop"])
def test_archives_of_no_mask_come_back(empty: str) -> None:
    Path("preds").mkdir()
    np.savez("preds/a.npz", boxes=np.zeros((0, 4)), masks=np.zeros((0, *SIZE), bool))
    np.save("preds/b.npy", np.zeros((0, *SIZE), bool))
    assert run("preds", "--empty", empty).exit_code == 0
    after = arrays_of(Path("refined/a.npz"))
    assert (after["boxes"].shape, after["masks"].shape) == ((0, 4), (0, *SIZE))
    assert np.load("refined/b.npy").shape == (0, *SIZE)


@pytest.mark.parametrize(
    ("masks", "text"),
    [
        (
            np.zeros((2, 40, 61), bool),
            "array 'masks' is 61×40, but its offset map offsets/a.png is 60×40",
        ),
        (np.zeros((2, 2, *SIZE), bool), "of shape (2, 2, 40, 60)"),
        (np.array([[None]]), "'masks': an array of Python objects, which isn't read"),
    ],
)
def test_faulty_archives_fail_alone(masks: NDArray[Any], text: str) -> None:
    path = write_archive(Path("preds"))
    path.rename("preds/b.npz")
    np.savez(path, masks=masks)
    done = run("preds")
    assert done.exit_code == 1
    assert f"failed: preds/a.npz: {text}" in done.stderr
    assert Path("refined/b.npz").exists()


def test_archives_cut_short_fail_alone() -> None:
    path = write_archive(Path("preds"))
    whole = path.read_bytes()
    Path("preds/b.npz").write_bytes(whole[: len(whole) // 2])
    done = run("preds")
    assert done.exit_code == 1
    assert "failed: preds/b.npz: broken or truncated .npz file" in done.stderr


# --- Cityscapes ---


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
