"""segfix train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from segfix.cli import options
from segfix.cli.train_options import (
    ADDED_LOSSES,
    DataFolderType,
    make_settings,
    parse_options,
    parse_weights,
    setting_options,
)
from segfix.errors import require_extra
from segfix.training.settings import (
    CropSettings,
    DataFolder,
    Optimization,
    RunSettings,
    SegFixSettings,
    SegmentationSettings,
)

RECIPES: dict[str, dict[str, object]] = {
    "quick": {},
    "paper": {
        "optimizer": "sgd",
        "learning_rate": 0.04,
        "weight_decay": 5e-4,
        "warmup": 0,
        "ema": 0.0,
        "crop_size": 512,
        "batch_size": 16,
        "steps": 80_000,
        "class_weights": True,
        "scales": (1.0, 1.0),
        "jitter": 0.0,
        "brightness": 10.0,
        "blur": 0.0,
        "jpeg": 0.0,
    },
}
"""Other defaults of the options; quick is the options' own."""

SEGMENTATION: dict[str, dict[str, object]] = {
    "quick": {
        "out": "runs/segmentation",
        "backbone": SegmentationSettings.backbone,
        "ignore_frame": SegmentationSettings().crops.ignore_frame,
    },
    "paper": {
        "learning_rate": 0.01,
        "weight_decay": 1e-4,
        "steps": 30_000,
        "scales": (0.5, 2.0),
        "brightness": 0.0,
    },
}
"""What differs where a segmentation network is trained."""

OF_SEGFIX = ("instances", "class_weights", "num_directions", "boundary_width", "predicted")
OF_SEGMENTATION = (
    *("network", "loss_weights", "loss_options", "loss_from"),
    *("hold_out", "edge_network"),
)


