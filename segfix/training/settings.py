"""Settings of a training, each with its default and help text in one place; needs no torch.

The command line takes its options from the fields made by `setting`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


def setting(
    default: Any, text: str, *, flag: str = "", choices: Sequence[str] = (), **limits: Any
) -> Any:
    """Declare a field that is an option of the command line, too.

    Args:
        default: The default of both.
        text: What it means, as `--help` says it.
        flag: The option, where it is not called like the field.
        choices: The words that it may be.
        limits: Of a number, as click has them: `min`, `max`, `min_open`, `max_open`, `clamp`.
    """
    return field(
        default=default,
        metadata={"text": text, "flag": flag, "choices": tuple(choices), "limits": limits},
    )


@dataclass(frozen=True)
class DataFolder:
    """A data set to train on.

    Attributes:
        path: Its folder, of a layout that `find_labelled_images` knows.
        weight: The share it is drawn with, relative to the other data sets.
        tolerance: Pixels of the photograph by which its labels may miss the true boundaries.
        near: Pixels of the photograph around labelled boundaries beyond which nothing is known of
            boundaries, as where one object alone is labelled.
    """

    path: Path
    weight: float = 1.0
    tolerance: float = 0.0
    near: float = math.inf


@dataclass(frozen=True)
class Augmentation:
    """How a crop is varied."""

    scales: tuple[float, float] = setting(
        (0.5, 2.0),
        "Range of the random factor on the size of a photograph.",
        min=0,
        min_open=True,
    )
    jitter: float = setting(
        0.3,
        "Largest relative change of brightness, contrast, saturation and gamma.",
        min=0,
        max=1,
        max_open=True,
    )
    brightness: float = setting(
        0.0, "Largest value, of 255, added to or taken from all pixels.", min=0, max=255
    )
    blur: float = setting(0.2, "Share of crops that are blurred.", min=0, max=1)
    jpeg: float = setting(0.2, "Share of crops that are compressed.", min=0, max=1)


@dataclass(frozen=True)
class CropSettings:
    """Which part of a photograph is a sample, and how it is varied.

    Attributes:
        ignore_index: Void id of plain folders; published data sets have their own.
    """

    crop_size: int = setting(256, "Side of a crop in pixels, a multiple of 32.", min=32)
    ignore_index: int = 255
    ignore_frame: int = setting(
        4,
        "Pixels cut off at the frame of each photograph, where labels are often wrong; default "
        "of segmentation networks: 0.",
        min=0,
    )
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass(frozen=True)
class Optimization:
    """How the weights are learnt.

    Attributes:
        learning_rate: Peak; it rises over `warmup` steps and falls as (1 - t)^0.9.
        batch_size: Over all processes.
        precision: "no", "bf16" or "fp16".
    """

    steps: int = setting(10_000, "Optimizer steps.", min=1)
    batch_size: int = setting(6, "Crops per step.", min=1)
    optimizer: str = setting("adamw", "Optimizer; sgd has momentum 0.9.", choices=("adamw", "sgd"))
    learning_rate: float = setting(2e-3, "Peak learning rate.", flag="--lr", min=0, min_open=True)
    weight_decay: float = setting(0.01, "Weight decay.", min=0)
    warmup: int = setting(200, "Steps over which the learning rate rises.", min=0)
    ema: float = setting(
        0.999, "Decay of the average of the weights that is saved.", min=0, max=1, max_open=True
    )
    freeze_norm_from: int | None = setting(
        None,
        "Step from which batch norm is frozen, its statistics and weights: for fine-tuning with "
        "small batches. [default: never]",
        min=0,
    )
    precision: str = "no"
    seed: int = setting(0, "Of initialisation and data.", min=0)


@dataclass(frozen=True)
class RunSettings:
    """Where and how a training runs; the network that comes of it does not depend on these.

    Attributes:
        until: Step after which to stop, so that another process goes on with `resume`.
    """

    device: str = setting("auto", "Where to train.", choices=("auto", "cpu", "cuda"))
    workers: int = setting(1, "Processes that make batches.", min=0)
    evaluate_every: int = setting(
        1000, "Steps between two scorings on --val.", flag="--val-every", min=1
    )
    resume: bool = setting(
        False,  # noqa: FBT003
        "Go on where the training in --out stopped, or begin.",
        flag="--resume",
    )
    tensorboard: bool = setting(
        False,  # noqa: FBT003
        "Also log for TensorBoard.",
        flag="--tensorboard",
    )
    compile: bool = setting(
        False,  # noqa: FBT003
        "Let torch.compile make the network faster (minutes at the start; needs a C++ compiler).",
        flag="--compile",
    )
    until: int | None = None
    quiet: bool = False


@dataclass(frozen=True)
class SegFixSettings:
    """The SegFix network, its targets and its training.

    Attributes:
        num_directions: m, one of 4, 8, 16.
        boundary_width: γ, pixels.
    """

    backbone: str = setting(
        "hrnet_w18_small",
        "HRNet by its name in timm: hrnet_w18_small, hrnet_w18, hrnet_w32, hrnet_w48; or with a "
        "branch at stride 2: hrnet_w18_small_2x, hrnet_w18_2x, hrnet_w20_2x; hrnet_lite0, "
        "hrnet_lite1 and hrnet_lite2 fuse features of EfficientNet-Lite and also look at the "
        "prediction. For a segmentation network any backbone of timm; default there: resnet18.",
    )
    num_directions: int = 8
    boundary_width: int = 5
    class_weights: bool = setting(
        False,  # noqa: FBT003
        "Weigh rare classes and sectors more, as the released code does.",
    )
    instances: bool = setting(
        False,  # noqa: FBT003
        "Boundaries between instances of a class, too, from instances/ or the data set's own "
        "instance maps.",
    )
    predicted: float = setting(
        0.75,
        "Share of crops that hrnet_lite0 to 2 see together with a prediction: their labels, "
        "perturbed, or in two fifths of them one that the data set has in preds/.",
        min=0,
        max=1,
    )
    crops: CropSettings = field(default_factory=CropSettings)
    optimization: Optimization = field(default_factory=Optimization)


@dataclass(frozen=True)
class SegmentationSettings:
    """A segmentation network, its losses and its training.

    The default network is light enough for a CPU, with an output at stride 4.

    Attributes:
        backbone: Name of a timm backbone.
        losses: Weight λ of each of `segmentation_losses.LOSSES` beside the cross-entropy, or
            "auto:SHARE", see `segfix.losses.module.LossModule`.
        loss_options: Keyword arguments of these losses, by loss.
    """

    network: str = setting(
        "fpn",
        "Segmentation network: one of segmentation-models-pytorch (unet, unetplusplus, fpn, "
        "pspnet, deeplabv3, deeplabv3plus, upernet, linknet, manet, pan, segformer), fcn32s, "
        "fcn16s, fcn8s, deeplab-largefov, hrnet.",
    )
    backbone: str = "resnet18"
    losses: Mapping[str, float | str] = field(default_factory=dict)
    loss_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    loss_from: int | None = setting(
        None,
        "Step from which the losses beside the cross-entropy count: they do most for a network "
        "that is nearly done. [default: from the beginning]",
        min=0,
    )
    hold_out: float = setting(
        0.1,
        "Share of the photographs to score a segmentation network on where no --val is given.",
        min=0,
        max=1,
        max_open=True,
    )
    crops: CropSettings = field(default_factory=lambda: CropSettings(ignore_frame=0))
    optimization: Optimization = field(default_factory=Optimization)


def describe_settings(settings: SegFixSettings | SegmentationSettings) -> dict[str, Any]:
    """List settings by name, as a checkpoint records them: all but those of the optimization."""
    values = asdict(settings)
    del values["optimization"]
    crops = values.pop("crops")
    return leave_out_none({**values, **crops.pop("augmentation"), **crops})


def leave_out_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Drop settings of None, which trainings of earlier versions don't record."""
    return {name: value for name, value in values.items() if value is not None}
