"""A service in this process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from segfix.files.limits import limit_reading
from segfix.network.offset_model import load
from segfix.serve.app import Capacity, Desk, build_app, build_server
from segfix.tasks.fixing import Fixing


@dataclass(frozen=True)
class Service:
    """Where it is."""

    port: int
    folder: Path
    desk: Desk

    def settle(self, seconds: float = 10) -> None:
        """Wait until it keeps nothing of anybody and has room for all."""
        room = self.desk.capacity.workers + self.desk.capacity.queue
        deadline = time.monotonic() + seconds
        while True:
            free = vars(self.desk)["_places"]._value
            if free == room and not list(self.folder.iterdir()):
                return
            assert time.monotonic() < deadline, (free, list(self.folder.iterdir()))
            time.sleep(0.02)


@pytest.fixture
def start(conditioned_onnx: Path, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts services of the tiny network, which end with the test and keep nothing."""
    ended = ExitStack()

    def start_one(
        hosts: frozenset[str] = frozenset(),
        max_bytes: int = 1 << 24,
        patience: float = 20,
        **capacity: Any,
    ) -> Service:
        folder = tmp_path / f"uploads-segfix-serve-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        listening = ended.enter_context(socket.create_server(("127.0.0.1", 0)))
        with limit_reading(max_bytes=max_bytes):
            model = load(conditioned_onnx, device="cpu")
            app, desk = build_app(
                Fixing(lambda: model), folder.resolve(), Capacity(**capacity), hosts
            )
        server = build_server(app, patience)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        service = Service(listening.getsockname()[1], folder, desk)

        def end() -> None:
            service.settle()
            server.should_exit = True
            thread.join()
            desk.pool.shutdown()

        ended.callback(end)
        while not server.started:
            time.sleep(0.01)
        return service

    with ended:
        yield start_one


@pytest.fixture
def service(start: Callable[..., Service]) -> Service:
    """One with room."""
    return start()