def set_defaults(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Replace defaults by loss and recipe; what the user gives still wins."""
    ctx.meta[f"segfix.{param.name}"] = value
    names, recipe = (ctx.meta.get(f"segfix.{key}") for key in ("losses", "recipe"))
    if names and recipe:
        defaults = RECIPES[recipe]
        if "segfix" not in names:
            defaults = {**SEGMENTATION["quick"], **defaults, **SEGMENTATION[recipe]}
        ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return value


def check_kind(losses: Sequence[str]) -> bool:
    """Tell whether the SegFix network is trained; refuse options that belong to other losses."""
    alone = "segfix" in losses
    if alone and len(set(losses)) > 1:
        raise click.UsageError(
            "--loss segfix trains the SegFix network, the others a segmentation network; "
            "train them one after the other."
        )
    if given := options.first_given(*(OF_SEGMENTATION if alone else OF_SEGFIX)):
        kind = "the other losses" if alone else "--loss segfix"
        raise click.UsageError(f"{given} belongs to {kind}.")
    if "semeda" not in losses and options.first_given("edge_network"):
        raise click.UsageError("--edge-network has no effect without --loss semeda.")
    bare = set(losses) == {"cross-entropy"}
    if bare and (given := options.first_given("loss_weights", "loss_from")):
        raise click.UsageError(f"{given} has no effect without a loss beside the cross-entropy.")
    return alone


def check_values(losses: Sequence[str], given: Mapping[str, Any]) -> None:
    """Refuse values that fit their options, but not each other or the networks."""
    if given["crop_size"] % 32:
        raise click.BadParameter(
            f"{given['crop_size']} is not a multiple of 32.", param_hint="--crop-size"
        )
    if given["scales"][0] > given["scales"][1]:
        raise click.BadParameter("write the smaller one first.", param_hint="--scales")
    for name in (*given["loss_weights"], *given["loss_options"]):
        if name and name not in losses:
            raise click.UsageError(f"{name} has an option or a weight, but no --loss {name}.")
    for name, flag in (("loss_from", "--loss-from"), ("freeze_norm_from", "--freeze-norm-from")):
        if (given[name] or 0) >= given["steps"]:
            raise click.BadParameter(
                f"{given[name]} is never reached, as the training has {given['steps']} steps "
                "(--steps).",
                param_hint=flag,
            )


def read_pretrained(given: Mapping[str, Any]) -> bool | Path:
    """Turn what follows --pretrained into what the trainer takes."""
    named = None if given["from_scratch"] else given["pretrained"]
    if named in (None, "imagenet"):
        return named is not None
    if not Path(named).is_file():
        raise click.BadParameter(f"{named}: no such file.", param_hint="--pretrained")
    return Path(named)


@click.command()
@click.option(
    "--loss",
    "losses",
    type=click.Choice(["segfix", "cross-entropy", *ADDED_LOSSES]),
    multiple=True,
    default=["segfix"],
    show_default=True,
    is_eager=True,
    callback=set_defaults,
    help="What to train: segfix is the boundary and direction network; any other trains a "
    "segmentation network with cross-entropy and that loss; repeatable.",
)
@click.option(
    "--weight",
    "--loss-weight",
    "loss_weights",
    multiple=True,
    metavar="[NAME=]λ",
    callback=parse_weights,
    help="Weight of a loss beside the cross-entropy, or of all that have none; auto:0.3 makes its "
    "gradient by the network's weights 0.3 of cross-entropy's, measured over its first 20 steps; "
    "repeatable. That of boundary rises to it from 0. [default: level-set 0.67, sobel 4, "
    "boundary 0.1, the others 1]",
)
@click.option(
    "--loss-option",
    "loss_options",
    multiple=True,
    metavar="NAME.KEY=VALUE",
    callback=parse_options,
    help="Option of a loss by its name in Python, such as epl.width=11, epl.splitter=B, "
    "level-set.heaviside=ahf, semeda.weights=2,4,0; repeatable.",
)
@setting_options(SegmentationSettings, "loss_from", "network")
@click.option(
    "--data",
    "data",
    type=DataFolderType(),
    multiple=True,
    default=["."],
    show_default=True,
    help="Folder with images/ and labels/, or the training split of Cityscapes, ADE20K, Pascal VOC "
    "or CamVid as published (these have their own void, not --void). Repeat it to mix data sets, "
    "each drawn by its weight (DIR:2.5); of labels that miss the true boundaries by up to 2 px, "
    "directions within 2 px of them are left out with DIR:2.5:2; where one object alone is "
    "labelled, DIR:1:0:15 learns what is a boundary only within 15 px of its own.",
)
@click.option(
    "--val",
    "val",
    type=options.existing_folder,
    multiple=True,
    help="Folder with images/ and labels/, or the validation split of a published data set, to "
    "score on while training; repeatable.",
)
@setting_options(SegmentationSettings, "hold_out")
@click.option(
    "--edge-network",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="SEMEDA's edge network of another training (edge/model.safetensors). [default: train one]",
)
@click.option(
    "--recipe",
    type=click.Choice(list(RECIPES)),
    default="quick",
    show_default=True,
    is_eager=True,
    expose_value=False,
    callback=set_defaults,
    help="Defaults of the other options: quick has those shown here, for one CPU core or more; "
    "paper has SGD, 80,000 steps of 16 crops of 512 pixels, class weights, flips and brightness "
    "only (segmentation: 30,000 steps, random scale and flips). Options given win.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/segfix"),
    show_default=True,
    help="Folder for checkpoint, state and log; segmentation: runs/segmentation.",
)
@setting_options(SegFixSettings, "backbone")
@click.option(
    "--pretrained",
    is_flag=False,
    flag_value="imagenet",
    metavar="[FILE]",
    help="Start from the backbone's ImageNet weights: for tf_efficientnet_lite0 to 2 and "
    "hrnet_lite0 to 2 those of the extra imagenet if it is installed, else timm's (downloaded "
    "once); or from a FILE of weights.",
)
@click.option(
    "--from-scratch", is_flag=True, help="Start from random weights, as without --pretrained."
)
@click.option(
    "--init",
    metavar="NAME|FILE",
    help="Start from shipped weights by name, or from a checkpoint (model.safetensors); --backbone "
    "is its own unless given.",
)
@options.num_directions
@options.boundary_width
@setting_options(SegFixSettings, "instances", "class_weights", "predicted")
@options.void
@setting_options(CropSettings)
@setting_options(Optimization)
@click.option(
    "--precision",
    type=click.Choice(["auto", "no", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="Mixed precision; auto takes what the hardware computes in.",
)
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads of the network. [default: all]"
)
@setting_options(RunSettings)
@options.quiet
def train(
    losses: tuple[str, ...],
    data: tuple[DataFolder, ...],
    out: Path,
    edge_network: Path | None,
    init: str | None,
    precision: str,
    threads: int | None,
    **given: Any,
) -> None:
    """Train a network on photographs with label maps.

    \b
    segfix train                     the SegFix network, for any model's label maps
    segfix train --loss level-set    a segmentation network; also semeda, epl, …

    Targets are made from the plain label maps on the fly. The folder given with --out receives
    model.safetensors (averaged weights, for 'segfix export' and 'segfix segment'), state.pt (to
    resume) and log.csv.
    """  # noqa: D301
    of_segfix = check_kind(losses)
    check_values(losses, given)
    from segfix.network.weights import find_checkpoint

    with require_extra("train"):
        import accelerate
        import torch

        from segfix.training.checkpoints import describe_checkpoint
        from segfix.training.loop import best_precision
        from segfix.training.offset_training import train_segfix
        from segfix.training.segmentation_losses import LOSSES
        from segfix.training.segmentation_training import train_segmentation

    if threads is not None:
        torch.set_num_threads(threads)
    if given["device"] == "auto":
        given["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "auto":
        precision = best_precision(given["device"])
    given |= {"num_directions": int(given["num_directions"]), "precision": precision}
    checkpoint = None if init is None else find_checkpoint(init)
    if checkpoint and of_segfix and not options.first_given("backbone"):
        given["backbone"] = describe_checkpoint(checkpoint).get("backbone", given["backbone"])
    shared: dict[str, Any] = {
        "val": given["val"],
        "pretrained": read_pretrained(given),
        "init": checkpoint,
        "run": make_settings(RunSettings, given),
    }
    if of_segfix:
        wanted = make_settings(SegFixSettings, given)
        train_segfix(data, out, wanted, void_given=options.is_void_given(), **shared)
    else:
        named = given["loss_weights"]
        weights = {
            name: named.get(name, named.get("", LOSSES[name][1]))
            for name in losses
            if name != "cross-entropy"
        }
        settings = make_settings(SegmentationSettings, given, losses=weights)
        train_segmentation(data, out, settings, edge_network=edge_network, **shared)
    if accelerate.PartialState().is_main_process:
        click.echo(str(out / "model.safetensors"))
