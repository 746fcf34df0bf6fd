"""One prediction in memory: each kind comes back as it was, refined as its file would be."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

import segfix
from segfix.errors import SegfixError
from segfix.tasks import in_memory

PALETTE = [10, 20, 30, 200, 0, 0, 0, 0, 250]


@pytest.fixture
def image(work: Path) -> NDArray[np.uint8]:
    return np.array(Image.open("images/a.png"))


@pytest.fixture
def pred(work: Path) -> NDArray[np.uint8]:
    return np.array(Image.open("preds/a.png"))


@pytest.fixture
def truth(work: Path) -> NDArray[np.uint8]:
    return np.array(Image.open("labels/a.png"))


def fix(image: Any, prediction: Any, weights: Path, **settings: Any) -> Any:
    return segfix.fix(image, prediction, weights=weights, device="cpu", **settings)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "uint16", "float32", "bool"])
@pytest.mark.parametrize("axes", ["hw", "1hw", "hw1", "11hw"])
def test_arrays_and_tensors_come_back_as_they_were(
    image: NDArray[np.uint8],
    pred: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    conditioned_onnx: Path,
    dtype: str,
    axes: str,
) -> None:
    spare = {"hw": (), "1hw": (0,), "hw1": (2,), "11hw": (0, 1)}[axes]
    before, expected = (
        np.expand_dims((array - 1 if dtype == "bool" else array).astype(dtype), spare)
        for array in (pred, truth)
    )
    copy = before.copy()
    after = fix(image, before, conditioned_onnx)
    assert (after.dtype, after.shape) == (before.dtype, before.shape)
    assert np.array_equal(after, expected)
    assert np.array_equal(before, copy)
    tensor = torch.as_tensor(before)
    found = fix(torch.as_tensor(image).permute(2, 0, 1), tensor, conditioned_onnx)
    assert (found.dtype, found.device) == (tensor.dtype, tensor.device)
    assert np.array_equal(found.numpy(), expected)


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16", "I", "RGB", "RGBA", "LA"])
def test_pictures_come_back_as_they_were(
    image: NDArray[np.uint8],
    pred: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    conditioned_onnx: Path,
    mode: str,
) -> None:
    def picture(array: NDArray[np.uint8]) -> Image.Image:
        if mode in ("I;16", "I"):
            return Image.fromarray(array.astype("uint16" if mode == "I;16" else "int32") * 300)
        if mode == "1":
            return Image.fromarray(array == 2)
        if mode == "P":
            drawn = Image.fromarray(array)
            drawn.putpalette(PALETTE)
            return drawn
        return Image.fromarray(array).convert(mode)

    found = fix(Image.fromarray(image), picture(pred), conditioned_onnx)
    expected = picture(truth)
    assert (found.mode, found.getpalette()) == (expected.mode, expected.getpalette())
    assert np.array_equal(np.array(found), np.array(expected))


def test_paths_give_what_files_hold(
    pred: NDArray[np.uint8], truth: NDArray[np.uint8], conditioned_onnx: Path
) -> None:
    drawn = Image.fromarray(pred)
    drawn.putpalette(PALETTE)
    drawn.save("palette.png", transparency=0)
    found = fix("images/a.png", "palette.png", conditioned_onnx)
    assert found.mode == "P"
    assert found.getpalette()[:9] == PALETTE
    assert np.array_equal(np.array(found), truth)
    np.save("ids.npy", pred[None].astype(np.int16))
    array = fix(Path("images/a.png"), Path("ids.npy"), conditioned_onnx)
    assert (array.shape, array.dtype) == ((1, *pred.shape), np.int16)
    assert np.array_equal(array[0], truth)
    np.savez("scores.npz", scores=np.where(pred == np.arange(3)[:, None, None], 0.8, 0.1))
    scores = fix("images/a.png", "scores.npz", conditioned_onnx)
    assert np.array_equal(scores.argmax(axis=0), truth)
    Image.fromarray(pred).save("blurred.jpg")
    with pytest.raises(SegfixError, match=r"blurred.jpg: expected a PNG label map but got JPEG"):
        fix("images/a.png", "blurred.jpg", conditioned_onnx)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_nodata_of_a_geotiff_stays_in_its_place(
    pred: NDArray[np.uint8], conditioned_onnx: Path, dtype: str
) -> None:
    ids = pred.astype(dtype)
    ids[ids == 2] = 99
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[42113] = "99"
    Image.fromarray(ids).save("void.tif", tiffinfo=tags)
    assert not np.array_equal(fix("images/a.png", ids, conditioned_onnx), ids)
    done = segfix.fix_folder("images/a.png", "void.tif", "fixed.tif", weights=conditioned_onnx)
    assert not done.failed
    expected = np.array(Image.open("fixed.tif"))
    assert np.array_equal(expected == 99, ids == 99)
    for given in ("void.tif", Image.open("void.tif")):
        found = np.array(fix("images/a.png", given, conditioned_onnx))
        assert np.array_equal(found, expected)


def test_masks_overlap_and_none_vanishes(
    image: NDArray[np.uint8], pred: NDArray[np.uint8], conditioned_onnx: Path
) -> None:
    masks = np.stack([pred == 2, pred > 0, np.zeros_like(pred, bool)])
    masks[2, 5, 20] = True  # to which the pixel's offset brings background
    found = fix(image, masks, conditioned_onnx)
    assert found[0, :, 20:].all()
    assert found[1].all()
    assert np.array_equal(found[2], masks[2])
    assert fix(image, masks[:0], conditioned_onnx).shape == (0, 24, 40)
    soft = torch.as_tensor(masks[:1].astype(np.float32) * 0.7).bfloat16()
    result = fix(image, soft, conditioned_onnx)
    assert result.dtype == torch.bfloat16
    assert (result[0, :, 20:] > 0.5).all()


@pytest.mark.parametrize("kind", ["tensor", "floats", "alpha", "picture", "path", "batch", "int64"])
def test_photographs_of_any_kind_are_seen_alike(
    image: NDArray[np.uint8],
    pred: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    conditioned_onnx: Path,
    kind: str,
) -> None:
    planes = torch.as_tensor(image).permute(2, 0, 1)
    photograph: Any = {
        "tensor": planes,
        "floats": planes / 255,
        "alpha": np.dstack([image, image[..., :1]]),
        "picture": Image.fromarray(image).convert("RGBA"),
        "path": "images/a.png",
        "batch": planes[None],
        "int64": image.astype(np.int64),
    }[kind]
    assert np.array_equal(fix(photograph, pred, conditioned_onnx), truth)


def test_a_grey_photograph_is_one() -> None:
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    for given in (grey, grey[..., None], Image.fromarray(grey), torch.as_tensor(grey)[None] / 255):
        found, _ = in_memory.as_photograph(given)
        assert np.array_equal(found, np.dstack([grey] * 3))


@pytest.mark.parametrize(
    ("photograph", "reason"),
    [
        (np.zeros((24, 40, 2), np.uint8), r"Expected an image of \(H, W, 3\)"),
        (np.zeros((0, 40, 3), np.uint8), r"Expected an image of \(H, W, 3\)"),
        (np.zeros((24, 40, 3), bool), r"Expected an image of \(H, W, 3\)"),
        (np.full((24, 40, 3), 300), "not normalized, but got int64 from 300 to 300"),
        (np.full((24, 40, 3), -1.5), "not normalized, but got float64 from -1.5 to -1.5"),
        (np.full((24, 40, 3), np.nan), "not normalized"),
        (np.zeros((24, 41, 3), np.uint8), "Expected label_map of"),
    ],
)
def test_what_is_no_photograph_is_refused(
    photograph: Any, reason: str, pred: NDArray[np.uint8], conditioned_onnx: Path
) -> None:
    with pytest.raises(ValueError, match=reason):
        fix(photograph, pred, conditioned_onnx)


@pytest.mark.parametrize(
    ("value", "error", "reason"),
    [
        (io.BytesIO(b"P5"), TypeError, "as a path, PIL picture, array or tensor but got a BytesIO"),
        (io.BufferedReader(io.BytesIO()), TypeError, "array or tensor but got a BufferedReader"),
        ({"a": 1}, TypeError, "as an array of numbers but got a dict"),
        (np.ma.masked_less(np.ones((24, 40, 3), int), 2), ValueError, "without hidden pixels"),
    ],
)
def test_what_is_none_of_the_kinds_is_named(
    value: Any,
    error: type[Exception],
    reason: str,
    image: NDArray[np.uint8],
    pred: NDArray[np.uint8],
    conditioned_onnx: Path,
) -> None:
    with pytest.raises(error, match=f"Expected image .*{reason}"):
        fix(value, pred, conditioned_onnx)
    for call in (
        lambda: fix(image, value, conditioned_onnx),
        lambda: segfix.compare(image, pred, value),
    ):
        with pytest.raises(error, match=f"Expected prediction .*{reason}"):
            call()


@pytest.mark.parametrize("turned", ["stored", "displayed"])
def test_a_turned_photograph_and_its_prediction(
    image: NDArray[np.uint8],
    pred: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    conditioned_onnx: Path,
    turned: str,
) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(image).save("turned.png", exif=exif)
    if turned == "displayed":
        pred, truth = (np.rot90(array, -1) for array in (pred, truth))
    assert fix("turned.png", pred, conditioned_onnx).shape == truth.shape
    Image.fromarray(np.ascontiguousarray(pred)).save("a.png")
    shutil.copy("turned.png", "images/a.png")
    file = segfix.fix_folder("images/a.png", "a.png", "b.png", weights=conditioned_onnx)
    assert not file.failed
    expected = np.array(Image.open("b.png"))
    assert np.array_equal(fix("turned.png", pred, conditioned_onnx), expected)
    for name in ("turned.png", "turned.tif"):
        Image.fromarray(image).save(name, exif=exif)
        with Image.open(name) as picture:
            found = fix(picture, Image.fromarray(np.ascontiguousarray(pred)), conditioned_onnx)
        assert np.array_equal(np.array(found), expected)
    with Image.open("turned.png") as picture:
        picture.load()
        assert np.array_equal(fix(picture, pred, conditioned_onnx), expected)
        assert picture.size == (40, 24), "the picture that is given stays as it is"


def test_settings_and_weights(
    image: NDArray[np.uint8], pred: NDArray[np.uint8], conditioned_onnx: Path, tiny_onnx: Path
) -> None:
    model = segfix.load(conditioned_onnx)
    expected = segfix.refine(pred, model.offsets(image, pred), scale=1)
    assert np.array_equal(segfix.fix(image, pred, weights=model, scale=1), expected)
    expected = segfix.refine(expected, model.offsets(image, expected), scale=1)
    assert np.array_equal(segfix.fix(image, pred, weights=model, scale=1, passes=2), expected)
    with pytest.raises(ValueError, match="Expected passes as a number from 1 on but got 0"):
        segfix.fix(image, pred, weights=model, passes=0)
    with pytest.raises(TypeError, match="colour"):
        segfix.fix(image, pred, weights=model, colour="red")
    with pytest.warns(UserWarning, match="weights tiny look at photographs alone"):
        plain = fix(image, pred, tiny_onnx)
    assert np.array_equal(plain, segfix.refine(pred, segfix.load(tiny_onnx).offsets(image)))


def test_the_network_is_kept_until_its_file_changes(
    tmp_path: Path, conditioned_onnx: Path, tiny_onnx: Path
) -> None:
    path = tmp_path / "mine.onnx"
    shutil.copy(conditioned_onnx, path)
    first = in_memory.keep_model(path, "cpu")
    assert in_memory.keep_model(str(path), "cpu") is first
    assert in_memory.keep_model(device="cpu") is in_memory.keep_model(device="cpu")
    path.write_bytes(tiny_onnx.read_bytes())
    assert in_memory.keep_model(path, "cpu").metadata["name"] == "tiny"


@pytest.mark.parametrize("name", ["x.json", "x.geojson", "x.gpkg", "x.XML", "x.txt"])
def test_files_of_instances_are_for_the_functions_of_folders(
    work: Path, conditioned_onnx: Path, name: str
) -> None:
    Path(name).write_text("[]")
    with pytest.raises(SegfixError) as refused:
        fix("images/a.png", name, conditioned_onnx)
    assert str(refused.value) == (
        f"{name}: a file of instances or polygons, as segfix.fix_folder and the command segfix fix "
        "take it; segfix.fix takes pictures and arrays."
    )
