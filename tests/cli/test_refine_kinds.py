"""`segfix refine` on every kind of prediction file: the same pixels as the plain array path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from segfix import refine, refine_masks
from segfix.formats import OffsetMap, read_label_map, read_offset_map, write_offset_map
from segfix.formats.images import turn_back
from segfix.refinement.sizes import resize_linear, resize_nearest
from tests.cli.commands import run

CROPS = Path(__file__).parents[1] / "data" / "camvid"
STEM = "0016E5_08079"
NUM_CLASSES = 12


@pytest.fixture
def crop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.uint8]:
    """A real prediction, with its real offset map in offsets/ and `zero` ones in zero/."""
    monkeypatch.chdir(tmp_path)
    offset_map = read_offset_map(CROPS / "offsets" / f"{STEM}.png")
    write_offset_map(Path("offsets/a.png"), offset_map)
    write_offset_map(Path("zero/a.png"), OffsetMap(np.zeros_like(offset_map.codes)))
    Path("preds").mkdir()
    return read_label_map(CROPS / "preds" / f"{STEM}.png").array


def offsets_of_a() -> OffsetMap:
    return read_offset_map(Path("offsets/a.png"))


def soft(ids: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(C, H, W) probabilities whose likeliest class is `ids`, different at every pixel."""
    noise = np.random.default_rng(0).random((NUM_CLASSES, *ids.shape), np.float32)
    noise[ids, np.arange(ids.shape[0])[:, None], np.arange(ids.shape[1])] += 2
    found: NDArray[np.float32] = noise / noise.sum(0)
    return found


COLOURS = np.random.default_rng(1).integers(0, 256, (256, 4)).astype(np.uint8)


def write_kind(kind: str, ids: NDArray[np.uint8]) -> Path:
    """The prediction as a file of a kind; none of them may be told by its ids alone."""
    path = Path("preds/a").with_suffix("." + kind.split("-", maxsplit=1)[0])
    picture = Image.fromarray(ids)
    options: dict[str, Any] = {"lossless": True, "exact": True} if "webp" in kind else {}
    if kind == "png-palette":
        picture.putpalette(COLOURS[:, :3].tobytes())
        picture.save(path, transparency=bytes(range(12)))
    elif kind == "png-16":
        Image.fromarray(ids.astype(np.uint16) * 1000).save(path)
    elif kind == "png-1":
        Image.fromarray(ids > 3).save(path)
    elif kind == "png-4":
        Image.fromarray(ids * 17).save(path, bits=4)
    elif kind in ("png-rgb", "tif-rgb", "webp-rgb"):
        Image.fromarray(COLOURS[ids][..., :3]).save(path, **options)
    elif kind in ("png-rgba", "webp-rgba"):
        Image.fromarray(COLOURS[ids]).save(path, **options)
    elif kind == "tif-geo":
        geo = [(33550, "d", 3, (0.5, 0.5, 0.0), True), (34737, "s", 0, "WGS 84|", True)]
        tifffile.imwrite(path, ids, extratags=geo, metadata=None, compression="zlib")
    elif kind == "tif-32":
        tifffile.imwrite(path, ids.astype(np.int32) * 10**6, metadata=None)
    elif kind == "npy-int64":
        np.save(path, ids.astype(np.int64))
    elif kind == "npy-batch":
        np.save(path, ids[None, None].astype(np.float32))
    elif kind == "npz-ids":
        np.savez_compressed(path, ids=ids, name=np.array("a"))
    elif kind == "npy-chw":
        np.save(path, soft(ids))
    elif kind == "npy-hwc16":
        np.save(path, np.moveaxis(soft(ids), 0, -1).astype(np.float16))
    elif kind == "npz-soft":
        np.savez(path, probabilities=soft(ids)[:, None], classes=np.arange(NUM_CLASSES))
    else:
        picture.save(path)
    return path


