"""CVAT's XML for images 1.1: polygons, and masks as runs within their box.

Needs defusedxml (extra `polygons`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segfix.errors import FileFormatError, SegfixError
from segfix.files.limits import check_pixels
from segfix.polygons.regions import FAULTS, AnnotatedImage, Region

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

VERSION = "1.1"
AREAS = ("polygon", "mask")
"""Elements that are areas; boxes, lines and points stay as they are."""


def read_images(path: Path, document: str) -> list[AnnotatedImage]:
    """Read the polygons and masks of all images.

    Raises:
        FileFormatError: The file is none of CVAT for images, of an unknown version, or broken.
    """
    root = _parse(path, document)
    version = root.findtext("version")
    if root.tag != "annotations" or version != VERSION or root.find("track") is not None:
        found = "tracks of videos" if root.find("track") is not None else f"version {version!r}"
        raise FileFormatError(
            found if root.tag == "annotations" else f"<{root.tag}>",
            path=path,
            expected=f"only CVAT for images {VERSION} is known",
            advice="export it as that",
        )
    images = []
    for image in root.iter("image"):
        name = image.get("name", "")
        try:
            size = int(image.attrib["height"]), int(image.attrib["width"])
            regions = [_read_element(element) for element in image if element.tag in AREAS]
        except (*FAULTS, SegfixError) as error:
            raise FileFormatError(
                f"image {name!r} is broken ({error})", path=path, advice="export it again"
            ) from error
        images.append(AnnotatedImage([name], regions, size, name))
    return images


def write_regions(document: str, changes: Mapping[int, Region | None]) -> str:
    """Replace the polygons and masks of a document."""
    from xml.etree.ElementTree import tostring

    root = _parse(Path(), document)
    for place, (image, element) in enumerate(list(_areas(root))):
        if place in changes:
            region = changes[place]
            if region is None:
                image.remove(element)
            else:
                _write_element(element, region)
    text = tostring(root, encoding="unicode", short_empty_elements="/>" in document)
    head = document[: document.find("<annotations")]
    return head + text + document[document.rfind(">") + 1 :]


def _areas(root: Element) -> Iterator[tuple[Element, Element]]:
    for image in root.iter("image"):
        for element in image:
            if element.tag in AREAS:
                yield image, element


def _parse(path: Path, document: str) -> Element:
    from xml.etree.ElementTree import ParseError, TreeBuilder

    from defusedxml.ElementTree import DefusedXMLParser

    parser = DefusedXMLParser(target=TreeBuilder(insert_comments=True), forbid_dtd=True)
    try:
        parser.feed(document)
        root: Element = parser.close()
    except (ParseError, ValueError) as error:
        raise FileFormatError(
            f"not a whole XML file ({error})", path=path, advice="export it again"
        ) from error
    return root


def _read_element(element: Element) -> Region:
    group, label = element.get("group_id", "0"), element.get("label")
    # 0 is none.
    together = f"{group} of {label}" if group != "0" else None
    if element.tag == "polygon":
        pairs = [pair.split(",") for pair in element.attrib["points"].split(";")]
        points = np.array(pairs, np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
            raise ValueError("expected polygons of three points or more")
        if not np.isfinite(points).all():
            raise ValueError("points that aren't finite")
        return Region(points=points, group=together)
    left, top, width, height = (
        int(element.attrib[key]) for key in ("left", "top", "width", "height")
    )
    runs = np.array([int(run) for run in element.attrib["rle"].split(",")], np.int64)
    if min(width, height, runs.min()) < 0 or runs.max() > width * height:
        raise ValueError("runs beyond their box")
    if runs.sum() != width * height:
        raise ValueError(f"runs of {runs.sum()} pixels, but their box has {width * height}")
    check_pixels((height, width), "a mask")
    mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return Region(mask=mask, corner=(left, top), group=together)


def _write_element(element: Element, region: Region) -> None:
    if region.points is not None:
        if element.tag == "mask":
            element.tag = "polygon"
            for key in ("rle", "left", "top", "width", "height"):
                del element.attrib[key]
        points = (f"{x:.2f},{y:.2f}" for x, y in region.points.tolist())
        element.set("points", ";".join(points))
        return
    assert region.mask is not None
    if element.tag == "polygon":
        element.tag = "mask"
        del element.attrib["points"]
    flat = region.mask.ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0] * (1 + int(flat[0])), ends, [flat.size]]))
    (left, top), (height, width) = region.corner, region.mask.shape
    for key, value in {
        "rle": ", ".join(map(str, runs.tolist())),
        "left": left,
        "top": top,
        "width": width,
        "height": height,
    }.items():
        element.set(key, str(value))
