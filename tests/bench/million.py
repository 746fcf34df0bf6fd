"""What a run of a million files costs before it begins: CPU seconds and memory, as Markdown.

    python -m tests.bench.million [--count 1000000] [--work DIR]

Makes two folders of empty files, photographs and predictions with other names, lists and pairs
them, and checks that no result would replace an input, as `segfix refine` does. A folder in memory
(--work /dev/shm) leaves the disk out.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from segfix.files import list_entries, pair_entries
from segfix.formats import IMAGE_SUFFIXES, LABEL_SUFFIXES
from segfix.jobs.sources import check_results

T = TypeVar("T")


def measure(title: str, work: Callable[[], T]) -> T:
    """Print a row with the CPU seconds of some work and the peak memory so far."""
    started = time.process_time()
    result = work()
    seconds = time.process_time() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10
    click.echo(f"| {title} | {seconds:.2f} | {memory} |")
    return result


@click.command()
@click.option("--count", default=1_000_000, show_default=True)
@click.option("--work", type=click.Path(path_type=Path, exists=True))
def main(count: int, work: Path | None) -> None:
    """Measure."""
    with tempfile.TemporaryDirectory(dir=work) as name:
        images, preds, out = (Path(name, folder) for folder in ("images", "preds", "refined"))
        for folder, ending in ((images, ".jpg"), (preds, "_pred.png")):
            folder.mkdir()
            for number in range(count):
                (folder / f"street_{number:07d}{ending}").touch()
        click.echo(f"| {count:,} files in each of two folders | CPU s | peak MiB |\n|---|---|---|")
        photographs, label_maps = measure(
            "list",
            lambda: (
                list_entries(images, IMAGE_SUFFIXES, what="images"),
                list_entries(preds, LABEL_SUFFIXES, what="predictions"),
            ),
        )
        pairs = measure("pair", lambda: pair_entries(label_maps, photographs))
        results = (out / f"{pair.entry.stem}.png" for pair in pairs)
        inputs = [entry.path for entry in (*photographs, *label_maps)]
        measure("check the results", lambda: check_results(results, inputs))


if __name__ == "__main__":
    main()
