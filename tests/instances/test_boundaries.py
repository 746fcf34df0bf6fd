"""Boundary AP and Boundary PQ against the reference implementation's logic, in plain loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from segfix.evaluation import evaluate_instances
from segfix.instances import boundaries
from segfix.instances.boundaries import encode_band
from segfix.instances.coco_ap import MEANS
from tests.instances import blobs, scenes

masks = pytest.importorskip(
    "pycocotools.mask", reason="needs the extra: pip install 'segfix-refine[eval]'"
)
pytest.importorskip(
    "cityscapesscripts", reason="needs the extra: pip install 'segfix-refine[eval]'"
)


def band(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What erosion takes away, with nothing around the image."""
    width = max(1, round(0.02 * float(np.hypot(*mask.shape))))
    padded = np.pad(mask.astype(np.uint8), 1)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return np.asarray(mask & (eroded == 0))


def ratio(one: NDArray[np.bool_], other: NDArray[np.bool_], counted: NDArray[np.bool_]) -> float:
    """IoU over the pixels that are counted."""
    return float((one & other & counted).sum() / ((one | other) & counted).sum())


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    smoothness=st.floats(0, 9),
    share=st.floats(0.02, 0.98),
)
def test_bands_are_what_erosion_takes_away(
    seed: int, shape: tuple[int, int], smoothness: float, share: float
) -> None:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), smoothness)
    mask = smooth > np.quantile(smooth, share)
    rle = masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert np.array_equal(masks.decode(encode_band(rle)), band(mask))


def boundary_pq(pairs: list[tuple[NDArray[Any], NDArray[Any]]]) -> dict[int, dict[str, float]]:
    """By category, from masks of segments; objects as `blobs` names them."""
    counts = {k: {"iou": 0.0, "tp": 0, "fp": 0, "fn": 0} for k in blobs.CATEGORIES}
    for true, found in pairs:
        known = true != 0
        lost = {int(k) for k in np.unique(true) if k}
        spare = {int(k) for k in np.unique(found) if k}
        for one in sorted(lost):
            for other in sorted(spare):
                if blobs.is_crowd(one) or blobs.category(one) != blobs.category(other):
                    continue
                here, there = true == one, found == other
                # True masks have no pixel in void.
                iou = min(ratio(here, there, known), ratio(band(here), band(there), known))
                if iou > 0.5:
                    counts[blobs.category(one)]["tp"] += 1
                    counts[blobs.category(one)]["iou"] += iou
                    lost.remove(one)
                    spare.remove(other)
        for one in lost:
            counts[blobs.category(one)]["fn"] += not blobs.is_crowd(one)
        for other in spare:
            category = blobs.category(other)
            crowds = [k for k in lost if blobs.is_crowd(k) and blobs.category(k) == category]
            ignored = ~known | np.isin(true, crowds)
            inside_other = found == other
            counts[category]["fp"] += int(2 * (inside_other & ignored).sum() <= inside_other.sum())
    return {
        k: {
            "boundary_pq": one["iou"] / (one["tp"] + one["fp"] / 2 + one["fn"] / 2),
            "boundary_sq": one["iou"] / one["tp"],
            "boundary_rq": one["tp"] / (one["tp"] + one["fp"] / 2 + one["fn"] / 2),
        }
        for k, one in counts.items()
    }


