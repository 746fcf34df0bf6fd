"""The result of an audit: CSV and JSON of all label maps, and a page of the worst."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segfix.errors import SegfixError
from segfix.files.provenance import read_record, recorded_path
from segfix.formats import read_label_map, read_offset_map
from segfix.formats.images import open_photograph
from segfix.refinement import refine
from segfix.refinement.sizes import as_displayed
from segfix.report.layers import (
    data_uri,
    draw_photograph,
    encode_png,
    reduce_nearest,
    shown_size,
)
from segfix.report.overlay import region_lines
from segfix.report.page import MAX_FAILURES, make_environment
from segfix.report.tables import MAX_IMAGES, Cell, Table
from segfix.tasks.audit import Audited

RECORD = "segfix audit"
FILES = ("audit.html", "audit.csv", "audit.json")
MARGIN, SMALLEST_CROP = 24, 120
"""Pixels around a region that its crop shows, and the least that a crop measures."""

AS_LABELLED, SUSPECTED, BOX = 0xE6007AFF, 0x00C8FFFF, (255, 200, 0)
"""RRGGBBAA of outlines, RGB of boxes."""


@dataclass(frozen=True)
class Finding:
    """One of the worst label maps, with pictures as data URIs.

    Attributes:
        audited: The label map.
        rank: From 1.
        box: x, y, width and height of the crop, pixels of the photograph.
        photograph: The crop.
        labels: Outlines of the label map in it.
        suspected: Outlines of the label map as the network would have it.
        whole: The photograph with the boxes of all regions.
    """

    audited: Audited
    rank: int
    box: tuple[int, int, int, int]
    photograph: str
    labels: str
    suspected: str
    whole: str


def check_files(out: Path, *, overwrite: bool) -> None:
    """Refuse to replace files that no audit wrote, or that somebody has changed since.

    Raises:
        SegfixError: There is one.
    """
    for name in FILES:
        path = out / name
        if path.exists() and not overwrite and read_record(path) != RECORD:
            raise SegfixError(
                "exists and is not as an audit wrote it",
                path=path,
                advice="--overwrite replaces it, -o writes elsewhere",
            )


def write_audit(
    out: Path,
    ranked: Sequence[Audited],
    *,
    sources: Mapping[str, str],
    failed: Sequence[str] = (),
    examples: int = 24,
) -> list[str]:
    """Write `audit.csv`, `audit.json` and `audit.html`, the worst label maps first.

    Args:
        out: Folder of the results.
        ranked: All label maps that were audited, the worst first.
        sources: What was audited: names and paths.
        failed: One text per label map that couldn't be.
        examples: Label maps that the page shows.

    Returns:
        One text per label map that couldn't be drawn.
    """
    drawn, undrawn = [], []
    for rank, audited in enumerate(ranked[:examples], 1):
        try:
            drawn.append(draw_finding(audited, rank))
        except SegfixError as error:
            undrawn.append(str(error))
    page = (
        make_environment()
        .get_template("audit.html.j2")
        .render(
            findings=drawn,
            number=len(ranked),
            table=map_table(ranked),
            sources=sources,
            failed=[*failed, *undrawn],
            max_failures=MAX_FAILURES,
            markers=(),
        )
    )
    rows = [describe(rank, audited) for rank, audited in enumerate(ranked, 1)]
    document = {"sources": sources, "maps": rows, "failed": list(failed)}
    texts = (page, write_csv(rows), json.dumps(document, indent=2))
    for name, text in zip(FILES, texts, strict=True):
        with recorded_path(out / name, RECORD) as temporary:
            # File names may hold bytes that are no text.
            temporary.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    return undrawn


def describe(rank: int, audited: Audited) -> dict[str, Any]:
    """Describe an audited label map for JSON."""
    files = {"image": audited.image, "labels": audited.labels, "offsets": audited.offsets}
    paths = {name: f"{path}" for name, path in files.items()}
    return {"rank": rank, "name": audited.name, **asdict(audited.suspicion), **paths}


def write_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Write a line for each region, and one for each label map without any, as CSV."""
    columns = ["rank", "name", "score", "share", "peak", "region"]
    columns += ["x", "y", "width", "height", "label", "wrong", "image", "labels"]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        for number, region in enumerate(row["regions"] or [None], 1):
            cells = dict(row)
            if region is not None:
                box = dict(zip(("x", "y", "width", "height"), region["box"], strict=True))
                cells |= {"region": number, **box, **region}
            writer.writerow(cells)
    return file.getvalue()


