"""The log of a training: `log.csv`, and TensorBoard on request."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from segfix.errors import SegfixError


class Log:
    """`log.csv` with columns step, name, value, and TensorBoard on request.

    Args:
        out: Folder, which no other process may log to meanwhile.
        step: Rows of later ones are cut off.
        tensorboard: Whether to log for TensorBoard, too.

    Raises:
        SegfixError: Another process logs there.
    """

    def __init__(self, out: Path, step: int, *, tensorboard: bool) -> None:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / "log.csv").open("a+b")
        claim(file, out)
        kept = count_until(file, step) if step else 0
        file.truncate(kept)
        self.file = io.TextIOWrapper(file, encoding="utf-8", newline="")
        self.writer = csv.writer(self.file)
        if not kept:
            self.writer.writerow(["step", "name", "value"])
        self.board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(out / "tensorboard"), purge_step=step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Enter named values of a step."""
        for name, value in values.items():
            self.writer.writerow([step, name, f"{value:.6g}"])
            if self.board is not None:
                self.board.add_scalar(name, value, step)
        self.file.flush()

    def close(self) -> None:
        """Close the files."""
        self.file.close()
        if self.board is not None:
            self.board.close()


def claim(file: IO[bytes], out: Path) -> None:
    """Hold a file of the folder until this process ends, or closes it.

    Raises:
        SegfixError: Another process holds it.
    """
    if sys.platform == "win32":
        return
    import fcntl

    try:
        # Not `flock`, which processes that make batches would go on holding for a while.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.close()
        raise SegfixError(
            f"{out}: another process trains into this folder; wait for it, or go elsewhere with -o."
        ) from error
    except OSError:
        # Not every network file system can.
        return


def count_until(file: IO[bytes], step: int) -> int:
    """Count the bytes of a log up to the last whole row of a step."""
    kept = 0
    file.seek(0)
    for row in file:
        number = row.partition(b",")[0]
        if not row.endswith(b"\n") or (number.isdigit() and int(number) > step):
            break
        kept += len(row)
    return kept
