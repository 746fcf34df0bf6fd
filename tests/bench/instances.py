"""What refinement gains on instances: AP and PQ, of boundaries, too, for several steps.

    python -m tests.bench.instances --labels DIR --preds NAME=DIR [--preds …] --offsets DIR \\
        --things ID[,ID…] --work DIR [--images DIR] [--step auto]

There are no predictions of instance networks to measure on. Stand-ins are made of label maps of
real networks: each connected region of a class of things, of 50 pixels or more, is an instance,
surer the larger it is; so of the ground truth, whose smaller regions are neither hit nor missed.
They share the networks' boundaries, not an instance network's confusions. With --whole, all of a
class in an image is one instance. For panoptic quality each other class is a segment, too.
With --images, a row says what `segfix fix` makes of the instances: offset maps for them alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from segfix.evaluation import evaluate_instances
from segfix.files import Entry, pair_entries
from segfix.formats import read_label_map
from segfix.instances.refine_files import refine_instances
from segfix.instances.refine_images import InstanceSettings, Run
from segfix.jobs.task import Output
from segfix.network.session import available_threads
from segfix.refinement.apply import RefineSettings
from segfix.tasks.fix import fix_folder
from tests.bench.gains import label_maps, parse_named

SMALLEST = 50
"""Pixels of an instance."""

SETTINGS = {
    "scale 1": RefineSettings(scale=1),
    "scale 2": RefineSettings(scale=2),
    "scale 3": RefineSettings(scale=3),
    "auto": RefineSettings(),
    "iterate": RefineSettings(iterate=10),
}
COCO = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "boundary_ap": "Boundary AP"}
PANOPTIC = {"pq": "PQ", "pq_things": "PQ things", "boundary_pq": "Boundary PQ"}


@click.command()
@click.option("--labels", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--preds", multiple=True, required=True, callback=parse_named, help="NAME=DIR")
@click.option("--offsets", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--things", required=True, help="Class ids, between commas.")
@click.option("--whole", is_flag=True, help="One instance per class and image.")
@click.option("--images", type=click.Path(path_type=Path, exists=True))
@click.option("--step", "steps", type=click.Choice([*SETTINGS]), multiple=True, default=[*SETTINGS])
@click.option("--min-confidence", type=float, default=0.0)
@click.option("--work", type=click.Path(path_type=Path), required=True)
def main(
    labels: Path,
    preds: dict[str, Path],
    offsets: Path,
    things: str,
    whole: bool,
    images: Path | None,
    steps: tuple[str, ...],
    min_confidence: float,
    work: Path,
) -> None:
    """Measure."""
    classes = [int(one) for one in things.split(",")]
    maps = label_maps(offsets)
    for name, folder in preds.items():
        pairs = pair_entries(label_maps(folder), label_maps(labels))
        truth = [(pair.entry.stem, pair.partner) for pair in pairs if pair.partner]
        found = [(pair.entry.stem, pair.entry) for pair in pairs if pair.partner]
        rows: dict[str, dict[str, float]] = {}
        for kind, write in (("coco", write_coco), ("panoptic", write_panoptic)):
            place = work / name / kind
            target = write(place / "labels.json", truth, classes, whole=whole, truth=True)
            source = write(place / "preds.json", found, classes, whole=whole, truth=False)
            rows.setdefault("input", {}).update(scores(source, target))
            for title in steps:
                settings = SETTINGS[title]
                bold = RefineSettings(settings.scale, settings.iterate, min_confidence)
                out = place / title.replace(" ", "")
                run = Run(maps, out, InstanceSettings(bold), workers=available_threads())
                output = Output(out / "preds.json", overwrite=True)
                row = refine_instances(Entry(source, "preds"), output, run)
                assert not row["failed"], row["failed"]
                rows.setdefault(title, {}).update(scores(out / "preds.json", target))
                rows[title][f"vanished {kind}"] = len(row["emptied"])
            if images:
                fixed = place / "fixed.json"
                summary = fix_folder(images, source, fixed, device="cpu", overwrite=True)
                assert not summary.failed, summary.failed
                rows.setdefault("segfix fix", {}).update(scores(fixed, target))
        print(table(f"{name}, {len(pairs)} images", rows), flush=True)


def scores(preds: Path, labels: Path) -> dict[str, float]:
    """The means shown."""
    result = evaluate_instances(preds, labels, workers=available_threads(), boundary=True)
    mean = result["mean"]
    return {
        title: 100 * mean[key]
        for key, title in (COCO | PANOPTIC).items()
        if mean.get(key) is not None
    }


def regions(
    ids: NDArray[Any], classes: list[int], *, whole: bool
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Class and mask of each region of the classes of things."""
    for category in classes:
        found, count = (ids == category, 1) if whole else ndimage.label(ids == category)
        for number, box in enumerate(ndimage.find_objects(found.astype(int))[:count], 1):
            mask = np.zeros(ids.shape, bool)
            mask[box] = found[box] == number
            yield category, mask


