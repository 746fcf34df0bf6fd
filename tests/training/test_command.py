"""`segfix train` through click's runner."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open

from segfix.cli import main
from segfix.cli.train_options import DataFolderType
from segfix.training.settings import DataFolder


@pytest.fixture
def voc(tmp_path: Path, blobs: NDArray[np.uint8]) -> Path:
    """A Pascal VOC of one photograph per split."""
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    labels = blobs[:96, :96].copy()
    labels[40:44] = 255
    for split in ("train", "val"):
        Image.fromarray(np.repeat(labels[..., None], 3, axis=2)).save(
            root / f"JPEGImages/{split}.jpg"
        )
        for folder in ("SegmentationClass", "SegmentationObject"):
            Image.fromarray(labels).save(root / f"{folder}/{split}.png")
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(split)
    return root


def train(*arguments: object) -> Result:
    fast = ("--steps", 1, "--batch-size", 2, "--crop-size", 32, "--workers", 0, "--device", "cpu")
    return CliRunner().invoke(main, [str(a) for a in ("train", *fast, "-q", *arguments)])


def test_a_published_data_set_trains_with_instances_and_tolerance(
    voc: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("--data", f"{voc}:2:1.5", "--val", voc, "--instances", "-o", out)
    result = train(*command)
    assert result.exit_code == 0, result.output
    with safe_open(out / "model.safetensors", framework="pt") as file:
        metadata: dict[str, Any] = json.loads(file.metadata()["segfix"])
    assert metadata["instances"] is True
    assert metadata["tolerances"] == [1.5]
    assert list(metadata["data"].values()) == [2.0]
    assert set(metadata["scores"]) == {"mask_f", "direction_accuracy"}
    assert train(*command, "--resume").exit_code == 0
    for other, named in (
        (("--data", f"{voc}:2:1", "--instances"), "(tolerances)"),
        (("--data", f"{voc}:2:1.5"), "(instances)"),
        (("--data", f"{voc}:3:1.5", "--instances"), "(data)"),
    ):
        result = train(*other, "-o", out, "--resume")
        assert result.exit_code != 0
        assert f"made with other settings {named}" in str(result.exception) + result.output


def test_data_of_no_layout_are_one_line(tmp_path: Path) -> None:
    result = train("--data", tmp_path, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"segfix: {tmp_path}: no data set of a known layout; looked ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("ending", "weight", "tolerance", "near"),
    [
        ("", 1, 0, math.inf),
        (":2.5", 2.5, 0, math.inf),
        (":2.5:1.5", 2.5, 1.5, math.inf),
        (":1:0", 1, 0, math.inf),
        (":1:0:15", 1, 0, 15),
    ],
)
def test_weight_tolerance_and_distance_follow_the_folder(
    tmp_path: Path, ending: str, weight: float, tolerance: float, near: float
) -> None:
    # A colon in the name of the folder is no weight.
    for folder in (tmp_path, tmp_path / "a:3", tmp_path / "b:c"):
        folder.mkdir(exist_ok=True)
        found = DataFolderType().convert(f"{folder}{ending}", None, None)
        assert found == DataFolder(folder, weight, tolerance, near)


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (":heavy", "'heavy' is not a weight; write DIR, DIR:WEIGHT, DIR:WEIGHT:TOLERANCE or DIR:"),
        (":1:wide", "'wide' is not a tolerance"),
        (":1:0:far", "'far' is not a distance"),
        (":1:0:0", "distance NEAR of .* must be positive"),
        (":", "'' is not a weight"),
        (":0", "weight of .* must be positive"),
        (":nan", "weight of .* must be positive"),
        (":1:-1", "tolerance of .* must not be negative"),
        (":1:inf", "tolerance of .* must not be negative"),
        ("x", "no such folder"),
        ("x:2", "no such folder"),
    ],
)
def test_a_weight_or_tolerance_that_is_none_is_refused(
    tmp_path: Path, ending: str, told: str
) -> None:
    with pytest.raises(click.BadParameter, match=told):
        DataFolderType().convert(f"{tmp_path}{ending}", None, None)
