"""Small good files of every kind, to be broken."""

from __future__ import annotations

import io
import json
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segfix.formats import OffsetMap, write_offset_map
from segfix.formats.arrays import write_npy

Files = dict[str, bytes]
SIZE = (24, 40)


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
        "a.gif": (picture, "GIF", {}),
        "a.ppm": (picture, "PPM", {}),
        "a.jp2": (picture, "JPEG2000", {}),
        "a.avif": (picture, "AVIF", {"speed": 10}),
        "d.tif": (scene() / np.float32(7), "TIFF", {"compression": "tiff_lzw"}),
        "e.tif": (scene().astype(np.uint16) * 500, "TIFF", {"tiffinfo": {317: 2, 274: 6}}),
    }
    deep = {
        "f.tif": banded_tiff(np.repeat(colours().astype(np.uint16) * 16, 2, axis=2)[..., :5]),
        "g.tif": banded_tiff(colours().astype(">f4") / 255, {262: 2}),
        "d.png": deep_png(colours().astype(np.uint16) * 16),
    }
    pictures = {name: saved(array, kind, **rest) for name, (array, kind, rest) in kinds.items()}
    return [{name: content} for name, content in (pictures | deep).items()]


def banded_tiff(array: np.ndarray[Any, Any], others: Mapping[int, int] = {}) -> bytes:
    """A TIFF file of many bands, each row a strip, with other values of some tags."""
    height, width, bands = array.shape
    order = ">" if array.dtype.byteorder == ">" else "<"
    kind = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    rows = [zlib.compress(row.tobytes()) for row in array]
    starts = np.cumsum([8, *map(len, rows)])
    lists = {258: [8 * array.dtype.itemsize] * bands, 339: [kind] * bands}
    lists |= {273: starts[:-1].tolist(), 279: [len(row) for row in rows]}
    lists |= {256: [width], 257: [height], 259: [8], 262: [1], 277: [bands], 278: [1]}
    lists |= {tag: [value] * len(lists.get(tag, [0])) for tag, value in others.items()}
    content = b"".join(rows)
    content += b"\0" * (len(content) % 2)
    directory = b""
    for tag, values in sorted(lists.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            place, content = 8 + len(content), content + packed
            packed = struct.pack(f"{order}I", place)
        directory += struct.pack(f"{order}HHI", tag, 4, len(values)) + packed
    count = struct.pack(f"{order}H", len(lists))
    start = b"II*\0" if order == "<" else b"MM\0*"
    start += struct.pack(f"{order}I", 8 + len(content))
    return start + content + count + directory + bytes(4)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(array: np.ndarray[Any, Any]) -> bytes:
    """A PNG file of 16 bits: (H, W) grey, (H, W, 2) with alpha, (H, W, 3 or 4) colours."""
    height, width = array.shape[:2]
    colour = {2: 4, 3: 2, 4: 6}[array.shape[2]] if array.ndim == 3 else 0
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


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
    points = [[1.0, 1.0], [9.0, 1.0], [9.0, 9.0]]
    size = {"original_height": SIZE[0], "original_width": SIZE[1]}
    results = [{**size, "type": "polygonlabels", "value": {"points": points}}]
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
        {
            "version": "5.5.0",
            "shapes": [{"label": "x", "shape_type": "polygon", "points": points}],
            "imageHeight": SIZE[0],
            "imageWidth": SIZE[1],
        },
        [{"id": 1, "data": {"image": "/a.jpg"}, "annotations": [{"result": results}]}],
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
    sys.path.insert(0, str(Path(__file__).parents[1]))
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

    from segfix.training.checkpoints import write_state

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


def refine_files() -> list[Files]:
    labels = [*label_pngs(), *label_tiffs(), *label_arrays(".npy"), *label_arrays(".npz")]
    maps = [*offset_files(".png"), *offset_files(".npz")]
    return [
        {f"preds/{name}": content for name, content in found.items()}
        | {f"offsets/{name}": content for name, content in maps[k % len(maps)].items()}
        for k, found in enumerate([*labels, {"a.webp": saved(colours(), "WEBP", lossless=True)}])
    ]
