"""Ask the service as programs do."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import Any

BOUNDARY = "frontier"

IMAGE, PREDICTION = Path("images/a.png"), Path("preds/a.png")
FORM = "multipart/form-data"
PAIR = {"image": ("a.png", b"?"), "prediction": ("a.png", b"?")}


def form(
    files: Mapping[str, tuple[str, bytes]], fields: Mapping[str, object] | None = None
) -> bytes:
    """The body of a form."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in (fields or {}).items()
    ]
    for field, (name, content) in files.items():
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"'
        parts.append(head.encode() + b"\r\n\r\n" + content + b"\r\n")
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def error(self) -> str:
        """The one line of an error."""
        told = json.loads(self.body)
        assert list(told) == ["error"]
        text: str = told["error"]
        assert "\n" not in text
        assert "segfix-serve" not in text
        return text

    @property
    def parts(self) -> dict[str, tuple[str | None, bytes]]:
        """File name and content of each part of a form."""
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        message: Any = BytesParser(policy=HTTP).parsebytes(head + self.body)
        return {
            part.get_param("name", header="content-disposition"): (
                part.get_filename(),
                part.get_payload(decode=True),
            )
            for part in message.iter_parts()
        }


def ask(
    port: int, method: str, path: str, body: Any = None, timeout: float = 60, **headers: str
) -> Answer:
    """Ask once; header names have _ for -."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def post(
    port: int, image: Path | None, prediction: Path | None, accept: str = "*/*", **fields: object
) -> Answer:
    """Send two files under their names."""
    given = {"image": image, "prediction": prediction}
    files = {name: (path.name, path.read_bytes()) for name, path in given.items() if path}
    return post_form(port, form(files, fields), accept=accept)


def post_form(port: int, body: Any, **headers: str) -> Answer:
    """Send a form."""
    named: dict[str, Any] = {"content_type": f"multipart/form-data; boundary={BOUNDARY}"}
    return ask(port, "POST", "/fix", body, **{**named, **headers})


def named(path: Path) -> tuple[str, bytes]:
    """A file as a form holds it."""
    return path.name, path.read_bytes()


def good_form() -> bytes:
    """What is answered with a fixed file."""
    return form({"image": named(IMAGE), "prediction": named(PREDICTION)})
