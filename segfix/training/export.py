"""A trained network as one self-contained ONNX file, checked before it is kept."""

from __future__ import annotations

import copy
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from segfix.errors import SegfixError
from segfix.files.atomic import atomic_path
from segfix.geometry import NO_PREDICTION, UNDEFINED, flip_direction_map
from segfix.geometry.label_distance import DISTANCE_STEPS, WRONG_WITHIN
from segfix.metrics import direction_reliability, offset_counts, offset_scores
from segfix.network.offset_model import BOUNDARY_THRESHOLD, OUTPUTS, OffsetModel, calibrate
from segfix.network.session import CALIBRATION, DISTANCE, METADATA_KEY, WRONG
from segfix.training.checkpoint_model import ProbabilityNetwork
from segfix.training.datasets import known_prediction, known_targets
from segfix.training.heads import DetailHead
from segfix.training.hrnet_lite import ConditionedSegFixNet
from segfix.training.layouts import LabelledImage, find_labelled_images, folder_name
from segfix.training.offset_networks import (
    KEPT_METADATA,
    checkpoint_kind,
    load_checkpoint,
    normalized,
    padded,
)
from segfix.training.quantize import quantize_onnx, spread_evenly
from segfix.training.segmentation_networks import SEGMENTER_METADATA, load_segmenter

OPSET = 18
CALIBRATION_BINS = 50
PRIOR = 0.001
PARITY_SIZES = ((64, 96), (77, 50))
MAX_DISAGREEMENT = {"fp32": (0.002, 1), "fp16": (0.02, 3)}
"""Share of pixels whose sector or class, or probability by more than so many bytes, may differ."""
MAX_LOSS = 0.01
"""So much mask F-score or direction accuracy may int8 lose, on any of the data sets."""


class Measured(NamedTuple):
    """Counts of a network on a data set.

    Attributes:
        offsets: (5,) `segfix.metrics.offset_counts`.
        reliability: (B, 2) `segfix.metrics.direction_reliability` of the product of both
            probabilities.
        conditioned: As `offsets`, of a conditioned network that is shown perturbed label maps.
        wrong: (256, 2) pixels whose label is right and wrong there, by the network's byte.
    """

    offsets: NDArray[np.int64]
    reliability: NDArray[np.int64]
    conditioned: NDArray[np.int64]
    wrong: NDArray[np.int64]

    def scores(self) -> dict[str, float]:
        """By name, in [0, 1]; of a conditioned network with `wrong_auc`.

        That is the probability that it finds a wrong label wrong rather than a right one.
        """
        scores = offset_scores(self.offsets)
        if not self.wrong.any(axis=0).all():
            return scores
        seen = offset_scores(self.conditioned)
        right, wrong = self.wrong.T
        below = np.cumsum(right) - right / 2
        auc = float(below @ wrong / (right.sum() * wrong.sum()))
        return {**scores, **{f"conditioned_{k}": v for k, v in seen.items()}, "wrong_auc": auc}


