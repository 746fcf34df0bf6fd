"""Training of segmentation networks with cross-entropy and the losses of the other papers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from segfix.errors import FileFormatError, PairingError, SegfixError
from segfix.geometry.targets import IGNORE_INDEX
from segfix.losses import (
    BoundaryLoss,
    DiceLoss,
    EdgeNetwork,
    EPLLoss,
    LevelSetLoss,
    SemedaLoss,
    SobelLoss,
    edge_network_loss,
)
from segfix.losses.level_set import LEVEL_SET_WEIGHT
from segfix.losses.semeda import SOBEL_WEIGHT
from segfix.metrics import class_iou, confusion_matrix
from segfix.training.datasets import (
    Augmentation,
    ClassTargets,
    CropDataset,
    DataFolder,
    Source,
    data_shares,
)
from segfix.training.layouts import VOID, LabelledImage, find_labelled_images
from segfix.training.loop import Settings, check_unused, fit, holds_training
from segfix.training.offset_networks import normalized, read_checkpoint
from segfix.training.segmentation_networks import (
    BACKBONE,
    NETWORK,
    Segmenter,
    picture_statistics,
    start_segmenter_from,
)

LOSSES: dict[str, tuple[Callable[..., nn.Module], float]] = {
    "level-set": (LevelSetLoss, LEVEL_SET_WEIGHT),
    "semeda": (SemedaLoss, 1.0),
    "epl": (EPLLoss, 1.0),
    "sobel": (SobelLoss, SOBEL_WEIGHT),
    "dice": (DiceLoss, 1.0),
    "boundary": (BoundaryLoss, 0.1),
}
"""What can be added to the cross-entropy, with its weight λ."""
RISING = ("boundary",)
"""Losses whose weight rises from 0 to λ during the training, as their paper has it."""
EDGE_FOLDER = "edge"
EDGE_METADATA = ("num_classes", "step")
EDGE_SETTINGS = Settings(steps=600, batch_size=6, learning_rate=5e-3, warmup=50, ema=0.99)
"""Of the training of SEMEDA's edge network, whose task is easy."""


@dataclass(frozen=True)
class SegmentationSettings:
    """What the segmentation network, its losses and its data are.

    Attributes:
        network: See `segfix.training.segmentation_networks.NETWORKS`.
        backbone: Name of a timm backbone.
        losses: Weight λ of each of `LOSSES` that is added to the cross-entropy.
        loss_options: Keyword arguments of these losses, by loss.
        crop_size: Pixels.
        hold_out: Share of the photographs that is kept for validation where there is no set for
            it.
        ignore_index: Void id of plain folders; published data sets have their own.
        ignore_frame: See `CropDataset`.
        scales: See `Augmentation`, as for the rest.
        jitter: Of light and colours.
        brightness: Of 255.
        blur: Share of crops.
        jpeg: Share of crops.
    """

    network: str = NETWORK
    backbone: str = BACKBONE
    losses: Mapping[str, float] = field(default_factory=dict)
    loss_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    crop_size: int = 256
    hold_out: float = 0.1
    ignore_index: int = IGNORE_INDEX
    ignore_frame: int = 0
    scales: tuple[float, float] = (0.5, 2.0)
    jitter: float = 0.3
    brightness: float = 0.0
    blur: float = 0.2
    jpeg: float = 0.2


