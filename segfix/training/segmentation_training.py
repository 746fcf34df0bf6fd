"""Training of segmentation networks with cross-entropy and the losses of the other papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segfix.errors import FileFormatError, PairingError, SegfixError
from segfix.losses.module import LossModule
from segfix.losses.weighting import uncompiled
from segfix.metrics import class_iou, confusion_matrix
from segfix.training import edge_training
from segfix.training.checkpoints import check_unused
from segfix.training.crop_targets import ClassTargets
from segfix.training.datasets import CropDataset, Source, find_sources, sum_shares
from segfix.training.edge_training import load_edge_network, train_edge_network
from segfix.training.layouts import VOID, LabelledImage, find_labelled_images
from segfix.training.loop import fit
from segfix.training.offset_networks import normalize_image
from segfix.training.segmentation_losses import (
    EDGE_OPTIONS,
    RISING,
    check_options,
    cross_entropy,
    make_loss,
)
from segfix.training.segmentation_networks import (
    Segmenter,
    picture_statistics,
    start_segmenter_from,
)
from segfix.training.settings import (
    Augmentation,
    DataFolder,
    RunSettings,
    SegmentationSettings,
    describe_settings,
)

EDGE_FOLDER = "edge"


def train_segmentation(
    data: Sequence[DataFolder],
    out: Path,
    settings: SegmentationSettings | None = None,
    *,
    val: Sequence[Path] = (),
    pretrained: bool | Path = False,
    init: Path | None = None,
    edge_network: Path | None = None,
    run: RunSettings | None = None,
) -> dict[str, float]:
    """Train a segmentation network with cross-entropy and other losses.

    Args:
        data: Folders whose training split is drawn from.
        out: Folder for checkpoint, state and log, and of SEMEDA's edge network.
        settings: Network, losses, data and optimisation.
        val: Folders whose validation split is scored on; without any, a share of `data` is held
            out.
        pretrained: Start from the backbone's ImageNet weights, or from a file of weights.
        init: Start from this checkpoint's weights.
        edge_network: Checkpoint of SEMEDA's edge network; by default one is trained in `out`.
        run: See `fit`.

    Returns:
        mIoU and pixel accuracy in [0, 1]; empty where nothing is held out.

    Raises:
        SegfixError: Data are missing or broken, or a checkpoint is of another network.
    """
    settings, run = settings or SegmentationSettings(), run or RunSettings()
    images = find_images(data, val, settings)
    if not run.resume:
        check_unused(out)
        check_unused(out / "edge")
    torch.manual_seed(settings.optimization.seed)
    num_classes = len(images.targets.class_ids)
    network = Segmenter(settings.network, settings.backbone, num_classes, pretrained=pretrained)
    if init is not None:
        start_segmenter_from(network, settings.network, settings.backbone, init)
    mean, std = picture_statistics(settings.backbone)
    losses = make_losses(settings, images, edge_network, out, run)
    evaluate = partial(
        score_segmentation, images=images.held_out, targets=images.targets, mean=mean, std=std
    )
    try:
        return fit(
            network,
            make_crops(images, settings),
            partial(compute_losses, settings=settings, losses=losses, mean=mean, std=std),
            settings.optimization,
            out,
            metadata=describe_training(settings, images, data, mean, std),
            evaluate=evaluate if images.held_out else None,
            run=run,
            reference="cross_entropy",
            auto_weights={name: loss.auto for name, loss in losses.items() if loss.auto},
        )
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        # Where a network pools each crop to one pixel, as DeepLab does.
        raise SegfixError(
            f"{settings.network}: batch norm has no statistics of a single crop; --batch-size 2, "
            "or --freeze-norm-from 0."
        ) from error


@dataclass(frozen=True)
class SegmentationImages:
    """What a segmentation network is trained and scored on.

    Attributes:
        sources: Images to train on.
        held_out: Images to score on.
        targets: The classes of those to train on.
    """

    sources: Sequence[Source]
    held_out: Sequence[LabelledImage]
    targets: ClassTargets


def find_images(
    data: Sequence[DataFolder], val: Sequence[Path], settings: SegmentationSettings
) -> SegmentationImages:
    """List the images of data sets and the classes of their label maps.

    Raises:
        SegfixError: Data are missing or broken, or a validation set has a class more.
    """
    find = partial(find_labelled_images, ignore_index=settings.crops.ignore_index)
    sources = find_sources(data, find)
    held_out = [pair for folder in val for pair in find(folder, "val")]
    targets = ClassTargets(find_class_ids([pair for s in sources for pair in s.images]))
    for pair in held_out:
        check_classes(pair, pair.read_labels(), targets)
    if not val and settings.hold_out:
        sources, held_out = hold_out(sources, settings.hold_out)
    return SegmentationImages(sources, held_out, targets)


def describe_training(
    settings: SegmentationSettings,
    images: SegmentationImages,
    data: Sequence[DataFolder],
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, Any]:
    """List what a checkpoint tells of its training: all that a resumed one must share."""
    described = {
        "kind": "segmentation",
        **describe_settings(settings),
        "loss_options": {
            name: dict(settings.loss_options.get(name, {})) for name in settings.losses
        },
        "class_ids": list(images.targets.class_ids),
        "held_out": len(images.held_out),
        "mean": list(mean),
        "std": list(std),
        "data": sum_shares(data),
    }
    # It decides what is held out, which is told.
    del described["hold_out"]
    return described


def make_losses(
    settings: SegmentationSettings,
    images: SegmentationImages,
    edge_network: Path | None,
    out: Path,
    run: RunSettings,
) -> dict[str, LossModule]:
    """Make the losses beside the cross-entropy; SEMEDA's edge network is trained if need be.

    Args:
        settings: Losses and their options.
        images: To train the edge network on.
        edge_network: Its checkpoint; None: it is trained in `out`.
        out: Folder of the training.
        run: Of the training.

    Raises:
        SegfixError: An option of a loss is wrong, or the checkpoint doesn't fit.
    """
    options: dict[str, dict[str, Any]] = {
        name: dict(settings.loss_options.get(name, {})) for name in settings.losses
    }
    for name, given in options.items():
        check_options(name, given)
    if "semeda" in options:
        of_edges = {k: options["semeda"].pop(k) for k in EDGE_OPTIONS if k in options["semeda"]}
        if edge_network is not None and of_edges:
            raise SegfixError(
                f"{edge_network}: an edge network that is trained already; semeda."
                f"{next(iter(of_edges))} is for one that is yet to be trained."
            )
        num_classes, path = len(images.targets.class_ids), edge_network
        if path is None:
            path = out / EDGE_FOLDER / "model.safetensors"
            edge_settings = edge_training_settings(settings)
            crops = make_crops(images, edge_settings)
            train_edge_network(
                path, num_classes, crops, edge_settings.optimization, run, **of_edges
            )
            # The same random numbers follow, whether it was trained just now or before.
            torch.manual_seed(settings.optimization.seed)
        options["semeda"]["edge_network"] = load_edge_network(path, num_classes)
    return {
        name: make_loss(name, {**given, "weight": settings.losses[name]})
        for name, given in options.items()
    }


def edge_training_settings(settings: SegmentationSettings) -> SegmentationSettings:
    """Choose the crops and the optimization of SEMEDA's edge network, which sees labels alone."""
    augmentation = Augmentation(settings.crops.augmentation.scales, jitter=0, blur=0, jpeg=0)
    return replace(
        settings,
        crops=replace(settings.crops, augmentation=augmentation),
        optimization=replace(
            edge_training.EDGE_OPTIMIZATION,
            seed=settings.optimization.seed,
            # accelerate wants one precision in a process; this loss leaves it to itself.
            precision=settings.optimization.precision,
        ),
    )


