"""The vote path: issue a blind pair, take the vote, reveal, amend, undo.

Owns which side is which (a keyed hash of pair and voter, drawn here and never in the page) and
what counts. Models are revealed only after the commit, and never for a skip. Knows no HTTP.
"""

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from annotation.checks import Checks, is_flipped
from annotation.journal.deletion import was_published
from annotation.journal.journal import Journal, VoteOutcome
from annotation.progress import Progress, ProgressBoard
from annotation.schema import (
    AnonymousVotes,
    Choice,
    ModelRef,
    Prompt,
    Reason,
    Vote,
    VoteSource,
    utc_now,
)

LEASE = timedelta(minutes=30)
MAX_OPEN_PAIRS = 4
SKIPPED = "skipped"
UNDONE = "undone"
STORED_ONLY = "votes without sign-in are kept but not counted"
EXCERPT_CHARACTERS = 300
_OTHER_SIDE = {Choice.A: Choice.B, Choice.B: Choice.A}


@dataclass(frozen=True, slots=True)
class IssuedPair:
    """A pair as one voter sees it: no model, no seed, nothing to tell the sides by."""

    id: str
    prompt: Prompt
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """A stored vote, in the sides of its voter's page.

    `models` are those of sides a and b, None for a skip. `why` says why it does not count.
    `replayed`: the same vote was stored before. `prompt`, `a` and `b` are the beginnings of the
    last user turn and of the answers.
    """

    id: str
    pair_id: str
    choice: Choice
    counted: bool
    why: str | None
    created_at: datetime
    undone_at: datetime | None
    models: tuple[ModelRef, ModelRef] | None
    reasons: tuple[Reason, ...]
    comment: str
    in_argilla: bool
    replayed: bool
    prompt: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What a voter's wish to be forgotten did; `published`: copies may be out of reach."""

    votes: int
    published: bool


