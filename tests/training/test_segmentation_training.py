from __future__ import annotations

import csv
import json
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

from segfix.errors import FileFormatError, PairingError, SegfixError
from segfix.losses import EdgeNetwork, edge_map, edge_network_loss
from segfix.training import edge_training, loop, segmentation_training
from segfix.training.checkpoints import write_checkpoint
from segfix.training.crop_targets import ClassTargets
from segfix.training.datasets import CropDataset, Source
from segfix.training.edge_training import load_edge_network, train_edge_network
from segfix.training.layouts import find_labelled_images
from segfix.training.segmentation_losses import (
    LOSSES,
    cross_entropy,
    make_loss,
)
from segfix.training.segmentation_networks import load_segmenter
from segfix.training.segmentation_training import (
    find_class_ids,
    hold_out,
    score_segmentation,
    train_segmentation,
)
from segfix.training.settings import (
    CropSettings,
    DataFolder,
    Optimization,
    RunSettings,
    SegmentationSettings,
)
from tests.training.tiny_training import check_same, compile_quickly

WritePair = Callable[..., None]
TINY = Optimization(steps=4, batch_size=2, warmup=1, ema=0.5)
SMALL = SegmentationSettings(
    "fcn16s",
    "resnet10t",
    crops=CropSettings(crop_size=32, ignore_frame=0),
    optimization=TINY,
)
RUN = RunSettings("cpu", workers=0, quiet=True)


@pytest.fixture
def folder(tmp_path: Path, write_pair: WritePair, blobs: NDArray[np.uint8]) -> Path:
    """Four photographs of classes 0, 1 and 200, the last a corner of void."""
    for number in range(4):
        labels = blobs[number * 20 : number * 20 + 64, :80].copy()
        labels[labels == 2] = 200
        labels[:9, :9] = 255
        write_pair(tmp_path / "data", f"{number}", labels)
    return tmp_path / "data"


def logged(out: Path) -> dict[str, list[float]]:
    with (out / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["name"], []).append(float(row["value"]))
    return found


