"""A trained segmentation network on photographs, with torch."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segfix.errors import DeviceError
from segfix.network.segmentation_model import OUTPUTS
from segfix.network.session import report_failures
from segfix.network.weights import file_digest
from segfix.training.offset_networks import normalize_image
from segfix.training.segmentation_networks import load_segmenter


class ProbabilityNetwork(nn.Module):
    """From bytes to probabilities: normalisation, padding, network, soft-max.

    Args:
        network: In evaluation mode; of float16, all but normalisation and soft-max is in it.
        mean: Of RGB in [0, 1].
        std: Of RGB in [0, 1].
        flip: Whether to look at the mirrored image, too, and average the probabilities.
    """

    inputs = ("image",)
    outputs = OUTPUTS

    def __init__(
        self, network: nn.Module, mean: list[float], std: list[float], *, flip: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = mean, std
        self.flip = flip

    def forward(self, image: Tensor) -> Tensor:
        """Compute (N, C, H, W) float32 probabilities of (N, 3, H, W) uint8 RGB, any H and W."""
        dtype = next(self.network.parameters()).dtype
        pixels = normalize_image(image, self.mean, self.std).to(dtype)
        probability = self.probability(pixels)
        if self.flip:
            probability = (probability + self.probability(pixels.flip(-1)).flip(-1)) / 2
        return probability

    def probability(self, pixels: Tensor) -> Tensor:
        """Compute probabilities of the classes for normalised pixels."""
        return torch.softmax(self.network(pixels).float(), dim=1)


class CheckpointModel:
    """The checkpoint of a segmentation network, ready to run like its ONNX file.

    Attributes:
        path: `model.safetensors` of a training.
        device: "cpu", "cuda:0".
        class_ids: The id of each class in label maps.
        source: Name and digest, as label maps record them.

    Raises:
        FileFormatError: The file is not a checkpoint of a segmentation network.
        DeviceError: The device isn't there.
    """

    def __init__(self, path: Path, device: str = "auto") -> None:
        self.path = path
        self.device = find_device(device)
        network, described = load_segmenter(path)
        self.class_ids: tuple[int, ...] = tuple(described["class_ids"])
        self.source = {"weights": path.stem, "weights_sha256": file_digest(path)}
        module = ProbabilityNetwork(network, described["mean"], described["std"]).eval()
        self.network = module.to(self.device)
        # One inference at a time uses all threads; more at once would only fight for them.
        self._lock = threading.Lock()

    @torch.inference_mode()
    def probabilities(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute (C, H, W) float32 probabilities of an (H, W, 3) uint8 RGB photograph."""
        with report_failures(image), self._lock:
            pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)[None]))
            found: NDArray[np.float32] = self.network(pixels.to(self.device))[0].cpu().numpy()
        return found


def find_device(device: str) -> str:
    """Find the device of torch that a --device means.

    Raises:
        DeviceError: It isn't there, or not with torch.
    """
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda"):
        raise DeviceError(
            f"device {device!r}: a checkpoint runs on cpu or cuda; 'segfix export' makes an ONNX "
            "file for the others."
        )
    if kind == "cpu" or (kind == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if int(index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device {device!r}: torch finds no such GPU here; use --device cpu.")
    return f"cuda:{index or 0}"
