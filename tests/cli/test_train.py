"""What `segfix train` and `segfix export` hand to the trainer, which is not run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from segfix.cli import main
from segfix.cli.train import RECIPES, train
from segfix.inference import weights
from segfix.training import export, segfix
from segfix.training.loop import Settings

WEIGHTS = Path(__file__).parents[2] / "weights"


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(segfix, "train_segfix", lambda *_, **options: found.append(options))
    monkeypatch.chdir(tmp_path)
    return found


def test_without_a_recipe_the_defaults_are_those_of_the_library(
    calls: list[dict[str, Any]],
) -> None:
    assert run("train", "--precision", "no").exit_code == 0
    assert run("train", "--precision", "no", "--recipe", "quick").exit_code == 0
    assert calls[0] == calls[1]
    assert calls[0]["settings"] == Settings()
    assert calls[0]["segfix"] == segfix.SegFixSettings()


@pytest.mark.parametrize("last", [False, True])
def test_the_recipe_of_the_paper_is_used_but_for_what_is_given(
    calls: list[dict[str, Any]], last: bool
) -> None:
    given = ["--steps", "7", "--scales", "0.5", "2", "--no-class-weights"]
    recipe = ["--recipe", "paper"]
    assert run("train", "--precision", "no", *recipe).exit_code == 0
    assert run("train", *(given + recipe if last else recipe + given)).exit_code == 0
    settings, network = calls[0]["settings"], calls[0]["segfix"]
    assert settings == Settings(
        80_000, 16, "sgd", learning_rate=0.04, weight_decay=5e-4, warmup=0, ema=0, precision="no"
    )
    assert network == segfix.SegFixSettings(
        crop_size=512,
        class_weights=True,
        scales=(1, 1),
        jitter=0,
        brightness=10,
        blur=0,
        jpeg=0,
    )
    settings, network = calls[1]["settings"], calls[1]["segfix"]
    assert (settings.steps, settings.batch_size) == (7, 16)
    assert (network.scales, network.class_weights, network.blur) == ((0.5, 2), False, 0)


def test_a_recipe_is_nothing_but_values_of_options() -> None:
    names = {parameter.name for parameter in train.params}
    for recipe in RECIPES.values():
        assert recipe.keys() <= names


def test_an_unknown_recipe_is_a_usage_error(calls: list[dict[str, Any]]) -> None:
    result = run("train", "--recipe", "secret")
    assert result.exit_code == 2
    assert "'quick', 'paper'" in result.stderr


def test_training_starts_from_shipped_weights_by_name_or_from_a_file(
    calls: list[dict[str, Any]],
) -> None:
    Path("mine.safetensors").write_bytes(b"")
    for init in ("hrnet_w18_small", "mine.safetensors"):
        assert run("train", "--init", init).exit_code == 0
    assert run("train").exit_code == 0
    assert [call["init"] for call in calls] == [
        WEIGHTS / "hrnet_w18_small.safetensors",
        Path("mine.safetensors"),
        None,
    ]


def test_a_checkpoint_that_is_not_there_is_one_line(calls: list[dict[str, Any]]) -> None:
    result = run("train", "--init", "nowhere")
    assert (result.exit_code, calls) == (1, [])
    assert result.stderr.startswith("segfix: nowhere: no such checkpoint")
    assert result.stderr.count("\n") == 1


def test_weights_lists_every_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    for name in ("hrnet_w18_small", "strong"):
        shutil.copy(WEIGHTS / "hrnet_w18_small.onnx", tmp_path / "weights" / f"{name}.onnx")
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "segfix/inference/weights.py"))
    result = run("weights")
    assert result.exit_code == 0
    for name in ("hrnet_w18_small", "strong"):
        assert str(tmp_path / "weights" / f"{name}.onnx") in result.stdout
    assert result.stdout.count("(default)") == 1


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_export_takes_the_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    taken: list[dict[str, Any]] = []
    monkeypatch.setattr(export, "export_onnx", lambda *_, **options: taken.append(options))
    (tmp_path / "model.safetensors").write_bytes(b"")
    flags = ["--fp16"] if precision == "fp16" else []
    assert run("export", str(tmp_path / "model.safetensors"), *flags).exit_code == 0
    assert taken[0]["precision"] == precision
