"""What is made of an upload: the fixed file, and pictures of before and after."""

from __future__ import annotations

import ctypes
import json
import re
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from mimetypes import guess_type
from pathlib import Path
from typing import Any

import numpy as np
from starlette.responses import FileResponse, Response, StreamingResponse

from segfix.errors import SegfixError, one_line
from segfix.files.georeference import read_georeference
from segfix.formats import LabelMap
from segfix.formats.images import turn_transform
from segfix.instances.listing import holds_instances
from segfix.instances.photographs import InstanceEntry
from segfix.jobs.run_settings import RunSettings
from segfix.report.before_after import number_masks
from segfix.report.layers import (
    css_colour,
    draw_changes,
    draw_labels,
    draw_photograph,
    reduce_nearest,
    shown_size,
)
from segfix.report.overlay import NUM_COLOURS, label_colours
from segfix.report.show import shared_palette
from segfix.serve.upload import Upload
from segfix.tasks.fix import ENDING, fix_files, place_results
from segfix.tasks.fixing import Fixing
from segfix.tasks.in_memory import as_photograph
from segfix.tasks.predict_offsets import list_photographs
from segfix.tasks.predictions import FileSettings, read_prediction

TOLD = ("pixels", "changed", "instances", "other_photographs", "refined_before")
"""Of the report on a file, what a client is told."""

FORM = "multipart/form-data"
"""Who accepts this gets the pictures, too."""

SHOWN_IDS = 12
"""Of the legend."""

CHUNK = 1 << 16

LONGEST = 1000
"""Characters of an error."""


@dataclass(frozen=True)
class Result:
    """What an upload has become.

    Attributes:
        name: Of the fixed file, for the client.
        files: By name: `result`, the fixed file, and pictures of it.
        report: Numbers of `TOLD`.
    """

    name: str
    files: Mapping[str, Path]
    report: Mapping[str, Any]


def fix_upload(upload: Upload, fixing: Fixing, *, pictures: bool) -> Result:
    """Fix an uploaded prediction.

    Args:
        upload: It; other files are made in its folder.
        fixing: The network; how is for the upload to say.
        pictures: Whether to draw `photograph`, `before`, `after` and `changes`, too.

    Raises:
        SegfixError: A file is broken, or they don't belong together; the text has no path.
    """
    try:
        argmax = upload.reading.argmax
        folder, name = place_results(upload.prediction, upload.folder / "result", argmax=argmax)
        how: dict[str, Any] = {"refining": upload.refining, "reading": upload.reading}
        if upload.form and not holds_instances(upload.prediction, recursive=False):
            raise SegfixError("as is for instances, not for label maps and arrays; leave it out.")
        how |= {"form": upload.form, "simplify": upload.simplify, "passes": upload.passes}
        fixing = replace(fixing, **how, offsets=upload.folder / "offsets")
        one = RunSettings(workers=1)
        summary = fix_files(upload.image, upload.prediction, folder, name, fixing, one)
        if summary.failed or name is None:
            raise SegfixError(" ".join(summary.failed))
        fixed = folder / name
        report = {key: summary.done[0][key] for key in TOLD if key in summary.done[0]}
        files = {"result": fixed}
        if pictures:
            drawn, legend = draw_pictures(upload, fixed)
            report |= legend
            for picture, content in drawn.items():
                path = files[picture.partition(".")[0]] = upload.folder / picture
                path.write_bytes(content)
        return Result(f"{fixed.stem}{ENDING}{fixed.suffix}", files, report)
    except SegfixError as error:
        raise SegfixError(without_paths(str(error), upload.folder)) from error
    finally:
        # Each job has threads of its own, and for each glibc would keep what one of them has freed.
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)


