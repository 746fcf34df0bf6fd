"""The HTTP service: who may ask, what is answered, and how much is done at a time."""

from __future__ import annotations

import asyncio
import ipaddress
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segfix import __version__
from segfix.errors import MissingExtraError, SegfixError
from segfix.files.limits import current_limits
from segfix.jobs.pool import Threads
from segfix.serve.connection import HEADER_SECONDS, Connection
from segfix.serve.result import FORM, Result, fix_upload, send_result
from segfix.serve.upload import Upload, receive_upload
from segfix.tasks.fixing import Fixing

ASSETS = {
    "/": ("text/html", ["serve/page.html"]),
    "/page.css": ("text/css", ["report/base.css", "report/slider.css", "serve/page.css"]),
    "/page.js": ("text/javascript", ["report/slider.js", "serve/page.js"]),
    "/docs": ("text/html", ["serve/docs.html"]),
    "/docs.js": ("text/javascript", ["serve/docs.js"]),
    "/openapi.json": ("application/json", ["serve/openapi.json"]),
}
"""What there is to read: its type, and the files of the package that it is made of."""

EVERY_ANSWER = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src blob: data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
"""Headers: nothing is loaded from elsewhere, and no other page may show or read this one."""

MOST_CONNECTIONS = 1000
"""Browsers keep some open that ask for nothing."""

RETRY_AFTER = "5"
"""Seconds after which a client that was sent away may ask again."""


@dataclass(frozen=True)
class Capacity:
    """What clients can take of the machine.

    Attributes:
        workers: Uploads that are worked on at a time.
        queue: Further ones that may arrive, wait or be sent back at the time.
        timeout: Seconds for an upload to arrive, for it to be fixed, and for the result to be sent.
    """

    workers: int = 2
    queue: int = 32
    timeout: float = 120.0


def build_app(
    fixing: Fixing,
    folder: Path,
    capacity: Capacity = Capacity(),
    hosts: frozenset[str] = frozenset(),
) -> tuple[ASGIApp, Desk]:
    """Build the service; sizes are limited as where this is called, see `limit_reading`.

    Args:
        fixing: The network.
        folder: Private, for uploads.
        capacity: How much is done at a time.
        hosts: Names that it may be asked by, besides addresses and localhost.

    Returns:
        The application, and its desk, whose `pool` is to be shut down in the end.
    """
    model, limits = fixing.model, current_limits()
    desk = Desk(fixing, folder, capacity, limits.max_bytes)
    status = {
        "version": __version__,
        "weights": model.metadata["name"],
        "conditioned": model.conditioned,
        "device": model.device,
        "max_bytes": limits.max_bytes,
        "max_pixels": limits.max_pixels,
    }
    there: dict[str, ASGIApp] = {"/status": JSONResponse(status)}
    for path, (media_type, names) in ASSETS.items():
        texts = (files("segfix").joinpath(name).read_text(encoding="utf-8") for name in names)
        there[path] = Response("".join(texts), media_type=media_type)
    routes = [Route(path, answer, methods=["GET"]) for path, answer in there.items()]
    app = Starlette(
        routes=[*routes, Route("/fix", desk, methods=["POST"])],
        exception_handlers=dict.fromkeys(
            (HTTPException, SegfixError, OSError, MemoryError, ClientDisconnect, Exception), explain
        ),
    )
    return Guard(app, hosts), desk


def build_server(app: ASGIApp, patience: float = HEADER_SECONDS) -> uvicorn.Server:
    """Build what serves the application at a socket; its own messages are of faults alone.

    Args:
        app: The application.
        patience: Seconds for the headers of a request to arrive.
    """
    config = uvicorn.Config(
        app,
        http=partial(Connection, patience=patience),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=10,
    )
    return uvicorn.Server(config)


