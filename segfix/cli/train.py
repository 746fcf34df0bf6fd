"""segfix train."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from segfix.cli import options

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
    "quick": {"out": "runs/segmentation", "backbone": "resnet18", "ignore_frame": 0},
    "paper": {
        "learning_rate": 0.01,
        "weight_decay": 1e-4,
        "steps": 30_000,
        "scales": (0.5, 2.0),
        "brightness": 0.0,
    },
}
"""What differs where a segmentation network is trained."""

LOSSES = ("cross-entropy", "level-set", "semeda", "epl", "dice", "boundary", "sobel")
OF_SEGFIX = ("instances", "class_weights", "num_directions", "boundary_width", "predicted")
OF_SEGMENTATION = ("network", "loss_weights", "loss_options", "hold_out", "edge_network")


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
    """Whether the SegFix network is trained; refuses options of the other kind."""
    alone = "segfix" in losses
    if alone and len(set(losses)) > 1:
        raise click.UsageError(
            "--loss segfix trains the SegFix network, the others a segmentation network; "
            "train them one after the other."
        )
    if given := options.first_given(*(OF_SEGMENTATION if alone else OF_SEGFIX)):
        kind = "the other losses" if alone else "--loss segfix"
        raise click.UsageError(f"{given} belongs to {kind}.")
    return alone


def parse_weights(
    _: click.Context, __: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    """NAME=λ to a dictionary."""
    weights = {}
    for value in values:
        name, _sign, number = value.partition("=")
        try:
            weights[name] = float(number)
        except ValueError:
            weights[name] = math.nan
        if name not in LOSSES[1:] or not 0 <= weights[name] < math.inf:
            raise click.BadParameter(
                f"{value!r}: write NAME=λ, NAME one of {', '.join(LOSSES[1:])}, λ 0 or more."
            )
    return weights


def parse_options(
    _: click.Context, __: click.Parameter, values: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """NAME.KEY=VALUE to dictionaries; values are numbers, lists of them with commas, or words."""
    options: dict[str, dict[str, Any]] = {}
    for value in values:
        where, equals, text = value.partition("=")
        name, dot, key = where.partition(".")
        if not (equals and dot and key and text) or name not in LOSSES[1:]:
            raise click.BadParameter(
                f"{value!r}: write NAME.KEY=VALUE, such as epl.width=11; NAME is one of "
                f"{', '.join(LOSSES[1:])}."
            )
        parts = tuple(parse_value(part) for part in text.split(","))
        key = key.replace("-", "_")
        options.setdefault(name, {})[key] = parts if len(parts) > 1 else parts[0]
    return options


def parse_value(text: str) -> int | float | bool | str:
    """A number, true or false, or the word itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@click.command()
