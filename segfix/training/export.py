"""A trained network as one self-contained ONNX file, checked before it is kept."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from torch import nn
from tqdm import tqdm

from segfix.errors import SegfixError
from segfix.files.atomic import atomic_path
from segfix.jobs.pool import hide_progress
from segfix.training.calibration import compare_scores, fit_calibration, measure
from segfix.training.checkpoint_model import ProbabilityNetwork
from segfix.training.checkpoints import describe_checkpoint
from segfix.training.heads import DetailHead, fold_norms
from segfix.training.hrnet_lite import ConditionedSegFixNet
from segfix.training.layouts import LabelledImage, find_labelled_images, folder_name
from segfix.training.offset_networks import KEPT_METADATA, load_checkpoint
from segfix.training.onnx_files import check_parity, set_metadata, write_onnx
from segfix.training.onnx_network import OffsetNetwork
from segfix.training.quantize import quantize_onnx, spread_evenly
from segfix.training.segmentation_networks import SEGMENTER_METADATA, load_segmenter


class Trained(NamedTuple):
    """A checkpoint to export.

    Attributes:
        network: In evaluation mode.
        kind: What the file says it is.
        wrapper: Makes of the network what takes bytes.
        described: What the training wrote about it.
        kept: Which of this the file tells, too.
    """

    network: nn.Module
    kind: str
    wrapper: Callable[..., OffsetNetwork | ProbabilityNetwork]
    described: dict[str, Any]
    kept: Sequence[str]


def export_onnx(
    checkpoint: Path,
    out: Path,
    *,
    name: str | None = None,
    notes: dict[str, str] | None = None,
    precision: str = "fp32",
    flip: bool = False,
    calibrate_on: Sequence[Path] = (),
    quiet: bool = True,
) -> dict[str, Any]:
    """Write a checkpoint as ONNX, after checking torch against onnxruntime.

    Args:
        checkpoint: `model.safetensors` of a training, of a SegFix or a segmentation network.
        out: The ONNX file to make.
        name: Name of the weights; by default the file's stem.
        notes: More metadata, such as licence and terms of the training data.
        precision: Of weights and arithmetic in the file, "fp32", "fp16" or "int8"; what goes in
            and comes out is the same. "int8" is for SegFix networks and needs `calibrate_on`.
        flip: Whether the network also looks at the mirrored image, at twice the time.
        calibrate_on: Data sets on whose validation photographs the confidence of a SegFix
            network is calibrated. For "int8" they also tell the ranges of the 8-bit values, and
            what these cost.
        quiet: No progress bar.

    Returns:
        The metadata in the file.

    Raises:
        FileFormatError: The checkpoint can't be read.
        SegfixError: The two engines disagree, int8 loses more than `MAX_LOSS`, or data are
            missing; nothing is written.
    """
    trained = load_trained(checkpoint)
    if trained.wrapper is ProbabilityNetwork and (calibrate_on or precision == "int8"):
        raise SegfixError(
            f"{checkpoint}: a segmentation network; only a SegFix network has a confidence "
            "to calibrate, and an int8 form."
        )
    held_out = [find_labelled_images(folder, "val") for folder in calibrate_on]
    sets = [folder_name(folder) for folder in calibrate_on]
    if precision == "int8" and not held_out:
        raise SegfixError(f"{checkpoint}: int8 needs data sets to calibrate on.")
    metadata = {
        "kind": trained.kind,
        "version": 1,
        "name": name or out.stem,
        "precision": precision,
        "flip": flip,
        **{key: trained.described[key] for key in trained.kept},
        **({"conditioned": True} if isinstance(trained.network, ConditionedSegFixNet) else {}),
        **(notes or {}),
    }
    with atomic_path(out) as temporary:
        write_checked(trained, temporary, metadata, checkpoint)
        if held_out:
            calibrate(temporary, held_out, sets, metadata, quiet=quiet or sys.stderr is None)
    return metadata


def load_trained(checkpoint: Path) -> Trained:
    """Load the checkpoint of a SegFix or a segmentation network.

    Raises:
        FileFormatError: It can't be read.
    """
    if describe_checkpoint(checkpoint).get("kind") == "segmentation":
        segmenter, described = load_segmenter(checkpoint)
        kept = SEGMENTER_METADATA
        return Trained(segmenter, "segmentation network", ProbabilityNetwork, described, kept)
    network, described = load_checkpoint(checkpoint)
    return Trained(network, "segfix network", OffsetNetwork, described, KEPT_METADATA)


def write_checked(trained: Trained, path: Path, metadata: dict[str, Any], source: Path) -> None:
    """Write a network as ONNX, simplified, and compare the file with the network as it was.

    Args:
        trained: The network.
        path: The file to make.
        metadata: To put into it; tells precision and flip.
        source: The checkpoint, for errors.

    Raises:
        SegfixError: The two disagree, or torch can't export the network.
    """
    half = metadata["precision"] == "fp16"
    simpler = copy.deepcopy(trained.network)
    for part in simpler.modules():
        if isinstance(part, ConditionedSegFixNet | DetailHead):
            part.fold()
    if trained.wrapper is OffsetNetwork:
        # In networks of others, a batch norm may belong to another convolution.
        fold_norms(simpler)
    if half:
        simpler.half()
    wrapped, written = (
        trained.wrapper(
            network, trained.described["mean"], trained.described["std"], flip=metadata["flip"]
        ).eval()
        for network in (trained.network, simpler)
    )
    try:
        write_onnx(written, path, metadata)
        check_parity(wrapped, path, "fp16" if half else "fp32")
    except Exception as error:
        if isinstance(error, SegfixError | OSError) or trained.wrapper is OffsetNetwork:
            raise
        # torch and onnxruntime fail with all kinds of exceptions.
        raise SegfixError(
            f"{source}: torch can't export {trained.described['network']} for pictures of all "
            f"sizes ({type(error).__name__}); 'segfix segment' takes the checkpoint itself."
        ) from error


def calibrate(
    path: Path,
    held_out: Sequence[Sequence[LabelledImage]],
    sets: Sequence[str],
    metadata: dict[str, Any],
    *,
    quiet: bool,
) -> None:
    """Calibrate the confidence of an ONNX file; for int8 quantize it first.

    Args:
        path: The file.
        held_out: Images of each data set.
        sets: Names of the data sets.
        metadata: Of the file; what is found is added.
        quiet: No progress bar.

    Raises:
        SegfixError: int8 loses too much.
    """
    found = measure(path, held_out, sets, quiet=quiet)
    if metadata["precision"] == "int8":
        chosen = tqdm(spread_evenly(held_out), "ranges", unit="image", disable=hide_progress(quiet))
        quantize_onnx(path, iter(chosen))
        exact, found = found, measure(path, held_out, sets, quiet=quiet)
        metadata["precision_scores"] = compare_scores(exact, found, sets)
    metadata["calibration"] = fit_calibration([one.reliability for one in found])
    metadata["calibrated_on"] = [*sets]
    model = onnx.load(str(path))
    set_metadata(model, metadata)
    onnx.save(model, str(path))
