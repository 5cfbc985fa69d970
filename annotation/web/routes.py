"""The voters' HTTP routes under /api: bodies in, receipts out, every error one line.

Owns status codes and the shape of bodies, as interface.md promises them. Decides nothing about
pairs and votes: that is `Voting`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from annotation.schema import Choice, Reason
from annotation.voting import IssuedPair, Voting
from annotation.web.api_errors import FIELDS, OneLineRoute, Refused, error_answers
from annotation.web.callers import Callers
from annotation.web.me_routes import ModelsOut, ReceiptOut, add_me_routes, models_out, receipt_out
from annotation.web.voters import Caller, TokenBuckets, VoterCookies

MAX_COMMENT_CHARACTERS = 2000
RETRY_WHEN_DRY_S = 2
"""What POST /api/pairs asks for while none is ready: a sampled batch takes about that long."""


@dataclass(frozen=True, slots=True)
class Health:
    """What GET /api/health says. `argilla` is ready, starting or unreachable.

    `sampling` is what keeps new pairs from being drawn, None while nothing does.
    `trouble` is what the owner has to mend while voting goes on, in one line.
    """

    status: str
    pairs_ready: int
    argilla: str
    undelivered: int
    base_model: str
    sampling: str | None = None
    trouble: str | None = None


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


class VoteOut(BaseModel):
    """A vote that is on disk. `models` is null for a skip."""

    id: str
    saved: Literal[True] = True
    counted: bool
    why: str | None = Field(description="why it does not count, or null")
    models: ModelsOut | None


class HealthOut(BaseModel):
    status: str
    pairs_ready: int = Field(description="pairs that still want a vote and are leased to nobody")
    argilla: str = Field(description='"ready", "starting" or "unreachable"')
    undelivered: int = Field(description="votes that Argilla has not got yet")
    base_model: str
    sampling: str | None = Field(description="why no new pairs are drawn, or null")
    trouble: str | None = Field(None, description="what the owner has to mend, or null")


_VoteId = Annotated[str, Path(alias="id", min_length=1, max_length=100, description=FIELDS["id"])]


def build_vote_routes(
    voting: Voting,
    cookies: VoterCookies,
    health: Callable[[], Health],
    *,
    not_yet: Callable[[], str | None] = lambda: None,
) -> APIRouter:
    """Everything under /api. `health` is called in a thread, so it may read the journal.

    `not_yet` says why no pair may be given yet, None once they may.
    """
    router = APIRouter(prefix="/api", tags=["votes"], route_class=OneLineRoute)
    votes_per_voter = TokenBuckets()
    pairs_per_voter = TokenBuckets(rate_per_s=10.0, burst=40)
    callers = Callers(cookies, voting)
    Voter = Annotated[str, Depends(callers.voter)]  # noqa: N806 - a type
    Elector = Annotated[Caller, Depends(callers.elector)]  # noqa: N806

    @router.get("/health", summary="State", tags=["state"])
    def get_health() -> HealthOut:
        now = health()
        return HealthOut(
            status=now.status,
            pairs_ready=now.pairs_ready,
            argilla=now.argilla,
            undelivered=now.undelivered,
            base_model=now.base_model,
            sampling=now.sampling,
            trouble=now.trouble,
        )

    @router.post(
        "/pairs",
        status_code=201,
        summary="The next pair",
        responses=error_answers(401, 413, 429, 503, 507),
    )
    async def post_pair(caller: Elector) -> PairOut:
        """At most 4 are open at once, leased for 30 minutes; past that an open one comes again."""
        slow_down(pairs_per_voter, caller, "pairs")
        if why := not_yet():
            raise Refused(503, why, retry_after_s=RETRY_WHEN_DRY_S)
        issued = await voting.next_pair(caller.voter)
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
            **error_answers(401, 403, 404, 409, 413, 422, 429, 507),
        },
    )
    async def post_vote(caller: Elector, body: VoteIn, response: Response) -> VoteOut:
        """Answered after the vote is on disk; only then are the models told."""
        slow_down(votes_per_voter, caller, "votes")
        receipt = await voting.vote(
            caller.voter,
            body.pair,
            body.choice,
            reasons=tuple(body.reasons or ()),
            comment=body.comment or "",
            signed_in=caller.signed_in,
        )
        if receipt.replayed:
            response.status_code = 200
        return VoteOut(
            id=receipt.id, counted=receipt.counted, why=receipt.why, models=models_out(receipt)
        )

    @router.patch(
        "/votes/{id}",
        summary="Say why",
        responses=error_answers(403, 404, 409, 413, 422, 507),
    )
    async def patch_vote(voter: Voter, vote_id: _VoteId, body: WordsIn) -> ReceiptOut:
        """Reasons and comment, after the vote."""
        reasons = None if body.reasons is None else tuple(body.reasons)
        return receipt_out(
            await voting.amend(voter, vote_id, reasons=reasons, comment=body.comment)
        )

    @router.delete("/votes/{id}", summary="Undo", responses=error_answers(403, 404, 409, 422, 507))
    async def delete_vote(voter: Voter, vote_id: _VoteId) -> ReceiptOut:
        """The vote stays in the journal, superseded. A revealed pair can't be voted on again."""
        return receipt_out(await voting.undo(voter, vote_id))

    add_me_routes(router, voting, callers)
    return router


def slow_down(buckets: TokenBuckets, caller: Caller, what: str) -> None:
    """Take one token of the caller's, or refuse with 429."""
    wait_s = buckets.take(caller.voter)
    if wait_s:
        raise Refused(
            429, f"Too many {what} at once: wait a second, then go on.", retry_after_s=wait_s
        )


def pair_out(issued: IssuedPair) -> PairOut:
    prompt = [MessageOut(role=m.role, content=m.content) for m in issued.prompt.messages]
    return PairOut(id=issued.id, prompt=prompt, a=issued.a, b=issued.b)