def send_result(result: Result) -> Response:
    """Answer with the fixed file or, if there are pictures, with a form that holds all files."""
    report = json.dumps(result.report)
    if len(result.files) == 1:
        path = result.files["result"]
        return FileResponse(path, filename=result.name, headers={"segfix-report": report})
    boundary = secrets.token_hex(16)
    parts: list[bytes | Path] = []
    for field, path in result.files.items():
        name = result.name if field == "result" else path.name
        media_type = guess_type(name)[0] or "application/octet-stream"
        parts += [_part(boundary, f'{field}"; filename="{name}', media_type), path, b"\r\n"]
    parts += [_part(boundary, "report", "application/json"), report.encode(), b"\r\n"]
    parts.append(f"--{boundary}--\r\n".encode())
    length = sum(len(one) if isinstance(one, bytes) else one.stat().st_size for one in parts)
    return StreamingResponse(
        read_parts(parts),
        media_type=f"{FORM}; boundary={boundary}",
        headers={"content-length": f"{length}"},
    )


def _part(boundary: str, field: str, media_type: str) -> bytes:
    disposition = f'Content-Disposition: form-data; name="{field}"'
    return f"--{boundary}\r\n{disposition}\r\nContent-Type: {media_type}\r\n\r\n".encode()


async def read_parts(parts: Iterable[bytes | Path]) -> AsyncIterator[bytes]:
    """Read bytes and files one after the other, a little at a time."""
    for part in parts:
        if isinstance(part, bytes):
            yield part
            continue
        with part.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk


def without_paths(text: str, folder: Path) -> str:
    """Take out of a text where an upload is kept, so that files have the names they came with."""
    place = re.escape(str(folder)) + r"(?:[/\\](?:image|prediction|result|offsets))?[/\\]?"
    return one_line(re.sub(place, "", text)[:LONGEST])


def draw_pictures(upload: Upload, fixed: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Draw the photograph, the prediction before and after on it, and what has changed.

    Returns:
        Picture files by name, all of one size, and what is to be said of them: that size (`width`,
        `height`), the photograph's (`of`), and the colours of the most frequent `ids`.

    Raises:
        SegfixError: A file can't be read.
    """
    photograph, orientation = as_photograph(upload.image)
    height, width, _ = photograph.shape
    written = FileSettings() if upload.reading.argmax else upload.reading
    georeference = read_georeference(upload.image)
    if georeference:
        turned = turn_transform(georeference["transform"], (height, width), orientation)
        georeference["transform"] = turned
    maps, instances = {}, False
    for kind, path, reading in (
        ("before", upload.prediction, upload.reading),
        ("after", fixed, written),
    ):
        job = next(iter(list_photographs(upload.image, upload.folder / "none", path)))
        assert job.partner is not None
        found = read_prediction(
            *(job.partner, reading, job.entry, (height, width), orientation), georeference
        )
        found = found or LabelMap(np.zeros((height, width), np.uint8))
        instances = isinstance(job.partner, InstanceEntry)
        maps[kind] = number_masks(found)
    whole = {kind: label_map.ids() for kind, label_map in maps.items()}
    size = shown_size(height, width)
    known, counts = np.unique(whole["before"], return_counts=True)
    # Things on a background of 0, not classes of which 0 is one: the photograph shows there.
    void = 0 if instances or len(known) <= 2 else None
    colours = label_colours(shared_palette(maps), ignore_index=-1)
    pictures = {"photograph.jpg": draw_photograph(photograph, size)}
    for kind, label_map in maps.items():
        own = colours
        if label_map.kind == "colours" and label_map.planes.shape[2] >= 3:
            own = reduce_nearest(label_map.planes[..., :3], size)
        pictures[f"{kind}.png"] = draw_labels(reduce_nearest(whole[kind], size), own, void)
    changed = whole["before"] != whole["after"]
    pictures["changes.png"] = draw_changes(reduce_nearest(changed, size))
    order = [k for k in known[np.argsort(-counts, kind="stable")].tolist() if k != void]
    legend = [(f"{k}", css_colour(colours[k % NUM_COLOURS].tolist())) for k in order[:SHOWN_IDS]]
    told = {
        "height": size[0],
        "width": size[1],
        "of": [width, height],
        "share": float(changed.mean()),
        "ids": [] if maps["before"].kind == "colours" else legend,
        "more_ids": max(len(order) - SHOWN_IDS, 0),
    }
    return pictures, told