def write_coco(
    path: Path, maps: list[tuple[str, Entry]], classes: list[int], *, whole: bool, truth: bool
) -> Path:
    """Results, or annotations."""
    from pycocotools import mask as masks

    items, images = list[dict[str, Any]](), []
    for number, (stem, entry) in enumerate(maps, 1):
        ids = read_label_map(entry.path).ids()
        height, width = ids.shape
        images.append({"id": number, "file_name": f"{stem}.jpg", "height": height, "width": width})
        for category, mask in regions(ids, classes, whole=whole):
            size = int(mask.sum())
            if size < SMALLEST and not truth:
                continue
            rle = masks.encode(np.asfortranarray(mask, np.uint8))
            item = {
                "image_id": number,
                "category_id": category,
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
            }
            more = {"id": len(items) + 1, "area": size, "iscrowd": int(size < SMALLEST)}
            items.append(
                item | (more if truth else {"score": size / ids.size, "file_name": f"{stem}.jpg"})
            )
    categories = [{"id": one, "name": str(one)} for one in classes]
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"images": images, "categories": categories, "annotations": items}
    path.write_text(json.dumps(document if truth else items))
    return path


def write_panoptic(
    path: Path, maps: list[tuple[str, Entry]], classes: list[int], *, whole: bool, truth: bool
) -> Path:
    """A panoptic table beside its folder; the void of the truth is 0."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    annotations, seen = [], set(classes)
    for number, (stem, entry) in enumerate(maps, 1):
        ids = read_label_map(entry.path).ids()
        segments, drawn = list[dict[str, Any]](), np.zeros(ids.shape, np.int64)
        stuff = [(one, ids == one) for one in np.unique(ids).tolist() if one not in (255, *classes)]
        for category, mask in (*stuff, *regions(ids, classes, whole=whole)):
            size = int(mask.sum())
            if category in classes and size < SMALLEST:
                continue
            seen.add(category)
            segments.append(
                {"id": len(segments) + 1, "category_id": category, "area": size, "iscrowd": 0}
            )
            drawn[mask] = len(segments)
        colours = np.stack([drawn % 256, drawn // 256 % 256, drawn // 65536], axis=-1)
        Image.fromarray(colours.astype(np.uint8)).save(folder / f"{stem}.png")
        annotations.append(
            {"image_id": number, "file_name": f"{stem}.png", "segments_info": segments}
        )
    categories = [
        {"id": one, "name": str(one), "isthing": int(one in classes)}
        for one in (range(256) if truth else sorted(seen))
    ]
    path.write_text(json.dumps({"annotations": annotations, "categories": categories}))
    return path


def table(title: str, rows: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    first = rows["input"]
    lines = [f"\n| {title} | {' | '.join(first)} | vanished |", "|---" * (len(first) + 2) + "|"]
    for name, row in rows.items():
        cells = [
            f"{row[key]:.2f}" + ("" if row is first else f" ({row[key] - first[key]:+.2f})")
            for key in first
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {row.get('vanished coco', '')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
