"""Training of networks that look at a prediction, too."""

from __future__ import annotations

import csv
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from segfix.errors import SegfixError
from segfix.losses import wrong_label_loss
from segfix.training import offset_training
from segfix.training.crop_targets import OffsetTargets
from segfix.training.hrnet_lite import ConditionedSegFixNet
from segfix.training.offset_networks import load_checkpoint
from segfix.training.offset_training import train_segfix
from segfix.training.settings import CropSettings, DataFolder, SegFixSettings

pytestmark = pytest.mark.usefixtures("_small_lite", "_small_hrnet")


def read_log(out: Path) -> list[list[str]]:
    with (out / "log.csv").open(newline="") as file:
        return [row for row in csv.reader(file) if row[1] != "steps_per_second"]


def test_two_crops_are_learnt_by_heart(trained_lite: Any) -> None:
    for name, share in (("boundary_loss", 0.4), ("direction_loss", 0.5), ("wrong_loss", 0.5)):
        losses = [float(value) for _, key, value in read_log(trained_lite.out) if key == name]
        assert len(losses) == 60
        assert losses[-1] < share * losses[0], name


def test_the_checkpoint_says_what_was_trained_with_predictions(
    trained_lite: Any, data: Path
) -> None:
    network, metadata = load_checkpoint(trained_lite.out / "model.safetensors")
    assert isinstance(network, ConditionedSegFixNet)
    assert metadata["backbone"] == "hrnet_lite0"
    assert (metadata["predicted"], metadata["near"], metadata["tolerances"]) == (1, [None], [0])
    assert (metadata["mean"], metadata["std"]) == ([0.5] * 3, [0.5] * 3)
    assert metadata["data"] == {str(Path(*data.parts[-2:])): 1.0}
    assert metadata["scores"] == trained_lite.scores
    assert set(trained_lite.scores) == {"mask_f", "direction_accuracy"}


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, data: Path, train_lite: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    train_lite(data, tmp_path / "whole", steps=4)
    calls = 0

    def interrupting(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            signal.raise_signal(signal.SIGINT)
        return wrong_label_loss(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(offset_training, "wrong_label_loss", interrupting)
        with pytest.raises(KeyboardInterrupt, match="2 of 4 steps done"):
            train_lite(data, tmp_path / "parts", steps=4)
    train_lite(data, tmp_path / "parts", steps=4, resume=True)
    whole, parts = ((tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert parts.read_bytes() == whole.read_bytes()
    assert read_log(parts.parent) == read_log(whole.parent)


def test_a_network_that_looks_at_predictions_does_not_start_from_another(
    tmp_path: Path, data: Path, checkpoint: Path, train_lite: Callable[..., Any]
) -> None:
    with pytest.raises(SegfixError, match="hrnet_w18_small with 8 directions; train the same"):
        train_lite(data, tmp_path / "out", init=checkpoint)


def test_settings_reach_the_targets_and_the_metadata(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []

    def record(*arguments: Any, **options: Any) -> dict[str, float]:
        calls.append((*arguments, options))
        return {}

    monkeypatch.setattr(offset_training, "fit", record)
    folders = [DataFolder(data, 2, 1, 15), DataFolder(data)]
    for backbone in ("hrnet_lite0", "hrnet_w18_small"):
        settings = SegFixSettings(backbone, predicted=0.5, crops=CropSettings(crop_size=64))
        train_segfix(folders, tmp_path, settings)
    (network, dataset, compute_loss, *_, options), (*_, other) = calls
    assert dataset.targets == OffsetTargets(8, 5, 0.5)
    assert [source.near for source in dataset.sources] == [15, math.inf]
    assert options["metadata"]["predicted"] == 0.5
    assert options["metadata"]["near"] == [15, None]
    assert not {"predicted", "near"} & other["metadata"].keys()
    batch = {key: torch.stack([dataset[0][key], dataset[1][key]]) for key in dataset[0]}
    assert set(compute_loss(network, batch)) == {"boundary_loss", "direction_loss", "wrong_loss"}
    # The direction counts where the prediction is wrong, boundary or not.
    before = {**batch, "wrong": torch.zeros_like(batch["wrong"])}
    after = {**batch, "wrong": torch.ones_like(batch["wrong"])}
    network.eval()
    with torch.inference_mode():
        first, second = (compute_loss(network, one)["direction_loss"] for one in (before, after))
    assert first != second