class OffsetNetwork(nn.Module):
    """From bytes to bytes: normalisation, padding, network, soft-max.

    That of a `ConditionedSegFixNet` takes and gives one map more.

    Args:
        network: In evaluation mode; of float16, all but normalisation and soft-max is in it.
        mean: Of RGB in [0, 1].
        std: Of RGB in [0, 1].
        flip: Whether to look at the mirrored image, too, and average the probabilities.
    """

    def __init__(
        self, network: nn.Module, mean: list[float], std: list[float], *, flip: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = mean, std
        self.flip = flip
        self.conditioned = isinstance(network, ConditionedSegFixNet)
        self.inputs = ("image", DISTANCE) if self.conditioned else ("image",)
        self.outputs = (*OUTPUTS, WRONG) if self.conditioned else OUTPUTS

    def forward(self, image: Tensor, distance: Tensor | None = None) -> tuple[Tensor, ...]:
        """Directions, boundaries and certainties at full size.

        Args:
            image: (N, 3, H, W) uint8 RGB, any H and W.
            distance: (N, H, W) uint8 of `segfix.geometry.label_distance`; of a conditioned network.

        Returns:
            `direction` (N, H, W) uint8 arg-max sector, `boundary` (N, H, W) uint8 probability
            × 255, `certainty` (N, H, W) uint8 probability of that sector × 255; of a conditioned
            network, `wrong` (N, H, W) uint8 probability that the prediction is wrong there × 255.
        """
        height, width = image.shape[-2:]
        dtype = next(self.network.parameters()).dtype
        inputs = [padded(normalized(image, self.mean, self.std)).to(dtype)]
        if distance is not None:
            inputs.append(padded(distance[:, None].float())[:, 0])
        boundary, direction, *wrong = self.network(*inputs)
        boundary, *wrong = (x[:, 0].float().sigmoid() for x in (boundary, *wrong))
        direction = direction.float()
        if self.flip:
            mirrored = [x.flip(-1) for x in self.network(*(x.flip(-1) for x in inputs))]
            num_directions = direction.shape[1]
            sectors = np.arange(num_directions, dtype=np.uint8)[None]
            # Of the sector that a mirrored one is called, seen in the mirror.
            names = flip_direction_map(sectors, num_directions)[0, ::-1].tolist()
            boundary, *wrong = (
                (a + b[:, 0].float().sigmoid()) / 2
                for a, b in zip((boundary, *wrong), (mirrored[0], *mirrored[2:]), strict=True)
            )
            both = (direction, mirrored[1][:, names].float())
            direction = torch.log(sum(x.softmax(dim=1) for x in both) / 2)
        # As single steps: of another axis than the last, onnxruntime's own soft-max takes a fourth
        # of the whole network's time.
        likelihood = (direction - direction.amax(dim=1, keepdim=True)).exp()
        shares = (boundary, 1 / likelihood.sum(dim=1), *wrong)
        maps = (direction.argmax(dim=1), *(share * 255 + 0.5 for share in shares))
        # Cut to size at the end, where a pixel takes one byte.
        return tuple(x.to(torch.uint8)[:, :height, :width] for x in maps)


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
    network: nn.Module
    wrapped: Callable[..., OffsetNetwork | ProbabilityNetwork]
    if checkpoint_kind(checkpoint) == "segmentation":
        if calibrate_on or precision == "int8":
            raise SegfixError(
                f"{checkpoint}: a segmentation network; only a SegFix network has a confidence "
                "to calibrate, and an int8 form."
            )
        network, described = load_segmenter(checkpoint)
        kind, wrapped, kept = "segmentation network", ProbabilityNetwork, SEGMENTER_METADATA
    else:
        network, described = load_checkpoint(checkpoint)
        kind, wrapped, kept = "segfix network", OffsetNetwork, KEPT_METADATA
    held_out = [find_labelled_images(folder, "val") for folder in calibrate_on]
    if precision == "int8" and not held_out:
        raise SegfixError(f"{checkpoint}: int8 needs data sets to calibrate on.")
    sets = [folder_name(folder) for folder in calibrate_on]
    quiet = quiet or sys.stderr is None
    mean, std = described["mean"], described["std"]
    module = wrapped(network, mean, std, flip=flip).eval()
    metadata = {
        "kind": kind,
        "version": 1,
        "name": name or out.stem,
        "precision": precision,
        "flip": flip,
        **{key: described[key] for key in kept},
        **({"conditioned": True} if DISTANCE in module.inputs else {}),
        **(notes or {}),
    }
    with atomic_path(out) as temporary:
        simpler = copy.deepcopy(network)
        for part in simpler.modules():
            if isinstance(part, ConditionedSegFixNet | DetailHead):
                part.fold()
        if precision == "fp16":
            simpler.half()
        written = wrapped(simpler, mean, std, flip=flip).eval()
        try:
            write_onnx(written, temporary, metadata)
            check_parity(module, temporary, "fp16" if precision == "fp16" else "fp32")
        except Exception as error:
            if isinstance(error, SegfixError | OSError) or wrapped is OffsetNetwork:
                raise
            # torch and onnxruntime fail with all kinds of exceptions.
            raise SegfixError(
                f"{checkpoint}: torch can't export {described['network']} for pictures of all "
                f"sizes ({type(error).__name__}); 'segfix segment' takes the checkpoint itself."
            ) from error
        if held_out:
            found = measure(temporary, held_out, sets, quiet=quiet)
            if precision == "int8":
                chosen = tqdm(spread_evenly(held_out), "ranges", unit="image", disable=quiet)
                quantize_onnx(temporary, iter(chosen))
                exact, found = found, measure(temporary, held_out, sets, quiet=quiet)
                metadata["precision_scores"] = compare_scores(exact, found, sets)
            metadata["calibration"] = fit_calibration([one.reliability for one in found])
            metadata["calibrated_on"] = sets
            model = onnx.load(str(temporary))
            set_metadata(model, metadata)
            onnx.save(model, str(temporary))
    return metadata


def measure(
    path: Path, held_out: Sequence[Sequence[LabelledImage]], sets: Sequence[str], *, quiet: bool
) -> list[Measured]:
    """What tells the scores and the confidence of an exported network, per data set."""
    model = OffsetModel(path, "cpu")
    measured = []
    for name, images in zip(sets, held_out, strict=True):
        found = Measured(
            *(np.zeros(shape, np.int64) for shape in (5, (CALIBRATION_BINS, 2), 5, (256, 2)))
        )
        for number, pair in enumerate(tqdm(images, name, unit="image", disable=quiet)):
            image, labels = pair.read()
            direction, boundary, certainty, *_ = model.predict(image)
            true_boundary, true_direction = known_targets(
                labels,
                num_directions=model.num_directions,
                boundary_width=model.metadata["boundary_width"],
            )
            mask = boundary > BOUNDARY_THRESHOLD * 255
            found.offsets[:] += offset_counts(mask, direction, true_boundary, true_direction)
            found.reliability[:] += direction_reliability(
                boundary * (certainty / 255**2),
                direction,
                np.where(mask, true_direction, np.uint8(UNDEFINED)),
                num_directions=model.num_directions,
                num_bins=CALIBRATION_BINS,
            )
            if not model.conditioned:
                continue
            distance, is_wrong = known_prediction(labels, seed=number)
            direction, boundary, _, wrong = model.predict(image, distance)
            mask = boundary > BOUNDARY_THRESHOLD * 255
            found.conditioned[:] += offset_counts(mask, direction, true_boundary, true_direction)
            near = (distance <= WRONG_WITHIN * DISTANCE_STEPS) | (is_wrong == 1)
            for place in (0, 1):
                counted = wrong[near & (is_wrong == place)]
                found.wrong[:, place] += np.bincount(counted, minlength=256)
        measured.append(found)
    return measured


def compare_scores(
    exact: Sequence[Measured], found: Sequence[Measured], sets: Sequence[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores in float and in 8 bits, per data set.

    Args:
        exact: What `measure` returned for the float network.
        found: And for the one in 8 bits.
        sets: Names of the data sets.

    Raises:
        SegfixError: A score falls by more than `MAX_LOSS`.
    """
    compared = {}
    for name, *both in zip(sets, exact, found, strict=True):
        before, after = (measured.scores() for measured in both)
        for key, score in after.items():
            if before[key] - score > MAX_LOSS:
                raise SegfixError(
                    f"int8 loses too much on {name}: {key.replace('_', ' ')} falls from "
                    f"{before[key]:.1%} to {score:.1%}, by more than {MAX_LOSS:.0%}; the export "
                    "is not kept."
                )
        compared[name] = {"fp32": before, "int8": after}
    return compared


def fit_calibration(counts: Sequence[NDArray[np.int64]]) -> list[float]:
    """Slope and intercept of `segfix.network.offset_model.calibrate`; each set counts the same.

    Args:
        counts: Per set, (B, 2) of `measure`.

    Raises:
        SegfixError: There is no direction to measure.
    """
    if not all(count[:, 0].any() for count in counts):
        raise SegfixError("nothing to calibrate on: the network finds no boundary in the images.")
    middles = (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS
    # A little of the usual line, or a few pixels that are all right would be believed for ever.
    usual = np.stack([np.ones_like(middles), calibrate(middles, CALIBRATION)], axis=1)
    total = usual * (len(counts) * PRIOR / CALIBRATION_BINS)
    total += np.sum([count / count[:, 0].sum() for count in counts], axis=0)

    def loss(line: NDArray[np.float64]) -> float:
        odds = line[0] * middles + line[1]
        wrong = total[:, 0] - total[:, 1]
        return float(total[:, 1] @ np.logaddexp(0, -odds) + wrong @ np.logaddexp(0, odds))

    # Surer may not mean less often right.
    bounds = [(0.0, None), (None, None)]
    found = optimize.minimize(loss, np.array(CALIBRATION), bounds=bounds).x
    return [round(float(value), 3) for value in found]


def write_onnx(
    module: OffsetNetwork | ProbabilityNetwork, path: Path, metadata: dict[str, Any]
) -> None:
    """Export with dynamic batch, height and width, and our metadata inside."""
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    examples = {
        "image": (torch.zeros(2, 3, 96, 160, dtype=torch.uint8), {0: batch, 2: height, 3: width}),
        DISTANCE: (torch.zeros(2, 96, 160, dtype=torch.uint8), {0: batch, 1: height, 2: width}),
    }
    arguments, dims = zip(*(examples[name] for name in module.inputs), strict=True)
    # torch exports this pooling for the size of the example alone.
    pooling = mock.patch.object(F, "adaptive_avg_pool2d", average_pool)
    with pooling, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            arguments,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(module.inputs),
            output_names=list(module.outputs),
            dynamic_shapes=dims,
            verbose=False,
        )
    if program is None:
        raise SegfixError("torch made no ONNX program; update torch and onnxscript.")
    model = program.model_proto
    graph = model.graph
    # torch notes where each node was traced: half a megabyte, with the paths of this machine.
    for output in graph.output:
        # Torch says by which arithmetic they come about.
        first, *_, rows, cols = output.type.tensor_type.shape.dim
        first.dim_param, rows.dim_param, cols.dim_param = "batch", "height", "width"
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (model, graph, *graph.node, *values):
        del part.metadata_props[:]
    set_metadata(model, metadata)
    onnx.save(model, str(path))


def average_pool(maps: Tensor, output_size: int | tuple[int, int]) -> Tensor:
    """`F.adaptive_avg_pool2d` as products with two matrices, which hold for maps of any size."""
    rows, cols = (output_size, output_size) if isinstance(output_size, int) else output_size
    if rows == cols == 1:
        return maps.mean((-2, -1), keepdim=True)
    height, width = maps.shape[-2:]
    return bins(height, rows, maps) @ maps @ bins(width, cols, maps).T


def bins(size: int, count: int, like: Tensor) -> Tensor:
    """(count, size) shares of `size` places in the means over `count` overlapping bins."""
    number, place = torch.arange(count)[:, None], torch.arange(size)
    start, end = number * size // count, ((number + 1) * size + count - 1) // count
    return ((place >= start) & (place < end)).to(like) / (end - start).to(like)


def set_metadata(model: onnx.ModelProto, metadata: dict[str, Any]) -> None:
    """Put our metadata in place of whatever metadata there is."""
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(metadata, sort_keys=True))
    model.producer_name = "segfix"


def check_parity(
    module: OffsetNetwork | ProbabilityNetwork, path: Path, precision: str = "fp32"
) -> None:
    """Compare torch in float32 and onnxruntime on two sizes, one no multiple of the stride.

    Of two pictures, a conditioned network sees the second one without a prediction.
    """
    limit, slack = MAX_DISAGREEMENT[precision]
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for height, width in PARITY_SIZES:
        coarse = rng.integers(0, 256, (2, 4, height // 8 + 1, width // 8 + 1), dtype=np.uint8)
        planes = coarse.repeat(8, axis=2).repeat(8, axis=3)[:, :, :height, :width]
        found_in = {"image": planes[:, :3], DISTANCE: planes[:, 3].copy()}
        found_in[DISTANCE][1] = NO_PREDICTION
        inputs = {name: found_in[name] for name in module.inputs}
        with torch.inference_mode():
            expected = module(*(torch.from_numpy(array) for array in inputs.values()))
        found = session.run(None, inputs)
        if isinstance(expected, Tensor):
            pairs = [(p.argmax(axis=1), 255 * p) for p in (expected.numpy(), found[0])]
        else:
            pairs = [tuple(output.numpy() for output in expected), found]
        # A sector or class is right or wrong; a probability may round to the next byte.
        for place, (wanted, got) in enumerate(zip(*pairs, strict=True)):
            apart = np.abs(wanted.astype(np.float64) - got)
            share = 1 - float(np.mean(apart <= (slack if place else 0)))
            if share > limit:
                raise SegfixError(
                    f"torch and onnxruntime disagree on {share:.2%} of the pixels at "
                    f"{width}×{height}; the export is not kept."
                )