def test_cross_entropy_and_every_loss_are_minimised_together(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    short = Optimization(steps=3, batch_size=2, warmup=0, learning_rate=5e-3)
    monkeypatch.setattr(edge_training, "EDGE_OPTIMIZATION", short)
    weights = {name: weight for name, (_, weight) in LOSSES.items()}
    scores = train_segmentation(
        [DataFolder(folder)],
        tmp_path / "out",
        replace(SMALL, losses=weights),
        run=RUN,
    )
    assert scores.keys() == {"miou", "pixel_accuracy"}
    assert all(0 <= value <= 1 for value in scores.values())
    found = logged(tmp_path / "out")
    compared = {f"{name}_{what}" for name in LOSSES for what in ("share", "cosine")}
    expected = {"cross_entropy", *(f"{name}_loss" for name in LOSSES), *compared, *scores}
    assert all(value >= 0 for name in LOSSES for value in found[f"{name}_share"])
    assert all(abs(value) <= 1 + 1e-5 for name in LOSSES for value in found[f"{name}_cosine"])
    assert found.keys() >= expected
    assert all(math.isfinite(value) for values in found.values() for value in values)
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        described = json.loads(file.metadata()["segfix"])
    assert described["class_ids"] == [0, 1, 200]
    assert described["losses"] == weights
    assert described["held_out"] == 1
    # The edge network lies beside the checkpoint and is taken from there the next time.
    edge = tmp_path / "out" / "edge" / "model.safetensors"
    before = edge.stat().st_mtime_ns
    train_segmentation(
        [DataFolder(folder)],
        tmp_path / "out",
        replace(SMALL, losses=weights),
        run=replace(RUN, resume=True),
    )
    assert edge.stat().st_mtime_ns == before


def test_the_losses_get_what_the_network_and_the_crops_give(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: list[Any] = []
    monkeypatch.setattr(
        segmentation_training, "fit", lambda *given, **options: arguments.append((given, options))
    )
    train_segmentation(
        [DataFolder(folder)],
        tmp_path / "out",
        replace(
            SMALL,
            losses={"dice": 2.0, "boundary": 3.0, "level-set": 1.0},
            loss_options={"level-set": {"heaviside": "ahf"}},
        ),
        pretrained=False,
    )
    ((network, crops, compute_loss, *_), _options) = arguments[0]
    assert len(crops.sources[0].images) == 3
    batch = {key: torch.stack([crops[2][key], crops[5][key]]) for key in crops[0]}
    logits = torch.randn(2, 3, 32, 32, requires_grad=True)
    losses: dict[str, Tensor] = compute_loss(lambda _: logits, batch)
    target = batch["target"].long()
    assert losses.keys() == {"cross_entropy", "dice_loss", "boundary_loss", "level-set_loss"}
    assert float(losses["dice_loss"].detach()) == pytest.approx(
        2 * float(make_loss("dice", {})(logits, target).detach())
    )
    # Its weight rises with the share of the samples that came before: 5 of 8.
    assert float(losses["boundary_loss"].detach()) == pytest.approx(
        3 * 5 / 8 * float(make_loss("boundary", {})(logits, target).detach())
    )
    assert float(losses["level-set_loss"].detach()) == pytest.approx(
        float(make_loss("level-set", {"heaviside": "ahf"})(logits, target).detach())
    )
    assert isinstance(network, nn.Module)


def test_losses_begin_late_with_a_share_and_resume_to_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    late = replace(
        SMALL, losses={"dice": "auto:0.5"}, loss_from=2, optimization=replace(TINY, steps=6)
    )
    for out, ends in (("whole", [None]), ("parts", [1, 4, None])):
        for number, until in enumerate(ends):
            train_segmentation(
                [DataFolder(folder)],
                tmp_path / out,
                late,
                run=replace(RUN, until=until, resume=number > 0),
            )
            if until:
                assert torch.load(tmp_path / out / "state.pt", weights_only=True)["step"] == until
    check_same(tmp_path / "whole", tmp_path / "parts")
    found = logged(tmp_path / "whole")
    assert len(found["cross_entropy"]) == 6
    assert len(found["dice_loss"]) == len(found["dice_share"]) == len(found["dice_weight"]) == 4
    # With the weight, the first share is what was asked for.
    assert found["dice_share"][0] == pytest.approx(0.5, rel=1e-3)


def test_the_weight_of_a_loss_that_begins_late_is_measured_of_a_compiled_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_quickly(monkeypatch, "aot_eager")
    late = replace(SMALL, losses={"dice": "auto:0.5"}, loss_from=2)
    measured = []
    for compiled in (False, True):
        out = tmp_path / f"{compiled}"
        train_segmentation([DataFolder(folder)], out, late, run=replace(RUN, compile=compiled))
        measured.append(torch.load(out / "state.pt", weights_only=True)["auto_weights"]["dice"])
    assert measured[0] == pytest.approx(measured[1], rel=0.05)


def test_semeda_hands_options_to_the_training_of_its_edge_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def spy(*given: Any, **options: Any) -> Tensor:
        asked.append(options)
        return edge_network_loss(*given, **options)

    monkeypatch.setattr(edge_training, "edge_network_loss", spy)
    monkeypatch.setattr(edge_training, "EDGE_OPTIMIZATION", replace(TINY, steps=1))
    soft = {"semeda": {"soften": 0.5, "balanced": False, "normalized": True}}
    settings = replace(SMALL, losses={"semeda": 1.0}, loss_options=soft)
    train_segmentation([DataFolder(folder)], tmp_path / "out", settings, run=RUN)
    assert asked == [{"ignore_index": -1, "soften": 0.5, "balanced": False}]
    edges = tmp_path / "out" / "edge" / "model.safetensors"
    with pytest.raises(SegfixError, match=r"semeda\.soften is for one that is yet to be trained"):
        train_segmentation(
            [DataFolder(folder)], tmp_path / "again", settings, edge_network=edges, run=RUN
        )


def test_an_edge_network_of_other_options_is_not_gone_on_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_training, "EDGE_OPTIMIZATION", replace(TINY, steps=1))
    out = tmp_path / "out"
    soft = {"semeda": {"soften": 0.5}}
    settings = replace(SMALL, losses={"semeda": 1.0}, loss_options=soft)
    train_segmentation([DataFolder(folder)], out, settings, run=RUN)
    for name in ("state.pt", "model.safetensors", "log.csv"):
        (out / name).unlink()
    with pytest.raises(SegfixError, match=r"edge: holds a training already; --resume goes on"):
        train_segmentation([DataFolder(folder)], out, settings, run=RUN)
    again = replace(RUN, resume=True)
    with pytest.raises(SegfixError, match=r"edge.*: was trained with soften=0\.5, not 0\.0"):
        train_segmentation([DataFolder(folder)], out, replace(settings, loss_options={}), run=again)
    train_segmentation([DataFolder(folder)], out, settings, run=again)


def test_a_training_learns_what_colours_say(folder: Path, tmp_path: Path) -> None:
    scores = train_segmentation(
        [DataFolder(folder)],
        tmp_path / "out",
        SegmentationSettings(
            "fpn",
            "resnet10t",
            losses={"level-set": 0.67},
            crops=CropSettings(crop_size=64, ignore_frame=0),
            optimization=Optimization(40, 2, warmup=2, learning_rate=3e-3, ema=0.8),
        ),
        val=[folder],
        run=replace(RUN, evaluate_every=40),
    )
    assert scores["miou"] > 0.6
    network, described = load_segmenter(tmp_path / "out" / "model.safetensors")
    again = score_segmentation(
        network,
        find_labelled_images(folder),
        ClassTargets(tuple(described["class_ids"])),
        described["mean"],
        described["std"],
    )
    assert again["miou"] == pytest.approx(scores["miou"], abs=1e-6)


def test_nothing_is_begun_where_a_training_lies_or_an_option_is_wrong(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    wrong = replace(SMALL, losses={"semeda": 1.0, "epl": 1.0}, loss_options={"epl": {"width": 4}})
    with pytest.raises(SegfixError, match="odd width"):
        train_segmentation([DataFolder(folder)], out, wrong, run=RUN)
    assert not out.exists()
    out.mkdir()
    (out / "state.pt").touch()
    right = replace(SMALL, losses={"semeda": 1.0})
    with pytest.raises(SegfixError, match="holds a training already"):
        train_segmentation([DataFolder(folder)], out, right, run=RUN)
    assert not (out / "edge").exists()


def test_a_single_crop_for_a_network_that_pools_it_to_a_pixel_is_one_line(
    folder: Path, tmp_path: Path
) -> None:
    single = replace(SMALL, network="deeplabv3plus", optimization=replace(TINY, batch_size=1))
    with pytest.raises(SegfixError, match=r"deeplabv3plus: batch norm .* --batch-size 2"):
        train_segmentation([DataFolder(folder)], tmp_path / "out", single, run=RUN)


def test_stopped_in_the_edge_training_the_command_goes_on_with_resume(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Optimization(steps=4, batch_size=2, warmup=0)
    monkeypatch.setattr(edge_training, "EDGE_OPTIMIZATION", short)
    monkeypatch.setattr(loop, "SAVE_EVERY", 1)
    out = tmp_path / "out"
    semeda = replace(SMALL, losses={"semeda": 1.0})

    with monkeypatch.context() as patch:
        patch.setattr(edge_training, "edge_network_loss", stop_after(edge_network_loss, 2))
        with pytest.raises(KeyboardInterrupt):
            train_segmentation([DataFolder(folder)], out, semeda, run=RUN)
    assert (out / "edge" / "state.pt").exists()
    assert not (out / "state.pt").exists()
    train_segmentation([DataFolder(folder)], out, semeda, run=replace(RUN, resume=True))
    assert (out / "model.safetensors").exists()
    with safe_open(out / "edge" / "model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["segfix"])["step"] == 4


def test_stopped_after_the_edge_training_semeda_resumes_to_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The FPN's dropout takes the same random numbers."""
    short = Optimization(steps=2, batch_size=2, warmup=0)
    monkeypatch.setattr(edge_training, "EDGE_OPTIMIZATION", short)
    fpn = replace(SMALL, network="fpn", losses={"semeda": 1.0}, hold_out=0.0)

    def train(out: Path, *, resume: bool = False) -> None:
        train_segmentation([DataFolder(folder)], out, fpn, run=replace(RUN, resume=resume))

    def ctrl_c(*arguments: Any) -> Tensor:
        signal.raise_signal(signal.SIGINT)
        return cross_entropy(*arguments)

    train(tmp_path / "whole")
    parts = tmp_path / "parts"
    with monkeypatch.context() as patch:
        patch.setattr(segmentation_training, "cross_entropy", ctrl_c)
        with pytest.raises(KeyboardInterrupt, match="1 of 4 steps done"):
            train(parts)
    # Killed, it would have saved nothing.
    for name in ("state.pt", "model.safetensors"):
        (parts / name).unlink()
    train(parts, resume=True)
    assert (parts / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def stop_after(loss: Callable[..., Tensor], steps: int) -> Callable[..., Tensor]:
    """The loss, until Ctrl-C is pressed."""
    left = iter(range(steps))

    def stopping(*arguments: Any, **options: Any) -> Tensor:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return loss(*arguments, **options)

    return stopping


def test_an_even_share_is_held_out(folder: Path, write_pair: WritePair, tmp_path: Path) -> None:
    images = find_labelled_images(folder)
    (kept,), out = hold_out([Source(images, 2.0, 1.0)], 0.5)
    assert [image.image.stem for image in out] == ["1", "3"]
    assert [image.image.stem for image in kept.images] == ["0", "2"]
    assert (kept.weight, kept.tolerance) == (2.0, 1.0)
    (kept,), out = hold_out([Source(images)], 0.01)
    assert len(out) == 1
    (kept,), out = hold_out([Source(images)], 0.99)
    assert len(kept.images) == 1
    write_pair(tmp_path / "one", "alone", np.zeros((9, 9), np.uint8))
    with pytest.raises(PairingError, match=r"alone\.png: the only image"):
        hold_out([Source(find_labelled_images(tmp_path / "one"))], 0.1)


def test_class_ids_leave_void_out(folder: Path, write_pair: WritePair, tmp_path: Path) -> None:
    assert find_class_ids(find_labelled_images(folder)) == (0, 1, 200)
    write_pair(tmp_path / "void", "a", np.full((9, 9), 255, np.uint8))
    with pytest.raises(FileFormatError, match=r"void.labels: the label maps hold nothing but void"):
        find_class_ids(find_labelled_images(tmp_path / "void"))
    # A mask of 0 and 255, of which 255 is void unless said otherwise.
    mask = np.zeros((9, 9), np.uint8)
    mask[4:] = 255
    write_pair(tmp_path / "mask", "a", mask)
    with pytest.raises(FileFormatError, match=r"hold the one class 0; .*--void -1"):
        find_class_ids(find_labelled_images(tmp_path / "mask"))
    assert find_class_ids(find_labelled_images(tmp_path / "mask", ignore_index=-1)) == (0, 255)


def test_a_class_of_validation_alone_is_told_before_the_training(
    folder: Path, write_pair: WritePair, tmp_path: Path
) -> None:
    write_pair(tmp_path / "val", "odd", np.full((40, 40), 9, np.uint8))
    with pytest.raises(FileFormatError, match=r"odd\.png: holds the id 9, which no label map"):
        train_segmentation([DataFolder(folder)], tmp_path / "out", val=[tmp_path / "val"])
    assert not (tmp_path / "out").exists()


def test_a_class_that_is_held_out_is_a_class_all_the_same(
    write_pair: WritePair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        labels = np.zeros((40, 40), np.uint8)
        labels[:20] = 7 if number == 1 else 3
        write_pair(tmp_path / "data", f"{number}", labels)
    described: list[Any] = []
    monkeypatch.setattr(
        segmentation_training, "fit", lambda *_, **options: described.append(options["metadata"])
    )
    train_segmentation([DataFolder(tmp_path / "data")], tmp_path, SMALL)
    assert described[0]["class_ids"] == [0, 3, 7]
    assert described[0]["held_out"] == 1


def test_a_class_that_was_not_learnt_is_named_when_scored(folder: Path) -> None:
    with pytest.raises(FileFormatError, match=r"0\.png: holds the id 200, which no label map"):
        score_segmentation(
            nn.Conv2d(3, 2, 1),
            find_labelled_images(folder),
            ClassTargets((0, 1)),
            [0.5] * 3,
            [0.5] * 3,
        )


def test_an_edge_network_for_other_classes_is_refused(tmp_path: Path) -> None:
    write_checkpoint(
        tmp_path, EdgeNetwork(3), {"kind": "edge", "num_classes": 3, "step": 5, "settings": {}}
    )
    path = tmp_path / "model.safetensors"
    assert load_edge_network(path, 3).num_classes == 3
    with pytest.raises(SegfixError, match="for 3 classes, but the label maps have 4"):
        load_edge_network(path, 4)


def test_the_edge_network_learns_to_find_edges(folder: Path, tmp_path: Path) -> None:
    images = find_labelled_images(folder)
    targets = ClassTargets((0, 1, 200))
    crops = CropDataset(
        [Source(images)], 960, targets=targets, crops=CropSettings(crop_size=32, ignore_frame=0)
    )
    settings = Optimization(steps=240, batch_size=4, warmup=10, learning_rate=1e-2, ema=0.9)
    path = tmp_path / "edge" / "model.safetensors"
    train_edge_network(path, 3, crops, settings, RUN)
    network = load_edge_network(path, 3)
    target = torch.from_numpy(targets.index(images[0].read_labels()))[None]
    edges = edge_map(target, ignore_index=-1)
    maps = (
        torch.nn.functional.one_hot(target.clamp(min=0), 3).movedim(-1, 1) * (target >= 0)[:, None]
    )
    found = network(maps.float()).argmax(1)
    known = edges != 255
    assert (found == edges)[known].float().mean() > 0.97
    assert (found == 1)[edges == 1].float().mean() > 0.97


def test_label_maps_of_colours_are_classes_too(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 32:] = (10, 20, 30)
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for name in "ab":
            Image.fromarray(pixels).save(tmp_path / kind / f"{name}.png")
    assert find_class_ids(find_labelled_images(tmp_path)) == (0, 10 + 256 * 20 + 65536 * 30)
