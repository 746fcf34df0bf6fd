from __future__ import annotations

import ctypes
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

import segfix
from segfix.errors import DeviceError, FileFormatError, SegfixError
from segfix.network import session
from segfix.network.offset_model import OffsetModel, load
from segfix.network.session import available_threads, has_nvidia_driver, names_files
from segfix.network.weights import DEFAULT_WEIGHTS, file_digest, find_weights, shipped_weights


def test_offsets_hold_direction_and_confidence_of_every_boundary_pixel(tiny_onnx: Path) -> None:
    image = np.zeros((5, 7, 3), np.uint8)
    image[1, 2] = (255, 3 * 16, 255)
    image[2, 2] = (128, 7 * 16, 32)
    image[3, 3] = (127, 2 * 16, 255)
    offset_map = load(tiny_onnx).offsets(image)
    vectors = offset_map.vectors()
    assert vectors[:, 1, 2].tolist() == [-1, 1]
    assert vectors[:, 2, 2].tolist() == [1, -1]
    assert not vectors[:, 3, 3].any(), "a probability below one half is no boundary"
    assert np.count_nonzero(offset_map.codes) == 2
    assert offset_map.codes[1, 2] == 1 + 3 + 8 * 7, "full confidence is the highest level"
    assert offset_map.codes[2, 2] == 1 + 7, "the least confidence there is is level 0"
    assert offset_map.vectors(min_confidence=0.5)[:, 2, 2].tolist() == [0, 0]
    assert offset_map.source == {"weights": "tiny", "weights_sha256": file_digest(tiny_onnx)}


def test_top_level_names_are_the_library(tiny_onnx: Path) -> None:
    offset_map = segfix.load(tiny_onnx).offsets(np.zeros((4, 6, 3), np.uint8))
    labels = np.arange(24, dtype=np.uint16).reshape(4, 6)
    assert np.array_equal(segfix.refine(labels, offset_map), labels)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 6), np.uint8), np.zeros((4, 6, 4), np.uint8), np.zeros((4, 6, 3))]
)
def test_an_array_that_is_no_rgb_image_is_refused(
    tiny_onnx: Path, image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> None:
    with pytest.raises(ValueError, match="Expected an"):
        load(tiny_onnx).predict(image)


def test_a_file_that_is_no_onnx_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.onnx"
    path.write_text("no network")
    with pytest.raises(FileFormatError, match=r"weights\.onnx: not a readable ONNX file"):
        load(path)


def test_an_onnx_file_of_somebody_else_is_named(foreign_onnx: Path) -> None:
    with pytest.raises(FileFormatError, match=r"foreign\.onnx: an ONNX file, but not one of"):
        load(foreign_onnx)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"name": "tiny"', b'"name": "t\xff\xffy"'),
        (b'"boundary_width": 5,', b'"boundary_width": 1' + b"0" * 400 + b","),
        (b'"boundary_width": 5,', b'"boundary_width": NaN,'),
    ],
)
def test_metadata_that_cannot_be_so_are_named(
    tiny_onnx: Path, tmp_path: Path, before: bytes, after: bytes
) -> None:
    model = onnx.load(str(tiny_onnx))
    text = model.metadata_props[0].value.encode()
    assert before in text
    # As long as it will be; not every text of a file is one of Python's.
    model.metadata_props[0].value = "x" * len(text.replace(before, after))
    content = model.SerializeToString()
    mark = model.metadata_props[0].value.encode()
    path = tmp_path / "odd.onnx"
    path.write_bytes(content.replace(mark, text.replace(before, after)))
    with pytest.raises(FileFormatError, match=r"odd\.onnx: an ONNX file, but not one of"):
        load(path, device="cpu")


def test_unknown_weights_are_answered_with_the_names_there_are() -> None:
    with pytest.raises(SegfixError, match=f"no such weights.*{DEFAULT_WEIGHTS}"):
        find_weights("resnet")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:-1", ""])
def test_unknown_devices_are_refused(tiny_onnx: Path, device: str) -> None:
    with pytest.raises(DeviceError, match="expected auto, cpu, cuda"):
        OffsetModel(tiny_onnx, device)