@pytest.mark.parametrize("seed", range(4))
def test_boundary_pq_is_that_of_plain_loops(seed: int, tmp_path: Path) -> None:
    result = evaluate_instances(*blobs.write_panoptic(tmp_path, seed), boundary=True)
    expected = boundary_pq(blobs.image_pairs(seed))
    for k, scores in expected.items():
        for key, value in scores.items():
            assert result["class"][f"class {k}"][key] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_boundary_ap_is_that_of_masks_compared_one_by_one(seed: int, tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    preds, labels = blobs.write_coco(tmp_path, seed)
    truth = COCO(labels)
    scorer = COCOeval(truth, truth.loadRes(str(preds)), "segm")

    def compare(image: int, category: int) -> Any:
        found = sorted(scorer._dts[image, category], key=lambda item: -item["score"])
        true = scorer._gts[image, category]
        ious = np.zeros((len(found), len(true)))
        for place in np.ndindex(ious.shape):
            one, other = (
                masks.decode(item["segmentation"]).astype(bool)
                for item in (found[place[0]], true[place[1]])
            )
            if true[place[1]]["iscrowd"]:
                ious[place] = (one & other).sum() / one.sum()
            else:
                everywhere = np.ones(one.shape, bool)
                ious[place] = min(
                    ratio(one, other, everywhere), ratio(band(one), band(other), everywhere)
                )
        return ious if ious.size else []

    scorer.computeIoU = compare
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    mean = evaluate_instances(preds, labels, boundary=True)["mean"]
    expected = [None if value < 0 else value for value in scorer.stats[:6]]
    found = [mean[f"boundary_{key}"] for key in MEANS]
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0 < mean["boundary_ap"] < mean["ap"]


@pytest.mark.parametrize("kind", ["coco", "panoptic"])
def test_a_box_that_ends_early_is_matched_by_its_band(kind: str, tmp_path: Path) -> None:
    # Bands are 2 px wide: 264 and 200 pixels, of which 168 are both's; the masks' IoU is 0.68.
    truth, found = (0, scenes.CAR, (5, 5, 50, 20)), (0, scenes.CAR, (5, 5, 34, 20), 1)
    write: scenes.Write = scenes.FORMATS[kind]
    preds, labels = write(tmp_path, [truth], [found])
    mean = evaluate_instances(preds, labels, boundary=True)["mean"]
    iou = 168 / (264 + 200 - 168)
    if kind == "coco":
        assert mean["ap"] == pytest.approx(0.4)
        assert mean["boundary_ap"] == pytest.approx(0.2)
    else:
        assert mean["pq"] == pytest.approx(0.68)
        assert mean["boundary_pq"] == pytest.approx(iou)
    plain = evaluate_instances(preds, labels)["mean"]
    assert plain == {key: mean[key] for key in mean if not key.startswith("boundary_")}


@pytest.mark.parametrize("kind", ["coco", "panoptic"])
def test_perfect_predictions_score_one(kind: str, tmp_path: Path) -> None:
    truth = [(0, scenes.CAR, scenes.LEFT), (1, scenes.PERSON, scenes.RIGHT)]
    write: scenes.Write = scenes.FORMATS[kind]
    preds, labels = write(tmp_path, truth, [(*item, 0.9) for item in truth])
    result = evaluate_instances(preds, labels, boundary=True)
    first = "boundary_pq" if kind == "panoptic" else "boundary_ap"
    assert result["mean"][first] == pytest.approx(1)
    assert result["class"]["car"][first] == pytest.approx(1)
    assert result["class"]["truck"][first] is None


def list_cityscapes(pairs: list[Any], kind: int, overlap: float) -> tuple[list[Any], int]:
    """Score and success of each prediction of a category, and the number of its objects."""
    outcomes, objects = [], 0
    for true, found in pairs:
        everywhere = np.ones(true.shape, bool)
        spare = [int(k) for k in np.unique(found) if k and blobs.category(int(k)) == kind]
        # All crowds of a category are one group.
        crowd = np.isin(true, [k for k in np.unique(true) if k and blobs.is_crowd(int(k))])
        crowd &= np.isin(true, [k for k in np.unique(true) if blobs.category(int(k)) == kind])
        # A group that is small counts twice.
        ignored = (true == 0) + crowd.astype(int) * (1 + int(crowd.sum() < 100))
        for one in (int(k) for k in np.unique(true) if k):
            here = true == one
            if blobs.category(one) != kind or blobs.is_crowd(one):
                continue
            if here.sum() < 100:
                ignored = ignored + here
                continue
            objects += 1
            near = []
            for other in list(spare):
                there = found == other
                iou = min(
                    ratio(here, there, everywhere),
                    ratio(band(here), band(there), everywhere),
                )
                if iou > overlap:
                    near.append((other * 37 % 101) / 101)
                    spare.remove(other)
            outcomes += [(score, k == 0) for k, score in enumerate(sorted(near, reverse=True))]
        for other in spare:
            there = found == other
            if ignored[there].sum() / there.sum() <= overlap:
                outcomes.append(((other * 37 % 101) / 101, False))
    return outcomes, objects


@pytest.mark.parametrize("seed", range(3))
def test_boundary_ap_of_cityscapes_is_that_of_plain_loops(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert boundaries.CITYSCAPES_RATIO == 0.005
    # Of pictures so small, that were a single pixel.
    monkeypatch.setattr(boundaries, "CITYSCAPES_RATIO", 0.02)
    result = evaluate_instances(*blobs.write_cityscapes(tmp_path, seed), boundary=True)
    pairs = blobs.image_pairs(seed)
    names = {26: "car", 24: "person", 27: "truck"}
    for kind, label in blobs.CITYSCAPES.items():
        precisions = []
        for overlap in np.arange(0.5, 1, 0.05):
            outcomes, objects = list_cityscapes(pairs, kind, overlap)
            points = [(1.0, 0.0)]
            for least in sorted({score for score, _ in outcomes}, reverse=True):
                hits = [hit for score, hit in outcomes if score >= least]
                points.append((sum(hits) / len(hits), sum(hits) / objects))
            recalls = [0.0, *(recall for _, recall in points), points[-1][1]]
            steps = [(b - a) / 2 for a, b in zip(recalls, recalls[2:], strict=False)]
            precisions.append(sum(p * s for (p, _), s in zip(points, steps, strict=True)))
        expected = np.mean(precisions) if result["class"][names[label]]["ap"] is not None else None
        assert result["class"][names[label]]["boundary_ap"] == pytest.approx(expected, abs=1e-12)
    assert 0 < result["mean"]["boundary_ap"] < result["mean"]["ap"]
