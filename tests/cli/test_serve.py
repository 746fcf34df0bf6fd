"""`segfix serve` as a process of its own: how it starts, what it takes, how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.commands import run
from tests.serve.client import ask, form, post_form

COMMAND = Path(sys.executable).with_name("segfix")

pytest.importorskip("starlette")


@pytest.fixture
def serve(tmp_path: Path, conditioned_onnx: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts it on a free port; what is left of a process is killed."""
    started: list[subprocess.Popen[str]] = []
    (tmp_path / "temporary").mkdir()

    def start(*arguments: object) -> subprocess.Popen[str]:
        options = ("--weights", conditioned_onnx, "--device", "cpu", "--port", 0, *arguments)
        process = subprocess.Popen(
            [str(COMMAND), "serve", *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(tmp_path / "temporary"), "OMP_NUM_THREADS": "1"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def port_of(process: subprocess.Popen[str]) -> int:
    """Wait for the line that says where it is."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("http://127.0.0.1:"), (line, process.communicate())
    return int(line.rstrip("/\n").rpartition(":")[2])


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_and_leaves_nothing(
    serve: Callable[..., subprocess.Popen[str]], tmp_path: Path, how: signal.Signals
) -> None:
    process = serve()
    assert ask(port_of(process), "GET", "/status").status == 200
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    process.send_signal(how)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert err == "weights conditioned on cpu; Ctrl-C ends it\n"
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--port", port)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"segfix: port {port} of 127.0.0.1 is in use; --port takes another, --port 0 any free "
        "one.\n"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "x" * 300, "a..b"])
def test_an_address_of_others_is_one_line(host: str) -> None:
    result = run("serve", "--port", 0, "--host", host)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"segfix: port 0 of {host} can't be taken (")
    assert result.stderr.count("\n") == 1


def test_other_machines_are_let_in_with_a_warning(
    serve: Callable[..., subprocess.Popen[str]],
) -> None:
    process = serve("--host", "0.0.0.0", "-q")
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("segfix: 0.0.0.0 lets other machines in: whoever reaches port ")
    port = int(line.partition(" port ")[2].split()[0])
    deadline = time.monotonic() + 20
    while True:
        try:
            assert ask(port, "GET", "/status").status == 200
            return
        except ConnectionError:
            assert time.monotonic() < deadline


def test_without_the_extra_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("segfix.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = run("serve")
    assert result.exit_code == 1
    assert "pip install 'segfix-refine[serve]'" in result.stderr


def resident(process: subprocess.Popen[str], what: str) -> int:
    """MiB of memory."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) // 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_clients(
    serve: Callable[..., subprocess.Popen[str]], work: Path
) -> None:
    """Forty uploads of 12 MB at a time, a fifth of them cut short: 480 MB on their way."""
    process = serve("--queue", 6)
    port = port_of(process)
    rng = np.random.default_rng(0)
    image, mask = Path("i.png"), Path("m.npy")
    Image.fromarray(rng.integers(0, 99, (1000, 1000, 3), np.uint8)).save(image, compress_level=0)
    np.save(mask, np.arange(1000 * 1000).reshape(1000, 1000) // 500_000)
    good = form({"image": (image.name, image.read_bytes()), "prediction": named(mask)})
    cut = form({"image": (image.name, image.read_bytes()[:-999]), "prediction": named(mask)})
    assert 10_000_000 < len(good) < 14_000_000
    assert post_form(port, good).status == 200
    before = resident(process, "VmHWM")

    def send(number: int) -> tuple[int, int]:
        body, want = (cut, 422) if number % 5 == 0 else (good, 200)
        while (answer := post_form(port, body)).status == 503:
            time.sleep(0.2)
        return want, answer.status

    with ThreadPoolExecutor(40) as clients:
        outcomes = Counter(clients.map(send, range(40)))
    assert outcomes == {(200, 200): 32, (422, 422): 8}
    # Two are at work; six that arrive or wait lie on the disk, the others are sent away.
    assert resident(process, "VmHWM") - before < 300


def named(path: Path) -> tuple[str, bytes]:
    return path.name, path.read_bytes()
