"""How the routes under /api refuse: one status, one clear line, never a library's list.

Owns the limit on a body, the reading of JSON, and the words of every error. Never tells a voter
a path or a traceback.
"""

import json
import logging
import math
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Mount, Route
from starlette.types import Receive, Scope, Send

from annotation.journal.journal import (
    JournalError,
    JournalFull,
    NotYours,
    UnknownPair,
    UnknownVote,
    VoteConflict,
)

MAX_BODY_BYTES = 64 * 1024
_SHOWN_CHARACTERS = 60
_STATUS: dict[type[JournalError], int] = {
    UnknownPair: 404,
    UnknownVote: 404,
    NotYours: 403,
    VoteConflict: 409,
}
FIELDS = {
    "pair": "the id of a pair from POST /api/pairs",
    "choice": '"a", "b", "tie", "both_bad" or "skip"',
    "reasons": 'a list of "correct", "clear", "safe", "style"',
    "comment": "text of at most 2000 characters, none of them NUL",
    "text": "a prompt of 1 to 2000 characters",
    "id": "the id of a vote from GET /api/me/votes",
    "since": "an ISO time with its zone, of the last 48 hours, such as 2026-03-01T00:00:00Z",
    "limit": "a whole number from 1 to 1000",
    "before": "the id of one of your own votes",
    "order": '"oldest" or "newest"',
}
"""What would do, by field: the words of a refusal and of the OpenAPI document."""
_SAYS = {
    401: "Votes without sign-in are refused here; `sign_in` is where to, if anywhere",
    403: "Another voter's pair or vote",
    404: "No such pair or vote",
    409: "Already decided otherwise",
    413: "A body of more than 64 KiB",
    422: "A malformed body or query",
    429: "More than 5 votes a second after 20 at once, or 10 pairs after 40; see Retry-After",
    503: "No pair is ready; see Retry-After",
    507: "The server's disk is full; nothing was saved",
}
_log = logging.getLogger(__name__)


class ErrorOut(BaseModel):
    """What every refusal says: one line for a person."""

    detail: str


class SignInOut(ErrorOut):
    """A refusal that signing in would lift; `sign_in` only where that is possible."""

    sign_in: str | None = None


def error_answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How a route documents its refusals."""
    return {
        status: {"model": SignInOut if status == 401 else ErrorOut, "description": _SAYS[status]}
        for status in statuses
    }


class Refused(Exception):
    """A route's own refusal. `sign_in` is where signing in would lift it."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        retry_after_s: float | None = None,
        sign_in: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.sign_in = sign_in

    def response(self) -> Response:
        wait = self.retry_after_s
        headers = None if wait is None else {"Retry-After": str(max(1, math.ceil(wait)))}
        said = {"detail": self.detail} | ({"sign_in": self.sign_in} if self.sign_in else {})
        return JSONResponse(said, self.status, headers)


class OneLineRoute(APIRoute):
    """A route that reads at most 64 KiB and answers every error as {"detail": one line}.

    A dependency may leave `request.state.finish`, a function of the answer, whatever it is.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                _refuse_large(request.headers.get("content-length"))
                response = await answer(_SmallRequest(request.scope, request.receive))
            except Exception as error:  # noqa: BLE001 - the request's boundary
                response = _refusal(error).response()
            finish = getattr(request.state, "finish", None)
            if finish is not None:
                finish(response)
            return response

        return handle


class _SmallRequest(Request):
    """A request whose body is bounded, and whose JSON is refused in one line."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            chunks = bytearray()
            async for chunk in self.stream():
                chunks += chunk
                _refuse_large(str(len(chunks)))
            self._body = bytes(chunks)
        return self._body

    async def json(self) -> Any:
        try:
            value = json.loads(await self.body())
        except (ValueError, RecursionError):
            raise HTTPException(
                422, "The body is not valid JSON: send one JSON object in UTF-8."
            ) from None
        for name, part in value.items() if isinstance(value, dict) else [("body", value)]:
            if not _is_unicode([name, part]):
                raise HTTPException(422, f"{name!a} holds a lone surrogate: send whole characters.")
        return value


def install_api_errors(app: FastAPI) -> None:
    """Answer what no route under /api takes: 404, or 405 with Allow, as one line of JSON.

    Call it after every other /api route and before anything is mounted on "/".
    """
    app.router.routes.append(Route("/api/{rest:path}", _Unmatched(app), include_in_schema=False))


class _Unmatched:
    """The last route under /api, for every method."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        called = f"{scope['method']} {scope['path'][:_SHOWN_CHARACTERS]!r}"
        methods = self._methods_here(scope)
        if methods:
            names = ", ".join(methods)
            response = JSONResponse(
                {"detail": f"{called} is not a route: this path takes {names}."},
                405,
                {"Allow": names},
            )
        else:
            detail = f"{called} is not a route: /api/docs lists those there are."
            response = JSONResponse({"detail": detail}, 404)
        await response(scope, receive, send)

    def _methods_here(self, scope: Scope) -> list[str]:
        def takes(method: str) -> bool:
            asked = {**scope, "method": method}
            return any(
                route.matches(asked)[0] is Match.FULL
                for route in self._app.routes
                if getattr(route, "app", None) is not self and not isinstance(route, Mount)
            )

        return [method for method in ("DELETE", "GET", "PATCH", "POST", "PUT") if takes(method)]


def _refuse_large(length: str | None) -> None:
    if length is not None and (not length.isdigit() or int(length) > MAX_BODY_BYTES):
        raise HTTPException(413, "The body is larger than 64 KiB: shorten the comment.")


def _is_unicode(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def _refusal(error: Exception) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, RequestValidationError):
        return Refused(422, _first_line(error))
    if isinstance(error, HTTPException):
        return Refused(error.status_code, str(error.detail))
    if isinstance(error, JournalFull):
        return Refused(
            507, "The server's disk is full, so nothing was saved: keep this page and try later."
        )
    if isinstance(error, JournalError) and type(error) in _STATUS:
        return Refused(_STATUS[type(error)], str(error))
    _log.error("A request under /api failed", exc_info=error)
    return Refused(500, "The server failed and saved nothing: try again in a minute.")


def _first_line(error: RequestValidationError) -> str:
    """The first fault in words: which field, what came, and what would do."""
    first = error.errors()[0]
    place, kind, got = first["loc"], first["type"], _shown(first.get("input"))
    if len(place) < 2:
        what = "is missing" if kind == "missing" else "is not a JSON object"
        return f"The body {what}: send a JSON object with Content-Type application/json."
    name = str(place[1])
    wanted = f"send {FIELDS.get(name, 'what /api/docs says')}"
    if kind == "extra_forbidden":
        return f"{_shown(name)} is not a field here: leave it out."
    if kind == "missing":
        return f'"{name}" is missing: {wanted}.'
    return f'"{name}" can\'t be {got}: {wanted}.'


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
