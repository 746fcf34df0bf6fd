"""Why almost nothing changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segfix.formats import LabelMap, OffsetMap, read_label_map, read_offset_map
from segfix.geometry import make_targets
from segfix.network import load
from segfix.refinement.apply import RefineSettings, refine_planes
from segfix.refinement.kept_ids import find_kept
from segfix.refinement.little_change import explain_little_change

CROPS = Path(__file__).parents[1] / "data" / "camvid"
STEM = "0016E5_08079"
TRUTH = read_label_map(CROPS / "labels" / f"{STEM}.png").array
PREDICTED = read_offset_map(CROPS / "offsets" / f"{STEM}.png")


def true_offsets() -> OffsetMap:
    targets = make_targets(TRUTH)
    return OffsetMap.encode(targets.boundary_map == 1, targets.direction_map, 0.95)


def unsure() -> OffsetMap:
    sectors = np.random.default_rng(0).integers(0, 8, TRUTH.shape).astype(np.uint8)
    return OffsetMap.encode(np.ones(TRUTH.shape, bool), sectors, 0.1)


def explained(ids: NDArray[Any], offset_map: OffsetMap, **settings: Any) -> str | None:
    label_map, how = LabelMap(ids), RefineSettings(**settings)
    _, kept = find_kept(label_map, how.keep)
    refined = refine_planes(label_map, offset_map, how, kept)
    changed = int((refined.array != ids).sum())
    return explain_little_change(label_map, offset_map, how.min_confidence, changed, kept)


@pytest.mark.parametrize(
    ("ids", "offset_map", "settings", "reason"),
    [
        (TRUTH, true_offsets(), {}, "already where the photographs' are"),
        (TRUTH, unsure(), {}, "directions at the boundaries are too unsure"),
        (TRUTH, OffsetMap(np.zeros(TRUTH.shape, np.uint8)), {}, "mark no boundary"),
        (TRUTH[:, ::-1].copy(), PREDICTED, {"min_confidence": 0.99}, "than --min-confidence 0.99"),
        (np.full_like(TRUTH, 4), PREDICTED, {}, "one label holds the whole map"),
        (TRUTH, PREDICTED, {"keep": range(12)}, "those of kept ids"),
    ],
    ids=["there", "unsure", "elsewhere", "confidence", "one label", "kept"],
)
def test_the_reason_is_told(
    ids: NDArray[Any], offset_map: OffsetMap, settings: dict[str, Any], reason: str
) -> None:
    assert reason in (explained(ids, offset_map, **settings) or "")


@pytest.mark.parametrize("settings", [{}, {"scale": 2}, {"iterate": 10}, {"min_confidence": 0.5}])
def test_nothing_is_said_of_what_was_refined(settings: dict[str, Any]) -> None:
    ids = read_label_map(CROPS / "preds" / f"{STEM}.png").array
    assert explained(ids, PREDICTED, **settings) is None


def test_a_small_object_is_judged_by_its_boundary() -> None:
    true, found = np.zeros((2, 400, 600), np.uint8)
    true[100:120, 200:220] = 1
    found[101:121, 201:221] = 1
    targets = make_targets(true)
    offset_map = OffsetMap.encode(targets.boundary_map == 1, targets.direction_map, 0.95)
    assert explained(found, offset_map) is None
    assert explained(true, offset_map) == "the boundaries are already where the photographs' are"


def test_dense_objects_of_a_few_pixels_stay_as_they_are() -> None:
    rows, columns = np.mgrid[:120, :180] % 12 - 6
    mask = (rows**2 + columns**2 <= 10).astype(np.uint8)
    image = np.where(mask[..., None], (200, 180, 160), (60, 70, 50))
    image = image + np.random.default_rng(0).normal(0, 5, image.shape)
    offset_map = load("hrnet_lite0").offsets(image.clip(0, 255).astype(np.uint8), mask)
    reason = explained(mask, offset_map)
    assert reason is not None
    assert "takes nearly all boundaries for wrong" in reason
