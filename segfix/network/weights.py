"""Shipped weights: their names, files, checksums and figures; and weights fetched on request."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

from segfix.errors import SegfixError, require_extra

DEFAULT_WEIGHTS = "hrnet_lite0"
CHECKSUMS = "SHA256SUMS"
"""Name of the file of checksums, in the form of `sha256sum`."""

HOME = "SEGFIX_HOME"
"""Environment variable that names the folder of fetched weights."""

COLUMNS = ("CPU ms/MP", "CamVid FPN", "DAVIS OSVOS", "harm rate")
FIGURES = {
    "hrnet_lite0": ("484", "+3.15 / +12.76", "+0.15 / +2.61", "0.18"),
    "hrnet_lite0_int8": ("302", "+3.13 / +12.73", "–", "0.18"),
    "hrnet_w18_small": ("450", "+1.44 / +9.07", "+0.04 / +0.70", "0.15"),
    "hrnet_w18_small_int8": ("294", "+1.43 / +9.04", "–", "0.15"),
    "hrnet_w18_small_2x": ("–", "+1.52 / +9.89", "+0.05 / +0.77", "0.14"),
}
"""What the table in README.md says of shipped weights, which tells how it was measured: CPU ms per
megapixel, Δ mIoU / Δ F@1px on two sets, harm rate; –: not measured."""


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
    path, sha256 = locate_weights(name_or_path)
    return path if sha256 is None else check_weights(path)


def locate_weights(name_or_path: str | Path | None = None) -> tuple[Path, str | None]:
    """Find the ONNX file of a name or path, and the SHA-256 that it must have.

    Returns:
        The path; the SHA-256 in hex, None where any will do: of what wasn't shipped, and of what is
        named by its path.

    Raises:
        SegfixError: There is no such name or file, or checksums are missing.
    """
    shipped = shipped_weights()
    wanted = str(name_or_path or DEFAULT_WEIGHTS)
    if wanted in shipped:
        path = shipped[wanted]
        # What somebody has put there is known to nobody.
        return path, shipped_digests(path.parent).get(path.name)
    path = Path(wanted)
    if path.is_file():
        return path, None
    fetched = fetched_weights()
    if wanted in fetched:
        return fetched[wanted], None
    names = ", ".join([*shipped, *fetched]) or "none: this installation is incomplete"
    raise SegfixError(f"{wanted}: no such weights; expected an ONNX file or a name ({names}).")


def weights_home() -> Path:
    """Find the folder of fetched weights: `SEGFIX_HOME`, or segfix in the user's cache folder."""
    home = Path.home()
    if given := os.environ.get(HOME):
        return Path(given).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local", "segfix", "Cache")
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "segfix"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache", "segfix")


def fetched_weights() -> dict[str, Path]:
    """List the ONNX files in the folder of fetched weights, by name."""
    return {path.stem: path for path in sorted(weights_home().glob("*.onnx"))}


def fetch_weights(url: str, sha256: str) -> Path:
    """Fetch an ONNX file into the folder of fetched weights, where its name finds it.

    Args:
        url: https:// or http://, its last part the file's name.
        sha256: Its SHA-256 in hex, which it must have.

    Returns:
        Its path; what is there already, with this SHA-256, isn't fetched again.

    Raises:
        SegfixError: It can't be fetched, is another file, or another one of that name is there.
        MissingExtraError: pooch isn't installed.
    """
    parts = urlsplit(url)
    name = parts.path.rpartition("/")[2]
    if parts.scheme not in ("https", "http") or not name.endswith(".onnx"):
        raise SegfixError("not fetched", path=url, advice="expected https://HOST/…/NAME.onnx")
    path = weights_home() / name
    if path.stem in shipped_weights():
        raise SegfixError(f"{path.stem}: the name of shipped weights; give the file another one.")
    if path.exists():
        if file_digest(path) == sha256:
            return path
        raise SegfixError(
            "there is another file of that name", path=path, advice="remove it, or rename the new"
        )
    with require_extra("fetch"):
        import pooch
    pooch.get_logger().setLevel("ERROR")
    try:
        pooch.retrieve(url, f"sha256:{sha256}", fname=name, path=path.parent)
    except ValueError as error:
        raise SegfixError(
            "another file than that SHA-256 is of", path=url, advice="nothing was kept"
        ) from error
    except OSError as error:
        # Those of requests, too: of an answer, of the disk, and of none.
        answer = getattr(error, "response", None)
        if answer is not None:
            reason = f"can't be fetched ({answer.status_code} {answer.reason})"
        elif error.strerror:
            reason = f"can't be kept ({error.strerror})"
        else:
            reason = "can't be reached"
        advice = "check the address, or download it by other means and give the file (--weights)"
        raise SegfixError(reason, path=url, advice=advice) from error
    return path


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
    sha256 = shipped_digests(path.parent).get(path.name)
    if sha256 is not None:
        check_digest(path, file_digest(path), sha256)
    return path


def check_digest(path: Path, found: str, sha256: str) -> None:
    """Raise `SegfixError` unless the SHA-256 of shipped weights is what it must be."""
    if found != sha256:
        raise SegfixError(
            f"{path}: damaged, its SHA-256 isn't that of the weights as shipped; install segfix "
            "again."
        )


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
