"""Shipped weights: their names, files and checksums."""

from __future__ import annotations

import hashlib
from pathlib import Path

from segfix.errors import SegfixError

DEFAULT_WEIGHTS = "hrnet_lite0"
CHECKSUMS = "SHA256SUMS"
"""Name of the file of checksums, in the form of `sha256sum`."""


def shipped_weights(suffix: str = ".onnx") -> dict[str, Path]:
    """List the ONNX files, or checkpoints, that came with this installation, by name."""
    package = Path(__file__).parents[1]
    # In the wheel the folder lies inside the package, in a checkout beside it.
    for folder in (package / "weights", package.parent / "weights"):
        found = {path.stem: path for path in sorted(folder.glob(f"*{suffix}"))}
        if found:
            return found
    return {}


def find_weights(name_or_path: str | Path | None = None) -> Path:
    """Find the ONNX file of a name or path; None means the default.

    Raises:
        SegfixError: There is no such name or file, or what was shipped has changed.
    """
    shipped = shipped_weights()
    wanted = str(name_or_path or DEFAULT_WEIGHTS)
    if wanted in shipped:
        return check_weights(shipped[wanted])
    path = Path(wanted)
    if path.is_file():
        return path
    names = ", ".join(shipped) or "none: this installation is incomplete"
    raise SegfixError(f"{wanted}: no such weights; expected an ONNX file or a name ({names}).")


def find_checkpoint(name_or_path: str | Path) -> Path:
    """Find the checkpoint of a name or path, for training on.

    Raises:
        SegfixError: There is no such name or file, the wheel left the checkpoint out, or what was
            shipped has changed.
    """
    shipped = shipped_weights(".safetensors")
    wanted = str(name_or_path)
    if wanted in shipped:
        return check_weights(shipped[wanted])
    path = Path(wanted)
    if path.is_file():
        return path
    if wanted in shipped_weights():
        # A network in 8 bits was made from the checkpoint of the float one.
        checkpoint = wanted.removesuffix("_int8")
        raise SegfixError(
            f"{wanted}: only its ONNX file is installed; take weights/{checkpoint}.safetensors "
            "from segfix's repository and give its path."
        )
    names = ", ".join(shipped) or "none here"
    raise SegfixError(f"{wanted}: no such checkpoint; expected a file or a name ({names}).")


def check_weights(path: Path) -> Path:
    """Compare shipped weights with their checksum, and return their path.

    Raises:
        SegfixError: They have changed, or their checksums are missing.
    """
    listed = shipped_digests(path.parent)
    # What somebody has put there is known to nobody.
    if path.name in listed and file_digest(path) != listed[path.name]:
        raise SegfixError(
            f"{path}: damaged, its SHA-256 isn't that of the weights as shipped; install segfix "
            "again."
        )
    return path


def shipped_digests(folder: Path) -> dict[str, str]:
    """Read the SHA-256 in hex of every file of weights as shipped, by file name.

    Raises:
        SegfixError: Their checksums are missing.
    """
    sums = folder / CHECKSUMS
    try:
        lines = sums.read_text(encoding="utf-8").splitlines()
        return {name: digest for digest, name in (line.split() for line in lines)}
    except (OSError, ValueError) as error:
        raise SegfixError(f"{sums}: missing or damaged; install segfix again.") from error


def file_digest(path: Path) -> str:
    """Compute the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