def map_table(ranked: Sequence[Audited]) -> Table:
    """Tabulate the label maps, the worst first."""
    rows = []
    for audited in ranked[:MAX_IMAGES]:
        found = audited.suspicion
        rows.append(
            [
                Cell(audited.name, audited.name),
                *(Cell(f"{one:.3f}", one) for one in (found.score, found.share, found.peak)),
                Cell(f"{len(found.regions)}", len(found.regions)),
            ]
        )
    return Table(["label map", "score", "share", "peak", "regions"], rows)


def draw_finding(audited: Audited, rank: int) -> Finding:
    """Draw the worst region of a label map, and where all of them lie.

    Raises:
        SegfixError: A file can't be read any more, or has another size.
    """
    offset_map = read_offset_map(audited.offsets)
    key, bands = (offset_map.source.get(name) for name in ("key", "bands"))
    with open_photograph(audited.image, bands) as photograph:
        orientation = photograph.orientation
        image = photograph[:, :]
    size = image.shape[:2]
    ids = as_displayed(read_label_map(audited.labels, key=key), size, orientation).ids()
    if ids.shape != size or offset_map.codes.shape != size:
        raise SegfixError("changed since it was audited", path=audited.labels, advice="run again")
    suspected = refine(ids, offset_map)
    box = crop_box(audited, ids.shape)
    x, y, width, height = box
    crop = np.s_[y : y + height, x : x + width]
    shown = shown_size(height, width)
    return Finding(
        audited,
        rank,
        box,
        data_uri(draw_photograph(image[crop], shown), "image/jpeg"),
        outline_uri(ids[crop], shown, AS_LABELLED),
        outline_uri(suspected[crop], shown, SUSPECTED),
        draw_boxes(image, audited),
    )


def crop_box(audited: Audited, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Choose what to show: the worst region and its surroundings, or all if there is none."""
    height, width = shape
    if not audited.suspicion.regions:
        return 0, 0, width, height
    corner = []
    for start, length, most in zip(
        audited.suspicion.regions[0].box[:2],
        audited.suspicion.regions[0].box[2:],
        (width, height),
        strict=True,
    ):
        shown = min(max(length + 2 * MARGIN, SMALLEST_CROP), most)
        first = min(max(start + length // 2 - shown // 2, 0), most - shown)
        corner.append((first, shown))
    (x, width), (y, height) = corner
    return x, y, width, height


def outline_uri(ids: NDArray[np.integer[Any]], size: tuple[int, int], colour: int) -> str:
    """Draw the boundaries of a label map, else transparent."""
    packed = np.where(region_lines(reduce_nearest(ids, size)), colour, 0)
    return data_uri(encode_png(packed.astype(np.int64)))


def draw_boxes(image: NDArray[np.uint8], audited: Audited) -> str:
    """Draw the boxes of all regions on the photograph, the first one thicker."""
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    line = max(1, max(height, width) // 400)
    for number, region in reversed(list(enumerate(audited.suspicion.regions))):
        x, y, across, down = region.box
        corners = [x - line, y - line, x + across + line, y + down + line]
        pen.rectangle(corners, outline=BOX, width=line * (1 if number else 2))
    drawn = draw_photograph(np.array(picture), shown_size(height, width))
    return data_uri(drawn, "image/jpeg")
