from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from segfix.errors import ArgumentError, FileFormatError, SegfixError
from segfix.geometry import fill_void_bands, make_targets
from segfix.losses import segfix_loss
from segfix.training import loop, offset_training
from segfix.training.crop_targets import OffsetTargets
from segfix.training.datasets import CropDataset
from segfix.training.layouts import find_labelled_images
from segfix.training.offset_networks import SegFixNet, load_checkpoint, normalize_image
from segfix.training.offset_training import score_offsets, train_segfix
from segfix.training.settings import (
    Augmentation,
    CropSettings,
    DataFolder,
    Optimization,
    RunSettings,
    SegFixSettings,
)

WritePair = Callable[..., None]
TINY = Optimization(steps=4, batch_size=2, warmup=2, ema=0.5)


def read_log(out: Path) -> list[list[str]]:
    with (out / "log.csv").open(newline="") as file:
        return [row for row in csv.reader(file) if row[1] != "steps_per_second"]


def read_metadata(out: Path) -> dict[str, Any]:
    with safe_open(out / "model.safetensors", framework="pt") as file:
        metadata: dict[str, Any] = json.loads(file.metadata()["segfix"])
    return metadata


def train(
    data: Path,
    out: Path,
    *,
    network: SegFixSettings | None = None,
    settings: Optimization = TINY,
    resume: bool = False,
    **options: Any,
) -> dict[str, float]:
    network = network or SegFixSettings(boundary_width=2, crops=CropSettings(crop_size=32))
    return train_segfix(
        [DataFolder(data)],
        out,
        replace(network, optimization=settings),
        run=RunSettings("cpu", workers=0, resume=resume, quiet=True),
        **options,
    )


