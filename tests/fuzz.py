"""Broken and hostile files for every reader: is the outcome a value or one of our errors?

    python tests/fuzz.py --files 10000 labels-png coco

Each reader's good files are changed, one at a time: bytes at random, and what the format consists
of (PNG chunks with their checksums, TIFF tags, members of archives, JSON values, …). Forks of this
process read them, with limits on memory, time and what they may write. A finding is any exception
but ours, a warning, a file written, a network connection, a process that dies or takes too long;
the files are kept in a folder of its name. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import gc
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segfix.errors import SegfixError
from segfix.files import Entry, Pair
from segfix.files.limits import limit_reading
from segfix.files.pairing import list_entries, read_name_map
from segfix.files.provenance import is_whole, read_record, record_path
from segfix.formats import (
    OffsetMap,
    read_frames,
    read_image,
    read_label_map,
    read_offset_map,
    write_offset_map,
)
from segfix.formats.arrays import read_npy, read_npz, write_npy
from segfix.formats.class_names import read_class_names
from segfix.formats.mat_files import read_mat
from segfix.instances.masks import read_file_names
from segfix.jobs.task import Output, Skipped
from segfix.refinement.apply import RefineSettings
from segfix.tasks.refine import FileSettings, refine_task
from segfix.training.layouts import find_labelled_images

SECONDS = 10
"""Of the processor, for one file; with waiting, twenty times as many."""
MEMORY = 3 << 30
"""Bytes that reading may add: a picture of --max-pixels in four channels takes two thirds of it."""
LONGEST_RESULT = 512 << 20
"""Bytes of a file written by what writes."""
PER_FORK = 500

Files = dict[str, bytes]
Random = random.Random
SIZE = (24, 40)

NUMBERS = (
    *(0, 1, 2, 3, 7, 8, 16, 32, 127, 128, 255, 256, 32767, 32768, 65535, 65536),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**64 - 1),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "a", "0", "../x.png", "/dev/zero", "a\0b", "\ud800", "x" * 5000),
    *(-1, 1.5, -1e308, 1e308, 10**30, 10**400, float("nan"), float("inf"), [], {}, [[]], [0, 0]),
    *({"a": 1}, "nan", "1e400", "é\n\x1b[31m", "PPPP", "~~~~", [-1], [1e300] * 6, [None] * 8),
)
"""JSON values that stand where others are meant."""


# Changes


def change_bytes(content: bytes, rng: Random) -> bytes:
    """Any file: bits, bytes, numbers, parts left out, twice, elsewhere."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        start = rng.randrange(len(data) + 1)
        length = min(rng.choice((1, 2, 4, 8, 64)), len(data) - start)
        what = rng.randrange(8)
        if what == 0:
            data[start : start + length] = rng.randbytes(length)
        elif what == 1:
            number, width = rng.choice(NUMBERS), rng.choice((1, 2, 4, 8))
            order = rng.choice(("little", "big"))
            data[start : start + width] = (number % 256**width).to_bytes(width, order)
        elif what == 2:
            del data[start:]
        elif what == 3:
            del data[start : start + length]
        elif what == 4:
            data[start:start] = data[start : start + length] * rng.choice((1, 2, 1000))
        elif what == 5:
            data[start:start] = rng.randbytes(length)
        elif what == 6 and data:
            place = rng.randrange(len(data))
            data[place] ^= 1 << rng.randrange(8)
        elif what == 7:
            data[start : start + length] = rng.choice((b"\0", b"\xff", b" ")) * length
    return bytes(data)


def chunk(name: bytes, body: bytes, length: int | None = None) -> bytes:
    """A PNG chunk with its checksum."""
    size = struct.pack(">I", (len(body) if length is None else length) % 2**32)
    return size + name + body + struct.pack(">I", zlib.crc32(name + body))


def change_png(content: bytes, rng: Random) -> bytes:
    """Chunks of a PNG file; checksums are right."""
    chunks, place = [], 8
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    lengths: dict[int, int] = {}
    for _ in range(rng.choice((1, 1, 2, 3))):
        which = rng.randrange(len(chunks))
        name, body = chunks[which]
        what = rng.randrange(9)
        if what == 0:
            # Width, height, bits, kind of colours, three methods.
            header = list(struct.unpack(">IIBBBBB", chunks[0][1][:13].ljust(13, b"\0")))
            entry = rng.randrange(7)
            header[entry] = rng.choice(NUMBERS) % (2**32 if entry < 2 else 256)
            chunks[0] = chunks[0][0], struct.pack(">IIBBBBB", *header)
        elif what == 1:
            lengths[which] = rng.choice(NUMBERS)
        elif what == 2:
            chunks.insert(which, (name, body))
        elif what == 3 and len(chunks) > 1:
            del chunks[which]
        elif what == 4:
            chunks[which] = name, change_bytes(body, rng)
        elif what == 5 and name == b"IDAT":
            with suppress(zlib.error):
                chunks[which] = name, zlib.compress(change_bytes(zlib.decompress(body), rng))
        elif what == 6:
            text = rng.choice((b"segfix", b"Comment", b"XML:com.adobe.xmp", b""))
            packed = zlib.compress(rng.choice((b"{}", b"\0" * 10**6, b"[" * 10**5, b"\xff\xfe")))
            extra = {
                b"tEXt": text + b"\0" + rng.choice((b"{}", b"[" * 10**5, b'{"kind": 1}')),
                b"zTXt": text + b"\0\0" + packed,
                b"iTXt": text + b"\0\1\0\0\0" + packed,
                b"iCCP": b"name\0\0" + packed,
                b"eXIf": rng.randbytes(rng.randrange(64)),
                b"acTL": struct.pack(">II", rng.choice(NUMBERS) % 2**32, 0),
                b"tRNS": rng.randbytes(rng.randrange(300)),
                b"PLTE": rng.randbytes(rng.randrange(800)),
                b"pHYs": rng.randbytes(rng.choice((0, 8, 9, 10))),
                b"gAMA": rng.randbytes(rng.choice((0, 4))),
                b"cHRM": rng.randbytes(32),
                b"fcTL": rng.randbytes(26),
                b"fdAT": rng.randbytes(40),
                b"IEND": b"",
            }
            chunks.insert(max(which, 1), rng.choice(list(extra.items())))
        elif what == 7:
            chunks[which] = rng.randbytes(4), body
        elif what == 8:
            other = rng.randrange(len(chunks))
            chunks[which], chunks[other] = chunks[other], chunks[which]
    parts = (chunk(*pair, lengths.get(k)) for k, pair in enumerate(chunks))
    return content[:8] + b"".join(parts)


