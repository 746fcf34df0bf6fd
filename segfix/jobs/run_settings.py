"""How a run over many files is spread and when it ends; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from segfix.errors import DeviceError


@dataclass(frozen=True)
class Workers:
    """What runs on a Ray cluster.

    Attributes:
        address: HOST:PORT of the cluster; None: as Ray finds one, or else starts one here.
        num_cpus: Cores of each worker.
        num_gpus: GPUs of each worker; may be a fraction.
    """

    address: str | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0

    @property
    def threads(self) -> int:
        """The number of threads of a worker's network."""
        return max(1, int(self.num_cpus))

    def device(self, asked: str) -> str:
        """Choose where the workers' networks run: what "auto" is, is the same on all machines.

        Raises:
            DeviceError: Workers of this kind have no such device.
        """
        kind, _, index = asked.partition(":")
        if index or (kind == "cpu" and self.num_gpus):
            raise DeviceError(
                f"device {asked!r}: Ray chooses a worker's GPU; write --device cuda, and "
                "--num-gpus 0.5 for two workers on each."
            )
        if kind in ("cuda", "tensorrt") and not self.num_gpus:
            raise DeviceError(f"device {asked!r}: --num-gpus 0 leaves the workers without a GPU.")
        return ("cuda" if self.num_gpus else "cpu") if kind == "auto" else kind


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How the jobs of a run are spread, and what is done with results and failures.

    Attributes:
        workers: Files worked on at a time; None: one per core, or two where one network does the
            work on all cores.
        shard: Which share of the jobs, from 1, of how many: a part for each machine; None: all.
        overwrite: Whether to replace results that exist.
        max_failures: Stop after this many failures; None: never.
        quiet: No progress bar.
        cluster: Ray's workers, which do the jobs; None: threads and processes of this machine.
    """

    workers: int | None = None
    shard: tuple[int, int] | None = None
    overwrite: bool = False
    max_failures: int | None = None
    quiet: bool = True
    cluster: Workers | None = None
