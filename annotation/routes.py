"""The voters' HTTP routes under /api: bodies in, receipts out, every error one line.

Owns status codes and the shape of bodies, as interface.md promises them. Decides nothing about
pairs and votes: that is `Voting`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.requests import Request

from annotation.api_errors import FIELDS, ErrorOut, OneLineRoute, Refused
from annotation.gold import GOLD_MODEL
from annotation.schema import Choice, ModelRef, Reason
from annotation.voters import Caller, TokenBuckets, VoterCookies, came_over_https
from annotation.voting import IssuedPair, Receipt, Voting

MAX_COMMENT_CHARACTERS = 2000
RETRY_WHEN_DRY_S = 2
"""What POST /api/pairs asks for while none is ready: a sampled batch takes about that long."""


@dataclass(frozen=True, slots=True)
class Health:
    """What GET /api/health says. `argilla` is ready, starting or unreachable."""

    status: str
    pairs_ready: int
    argilla: str
    undelivered: int
    base_model: str


def _no_nul(text: str) -> str:
    # PostgreSQL, under many an Argilla, cannot hold it: the vote would never be delivered.
    if "\0" in text:
        raise ValueError("holds a NUL character")
    return text


def _once(reasons: list[Reason]) -> list[Reason]:
    return list(dict.fromkeys(reasons))


_Reasons = Annotated[
    list[Reason],
    Field(max_length=16, description=FIELDS["reasons"]),
    AfterValidator(_once),
]
_Comment = Annotated[
    str,
    Field(max_length=MAX_COMMENT_CHARACTERS, description=FIELDS["comment"]),
    AfterValidator(_no_nul),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class VoteIn(_Body):
    """A vote on a pair that this voter was given."""

    pair: str = Field(min_length=1, max_length=100, description=FIELDS["pair"])
    choice: Choice = Field(description=FIELDS["choice"])
    reasons: _Reasons | None = None
    comment: _Comment | None = None


class WordsIn(_Body):
    """New reasons or a new comment; what is absent stays as it is."""

    reasons: _Reasons | None = None
    comment: _Comment | None = None


class MessageOut(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: str


class PairOut(BaseModel):
    """A blind pair: the prompt, and the two answers by side."""

    id: str
    prompt: list[MessageOut]
    a: str
    b: str


class ModelsOut(BaseModel):
    """The models behind the sides that this voter saw."""

    a: str
    b: str


class VoteOut(BaseModel):
    """A vote that is on disk. `models` is null for a skip."""

    id: str
    saved: Literal[True] = True
    counted: bool
    why: str | None = Field(description="why it does not count, or null")
    models: ModelsOut | None


class ReceiptOut(BaseModel):
    """All that is stored of one vote."""

    id: str
    pair: str
    choice: Choice
    counted: bool
    why: str | None
    created_at: datetime
    undone_at: datetime | None
    models: ModelsOut | None
    reasons: list[Reason]
    comment: str
    in_argilla: bool


class HealthOut(BaseModel):
    status: str
    pairs_ready: int = Field(description="pairs that still want a vote and are leased to nobody")
    argilla: str = Field(description='"ready", "starting" or "unreachable"')
    undelivered: int = Field(description="votes that Argilla has not got yet")
    base_model: str


_VoteId = Annotated[str, Path(alias="id", min_length=1, max_length=100, description=FIELDS["id"])]
_SAYS = {
    403: "Another voter's pair or vote",
    404: "No such pair or vote",
    409: "Already decided otherwise",
    413: "A body of more than 64 KiB",
    422: "A malformed body",
    429: "More than 5 votes a second after a burst of 20; see Retry-After",
    503: "No pair is ready; see Retry-After",
    507: "The server's disk is full; nothing was saved",
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorOut, "description": _SAYS[status]} for status in statuses}


def voter_of(cookies: VoterCookies) -> Callable[[Request], str]:
    """Who sent a request, as a dependency; a new voter's answer sets the cookie."""

    def voter(request: Request) -> str:
        caller: Caller = cookies.caller(request)
        if caller.is_new:
            secure = came_over_https(request)
            # Set by OneLineRoute on whatever is answered, so that a 503 names the voter too.
            request.state.finish = lambda answer: cookies.attach(
                answer, caller.voter, secure=secure
            )
        return caller.voter

    return voter


