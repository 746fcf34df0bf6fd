"""Grey levels of soft masks are told from ids, whichever command reads them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from segfix.errors import FileFormatError
from segfix.formats import OffsetMap, read_label_map
from segfix.formats.soft_masks import count_values, is_photograph, is_soft_mask
from segfix.refinement import refine
from tests.cli.commands import run

CROPS = Path(__file__).parents[1] / "data" / "camvid"


def mask() -> Image.Image:
    ids = read_label_map(CROPS / "labels" / "0016E5_08079.png").array
    return Image.fromarray(np.where(ids == 2, np.uint8(255), np.uint8(0)))


def resized(method: Image.Resampling, factor: float) -> Image.Image:
    found = mask()
    return found.resize((int(found.width * factor), int(found.height * factor)), method)


def compressed(quality: int) -> Image.Image:
    content = io.BytesIO()
    mask().save(content, "JPEG", quality=quality)
    return Image.open(content).copy()


def sigmoid(width: float) -> Image.Image:
    from scipy.ndimage import distance_transform_edt

    inside = np.array(mask()) > 0
    distance = distance_transform_edt(inside) - distance_transform_edt(~inside)
    return Image.fromarray((255 / (1 + np.exp(-distance / width))).astype(np.uint8))


SOFT: dict[str, Callable[[], Image.Image]] = {
    "reduced": lambda: resized(Image.Resampling.BOX, 0.25),
    "halved": lambda: resized(Image.Resampling.BILINEAR, 0.5),
    "enlarged": lambda: resized(Image.Resampling.BICUBIC, 2),
    "ringing": lambda: resized(Image.Resampling.LANCZOS, 0.5),
    "turned": lambda: mask().rotate(17, Image.Resampling.BICUBIC),
    "feathered": lambda: mask().filter(ImageFilter.GaussianBlur(2)),
    "JPEG of 75": lambda: compressed(75),
    "JPEG of 95": lambda: compressed(95),
    "probabilities": lambda: sigmoid(3),
    "of 16 bits": lambda: Image.fromarray(
        np.array(resized(Image.Resampling.BICUBIC, 2)).astype(np.uint16) * 257
    ),
    "grey as RGB": lambda: resized(Image.Resampling.BICUBIC, 2).convert("RGB"),
    "grey as RGBA": lambda: resized(Image.Resampling.BICUBIC, 2).convert("RGBA"),
    "grey with alpha": lambda: resized(Image.Resampling.BICUBIC, 2).convert("LA"),
}


@pytest.mark.parametrize("kind", SOFT)
def test_soft_masks_are_named_with_the_remedy(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    SOFT[kind]().save(path)
    told = (
        r"x\.png: grey levels of a soft mask .* --soft, which fix, refine and predict-offsets have"
    )
    with pytest.raises(FileFormatError, match=told):
        read_label_map(path)
    if len(SOFT[kind]().getbands()) == 1:
        assert read_label_map(path, soft=True).kind == "scores"


def superpixels(order: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.kron(order.reshape(16, 16), np.ones((9, 9))).astype(np.uint8)


HARD = {
    "mask": np.array(mask()),
    "three levels": np.array(mask()) // 2 + np.array(mask().rotate(180)) // 2,
    "trimap": np.where(
        np.array(mask().filter(ImageFilter.GaussianBlur(3))) % 255, 128, np.array(mask())
    ),
    "classes and void": read_label_map(CROPS / "labels" / "0016E5_08079.png").array,
    "superpixels": superpixels(np.random.default_rng(0).permutation(256)),
    "superpixels by row": superpixels(np.arange(256)),
    "every id once": np.arange(256, dtype=np.uint8).reshape(16, 16),
    "noise": np.random.default_rng(0).integers(0, 256, (40, 60)).astype(np.uint8),
    "bands of 3": np.repeat(np.arange(256, dtype=np.uint8), 3)[None].repeat(40, 0),
    "many instances": superpixels(np.arange(256)).astype(np.uint16) * 200,
    "ids of 64 bits": read_label_map(CROPS / "labels" / "0016E5_08079.png").array.astype(int) - 1,
}


@pytest.mark.parametrize("kind", HARD)
def test_ids_are_no_soft_masks(kind: str) -> None:
    assert not is_soft_mask(np.asarray(HARD[kind]))


@pytest.mark.parametrize("stem", sorted(path.stem for path in (CROPS / "preds").iterdir()))
def test_real_label_maps_are_no_soft_masks(stem: str) -> None:
    for folder in ("labels", "preds"):
        assert not is_soft_mask(read_label_map(CROPS / folder / f"{stem}.png").array)


def test_palettes_are_never_grey_levels(tmp_path: Path) -> None:
    picture = SOFT["feathered"]()
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    picture.save(tmp_path / "x.png")
    assert read_label_map(tmp_path / "x.png").kind == "ids"


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".tif"])
def test_every_format_is_looked_at(suffix: str, tmp_path: Path) -> None:
    path, array = tmp_path / f"x{suffix}", np.array(SOFT["feathered"]())
    if suffix == ".tif":
        Image.fromarray(array).save(path)
    else:
        (np.save if suffix == ".npy" else np.savez)(path, array)
    with pytest.raises(FileFormatError, match="--soft"):
        read_label_map(path)


def test_python_is_told_too() -> None:
    array = np.array(SOFT["feathered"]())
    offset_map = OffsetMap(np.zeros(array.shape, np.uint8))
    with pytest.raises(ValueError, match="divide one band of them by 255"):
        refine(array, offset_map)
    assert np.array_equal(refine(array / 255, offset_map), array / 255)


@pytest.mark.parametrize(
    "command",
    [
        ("refine", "masks"),
        ("predict-offsets", "images", "--preds", "masks", "--weights", "CONDITIONED"),
        ("evaluate", "masks", "labels"),
        ("evaluate", "labels", "masks"),
        ("report", "masks", "labels"),
        ("targets", "masks"),
        ("show", "images", "--preds", "masks"),
        ("show", "images", "--labels", "masks"),
    ],
    ids=" ".join,
)
def test_every_command_names_a_soft_mask(
    command: tuple[str, ...], offsets: Path, conditioned_onnx: Path
) -> None:
    Path("masks").mkdir()
    hard = Image.fromarray(np.pad(np.full((12, 20), 255, np.uint8), ((6, 6), (10, 10))))
    for stem in "abc":
        hard.filter(ImageFilter.GaussianBlur(1)).save(f"masks/{stem}.png")
    arguments = [str(conditioned_onnx) if one == "CONDITIONED" else one for one in command]
    out = () if command[0] == "evaluate" else ("-o", "out")
    result = run(*arguments, *out)
    assert result.exit_code == 1
    assert "masks/a.png: grey levels of a soft mask" in result.stderr
    assert "--soft" in result.stderr
    if command[0] in ("refine", "predict-offsets"):
        assert run(*arguments, "--soft", "-o", "soft").exit_code == 0


@pytest.fixture
def offsets(work: Path, tiny_onnx: Path) -> Path:
    assert run("predict-offsets", "images", "--weights", tiny_onnx).exit_code == 0
    return work / "offsets"


# Photographs


def photograph() -> NDArray[np.uint8]:
    """Noise that was blurred, in colours, (120, 160, 3)."""
    noise = np.random.default_rng(0).normal(0, 1, (120, 160, 3))
    kernel = np.exp(-((np.arange(-8, 9) / 4) ** 2))
    for axis in (0, 1):
        noise = np.apply_along_axis(np.convolve, axis, noise, kernel / kernel.sum(), mode="same")
    return np.asarray(128 + 30 * noise / noise.std(), np.float64).clip(0, 255).astype(np.uint8)


PHOTOGRAPHS = {
    "colours": photograph(),
    "grey": photograph()[..., 0],
    "cutout": np.dstack([photograph(), np.uint8(255) * (photograph()[..., 0] > 100)]),
}


@pytest.mark.parametrize("kind", PHOTOGRAPHS)
def test_photographs_are_no_label_maps(tmp_path: Path, kind: str) -> None:
    Image.fromarray(PHOTOGRAPHS[kind]).save(tmp_path / "x.png")
    np.save(tmp_path / "x.npy", PHOTOGRAPHS[kind])
    for name in ("x.png", "x.npy"):
        with pytest.raises(FileFormatError, match=r"as a photograph's do, not ids; .* comes first"):
            read_label_map(tmp_path / name)
    offsets = OffsetMap(np.zeros((120, 160), np.uint8))
    with pytest.raises(ValueError, match="as a photograph's do"):
        refine(PHOTOGRAPHS[kind], offsets)


def test_label_maps_of_many_ids_are_no_photographs() -> None:
    rng = np.random.default_rng(0)
    rows, cols = np.indices((240, 320))
    superpixels = rows // 6 * 54 + cols // 6
    assert not is_photograph(rng.integers(0, 256, (4000, 3), np.uint8)[superpixels])
    assert not is_photograph(np.dstack([superpixels % 256, superpixels // 256]).astype(np.uint8))
    assert not is_photograph(superpixels.astype(np.uint16))
    assert not is_photograph((rows * 320 + cols).astype(np.uint8)), "counted"
    for count in (5, 40, 65, 256):
        noise = rng.integers(0, count, (240, 320), np.uint8)
        assert not is_photograph(noise)
        assert not is_photograph(np.dstack([noise, noise * 0, noise * 0]))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.parametrize("number", [0, 1, 1000])
def test_values_are_counted_as_numpy_counts_them(
    dtype: type[np.uint8] | type[np.int64], number: int
) -> None:
    values = np.random.default_rng(0).integers(0, 200, number).astype(dtype)
    assert count_values(values) == len(np.unique(values))
