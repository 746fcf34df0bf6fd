"""ONNX files in onnxruntime: sessions, devices, and the files' metadata."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfix.errors import DeviceError, FileFormatError, SegfixError
from segfix.files.reading import check_regular
from segfix.geometry import NUM_DIRECTIONS

METADATA_KEY = "segfix"
DISTANCE, WRONG = "distance", "wrong"
"""Second input and fourth output of networks that look at a prediction, too."""
CALIBRATION = (3.85, -0.55)
"""Slope and intercept of calibrate for networks exported without data to measure them on."""
TEXTS = ("name", "license", "terms", "precision")
PRECISION_SCORES = tuple(
    (precision, score)
    for precision in ("fp32", "int8")
    for score in ("mask_f", "direction_accuracy")
)
"""Scores in the metadata of networks in 8 bits."""

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

KINDS = {
    "segfix network": ("a SegFix network", "predict-offsets"),
    "segmentation network": ("a segmentation network", "segment"),
}
"""Kinds of ONNX files: what they hold, and the command that takes them."""

EXTERNAL_DATA = re.compile(rb"(?:\x0a|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location")
"""The entry `location` of weights that lie in another file, with its tag and length in every form
that protobuf allows. Our files have none."""
LONGEST_TAGS = 64
"""Bytes: of two numbers of protobuf, each of which takes ten at most, and more than enough."""


def check_image(image: NDArray[Any]) -> None:
    """Raise `ValueError` unless an array is a photograph."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        advice = "np.array(PIL.Image.open(path).convert('RGB')) gives one"
        if image.ndim == 3 and image.shape[0] == 3:
            advice = "image.transpose(1, 2, 0) puts the colours last"
        elif image.ndim == 3 and image.shape[2] == 3 and image.dtype.kind == "f":
            advice = "(255 * image).astype(np.uint8), if it is from 0 to 1"
        raise ValueError(
            f"Expected an (H, W, 3) uint8 image but got {image.shape} {image.dtype}; {advice}."
        )


@contextlib.contextmanager
def report_failures(image: NDArray[np.uint8]) -> Iterator[None]:
    """Turn a network's failure inside the block into a `SegfixError`, and check its photograph.

    Raises:
        ValueError: The array is no photograph.
        SegfixError: The network failed.
    """
    check_image(image)
    try:
        yield
    except Exception as error:
        # onnxruntime's exceptions have no common base but Exception.
        reason = str(error).partition("\n")[0] or type(error).__name__
        too_little = re.search("alloc|memory", reason, re.IGNORECASE)
        advice = "use smaller pictures" if too_little else "use other --weights, or --device cpu"
        raise SegfixError(
            f"the network failed on a picture of {image.shape[1]}×{image.shape[0]} ({reason}); "
            f"{advice}."
        ) from error


def available_threads() -> int:
    """Count the cores that this process may use: its affinity mask, its cgroup's quota."""
    # os.process_cpu_count (Python 3.13) knows no quota; joblib rounds it up.
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return cores


def read_onnx(path: Path) -> bytes:
    """Read the bytes of an ONNX file, which must be self-contained.

    Raises:
        FileFormatError: The file can't be read, or names others, which onnxruntime would open.
    """
    check_regular(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"{path}: can't be read ({error.strerror or error}).") from error
    if names_files(content):
        raise FileFormatError(
            f"{path}: an ONNX file whose weights lie in other files; make one with 'segfix export'."
        )
    return content


def names_files(content: bytes) -> bool:
    """Tell whether an ONNX file names others, which hold its weights."""
    place = content.find(b"location")
    while place >= 0:
        # The expression alone would take longer to search all than onnxruntime to load it.
        if EXTERNAL_DATA.search(content, max(place - LONGEST_TAGS, 0), place + len(b"location")):
            return True
        place = content.find(b"location", place + 1)
    return False


def import_runtime() -> Any:
    """Import onnxruntime when a network is opened: it takes as long as all the rest."""
    import onnxruntime

    return onnxruntime


def open_session(
    path: Path, content: bytes, device: str, threads: int, *, shared_arena: bool = False
) -> tuple[Any, str]:
    """Open an onnxruntime session on the device asked for, and tell that device's name.

    Args:
        path: The ONNX file, for messages.
        content: Its bytes, of `read_onnx`.
        device: See `load`.
        threads: Of the CPU.
        shared_arena: Whether memory is taken from one arena with others, which the process keeps.

    Raises:
        FileFormatError: The file is no ONNX file.
        DeviceError: The device isn't there; onnxruntime would fall back to the CPU without a word.
    """
    check_installation()
    kind, _, index = str(device).partition(":")
    if kind not in (*PROVIDERS, "auto") or (index and not index.isdecimal()):
        raise DeviceError(f"device {device!r}: expected auto, cpu, cuda, cuda:N or tensorrt.")
    tries = [kind] if kind != "auto" else ["cuda", "cpu"] if has_nvidia_driver() else ["cpu"]
    ort = import_runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Plans of memory for every size of picture make runs faster by a hundredth, and pictures of
    # four sizes take twice the memory of one.
    options.enable_mem_pattern = False
    if shared_arena:
        make_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    # Failures are reported by us, in one line.
    options.log_severity_level = 4
    ort.set_default_logger_severity(4)
    for attempt in tries:
        provider = PROVIDERS[attempt]
        if provider not in ort.get_available_providers():
            continue
        choices: list[Any] = [provider]
        if attempt != "cpu":
            choices = [(provider, {"device_id": int(index or 0)}), PROVIDERS["cpu"]]
            if attempt == "cuda":
                choices[0][1]["cudnn_conv_algo_search"] = "HEURISTIC"
        try:
            # onnxruntime prints its fallback to stdout, where our results go.
            with contextlib.redirect_stdout(io.StringIO()):
                if attempt != "cpu" and hasattr(ort, "preload_dlls"):
                    # CUDA's libraries that are Python packages, as those of the extra `cuda`.
                    ort.preload_dlls()
                session = ort.InferenceSession(content, options, providers=choices)
        except Exception as error:
            # onnxruntime's exceptions have no common base but Exception.
            if attempt != "cpu" and is_onnx(content):
                continue
            raise FileFormatError(
                f"{path}: not a readable ONNX file ({type(error).__name__}); make one with "
                "'segfix export'."
            ) from error
        if session.get_providers()[0] == provider:
            return session, attempt if attempt == "cpu" else f"{attempt}:{index or 0}"
    raise DeviceError(
        f"device {device!r} isn't available here: no such GPU, or its libraries don't load; "
        "pip install 'segfix-refine[cuda]' brings CUDA's, --device cpu does without."
    )


