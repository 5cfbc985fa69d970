"""A chat server that misbehaves on order, for what a real one does too seldom.

Answers what a test scripts: a text by model and seed, whole or as server-sent events; the next
requests fail with a status, a torn stream, a reset, silence. It ignores `n`, as many servers do.
"""

import asyncio
import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

Say = Callable[[dict[str, Any]], str]


def by_seed(body: dict[str, Any]) -> str:
    return f"{body['model']} says {body['seed']}."


@dataclass
class Broken:
    """What happens to one request: a status with headers and a body, or how it is cut."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    cut: str = ""  # "torn", "silence" or "nonsense"


@dataclass
class ChatDouble:
    """`bodies` and `keys` are what was asked and with which Authorization."""

    url: str
    say: Say = by_seed
    models: list[str] | None = None
    answers_as: str | None = None
    faults: deque[Broken] = field(default_factory=deque)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0
    left: int = 0
    hold: threading.Event = field(default_factory=threading.Event)
    pause_s: float = 0.0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        self.keys.append(request.headers.get("authorization"))
        if request.url.path == "/v1/models":
            answer: Response = JSONResponse({"data": [{"id": name} for name in self.models or []]})
            if self.models is None:
                answer = Response("Internal Server Error", 500)
            await answer(scope, receive, send)
            return
        body = await request.json()
        self.bodies.append(body)
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            await asyncio.sleep(self.pause_s)
            await self._answer(body, scope, receive, send)
        finally:
            self.open_now -= 1

    async def _answer(self, body: dict[str, Any], scope: Any, receive: Any, send: Any) -> None:
        fault = self.faults.popleft() if self.faults else None
        if fault and fault.cut == "silence":
            await asyncio.sleep(60)
        if fault and fault.cut == "torn":
            kind = b"text/event-stream" if body["stream"] else b"application/json"
            headers = [(b"content-type", kind), (b"content-length", b"10000")]
            start = self._event(body, "Half an", None) if body["stream"] else '{"choices": [{"mes'
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": start.encode(), "more_body": True})
            raise ConnectionResetError("torn on purpose")
        if fault and fault.cut == "nonsense":
            await JSONResponse({"choices": []})(scope, receive, send)
        elif fault:
            await JSONResponse(fault.body, fault.status, fault.headers)(scope, receive, send)
        elif body["stream"]:
            stream = StreamingResponse(self._events(body), media_type="text/event-stream")
            try:
                await stream(scope, receive, send)
            except asyncio.CancelledError:
                self.left += 1
                raise
        else:
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": self.say(body)},
                "finish_reason": "length" if body["max_tokens"] < 5 else "stop",
            }
            held = {"model": self.answers_as or body["model"], "choices": [choice]}
            await JSONResponse(held)(scope, receive, send)

    async def _events(self, body: dict[str, Any]) -> Any:
        try:
            yield ": a comment\n\n"
            for word in self.say(body).split(" "):
                yield self._event(body, word + " ", None)
                while self.hold.is_set():
                    await asyncio.sleep(0.01)
            yield self._event(body, "", "stop")
            yield "data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.left += 1
            raise

    def _event(self, body: dict[str, Any], text: str, finish: str | None) -> str:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
        held = {"model": self.answers_as or body["model"], "choices": [choice]}
        return f"data: {json.dumps(held)}\n\n"


@contextmanager
def chat_double() -> Iterator[ChatDouble]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        double = ChatDouble(f"http://127.0.0.1:{listener.getsockname()[1]}")
        config = uvicorn.Config(
            double,
            log_level="critical",
            lifespan="off",
            interface="asgi3",
            http="h11",
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield double
        finally:
            double.hold.clear()
            server.should_exit = True
            thread.join(10)