def change_tiff(content: bytes, rng: Random) -> bytes:
    """Entries of the first directory of a TIFF file: tag, type, count, value."""
    data = bytearray(content)
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = start + 2 + 12 * rng.randrange(count)
        at, kind = rng.choice(((0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "H")))
        number = rng.choice((*NUMBERS, 256, 257, 258, 259, 262, 274, 277, 317, 339, 34887, 32773))
        if at == 2:
            number = rng.randrange(20)
        struct.pack_into(order + kind, data, place + at, number % 256 ** struct.calcsize(kind))
    return bytes(data)


def change_npy(content: bytes, rng: Random) -> bytes:
    """The header of a .npy file."""
    length = int.from_bytes(content[8:10], "little")
    text = content[10 : 10 + length].decode("latin-1")
    odd = [str(value) for value in VALUES] + [
        *("(9,)", "()", "(0, 0)", "(-1, 960)", f"({10**9}, {10**9})", "(True, 960)", "('a',)"),
        *("'|O'", "'O'", "'<f8'", "'<M8[ns]'", "[('a', '<f4')]", "'<U9999999'", "'|S0'", "'<c16'"),
        *("'|V8'", "'b999999999'", "'<f99'", "(" * 300, "[" * 5000, "{}", "1 if 1 else 2", "f()"),
    ]
    for _ in range(rng.choice((1, 1, 2))):
        found = rng.choice(list(re.finditer(r"'[^']*'|\([^)]*\)|True|False", text)) or [None])
        if found is None:
            break
        text = text[: found.start()] + rng.choice(odd) + text[found.end() :]
    header = text.encode("utf-8", "surrogatepass")
    rest = header + content[10 + length :]
    if rng.random() < 0.7:
        return content[:8] + struct.pack("<H", len(header) % 65536) + rest
    return b"\x93NUMPY\2\0" + struct.pack("<I", len(header)) + rest


