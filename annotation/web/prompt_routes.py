"""The route by which a voter asks a prompt of their own and watches both answers grow.

Owns its status codes and its lines of JSON. What is asked, drawn and stored is `OwnPrompts`'s.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from annotation.asking import (
    MAX_PROMPT_CHARACTERS,
    AlreadyAsking,
    Answered,
    AskedTooOften,
    Asking,
    AskLater,
    BadPrompt,
    Draft,
    Line,
    Shown,
    TooManyAsking,
)
from annotation.faults import Fault
from annotation.own_prompts import OwnPrompts, OwnPromptsOff
from annotation.web.api_errors import FIELDS, ErrorOut, OneLineRoute, Refused, error_answers
from annotation.web.routes import pair_out

MEDIA_TYPE = "application/x-ndjson"
_STATUS: dict[type[Fault], int] = {
    OwnPromptsOff: 403,
    AlreadyAsking: 409,
    BadPrompt: 422,
    AskedTooOften: 429,
    TooManyAsking: 503,
}
_SAYS = {
    403: "Own prompts are off here",
    409: "This voter's last prompt is still being answered",
    413: "A body of more than 64 KiB",
    422: "A malformed body, or a prompt that is empty or too long",
    429: "More than one prompt in 10 seconds after a burst of 3; see Retry-After",
    503: "Many voters are asking; see Retry-After",
}
_LINES = (
    'Lines of JSON: {"a", "b"} with both answers so far, and last {"pair": {"id", "prompt", "a", '
    '"b"}}, to be voted on like any pair, or {"error": one line}'
)


class PromptIn(BaseModel):
    """A prompt of this voter's own."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS, description=FIELDS["text"])


def build_prompt_routes(
    own: OwnPrompts, voter: Callable[[Request], str] | Callable[[Request], Awaitable[str]]
) -> APIRouter:
    """POST /api/prompts; `voter` names who sent a request, as a dependency of FastAPI's."""
    router = APIRouter(prefix="/api", tags=["prompts"], route_class=OneLineRoute)
    Voter = Annotated[str, Depends(voter)]  # noqa: N806 - a type
    answers: dict[int | str, dict[str, Any]] = {
        200: {"content": {MEDIA_TYPE: {}}, "description": _LINES},
        **error_answers(401),
        **{code: {"model": ErrorOut, "description": says} for code, says in _SAYS.items()},
    }

    @router.post(
        "/prompts",
        summary="Ask a prompt of your own",
        response_class=StreamingResponse,
        responses=answers,
    )
    async def post_prompt(voter: Voter, body: PromptIn) -> StreamingResponse:
        """Both answers come from one model, sides as this voter will vote on them."""
        try:
            asking = own.ask(voter, body.text)
        except tuple(_STATUS) as error:
            wait_s = error.wait_s if isinstance(error, AskLater) else None
            raise Refused(_STATUS[type(error)], str(error), retry_after_s=wait_s) from None
        return _Lines(asking)

    return router


class _Lines(StreamingResponse):
    """Streams an asking, and leaves it however the streaming ends: a reader who goes stops it."""

    def __init__(self, asking: Asking) -> None:
        super().__init__(_to_lines(asking), media_type=MEDIA_TYPE)
        # A proxy that collects a stream before it passes it on would hide it.
        self.headers["X-Accel-Buffering"] = "no"
        self.headers["Cache-Control"] = "no-store"
        self._asking = asking

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._asking.leave()


async def _to_lines(asking: Asking) -> AsyncIterator[str]:
    async for line in asking.lines():
        yield json.dumps(_to_json(line)) + "\n"


def _to_json(line: Line) -> dict[str, object]:
    if isinstance(line, Draft | Shown):
        return {side: answer.text for side, answer in zip("ab", line.answers, strict=False)}
    if isinstance(line, Answered):
        return {"pair": pair_out(line.pair).model_dump()}
    return {"error": line.why}
