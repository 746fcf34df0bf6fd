"""A connection whose client must send the headers of a request in time."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 20.0
"""For them to arrive, from when a connection is made or an answer is sent."""

LATE = b'{"error": "the headers of the request took too long."}'


class Connection(H11Protocol):
    """Close where nothing is asked, or a request's headers come too slowly.

    Args:
        given: Of uvicorn.
        patience: Seconds for the headers to arrive.
    """

    def __init__(self, *given: Any, patience: float = HEADER_SECONDS, **more: Any) -> None:
        super().__init__(*given, **more)
        self.patience = patience
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """End to wait."""
        super().connection_lost(exc)
        self._stop()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._wait()

    def _wait(self) -> None:
        self._stop()
        self._late = self.loop.call_later(self.patience, self._give_up)

    def _stop(self) -> None:
        if self._late:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        # None at first, whatever uvicorn's types say.
        busy = self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]
        if busy or self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:
            head = f"content-type: application/json\r\ncontent-length: {len(LATE)}\r\n"
            start = f"HTTP/1.1 408 Request Timeout\r\n{head}connection: close\r\n\r\n"
            self.transport.write(start.encode() + LATE)
        self.transport.close()