async def explain(_: Request, error: Exception) -> Response:
    """Answer a request that failed with one line."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    status, text = 500, "the server has a fault; its own messages say more."
    if isinstance(error, SegfixError):
        status, text = 501 if isinstance(error, MissingExtraError) else 422, str(error)
    elif isinstance(error, OSError):
        status, text = 503, f"the server can't work ({error.strerror})."
    elif isinstance(error, MemoryError):
        status, text = 503, "the server is out of memory; send smaller pictures."
    return JSONResponse({"error": text}, status)


class Guard:
    """Refuse what other pages in a user's browser ask, and add `EVERY_ANSWER` to what is sent.

    Args:
        app: What is asked otherwise.
        hosts: See `build_app`.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self.app, self.hosts = app, hosts
        self.added = [(name.encode(), value.encode()) for name, value in EVERY_ANSWER.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *self.added]}
            await send(message)

        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        app = self.app
        if not self.is_known(host):
            text = f"{host!r} is no name of this service; --allow-host adds names."
            app = JSONResponse({"error": text}, 421)
        elif origin is not None and origin.partition("://")[2].lower() != host.lower():
            app = JSONResponse({"error": "other pages may not use this service."}, 403)
        await app(scope, receive, send_more)

    def is_known(self, host: str) -> bool:
        """Tell whether a request's host is an address or a name of ours.

        Whoever owns another name could let it point here, and a page of that name would be no
        other page to the browser.
        """
        with suppress(ValueError):
            name = urlsplit(f"//{host}").hostname or ""
            return name in ("localhost", *self.hosts) or bool(ipaddress.ip_address(name))
        return False


class Desk:
    """Take uploads, so many at a time, and send back what they have become.

    Attributes:
        pool: Threads that work on uploads.
    """

    def __init__(self, fixing: Fixing, folder: Path, capacity: Capacity, max_bytes: int) -> None:
        self.fixing, self.folder = fixing, folder
        self.capacity, self.max_bytes = capacity, max_bytes
        self.pool = Threads(capacity.workers)
        # Limits of reading hold in it.
        self._context = copy_context()
        self._places = threading.Semaphore(capacity.workers + capacity.queue)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an upload."""
        if not self._places.acquire(blocking=False):
            text = "too many uploads at a time; try again."
            raise HTTPException(503, text, {"retry-after": RETRY_AFTER})
        with ExitStack() as held:
            held.callback(self._places.release)
            folder = Path(mkdtemp(dir=self.folder))
            held.callback(shutil.rmtree, folder, ignore_errors=True)
            request = Request(scope, receive)
            upload = await self.receive(request, folder)
            result = await self.finish(upload, request, held)
            answer = send_result(result)
            # Who doesn't take the result by then is cut off.
            with suppress(TimeoutError):
                async with asyncio.timeout(self.capacity.timeout):
                    await answer(scope, receive, send)

    async def receive(self, request: Request, folder: Path) -> Upload:
        """Receive an upload in time."""
        try:
            async with asyncio.timeout(self.capacity.timeout):
                return await receive_upload(request, folder, self.max_bytes)
        except TimeoutError as error:
            text = f"the upload took more than {self.capacity.timeout:g} s; --timeout allows more."
            raise HTTPException(408, text, {"connection": "close"}) from error

    async def finish(self, upload: Upload, request: Request, held: ExitStack) -> Result:
        """Fix an upload, as long as its client waits.

        Args:
            upload: It.
            request: Of which everything has arrived.
            held: What is given back in the end; where work can't be stopped, it keeps it as long.
        """
        pictures = FORM in request.headers.get("accept", "")
        work = partial(fix_upload, upload, self.fixing, pictures=pictures)
        job: Future[Result] = self._context.run(self.pool.submit, work)
        done = asyncio.wrap_future(job)
        gone = asyncio.ensure_future(wait_until_gone(request))
        try:
            timeout, first = self.capacity.timeout, asyncio.FIRST_COMPLETED
            await asyncio.wait((done, gone), timeout=timeout, return_when=first)
            if done.done():
                return done.result()
            if gone.done():
                raise ClientDisconnect
            if job.running():
                text = f"it took more than {timeout:g} s; send smaller pictures."
                raise HTTPException(504, text)
            text = "too many uploads before this one; try again."
            raise HTTPException(503, text, {"retry-after": RETRY_AFTER})
        finally:
            gone.cancel()
            if not job.done() and not job.cancel():
                job.add_done_callback(_closing(held.pop_all()))
            done.cancel()


def _closing(held: ExitStack) -> Callable[[object], None]:
    return lambda _: held.close()


async def wait_until_gone(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
