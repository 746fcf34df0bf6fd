"""Files of instances, sorted by image: COCO, SA-1B, SAM, Ultralytics, and annotation tools'."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from segfix.errors import FileFormatError, PairingError, SegfixError
from segfix.files import Entry
from segfix.files.naming import stem_of_name
from segfix.files.reading import read_bytes, read_text
from segfix.instances.cityscapes import holds_lists
from segfix.instances.coco import check_items, check_table, read_json
from segfix.instances.masks import segmentation_of
from segfix.polygons import TOOLS, geojson, geopackage, recognize_tool, yolo
from segfix.polygons.regions import AnnotatedImage, Region

DIGITS = (12, *range(2, 12))
"""That numbers in file names are filled up to, COCO's first."""


@dataclass(frozen=True)
class ImageInstances:
    """The instances of one image.

    Attributes:
        image: The image's id; where the file has none, the file's stem.
        names: Stems that the image's other files may have, likeliest first.
        size: Height and width, where the file states them.
        places: Of the instances, in the file's list of all.
        others: See `AnnotatedImage`.
    """

    image: int | str
    names: Sequence[str]
    size: tuple[int, int] | None
    places: Sequence[int]
    others: int = 0


@dataclass(frozen=True)
class InstanceFile:
    """A file of instances.

    Attributes:
        path: The file.
        document: All that is in it, see `read_document`.
        instances: Those in the document: objects of COCO's kind, or a `Region` each.
        images: Which of them are of which image.
        tool: Key of `TOOLS`; None: JSON of COCO's kind.
    """

    path: Path
    document: Any
    instances: Sequence[Any]
    images: Sequence[ImageInstances]
    tool: str | None = None

    def render(self, instances: Sequence[Any]) -> bytes:
        """Render the file with other instances, None for those left out.

        Raises:
            FileFormatError: It can't be written like this.
        """
        style: dict[str, Any] = {}
        try:
            if self.tool:
                pairs = enumerate(zip(self.instances, instances, strict=True))
                changes = {place: new for place, (old, new) in pairs if new is not old}
                document = TOOLS[self.tool][1](self.document, changes)
                if isinstance(document, str | bytes):
                    return document.encode("utf-8") if isinstance(document, str) else document
                text = read_text(self.path)
                indent = re.match(r"\s*[\[{]\r?\n([ \t]+)", text)
                style = {"indent": indent and indent[1], "ensure_ascii": text.isascii()}
            else:
                document = [item for item in instances if item is not None]
                if not isinstance(self.document, list):
                    document = {**self.document, "annotations": document}
            return json.dumps(document, **style).encode("utf-8")
        except SegfixError as error:
            raise FileFormatError(f"{self.path}: {error}.") from error
        except (ValueError, RecursionError) as error:
            raise FileFormatError(f"{self.path}: can't be written as JSON ({error}).") from error


def name_image(path: Path, image: int | str) -> str:
    """Name an image of a file in messages."""
    return f"{path}: image {image!r}"


def is_instance_input(preds: Path) -> bool:
    """Tell instances and panoptic segments from label maps by the files' names.

    Args:
        preds: A JSON file; or a folder, of which the lists `*_pred.txt` of Cityscapes are looked
            for in it and in the folders right below it.
    """
    return holds_lists(preds) if preds.is_dir() else preds.suffix.lower() == ".json"


def read_file_names(path: Path) -> dict[int | str, str]:
    """Read file names by image id from an annotation JSON.

    Raises:
        SegfixError: The file is missing, broken or holds no images.
    """
    document = read_json(path)
    check_table(path, document, ("images",))
    check_items(path, "images", document["images"], ("id", "file_name"))
    return {image["id"]: image["file_name"] for image in document["images"]}


def read_document(path: Path) -> Any:
    """Read a file of instances: what `json` makes of JSON, the text of others and of GeoJSON.

    Of a GeoPackage it is its bytes.

    Raises:
        PairingError: The file is missing.
        FileFormatError: It can't be read, or isn't whole.
    """
    suffix = path.suffix.lower()
    if suffix not in (".txt", ".xml", ".gpkg"):
        document = read_json(path)
        return read_text(path) if geojson.is_collection(document) else document
    try:
        if suffix == ".gpkg":
            geopackage.check_closed(path)
            return read_bytes(path)
        return read_text(path)
    except FileNotFoundError as error:
        raise PairingError(f"{path}: no such file.") from error
    except ValueError as error:
        raise FileFormatError(f"{path}: not a text file ({error}).") from error


def sort_instances(
    file: Entry,
    document: Any,
    file_names: Mapping[int | str, str] | None = None,
    *,
    empty: bool = False,
) -> InstanceFile:
    """Find the instances of a document, and the image that each is of.

    Args:
        file: Its stem names the image where the document doesn't.
        document: A list of COCO results (with image_id), of SAM or of Ultralytics (without: all
            are of the image that the file is named after); or an object with annotations: of COCO
            (with images), of SA-1B (with an image). Or one of an annotation tool, see `TOOLS`.
        file_names: By image id, where the document has none.
        empty: Whether images without an instance count, too: those listed, or the one that a file
            without instances is named after.

    Raises:
        FileFormatError: The document is none of these, or an instance has no mask.
    """
    path, where, instances = file.path, "results", document
    if tool := recognize_tool(path, document):
        return _sort_regions(file, document, tool, empty=empty)
    if not isinstance(document, list):
        check_table(path, document, ("annotations",))
        where, instances = "annotations", document["annotations"]
    known = [isinstance(item, dict) and segmentation_of(item) is not None for item in instances]
    for number, item in enumerate(instances):
        # Boxes alone may be among them.
        if not isinstance(item, dict) or not any(known):
            raise FileFormatError(
                f"{path}: {where}[{number}] has no 'segmentation'; expected masks of the "
                "instances, as run lengths or polygons."
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


def _sort_regions(file: Entry, document: Any, tool: str, *, empty: bool) -> InstanceFile:
    """Find the regions of an annotation tool's document, and the image that each is of."""
    found: list[AnnotatedImage] = TOOLS[tool][0](file.path, document)
    instances: list[Region] = []
    images: list[ImageInstances] = []
    for image in found:
        places = range(len(instances), len(instances) + len(image.regions))
        instances += image.regions
        names = [stem for name in image.names for stem in _stems(name)]
        if image.identity is None:
            # The file is named after it; below `labels`, where photographs are below `images`.
            below = file.stem.removeprefix(f"{yolo.LABELS}/")
            names = [file.stem, *dict.fromkeys([below, PurePosixPath(below).name]), *names]
        if image.regions or empty:
            identity = file.stem if image.identity is None else image.identity
            names = [*names, file.stem] if len(found) == 1 else names or [str(identity)]
            names = list(dict.fromkeys(names))
            images.append(ImageInstances(identity, names, image.size, places, image.others))
    return InstanceFile(file.path, document, instances, images, tool)


def _stems(file_name: Any) -> list[str]:
    """List the stems of a file name: with its folders and without."""
    if not isinstance(file_name, str) or not file_name.strip("./\\"):
        return []
    stem = stem_of_name(file_name)
    return [stem, PurePosixPath(stem).name]


def _stated_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None
