"""Files of instances of several programs: COCO's tables, SAM's and Ultralytics' lists.

Run lengths and polygons are pycocotools' (extra `eval`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import FileFormatError
from segfix.files.pairing import Entry, stem_of_name
from segfix.files.provenance import recorded_path
from segfix.instances.cityscapes import holds_lists
from segfix.instances.coco import check_items, check_table, decode_runs, read_json, run_lengths

DIGITS = (12, *range(2, 12))
"""That numbers in file names are filled up to, COCO's first."""

CORNERS = ("x1", "y1", "x2", "y2")
"""Of a box in Ultralytics' lists."""


@dataclass(frozen=True)
class ImageInstances:
    """The instances of one image.

    Attributes:
        image: The image's id; where the file has none, the file's stem.
        names: Stems that the image's other files may have, likeliest first.
        size: Height and width, where the file states them.
        places: Of the instances, in the file's list of all.
    """

    image: int | str
    names: Sequence[str]
    size: tuple[int, int] | None
    places: Sequence[int]


@dataclass(frozen=True)
class InstanceFile:
    """A JSON file of instances.

    Attributes:
        path: The file.
        document: All that is in it.
        instances: The list of instances in the document.
        images: Which of them are of which image.
    """

    path: Path
    document: Any
    instances: Sequence[dict[str, Any]]
    images: Sequence[ImageInstances]

    def with_instances(self, instances: Sequence[dict[str, Any]]) -> Any:
        """The document with another list."""
        if isinstance(self.document, list):
            return list(instances)
        return {**self.document, "annotations": list(instances)}


def is_instance_input(preds: Path) -> bool:
    """Whether predictions are instances or panoptic segments, not label maps, by their names.

    Args:
        preds: A JSON file; or a folder, of which the lists `*_pred.txt` of Cityscapes are looked
            for in it and in the folders right below it.
    """
    return holds_lists(preds) if preds.is_dir() else preds.suffix.lower() == ".json"


def is_panoptic(document: Any) -> bool:
    """Whether a JSON document is a COCO panoptic table."""
    annotations = document.get("annotations") if isinstance(document, dict) else None
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    return isinstance(first, dict) and "segments_info" in first


def read_file_names(path: Path) -> dict[int | str, str]:
    """File names by image id, of an annotation JSON.

    Raises:
        SegfixError: The file is missing, broken or holds no images.
    """
    document = read_json(path)
    check_table(path, document, ("images",))
    check_items(path, "images", document["images"], ("id", "file_name"))
    return {image["id"]: image["file_name"] for image in document["images"]}


def sort_instances(
    file: Entry,
    document: Any,
    file_names: Mapping[int | str, str] | None = None,
    *,
    empty: bool = False,
) -> InstanceFile:
    """Find the instances of a JSON document, and the image that each is of.

    Args:
        file: Its stem names the image where the document doesn't.
        document: A list of COCO results (with image_id), of SAM or of Ultralytics (without: all
            are of the image that the file is named after); or an object with annotations: of COCO
            (with images), of SA-1B (with an image).
        file_names: By image id, where the document has none.
        empty: Whether images without an instance count, too: those listed, or the one that a file
            without instances is named after.

    Raises:
        FileFormatError: The document is none of these, or an instance has no mask.
    """
    path, where, instances = file.path, "results", document
    if not isinstance(document, list):
        check_table(path, document, ("annotations",))
        where, instances = "annotations", document["annotations"]
    for number, item in enumerate(instances):
        if not isinstance(item, dict) or _segmentation(item) is None:
            raise FileFormatError(
                f"{path}: {where}[{number}] has no 'segmentation'; expected a mask of every "
                "instance, as run lengths or polygons."
            )
    listed = file_names or (isinstance(document, dict) and "images" in document)
    if any("image_id" in item for item in instances) or (empty and listed and not instances):
        check_items(path, where, instances, ("image_id",))
        images = sort_by_image(path, document, instances, file_names, empty=empty)
        if len(images) == 1:
            images = [replace(images[0], names=[*images[0].names, file.stem])]
    else:
        image = document.get("image") if isinstance(document, dict) else None
        image = image if isinstance(image, dict) else {}
        names = [file.stem, path.stem, *_stems(image.get("file_name"))]
        places = range(len(instances))
        alone = ImageInstances(file.stem, list(dict.fromkeys(names)), _stated_size(image), places)
        images = [alone] if instances or empty else []
    return InstanceFile(path, document, instances, images)