KINDS = [
    *("png", "png-palette", "png-16", "png-1", "png-4", "png-rgb", "png-rgba", "tif", "tif-geo"),
    *("tif-32", "tif-rgb", "webp-rgb", "webp-rgba", "npy-int64", "npy-batch", "npz-ids"),
    *("npy-chw", "npy-hwc16", "npz-soft"),
]


def content(path: Path) -> list[Any]:
    """What a file holds, by other readers than ours."""
    if path.suffix == ".npy":
        return [np.load(path)]
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return [*arrays, *arrays.values()]
    with Image.open(path) as picture:
        found = [np.array(picture), picture.mode, picture.getpalette()]
        found += [picture.info.get("transparency")]
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            assert isinstance(page, tifffile.TiffPage)
            found += [page.tags.get(tag) and page.tags[tag].value for tag in (33550, 34737, 259)]
    return found


def assert_equal(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)
        else:
            assert one == other


@pytest.mark.parametrize("kind", KINDS)
def test_zero_offsets_give_back_the_content(crop: NDArray[np.uint8], kind: str) -> None:
    source = write_kind(kind, crop)
    result = run("refine", "preds", "--offsets", "zero")
    assert result.exit_code == 0, result.output
    assert "0.00% of the pixels changed" in result.stdout
    assert_equal(content(Path("refined") / source.name), content(source))


@pytest.mark.parametrize("scale", [[], ["--scale", "2"], ["--iterate"]])
@pytest.mark.parametrize("kind", KINDS)
def test_real_offsets_give_the_pixels_of_the_array_path(
    crop: NDArray[np.uint8], kind: str, scale: list[str]
) -> None:
    source = write_kind(kind, crop)
    # Ids above 255 are instances, none of which would get lost.
    assert run("refine", "preds", *scale, "--empty", "drop").exit_code == 0
    options: dict[str, dict[str, int]] = {"--scale": {"scale": 2}, "--iterate": {"iterate": 10}}
    keywords: dict[str, Any] = {**options[scale[0]]} if scale else {}
    offset_map = offsets_of_a()
    given, found = (read_label_map(path) for path in (source, Path("refined") / source.name))
    ids = crop if kind != "png-1" else crop > 3
    # Where each pixel's label comes from, by ids alone.
    places = np.arange(crop.size).reshape(crop.shape)
    lookup = np.stack([ids.astype(np.int64), places], axis=2)
    expected = refine(ids, offset_map, **keywords)
    assert np.array_equal(found.ids() == given.ids(), expected == ids)
    assert (found.ids() != given.ids()).any()
    if scale:
        # The same source pixel in every channel.
        came_from = refine(lookup, offset_map, **keywords)[..., 1]
        flat = given.planes.reshape(crop.size, -1)
        assert np.array_equal(flat[came_from].reshape(found.planes.shape), found.planes)


def test_a_second_run_skips_every_kind(crop: NDArray[np.uint8]) -> None:
    for kind in ("png", "tif", "webp-rgb", "npy-chw", "npz-soft"):
        write_kind(kind, crop)
    # One stem, five kinds: none stands in another's way.
    assert "5 written" in run("refine", "preds").stdout
    assert "5 already there" in run("refine", "preds").stdout
    Path("refined/a.npy").write_bytes(b"cut short")
    result = run("refine", "preds")
    assert "4 already there" in result.stdout
    assert "1 written" in result.stdout
    np.save("refined/a.npy", crop)
    Path("refined/.a.npy.segfix").unlink()
    result = run("refine", "preds")
    assert result.exit_code == 1
    assert "refined/a.npy: exists and is not what this run would make" in result.stderr
    assert run("refine", "preds", "--overwrite").exit_code == 0


