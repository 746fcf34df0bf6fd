"""Pipes, devices, folders and links in circles where a file is expected: no wait, no endless read.

What reads them is a process of its own, which may neither run nor write for long.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs pipes and /dev/zero")

COMMON = """
import resource, sys
from pathlib import Path
from segfix.errors import SegfixError

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
folders = [Path(name) for name in sys.argv[1:]]

def read(function, path):
    try:
        function(path)
    except SegfixError as error:
        assert str(error).startswith(str(path)), error
        return
    raise AssertionError(f"{function} reads {path}")
"""

READ = """
from segfix.evaluation import evaluate_instances
from segfix.formats import read_frames, read_image, read_label_map
from segfix.formats import read_offset_map
from segfix.formats.arrays import read_npy, read_npz
from segfix.instances.cityscapes import read_list
from segfix.formats.class_names import read_class_names
from segfix.instances.panoptic import read_panoptic_map
from segfix.files.naming import read_name_map
from segfix.instances.by_image import read_file_names
from segfix.formats.mat_files import read_mat
from segfix.files.provenance import content_digest
from segfix.network.session import read_onnx
from segfix.network.weights import find_weights
from segfix.training.layouts import find_labelled_images

readers = {
    "x.png": [
        read_image, read_label_map, read_offset_map, read_panoptic_map, content_digest
    ],
    "x.npy": [read_npy, read_label_map],
    "x.npz": [read_npz, read_label_map, read_offset_map],
    "x.mat": [read_mat, read_offset_map],
    "x.flo": [read_offset_map],
    "x.json": [read_file_names, lambda path: evaluate_instances(path, path)],
    "x.txt": [read_class_names, read_name_map, lambda path: read_list(path, path.parent)],
    "x.onnx": [read_onnx, find_weights],
    "x.mp4": [read_frames],
}
for folder in folders:
    for name, functions in readers.items():
        for function in functions:
            read(function, folder / name)
"""

RESULT = """
from segfix.files.provenance import read_record
from segfix.jobs.task import Output

for folder in folders:
    # In nothing's place, a result is welcome.
    for name in ("x.png", "x.npy") if (folder / "x.png").exists() else ():
        for overwrite in (False, True):
            read(lambda path: Output(path, overwrite).check({}), folder / name)
"""

RECORD = """
from segfix.files.provenance import is_whole, read_record

for folder in folders:
    (folder / "y.npy").write_bytes(b"whatever")
    assert read_record(folder / "y.npy") is None
    assert is_whole(folder / "y.npy")
"""

KINDS = ("pipe", "device", "folder", "socket", "circle", "nowhere")
NAMES = [f"x{ending}" for ending in (".png", ".npy", ".npz", ".mat", ".flo", ".json", ".txt")]
NAMES += ["x.onnx", "x.mp4", ".y.npy.segfix"]


def make(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    else:
        path.symlink_to({"device": "/dev/zero", "circle": path.name, "nowhere": "none"}[kind])


def test_what_is_no_file_is_refused_or_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in KINDS:
        folder = tmp_path / kind
        folder.mkdir()
        monkeypatch.chdir(folder)
        for name in NAMES:
            make(Path(name), kind)
    done = subprocess.run(
        [sys.executable, "-c", COMMON + READ + RESULT + RECORD, *KINDS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for kind in KINDS:
        assert {path.name for path in (tmp_path / kind).iterdir()} == {*NAMES, "y.npy"}
