"""COCO panoptic files: a JSON table of segments, and a picture of their ids per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segfix.errors import FileFormatError
from segfix.files import Entry
from segfix.files.reading import open_picture, path_within
from segfix.formats.label_maps import LabelMap, read_label_map
from segfix.instances.by_image import ImageInstances, sort_by_image
from segfix.instances.coco import check_items, check_table


def is_panoptic(document: Any) -> bool:
    """Tell whether a JSON document is a COCO panoptic table."""
    annotations = document.get("annotations") if isinstance(document, dict) else None
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    return isinstance(first, dict) and "segments_info" in first


def check_panoptic(path: Path, table: Any, keys: Sequence[str]) -> None:
    """Refuse a panoptic table whose annotations, or segments without `keys`, can't be used."""
    check_table(path, table, ("annotations",))
    wanted = ("image_id", "file_name", "segments_info")
    check_items(path, "annotations", table["annotations"], wanted)
    for annotation in table["annotations"]:
        where = f"segments_info of image {annotation['image_id']!r}"
        check_items(path, where, annotation["segments_info"], keys)


def check_panoptic_mode(path: Path, mode: str) -> None:
    """Refuse a picture that is no panoptic map, by its mode in Pillow's words."""
    if mode not in ("RGB", "RGBA"):
        raise FileFormatError(
            f"{path}: mode {mode}; expected a panoptic PNG in RGB (id = R + 256 · G + 256² · B)."
        )


def read_panoptic_map(path: Path) -> LabelMap:
    """Read the picture of a panoptic image; `LabelMap.ids` of its colours are segment ids.

    Raises:
        FileFormatError: The file is missing, broken, or not in colours.
    """
    with open_picture(path, "panoptic map") as picture:
        check_panoptic_mode(path, picture.mode)
    return read_label_map(path)


def read_panoptic(
    file: Entry,
    document: Any,
    file_names: Mapping[int | str, str] | None,
    *,
    empty: bool = False,
) -> tuple[list[ImageInstances], list[Path]]:
    """Read the images of a panoptic table, see `sort_by_image`, and its annotations' pictures.

    Args:
        file: The table's file; the pictures lie in a folder of its name without .json.
        document: What is in it.
        file_names: By image id, where the document has none.
        empty: Whether images that are listed, but have no annotation, count, too.

    Raises:
        FileFormatError: The table is broken, or there is no such folder.
    """
    check_panoptic(file.path, document, ("id",))
    annotations, folder = document["annotations"], file.path.with_suffix("")
    images = sort_by_image(file.path, document, annotations, file_names, empty=empty)
    if sum(bool(image.places) for image in images) < len(annotations):
        raise FileFormatError(f"{file.path}: two annotations of one image_id; keep one per image.")
    if annotations and not folder.is_dir():
        raise FileFormatError(
            f"{file.path}: panoptic, but there is no folder {folder} with its PNG files; put it "
            "there."
        )
    return images, [
        path_within(folder, item["file_name"], folder, str(file.path), inside=[file.path.parent])
        for item in annotations
    ]
