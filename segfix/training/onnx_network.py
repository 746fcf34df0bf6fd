"""The SegFix network as it is exported: from bytes to bytes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from segfix.geometry import flip_direction_map
from segfix.network.offset_model import OUTPUTS
from segfix.network.session import DISTANCE, WRONG
from segfix.training.hrnet_lite import ConditionedSegFixNet
from segfix.training.offset_networks import normalize_image, pad_to_stride


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
        """Compute directions, boundaries and certainties at full size.

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
        inputs = [pad_to_stride(normalize_image(image, self.mean, self.std)).to(dtype)]
        if distance is not None:
            inputs.append(pad_to_stride(distance[:, None].float())[:, 0])
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
