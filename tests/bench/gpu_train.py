"""`segfix train` on a machine with a GPU that is lent for minutes, and reached by files alone.

    python -m tests.bench.gpu_train stage DIR[:weight] … --mib 40       build/gpu/data.tar
    python -m tests.bench.gpu_train run build/gpu/data.tar --minutes 9 -- --backbone hrnet_lite0 …
    cd build/gpu && cat model.safetensors.* > model.safetensors && sha256sum -c SHA256SUMS

`stage` packs the data folders, plain ones or published ones without a list of their files, thinned
evenly until they fit. `run` trains until its time is up, and leaves the checkpoint in pieces below
16 MiB, its SHA-256 and log. What follows `--` goes to `segfix train`; `--device cpu --steps 2`
there rehearses it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import click

from segfix.cli.train_options import DataFolderType
from segfix.network.weights import file_digest
from segfix.training.layouts import find_labelled_images
from segfix.training.settings import DataFolder

PIECE = 15 * 2**20
NAME, SUMS, OPTIONS = "model.safetensors", "SHA256SUMS", "data.json"
BUILD = Path("build/gpu")


@click.group()
def main() -> None:
    """Stage data, and train."""


@main.command()
@click.argument("data", nargs=-1, required=True, type=DataFolderType())
@click.option("--mib", default=40, show_default=True, help="Of all files together.")
@click.option("--out", type=click.Path(path_type=Path), default=BUILD / "data.tar")
def stage(data: tuple[DataFolder, ...], mib: int, out: Path) -> None:
    """Pack the training photographs of data folders, their labels and predictions."""
    samples = [
        (number, [pair.image, pair.labels, *pair.predictions])
        for number, folder in enumerate(data)
        for pair in find_labelled_images(folder.path, "train")
    ]
    total = sum(path.stat().st_size for _, paths in samples for path in paths)
    count = min(len(samples), int(len(samples) * mib * 2**20 / total))
    chosen = [samples[place * len(samples) // count] for place in range(count)]
    options = [f"{i}:{one.weight}:{one.tolerance}:{one.near}" for i, one in enumerate(data)]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(out, "w") as archive, tempfile.TemporaryDirectory() as folder:
        Path(folder, OPTIONS).write_text(json.dumps(options))
        archive.add(Path(folder, OPTIONS), OPTIONS)
        for number, paths in chosen:
            for path in paths:
                archive.add(path, f"{number}/{path.relative_to(data[number].path)}")
    print(f"{out}: {count} of {len(samples)} photographs, {out.stat().st_size / 2**20:.1f} MiB")


@main.command()
@click.argument("archive", type=click.Path(exists=True, path_type=Path))
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.option("--minutes", default=9.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=BUILD)
def run(archive: Path, options: tuple[str, ...], minutes: float, out: Path) -> None:
    """Train, and split the checkpoint."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        data = json.loads(Path(folder, OPTIONS).read_text())
        command = [sys.executable, "-m", "segfix", "train", "-o", str(Path(folder, "run"))]
        command += [word for one in data for word in ("--data", f"{folder}/{one}")]
        with subprocess.Popen([*command, "--device", "cuda", *options]) as process:
            try:
                process.wait(60 * minutes)
            except subprocess.TimeoutExpired:
                # It finishes the step begun, and saves.
                process.send_signal(signal.SIGTERM)
        if not Path(folder, "run", NAME).exists():
            raise click.ClickException(
                f"no checkpoint; the training ended with {process.returncode}."
            )
        (out / "log.csv").write_bytes(Path(folder, "run", "log.csv").read_bytes())
        content = Path(folder, "run", NAME).read_bytes()
        (out / SUMS).write_text(f"{file_digest(Path(folder, 'run', NAME))}  {NAME}\n")
    for start in range(0, len(content), PIECE):
        (out / f"{NAME}.{start // PIECE:02}").write_bytes(content[start : start + PIECE])


if __name__ == "__main__":
    main()
