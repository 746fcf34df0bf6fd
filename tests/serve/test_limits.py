"""What bounds the work of the HTTP API: size, time, how many at once, clients that go away."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segfix.network.offset_model import OffsetModel
from tests.serve.client import (
    BOUNDARY,
    IMAGE,
    PAIR,
    PREDICTION,
    ask,
    form,
    good_form,
    named,
    post,
    post_form,
)
from tests.serve.conftest import Service


@pytest.fixture(autouse=True)
def here(work: Path) -> Path:
    """Photographs and predictions."""
    return work


def chunks(*parts: bytes, pause: float = 0) -> Iterator[bytes]:
    for part in parts:
        yield part
        time.sleep(pause)


@pytest.mark.parametrize("known", [True, False])
def test_an_upload_too_large_is_refused(start: Callable[..., Service], known: bool) -> None:
    service = start(max_bytes=100_000)
    body = form(PAIR | {"image": ("a.png", bytes(100_001))})
    sent = body if known else chunks(*(body[i : i + 5000] for i in range(0, len(body), 5000)))
    answer = post_form(service.port, sent)
    assert answer.status == 413
    assert answer.error == "the upload has more than 100000 bytes; --max-bytes allows more."


def test_an_upload_too_slow_is_refused(start: Callable[..., Service]) -> None:
    service = start(timeout=0.5)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        head = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: 9999"
        connection.sendall(f"POST /fix HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
        connection.sendall(form(PAIR)[:150])
        answer = connection.makefile("rb").read()
    assert 0.4 < time.monotonic() - began < 10
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the upload took more than 0.5 s; --timeout allows more." in answer
    service.settle()


def test_headers_too_slow_are_refused(start: Callable[..., Service]) -> None:
    service = start(patience=0.5)
    began = time.monotonic()
    with (
        socket.create_connection(("127.0.0.1", service.port), timeout=20) as slow,
        socket.create_connection(("127.0.0.1", service.port), timeout=20) as silent,
        socket.create_connection(("127.0.0.1", service.port), timeout=20) as second,
    ):
        slow.sendall(b"GET /status HTTP/1.1\r\nHost: localhost\r\n")
        second.sendall(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\nGET /status HTTP/1.1\r\n")
        with suppress(OSError):
            for _ in range(20):
                time.sleep(0.1)
                slow.sendall(b"x: y\r\n")
        answer = slow.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert answer.endswith(b'{"error": "the headers of the request took too long."}')
        assert silent.makefile("rb").read() == b""
        both = second.makefile("rb").read()
    assert 0.4 < time.monotonic() - began < 10
    assert (both.count(b"HTTP/1.1 200 "), both.count(b"HTTP/1.1 408 ")) == (1, 1)
    # Not the work, nor an upload that arrives.
    assert post(service.port, IMAGE, PREDICTION).status == 200


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The network waits for it; `reached` counts how many do."""
    opened, look = threading.Event(), OffsetModel.offsets
    vars(opened)["reached"] = threading.Semaphore(0)

    def wait(model: OffsetModel, *arguments: Any, **more: Any) -> Any:
        vars(opened)["reached"].release()
        assert opened.wait(30)
        return look(model, *arguments, **more)

    monkeypatch.setattr(OffsetModel, "offsets", wait)
    yield opened
    opened.set()


def reach(gate: threading.Event) -> None:
    assert vars(gate)["reached"].acquire(timeout=20)


def test_who_finds_the_queue_full_is_told_to_come_back(
    start: Callable[..., Service], gate: threading.Event
) -> None:
    service = start(workers=1, queue=1)
    with ThreadPoolExecutor(2) as others:
        waiting = [others.submit(post, service.port, IMAGE, PREDICTION) for _ in range(2)]
        reach(gate)
        while vars(service.desk)["_places"]._value:
            time.sleep(0.01)
        answer = post_form(service.port, form(PAIR | {"image": ("a.png", bytes(3_000_000))}))
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert answer.error == "too many uploads at a time; try again."
        assert ask(service.port, "GET", "/").status == 200
        gate.set()
        assert [one.result().status for one in waiting] == [200, 200]
    assert post(service.port, IMAGE, PREDICTION).status == 200