def build_vote_routes(
    voting: Voting, cookies: VoterCookies, health: Callable[[], Health]
) -> APIRouter:
    """Everything under /api. `health` is called in a thread, so it may read the journal."""
    router = APIRouter(prefix="/api", tags=["votes"], route_class=OneLineRoute)
    buckets = TokenBuckets()

    Voter = Annotated[str, Depends(voter_of(cookies))]  # noqa: N806 - a type

    @router.get("/health", summary="State", tags=["state"])
    def get_health() -> HealthOut:
        now = health()
        return HealthOut(
            status=now.status,
            pairs_ready=now.pairs_ready,
            argilla=now.argilla,
            undelivered=now.undelivered,
            base_model=now.base_model,
        )

    @router.post(
        "/pairs", status_code=201, summary="The next pair", responses=_errors(413, 503, 507)
    )
    async def post_pair(voter: Voter) -> PairOut:
        """At most 4 are open at once, leased for 30 minutes; past that an open one comes again."""
        issued = await voting.next_pair(voter)
        if issued is None:
            raise Refused(
                503,
                "No pair is ready yet, the model is writing: try again in 2 seconds.",
                retry_after_s=RETRY_WHEN_DRY_S,
            )
        return pair_out(issued)

    @router.post(
        "/votes",
        status_code=201,
        summary="Vote",
        responses={
            200: {"model": VoteOut, "description": "A replay: stored before, nothing changed"},
            **_errors(403, 404, 409, 413, 422, 429, 507),
        },
    )
    async def post_vote(voter: Voter, body: VoteIn, response: Response) -> VoteOut:
        """Answered after the vote is on disk; only then are the models told."""
        wait_s = buckets.take(voter)
        if wait_s:
            raise Refused(
                429, "Too many votes at once: wait a second, then go on.", retry_after_s=wait_s
            )
        receipt = await voting.vote(
            voter,
            body.pair,
            body.choice,
            reasons=tuple(body.reasons or ()),
            comment=body.comment or "",
        )
        if receipt.replayed:
            response.status_code = 200
        return VoteOut(
            id=receipt.id, counted=receipt.counted, why=receipt.why, models=_models_out(receipt)
        )

    @router.patch(
        "/votes/{id}",
        summary="Say why",
        responses=_errors(403, 404, 409, 413, 422, 507),
    )
    async def patch_vote(voter: Voter, vote_id: _VoteId, body: WordsIn) -> ReceiptOut:
        """Reasons and comment, after the vote."""
        reasons = None if body.reasons is None else tuple(body.reasons)
        return _receipt_out(
            await voting.amend(voter, vote_id, reasons=reasons, comment=body.comment)
        )

    @router.delete("/votes/{id}", summary="Undo", responses=_errors(403, 404, 409, 422, 507))
    async def delete_vote(voter: Voter, vote_id: _VoteId) -> ReceiptOut:
        """The vote stays in the journal, superseded. A revealed pair can't be voted on again."""
        return _receipt_out(await voting.undo(voter, vote_id))

    @router.get("/me/votes", summary="My votes, oldest first")
    async def get_receipts(voter: Voter) -> list[ReceiptOut]:
        return [_receipt_out(receipt) for receipt in await voting.receipts(voter)]

    return router


def pair_out(issued: IssuedPair) -> PairOut:
    prompt = [MessageOut(role=m.role, content=m.content) for m in issued.prompt.messages]
    return PairOut(id=issued.id, prompt=prompt, a=issued.a, b=issued.b)


def _models_out(receipt: Receipt) -> ModelsOut | None:
    if receipt.models is None:
        return None
    a, b = receipt.models
    return ModelsOut(a=_spoken(a), b=_spoken(b))


def _spoken(model: ModelRef) -> str:
    # A gold pair's answers are nobody's: its owner wrote or chose them beforehand.
    return "a prepared answer" if model.base == GOLD_MODEL else model.label


def _receipt_out(receipt: Receipt) -> ReceiptOut:
    return ReceiptOut(
        id=receipt.id,
        pair=receipt.pair_id,
        choice=receipt.choice,
        counted=receipt.counted,
        why=receipt.why,
        created_at=receipt.created_at,
        undone_at=receipt.undone_at,
        models=_models_out(receipt),
        reasons=list(receipt.reasons),
        comment=receipt.comment,
        in_argilla=receipt.in_argilla,
    )