def test_argmax_writes_label_maps(crop: NDArray[np.uint8]) -> None:
    write_kind("npy-chw", crop)
    assert run("refine", "preds", "--argmax").exit_code == 0
    refined = read_label_map(Path("refined/a.png"))
    assert np.array_equal(refined.array, refine(crop, offsets_of_a()))
    assert refined.array.dtype == np.uint8
    assert run("refine", "preds", "-o", "soft").exit_code == 0
    assert np.array_equal(np.load("soft/a.npy").argmax(0), refined.array)
    Path("preds/a.npy").unlink()
    for certain in (crop * 0.0, crop * 0.0 + 1):
        np.save("preds/a.npy", certain)
        assert run("refine", "preds", "--argmax", "--overwrite").exit_code == 0
        assert np.array_equal(np.asarray(Image.open("refined/a.png")), certain)
    Path("preds/a.npy").unlink()
    write_kind("png", crop)
    result = run("refine", "preds", "--argmax", "-o", "other")
    assert result.exit_code == 1
    assert "preds/a.png: ids, not scores; leave --argmax out" in result.stderr


def test_soft_grey_is_probability_of_the_foreground(crop: NDArray[np.uint8]) -> None:
    foreground = (crop == 3).astype(float) * 0.8 + 0.1
    noise = np.random.default_rng(0).random(crop.shape) * 0.1
    Image.fromarray(((foreground + noise) * 65535).astype(np.uint16)).save("preds/a.png")
    np.save("preds/b.npy", (foreground + noise).astype(np.float32))
    Path("offsets/b.png").write_bytes(Path("offsets/a.png").read_bytes())
    assert run("refine", "preds", "--soft").exit_code == 0
    refined = read_label_map(Path("refined/a.png"), soft=True)
    assert refined.array.dtype == np.uint16
    expected = refine((crop == 3).astype(np.uint8), offsets_of_a())
    assert np.array_equal(refined.ids(), expected)
    assert np.array_equal(np.load("refined/b.npy") > 0.5, expected)
    assert {*refined.array.flat} <= {*read_label_map(Path("preds/a.png")).array.flat}


def test_key_chooses_the_array(crop: NDArray[np.uint8]) -> None:
    np.savez("preds/a.npz", one=crop, two=crop[::-1])
    result = run("refine", "preds")
    assert result.exit_code == 1
    assert "--key says which" in result.stderr
    assert run("refine", "preds", "--key", "two").exit_code == 0
    with np.load("refined/a.npz") as arrays:
        assert np.array_equal(arrays["one"], crop)
        assert np.array_equal(arrays["two"], refine(crop[::-1], offsets_of_a()))


def test_no_id_of_an_instance_map_gets_lost(crop: NDArray[np.uint8]) -> None:
    offset_map = offsets_of_a()
    dy, dx = offset_map.vectors().astype(int)
    # A pixel that looks elsewhere in the image, and that nobody looks at.
    rows, cols = np.nonzero((dy != 0) | (dx != 0))
    inside = (rows > 1) & (cols > 1) & (rows < dy.shape[0] - 2) & (cols < dy.shape[1] - 2)
    seen = {*zip(rows + 2 * dy[rows, cols], cols + 2 * dx[rows, cols], strict=True)}
    rows, cols = rows[inside], cols[inside]
    spot = next(place for place in zip(rows, cols, strict=True) if place not in seen)
    for offset, stem in ((1000, "a"), (0, "b")):
        ids = crop.astype(np.uint16) + np.uint16(offset)
        ids[spot] = offset + 200
        Image.fromarray(ids).save(f"preds/{stem}.png")
        Path(f"offsets/{stem}.png").write_bytes(Path("offsets/a.png").read_bytes())
    result = run("refine", "preds", "--scale", "2", "--json", "-q")
    assert json.loads(result.stdout)["emptied"] == [{"image": "a", "id": 1200}]
    kept, not_kept = (read_label_map(Path(f"refined/{stem}.png")).array for stem in "ab")
    assert kept[spot] == 1200
    assert (kept != not_kept + 1000).sum() == 1, "classes may get lost"
    result = run("refine", "preds", "--scale", "2", "--empty", "drop", "-o", "dropped")
    assert "1 instance of which nothing was left is left out" in result.stdout
    assert np.array_equal(read_label_map(Path("dropped/a.png")).array, not_kept + 1000)