@cache
def make_arena() -> None:
    """Make the arena that sessions share; where a program has made one, that is taken."""
    ort = import_runtime()
    kind = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = ort.OrtMemoryInfo("Cpu", kind, 0, ort.OrtMemType.DEFAULT)
    with contextlib.suppress(RuntimeError):
        ort.create_and_register_allocator(memory, ort.OrtArenaCfg({}))


def is_onnx(content: bytes) -> bool:
    """Tell whether the CPU provider can load the file."""
    ort = import_runtime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(content, options, providers=[PROVIDERS["cpu"]])
    except Exception:
        return False
    return True


def has_nvidia_driver() -> bool:
    """Tell whether CUDA's driver library loads; without it the CUDA provider only complains."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def check_installation() -> None:
    """Refuse an environment in which two builds of onnxruntime overwrite each other."""
    # By their folders: importlib.metadata takes as long to import as a network to be read.
    present = {
        path.name.partition("-")[0]
        for folder in sys.path
        for path in Path(folder).glob("onnxruntime*.dist-info")
    }
    if {"onnxruntime", "onnxruntime_gpu"} <= present:
        raise SegfixError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; mend it: "
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
        )


def read_metadata(session: Any, path: Path, kind: str, outputs: Sequence[str]) -> dict[str, Any]:
    """Read our metadata in an ONNX file.

    Args:
        session: Of the file.
        path: The file, for messages.
        kind: What the metadata must say it is, a key of `KINDS`.
        outputs: Of the network.

    Raises:
        FileFormatError: The file is not one that `segfix export` made of such a network.
    """
    what, _ = KINDS[kind]
    found = None
    try:
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, "null")
        names = [node.name for node in (*session.get_inputs(), *session.get_outputs())]
        metadata = json.loads(text)
        expected = ["image", *outputs]
        if metadata.get("conditioned", False):
            expected = ["image", DISTANCE, *outputs, WRONG]
        found = KINDS.get(metadata["kind"])
        known = (
            metadata["kind"] == kind
            and metadata["version"] == 1
            and names == expected
            and all(isinstance(metadata.get(key, ""), str) for key in TEXTS)
            and metadata["name"]
            and isinstance(metadata["backbone"], str)
            and isinstance(metadata["step"], int)
            and isinstance(metadata["data"], dict)
            and all(isinstance(score, int | float) for score in metadata["scores"].values())
            and (has_sectors if kind == "segfix network" else has_classes)(metadata, session)
        )
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError):
        known = False
    if found and found != KINDS[kind]:
        raise FileFormatError(
            f"{path}: {found[0]}, for 'segfix {found[1]}'; expected an ONNX file of {what}."
        )
    if not known:
        raise FileFormatError(
            f"{path}: an ONNX file, but not one of {what}; make one with 'segfix export'."
        )
    return dict(metadata)


def are_numbers(values: Iterable[Any]) -> bool:
    """Tell whether all are finite numbers."""
    most = sys.float_info.max
    return all(isinstance(value, int | float) and abs(value) <= most for value in values)


def has_sectors(metadata: dict[str, Any], _: Any) -> bool:
    """Tell whether m, γ, calibration and losses by precision can be those of a SegFix network."""
    slope, intercept = calibration = metadata.get("calibration", CALIBRATION)
    losses = metadata.get("precision_scores", {}).values()
    return (
        metadata["num_directions"] in NUM_DIRECTIONS
        and isinstance(metadata["num_directions"], int)
        and are_numbers([metadata["boundary_width"], slope, intercept])
        and isinstance(metadata.get("conditioned", False), bool)
        and metadata["boundary_width"] > 0
        and not isinstance(calibration, str)
        and all(
            are_numbers(loss[precision][score] for precision, score in PRECISION_SCORES)
            and are_numbers(score for part in loss.values() for score in part.values())
            for loss in losses
        )
    )


def has_classes(metadata: dict[str, Any], session: Any) -> bool:
    """Tell whether there is an id for each class that the network tells apart."""
    class_ids = metadata["class_ids"]
    return len(class_ids) == session.get_outputs()[0].shape[1] and all(
        isinstance(value, int) and 0 <= value < 256**4 for value in class_ids
    )
