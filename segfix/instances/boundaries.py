"""Boundary AP and Boundary PQ: matching by the lesser of mask IoU and Boundary IoU.

Reference: Cheng et al., Boundary IoU, CVPR 2021, and its reference implementation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.files.reading import open_picture
from segfix.metrics import band_width, inner_band
from segfix.refinement.apply import count_ids

INTERIOR = -1
"""Id of what lies in no band."""

CITYSCAPES_RATIO = 0.005
"""Width of the bands there, of the image's diagonal: 11 px."""


def encode_band(rle: Mapping[str, Any]) -> Any:
    """Encode the inner band of a mask.

    Args:
        rle: Run lengths of pycocotools.

    Returns:
        Likewise, of the pixels within 2 % of the image's diagonal of the mask's edge or the frame.
    """
    from pycocotools import mask as masks

    left, top, width, height = (int(length) for length in masks.toBbox(rle))
    mask = masks.decode(rle)
    # Beyond its box is none of the mask, so that the box's edges are the mask's.
    box = mask[top : top + height, left : left + width]
    box &= inner_band(box, band_width(mask.shape))
    return masks.encode(mask)


def compare_bands(scorer: Any) -> Any:
    """Evaluate COCO results once more, by the lesser of mask IoU and Boundary IoU.

    Args:
        scorer: pycocotools' `COCOeval` of masks, evaluated.

    Returns:
        Another one, evaluated. Crowds, which are no objects, are matched by masks alone.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    tables = []
    for table in (scorer.cocoGt, scorer.cocoDt):
        bands = COCO()
        annotations = [
            {**item, "segmentation": encode_band(item["segmentation"])}
            for item in table.dataset["annotations"]
        ]
        bands.dataset = {**table.dataset, "annotations": annotations}
        bands.createIndex()
        tables.append(bands)
    other = COCOeval(*tables, "segm")

    def lesser(image: int, category: int) -> Any:
        ious = scorer.ious[image, category]
        if len(ious) == 0:
            return ious
        crowds = [bool(item["iscrowd"]) for item in scorer._gts[image, category]]
        return np.where(crowds, ious, np.minimum(ious, COCOeval.computeIoU(other, image, category)))

    other.computeIoU = lesser
    other.evaluate()
    return other


def take_lesser_overlap(match: Mapping[str, Any], truth: NDArray[Any], settings: Any) -> None:
    """Let cityscapesScripts see the lesser of mask IoU and Boundary IoU, of bands of 0.5 %.

    The script computes overlaps from intersections; those with groups and small objects, in which
    predictions may lie unpunished, stay what they are.

    Args:
        match: `groundTruth` and `prediction` of an image, as the script assigns them; changed.
        truth: (H, W) ids of the instance map.
        settings: The script's.
    """
    width = band_width(truth.shape, CITYSCAPES_RATIO)
    ids = truth.astype(np.int64)
    true_band = np.where(inner_band(ids, width), ids, INTERIOR)
    areas = count_ids(true_band)
    shared: dict[tuple[int, int], float] = {}
    for found in (one for listed in match["prediction"].values() for one in listed):
        with open_picture(Path(found["imgName"]), "mask") as picture:
            mask = np.asarray(picture.convert("L")) != 0
        band = mask & inner_band(mask, width)
        near = count_ids(true_band[band])
        for true in found["matchedGt"]:
            identity, both = true["instID"], true["intersection"]
            if identity < 1000 or true["pixelCount"] < settings.minRegionSizes[0]:
                continue
            pixels, in_bands = true["pixelCount"] + found["pixelCount"], near.get(identity, 0)
            lesser = in_bands / (areas[identity] + int(band.sum()) - in_bands)
            if lesser < both / (pixels - both):
                both = pixels * lesser / (1 + lesser)
                # Rounded up, it could pass a threshold that it only reaches.
                while both / (pixels - both) > lesser:
                    both = float(np.nextafter(both, 0))
            true["intersection"] = shared[found["predID"], identity] = both
    for true in (one for listed in match["groundTruth"].values() for one in listed):
        for found in true["matchedPred"]:
            key = found["predID"], true["instID"]
            found["intersection"] = shared.get(key, found["intersection"])


def match_segments(
    maps: Sequence[NDArray[np.integer[Any]]], segments: Sequence[Sequence[Any]], total: Any
) -> None:
    """Match the segments of a panoptic image by the lesser of mask IoU and Boundary IoU.

    Args:
        maps: (H, W) ids of the true and of the predicted segments, 0 void.
        segments: `segments_info` of both; the true ones state their `area`.
        total: cityscapesScripts' `PQStat`, which the counts are added to.
    """
    true, found = ({segment["id"]: segment for segment in listed} for listed in segments)
    width = band_width(maps[0].shape)
    bands = [
        np.where(inner_band(ids, width) | (ids == 0), ids, INTERIOR)
        for ids in (array.astype(np.int64) for array in maps)
    ]
    whole, near = _count_pairs(*maps), _count_pairs(*bands)
    areas, band_areas = count_ids(maps[1]), [count_ids(band) for band in bands]
    missed, spare = dict(true), dict(found)
    for (one, other), both in whole.items():
        if one not in true or other not in found or true[one]["iscrowd"] == 1:
            continue
        category = true[one]["category_id"]
        if category != found[other]["category_id"]:
            continue
        union = true[one]["area"] + areas[other] - both - whole.get((0, other), 0)
        in_bands = near.get((one, other), 0)
        band_union = band_areas[0][one] + band_areas[1][other] - in_bands - near.get((0, other), 0)
        iou = min(both / union, in_bands / band_union)
        if iou > 0.5:
            total[category].tp += 1
            total[category].iou += iou
            # Bands are disjoint: above a half, no segment has two partners.
            del missed[one], spare[other]
    crowds: dict[Any, int] = {}
    for one, segment in missed.items():
        if segment["iscrowd"] == 1:
            crowds[segment["category_id"]] = one
        else:
            total[segment["category_id"]].fn += 1
    for other, segment in spare.items():
        crowd = crowds.get(segment["category_id"])
        # As the script: void, and the category's crowd, may hold half of it.
        ignored = whole.get((0, other), 0) + whole.get((crowd, other), 0)
        if ignored <= areas[other] / 2:
            total[segment["category_id"]].fp += 1


def _count_pairs(one: NDArray[Any], other: NDArray[Any]) -> dict[Any, int]:
    """Count the pixels of each pair of ids, below 256³."""
    pairs = count_ids((one.astype(np.int64) << 32) + other.astype(np.int64))
    # The lower half may be that of INTERIOR.
    firsts = {pair: (pair + 1) >> 32 for pair in pairs}
    return {(first, pair - (first << 32)): pairs[pair] for pair, first in firsts.items()}