def test_the_provider_obtained_is_compared_with_the_one_asked_for(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # onnxruntime answers a CUDA request on a machine without CUDA with a CPU session.
    real = onnxruntime.InferenceSession

    def falls_back(path: str, options: object, providers: object) -> object:
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(
        onnxruntime,
        "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    with pytest.raises(DeviceError, match="'cuda' isn't available here"):
        OffsetModel(tiny_onnx, "cuda")
    monkeypatch.setattr(session, "has_nvidia_driver", lambda: True)
    assert OffsetModel(tiny_onnx, "auto").device == "cpu"


def test_cuda_libraries_that_are_python_packages_are_loaded_before_the_session(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # Its provider's library looks for them on the system alone.
    calls = []

    def preload() -> None:
        print("Failed to load libcurand.so.10")
        calls.append("libraries")

    real = onnxruntime.InferenceSession

    def open_session(content: bytes, options: object, providers: list[Any]) -> object:
        calls.append("session")
        return real(content, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    with pytest.raises(DeviceError, match="'cuda' isn't available here"):
        OffsetModel(tiny_onnx, "cuda")
    assert calls == ["libraries", "session"]
    OffsetModel(tiny_onnx, "cpu")
    assert calls == ["libraries", "session", "session"]
    assert capfd.readouterr().out == ""


def test_a_gpu_whose_session_fails_is_told_from_a_file_that_is_no_network(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = onnxruntime.InferenceSession

    def fails_on_gpus(content: bytes, options: object, providers: list[Any]) -> object:
        if providers != ["CPUExecutionProvider"]:
            raise RuntimeError("CUDA error 999")
        return real(content, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", fails_on_gpus)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(
        onnxruntime,
        "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    monkeypatch.setattr(session, "has_nvidia_driver", lambda: True)
    assert OffsetModel(tiny_onnx, "auto").device == "cpu"
    with pytest.raises(DeviceError, match="'cuda:1' isn't available here"):
        OffsetModel(tiny_onnx, "cuda:1")
    path = tmp_path / "weights.onnx"
    path.write_text("no network")
    with pytest.raises(FileFormatError, match="not a readable ONNX file"):
        OffsetModel(path, "auto")


def test_a_driver_that_does_not_load_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", refuses)
    assert not has_nvidia_driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: name)
    assert has_nvidia_driver()


@pytest.mark.parametrize(
    ("failure", "reason", "advice"),
    [
        (RuntimeError("Failed to allocate memory\nmore"), "Failed to allocate memory", "smaller"),
        (MemoryError(), "MemoryError", "smaller"),
        (RuntimeError("CUDNN_STATUS_EXECUTION_FAILED"), "CUDNN_STATUS", "--device cpu"),
    ],
)
def test_smaller_pictures_are_advised_where_memory_is_what_was_missing(
    tiny_onnx: Path, failure: Exception, reason: str, advice: str
) -> None:
    class Session:
        def run(self, *_: object) -> None:
            raise failure

    model = load(tiny_onnx)
    model.session = Session()
    with pytest.raises(SegfixError, match=rf"picture of 5×4 \({reason}.*\); use .*{advice}"):
        model.offsets(np.zeros((4, 5, 3), np.uint8))


@pytest.mark.parametrize("answers", ["sectors", "sizes", "types"])
def test_a_network_with_other_answers_than_maps_of_sectors_is_refused(
    tiny_onnx: Path, answers: str
) -> None:
    model, good = load(tiny_onnx), np.zeros((1, 4, 5), np.uint8)
    wrong: NDArray[Any] = good + 8
    if answers != "sectors":
        wrong = good[:, :3] if answers == "sizes" else good.astype(np.float32)

    class Session:
        def run(self, *_: object) -> list[NDArray[Any]]:
            return [wrong, good, good]

    model.session = Session()
    match = "not 8 directions" if answers == "sectors" else "no maps of that size"
    with pytest.raises(SegfixError, match=match):
        model.predict(np.zeros((4, 5, 3), np.uint8))


def test_a_pickled_network_is_opened_anew_from_its_bytes(tiny_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "copied.onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    model = OffsetModel(path, threads=1)
    pickled = pickle.dumps(model)
    path.unlink()
    copy = pickle.loads(pickled)
    assert (copy.source, copy.device, copy.threads) == (model.source, "cpu", 1)
    image = np.random.default_rng(0).integers(0, [256, 128, 256], (4, 5, 3)).astype(np.uint8)
    np.testing.assert_array_equal(copy.offsets(image).codes, model.offsets(image).codes)


def test_weights_that_are_no_file_or_gone_are_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone.onnx"):
        with pytest.raises(SegfixError, match=path.name):
            OffsetModel(path)


def test_two_builds_of_onnxruntime_are_refused_with_the_remedy(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnxruntime", "onnxruntime_gpu"):
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SegfixError, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        load(tiny_onnx)


def test_threads_are_at_least_one_and_within_the_affinity_mask() -> None:
    assert 1 <= available_threads() <= 4096


@pytest.mark.parametrize(
    ("quota", "threads"),
    [
        ("max 100000", 8),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("nonsense", 8),
        (None, 8),
    ],
)
def test_threads_are_within_the_quota_of_the_control_group(
    monkeypatch: pytest.MonkeyPatch, quota: str | None, threads: int
) -> None:
    def read_text(path: Path) -> str:
        assert path == Path("/sys/fs/cgroup/cpu.max")
        if quota is None:
            raise FileNotFoundError(path)
        return quota

    monkeypatch.setattr(Path, "read_text", read_text)
    # As on macOS.
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert available_threads() == threads


def test_the_default_weights_are_shipped_and_run_at_any_size() -> None:
    assert DEFAULT_WEIGHTS in shipped_weights()
    model = load()
    for height, width in ((1, 1), (33, 70), (64, 32)):
        assert model.offsets(np.zeros((height, width, 3), np.uint8)).codes.shape == (height, width)


def test_onnxruntime_reports_nothing_unless_allowed(tmp_path: Path) -> None:
    """Where it reports, onnxruntime begins with a session's file among the temporary ones."""
    for allowed in ("", "0"):
        folder = tmp_path / f"temporary{allowed}"
        folder.mkdir()
        environment = {**os.environ, "TMPDIR": str(folder), "ORT_DISABLE_TELEMETRY": allowed}
        if not allowed:
            del environment["ORT_DISABLE_TELEMETRY"]
        code = (
            "import os, segfix; segfix.load(device='cpu'); "
            "print(os.environ['ORT_DISABLE_TELEMETRY'])"
        )
        told = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        assert told.strip() == (allowed or "1")
        if not allowed:
            assert [*folder.iterdir()] == []


@pytest.mark.parametrize(
    "tags", [b"\x0a\x08", b"\x8a\x00\x88\x00", b"\x8a\x80\x80\x00\x88\x80\x00", b"\x0a\x88\x00"]
)
def test_names_of_other_files_are_found_in_every_form(tags: bytes) -> None:
    plain = b"location" * 3 + bytes(100) + b"location" + bytes(100)
    assert not names_files(plain)
    assert names_files(plain + tags + b"location" + bytes(9))
