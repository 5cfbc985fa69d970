"""An answer goes to the network in one piece: uvicorn's HTTP protocol, with its writes joined.

Owns when bytes leave. uvicorn writes an answer's head and its body one after the other, and each
write wakes the browser's side: for the second, a short answer such as a vote's waits, and costs
the server a second system call. What they say is uvicorn's.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class OneWrite(HttpToolsProtocol):
    """uvicorn's protocol on httptools, over a transport that joins what follows at once."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        joined = cast(asyncio.Transport, JoinedWrites(transport, self.loop))
        super().connection_made(joined)


class JoinedWrites:
    """A transport that keeps a first write back for a second one, until the loop's next step.

    Two writes are sent as the second is made; one alone, as a stream's, is not held up by waiting.
    All else is the transport's own.
    """

    __slots__ = ("_held", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: bytes | None = None

    def write(self, data: bytes) -> None:
        """Send `data` with what was held, or hold it."""
        if self._held is not None:
            self._transport.writelines((self._held, data))
            self._held = None
        elif data:
            self._held = data
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Send what was held, then close as the transport does."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held is not None:
            self._transport.write(self._held)
            self._held = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
