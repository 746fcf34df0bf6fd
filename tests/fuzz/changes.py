"""Break a file on purpose: any file by its bytes, and each format by what it consists of."""

from __future__ import annotations

import copy
import io
import json
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

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