@click.option(
    "--loss",
    "losses",
    type=click.Choice(["segfix", *LOSSES]),
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
    "loss_weights",
    multiple=True,
    metavar="NAME=λ",
    callback=parse_weights,
    help="Weight of a loss beside the cross-entropy; repeatable. [default: level-set 0.67, "
    "sobel 4, boundary 0.1, the others 1]",
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
@click.option(
    "--network",
    default="fpn",
    show_default=True,
    help="Segmentation network: one of segmentation-models-pytorch (unet, unetplusplus, fpn, "
    "pspnet, deeplabv3, deeplabv3plus, upernet, linknet, manet, pan, segformer), fcn32s, fcn16s, "
    "fcn8s, deeplab-largefov, hrnet.",
)
@click.option(
    "--data",
    "data",
    type=options.DataFolder(),
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
@click.option(
    "--instances/--no-instances",
    default=False,
    show_default=True,
    help="Boundaries between instances of a class, too, from instances/ or the data set's own "
    "instance maps.",
)
@click.option(
    "--hold-out",
    type=options.FiniteRange(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of the photographs to score a segmentation network on where no --val is given.",
)
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
@click.option(
    "--backbone",
    default="hrnet_w18_small",
    show_default=True,
    help="HRNet by its name in timm: hrnet_w18_small, hrnet_w18, hrnet_w32, hrnet_w48; or with a "
    "branch at stride 2: hrnet_w18_small_2x, hrnet_w18_2x, hrnet_w20_2x; hrnet_lite0, "
    "hrnet_lite1 and hrnet_lite2 fuse features of EfficientNet-Lite and also look at the "
    "prediction. For a segmentation "
    "network any backbone of timm; default there: resnet18.",
)
@click.option(
    "--pretrained/--from-scratch",
    default=False,
    show_default=True,
    help="Start from ImageNet weights: for hrnet_lite0 to 2 those of the extra imagenet if it is "
    "installed, else timm's (downloaded once).",
)
@click.option(
    "--predicted",
    type=options.FiniteRange(0, 1),
    default=0.75,
    show_default=True,
    help="Share of crops that hrnet_lite0 to 2 see together with a prediction, which is made from "
    "the labels.",
)
@click.option(
    "--init",
    metavar="NAME|FILE",
    help="Start from shipped weights by name, or from a checkpoint (model.safetensors).",
)
@click.option(
    "--steps", type=click.IntRange(1), default=10_000, show_default=True, help="Optimizer steps."
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=6, show_default=True, help="Crops per step."
)
@click.option(
    "--crop-size",
    type=click.IntRange(32),
    default=256,
    show_default=True,
    help="Side of a crop in pixels, a multiple of 32.",
)
@click.option(
    "--optimizer",
    type=click.Choice(["adamw", "sgd"]),
    default="adamw",
    show_default=True,
    help="Optimizer; sgd has momentum 0.9.",
)
@click.option(
    "--lr",
    "learning_rate",
    type=options.FiniteRange(0, min_open=True),
    default=2e-3,
    show_default=True,
    help="Peak learning rate.",
)
@click.option(
    "--weight-decay",
    type=options.FiniteRange(0),
    default=0.01,
    show_default=True,
    help="Weight decay.",
)
@click.option(
    "--warmup",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    help="Steps over which the learning rate rises.",
)
@click.option(
    "--ema",
    type=options.FiniteRange(0, 1, max_open=True),
    default=0.999,
    show_default=True,
    help="Decay of the average of the weights that is saved.",
)
@click.option(
    "--class-weights/--no-class-weights",
    default=False,
    show_default=True,
    help="Weigh rare classes and sectors more, as the released code does.",
)
@options.num_directions
@options.boundary_width
@options.void
@click.option(
    "--ignore-frame",
    type=click.IntRange(0),
    default=4,
    show_default=True,
    help="Pixels cut off at the frame of each photograph, where labels are often wrong; default "
    "of segmentation networks: 0.",
)
@click.option(
    "--scales",
    type=(options.FiniteRange(0, min_open=True), options.FiniteRange(0, min_open=True)),
    default=(0.5, 2.0),
    show_default=True,
    metavar="MIN MAX",
    help="Range of the random factor on the size of a photograph.",
)
@click.option(
    "--jitter",
    type=options.FiniteRange(0, 1, max_open=True),
    default=0.3,
    show_default=True,
    help="Largest relative change of brightness, contrast, saturation and gamma.",
)
@click.option(
    "--brightness",
    type=options.FiniteRange(0, 255),
    default=0.0,
    show_default=True,
    help="Largest value, of 255, added to or taken from all pixels.",
)
@click.option(
    "--blur",
    type=options.FiniteRange(0, 1),
    default=0.2,
    show_default=True,
    help="Share of crops that are blurred.",
)
@click.option(
    "--jpeg",
    type=options.FiniteRange(0, 1),
    default=0.2,
    show_default=True,
    help="Share of crops that are compressed.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "no", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="Mixed precision; auto takes what the hardware computes in.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to train.",
)
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads of the network. [default: all]"
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Processes that make batches.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of initialisation and data.",
)
@click.option(
    "--val-every",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Steps between two scorings on --val.",
)
@click.option("--resume", is_flag=True, help="Go on where the training in --out stopped, or begin.")
@click.option("--tensorboard", is_flag=True, help="Also log for TensorBoard.")
@options.quiet
def train(
    losses: tuple[str, ...],
    loss_weights: dict[str, float],
    loss_options: dict[str, dict[str, Any]],
    network: str,
    hold_out: float,
    edge_network: Path | None,
    data: tuple[tuple[Path, float, float, float], ...],
    val: tuple[Path, ...],
    instances: bool,
    out: Path,
    backbone: str,
    pretrained: bool,
    predicted: float,
    init: str | None,
    steps: int,
    batch_size: int,
    crop_size: int,
    optimizer: str,
    learning_rate: float,
    weight_decay: float,
    warmup: int,
    ema: float,
    class_weights: bool,
    num_directions: str,
    boundary_width: int,
    ignore_index: int,
    ignore_frame: int,
    scales: tuple[float, float],
    jitter: float,
    brightness: float,
    blur: float,
    jpeg: float,
    precision: str,
    device: str,
    threads: int | None,
    workers: int,
    seed: int,
    val_every: int,
    resume: bool,
    tensorboard: bool,
    quiet: bool,
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
    if crop_size % 32:
        raise click.BadParameter(f"{crop_size} is not a multiple of 32.", param_hint="--crop-size")
    if scales[0] > scales[1]:
        raise click.BadParameter("write the smaller one first.", param_hint="--scales")
    added = [name for name in dict.fromkeys(losses) if name not in ("segfix", "cross-entropy")]
    for name in (*loss_weights, *loss_options):
        if name not in added:
            raise click.UsageError(f"{name} has an option or a weight, but no --loss {name}.")
    from segfix.network.weights import find_checkpoint

    with options.missing_extra("train"):
        import accelerate
        import torch

        from segfix.training.datasets import DataFolder
        from segfix.training.loop import Settings, best_precision
        from segfix.training.offset_training import SegFixSettings, train_segfix
        from segfix.training.segmentation_training import LOSSES as ADDED
        from segfix.training.segmentation_training import SegmentationSettings, train_segmentation

    if threads is not None:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    folders = [DataFolder(*parts) for parts in data]
    settings = Settings(
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup=warmup,
        ema=ema,
        precision=best_precision(device) if precision == "auto" else precision,
        seed=seed,
    )
    shared: dict[str, Any] = {
        "crop_size": crop_size,
        "ignore_index": ignore_index,
        "ignore_frame": ignore_frame,
        "scales": scales,
        "jitter": jitter,
        "brightness": brightness,
        "blur": blur,
        "jpeg": jpeg,
    }
    run: dict[str, Any] = {
        "val": val,
        "settings": settings,
        "pretrained": pretrained,
        "init": None if init is None else find_checkpoint(init),
        "evaluate_every": val_every,
        "workers": workers,
        "device": device,
        "resume": resume,
        "tensorboard": tensorboard,
        "quiet": quiet,
    }
    if of_segfix:
        segfix = SegFixSettings(
            backbone=backbone,
            num_directions=int(num_directions),
            boundary_width=boundary_width,
            class_weights=class_weights,
            instances=instances,
            predicted=predicted,
            **shared,
        )
        train_segfix(folders, out, segfix=segfix, **run)
    else:
        segmentation = SegmentationSettings(
            network=network,
            backbone=backbone,
            losses={name: loss_weights.get(name, ADDED[name][1]) for name in added},
            loss_options=loss_options,
            hold_out=hold_out,
            **shared,
        )
        train_segmentation(
            folders, out, segmentation=segmentation, edge_network=edge_network, **run
        )
    if accelerate.PartialState().is_main_process:
        click.echo(str(out / "model.safetensors"))