class Voting:
    """Votes over one journal. Every method returns after the commit.

    Raises what the journal raises: UnknownPair, UnknownVote, NotYours, VoteConflict, JournalFull.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        votes_per_pair: int,
        side_secret: bytes,
        source: VoteSource = VoteSource.PAGE,
        repeat_share: float = 0.0,
        gold_share: float = 0.0,
        compare_share: Callable[[], float] = lambda: 0.0,
        anonymous: AnonymousVotes = "count",
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """`anonymous`: what votes without sign-in are worth; those of scripted voters count."""
        if not side_secret:
            raise ValueError("The side secret is empty: the sides could be guessed.")
        self._journal = journal
        self._votes_per_pair = votes_per_pair
        self._side_secret = side_secret
        self._source = source
        self._checks = Checks(side_secret, repeat_share, gold_share)
        self._compare_share = compare_share
        self._anonymous = "count" if source is VoteSource.SYNTHETIC else anonymous
        self._clock = clock
        self._board = ProgressBoard(journal, votes_per_pair=votes_per_pair, clock=clock)

    def takes(self, *, signed_in: bool) -> bool:
        """Whether such a voter may vote at all."""
        return signed_in or self._anonymous != "refuse"

    async def next_pair(self, voter: str) -> IssuedPair | None:
        """A pair for `voter`, leased for 30 minutes; None while there is none to give.

        With 4 open, or when nothing else is left, an open one is given again.
        """
        future = self._journal.issue(
            voter,
            votes_per_pair=self._votes_per_pair,
            lease=LEASE,
            max_open=MAX_OPEN_PAIRS,
            now=self._clock(),
            checks=self._checks,
            compare_share=self._compare_share(),
        )
        pair = await asyncio.wrap_future(future)
        if pair is None:
            return None
        a, b = pair.shown(self.flipped(pair.id, voter))
        return IssuedPair(pair.id, pair.prompt, a.text, b.text)

    async def vote(
        self,
        voter: str,
        pair_id: str,
        choice: Choice,
        *,
        reasons: tuple[Reason, ...] = (),
        comment: str = "",
        signed_in: bool = False,
    ) -> Receipt:
        """Store a vote on a pair that was issued to `voter`, also after its lease ran out.

        The same choice again is a replay of the first, another one a VoteConflict.
        """
        why = self._why_not(choice, signed_in=signed_in)
        vote = Vote(
            id=uuid.uuid4().hex,
            pair_id=pair_id,
            voter=voter,
            choice=choice,
            flipped=self.flipped(pair_id, voter),
            created_at=self._clock(),
            reasons=reasons,
            comment=comment,
            source=self._source,
            counted=why is None,
            why=why,
        )
        return self._receipt(
            await asyncio.wrap_future(self._journal.add_vote(vote, issued_only=True))
        )

    async def amend(
        self,
        voter: str,
        vote_id: str,
        *,
        reasons: tuple[Reason, ...] | None = None,
        comment: str | None = None,
    ) -> Receipt:
        """Replace reasons or comment of a live vote; None leaves them."""
        future = self._journal.amend_vote(vote_id, voter=voter, reasons=reasons, comment=comment)
        return self._receipt(await asyncio.wrap_future(future))

    async def undo(self, voter: str, vote_id: str) -> Receipt:
        """Supersede a vote. The pair of an undone skip may be voted on, that of others not."""
        future = self._journal.undo_vote(vote_id, voter=voter)
        return self._receipt(await asyncio.wrap_future(future))

    async def receipts(
        self,
        voter: str,
        *,
        limit: int | None = None,
        before: str | None = None,
        newest_first: bool = False,
    ) -> list[Receipt]:
        """Votes of `voter`, undone ones too: as `JournalReader.receipts` chooses and orders."""
        outcomes = await asyncio.to_thread(
            self._journal.receipts, voter, limit=limit, before=before, newest_first=newest_first
        )
        return [self._receipt(outcome) for outcome in outcomes]

    async def progress(self, voter: str, since: datetime | None) -> Progress:
        """How far the voting is; ValueError where `since` is no midnight of the last 48 hours."""
        return await asyncio.to_thread(self._board.progress, voter, since)

    async def forget(self, voter: str) -> Forgotten:
        """Delete all that is stored of `voter`; copies elsewhere follow by themselves."""
        votes = await asyncio.wrap_future(self._journal.delete_voter(voter))
        return Forgotten(votes, await asyncio.to_thread(was_published, self._journal))

    def flipped(self, pair_id: str, voter: str) -> bool:
        """Whether this voter's side a is the pair's second completion; fair, and fixed by key."""
        return is_flipped(self._side_secret, pair_id, voter)

    def _receipt(self, outcome: VoteOutcome) -> Receipt:
        vote = outcome.vote
        flipped = self._page_side(vote)
        choice = vote.record_choice
        a, b = outcome.pair.shown(flipped)
        return Receipt(
            id=vote.id,
            pair_id=vote.pair_id,
            choice=_OTHER_SIDE.get(choice, choice) if flipped else choice,
            counted=vote.counts,
            why=_why(vote),
            created_at=vote.created_at,
            undone_at=vote.superseded_at,
            models=None if vote.choice is Choice.SKIP else (a.model, b.model),
            reasons=vote.reasons,
            comment=vote.comment,
            in_argilla=outcome.in_argilla,
            replayed=outcome.replayed,
            prompt=outcome.pair.prompt.messages[-1].content[:EXCERPT_CHARACTERS],
            a=a.text[:EXCERPT_CHARACTERS],
            b=b.text[:EXCERPT_CHARACTERS],
        )

    def _why_not(self, choice: Choice, *, signed_in: bool) -> str | None:
        if choice is Choice.SKIP:
            return SKIPPED
        return STORED_ONLY if self._anonymous == "store" and not signed_in else None

    def _page_side(self, vote: Vote) -> bool:
        # Argilla shows the record's own order, and a receipt speaks of the page's sides.
        if vote.source is VoteSource.ARGILLA:
            return self.flipped(vote.pair_id, vote.voter)
        return vote.flipped


def _why(vote: Vote) -> str | None:
    """Why it does not count, in plain words."""
    if vote.superseded_at is not None:
        return UNDONE
    if vote.why is None and vote.set_aside is not None:
        return f"set aside: {vote.set_aside}"
    return vote.why
