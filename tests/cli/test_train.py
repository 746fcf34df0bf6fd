"""What `segfix train` and `segfix export` hand to the trainer, which is not run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click
import pytest
from PIL import Image

from segfix.cli.train import RECIPES, train
from segfix.cli.train_options import setting_fields
from segfix.network import weights
from segfix.training import export, offset_training, segmentation_training
from segfix.training.settings import (
    Augmentation,
    CropSettings,
    DataFolder,
    Optimization,
    RunSettings,
    SegFixSettings,
    SegmentationSettings,
)
from tests.cli.commands import run

WEIGHTS = Path(__file__).parents[2] / "weights"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(
        offset_training,
        "train_segfix",
        lambda _data, _out, settings, **options: found.append({"settings": settings, **options}),
    )
    monkeypatch.chdir(tmp_path)
    return found


def test_without_a_recipe_the_defaults_are_those_of_the_library(
    calls: list[dict[str, Any]],
) -> None:
    assert run("train", "--precision", "no").exit_code == 0
    assert run("train", "--precision", "no", "--recipe", "quick").exit_code == 0
    assert calls[0] == calls[1]
    assert calls[0]["settings"] == SegFixSettings()
    assert not calls[0]["void_given"]
    assert run("train", "--void", "255").exit_code == 0
    assert calls[2]["void_given"]


@pytest.mark.parametrize("last", [False, True])
def test_the_recipe_of_the_paper_is_used_but_for_what_is_given(
    calls: list[dict[str, Any]], last: bool
) -> None:
    given = ["--steps", "7", "--scales", "0.5", "2", "--no-class-weights"]
    recipe = ["--recipe", "paper"]
    assert run("train", "--precision", "no", *recipe).exit_code == 0
    assert run("train", *(given + recipe if last else recipe + given)).exit_code == 0
    assert calls[0]["settings"] == SegFixSettings(
        class_weights=True,
        crops=CropSettings(512, augmentation=Augmentation((1, 1), 0, 10, 0, 0)),
        optimization=Optimization(80_000, 16, "sgd", 0.04, 5e-4, warmup=0, ema=0),
    )
    settings = calls[1]["settings"]
    assert (settings.optimization.steps, settings.optimization.batch_size) == (7, 16)
    augmentation = settings.crops.augmentation
    assert (augmentation.scales, settings.class_weights, augmentation.blur) == ((0.5, 2), False, 0)


def test_a_recipe_is_nothing_but_values_of_options() -> None:
    names = {parameter.name for parameter in train.params}
    for recipe in RECIPES.values():
        assert recipe.keys() <= names


@pytest.mark.parametrize("settings", [SegFixSettings, RunSettings])
def test_every_setting_is_an_option_with_its_default_and_its_help(settings: type) -> None:
    options = {parameter.name: parameter for parameter in train.params}
    found = setting_fields(settings)
    assert len(found) >= 5
    for field, _ in found:
        option = options[field.name]
        assert isinstance(option, click.Option)
        assert (option.default, option.help) == (field.default, field.metadata["text"])


def test_an_unknown_recipe_is_a_usage_error(calls: list[dict[str, Any]]) -> None:
    result = run("train", "--recipe", "secret")
    assert result.exit_code == 2
    assert "'quick', 'paper'" in result.stderr


def test_training_starts_from_shipped_weights_by_name_or_from_a_file(
    calls: list[dict[str, Any]],
) -> None:
    Path("mine.safetensors").write_bytes(b"")
    for init in ("hrnet_w18_small", "hrnet_lite0", "mine.safetensors"):
        assert run("train", "--init", init).exit_code == 0
    assert run("train").exit_code == 0
    assert run("train", "--init", "hrnet_lite0", "--backbone", "hrnet_w18").exit_code == 0
    assert [(call["init"], call["settings"].backbone) for call in calls] == [
        (WEIGHTS / "hrnet_w18_small.safetensors", "hrnet_w18_small"),
        (WEIGHTS / "hrnet_lite0.safetensors", "hrnet_lite0"),
        (Path("mine.safetensors"), "hrnet_w18_small"),
        (None, "hrnet_w18_small"),
        (WEIGHTS / "hrnet_lite0.safetensors", "hrnet_w18"),
    ]


def test_the_share_of_predictions_reaches_the_training(calls: list[dict[str, Any]]) -> None:
    assert run("train", "--backbone", "hrnet_lite1", "--predicted", "0.5").exit_code == 0
    assert run("train", "--backbone", "hrnet_lite1").exit_code == 0
    assert [call["settings"].predicted for call in calls] == [0.5, 0.75]
    assert run("train", "--predicted", "1.5").exit_code == 2


def test_a_checkpoint_that_is_not_there_is_one_line(calls: list[dict[str, Any]]) -> None:
    result = run("train", "--init", "nowhere")
    assert (result.exit_code, calls) == (1, [])
    assert result.stderr.startswith("segfix: nowhere: no such checkpoint")
    assert result.stderr.count("\n") == 1


def test_weights_lists_every_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    shutil.copy(WEIGHTS / "SHA256SUMS", tmp_path / "weights")
    for name in (weights.DEFAULT_WEIGHTS, "strong"):
        shutil.copy(
            WEIGHTS / f"{weights.DEFAULT_WEIGHTS}.onnx", tmp_path / "weights" / f"{name}.onnx"
        )
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "segfix/network/weights.py"))
    result = run("weights")
    assert result.exit_code == 0
    for name in (weights.DEFAULT_WEIGHTS, "strong"):
        assert str(tmp_path / "weights" / f"{name}.onnx") in result.stdout
    assert result.stdout.count("(default)") == 1


def test_weights_tells_what_8_bits_cost() -> None:
    lines = run("weights", "hrnet_w18_small_int8").stdout.splitlines()
    assert any("int8, 1.9 MB" in line for line in lines)
    told = [line for line in lines if line.startswith("  int8 on camvid/val: mask F ")]
    assert len(told) == 1
    assert "(fp32 77.0)" in told[0]


@pytest.mark.parametrize(
    ("flags", "precision"),
    [([], "fp32"), (["--fp16"], "fp16"), (["--int8", "--calibrate", "."], "int8")],
)
def test_export_takes_the_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], precision: str
) -> None:
    taken: list[dict[str, Any]] = []

    def spy(*_: object, **options: Any) -> dict[str, Any]:
        taken.append(options)
        return {"precision": precision}

    monkeypatch.setattr(export, "export_onnx", spy)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert run("export", str(tmp_path / "model.safetensors"), *flags).exit_code == 0
    assert taken[0]["precision"] == precision


@pytest.mark.parametrize(("quiet", "conditioned"), [(False, False), (True, False), (False, True)])
def test_export_tells_what_8_bits_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool, conditioned: bool
) -> None:
    before = {"mask_f": 0.7712, "direction_accuracy": 0.5612}
    if conditioned:
        seen = {"conditioned_mask_f": 0.9, "conditioned_direction_accuracy": 0.61}
        before |= {**seen, "wrong_auc": 0.8251}
    scores = {"camvid/val": {"fp32": before, "int8": {**before, "mask_f": 0.7644}}}
    metadata = {"precision": "int8", "precision_scores": scores}
    monkeypatch.setattr(export, "export_onnx", lambda *_, **__: metadata)
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.write_bytes(b"")
    flags = ["--int8", "--calibrate", str(tmp_path), *(["-q"] if quiet else [])]
    lines = run("export", str(checkpoint), *flags).stdout.splitlines()
    assert lines[0] == str(tmp_path / "model.onnx")
    told = "  camvid/val: mask F 76.4 (fp32 77.1), direction accuracy 56.1% (fp32 56.1%)"
    if conditioned:
        told += ", with predictions mask F 90.0 (fp32 90.0), direction accuracy 61.0% (fp32 61.0%)"
        told += ", wrong labels told from right ones 82.5% (fp32 82.5%)"
    assert lines[1:] == ([] if quiet else [told])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--int8"], "--int8 needs --calibrate DATA"),
        (["--int8", "--fp16", "--calibrate", "."], "--fp16 and --int8 exclude each other"),
    ],
)
def test_8_bits_without_data_or_with_16_are_usage_errors(
    tmp_path: Path, flags: list[str], said: str
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    result = run("export", str(tmp_path / "model.safetensors"), *flags)
    assert result.exit_code == 2
    assert said in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.fixture
def segmentations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def spy(data: Any, out: Path, settings: SegmentationSettings, **options: Any) -> None:
        found.append({"data": data, "out": out, "settings": settings, **options})

    monkeypatch.setattr(segmentation_training, "train_segmentation", spy)
    monkeypatch.chdir(tmp_path)
    return found


def test_a_bare_loss_trains_the_default_network_of_the_library(
    segmentations: list[dict[str, Any]],
) -> None:
    result = run("train", "--loss", "level-set", "--precision", "no")
    assert result.exit_code == 0
    assert result.stdout == f"{Path('runs/segmentation/model.safetensors')}\n"
    (call,) = segmentations
    assert call["data"] == (DataFolder(Path()),)
    assert call["settings"] == SegmentationSettings(losses={"level-set": 0.67})
    assert (call["val"], call["edge_network"], call["init"]) == ((), None, None)


def test_losses_are_combined_weighed_and_set(segmentations: list[dict[str, Any]]) -> None:
    run(
        *("train", "--loss", "epl", "--loss", "semeda", "--weight", "epl=0.5", "--precision", "no"),
        *("--loss-option", "epl.width=11", "--loss-option", "epl.splitter=B"),
        *("--loss-option", "epl.point-weight=0.3", "--loss-option", "semeda.weights=2,4,0"),
        *("--network", "unet", "--backbone", "resnet50", "-o", "here", "--hold-out", "0.2"),
    )
    (call,) = segmentations
    assert call["out"] == Path("here")
    assert call["settings"] == SegmentationSettings(
        network="unet",
        backbone="resnet50",
        losses={"epl": 0.5, "semeda": 1.0},
        loss_options={
            "epl": {"width": 11, "splitter": "B", "point_weight": 0.3},
            "semeda": {"weights": (2, 4, 0)},
        },
        hold_out=0.2,
    )


@pytest.mark.parametrize("option", ["--weight", "--loss-weight"])
def test_weights_may_be_shares_and_of_all_losses(
    segmentations: list[dict[str, Any]], option: str
) -> None:
    losses = ("train", "--loss", "epl", "--loss", "dice", "--precision", "no")
    assert run(*losses, option, "auto:0.3", "--loss-from", "40").exit_code == 0
    assert run(*losses, option, "auto:0.3", option, "dice=2").exit_code == 0
    first, second = (call["settings"] for call in segmentations)
    assert first.losses == {"epl": "auto:0.3", "dice": "auto:0.3"}
    assert (first.loss_from, second.loss_from) == (40, None)
    assert second.losses == {"epl": "auto:0.3", "dice": 2.0}


def test_pretrained_weights_are_of_imagenet_or_of_a_file(
    segmentations: list[dict[str, Any]], calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "own.pth").touch()
    for loss, found in (("epl", segmentations), ("segfix", calls)):
        for given in ([], ["--pretrained"], ["--pretrained", "own.pth"], ["--from-scratch"]):
            assert run("train", "--loss", loss, *given, "--precision", "no").exit_code == 0
        expected = [False, True, Path("own.pth"), False]
        assert [call["pretrained"] for call in found] == expected
    result = run("train", "--pretrained", "none.pth")
    assert result.exit_code == 2
    assert "none.pth: no such file" in result.stderr


def test_cross_entropy_alone_is_a_loss(segmentations: list[dict[str, Any]]) -> None:
    assert run("train", "--loss", "cross-entropy").exit_code == 0
    assert segmentations[0]["settings"].losses == {}


def test_the_recipe_of_the_papers_differs_for_segmentation(
    segmentations: list[dict[str, Any]],
) -> None:
    for order in (["--loss", "epl", "--recipe", "paper"], ["--recipe", "paper", "--loss", "epl"]):
        assert run("train", *order, "--precision", "no", "--batch-size", "4").exit_code == 0
    first, second = segmentations
    assert first == second
    settings, crops = first["settings"].optimization, first["settings"].crops
    assert (settings.optimizer, settings.learning_rate, settings.steps) == ("sgd", 0.01, 30_000)
    assert (settings.batch_size, crops.crop_size, crops.ignore_frame) == (4, 512, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss", "segfix", "--loss", "epl"], "train them one after the other"),
        (["--loss", "epl", "--num-directions", "4"], "--num-directions belongs to --loss segfix"),
        (["--loss", "epl", "--predicted", "0.5"], "--predicted belongs to --loss segfix"),
        (["--network", "unet"], "--network belongs to the other losses"),
        (["--loss", "epl", "--weight", "dice=1"], "no --loss dice"),
        (["--loss", "epl", "--weight", "epl=much"], "write NAME=λ"),
        (["--loss", "epl", "--weight", "epl=-1"], "λ 0 or more"),
        (["--loss", "epl", "--weight", "auto:0"], "SHARE above 0"),
        (["--loss", "epl", "--weight", "epl=auto"], "write NAME=λ or NAME=auto:SHARE"),
        (["--loss-from", "9"], "--loss-from belongs to the other losses"),
        (["--loss", "epl", "--loss-from", "9", "--steps", "9"], "9 is never reached"),
        (["--freeze-norm-from", "99999"], "never reached, as the training has 10000 steps"),
        (["--loss", "epl", "--edge-network", __file__], "no effect without --loss semeda"),
        (["--loss", "cross-entropy", "--weight", "auto:1"], "--weight has no effect without"),
        (["--loss", "cross-entropy", "--loss-from", "9"], "--loss-from has no effect without"),
        (["--loss", "epl", "--weight", "eppel=1"], "'eppel=1': write NAME=λ"),
        (["--loss", "epl", "--loss-option", "width=3"], "such as epl.width=11"),
        (["--loss", "epl", "--loss-option", "epl.width"], "such as epl.width=11"),
        (["--loss", "focal"], "'focal' is not one of 'segfix', 'cross-entropy'"),
    ],
)
def test_losses_that_make_no_sense_are_usage_errors(
    segmentations: list[dict[str, Any]], arguments: list[str], message: str
) -> None:
    result = run("train", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not segmentations


def test_an_option_that_the_loss_refuses_is_one_line(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for name in "ab":
            picture = Image.new("L", (40, 40))
            picture.paste(1, (0, 0, 20, 20))
            picture.save(tmp_path / kind / f"{name}.png")
    out = ["--data", str(tmp_path), "-o", str(tmp_path / "out")]
    for option, message in (
        ("epl.width=4", "loss epl: Expected an odd width of 3 or more but got 4"),
        ("epl.power=3", "loss epl: Expected an even power μ of 2 or more but got 3"),
        ("epl.norm=3", "loss epl: Expected norm to be one of 1, 2 but got 3"),
        ("epl.colour=3", "colour"),
    ):
        result = run("train", "--loss", "epl", "--loss-option", option, *out)
        assert result.exit_code == 1
        assert result.stderr.startswith("segfix: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out" / "model.safetensors").exists()