def make_crops(images: SegmentationImages, settings: SegmentationSettings) -> CropDataset:
    """Make the samples of a training."""
    optimization = settings.optimization
    return CropDataset(
        images.sources,
        optimization.steps * optimization.batch_size,
        targets=images.targets,
        crops=settings.crops,
        seed=optimization.seed,
    )


def compute_losses(
    network: nn.Module,
    batch: Mapping[str, Tensor],
    *,
    settings: SegmentationSettings,
    losses: Mapping[str, LossModule],
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, Tensor]:
    """Compute the cross-entropy of a batch and, once they count, the weighed other losses."""
    start = settings.loss_from or 0
    counted = not start or int(batch["step"]) >= start
    measured = any(loss.auto and loss.auto.measuring for loss in losses.values())
    with uncompiled(needed=counted and measured):
        # In the layout of the losses: once for all, the cross-entropy's softmax included.
        logits = network(normalize_image(batch["image"], mean, std)).contiguous().float()
    target = batch["target"].long()
    found = {"cross_entropy": cross_entropy(logits, target)}
    if not counted:
        return found
    batch_size = settings.optimization.batch_size
    for name, loss in losses.items():
        weighed = loss.to(logits.device)(logits, target)
        if name in RISING:
            passed = batch["index"].max() - start * batch_size
            weighed = weighed * (passed / ((settings.optimization.steps - start) * batch_size))
        found[f"{name}_loss"] = weighed
    return found


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
    """List the ids that occur in label maps, ascending, void left out.

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
    """Compute mIoU and pixel accuracy over whole photographs.

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
        logits = network(normalize_image(pixels, mean, std))
        counts += confusion_matrix(
            logits[0].argmax(0).cpu().numpy(), true, num_classes, ignore_index=VOID
        )
    iou = class_iou(counts)
    hits, total = np.diagonal(counts).sum(), counts.sum()
    return {
        "miou": float(np.nanmean(iou)) if total else 0.0,
        "pixel_accuracy": float(hits / max(1, int(total))),
    }