def test_masks_in_numbers_are_masks_and_one_hot_classes_are_scores(
    crop: NDArray[np.uint8],
) -> None:
    masks = np.stack([crop == 3, crop >= 3, crop == 5])
    np.save("preds/bool.npy", masks)
    np.save("preds/uint8.npy", masks.astype(np.uint8) * 255)
    np.save("preds/float.npy", masks.astype(np.float32))
    np.save("preds/one-hot.npy", np.moveaxis(np.eye(NUM_CLASSES)[crop], 2, 0).astype(np.uint8))
    for name in ("bool", "uint8", "float", "one-hot"):
        Path(f"offsets/{name}.png").write_bytes(Path("offsets/a.png").read_bytes())
    assert run("refine", "preds").exit_code == 0
    found = {path.stem: np.load(path) for path in Path("refined").glob("*.npy")}
    assert np.array_equal(found["bool"], refine_masks(masks, offsets_of_a()))
    assert np.array_equal(found["uint8"], found["bool"] * np.uint8(255))
    assert np.array_equal(found["float"], found["bool"])
    assert np.array_equal(found["one-hot"].argmax(0), refine(crop, offsets_of_a()))


def test_of_several_arrays_the_one_of_the_photographs_size_is_meant(
    crop: NDArray[np.uint8],
) -> None:
    features = np.random.default_rng(0).random((64, 90, 120))
    np.savez("preds/a.npz", features=features, labels=crop)
    assert run("refine", "preds").exit_code == 0
    with np.load("refined/a.npz") as arrays:
        assert np.array_equal(arrays["features"], features)
        assert np.array_equal(arrays["labels"], refine(crop, offsets_of_a()))


def test_a_jpeg_gets_advice_that_helps(crop: NDArray[np.uint8]) -> None:
    Image.fromarray(crop).save("preds/a.jpg")
    assert "it holds 1 .jpg (lossy: export label maps as PNG)." in run("refine", "preds").stderr
    result = run("refine", "preds/a.jpg")
    assert "its ids have blurred, and converting it doesn't bring them back" in result.stderr


# Sizes


def test_another_size_is_an_error_that_names_both_and_the_option(crop: NDArray[np.uint8]) -> None:
    height, width = crop.shape
    Image.fromarray(crop[::2, ::2]).save("preds/a.png")
    result = run("refine", "preds")
    assert result.exit_code == 1
    assert f"preds/a.png: {width // 2}×{height // 2}, but its offset map" in result.stderr
    assert f"is {width}×{height}; --fit image" in result.stderr
    assert not Path("refined").exists()


def test_fit_image_enlarges_and_fit_labels_reduces_the_offsets(crop: NDArray[np.uint8]) -> None:
    small, offset_map = crop[::2, ::2], offsets_of_a()
    Image.fromarray(small).save("preds/a.png")
    np.save("preds/a.npy", soft(small))
    assert run("refine", "preds", "--fit", "image").exit_code == 0
    large = resize_nearest(small, crop.shape)
    assert np.array_equal(read_label_map(Path("refined/a.png")).array, refine(large, offset_map))
    scores = resize_linear(np.moveaxis(soft(small), 0, -1), crop.shape)
    assert np.array_equal(np.moveaxis(np.load("refined/a.npy"), 0, -1), refine(scores, offset_map))
    assert run("refine", "preds", "--fit", "labels", "-o", "small").exit_code == 0
    codes = resize_nearest(offset_map.codes, small.shape)
    reduced = OffsetMap(
        codes, offset_map.num_directions, lowest_confidence=offset_map.lowest_confidence
    )
    assert np.array_equal(read_label_map(Path("small/a.png")).array, refine(small, reduced))


def test_a_geo_reference_never_ends_up_on_another_size(crop: NDArray[np.uint8]) -> None:
    write_kind("tif-geo", crop[::2, ::2])
    result = run("refine", "preds", "--fit", "image")
    assert result.exit_code == 1
    assert "preds/a.tif: its geo-reference wouldn't fit another size" in result.stderr
    assert run("refine", "preds", "--fit", "labels").exit_code == 0


