"""What a voter may ask of their own votes: progress, receipts, and to be forgotten.

Owns the shape of a receipt. Decides nothing about votes: that is `Voting`.
"""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, BaseModel, Field
from starlette.requests import Request

from annotation.gold import GOLD_MODEL
from annotation.progress import Tally
from annotation.schema import Choice, ModelRef, Reason
from annotation.voting import Forgotten, Receipt, Voting
from annotation.web.api_errors import FIELDS, Refused, error_answers
from annotation.web.callers import Callers
from annotation.web.sign_in import LOGOUT_PATH
from annotation.web.voters import Caller

MAX_RECEIPTS = 1000


class ModelsOut(BaseModel):
    """The models behind the sides that this voter saw."""

    a: str
    b: str


class ReceiptOut(BaseModel):
    """All that is stored of one vote, and how what was voted on begins."""

    id: str
    pair: str
    choice: Choice
    counted: bool
    why: str | None = Field(description="why it does not count, or null")
    created_at: datetime
    undone_at: datetime | None
    models: ModelsOut | None
    reasons: list[Reason]
    comment: str
    in_argilla: bool
    prompt: str = Field(description="the last user turn, its first 300 characters")
    a: str = Field(description="the answer on side a as this voter saw it, 300 characters")
    b: str = Field(description="the answer on side b, likewise")


class TallyOut(BaseModel):
    """Live votes, skips left out."""

    today: int
    all: int


class ProgressOut(BaseModel):
    """How many, never which way."""

    mine: TallyOut
    everyone: TallyOut
    pairs_wanted: int = Field(description="pairs that still want votes")


class MeOut(BaseModel):
    """Who asks, as the page greets them."""

    signed_in: bool
    name: str | None = Field(description="the account's name, or null")
    sign_in: str | None = Field(description="where to sign in, or null where nobody can")
    sign_out: str | None = Field(description="where to POST to sign out, or null")


class ForgottenOut(BaseModel):
    deleted: int = Field(description="votes that were stored and are gone")
    published: bool = Field(description="whether copies may have left for the Hub before")
    note: str = Field(description="what that means, in a sentence")


_Since = Annotated[AwareDatetime | None, Query(description=FIELDS["since"])]
_Limit = Annotated[int | None, Query(ge=1, le=MAX_RECEIPTS, description="at most so many")]
_Before = Annotated[
    str | None,
    Query(min_length=1, max_length=100, description="only those cast before this vote of yours"),
]


def add_me_routes(router: APIRouter, voting: Voting, callers: Callers) -> None:
    """GET /progress, GET and DELETE /me/votes."""
    Voter = Annotated[str, Depends(callers.voter)]  # noqa: N806 - a type
    Anyone = Annotated[Caller, Depends(callers.anyone)]  # noqa: N806

    @router.get("/me", summary="Who I am here")
    async def get_me(caller: Anyone) -> MeOut:
        """An account where the caller signed in; else the bearer of a cookie without a name."""
        return MeOut(
            signed_in=caller.signed_in,
            name=caller.name,
            sign_in=None if caller.signed_in else callers.sign_in,
            sign_out=LOGOUT_PATH if caller.signed_in else None,
        )

    @router.get("/progress", summary="How far the voting is", responses=error_answers(422))
    async def get_progress(voter: Voter, since: _Since = None) -> ProgressOut:
        """`since` is the caller's midnight; without it, the server's in UTC."""
        try:
            now = await voting.progress(voter, since)
        except ValueError:
            raise Refused(422, f'"since" is too far off: send {FIELDS["since"]}.') from None
        return ProgressOut(
            mine=_tally_out(now.mine),
            everyone=_tally_out(now.everyone),
            pairs_wanted=now.pairs_wanted,
        )

    @router.get("/me/votes", summary="My votes", responses=error_answers(404, 422))
    async def get_receipts(
        voter: Voter,
        limit: _Limit = None,
        before: _Before = None,
        order: Literal["oldest", "newest"] = "oldest",
    ) -> list[ReceiptOut]:
        """All of them, oldest first, unless asked otherwise."""
        receipts = await voting.receipts(
            voter, limit=limit, before=before, newest_first=order == "newest"
        )
        return [receipt_out(receipt) for receipt in receipts]

    @router.delete("/me/votes", summary="Delete mine", responses=error_answers(507))
    async def delete_mine(request: Request, caller: Anyone) -> ForgottenOut:
        """For good, here at once and in Argilla and the backup soon after; a new cookie is set."""
        forgotten = await voting.forget(caller.voter)
        callers.begin_anew(request, caller)
        return ForgottenOut(
            deleted=forgotten.votes, published=forgotten.published, note=_note(forgotten)
        )


def receipt_out(receipt: Receipt) -> ReceiptOut:
    return ReceiptOut(
        id=receipt.id,
        pair=receipt.pair_id,
        choice=receipt.choice,
        counted=receipt.counted,
        why=receipt.why,
        created_at=receipt.created_at,
        undone_at=receipt.undone_at,
        models=models_out(receipt),
        reasons=list(receipt.reasons),
        comment=receipt.comment,
        in_argilla=receipt.in_argilla,
        prompt=receipt.prompt,
        a=receipt.a,
        b=receipt.b,
    )


def models_out(receipt: Receipt) -> ModelsOut | None:
    if receipt.models is None:
        return None
    a, b = receipt.models
    return ModelsOut(a=_spoken(a), b=_spoken(b))


def _spoken(model: ModelRef) -> str:
    # A gold pair's answers are nobody's: its owner wrote or chose them beforehand.
    return "a prepared answer" if model.base == GOLD_MODEL else model.label


def _tally_out(tally: Tally) -> TallyOut:
    return TallyOut(today=tally.today, all=tally.all)


def _note(forgotten: Forgotten) -> str:
    if not forgotten.votes:
        return "No vote of yours is stored here."
    if forgotten.published:
        return (
            "Your votes are deleted, but what was published before they were can't be called back."
        )
    return "Your votes are deleted here, and from this app's other copies within minutes."
