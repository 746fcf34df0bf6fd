"""The confidence of exported networks."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from segfix.errors import SegfixError
from segfix.geometry import make_targets
from segfix.network import load
from segfix.training import export
from segfix.training.calibration import fit_calibration
from segfix.training.export import export_onnx
from segfix.training.layouts import find_labelled_images

pytestmark = pytest.mark.usefixtures("_small_hrnet")


def test_calibration_finds_the_line_that_the_counts_follow() -> None:
    middles = (np.arange(50) + 0.5) / 50
    count = np.full(50, 1_000_000)
    right = count / (1 + np.exp(-(3.0 * middles - 1.0)))
    slope, intercept = fit_calibration([np.stack([count, right.astype(int)], 1)])
    assert slope == pytest.approx(3.0, abs=0.01)
    assert intercept == pytest.approx(-1.0, abs=0.01)


@pytest.mark.parametrize("right", [0, 20])
def test_a_few_pixels_all_right_or_all_wrong_are_not_believed_for_ever(right: int) -> None:
    counts = np.zeros((50, 2), np.int64)
    counts[10], counts[40] = (20, right), (20, 20 - right)
    slope, intercept = fit_calibration([counts])
    assert 0 <= slope < 50
    assert abs(intercept) < 50


def test_each_set_counts_the_same_for_calibration() -> None:
    small, large = (np.zeros((50, 2), np.int64) for _ in range(2))
    small[25], large[25] = (10, 9), (1_000_000, 500_000)
    slope, intercept = fit_calibration([small, large])
    assert 1 / (1 + np.exp(-(slope * 0.51 + intercept))) == pytest.approx(0.7, abs=0.01)


def test_without_any_boundary_there_is_nothing_to_calibrate_on() -> None:
    with pytest.raises(SegfixError, match="nothing to calibrate on"):
        fit_calibration([np.zeros((50, 2), np.int64)])


def test_confidence_in_offset_maps_is_calibrated_on_the_data_given(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Path,
    exported: Path,
    data: Path,
) -> None:
    def copy(module: object, path: Path, metadata: object) -> None:
        shutil.copy(exported, path)

    monkeypatch.setattr(export, "write_onnx", copy)
    out = tmp_path / "calibrated.onnx"
    metadata = export_onnx(checkpoint, out, calibrate_on=[data])
    assert metadata["calibrated_on"] == [f"{data.parent.name}/{data.name}"]
    model = load(out, device="cpu")
    assert model.metadata["calibration"] == metadata["calibration"]
    image, labels = find_labelled_images(data)[0].read()
    offset_map = model.offsets(image)
    direction, boundary, certainty = model.predict(image)
    slope, intercept = metadata["calibration"]
    expected = 1 / (1 + np.exp(-(slope * boundary * (certainty / 255**2) + intercept)))
    found = offset_map.codes > 0
    step = (1 - offset_map.lowest_confidence) / offset_map.num_levels
    assert np.abs(offset_map.confidence_map() - expected)[found].max() <= step / 2 + 1e-3
    # On the very data that it was fitted on, the mean confidence is the share that is right.
    targets = make_targets(labels).direction_map
    turn = (direction.astype(int) - targets) % 8
    near = found & (targets != 255)
    right = np.minimum(turn, 8 - turn)[near] <= 1
    assert expected[near].mean() == pytest.approx(right.mean(), abs=0.05)