# Orientation


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_offsets_follow_the_displayed_orientation_and_the_label_map(
    crop: NDArray[np.uint8], orientation: int, tiny_onnx: Path
) -> None:
    stored = np.random.default_rng(2).integers(0, 256, (20, 32, 3)).astype(np.uint8)
    stored[..., 1] //= 2  # the tiny network's sectors
    exif = Image.Exif()
    exif[274] = orientation
    Path("images").mkdir()
    Image.fromarray(stored).save("images/t.png", exif=exif)
    assert run("predict-offsets", "images", "--weights", tiny_onnx, "-o", "turned").exit_code == 0
    offset_map = read_offset_map(Path("turned/t.png"))
    assert offset_map.codes.shape == ((32, 20) if orientation > 4 else (20, 32))
    labels = np.random.default_rng(3).integers(0, 4, offset_map.codes.shape).astype(np.uint8)
    Path("preds/a.png").unlink(missing_ok=True)
    Image.fromarray(labels).save("preds/t.png")
    assert run("refine", "preds", "--offsets", "turned", "--scale", "2").exit_code == 0
    expected = refine(labels, offset_map, scale=2)
    assert (expected != labels).any()
    assert np.array_equal(read_label_map(Path("refined/t.png")).array, expected)
    if orientation > 4:
        # A model that didn't look at EXIF.
        Image.fromarray(np.ascontiguousarray(turn_back(labels, orientation))).save("preds/t.png")
        arguments = ["--offsets", "turned", "--scale", "2", "-o", "sideways"]
        assert run("refine", "preds", *arguments).exit_code == 0
        with Image.open("sideways/t.png") as picture:
            assert np.array_equal(np.array(picture), turn_back(expected, orientation))


# Names


