"""The journal: pairs issued, votes taken, what Argilla has not got yet. The one writer.

A write is a Future that resolves after the commit, so what is acknowledged is on disk. Nothing
is overwritten: an undone vote stays, and so does every earlier state of a changed one. Knows no
model, no page and no Argilla client.
"""

import json
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from annotation.checks import Checks
from annotation.journal import deletion
from annotation.journal import pairs as incoming
from annotation.journal import votes as stored
from annotation.journal.issue import issue_pair
from annotation.journal.reader import JournalReader
from annotation.journal.rows import (
    JournalError,
    JournalFull,
    NotYours,
    UnknownPair,
    UnknownVote,
    VoteConflict,
    VoteOutcome,
    to_text,
)
from annotation.journal.tables import COMPARISONS
from annotation.journal.writer import GroupCommitWriter
from annotation.schema import Pair, Reason, Vote, utc_now

__all__ = [
    "Journal",
    "JournalError",
    "JournalFull",
    "JournalReader",
    "NotYours",
    "UnknownPair",
    "UnknownVote",
    "VoteConflict",
    "VoteOutcome",
]

_Result = TypeVar("_Result")


class Journal(JournalReader):
    """Reads as JournalReader does, and writes; one per home folder.

    A failed write raises from its future: JournalFull, another JournalError, or ValueError for
    text or times that cannot be stored.
    """

    def __init__(
        self, path: Path, *, clock: Callable[[], datetime] = utc_now, has_backup: bool = False
    ) -> None:
        """`has_backup`: a backup has to follow the deletions, as `finish_deletion` tells."""
        self._writer = GroupCommitWriter(path)
        self._clock = clock
        self._has_backup = has_backup
        super().__init__(path)

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written just now, as on a full disk; None since a write worked."""
        return self._writer.trouble

    def add_pairs(self, pairs: Sequence[Pair]) -> "Future[None]":
        """Store new pairs, all or none. An id that is there already is a ValueError."""
        return self._writer.submit(lambda db: incoming.add_pairs(db, pairs))

    def set_gold_pairs(self, pairs: Sequence[Pair]) -> "Future[None]":
        """Let `pairs` be the gold pairs in play; any other retires, and comes back when named."""
        now = self._clock()
        return self._writer.submit(lambda db: incoming.set_gold_pairs(db, pairs, now))

    def add_own_pair(self, pair: Pair, *, lease: timedelta, now: datetime) -> "Future[None]":
        """Store the pair on its author's own prompt, and give it to the author."""
        return self._writer.submit(lambda db: incoming.add_own_pair(db, pair, lease=lease, now=now))

    def approve_pair(self, pair_id: str) -> "Future[Pair]":
        """Let the waiting pair of an own prompt go round, and its votes count from now on.

        Raises UnknownPair where no such pair waits.
        """
        now = self._clock()
        return self._writer.submit(lambda db: incoming.approve_pair(db, pair_id, now))

    def reject_pair(self, pair_id: str) -> "Future[Pair]":
        """Take the waiting pair of an own prompt out of play; raises as `approve_pair` does."""
        now = self._clock()
        return self._writer.submit(lambda db: incoming.reject_pair(db, pair_id, now))

    def issue(
        self,
        voter: str,
        *,
        votes_per_pair: int,
        lease: timedelta,
        max_open: int,
        now: datetime,
        checks: Checks | None = None,
        compare_share: float = 0.0,
    ) -> "Future[Pair | None]":
        """The next pair for `voter`, leased to them until `now + lease`.

        Never one they have voted on. Pairs nearest to `votes_per_pair` come first, unleased
        before leased by others, oldest first; then pairs that others have finished; then, and
        whenever `max_open` are open, the open one that was given longest ago. None only when
        there is no pair that this voter has not voted on. `checks` puts gold pairs and repeats
        of the voter's own decided votes between them, and comparisons of models in a share
        `compare_share` of all.
        """
        return self._writer.submit(
            lambda db: issue_pair(
                db,
                voter,
                votes_per_pair=votes_per_pair,
                lease=lease,
                max_open=max_open,
                now=now,
                checks=checks,
                compare_share=compare_share,
            ),
            # A vote's sync covers the lease that it needs; one of its own would hold votes up.
            lazy=True,
        )

    def add_vote(self, vote: Vote, *, issued_only: bool = False) -> "Future[VoteOutcome]":
        """Store a vote; the same choice again is a replay and gives the stored one.

        Raises UnknownPair; NotYours where `issued_only` and the pair was never issued to this
        voter; VoteConflict after another choice, or after an undone vote that showed the models.
        """
        return self._writer.submit(lambda db: stored.add_vote(db, vote, issued_only=issued_only))

    def amend_vote(
        self,
        vote_id: str,
        *,
        voter: str,
        reasons: tuple[Reason, ...] | None = None,
        comment: str | None = None,
    ) -> "Future[VoteOutcome]":
        """Replace reasons or comment; None leaves them.

        Raises UnknownVote, NotYours, or VoteConflict where the vote was undone or is Argilla's.
        """
        now = self._clock()
        return self._writer.submit(
            lambda db: stored.amend_vote(
                db, vote_id, voter, reasons=reasons, comment=comment, now=now
            )
        )

    def undo_vote(self, vote_id: str, *, voter: str) -> "Future[VoteOutcome]":
        """Supersede a vote; a second undo is a replay.

        Raises UnknownVote, NotYours, or VoteConflict where the vote was cast in Argilla.
        """
        now = self._clock()
        return self._writer.submit(lambda db: stored.undo_vote(db, vote_id, voter, now))

    def set_aside(self, voter: str, why: str) -> "Future[int]":
        """Let no vote of `voter` count, for the reason `why`, until `bring_back`; how many."""
        now = self._clock()
        return self._writer.submit(lambda db: stored.set_aside(db, voter, why, now))

    def bring_back(self, voter: str) -> "Future[int]":
        """Let the votes of `voter` count again as they did before; how many."""
        now = self._clock()
        return self._writer.submit(lambda db: stored.set_aside(db, voter, None, now))

    def mark_pairs_delivered(self, ids: Sequence[str]) -> "Future[None]":
        """Argilla has these pairs."""
        rows = [(pair_id,) for pair_id in ids]
        return self._writer.submit(
            lambda db: _many(db, "UPDATE pairs SET delivered = 1 WHERE id = ?", rows), lazy=True
        )

    def mark_votes_delivered(self, votes: Sequence[Vote]) -> "Future[None]":
        """Argilla has these votes as they stand here; a later change stays undelivered."""
        revisions = json.dumps({vote.id: vote.revision for vote in votes})
        # In one statement: one a vote takes twice as long.
        sql = (
            "UPDATE votes SET delivered_revision = max(delivered_revision, sent.value)"
            " FROM json_each(?) AS sent WHERE votes.id = sent.key"
        )
        return self._writer.submit(lambda db: _many(db, sql, [(revisions,)]), lazy=True)

    def mirror(self, pairs: Sequence[Pair], votes: Sequence[Vote]) -> "Future[None]":
        """Take over what Argilla holds: unknown pairs, and votes cast or changed there.

        Votes are compared by their choice in the record's own order. A vote that Argilla has
        not got yet, an undo included, is never touched; what a voter has asked to delete never
        comes again. All or none: give some hundreds at a time, so that no voter waits behind.
        """
        now = self._clock()

        def run(db: sqlite3.Connection) -> None:
            wanted_pairs, wanted_votes = deletion.still_wanted(db, pairs, votes)
            incoming.mirror_pairs(db, wanted_pairs)
            for vote in wanted_votes:
                stored.mirror_vote(db, vote, now)
            # Their records are there: sent again they would lose what they hold of the votes.
            there = [(pair_id,) for pair_id in {vote.pair_id for vote in votes}]
            _many(db, "UPDATE pairs SET delivered = 1 WHERE id = ?", there)

        return self._writer.submit(run)

    def mirror_removed(self, gone: Sequence[tuple[str, str]]) -> "Future[None]":
        """Supersede votes cast in Argilla, by (pair id, voter), no longer submitted there."""
        now = self._clock()
        return self._writer.submit(lambda db: stored.mirror_removed(db, gone, now))

    def delete_voter(self, voter: str) -> "Future[int]":
        """Delete all of `voter` for good, from the file's bytes too; how many votes.

        `deletions` names the wish until Argilla and the backup have followed.
        """
        now = self._clock()
        return self._writer.submit(
            lambda db: deletion.delete_voter(db, voter, now, has_backup=self._has_backup),
            scrub=True,
        )

    def finish_deletion(self, wish: deletion.Deletion, place: deletion.Place) -> "Future[None]":
        """`place` has forgotten all that `wish` names."""
        return self._writer.submit(lambda db: deletion.finish_deletion(db, wish, place), scrub=True)

    def deletions(self, place: deletion.Place) -> list[deletion.Deletion]:
        """Wishes that `place` has not followed yet; oldest first."""
        with self._connection() as db:
            return deletion.pending(db, place)

    def set_note(self, key: str, value: str) -> "Future[None]":
        """Keep a small durable fact; replaces the earlier value."""
        sql = "INSERT OR REPLACE INTO notes (key, value) VALUES (?, ?)"
        return self._writer.submit(lambda db: _many(db, sql, [(key, value)]))

    def retire_unvoted_pairs(self) -> "Future[int]":
        """Take every pair without a counted vote out of play (the base changed); how many."""
        now = to_text(self._clock())
        sql = (
            "UPDATE pairs SET retired_at = ?, backed_up = 0 WHERE retired_at IS NULL AND votes = 0"
        )
        return self._writer.submit(lambda db: db.execute(sql, (now,)).rowcount)

    def retire_waiting_pairs(self) -> "Future[int]":
        """Take sampled pairs without a vote, held by nobody, out of play (the policy changed)."""
        now = to_text(self._clock())
        sql = (
            "UPDATE pairs SET retired_at = :now, backed_up = 0 WHERE retired_at IS NULL"
            " AND kind = 'pool' AND votes = 0 AND leased_until <= :now"
        )
        return self._writer.submit(lambda db: db.execute(sql, {"now": now}).rowcount)

    def retire_comparisons(self) -> "Future[int]":
        """Take the comparisons in play out of it (other models are compared next); how many.

        Their votes stay and count, also those still on their way.
        """
        now = to_text(self._clock())
        sql = f"UPDATE pairs SET retired_at = ?, backed_up = 0 WHERE {COMPARISONS}"  # noqa: S608
        return self._writer.submit(lambda db: db.execute(sql, (now,)).rowcount)

    def submit(
        self, run: "Callable[[sqlite3.Connection], _Result]", *, scrub: bool = False
    ) -> "Future[_Result]":
        """Run `run` as one write, for the modules that own a part of the file (the backup).

        With `scrub`, what it deletes leaves the file's bytes too.
        """
        return self._writer.submit(run, scrub=scrub)

    def close(self) -> None:
        """Commit what is queued, fold the WAL in, close everything. Safe to call twice."""
        self._writer.close()
        super().close()


def _many(db: sqlite3.Connection, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
    db.executemany(sql, rows)