def sort_by_image(
    path: Path,
    document: Any,
    items: Sequence[dict[str, Any]],
    file_names: Mapping[int | str, str] | None = None,
    *,
    empty: bool = False,
) -> list[ImageInstances]:
    """Sort items by their `image_id`, and find out what the images may be called.

    Args:
        path: The file, for messages.
        document: All of it; its list of images is used if there is one.
        items: Instances, or annotations of panoptic images.
        file_names: By image id, where the document has none.
        empty: Whether images that are listed, but have no item, count, too.

    Raises:
        FileFormatError: The list of images is broken.
    """
    images = document.get("images", []) if isinstance(document, dict) else []
    check_items(path, "images", images, ("id",))
    # Some programs write ids as texts in one file and as numbers in the other.
    table = {str(image["id"]): image for image in images}
    known = {str(identity): name for identity, name in (file_names or {}).items()}
    places: dict[int | str, list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault(item["image_id"], []).append(place)
    if empty:
        named = {str(identity) for identity in places}
        for identity in (*(image["id"] for image in images), *(file_names or {})):
            if str(identity) not in named:
                places[identity] = []
                named.add(str(identity))
    found = []
    for identity, members in places.items():
        image = table.get(str(identity), {})
        names = [
            *_stems(items[members[0]].get("file_name") if members else None),
            *_stems(image.get("file_name")),
            *_stems(known.get(str(identity))),
        ]
        if not names:
            # Only now: the offset map of that number may be another image's.
            names = [
                str(identity),
                # Ids may be names read as numbers: 7 of COCO's 000000000007, or of 0007.
                *(f"{identity:0{digits}}" for digits in DIGITS if isinstance(identity, int)),
            ]
        found.append(
            ImageInstances(identity, list(dict.fromkeys(names)), _stated_size(image), members)
        )
    return found


def decode_mask(
    item: Mapping[str, Any], height: int, width: int, stated: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """The mask of an instance.

    Args:
        item: The instance.
        height: That its image must have, pixels.
        width: That its image must have, pixels.
        stated: Height and width of the image in words of its file, for polygons.

    Returns:
        (height, width) 0 or 1.

    Raises:
        ValueError: The mask is of another size, or broken.
    """
    from pycocotools import mask as masks

    segmentation = _segmentation(item)
    if segmentation == []:
        return np.zeros((height, width), np.uint8)
    try:
        size = segmentation["size"] if isinstance(segmentation, dict) else stated
        if size is not None and tuple(size) != (height, width):
            raise ValueError(f"{size[1]}×{size[0]} pixels, not {width}×{height}")
        if isinstance(segmentation, list):
            _check_polygons(segmentation, height, width, pixels="segmentation" in item)
        rle = run_lengths(segmentation, height, width)
    except (TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(f"neither run lengths nor polygons ({error})") from error
    mask: NDArray[np.uint8] = masks.decode(rle)
    return mask


def with_mask(item: Mapping[str, Any], mask: NDArray[Any]) -> dict[str, Any]:
    """An instance with another mask.

    Args:
        item: The instance.
        mask: (H, W) bool, or 0 and 1.

    Returns:
        The same keys in the same order. Run lengths stay compressed or plain, polygons (and
        Ultralytics' `segments`, as `segmentation`) become compressed ones. Area and box are the
        mask's where the instance has them, whole where they were.
    """
    from pycocotools import mask as masks

    rle = masks.encode(np.asfortranarray(mask, np.uint8))
    x, y, width, height = masks.toBbox(rle).tolist()
    counts: Any = rle["counts"].decode()
    before = _segmentation(item)
    stated = before if isinstance(before, dict) else {}
    if isinstance(stated.get("counts"), list):
        counts = decode_runs(counts).tolist()
    segmentation = {**stated, "size": list(mask.shape), "counts": counts}
    changed: dict[str, Any] = {}
    for key, value in item.items():
        if key in ("segmentation", "segments"):
            changed["segmentation"] = segmentation
        elif key == "area" and value is not None:
            changed[key] = _like([value], [float(masks.area(rle))])[0]
        elif key == "bbox" and isinstance(value, list) and len(value) == 4:
            changed[key] = _like(value, [x, y, width, height])
        elif key == "box" and isinstance(value, dict) and set(CORNERS) <= set(value):
            corners = _like([value[name] for name in CORNERS], [x, y, x + width, y + height])
            changed[key] = {**value, **dict(zip(CORNERS, corners, strict=True))}
        else:
            changed[key] = value
    return changed


def write_json(path: Path, document: Any, *, record: str) -> None:
    """Write a JSON document, atomically, with its record beside it.

    Raises:
        FileFormatError: It can't be written.
    """
    try:
        text = json.dumps(document)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: can't be written as JSON ({error}).") from error
    with recorded_path(path, record) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _segmentation(item: Mapping[str, Any]) -> Any:
    """Run lengths or polygons, whatever the file calls them."""
    if "segmentation" in item or not isinstance(item.get("segments"), dict):
        return item.get("segmentation")
    xs, ys = (item["segments"].get(axis) for axis in "xy")
    if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
        return None
    return [[value for point in zip(xs, ys, strict=True) for value in point]] if xs else []


def _check_polygons(polygons: Sequence[Any], height: int, width: int, *, pixels: bool) -> None:
    """Refuse polygons that are drawn for a picture of another size."""
    points = np.concatenate([np.asarray(polygon, float) for polygon in polygons])
    right, bottom = points[::2].max(initial=0), points[1::2].max(initial=0)
    if not pixels and max(right, bottom) <= 1:
        raise ValueError("coordinates from 0 to 1; write pixels, to_json(normalize=False)")
    # Some tools round the picture's edge up.
    if right > width + 2 or bottom > height + 2:
        raise ValueError(
            f"polygons up to x = {right:.0f}, y = {bottom:.0f}, beyond {width}×{height} pixels"
        )


def _stems(file_name: Any) -> list[str]:
    """With its folders and without."""
    if not isinstance(file_name, str) or not file_name.strip("./\\"):
        return []
    stem = stem_of_name(file_name)
    return [stem, PurePosixPath(stem).name]


def _stated_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _like(before: Any, values: Sequence[float]) -> list[float]:
    """Numbers, whole if all that they replace are."""
    whole = all(isinstance(value, int) for value in before)
    return [int(value) if whole else value for value in values]
