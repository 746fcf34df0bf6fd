"""Label Studio's JSON of tasks: polygons in percent, and brushes as packed runs of RGBA."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from segfix.errors import FileFormatError, SegfixError
from segfix.files.limits import check_bytes, check_pixels
from segfix.polygons.regions import FAULTS, AnnotatedImage, Region, decode_region

LISTS = ("annotations", "predictions", "completions")
"""Of a task, each of whose items has a list `result`."""

UPLOADED = re.compile(r"(?<![^/])[0-9a-f]{8}-")
"""What Label Studio puts before the name of an uploaded file."""

RUN_BITS = (3, 4, 8, 16)
"""Of the lengths of runs that we write."""


def holds_tasks(document: Any) -> bool:
    """Tell whether a JSON document is a task or a list of tasks."""
    tasks = document if isinstance(document, list) else [document]
    return bool(tasks) and all(
        isinstance(task, dict)
        and isinstance(task.get("data"), dict)
        and any(isinstance(task.get(key), list) for key in LISTS)
        for task in tasks
    )


def read_tasks(path: Path, document: Any) -> list[AnnotatedImage]:
    """Read the polygons and brushes of all tasks.

    Raises:
        FileFormatError: A result is broken, or of a photograph that was turned in the editor.
    """
    images = []
    for number, task in enumerate(document if isinstance(document, list) else [document]):
        regions, sizes = [], set()
        try:
            for result in _areas(task):
                sizes.add((int(result["original_height"]), int(result["original_width"])))
                regions.append(_read_result(result))
            if len(sizes) > 1:
                raise ValueError(f"photographs of sizes {sorted(sizes)}")
        except (*FAULTS, SegfixError) as error:
            raise FileFormatError(
                f"task {task.get('id', number)!r} is broken ({error})",
                path=path,
                advice="export it again",
            ) from error
        identity = task.get("id", number)
        identity = identity if isinstance(identity, int | str) else number
        images.append(AnnotatedImage(_list_names(task), regions, next(iter(sizes), None), identity))
    return images


def write_regions(document: Any, changes: Mapping[int, Region | None]) -> Any:
    """Replace the polygons and brushes of all tasks.

    Raises:
        SegfixError: A polygon became a mask, or the other way round.
    """
    places = count()

    def replaced(task: dict[str, Any]) -> dict[str, Any]:
        changed = {}
        for key in LISTS:
            if isinstance(task.get(key), list):
                changed[key] = [
                    {**item, "result": list(_replace(item["result"], places, changes))}
                    if _is_annotation(item)
                    else item
                    for item in task[key]
                ]
        return {**task, **changed}

    return list(map(replaced, document)) if isinstance(document, list) else replaced(document)


def _is_annotation(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("result"), list)


def _areas(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for key in LISTS:
        for item in task.get(key) or []:
            if _is_annotation(item):
                yield from filter(_is_area, item["result"])


def _is_area(result: Any) -> bool:
    value = result.get("value") if isinstance(result, dict) else None
    if not isinstance(value, dict):
        return False
    outline = result.get("type") in ("polygonlabels", "polygon") and "points" in value
    return outline or value.get("format") == "rle"


def _replace(
    results: Sequence[Any], places: Iterator[int], changes: Mapping[int, Region | None]
) -> Iterator[Any]:
    for result in results:
        if not _is_area(result) or (place := next(places)) not in changes:
            yield result
        elif (region := changes[place]) is not None:
            yield {**result, "value": _write_value(result, region)}


def _list_names(task: dict[str, Any]) -> list[str]:
    """List what the photograph may be called: as uploaded, and as it was called before."""
    names = []
    for text in (*task["data"].values(), task.get("file_upload")):
        if not isinstance(text, str) or "\n" in text:
            continue
        parts = urlsplit(text)
        name = unquote(parse_qs(parts.query).get("d", [parts.path])[0])
        if re.search(r"\.[A-Za-z]{2,4}\d?$", name):
            names += [name, UPLOADED.sub("", name)]
    return list(dict.fromkeys(names))


def _read_result(result: dict[str, Any]) -> Region:
    if result.get("image_rotation"):
        raise ValueError("its photograph was turned in the editor")
    value = result["value"]
    if value.get("format") == "rle":
        shape = int(result["original_height"]), int(result["original_width"])
        return Region(mask=decode_brush(bytes(value["rle"]), shape))
    points = np.array(value["points"], np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise ValueError("a polygon of less than three points")
    if not np.isfinite(points).all():
        raise ValueError("points that aren't finite")
    return Region(points=points, scale=100)


def _write_value(result: dict[str, Any], region: Region) -> dict[str, Any]:
    value: dict[str, Any] = result["value"]
    if (region.points is None) != (value.get("format") == "rle"):
        raise SegfixError(
            "Label Studio's polygons and brushes belong to controls of their own; leave --as out"
        )
    if region.points is not None:
        return {**value, "points": region.points.tolist()}
    size = int(result["original_height"]), int(result["original_width"])
    return {**value, "rle": list(encode_brush(decode_region(region, size) != 0))}


def decode_brush(packed: bytes, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode the runs of a brush: the pixels whose fourth channel isn't 0.

    Args:
        packed: Big-endian bits: the number of bytes (32), bits of a value less 1 (5), bits of each
            of four kinds of lengths less 1 (4 each), and runs: whether one value is repeated (1),
            kind of its length (2), length less 1, and the value or values.
        shape: Height and width.

    Raises:
        ValueError: The runs are broken, or of another size.
    """
    check_pixels(shape, "a brush")
    check_bytes(4 * shape[0] * shape[1], "a brush")
    place = 0

    def read(bits: int) -> int:
        nonlocal place
        begin, place = place, place + bits
        if place > 8 * len(packed):
            raise ValueError("a brush that ends too early")
        window = int.from_bytes(packed[begin >> 3 : (place + 7) >> 3])
        return window >> (-place % 8) & ((1 << bits) - 1)

    total = read(32)
    if total != 4 * shape[0] * shape[1]:
        raise ValueError(f"a brush of {total} bytes, not {shape[1]}×{shape[0]} of RGBA")
    word = read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values, lengths, done = [], [], 0
    while done < total:
        repeated = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] if repeated else [read(word) for _ in range(length)]
        lengths += [length] if repeated else [1] * length
        done += length
    flat = np.repeat(np.array(values) != 0, lengths)[:total]
    return flat.reshape(*shape, 4)[:, :, 3]


def encode_brush(mask: NDArray[np.bool_]) -> bytes:
    """Encode a mask (H, W) as runs of RGBA, see `decode_brush`."""
    flat = mask.ravel()
    ends = np.concatenate([np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    lengths = 4 * np.diff(ends, prepend=0)
    bits = [f"{4 * flat.size:032b}{7:05b}", *(f"{size - 1:04b}" for size in RUN_BITS)]
    for length, marked in zip(lengths.tolist(), flat[ends - 1].tolist(), strict=True):
        left = length
        while left:
            part = min(left, 1 << RUN_BITS[-1])
            kind = next(kind for kind, size in enumerate(RUN_BITS) if part <= 1 << size)
            bits.append(f"1{kind:02b}{part - 1:0{RUN_BITS[kind]}b}{255 * marked:08b}")
            left -= part
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8)