def change_zip(content: bytes, rng: Random) -> bytes:
    """Members of an archive, and the fields of its directory."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    bomb = "bomb.npy", b"\0" * rng.choice((10**4, 10**5, 10**6))
    for _ in range(rng.choice((0, 1, 1, 2))):
        which = rng.randrange(len(members))
        name, body = members[which]
        what = rng.randrange(5)
        if what == 0:
            names = ("../a.npy", "/a.npy", "", "a\0.npy", "x" * 60000, "é\n.npy", ".npy", "a.txt")
            members[which] = rng.choice(names), body
        elif what == 1:
            change = change_npy if body[:6] == b"\x93NUMPY" and rng.random() < 0.5 else change_bytes
            members[which] = name, change(body, rng)
        elif what == 2:
            members.append((name, body))
        elif what == 3 and len(members) > 1:
            del members[which]
        elif what == 4:
            members.append(bomb)
    file = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", method) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, body in members:
            info = zipfile.ZipInfo(name.replace("\0", "_") or "a")
            info.compress_type = method
            archive.writestr(info, body)
    data = bytearray(file.getvalue())
    for _ in range(rng.choice((0, 0, 1, 2))):
        marks = [found.start() for found in re.finditer(rb"PK[\1\3\5\6]", bytes(data))]
        place, width = rng.choice(marks) + rng.randrange(4, 46), rng.choice((1, 2, 4))
        number = (rng.choice(NUMBERS) % 256**width).to_bytes(width, "little")
        data[place : place + width] = number
    return bytes(data)


def change_mat(content: bytes, rng: Random) -> bytes:
    """Variables of a .mat file, packed again."""
    body, elements = content[128:], []
    while len(body) >= 8:
        kind, length = struct.unpack_from("<II", body)
        elements.append((kind, body[8 : 8 + length]))
        body = body[8 + length :]
    which = rng.randrange(len(elements))
    kind, data = elements[which]
    inner = zlib.decompress(data) if kind == 15 else data
    place = 4 * rng.randrange(min(len(inner) // 4, 24))
    if rng.random() < 0.5:
        number = rng.choice((*NUMBERS, *range(20))) % 2**32
        inner = inner[:place] + struct.pack("<I", number) + inner[place + 4 :]
    else:
        inner = change_bytes(inner, rng)
    if rng.random() < 0.02:
        inner = inner[:8] + inner[8:] * 10000
    packed = zlib.compress(inner) if kind == 15 else inner
    elements[which] = rng.choice((kind, kind, kind, 14, 15, 1)), packed
    if rng.random() < 0.2:
        elements *= 2
    return content[:128] + b"".join(
        struct.pack("<II", kind, len(packed)) + packed for kind, packed in elements
    )


def change_value(document: Any, rng: Random) -> Any:
    """One value of a JSON document, which may be at any depth."""
    places: list[tuple[Any, Any]] = [(None, None)]

    def walk(value: Any) -> None:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        for key in keys:
            places.append((value, key))
            if isinstance(value[key], (dict, list)):
                walk(value[key])

    if isinstance(document, (dict, list)):
        walk(document)
    holder, key = rng.choice(places[1:] or places)
    odd = copy.deepcopy(rng.choice(VALUES))
    if holder is None:
        return odd
    what = rng.randrange(8)
    if what == 0:
        del holder[key]
    elif what == 1:
        holder[key] = [holder[key]]
    elif what == 2:
        holder[key] = rng.choice(places[1:])[1]
    elif what == 3 and isinstance(holder, list):
        holder *= 3
    elif what == 4 and isinstance(holder[key], str):
        text = holder[key]
        place = rng.randrange(len(text) + 1)
        holder[key] = text[:place] + rng.choice(("0", "~", "P", "\0", "é", "/", " ")) + text[place:]
    elif what == 5 and isinstance(holder[key], (int, float)):
        holder[key] = rng.choice((-1, 0, 1, 2, 10, 1000, 65536)) + holder[key]
    else:
        holder[key] = odd
    return document


def change_json(content: bytes, rng: Random) -> bytes:
    """Values of a JSON file."""
    document = json.loads(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        document = change_value(document, rng)
    text = json.dumps(document)
    if rng.random() < 0.03:
        deep = rng.choice((10, 1000, 100000))
        text = rng.choice(('{"a":', "[")) * deep + text + rng.choice(("}", "]")) * deep
    if rng.random() < 0.03:
        text = text.replace(": ", f": {rng.choice('-19')}{'9' * rng.choice((1, 400, 5000))}", 1)
    return text.encode(rng.choice(("utf-8",) * 9 + ("utf-16",)), "surrogatepass")


def change_text(content: bytes, rng: Random) -> bytes:
    """Words and lines of a text file."""
    lines = content.decode("utf-8").split("\n")
    odd = (
        *("", "-1", "nan", "inf", "1e400", "0x10", "9" * 5000, "../../x.png", "/dev/zero", "a\0b"),
        *("#", '"', "'", '"a b"', "\t", ",", "a,b,c", "x" * 300, "x" * 5000, "\u2028", "é", "\x1b"),
        *("２", "1_000", "\ufeff", "\x85", ".", "..", "/", "~"),
    )
    for _ in range(rng.choice((1, 1, 2, 4))):
        which = rng.randrange(len(lines))
        words = re.split(r"(\s+)", lines[which])
        words[rng.randrange(len(words))] = rng.choice(odd)
        lines[which] = "".join(words)
        if rng.random() < 0.05 and len(lines) < 100:
            lines *= rng.choice((2, 500))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def change_header(content: bytes, rng: Random) -> bytes:
    """The header of a safetensors file, which is JSON, and within it our metadata."""
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    if rng.random() < 0.6:
        inner = json.loads(header["__metadata__"]["segfix"])
        for _ in range(rng.choice((1, 1, 2))):
            inner = change_value(inner, rng)
        header["__metadata__"]["segfix"] = json.dumps(inner)
    else:
        header = change_value(header, rng)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def change_onnx(content: bytes, rng: Random) -> bytes:
    """Metadata, nodes and tensors of an ONNX file."""
    import onnx

    model = onnx.load_from_string(content)
    what = rng.randrange(5)
    graph = model.graph
    if what < 2:
        metadata = change_value(json.loads(model.metadata_props[0].value), rng)
        model.metadata_props[0].value = json.dumps(metadata)
    elif what == 2:
        node = rng.choice(graph.node)
        node.op_type = rng.choice(("Loop", "If", "Custom", "Identity", "Conv", "Resize", ""))
        node.domain = rng.choice(("", "", "com.example", "ai.onnx.ml"))
        if rng.random() < 0.3:
            node.input.append(rng.choice((*node.output, "none")))
    elif what == 3:
        tensor = rng.choice(graph.initializer)
        tensor.dims[:] = [rng.choice(NUMBERS) % 2**63 for _ in range(rng.randrange(4))]
        if rng.random() < 0.5:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=rng.choice(("../x", "/etc/passwd")))
    else:
        value = rng.choice((*graph.input, *graph.output))
        value.type.tensor_type.elem_type = rng.randrange(20)
        value.type.tensor_type.shape.dim.add(dim_value=rng.choice((-1, 0, 7, 2**40)))
        value.name = rng.choice((value.name, "", "image"))
    changed: bytes = model.SerializeToString()
    return changed


CHANGES: dict[str, Callable[[bytes, Random], bytes]] = {
    ".png": change_png,
    ".tif": change_tiff,
    ".npy": change_npy,
    ".npz": change_zip,
    ".pt": change_zip,
    ".mat": change_mat,
    ".json": change_json,
    ".segfix": change_json,
    ".txt": change_text,
    ".csv": change_text,
    ".safetensors": change_header,
    ".onnx": change_onnx,
}
"""By file name ending, besides `change_bytes`."""


# Good files


def scene() -> np.ndarray[Any, np.dtype[np.uint8]]:
    labels = np.ones(SIZE, np.uint8)
    labels[4:20, 10:30] = 2
    labels[8:12, 20:36] = 7
    return labels


def offsets() -> OffsetMap:
    from segfix.geometry import make_targets

    targets = make_targets(scene())
    return OffsetMap.encode(targets.boundary_map == 1, targets.direction_map, 0.95)


def saved(array: Any, kind: str, **options: Any) -> bytes:
    """A picture of an array, or of Pillow's, as a file."""
    picture = array if isinstance(array, Image.Image) else Image.fromarray(array)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def written(name: str, write: Callable[[Path], object]) -> Files:
    """The files that a function writes."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, name))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def colours() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


def palette_picture() -> Image.Image:
    picture = Image.fromarray(scene())
    picture.putpalette(bytes(range(30)))
    return picture


def image_files() -> list[Files]:
    picture = Image.fromarray(colours())
    exif = Image.Exif()
    exif[274] = 6
    kinds: dict[str, tuple[Any, str, dict[str, Any]]] = {
        "a.jpg": (picture, "JPEG", {"exif": exif}),
        "b.jpg": (picture.convert("CMYK"), "JPEG", {"progressive": True}),
        "a.png": (picture, "PNG", {}),
        "b.png": (palette_picture(), "PNG", {"transparency": b"\0\x80"}),
        "c.png": (scene().astype(np.uint16) * 300, "PNG", {}),
        "a.tif": (picture, "TIFF", {"compression": "tiff_lzw"}),
        "b.tif": (picture, "TIFF", {"compression": "jpeg"}),
        "c.tif": (scene().astype(np.int32), "TIFF", {}),
        "a.webp": (picture, "WEBP", {"exif": exif}),
        "a.bmp": (picture, "BMP", {}),
        "b.bmp": (palette_picture(), "BMP", {}),
        "a.gif": (picture, "GIF", {"save_all": True, "append_images": [picture]}),
        "a.ppm": (picture, "PPM", {}),
        "a.jp2": (picture, "JPEG2000", {}),
        "a.avif": (picture, "AVIF", {"speed": 10}),
    }
    return [{name: saved(array, kind, **rest)} for name, (array, kind, rest) in kinds.items()]


def label_pngs() -> list[Files]:
    labels = scene()
    return [
        {"a.png": saved(labels, "PNG")},
        {"a.png": saved(palette_picture(), "PNG", transparency=b"\0\x80", dpi=(72, 72))},
        {"a.png": saved(palette_picture(), "PNG", bits=4)},
        {"a.png": saved(labels * 17, "PNG", bits=4)},
        {"a.png": saved(labels > 1, "PNG")},
        {"a.png": saved(labels.astype(np.uint16) * 1000, "PNG")},
        {"a.png": saved(colours(), "PNG")},
        {"a.png": saved(np.dstack([colours(), labels]), "PNG")},
    ]


def label_tiffs() -> list[Files]:
    labels = scene()
    tags = {33550: (1.0, 1.0, 0.0), 42112: "<GDALMetadata/>", 305: "a program"}
    return [
        {"a.tif": saved(labels, "TIFF", compression="tiff_lzw", tiffinfo=tags)},
        {"a.tif": saved(labels.astype(np.uint16), "TIFF", compression="tiff_adobe_deflate")},
        {"a.tif": saved(labels.astype(np.int32), "TIFF", tiffinfo={274: 6})},
        {"a.tif": saved(labels.astype(np.float32), "TIFF", compression="packbits")},
        {"a.tif": saved(colours(), "TIFF", compression="tiff_deflate")},
        {"a.tif": saved(palette_picture(), "TIFF")},
        {"a.tif": saved(labels > 1, "TIFF", compression="group4")},
    ]


def save_npy(array: np.ndarray[Any, Any], path: Path) -> None:
    np.save(path, array)


def label_arrays(suffix: str) -> list[Files]:
    labels = scene()
    one_hot = (np.arange(8)[:, None, None] == labels).astype(np.float32)
    holes = np.where(labels == 7, np.nan, labels.astype(np.float64))
    arrays = [labels, labels.astype(">i8"), one_hot, holes, one_hot[:3] > 0, colours()]
    if suffix == ".npy":
        return [written("a.npy", partial(save_npy, array)) for array in arrays]
    return [
        written("a.npz", lambda path: np.savez(path, *arrays[:1])),
        written("a.npz", lambda path: np.savez_compressed(path, masks=arrays[4], scores=arrays[3])),
        written("a.npz", lambda path: np.savez_compressed(path, a=one_hot, size=SIZE)),
    ]


def offset_files(suffix: str) -> list[Files]:
    maps = [written(f"a{suffix}", lambda path: write_offset_map(path, offsets()))]
    vectors = np.moveaxis(offsets().vectors(), 0, 2)
    if suffix == ".npz":
        maps.append(written("a.npz", lambda path: np.savez(path, mat=vectors.astype(np.float32))))
    if suffix == ".mat":
        import scipy.io

        value = {"mat": vectors, "name": "a text"}
        for packed in (True, False):
            file = io.BytesIO()
            scipy.io.savemat(file, value, do_compression=packed)
            maps.append({"a.mat": file.getvalue()})
    return maps


def recorded_files() -> list[Files]:
    record = json.dumps({"kind": "refined label map", "settings": {"scale": None}, "labels": "0"})
    return [
        written("a.npy", lambda path: write_npy(path, scene(), record=record)),
        written("a.flo", lambda path: write_offset_map(path, offsets(), record={"a": [1]})),
        written("a.png", lambda path: write_offset_map(path, offsets(), record={"a": [1]})),
    ]


def instances() -> list[dict[str, Any]]:
    from pycocotools import mask as masks

    found = []
    for number, identity in enumerate((1, 2, 7), 1):
        mask = np.asfortranarray(scene() == identity, np.uint8)
        rle = masks.encode(mask)
        counts: Any = rle["counts"].decode()
        if identity == 2:
            counts = [96, *[960 - 96]]
        found.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": identity,
                "segmentation": {"size": list(SIZE), "counts": counts},
                "score": 0.9,
                "area": 99,
                "bbox": [1.0, 2.0, 3.0, 4.0],
                "iscrowd": 0,
            }
        )
    found[2]["segmentation"] = [[10.0, 4.0, 30.0, 4.0, 30.0, 20.0, 10.0, 20.0]]
    return found


def as_json(document: Any) -> bytes:
    return json.dumps(document).encode()


def annotation_table() -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": k, "name": f"class {k}", "isthing": k % 2} for k in (1, 2, 7)],
        "annotations": instances(),
    }


def offset_pngs() -> Files:
    return {f"offsets/{name}": content for name, content in offset_files(".png")[0].items()}


def coco_files() -> list[Files]:
    return [{"preds.json": as_json(instances()), "labels.json": as_json(annotation_table())}]


def instance_files() -> list[Files]:
    items = instances()
    segments = {"x": [1.0, 9.0, 9.0], "y": [1.0, 1.0, 9.0]}
    box = {"x1": 1.0, "y1": 1.0, "x2": 9.0, "y2": 9.0}
    keys = ("segmentation", "area", "bbox")
    sam = [{key: item[key] for key in keys} for item in items[:2]]
    documents = (
        [item | {"image_id": "a"} for item in items],
        annotation_table(),
        sam,
        {"image": {"file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}, "annotations": sam},
        [{"name": "cat", "class": 1, "confidence": 0.9, "box": box, "segments": segments}],
    )
    return [{"a.json": as_json(document)} | offset_pngs() for document in documents]


def panoptic_files() -> list[Files]:
    ids = scene().astype(np.uint32) * 300
    pixels = ids[..., None] >> np.array([0, 8, 16], np.uint32)
    picture = saved((pixels % 256).astype(np.uint8), "PNG")
    segments = [
        {"id": 300 * k, "category_id": k, "area": int((ids == 300 * k).sum()), "bbox": [0, 0, 9, 9]}
        for k in (1, 2, 7)
    ]
    table = {
        **annotation_table(),
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
    }
    files = {"preds.json": as_json(table), "preds/a.png": picture}
    truth = {"labels.json": as_json(table), "labels/a.png": picture}
    return [files | truth | offset_pngs()]


def cityscapes_files() -> list[Files]:
    masks = {
        f"preds/masks/a_{k}.png": saved((scene() == k).astype(np.uint8) * 255, "PNG")
        for k in (2, 7)
    }
    lines = "masks/a_2.png 26 0.9\nmasks/a_7.png 24 0.5\n"
    truth = scene().astype(np.uint16)
    truth = np.where(truth == 1, 7, truth * 1000 + 24 * 1000)
    return [
        {
            "preds/a_pred.txt": lines.encode(),
            **masks,
            "labels/a_gtFine_instanceIds.png": saved(truth.astype(np.uint16), "PNG"),
        }
        | offset_pngs()
    ]


def layout_files() -> list[Files]:
    return [
        {
            "ImageSets/Segmentation/train.txt": b"a\nb\n",
            **{f"JPEGImages/{stem}.jpg": image_files()[1]["b.jpg"] for stem in "ab"},
            **{f"SegmentationClass/{stem}.png": label_pngs()[1]["a.png"] for stem in "ab"},
        }
    ]


def network_files() -> list[Files]:
    sys.path.insert(0, str(Path(__file__).parent))
    import conftest  # type: ignore[import-not-found]

    models = (
        conftest.tiny_network(**conftest.TINY_METADATA),
        conftest.tiny_segmenter(**conftest.SEGMENTER_METADATA),
    )
    return [{"a.onnx": model.SerializeToString()} for model in models]


def checkpoint_files() -> list[Files]:
    import torch
    from safetensors.torch import save

    from segfix.losses.semeda import EdgeNetwork
    from segfix.training.segmentation_networks import Segmenter

    torch.manual_seed(0)
    described: dict[str, Any] = {"step": 1, "scores": {"miou": 0.5}, "data": {}}
    described |= {"mean": [0.5] * 3, "std": [1.0] * 3}
    edge = {"kind": "edge", "num_classes": 3, **described}
    segmenter = {
        "kind": "segmentation",
        "network": "fcn32s",
        "backbone": "test_resnet.r160_in1k",
        "class_ids": [1, 2],
        **described,
    }
    network = Segmenter(segmenter["network"], segmenter["backbone"], 2)
    return [
        {"a.safetensors": save(weights, {"segfix": json.dumps(metadata)})}
        for weights, metadata in (
            (EdgeNetwork(3).state_dict(), edge),
            (network.state_dict(), segmenter),
        )
    ]


def state_files() -> list[Files]:
    import torch

    from segfix.training.loop import write_state

    state = {
        "described": json.dumps({"kind": "segfix", "settings": {"steps": 5}}),
        "network": {"weight": torch.zeros(4)},
        "step": 3,
        "scores": [],
    }
    return [written("state.pt", lambda path: write_state(path.parent, state))]


def video_files() -> list[Files]:
    import av

    def write(path: Path) -> None:
        lossless = path.suffix == ".mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1" if lossless else "mpeg4", rate=10)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height = SIZE[::-1]
            stream.pix_fmt = "bgr0" if lossless else "yuv420p"
            for _ in range(3):
                frame = av.VideoFrame.from_ndarray(colours(), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))

    return [written(f"a{suffix}", write) for suffix in (".mkv", ".mp4", ".avi", ".ts")]


# Readers


def only_file(folder: Path) -> Path:
    return next(folder.iterdir(), folder / "missing.png")


def read_labels(folder: Path) -> None:
    for soft in (False, True):
        with suppress(SegfixError):
            label_map = read_label_map(only_file(folder), soft=soft, masks=True, shape=SIZE)
            if label_map.kind != "masks":
                label_map.ids()
    read_label_map(only_file(folder), masks=True)


def read_offsets(folder: Path) -> None:
    offset_map = read_offset_map(only_file(folder))
    offset_map.vectors(0.5)
    offset_map.confidence_map()


def read_arrays(folder: Path) -> None:
    path = only_file(folder)
    {".npy": read_npy, ".npz": read_npz, ".mat": read_mat}.get(path.suffix, read_npy)(path)


def refine_labels(folder: Path) -> None:
    labels, offset_map = (
        next((folder / name).glob("*"), folder / name / "missing.png")
        for name in ("preds", "offsets")
    )
    pair = Pair(Entry(labels, labels.stem), Entry(offset_map, offset_map.stem))
    refine_task(RefineSettings(), FileSettings(fit="labels")).do(pair, folder.with_name("out"))


def read_records(folder: Path) -> None:
    for path in folder.glob("[!.]*"):
        read_record(path)
        is_whole(path)
        read_record(record_path(path))


def evaluate_files(folder: Path) -> None:
    from segfix.evaluation import evaluate_instances

    evaluate_instances(folder / "preds.json", folder / "labels.json")


def run_of(folder: Path) -> Any:
    from segfix.instances.refine_images import Run

    maps = list_entries(folder / "offsets", (".png",), what="offset maps")
    return Run(maps, folder.with_name("out"))


def refine_json(folder: Path) -> None:
    from segfix.instances.refine_files import refine_instances

    path = next(folder.glob("[!l]*.json"), folder / "a.json")
    run = run_of(folder)
    refine_instances(Entry(path, path.stem, chosen=True), Output(run.out / path.name), run)


def read_panoptic(folder: Path) -> None:
    with suppress(SegfixError, Skipped):
        refine_json(folder)
    evaluate_files(folder)


def read_cityscapes(folder: Path) -> None:
    from segfix.evaluation import evaluate_instances
    from segfix.instances.refine_files import refine_list

    with suppress(SegfixError, Skipped):
        path = folder / "preds" / "a_pred.txt"
        run = run_of(folder)
        refine_list(Entry(path, "a_pred"), Output(run.out / path.name), folder / "preds", run)
    evaluate_instances(folder / "preds", folder / "labels")


def read_layout(folder: Path) -> None:
    for image in find_labelled_images(folder):
        image.read()


def run_network(folder: Path) -> None:
    from segfix.network.offset_model import OffsetModel
    from segfix.network.segmentation_model import SegmentationModel
    from segfix.tasks.predict_offsets import predict_map

    image, path = colours() // 2, folder / "a.onnx"
    with suppress(SegfixError):
        SegmentationModel(path, "cpu", 1).probabilities(image)
    predict_map(OffsetModel(path, "cpu", 1), image, None, str(path), {})


def load_networks(folder: Path) -> None:
    from segfix.training.segmentation_networks import load_segmenter
    from segfix.training.segmentation_training import load_edge_network

    with suppress(SegfixError):
        load_edge_network(folder / "a.safetensors", 3)
    load_segmenter(folder / "a.safetensors")


def read_state(folder: Path) -> None:
    from segfix.training.loop import load_state

    load_state(folder, {"kind": "segfix", "settings": {"steps": 5}})


def read_video(folder: Path) -> None:
    for _ in read_frames(only_file(folder)):
        pass


@dataclass(frozen=True)
class Reader:
    """What reads, and good files that it reads.

    Attributes:
        files: Sets of files, by path, that belong together.
        read: Reads those in a folder; may write beside it, to `out`, where `writes`.
        writes: Whether it does.
        imports: Modules that it needs: once here, not in every fork.
    """

    files: Callable[[], list[Files]]
    read: Callable[[Path], object]
    writes: bool = False
    imports: Sequence[str] = ()


def text_reader(content: str, read: Callable[[Path], object], suffix: str = ".txt") -> Reader:
    name = f"a{suffix}"
    return Reader(lambda: [{name: content.encode()}], lambda folder: read(folder / name))


def refine_files() -> list[Files]:
    labels = [*label_pngs(), *label_tiffs(), *label_arrays(".npy"), *label_arrays(".npz")]
    maps = [*offset_files(".png"), *offset_files(".npz")]
    return [
        {f"preds/{name}": content for name, content in found.items()}
        | {f"offsets/{name}": content for name, content in maps[k % len(maps)].items()}
        for k, found in enumerate([*labels, {"a.webp": saved(colours(), "WEBP", lossless=True)}])
    ]


COCO = ("pycocotools.coco", "pycocotools.cocoeval", "segfix.instances.score")
CITYSCAPES = (
    "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling",
    "cityscapesscripts.evaluation.evalPanopticSemanticLabeling",
)
READERS = {
    "image": Reader(image_files, lambda folder: read_image(only_file(folder))),
    "labels-png": Reader(label_pngs, read_labels),
    "labels-tiff": Reader(label_tiffs, read_labels),
    "labels-webp": Reader(
        lambda: [{"a.webp": saved(colours(), "WEBP", lossless=True)}], read_labels
    ),
    "labels-npy": Reader(lambda: label_arrays(".npy"), read_labels),
    "labels-npz": Reader(lambda: label_arrays(".npz"), read_labels),
    "npy": Reader(lambda: label_arrays(".npy"), read_arrays),
    "npz": Reader(lambda: label_arrays(".npz"), read_arrays),
    "mat": Reader(lambda: offset_files(".mat"), read_arrays, imports=["scipy.io"]),
    "offsets-png": Reader(lambda: offset_files(".png"), read_offsets),
    "offsets-npz": Reader(lambda: offset_files(".npz"), read_offsets),
    "offsets-mat": Reader(lambda: offset_files(".mat"), read_offsets, imports=["scipy.io"]),
    "offsets-flo": Reader(lambda: offset_files(".flo"), read_offsets),
    "records": Reader(recorded_files, read_records),
    "refine": Reader(refine_files, refine_labels, writes=True),
    "annotations": Reader(
        lambda: [{"a.json": as_json(annotation_table())}],
        lambda folder: read_file_names(folder / "a.json"),
    ),
    "instances": Reader(instance_files, refine_json, writes=True, imports=COCO),
    "coco": Reader(coco_files, evaluate_files, imports=COCO),
    "panoptic": Reader(panoptic_files, read_panoptic, writes=True, imports=[*COCO, *CITYSCAPES]),
    "cityscapes": Reader(
        cityscapes_files, read_cityscapes, writes=True, imports=[*COCO, *CITYSCAPES]
    ),
    "class-names": text_reader("# classes\n0 road\n1: side walk\n7, car\n", read_class_names),
    "name-map": text_reader("# pairs\na.png b.png\nc d\n\"e f.jpg\" 'g'\n", read_name_map),
    "layout": Reader(layout_files, read_layout),
    "onnx": Reader(
        network_files,
        run_network,
        imports=["onnx", "onnxruntime", "segfix.network.segmentation_model"],
    ),
    "checkpoint": Reader(
        checkpoint_files,
        load_networks,
        imports=["segfix.training.segmentation_training", "segfix.training.segmentation_networks"],
    ),
    "state": Reader(state_files, read_state, imports=["segfix.training.loop"]),
    "video": Reader(video_files, read_video, imports=["av"]),
}


# Running

UNCHANGEABLE = (ValueError, LookupError, TypeError, AttributeError, MemoryError, zipfile.BadZipFile)
"""What changing a file that is changed already may raise; then its bytes are."""


def make_files(samples: list[Files], rng: Random) -> Files:
    """A set of good files of which one is changed."""
    files = dict(rng.choice(samples))
    name = rng.choice(list(files))
    suffix = Path(name).suffix
    content = files[name]
    if suffix in CHANGES and rng.random() < 0.75:
        with suppress(*UNCHANGEABLE):
            content = CHANGES[suffix](content, rng)
    if content == files[name] or rng.random() < 0.15:
        content = change_bytes(content, rng)
    if rng.random() < 0.01:
        content = rng.choice((b"", b"\0", rng.randbytes(100), rng.choice(list(files.values()))))
    if rng.random() < 0.01:
        del files[name]
    else:
        files[name] = content
    return files


def put(files: Files, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def forbid(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: what no reader of files has to do."""
    if event in (
        *("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec"),
        *("os.posix_spawn", "pickle.find_class"),
    ):
        os.kill(os.getpid(), signal.SIGUSR1)


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def outcome_of(reader: Reader, folder: Path) -> tuple[str, str]:
    """What becomes of reading a folder: "value", "error" or "finding", and what is told."""
    before = listing(folder)
    try:
        reader.read(folder)
    except Skipped:
        found = "value", ""
    except SegfixError as error:
        found = "error", str(error)
        if str(folder.parent) not in str(error):
            found = "finding", f"names no file: {str(error)[:300]}"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in where if "/segfix/" in frame.filename] or where
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        found = "finding", f"{type(error).__name__} at {place}: {str(error)[:300]}"
    else:
        found = "value", ""
    if new := listing(folder) - before:
        found = "finding", f"wrote {sorted(new)[:3]}"
    return found