LAYOUTS = {
    "cityscapes": (
        "leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit",
        ["lindau_000000_000019_leftImg8bit", "lindau/lindau_000000_000019_gtFine_labelIds"],
    ),
    "cityscapes-pred": ("lindau_000000_000019_leftImg8bit", ["lindau_000000_000019_pred"]),
    "ade20k": ("images/validation/ADE_val_00000001", ["annotations/validation/ADE_val_00000001"]),
    "ade20k-full": ("ADE_val_00000001", ["ADE_val_00000001_seg"]),
    "voc": ("JPEGImages/2007_000033", ["2007_000033", "SegmentationClass/2007_000033"]),
    "coco": ("val2017/000000000139", ["000000000139", "stuff/000000000139_pixelmaps"]),
    "coco-2014": ("val2014/COCO_val2014_000000000042", ["000000000042"]),
    "kitti": ("training/image_2/000000_10", ["training/semantic/000000_10", "000000_10"]),
    "kitti-road": ("training/image_2/um_000005", ["training/gt_image_2/um_road_000005"]),
    "mapillary": ("images/_1Gn_xkw7sa_i9GU4mkxxQ", ["v2.0/labels/_1Gn_xkw7sa_i9GU4mkxxQ"]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_pair_out_of_the_box(crop: NDArray[np.uint8], layout: str) -> None:
    image, preds = LAYOUTS[layout]
    offsets = Path("offsets/a.png").read_bytes()
    for stem in (image, image[:-1] + ("8" if image[-1] != "8" else "7")):
        path = Path("published") / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(offsets)
    for number, stem in enumerate(preds):
        path = Path(f"found{number}/{stem}.png")
        path.parent.mkdir(parents=True)
        Image.fromarray(crop).save(path)
        result = run("refine", f"found{number}", "--offsets", "published", "-r", "-o", f"o{number}")
        assert result.exit_code == 0, result.stderr
        assert np.array_equal(
            read_label_map(Path(f"o{number}/{stem}.png")).array, refine(crop, offsets_of_a())
        )


@pytest.mark.parametrize("line", ["x y.jpg\tframe 7.png", "frame 7,x y", '"frame 7" "x y.png"'])
def test_a_map_pairs_any_names_in_any_order(crop: NDArray[np.uint8], line: str) -> None:
    Image.fromarray(crop).save("preds/x y.png")
    Path("offsets/a.png").rename("offsets/frame 7.png")
    assert run("refine", "preds").exit_code == 2
    Path("names.txt").write_text(f"# prediction, photograph\n\n{line}\n")
    result = run("refine", "preds", "--map", "names.txt", "--json", "-q")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["done"][0]["output"] == "refined/x y.png"


@pytest.mark.parametrize("text", ["a", "a b c", "a\tb\tc", "\0", "a,b,c", '"a b'])
def test_a_map_that_is_none_is_named_with_its_line(crop: NDArray[np.uint8], text: str) -> None:
    Image.fromarray(crop).save("preds/a.png")
    Path("names.txt").write_text(f"a a\n{text}\n")
    result = run("refine", "preds", "--map", "names.txt")
    assert result.exit_code == 1
    assert "segfix: names.txt: line 2 is" in result.stderr
    assert "expected two names" in result.stderr
    Path("names.txt").write_bytes(b"\xff\xfe\xfa")
    assert "names.txt: not a text file" in run("refine", "preds", "--map", "names.txt").stderr
    assert "none.txt: no such file" in run("refine", "preds", "--map", "none.txt").stderr
    Path("names.txt").write_text("b frame9\n")
    Image.fromarray(crop).save("preds/b.png")
    result = run("refine", "preds", "--map", "names.txt")
    assert "preds/b.png: belongs to 'frame9' by --map, which isn't there" in result.stderr


def test_evaluate_says_which_predictions_it_passes_over(crop: NDArray[np.uint8]) -> None:
    Path("gt").mkdir()
    Image.fromarray(crop).save("gt/a.png")
    for name in ("a", "b", "c"):
        Image.fromarray(crop).save(f"preds/{name}.png")
    np.save("preds/a.npy", crop)
    result = run("evaluate", "preds", "gt")
    assert result.exit_code == 0
    assert "note: PREDS: 3 of 4 files are of no ground truth, or of one" in result.stderr


def test_a_suffix_says_which_of_several_ground_truths_is_meant(crop: NDArray[np.uint8]) -> None:
    Path("gt").mkdir()
    Image.fromarray(crop).save("preds/a_leftImg8bit.png")
    Image.fromarray(crop).save("gt/a_gtFine_labelTrainIds.png")
    Image.fromarray(crop + np.uint8(1)).save("gt/a_gtFine_labelIds.png")
    result = run("evaluate", "preds", "gt")
    assert result.exit_code == 2
    assert "--suffix _gtFine_labelIds or _gtFine_labelTrainIds takes one kind" in result.stderr
    result = run("evaluate", "preds", "gt", "--suffix", "_gtFine_labelTrainIds", "--json")
    assert json.loads(result.stdout)["sets"]["PREDS"]["mean"]["iou"] == 1


@pytest.mark.parametrize("kind", ["tif-geo", "npy-int64", "npy-chw", "npy-hwc16", "npz-soft"])
def test_every_kind_with_ids_or_scores_can_be_scored_and_drawn(
    crop: NDArray[np.uint8], kind: str
) -> None:
    write_kind(kind, crop)
    Path("labels").mkdir()
    Image.fromarray(crop).save("labels/a.png")
    Path("images").mkdir()
    Image.open(CROPS / "images" / f"{STEM}.png").save("images/a.png")
    result = run("evaluate", "preds", "labels", "--json")
    assert json.loads(result.stdout)["sets"]["PREDS"]["mean"]["iou"] == 1
    given = ["--preds", "preds", "--labels", "labels"]
    result = run("show", "images", *given, "--panel", "errors", "--json")
    assert json.loads(result.stdout)["done"][0]["wrong"] == 0
    assert run("show", "images", *given, "--panel", "preds", "-o", "drawn").exit_code == 0
