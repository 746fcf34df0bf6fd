"""What reads files: each reader with good files that it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segfix.errors import SegfixError
from segfix.files import Entry, Pair, list_entries
from segfix.files.naming import read_name_map
from segfix.files.provenance import is_whole, read_record, record_path
from segfix.formats import read_frames, read_image, read_label_map, read_offset_map
from segfix.formats.arrays import read_npy, read_npz
from segfix.formats.class_names import read_class_names
from segfix.formats.mat_files import read_mat
from segfix.instances.by_image import read_file_names
from segfix.jobs.task import Output, Skipped
from segfix.refinement.apply import RefineSettings
from segfix.tasks.predictions import FileSettings
from segfix.tasks.refine import refine_task
from segfix.training.layouts import find_labelled_images
from tests.fuzz import samples
from tests.fuzz.samples import SIZE, Files


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
    readers: dict[str, Callable[[Path], object]] = {".npz": read_npz, ".mat": read_mat}
    readers.get(path.suffix, read_npy)(path)


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


CVAT = """<annotations><version>1.1</version><image name="a.jpg" width="12" height="10">
<polygon label="x" points="1.0,1.0;9.0,1.0;9.0,9.0"></polygon>
<mask label="x" rle="1, 2, 3" left="4" top="5" width="3" height="2"></mask>
</image></annotations>"""


def read_regions(path: Path) -> None:
    from segfix.instances.by_image import read_document, sort_instances
    from segfix.polygons.regions import decode_region

    found = sort_instances(Entry(path, path.stem), read_document(path))
    for region in found.instances:
        with suppress(ValueError):
            decode_region(region, (10, 12))


GEOJSON = """{"type": "FeatureCollection", "crs": {"type": "name", "properties":
{"name": "EPSG:32633"}}, "features": [{"type": "Feature", "properties": {"a": 1}, "geometry":
{"type": "Polygon", "coordinates": [[[1, -1], [9, -1], [9, -9, 3], [1, -1]]]}},
{"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": [[[[2, -2], [5, -2.5],
[4e0, -7], [2, -2]], [[3, -3], [4, -3], [4, -4], [3, -3]]]]}}, {"geometry": null}]}"""


def geopackages() -> list[Files]:
    from tests.cli.refine_instances.geo_files import write_gpkg

    ring = [[1.0, 1.0], [9.0, 1.0], [9.0, 9.0]]
    with TemporaryDirectory() as folder:
        path = write_gpkg([[ring], [ring]], path=Path(folder, "a.gpkg"))
        return [{"a.gpkg": path.read_bytes()}]


def refine_shapes(path: Path) -> None:
    from segfix.instances.by_image import read_document, sort_instances
    from segfix.polygons.regions import decode_region
    from segfix.polygons.shapes import locate_shapes
    from segfix.polygons.tracing import trace_regions

    found = sort_instances(Entry(path, path.stem), read_document(path))
    from tests.cli.refine_instances.geo_files import REFERENCE

    reference = REFERENCE
    if path.suffix == ".geojson":
        reference = {"transform": [1, 0, 0, 0, -1, 0], "crs": "EPSG:32633"}
    instances = list(found.instances)
    located = locate_shapes(dict(enumerate(instances)), reference, SIZE, f"{path}")
    for place, region in located.items():
        with suppress(ValueError):
            mask = decode_region(region, SIZE)
            if mask.any():
                instances[place] = region.with_area(trace_regions(mask)[1], SIZE)
    found.render(instances)


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

    image, path = samples.colours() // 2, folder / "a.onnx"
    with suppress(SegfixError):
        SegmentationModel(path, "cpu", 1).probabilities(image)
    predict_map(OffsetModel(path, "cpu", 1), image, None, str(path), {})


def load_networks(folder: Path) -> None:
    from segfix.training.edge_training import load_edge_network
    from segfix.training.segmentation_networks import load_segmenter

    with suppress(SegfixError):
        load_edge_network(folder / "a.safetensors", 3)
    load_segmenter(folder / "a.safetensors")


def read_state(folder: Path) -> None:
    from segfix.training.checkpoints import load_state

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


COCO = ("pycocotools.coco", "pycocotools.cocoeval", "segfix.instances.score")
CITYSCAPES = (
    "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling",
    "cityscapesscripts.evaluation.evalPanopticSemanticLabeling",
)
READERS = {
    "image": Reader(samples.image_files, lambda folder: read_image(only_file(folder))),
    "labels-png": Reader(samples.label_pngs, read_labels),
    "labels-tiff": Reader(samples.label_tiffs, read_labels),
    "labels-webp": Reader(
        lambda: [{"a.webp": samples.saved(samples.colours(), "WEBP", lossless=True)}], read_labels
    ),
    "labels-npy": Reader(lambda: samples.label_arrays(".npy"), read_labels),
    "labels-npz": Reader(lambda: samples.label_arrays(".npz"), read_labels),
    "npy": Reader(lambda: samples.label_arrays(".npy"), read_arrays),
    "npz": Reader(lambda: samples.label_arrays(".npz"), read_arrays),
    "mat": Reader(lambda: samples.offset_files(".mat"), read_arrays, imports=["scipy.io"]),
    "offsets-png": Reader(lambda: samples.offset_files(".png"), read_offsets),
    "offsets-npz": Reader(lambda: samples.offset_files(".npz"), read_offsets),
    "offsets-mat": Reader(lambda: samples.offset_files(".mat"), read_offsets, imports=["scipy.io"]),
    "offsets-flo": Reader(lambda: samples.offset_files(".flo"), read_offsets),
    "records": Reader(samples.recorded_files, read_records),
    "refine": Reader(samples.refine_files, refine_labels, writes=True),
    "annotations": Reader(
        lambda: [{"a.json": samples.as_json(samples.annotation_table())}],
        lambda folder: read_file_names(folder / "a.json"),
    ),
    "instances": Reader(samples.instance_files, refine_json, writes=True, imports=COCO),
    "coco": Reader(samples.coco_files, evaluate_files, imports=COCO),
    "panoptic": Reader(
        samples.panoptic_files, read_panoptic, writes=True, imports=[*COCO, *CITYSCAPES]
    ),
    "cityscapes": Reader(
        samples.cityscapes_files, read_cityscapes, writes=True, imports=[*COCO, *CITYSCAPES]
    ),
    "yolo": text_reader("0 0.1 0.2 0.5 0.2 0.5 0.6\n1 0.5 0.5 0.2 0.2\n", read_regions),
    "cvat": text_reader(CVAT, read_regions, ".xml"),
    "geojson": replace(
        text_reader(GEOJSON, refine_shapes, ".geojson"), imports=["pyproj", "shapely"]
    ),
    "geopackage": Reader(
        geopackages,
        lambda folder: refine_shapes(folder / "a.gpkg"),
        imports=["pyproj", "shapely"],
    ),
    "class-names": text_reader("# classes\n0 road\n1: side walk\n7, car\n", read_class_names),
    "name-map": text_reader("# pairs\na.png b.png\nc d\n\"e f.jpg\" 'g'\n", read_name_map),
    "layout": Reader(samples.layout_files, read_layout),
    "onnx": Reader(
        samples.network_files, run_network, imports=["onnx", "segfix.network.segmentation_model"]
    ),
    "checkpoint": Reader(
        samples.checkpoint_files,
        load_networks,
        imports=["segfix.training.edge_training", "segfix.training.segmentation_networks"],
    ),
    "state": Reader(samples.state_files, read_state, imports=["segfix.training.checkpoints"]),
    "video": Reader(samples.video_files, read_video, imports=["av"]),
}