def read_some(
    reader: Reader, samples: list[Files], name: str, seed: int, numbers: range, pipe: int, out: Path
) -> None:
    """In a fork: read files, and tell what became of each."""
    space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (space + MEMORY, space + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(forbid)
    warnings.resetwarnings()
    warnings.simplefilter("error")
    # As the command line does.
    warnings.filterwarnings("ignore", module="PIL")
    warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
    folder = out / "in"
    for number in numbers:
        # One file's memory is not the next one's.
        gc.collect()
        put(make_files(samples, Random(f"{seed} {name} {number}")), folder)
        shutil.rmtree(out / "out", ignore_errors=True)
        os.write(pipe, f"{number}\n".encode())
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = LONGEST_RESULT if reader.writes else 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, 20 * SECONDS)
        kind, text = outcome_of(reader, folder)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        os.write(pipe, (json.dumps([number, kind, text]) + "\n").encode())


def forked(work: Callable[[int], None]) -> tuple[list[str], int, int]:
    """Lines that some work writes to a pipe in a fork, its wait status and peak memory in KiB."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.close(reading)
            # Not into a file, for which there is a limit.
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
            for number in (1, 2):
                os.dup2(sys.stdout.fileno(), number)
            faulthandler.disable()
            # What the first process has left over is not deleted here.
            gc.freeze()
            work(writing)
            status = 0
        except BaseException:
            with suppress(OSError):
                os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, errors="replace") as pipe:
        lines = pipe.read().splitlines()
    _, status, usage = os.wait4(pid, 0)
    return lines, status, usage.ru_maxrss


@dataclass
class Result:
    """What became of one reader's files."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0
    peak: int = 0