def test_work_that_takes_too_long_ends_for_its_client(
    start: Callable[..., Service], gate: threading.Event
) -> None:
    service = start(workers=1, queue=1, timeout=0.5)
    with ThreadPoolExecutor(1) as others:
        first = others.submit(post, service.port, IMAGE, PREDICTION)
        reach(gate)
        second = post(service.port, IMAGE, PREDICTION)
        assert (second.status, second.headers["retry-after"]) == (503, "5")
        assert second.error == "too many uploads before this one; try again."
        assert first.result().status == 504
    # The thread can't be stopped: as long, it counts and keeps its files.
    assert vars(service.desk)["_places"]._value == 1
    assert len(list(service.folder.iterdir())) == 1
    gate.set()
    service.settle()


@pytest.mark.parametrize("when", ["sending", "waiting", "working"])
def test_nothing_is_kept_of_a_client_that_goes_away(
    start: Callable[..., Service], gate: threading.Event, when: str
) -> None:
    service = start(workers=1, queue=2)
    body = good_form()
    with ThreadPoolExecutor(1) as others:
        first = None
        if when == "waiting":
            first = others.submit(post, service.port, IMAGE, PREDICTION)
            reach(gate)
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            head = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
            start_line = "POST /fix HTTP/1.1\r\nHost: localhost"
            length = f"Content-Length: {len(body)}"
            connection.sendall(f"{start_line}\r\n{head}\r\n{length}\r\n\r\n".encode())
            connection.sendall(body[:100] if when == "sending" else body)
            if when == "working":
                reach(gate)
            deadline = time.monotonic() + 10
            while len(list(service.folder.iterdir())) < (2 if first else 1):
                assert time.monotonic() < deadline
        if when == "waiting":
            # Of the one that waits nothing is left, while the first one is still worked on.
            while len(list(service.folder.iterdir())) > 1:
                assert time.monotonic() < deadline
            while vars(service.desk)["_places"]._value != 2:
                assert time.monotonic() < deadline
        gate.set()
        service.settle()
        assert first is None or first.result().status == 200
    looked = 1 + vars(gate)["reached"]._value if when == "working" else 0
    assert looked <= 1


def test_who_doesn_t_take_the_result_is_cut_off(start: Callable[..., Service]) -> None:
    service = start(timeout=1.0)
    np.save("large.npy", np.random.default_rng(0).random((24, 40, 2000), np.float32))
    body = form({"image": named(IMAGE), "prediction": named(Path("large.npy"))})
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", service.port))
        head = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        connection.sendall(f"POST /fix HTTP/1.1\r\nHost: localhost\r\n{head}".encode() + body)
        assert connection.recv(12) == b"HTTP/1.1 200"
        service.settle()


def test_of_many_at_a_time_none_is_lost(start: Callable[..., Service]) -> None:
    service = start(workers=2, queue=6)
    good = good_form()
    bad = form({"image": named(IMAGE), "prediction": ("p.png", b"no picture")})
    expected = post_form(service.port, good).body
    turned_away = 0

    def send(number: int) -> tuple[int, int]:
        nonlocal turned_away
        body, want = [(good, 200), (bad, 422), (b"no form", 400), (good, 200)][number % 4]
        while (answer := post_form(service.port, body)).status == 503:
            turned_away += 1
            time.sleep(0.05)
        assert answer.status != 200 or answer.body == expected
        return want, answer.status

    with ThreadPoolExecutor(60) as clients:
        outcomes = Counter(clients.map(send, range(200)))
    assert outcomes == {(200, 200): 100, (422, 422): 50, (400, 400): 50}
