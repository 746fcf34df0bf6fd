"""Batches of samples, loaded in order by other processes."""

from __future__ import annotations

from collections.abc import Sequence

from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from segfix.errors import SegfixError
from segfix.training.interrupts import leave_quietly
from segfix.training.settings import Optimization, RunSettings

Batch = dict[str, Tensor]


class ErrorsAsSamples(Dataset[Batch | SegfixError]):
    """Samples, or the errors in their place: raised in another process, they would become text.

    Args:
        dataset: What may raise `SegfixError`.
    """

    def __init__(self, dataset: Dataset[Batch]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Batch | SegfixError:
        try:
            return self.dataset[index]
        except SegfixError as error:
            return error


def collate_samples(samples: Sequence[Batch | SegfixError]) -> Batch | SegfixError:
    """Stack samples to a batch; where there are errors, the first one."""
    for sample in samples:
        if isinstance(sample, SegfixError):
            return sample
    batch: Batch = default_collate(list(samples))
    return batch


def make_loader(
    dataset: Dataset[Batch],
    step: int,
    settings: Optimization,
    run: RunSettings,
    accelerator: Accelerator,
) -> DataLoader[Batch | SegfixError]:
    """Load the batches from a step on."""
    last = min(run.until or settings.steps, settings.steps)
    rest = range(step * settings.batch_size, last * settings.batch_size)
    return DataLoader(
        Subset(ErrorsAsSamples(dataset), rest),
        settings.batch_size,
        collate_fn=collate_samples,
        num_workers=run.workers,
        pin_memory=accelerator.device.type == "cuda",
        prefetch_factor=4 if run.workers else None,
        worker_init_fn=leave_quietly,
    )
