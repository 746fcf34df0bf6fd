"""Fix one prediction in memory: a path, picture, array or tensor in, the same kind out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfix.errors import SegfixError
from segfix.formats import LabelMap, read_label_map
from segfix.formats.arguments import as_array, describe
from segfix.formats.array_kinds import spare_axes
from segfix.formats.images import Photograph, open_photograph, orientation_of, turn_back
from segfix.formats.label_maps import ARRAY_SUFFIXES
from segfix.formats.tiff import NODATA
from segfix.instances.listing import INSTANCE_SUFFIXES
from segfix.network.offset_model import OffsetModel, load
from segfix.refinement.apply import RefineSettings, as_label_map
from segfix.refinement.kept_ids import find_kept
from segfix.refinement.orientation import settle_orientation
from segfix.refinement.sizes import as_displayed
from segfix.tasks.refine import check_passes, refine_whole

KEPT_MODELS = 4
"""Networks that stay in memory between calls."""


def fix(
    image: Any,
    prediction: Any,
    *,
    weights: str | Path | OffsetModel | None = None,
    device: str = "auto",
    passes: int = 1,
    max_side: int | None = None,
    bands: Sequence[int] | None = None,
    **refining: Any,
) -> Any:
    """Fix a prediction: look at it and at its photograph, and refine it.

    Args:
        image: The photograph: a path, a PIL picture, or an array or torch tensor, (H, W, 3 or 4),
            (3 or 4, H, W) or (H, W), of 0 … 255 or of floats in [0, 1]. A file and a PIL picture
            are turned upright as their EXIF data say; an array is taken as it is.
        prediction: Of the photograph's size: a path, a PIL picture of ids or colours, or an array
            or torch tensor: (H, W) ids, or scores of the foreground if floats with fractions;
            (C, H, W) or (H, W, C) scores of classes; (N, H, W) masks, bool or of two values, which
            may overlap. Axes of length 1 (a batch of one) are kept.
        weights: See `segfix.load`; or what that has returned.
        device: See `segfix.load`. The network stays in memory for further calls with the same
            weights and device.
        passes: How often the prediction is looked at and refined, each time what is left by the
            last; more than one help where it is coarse.
        max_side: See `OffsetModel.offsets`.
        bands: Of a file, see `segfix.formats.read_image`.
        refining: Fields of `segfix.refinement.apply.RefineSettings`: `scale`, `iterate`,
            `min_confidence`, `keep`; see `segfix.refine`.

    Returns:
        A new prediction of the same kind: for a PIL picture one of its mode and palette, for an
        array one of its shape and type, for a tensor one of its shape and type on its device; for a
        path of a picture a PIL picture, of .npy and .npz an array (`segfix.fix_folder` writes
        files). It holds no value that `prediction` lacks; a mask of which nothing would be left
        stays as it was.

    Warns:
        UserWarning: The weights look at photographs alone, so the prediction isn't looked at.

    Raises:
        TypeError: `image` or `prediction` is nothing of the kind, such as an open file.
        ValueError: `image` is no photograph, `prediction` is of another size, an array has a mask,
            or `passes` is no number from 1 on.
        SegfixError: A file can't be read, or holds instances, or the weights can't be used.
        DeviceError: The device isn't there.

    Example:
        >>> photograph = np.zeros((40, 50, 3), np.uint8)
        >>> photograph[:, 20:] = 255
        >>> mask = np.zeros((40, 50), np.uint8)
        >>> mask[:, 23:] = 1
        >>> fix(photograph, mask).shape
        (40, 50)
    """
    settings = RefineSettings(**refining)
    check_passes(passes)
    photograph, orientation = as_photograph(image, bands)
    height, width, _ = photograph.shape
    label_map, finish = as_prediction(prediction, (height, width), orientation)
    if not label_map.array.size:
        return finish(label_map)
    model = weights if isinstance(weights, OffsetModel) else keep_model(weights, device)
    if not model.conditioned:
        warnings.warn(
            f"weights {model.metadata['name']} look at photographs alone, not at predictions",
            stacklevel=2,
        )
    if orientation != 1:
        plain = model.offsets(photograph, max_side=max_side)
        plain = replace(plain, source={"orientation": orientation})
        label_map = settle_orientation(label_map, plain)
    for _ in range(passes):
        seen = label_map if model.conditioned else None
        offset_map = model.offsets(photograph, seen, max_side=max_side)
        _, kept = find_kept(label_map, settings.keep)
        label_map, _ = refine_whole(label_map, offset_map, settings, kept, restore=True)
    return finish(label_map)


def keep_model(weights: str | Path | None = None, device: str = "auto") -> OffsetModel:
    """Load a network as `segfix.load` does, or give the one that was loaded before."""
    path = None if weights is None else Path(weights)
    changed = path.stat().st_mtime_ns if path is not None and path.is_file() else 0
    return _load(None if path is None else str(path), device, changed)


@lru_cache(maxsize=KEPT_MODELS)
def _load(weights: str | None, device: str, _: int) -> OffsetModel:
    return load(weights, device=device)


def as_photograph(image: Any, bands: Sequence[int] | None = None) -> tuple[NDArray[np.uint8], int]:
    """Take a photograph of any kind, see `fix`.

    Returns:
        (H, W, 3) uint8 RGB, and how a file or picture is stored, 1 … 8, as EXIF counts.

    Raises:
        ValueError: It is none.
        SegfixError: The file can't be read.
    """
    if isinstance(image, str | os.PathLike):
        with open_photograph(Path(image), bands) as photograph:
            # Before it is decoded, which turns it.
            orientation = photograph.orientation
            return photograph[:, :], orientation
    if isinstance(image, Image.Image) and image.mode[0] not in "IF":
        # Before it is loaded, which turns TIFF. What is given stays as it is.
        orientation = orientation_of(image)
        return Photograph(image.copy())[:, :], orientation
    array = _to_array(image, "image")
    array = array.reshape(array.shape[-3:]) if array.shape[:-3] == (1,) else array
    if array.ndim == 3 and array.shape[2] > 4 and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    planes = array[..., None] if array.ndim == 2 else array
    colours = planes.ndim == 3 and planes.size and planes.shape[2] in (1, 3, 4)
    if not colours or planes.dtype.kind not in "iuf":
        raise ValueError(
            f"Expected an image of (H, W, 3) or (3, H, W) but got {array.shape} {array.dtype}."
        )
    lowest, highest = planes.min(), planes.max()
    if not (lowest >= 0 and highest <= (1 if planes.dtype.kind == "f" else 255)):
        raise ValueError(
            "Expected an image of 0 … 255 as uint8, or of 0 … 1 as floats, not normalized, but got "
            f"{planes.dtype} from {lowest:g} to {highest:g}."
        )
    if planes.dtype.kind == "f":
        planes = np.rint(planes * 255)
    # Alpha doesn't count; grey is three times the same.
    planes = np.broadcast_to(planes[..., :3], (*planes.shape[:2], 3))
    return np.ascontiguousarray(planes, dtype=np.uint8), 1


def as_prediction(
    prediction: Any, size: tuple[int, int], orientation: int = 1
) -> tuple[LabelMap, Callable[[LabelMap], Any]]:
    """Take a prediction of any kind, see `fix`.

    Args:
        prediction: It.
        size: Height and width of its photograph.
        orientation: How that is stored, see `as_displayed`.

    Returns:
        The prediction as its photograph is displayed, and what makes the kind that was given of
        such a label map.

    Raises:
        ValueError: It has another size.
        SegfixError: The file can't be read.
    """
    given, restore = _open_prediction(prediction, size)
    spare = spare_axes(given.array.shape)
    array = given.array.squeeze(spare)
    turned = orientation >= 5 and size[::-1] in (array.shape[:2], array.shape[1:])
    label_map = as_label_map(array, size[::-1] if turned else size, "image")
    # A GeoTIFF's tags state its nodata value.
    rest = {"tags": given.rest.get("tags", {})}
    label_map = replace(label_map, palette=given.palette, rest=rest)
    label_map = as_displayed(label_map, size, orientation)

    def finish(refined: LabelMap) -> Any:
        planes = turn_back(refined.planes, refined.rest.get("turned", 1))
        stored = refined.with_planes(planes).array
        return restore(np.ascontiguousarray(np.expand_dims(stored, spare)))

    return label_map, finish


def _open_prediction(
    prediction: Any, size: tuple[int, int]
) -> tuple[LabelMap, Callable[[NDArray[Any]], Any]]:
    """Open a prediction: its array and palette, and what makes its kind of such an array."""
    if isinstance(prediction, str | os.PathLike):
        path = Path(prediction)
        if path.suffix.lower() in INSTANCE_SUFFIXES and path.is_file():
            raise SegfixError(
                "a file of instances or polygons, as segfix.fix_folder and the command segfix fix "
                "take it",
                path=path,
                advice="segfix.fix takes pictures and arrays",
            )
        file = read_label_map(Path(prediction), masks=True, shape=size)
        if Path(prediction).suffix.lower() not in ARRAY_SUFFIXES:
            return file, partial(_to_picture, palette=file.palette, alpha=file.transparency)
        return file.with_array(np.expand_dims(file.array, file.rest["axes"])), np.array
    if isinstance(prediction, Image.Image):
        palette = prediction.getpalette("RGB") if prediction.mode == "P" else None
        tags = getattr(prediction, "tag_v2", {})
        given = LabelMap(
            np.asarray(prediction),
            palette=None if palette is None else bytes(palette),
            rest={"tags": {NODATA: (2, tags[NODATA])} if NODATA in tags else {}},
        )
        return given, partial(_like_picture, like=prediction)
    given = LabelMap(_to_array(prediction, "prediction"))
    return given, prediction.new_tensor if hasattr(prediction, "new_tensor") else np.array


def _to_picture(array: NDArray[Any], palette: bytes | None, alpha: Any) -> Image.Image:
    picture = Image.fromarray(array)
    if palette is not None:
        picture.putpalette(palette)
    if alpha is not None:
        picture.info["transparency"] = alpha
    return picture


def _like_picture(array: NDArray[Any], like: Image.Image) -> Image.Image:
    if like.mode == "1":
        return Image.fromarray(array)
    picture = Image.frombytes(like.mode, like.size, array.tobytes())
    if like.palette is not None:
        mode = like.palette.mode
        picture.putpalette(like.getpalette(mode) or [], mode)
    picture.info = dict(like.info)
    return picture


def _to_array(given: Any, name: str) -> NDArray[Any]:
    """Make an array of an array or a torch tensor of any type on any device, see `as_array`."""
    if hasattr(given, "read"):
        raise TypeError(
            f"Expected {name} as a path, PIL picture, array or tensor but got {describe(given)}; "
            "PIL.Image.open takes an open file."
        )
    if hasattr(given, "detach"):
        given = given.detach().cpu()
        # NumPy lacks this type.
        given = (given.float() if "bfloat16" in str(given.dtype) else given).numpy()
    return as_array(given, name)
