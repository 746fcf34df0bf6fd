"""Arguments of the public functions that are something else: the error says what was expected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import segfix
from segfix.formats import LabelMap

IDS = np.ones((24, 40), np.uint8)
IDS[:, 22:] = 2
BOUNDARY = np.zeros((24, 40), bool)
BOUNDARY[:, 20:22] = True
OFFSETS = segfix.OffsetMap.encode(BOUNDARY, np.full((24, 40), 4, np.uint8))
IMAGE = np.zeros((24, 40, 3), np.uint8)


class Tensor:
    """Of a library that gives no array, as of a tensor on a GPU."""

    def __array__(self, *_: Any, **__: Any) -> NDArray[Any]:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")


def holes(values: NDArray[Any]) -> NDArray[np.float64]:
    floats = values.astype(float)
    floats.flat[0] = np.nan
    return floats


MASKED = np.ma.masked_equal(IDS, 2)
NO_ARRAYS: list[tuple[Any, str]] = [
    (OFFSETS, "as an array but got an OffsetMap (arguments swapped?)"),
    (None, "as an array of numbers but got None"),
    ("mask.png", "but got 'mask.png'; read the file: np.array(PIL.Image.open(path))"),
    (Path("mask.png"), "but got 'mask.png'; read the file"),
    ([[1, 2], [1]], "as an array but got a list of different lengths"),
    (Tensor(), "which NumPy makes none of (can't convert cuda:0"),
    (Tensor(), ".detach().cpu().float().numpy()"),
    (LabelMap(IDS), "as an array of numbers but got a LabelMap"),
    (IDS.astype(str), "as an array of numbers but got an array of (24, 40) <U3"),
    (IDS.astype(object), "as an array of numbers but got an array of (24, 40) object"),
    (IDS * 1j, "complex128"),
    ([{"segmentation": IDS}], "as an array of numbers but got a list"),
    (MASKED, "without hidden pixels but got a masked array"),
]


@pytest.mark.parametrize("function", [segfix.refine, segfix.refine_masks])
@pytest.mark.parametrize(("value", "text"), NO_ARRAYS)
def test_what_is_no_array_is_named(function: Callable[..., Any], value: Any, text: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        function(value, OFFSETS)
    assert text in str(caught.value)
    assert ("masks" if function is segfix.refine_masks else "label_map") in str(caught.value)


@pytest.mark.parametrize("value", [OFFSETS.codes, OFFSETS.vectors(), "offsets.png", None, IMAGE])
def test_what_is_no_offset_map_is_named(value: Any, tmp_path: Path) -> None:
    for call in (
        lambda: segfix.refine(IDS, value),
        lambda: segfix.refine_masks(IDS[None], value),
        lambda: segfix.write_offset_map(tmp_path / "a.png", value),
    ):
        with pytest.raises(TypeError, match=r"Expected offset_map as an OffsetMap but got .*makes"):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("codes", [IDS.tolist(), IDS.astype(float), IDS[0]])
def test_codes_of_another_kind_are_named(codes: Any) -> None:
    with pytest.raises(TypeError, match=r"Expected offset_map.codes as \(H, W\) uint8 but got"):
        segfix.refine(IDS, segfix.OffsetMap(codes))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.zeros(0), "but got (0,)."),
        (np.zeros((0, 40)), "but got (0, 40)."),
        (IDS.ravel(), "but got (960,)."),
        (IDS[None, None], "but got (1, 1, 24, 40)."),
        (IDS.T, "but got (40, 24) (height and width swapped?)."),
    ],
)
def test_label_maps_of_another_shape_are_named(value: Any, text: str) -> None:
    with pytest.raises(ValueError, match="Expected") as caught:
        segfix.refine(value, OFFSETS)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (IDS, "one mask: masks[None]"),
        (np.zeros((24, 40, 3)), "np.moveaxis(masks, -1, 0)"),
        ([], "but got (0,)."),
        (holes(IDS[None]), "without NaN"),
    ],
)
def test_masks_of_another_shape_are_named(value: Any, text: str) -> None:
    with pytest.raises(ValueError, match="Expected masks") as caught:
        segfix.refine_masks(value, OFFSETS)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"scale": "auto"},
            "Expected a finite scale from 0 on, or None for the step that fits, but got 'auto'",
        ),
        ({"scale": float("inf")}, "but got inf"),
        ({"scale": float("nan")}, "but got nan"),
        ({"scale": -1}, "from 0 on, or None for the step that fits, but got -1"),
        ({"scale": IDS}, "but got an array of (24, 40) uint8"),
        ({"iterate": -1}, "Expected iterate"),
        ({"iterate": 1.5}, "Expected iterate"),
        ({"min_confidence": 80}, "Expected min_confidence from 0 to 1 but got 80"),
        ({"min_confidence": None}, "but got None"),
    ],
)
def test_settings_out_of_their_range_are_named(settings: dict[str, Any], text: str) -> None:
    for function, labels in ((segfix.refine, IDS), (segfix.refine_masks, IDS[None])):
        with pytest.raises(ValueError, match="Expected") as caught:
            function(labels, OFFSETS, **settings)
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("keep", "text"),
    [
        ("10", "'10'"),
        ("none", "'none'"),
        (0, "0"),
        ([0.5], "[0.5]"),
        ([float("nan")], "[nan]"),
        ([True], "[True]"),
        (np.array([1.0]), "an array of (1,) float64"),
    ],
)
def test_ids_and_places_to_keep_are_integers(keep: Any, text: str) -> None:
    for function, labels, what in (
        (segfix.refine, IDS, "ids"),
        (segfix.refine_masks, IDS[None], "places"),
    ):
        with pytest.raises(TypeError) as caught:
            function(labels, OFFSETS, keep=keep)
        expected = f"Expected keep as an iterable of {what}, or () for none, but got {text}."
        assert str(caught.value) == expected
    with pytest.raises(TypeError, match="Expected keep as an iterable of ids"):
        segfix.fix(IMAGE, IDS, keep=keep)


@pytest.mark.parametrize("keep", [(1,), [1], {1}, iter([1]), np.array([1]), range(1, 2)])
def test_ids_and_places_to_keep_come_in_any_iterable(keep: Any) -> None:
    assert np.array_equal(segfix.refine(IDS, OFFSETS, keep=keep), IDS)


@pytest.mark.parametrize("place", [2, 5, -1])
def test_places_to_keep_where_no_mask_is_are_named(place: int) -> None:
    with pytest.raises(IndexError, match=f"to keep among 2 masks but got {place}"):
        segfix.refine_masks(np.stack([IDS, IDS]), OFFSETS, keep=[place])


def test_what_numpy_makes_arrays_of_is_taken() -> None:
    expected = segfix.refine(IDS, OFFSETS)
    assert (expected != IDS).any()
    palette = Image.fromarray(IDS)
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    plain = np.ma.masked_array(IDS)
    values: list[Any] = [IDS.tolist(), Image.fromarray(IDS), palette, plain, IDS.astype(float)]
    for value in values:
        found = segfix.refine(value, OFFSETS)
        assert np.array_equal(np.asarray(found), expected)
    booleans: list[Any] = [IDS == 2, Image.fromarray(IDS == 2)]
    for value in booleans:
        assert np.array_equal(segfix.refine(value, OFFSETS), expected == 2)
    listed: Any = [IDS == 1, IDS == 2]
    masks = segfix.refine_masks(listed, OFFSETS)
    assert np.array_equal(masks[1], expected == 2)
    assert segfix.refine_masks(np.zeros((0, 24, 40), bool), OFFSETS).shape == (0, 24, 40)
    ids = segfix.refine(holes(IDS), OFFSETS)
    assert np.isnan(ids[0, 0])


def test_tensors_are_taken_and_those_with_a_gradient_named() -> None:
    torch = pytest.importorskip("torch")
    assert segfix.refine(torch.from_numpy(IDS), OFFSETS).dtype == np.uint8
    for tensor in (
        torch.ones(24, 40, requires_grad=True),
        torch.ones(24, 40, dtype=torch.bfloat16),
    ):
        with pytest.raises(TypeError, match=r"label_map.detach\(\).cpu\(\).float\(\).numpy\(\)"):
            segfix.refine(tensor, OFFSETS)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((one, text) for one, text in NO_ARRAYS if one is not MASKED),
        (IDS, "but got (24, 40) uint8; np.array(PIL.Image.open(path).convert('RGB'))"),
        (Image.fromarray(IDS), "but got (24, 40) uint8; np.array"),
        (np.zeros((24, 40, 4), np.uint8), "but got (24, 40, 4) uint8"),
        (np.zeros((0, 0, 3), np.uint8), "but got (0, 0, 3) uint8"),
        (IMAGE[None], "but got (1, 24, 40, 3) uint8"),
        (IMAGE.transpose(2, 0, 1), "image.transpose(1, 2, 0) puts the colours last"),
        (IMAGE / 255, "(255 * image).astype(np.uint8), if it is from 0 to 1"),
        (IMAGE.astype(int), "int64"),
    ],
)
def test_what_is_no_photograph_is_named(value: Any, text: str, tiny_onnx: Path) -> None:
    network = segfix.load(tiny_onnx, device="cpu")
    with pytest.raises((TypeError, ValueError)) as caught:
        network.offsets(value)
    assert text in str(caught.value)
    assert "image" in str(caught.value)
    for max_side in (0, "a", 20.5):
        with pytest.raises(ValueError, match="Expected max_side to be at least 1"):
            network.offsets(IMAGE, max_side=max_side)  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "text"), [(OFFSETS, "swapped"), ("mask.png", "read the file")])
def test_a_prediction_of_another_kind_is_named(
    value: Any, text: str, conditioned_onnx: Path
) -> None:
    with pytest.raises(TypeError, match=f"label_map as an array .*{text}"):
        segfix.load(conditioned_onnx, device="cpu").offsets(IMAGE, value)


@pytest.mark.parametrize("device", [0, None, "gpu"])
def test_a_device_of_another_kind_is_named(device: Any) -> None:
    with pytest.raises(segfix.errors.DeviceError, match=f"device {device!r}: expected auto, cpu"):
        segfix.load(device=device)


@pytest.mark.parametrize("value", [IMAGE, None, ["a.jpg"], OFFSETS, ""])
def test_what_is_no_path_is_named(value: Any) -> None:
    for call in (
        lambda: segfix.predict_folder(value),
        lambda: segfix.predict_folder("images", value),
        lambda: segfix.refine_folder(value),
        lambda: segfix.refine_folder("preds", value),
        lambda: segfix.refine_folder("preds", "offsets", value),
        lambda: segfix.read_offset_map(value),
        lambda: segfix.write_offset_map(value, OFFSETS),
    ):
        with pytest.raises((TypeError, ValueError), match=r"Expected \w+ as a path but got"):
            call()


def test_settings_of_another_kind_are_named() -> None:
    with pytest.raises(TypeError, match="Expected settings as RefineSettings but got a dict"):
        segfix.refine_folder("preds", settings={"scale": 2})  # type: ignore[arg-type]


def test_swapped_parts_of_an_offset_map_are_named() -> None:
    with pytest.raises(TypeError, match=r"direction_map of sectors but got bool \(swapped\?\)"):
        segfix.OffsetMap.encode(np.full((24, 40), 4, np.uint8), BOUNDARY)
    with pytest.raises(ValueError, match=r"direction_map of \(24, 40\), as boundary_mask is"):
        segfix.OffsetMap.encode(BOUNDARY, np.zeros((24, 41), np.uint8))