def train_segmentation(
    data: Sequence[DataFolder],
    out: Path,
    *,
    val: Sequence[Path] = (),
    segmentation: SegmentationSettings | None = None,
    settings: Settings | None = None,
    pretrained: bool = False,
    init: Path | None = None,
    edge_network: Path | None = None,
    **options: Any,
) -> dict[str, float]:
    """Train a segmentation network with cross-entropy and other losses.

    Args:
        data: Folders whose training split is drawn from.
        out: Folder for checkpoint, state and log, and of SEMEDA's edge network.
        val: Folders whose validation split is scored on; without any, a share of `data` is held
            out.
        segmentation: Network, losses and data.
        settings: Of the optimisation.
        pretrained: Start from timm's ImageNet weights.
        init: Start from this checkpoint's weights.
        edge_network: Checkpoint of SEMEDA's edge network; by default one is trained in `out`.
        options: Passed on to `fit`.

    Returns:
        mIoU and pixel accuracy in [0, 1]; empty where nothing is held out.

    Raises:
        SegfixError: Data are missing or broken, or a checkpoint is of another network.
    """
    segmentation, settings = segmentation or SegmentationSettings(), settings or Settings()

    def find(folder: Path, split: str) -> list[LabelledImage]:
        return find_labelled_images(folder, split, ignore_index=segmentation.ignore_index)

    sources = [Source(find(d.path, "train"), d.weight, d.tolerance) for d in data]
    held_out = [pair for folder in val for pair in find(folder, "val")]
    class_ids = find_class_ids([pair for source in sources for pair in source.images])
    targets = ClassTargets(class_ids)
    for pair in held_out:
        check_classes(pair, pair.read_labels(), targets)
    if not val and segmentation.hold_out:
        sources, held_out = hold_out(sources, segmentation.hold_out)
    resume = options.pop("resume", False)
    if not resume:
        check_unused(out)
    torch.manual_seed(settings.seed)
    network = Segmenter(
        segmentation.network, segmentation.backbone, len(class_ids), pretrained=pretrained
    )
    if init is not None:
        start_segmenter_from(network, segmentation.network, segmentation.backbone, init)
    mean, std = picture_statistics(segmentation.backbone)
    augmentation = Augmentation(
        scales=segmentation.scales,
        jitter=segmentation.jitter,
        brightness=segmentation.brightness,
        blur=segmentation.blur,
        jpeg=segmentation.jpeg,
    )

    def crops(run: Settings, augmentation: Augmentation) -> CropDataset:
        return CropDataset(
            sources,
            run.steps * run.batch_size,
            crop_size=segmentation.crop_size,
            targets=targets,
            ignore_frame=segmentation.ignore_frame,
            augmentation=augmentation,
            seed=run.seed,
        )

    loss_options: dict[str, dict[str, Any]] = {
        name: dict(segmentation.loss_options.get(name, {})) for name in segmentation.losses
    }
    for name, given in loss_options.items():
        check_options(name, given)
    if "semeda" in segmentation.losses:
        plain = Augmentation(scales=segmentation.scales, jitter=0, blur=0, jpeg=0)
        # accelerate wants one precision in a process; this loss leaves it to itself.
        run = replace(EDGE_SETTINGS, seed=settings.seed, precision=settings.precision)
        if edge_network is None:
            edge_network = out / EDGE_FOLDER / "model.safetensors"
            shared = {k: v for k, v in options.items() if k in ("workers", "device", "quiet")}
            train_edge_network(edge_network, len(class_ids), crops(run, plain), run, **shared)
            # The same random numbers follow, whether it was trained just now or before.
            torch.manual_seed(settings.seed)
        loss_options["semeda"]["edge_network"] = load_edge_network(edge_network, len(class_ids))
    added = {name: make_loss(name, loss_options[name]) for name in segmentation.losses}
    metadata = {
        "kind": "segmentation",
        "network": segmentation.network,
        "backbone": segmentation.backbone,
        "class_ids": list(class_ids),
        "losses": dict(segmentation.losses),
        "loss_options": {
            name: {k: v for k, v in given.items() if k != "edge_network"}
            for name, given in loss_options.items()
        },
        "crop_size": segmentation.crop_size,
        "held_out": len(held_out),
        "ignore_index": segmentation.ignore_index,
        "ignore_frame": segmentation.ignore_frame,
        "scales": list(segmentation.scales),
        "jitter": segmentation.jitter,
        "brightness": segmentation.brightness,
        "blur": segmentation.blur,
        "jpeg": segmentation.jpeg,
        "mean": mean,
        "std": std,
        "data": data_shares(data),
    }

    def compute_loss(network: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logits = network(normalized(batch["image"], mean, std))
        target = batch["target"].long()
        losses = {"cross_entropy": cross_entropy(logits, target)}
        for name, loss in added.items():
            weight = segmentation.losses[name]
            if name in RISING:
                weight *= float(batch["index"].max()) / (settings.steps * settings.batch_size)
            losses[f"{name}_loss"] = weight * loss.to(logits.device)(logits, target)
        return losses

    def evaluate(network: nn.Module) -> dict[str, float]:
        return score_segmentation(network, held_out, targets, mean, std)

    return fit(
        network,
        crops(settings, augmentation),
        compute_loss,
        settings,
        out,
        metadata=metadata,
        evaluate=evaluate if held_out else None,
        resume=resume,
        **options,
    )


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the pixels that aren't void; a zero with a gradient where all are."""
    total = F.cross_entropy(logits.float(), target, ignore_index=VOID, reduction="sum")
    return total / (target != VOID).sum().clamp(min=1)


def make_loss(name: str, options: Mapping[str, Any]) -> nn.Module:
    """One of `LOSSES`, its void that of `LabelledImage`."""
    return LOSSES[name][0](ignore_index=VOID, **options)


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a loss doesn't have, or not with these values, before any work is done.

    Args:
        name: One of `LOSSES`.
        options: As the command line has them: numbers, words, true and false, tuples of numbers.

    Raises:
        SegfixError: An option is wrong.
    """
    known = {
        key: parameter.default
        for key, parameter in inspect.signature(LOSSES[name][0]).parameters.items()
        if key not in ("ignore_index", "edge_network")
    }
    for key, value in options.items():
        if key not in known:
            listed = ", ".join(known) or "none"
            raise SegfixError(f"loss {name}: no option {key!r}; it has {listed}.")
        default = known[key]
        values = value if isinstance(default, tuple) else (value,)
        wanted: tuple[type, ...]
        if isinstance(default, bool | str):
            wanted, kind = (type(default),), {bool: "true or false", str: "a word"}[type(default)]
        elif isinstance(default, int):
            wanted, kind = (int,), "a whole number"
        else:
            wanted, kind = (int, float), "a number"
        if not isinstance(values, tuple) or any(
            not isinstance(v, wanted)
            or (isinstance(v, bool) and bool not in wanted)
            or (isinstance(v, float) and not math.isfinite(v))
            for v in values
        ):
            several = f"{len(default)} numbers" if isinstance(default, tuple) else kind
            raise SegfixError(f"loss {name}: option {key} is {several}, not {value!r}.")
    try:
        needed = {"edge_network": EdgeNetwork(2)} if name == "semeda" else {}
        loss = make_loss(name, {**options, **needed})
        loss(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))
    except ValueError as error:
        raise SegfixError(f"loss {name}: {error}") from error


def hold_out(sources: Sequence[Source], share: float) -> tuple[list[Source], list[LabelledImage]]:
    """Split off a share of each source's images, evenly spread, at least one.

    Raises:
        PairingError: A source has a single image.
    """
    kept, held_out = [], []
    for source in sources:
        images = list(source.images)
        if len(images) < 2:
            raise PairingError(
                f"{images[0].image}: the only image; none can be held out for validation. Give "
                "--val, or --hold-out 0 to train without."
            )
        number = min(max(1, round(share * len(images))), len(images) - 1)
        chosen = {int((place + 0.5) * len(images) / number) for place in range(number)}
        held_out += [images[place] for place in sorted(chosen)]
        rest = [image for place, image in enumerate(images) if place not in chosen]
        kept.append(replace(source, images=rest))
    return kept, held_out


def find_class_ids(images: Sequence[LabelledImage]) -> tuple[int, ...]:
    """The ids that occur in the label maps, ascending, void left out.

    Raises:
        FileFormatError: A label map is broken, or there are fewer than two classes.
    """
    found: set[int] = set()
    for pair in images:
        found |= {int(value) for value in np.unique(pair.read_labels())}
    found.discard(VOID)
    if len(found) < 2:
        held = f"the one class {found.pop()}" if found else "nothing but void"
        raise FileFormatError(
            f"{images[0].labels.parent}: the label maps hold {held}; expected two classes or more "
            "(--void -1 where 255 is a class)."
        )
    return tuple(sorted(found))


def check_classes(pair: LabelledImage, labels: NDArray[Any], targets: ClassTargets) -> None:
    """Refuse a label map with a class that isn't learnt.

    Raises:
        FileFormatError: There is one.
    """
    unknown = np.unique(labels[(targets.index(labels) == VOID) & (labels != VOID)])
    if unknown.size:
        raise FileFormatError(
            f"{pair.labels}: holds the id {unknown[0]}, which no label map of the training data "
            "has; is it void (--void)?"
        )


@torch.inference_mode()
def score_segmentation(
    network: nn.Module,
    images: Sequence[LabelledImage],
    targets: ClassTargets,
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, float]:
    """MIoU and pixel accuracy over whole photographs.

    Raises:
        FileFormatError: A label map holds a class that the network doesn't know.
    """
    device = next(network.parameters()).device
    num_classes = len(targets.class_ids)
    counts = np.zeros((num_classes, num_classes + 1), np.int64)
    for pair in images:
        image, labels = pair.read()
        true = targets.index(labels)
        check_classes(pair, labels, targets)
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(device)
        logits = network(normalized(pixels, mean, std))
        counts += confusion_matrix(
            logits[0].argmax(0).cpu().numpy(), true, num_classes, ignore_index=VOID
        )
    iou = class_iou(counts)
    hits, total = np.diagonal(counts).sum(), counts.sum()
    return {
        "miou": float(np.nanmean(iou)) if total else 0.0,
        "pixel_accuracy": float(hits / max(1, int(total))),
    }


def train_edge_network(
    path: Path, num_classes: int, crops: CropDataset, settings: Settings, **options: Any
) -> None:
    """Train SEMEDA's edge network on label maps, unless its checkpoint is there.

    Args:
        path: Its `model.safetensors`.
        num_classes: C.
        crops: To train on.
        settings: Of its training.
        options: Passed on to `fit`.
    """
    finished = (
        path.exists() and read_checkpoint(path, "edge", EDGE_METADATA)[1]["step"] >= settings.steps
    )
    if finished:
        return

    def compute_loss(network: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        loss = edge_network_loss(network, batch["target"].long(), ignore_index=VOID)
        return {"edge_loss": loss}

    torch.manual_seed(settings.seed)
    metadata = {"kind": "edge", "num_classes": num_classes}
    network = EdgeNetwork(num_classes)
    fit(
        network,
        crops,
        compute_loss,
        settings,
        path.parent,
        metadata=metadata,
        resume=holds_training(path.parent),
        **options,
    )


def load_edge_network(path: Path, num_classes: int) -> EdgeNetwork:
    """SEMEDA's edge network from its checkpoint, frozen.

    Raises:
        SegfixError: The checkpoint is missing, of something else or for other classes.
    """
    weights, metadata = read_checkpoint(path, "edge", EDGE_METADATA)
    if metadata["num_classes"] != num_classes:
        raise SegfixError(
            f"{path}: an edge network for {metadata['num_classes']} classes, but the label maps "
            f"have {num_classes}; remove it, or name another one."
        )
    network = EdgeNetwork(num_classes)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise SegfixError(f"{path}: its weights don't fit SEMEDA's edge network.") from error
    return network.requires_grad_(requires_grad=False).eval()