@pytest.fixture
def fit_arguments(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What `train_segfix` hands to the loop, which is not run."""
    calls: list[tuple[Any, ...]] = []

    def record(*arguments: Any, **options: Any) -> dict[str, float]:
        calls.append((*arguments, options))
        return {}

    monkeypatch.setattr(offset_training, "fit", record)
    return calls


def losses_of(out: Path) -> tuple[list[float], list[float]]:
    boundary, direction = (
        [float(value) for _, key, value in read_log(out)[1:] if key == name]
        for name in ("boundary_loss", "direction_loss")
    )
    return boundary, direction


def test_two_crops_are_learnt_by_heart(trained: Any) -> None:
    boundary, direction = losses_of(trained.out)
    assert len(boundary) == len(direction) == 40
    assert boundary[-1] < 0.4 * boundary[0]
    assert direction[-1] < 0.6 * direction[0]


def test_the_checkpoint_says_what_was_trained_on_what(trained: Any, data: Path) -> None:
    metadata = read_metadata(trained.out)
    assert metadata == {
        "kind": "segfix",
        "backbone": "hrnet_w18_small",
        "num_directions": 8,
        "boundary_width": 3,
        "crop_size": 64,
        "class_weights": False,
        "ignore_index": 255,
        "instances": False,
        "ignore_frame": 4,
        "scales": [0.5, 2.0],
        "jitter": 0.3,
        "brightness": 0.0,
        "blur": 0.2,
        "jpeg": 0.2,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "data": {str(Path(*data.parts[-2:])): 1.0},
        "tolerances": [0.0],
        "settings": metadata["settings"],
        "step": 40,
        "scores": trained.scores,
    }
    # No path of this machine gets into a file that is passed on.
    assert str(data) not in json.dumps(metadata)


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    train(data, tmp_path / "whole", val=[data])
    calls = 0

    def interrupting(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        if calls == 2:
            signal.raise_signal(signal.SIGINT)
        return segfix_loss(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(offset_training, "segfix_loss", interrupting)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "parts", val=[data])
    assert read_metadata(tmp_path / "parts")["step"] == 2
    train(data, tmp_path / "parts", val=[data], resume=True)
    assert (tmp_path / "parts" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
    assert read_log(tmp_path / "parts") == read_log(tmp_path / "whole")


def test_the_seed_decides_weights_and_data(
    data: Path, tmp_path: Path, fit_arguments: list[tuple[Any, ...]]
) -> None:
    for seed in (1, 1, 2):
        train(data, tmp_path, settings=replace(TINY, seed=seed))
    (first, same, other) = (
        torch.cat([p.detach().flatten() for p in network.parameters()])
        for network, *_ in fit_arguments
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    first, same, other = (dataset[0]["boundary"] for _, dataset, *_ in fit_arguments)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_settings_reach_network_and_data(
    data: Path, tmp_path: Path, fit_arguments: list[tuple[Any, ...]]
) -> None:
    train(
        data,
        tmp_path,
        network=SegFixSettings(
            num_directions=16,
            boundary_width=3,
            crops=CropSettings(96, 2, 1, Augmentation((1.0, 1.5), 0.1, 20, 0.3, 0.4)),
        ),
    )
    network, dataset, compute_loss, settings, out, options = fit_arguments[0]
    assert isinstance(network, SegFixNet)
    assert network.direction_head[-1].out_channels == 16
    assert isinstance(dataset, CropDataset)
    assert (settings, out, len(dataset)) == (TINY, tmp_path, 8)
    assert dataset[0]["image"].shape == (3, 96, 96)
    assert dataset.targets == OffsetTargets(16, 3)
    assert dataset.crops.ignore_frame == 1
    assert dataset.sources[0].images[0].void == (2,)
    assert dataset.crops.augmentation == Augmentation((1.0, 1.5), 0.1, 20, 0.3, 0.4)
    # Nothing to score on.
    assert options["evaluate"] is None
    batch = {key: torch.stack([dataset[0][key], dataset[1][key]]) for key in dataset[0]}
    losses: Mapping[str, Tensor] = compute_loss(network, batch)
    assert set(losses) == {"boundary_loss", "direction_loss"}


def test_class_weights_reach_the_loss(
    data: Path, tmp_path: Path, fit_arguments: list[tuple[Any, ...]]
) -> None:
    losses = []
    for class_weights in (False, True):
        network = SegFixSettings(class_weights=class_weights, crops=CropSettings(crop_size=64))
        train(data, tmp_path, network=network)
        network, dataset, compute_loss, *_ = fit_arguments[-1]
        batch = {key: dataset[0][key][None] for key in dataset[0]}
        losses.append(float(compute_loss(network.eval(), batch)["boundary_loss"].detach()))
    assert losses[1] < losses[0]


@pytest.mark.usefixtures("_small_hrnet")
def test_training_starts_from_the_weights_of_a_checkpoint(
    data: Path, tmp_path: Path, checkpoint: Path, fit_arguments: list[tuple[Any, ...]]
) -> None:
    train(data, tmp_path, init=checkpoint)
    expected = load_checkpoint(checkpoint)[0].state_dict()
    found = fit_arguments[0][0].state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_training_does_not_start_from_something_else(data: Path, tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").write_text("something else")
    with pytest.raises(FileFormatError, match=r"other\.safetensors: not a safetensors file"):
        train(data, tmp_path / "out", init=tmp_path / "other.safetensors")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_small_hrnet")
def test_training_does_not_start_from_another_network(
    data: Path, tmp_path: Path, checkpoint: Path
) -> None:
    other = SegFixSettings(num_directions=4)
    with pytest.raises(SegfixError, match=r"hrnet_w18_small with \d+ directions; train the same"):
        train_segfix([DataFolder(data)], tmp_path / "out", other, init=checkpoint)
    assert not (tmp_path / "out").exists()


def test_normalized_bytes_are_standard_scores() -> None:
    image = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2) * 10
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    floats = normalize_image(image, mean, std)
    assert floats.dtype == torch.float32
    for channel in range(3):
        expected = (image[:, channel].double() / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(floats[:, channel].double(), expected, atol=1e-6, rtol=0)


class Oracle(nn.Module):
    """Logits of the true targets, right in the first `right` columns and wrong beyond."""

    def __init__(self, labels: NDArray[np.uint8], right: int) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        targets = make_targets(labels, num_directions=4, boundary_width=3)
        boundary = torch.from_numpy(targets.boundary_map == 1).float() - 0.5
        sectors = torch.from_numpy(targets.direction_map.astype(np.int64)).clamp(max=3)
        direction = F.one_hot(sectors, 4).movedim(-1, 0).float()
        boundary[:, right:] *= -1
        direction[:, :, right:] *= -1
        self.logits = (boundary[None, None], direction[None])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        height, width = image.shape[-2:]
        assert height % 32 == width % 32 == 0
        # Beyond the photograph: boundary everywhere, which must not count.
        missing = (
            0,
            width - self.logits[0].shape[-1],
            0,
            height - self.logits[0].shape[-2],
        )
        boundary, direction = (F.pad(logits, missing, value=1.0) for logits in self.logits)
        return boundary, direction


def test_true_targets_score_one_and_their_opposite_zero(data: Path) -> None:
    images = find_labelled_images(data)
    labels = images[0].read()[1].astype(np.uint8)
    settings = SegFixSettings(num_directions=4, boundary_width=3)
    for right, expected in ((labels.shape[1], 1.0), (0, 0.0)):
        oracle = Oracle(labels, right)
        scores = score_offsets(oracle, images, settings, (0.5,) * 3, (0.5,) * 3)
        assert scores == {"mask_f": expected, "direction_accuracy": expected}


def test_a_void_band_is_scored_as_it_is_taught(
    tmp_path: Path, write_pair: WritePair, blobs: NDArray[np.uint8]
) -> None:
    labels = blobs[:101, :131].copy()
    labels[:, 60:64] = 255
    write_pair(tmp_path, "band", labels)
    oracle = Oracle(fill_void_bands(labels), 131)
    settings = SegFixSettings(num_directions=4, boundary_width=3)
    images = find_labelled_images(tmp_path)
    scores = score_offsets(oracle, images, settings, (0.5,) * 3, (0.5,) * 3)
    assert scores == {"mask_f": 1.0, "direction_accuracy": 1.0}


def test_scores_of_a_half_right_network_are_those_counted_by_hand(data: Path) -> None:
    images = find_labelled_images(data)
    labels = images[0].read()[1].astype(np.uint8)
    targets = make_targets(labels, num_directions=4, boundary_width=3)
    true, half = targets.boundary_map == 1, np.arange(labels.shape[1]) < 60
    predicted = true == half
    overlap = np.sum(predicted & true)
    settings = SegFixSettings(num_directions=4, boundary_width=3)
    scores = score_offsets(Oracle(labels, 60), images, settings, (0.5,) * 3, (0.5,) * 3)
    assert scores["mask_f"] == pytest.approx(2 * overlap / (predicted.sum() + true.sum()))
    known = predicted & (targets.direction_map != 255)
    assert scores["direction_accuracy"] == pytest.approx((known & half).sum() / known.sum())


def test_masks_of_0_and_255_are_refused_unless_void_is_meant(
    write_pair: WritePair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[4:] = 255
    write_pair(tmp_path / "masks", "a", mask)

    class MadeError(Exception):
        pass

    def make_network(*_given: Any, **_options: Any) -> None:
        raise MadeError

    monkeypatch.setattr(offset_training, "make_network", make_network)
    data, out = [DataFolder(tmp_path / "masks")], tmp_path / "out"
    with pytest.raises(ArgumentError, match=r"masks.labels holds 0 and void \(255\) alone"):
        train_segfix(data, out)
    with pytest.raises(MadeError):
        train_segfix(data, out, void_given=True)
    with pytest.raises(MadeError):
        train_segfix(data, out, SegFixSettings(crops=CropSettings(ignore_index=-1)))
