"""The main job on real crops with the shipped weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from segfix.cli import main
from segfix.formats import read_label_map, read_offset_map

CROPS = Path(__file__).parent / "data" / "camvid"
STEMS = sorted(path.stem for path in (CROPS / "images").glob("*.png"))


GOLDEN = {"offsets": (), "offsets_of_preds": ("--preds", CROPS / "preds")}
"""Folders of offset maps, and how they are made."""


@pytest.fixture(scope="module", params=GOLDEN)
def refined(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden") / str(request.param)
    out = ("-o", folder / "offsets", "-q", "--device", "cpu")
    for arguments in (
        ("predict-offsets", CROPS / "images", *GOLDEN[request.param], *out),
        ("refine", CROPS / "preds", "--offsets", folder / "offsets", "-o", folder / "refined"),
    ):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
    return folder


def test_refinement_of_a_real_prediction_gains_on_every_score(refined: Path) -> None:
    result = CliRunner().invoke(
        main,
        [
            "evaluate",
            str(CROPS / "preds"),
            str(CROPS / "labels"),
            "--against",
            f"refined={refined / 'refined'}",
            "--json",
            "-q",
        ],
    )
    report = json.loads(result.stdout)
    differences = report["changes"]["refined"]["mean"]
    for name in ("iou", "f_1px", "f_2px", "f_3px", "f1", "boundary_iou", "pixel_accuracy"):
        assert differences[name][0] > 0, name
    assert differences["f_1px"][0] > 0.02
    changed = report["changes"]["refined"]["bands"]
    assert sum(changed["fixed"]) > sum(changed["broken"]) > 0


@pytest.mark.parametrize("stem", STEMS)
def test_the_shipped_weights_still_say_what_they_said(refined: Path, stem: str) -> None:
    # Engines and processors round differently; a changed network differs in far more pixels.
    found = read_offset_map(refined / "offsets" / f"{stem}.png")
    golden = read_offset_map(CROPS / refined.name / f"{stem}.png")
    assert found.source["weights_sha256"] == golden.source["weights_sha256"]
    assert np.mean(found.codes != golden.codes) < 0.005


@pytest.mark.parametrize("stem", STEMS)
def test_only_predicted_boundary_changes_and_no_label_is_new(refined: Path, stem: str) -> None:
    before = read_label_map(CROPS / "preds" / f"{stem}.png").array
    after = read_label_map(refined / "refined" / f"{stem}.png").array
    offset_map = read_offset_map(refined / "offsets" / f"{stem}.png")
    assert np.array_equal(before[offset_map.codes == 0], after[offset_map.codes == 0])
    assert set(np.unique(after)) <= set(np.unique(before))
    assert 0.002 < np.mean(before != after) < 0.2