def fuzz(name: str, files: int, *, seed: int = 0, keep: Path | None = None) -> Result:
    """Read so many changed files with a reader of `READERS`; findings are kept in a folder."""
    reader, result = READERS[name], Result()
    for module in reader.imports:
        __import__(module)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        here = Path(scratch)
        (here / "cwd").mkdir()
        # In a fork, too: libraries that make files may start threads.
        stored = here / "samples.json"

        def store(_: int) -> None:
            rows = [
                {path: content.hex() for path, content in found.items()} for found in reader.files()
            ]
            stored.write_text(json.dumps(rows))

        told, status, _ = forked(store)
        assert not status, "\n".join(told)
        samples = [
            {path: bytes.fromhex(content) for path, content in found.items()}
            for found in json.loads(stored.read_text())
        ]
        done = 0
        while done < files:
            numbers = range(done, min(done + PER_FORK, files))

            def work(pipe: int, numbers: range = numbers) -> None:
                os.chdir(here / "cwd")
                read_some(reader, samples, name, seed, numbers, pipe, here)

            lines, status, peak = forked(work)
            result.peak = max(result.peak, peak)
            done, last = numbers.stop, numbers.start - 1
            for line in lines:
                if line.isdecimal():
                    last = int(line)
                    continue
                assert line.startswith("["), (last, "\n".join(lines[-30:]))
                number, kind, text = json.loads(line)
                result.counts[kind] += 1
                if kind == "finding":
                    result.findings.append((number, text))
            if os.WIFSIGNALED(status):
                how = signal.Signals(os.WTERMSIG(status)).name
                result.counts["finding"] += 1
                result.findings.append((last, f"ended by {how}"))
                done = last + 1
            assert not (left := listing(here / "cwd")), left
        for number, text in result.findings if keep else ():
            assert keep is not None
            put(make_files(samples, Random(f"{seed} {name} {number}")), keep / name / str(number))
            (keep / name / f"{number}.txt").write_text(text + "\n", encoding="utf-8")
    result.seconds = time.monotonic() - started
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(READERS))
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="for findings")
    given = parser.parse_args(arguments)
    if unknown := set(given.readers) - set(READERS):
        parser.error(f"no such reader: {', '.join(unknown)}")
    with limit_reading(max_pixels=500_000_000):
        return 1 if fuzz_all(given) else 0


def fuzz_all(given: argparse.Namespace) -> int:
    found = 0
    print("| reader | files | values | errors | findings | s | peak, MiB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in given.readers or READERS:
        result = fuzz(name, given.files, seed=given.seed, keep=given.keep)
        counts = result.counts
        print(
            f"| {name} | {given.files} | {counts['value']} | {counts['error']} | "
            f"{len(result.findings)} | {result.seconds:.0f} | {result.peak / 1024:.0f} |",
            flush=True,
        )
        kinds = Counter(re.sub(r"\d+", "0", text)[:160] for _, text in result.findings)
        first: dict[str, int] = {}
        for number, text in result.findings:
            first.setdefault(re.sub(r"\d+", "0", text)[:160], number)
        for text, count in kinds.most_common(12):
            print(f"    {count} × {text!r}, first {given.keep}/{name}/{first[text]}", flush=True)
        found += len(result.findings)
    return found


if __name__ == "__main__":
    sys.exit(main())
