"""Instance AP and panoptic quality, by the field's own evaluators (extra `eval`).

Files are read and checked here; matching and averaging are pycocotools' and cityscapesScripts'.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segfix.instances.cityscapes_ap import measure_cityscapes_ap
from segfix.instances.coco import read_json
from segfix.instances.coco_ap import holds_annotations, measure_coco_ap
from segfix.instances.panoptic_quality import measure_panoptic_quality


def evaluate_instances(
    preds: Path, labels: Path, *, workers: int = 1, boundary: bool = False, replicas: int = 0
) -> dict[str, Any]:
    """Score instance or panoptic predictions of whichever kind the files are.

    Args:
        preds: A COCO result JSON, or annotation JSON, each instance of which has a score of 1; a
            COCO panoptic JSON with its PNG folder beside it, or a Cityscapes folder of
            `*_pred.txt` and masks.
        labels: The ground truth in the same format: a COCO annotation JSON, a panoptic JSON, a
            folder of `*_gtFine_instanceIds.png`.
        workers: Threads, for Cityscapes and panoptic files.
        boundary: Whether to measure Boundary AP or Boundary PQ, too: keys that begin with
            "boundary_".
        replicas: Number of replicas of the set of images to score, too: each image counts in each
            a number of times, the same for all predictions of one ground truth.

    Returns:
        JSON-ready: `kind` (coco, cityscapes or panoptic), number of `images`, `mean` and `class`
        scores in [0, 1], None where nothing counts, and `notes`, what else there is to say. With
        `replicas`, these, too: `mean` and `class` as (R,) arrays, NaN where nothing counts.

    Raises:
        SegfixError: A file is missing, broken or doesn't fit the other side.
        ModuleNotFoundError: The extra isn't installed.
    """
    how: dict[str, Any] = {"boundary": boundary, "replicas": replicas}
    if preds.is_dir():
        return measure_cityscapes_ap(preds, labels, workers=workers, **how)
    if isinstance(read_json(preds, peek=True), list) or holds_annotations(read_json(preds)):
        return measure_coco_ap(preds, labels, **how)
    return measure_panoptic_quality(preds, labels, workers=workers, **how)
