"""An answer leaves in one piece, a stream is not held up, and both arrive as they were sent."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from annotation.web.one_write import OneWrite

LONG = "A body of many lines.\n" * 20_000


class Recording:
    """A transport that notes each piece it is given."""

    pieces: list[bytes] = []

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def write(self, data: bytes) -> None:
        self.pieces.append(bytes(data))
        self._transport.write(data)

    def writelines(self, parts: Any) -> None:
        self.pieces.append(b"".join(parts))
        self._transport.writelines(parts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class RecordedOneWrite(OneWrite):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Recording(transport))  # type: ignore[arg-type]


def build_app() -> FastAPI:
    app, go_on = FastAPI(), asyncio.Event()

    @app.post("/vote", status_code=201)
    async def vote() -> dict[str, bool]:
        return {"saved": True}

    @app.get("/long")
    async def long() -> PlainTextResponse:
        return PlainTextResponse(LONG)

    @app.get("/nothing")
    async def nothing() -> Response:
        return Response(status_code=204)

    @app.get("/last")
    async def last() -> PlainTextResponse:
        return PlainTextResponse("the last one", headers={"Connection": "close"})

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            yield "one\n"
            await go_on.wait()
            for number in range(5):
                yield f"{number}\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    @app.post("/go-on")
    async def go() -> None:
        go_on.set()

    return app


@pytest.fixture(params=["uvloop", "asyncio"])
def client(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    Recording.pieces = []
    config = uvicorn.Config(
        build_app(), port=0, log_level="warning", loop=request.param, http=RecordedOneWrite
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as browser:
        yield browser
    server.should_exit = True
    thread.join(10)


def test_head_and_body_leave_in_one_piece(client: httpx.Client) -> None:
    for _ in range(2):
        assert client.post("/vote").json() == {"saved": True}
    assert len(Recording.pieces) == 2
    for piece in Recording.pieces:
        assert piece.startswith(b"HTTP/1.1 201 ") and piece.endswith(b'{"saved":true}')


def test_every_answer_arrives_whole(client: httpx.Client) -> None:
    assert client.get("/long").text == LONG
    assert client.get("/nothing").status_code == 204
    assert client.head("/long").status_code == 405
    assert client.get("/last").text == "the last one"
    assert client.post("/vote").status_code == 201


def test_a_stream_is_not_held_up(client: httpx.Client) -> None:
    with client.stream("GET", "/stream") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "one"
        # Only now: the first line came while the second was still to be written.
        client.post("/go-on")
        assert list(lines) == ["0", "1", "2", "3", "4"]


def test_a_reader_who_leaves_ends_the_stream_and_nobody_else(client: httpx.Client) -> None:
    with client.stream("GET", "/stream") as answer, contextlib.suppress(StopIteration):
        next(answer.iter_lines())
    client.post("/go-on")
    assert client.post("/vote").json() == {"saved": True}
