"""What happens to a vote in the journal: stored, changed, undone, mirrored from Argilla.

Plain functions over the writer's connection, run inside its transaction. Owns the rule of one
live vote per (pair, voter) and the keeping of every earlier state.
"""

import sqlite3
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from annotation.journal.rows import (
    NotYours,
    UnknownPair,
    UnknownVote,
    VoteConflict,
    VoteOutcome,
    is_in_argilla,
    pair_from_row,
    reasons_to_text,
    to_text,
    vote_from_row,
    vote_to_row,
)
from annotation.schema import Choice, PairKind, Reason, Vote, VoteSource

RETIRED = "its base model is no longer in use"
REPEATED = "it was a check that votes are steady; it trains nothing"
KNOWN = "it was a question with a known answer, to check the votes; it trains nothing"
TRIED = "it is a Compare vote, which trains nothing and decides nothing"
WAITING = "it waits for the owner's approval"
REJECTED = "the owner did not approve this prompt"


def add_vote(db: sqlite3.Connection, vote: Vote, *, issued_only: bool) -> VoteOutcome:
    ballot = _ballot_row(db, vote.pair_id, vote.voter)
    if issued_only and ballot["given_at"] is None:
        raise NotYours(f"Pair {vote.pair_id!r} was not given to you: ask for the next pair.")
    before = db.execute(
        "SELECT * FROM votes WHERE pair_id = ? AND voter = ?", (vote.pair_id, vote.voter)
    ).fetchall()
    for row in before:
        if row["superseded_at"] is None:
            return _replay(db, row, vote)
    # An undone skip showed no models, so that pair may still be judged blind.
    if any(row["choice"] != Choice.SKIP.value for row in before):
        raise VoteConflict(
            "You undid your vote on this pair after its models were shown, so it can't be voted"
            " on again: ask for the next pair."
        )
    stored = _insert(db, vote, ballot, delivered=False)
    return VoteOutcome(stored, pair_from_row(ballot), in_argilla=False)


def amend_vote(
    db: sqlite3.Connection,
    vote_id: str,
    voter: str,
    *,
    reasons: tuple[Reason, ...] | None,
    comment: str | None,
    now: datetime,
) -> VoteOutcome:
    row = _own_row(db, vote_id, voter)
    if row["superseded_at"] is not None:
        raise VoteConflict("This vote was undone, so it can't be changed any more.")
    before = vote_from_row(row)
    after = replace(
        before,
        reasons=before.reasons if reasons is None else reasons,
        comment=before.comment if comment is None else comment,
    )
    if after == before:
        return _outcome(db, vote_id, replayed=True)
    _change_words(db, after, now)
    return _outcome(db, vote_id)


def undo_vote(db: sqlite3.Connection, vote_id: str, voter: str, now: datetime) -> VoteOutcome:
    row = _own_row(db, vote_id, voter)
    if row["superseded_at"] is not None:
        return _outcome(db, vote_id, replayed=True)
    _supersede(db, vote_from_row(row), now, delivered=False)
    return _outcome(db, vote_id)


def mirror_vote(db: sqlite3.Connection, incoming: Vote, now: datetime) -> None:
    """Make the journal hold Argilla's vote, unless a change made here is still on its way."""
    _pair_row(db, incoming.pair_id)
    on_its_way = db.execute(
        "SELECT 1 FROM votes WHERE pair_id = ? AND voter = ? AND delivered_revision < revision"
        " AND counted AND choice <> 'skip' AND source <> 'argilla'",
        (incoming.pair_id, incoming.voter),
    ).fetchone()
    if on_its_way is not None:
        return
    row = _live_row(db, incoming.pair_id, incoming.voter)
    live = None if row is None else vote_from_row(row)
    if live is None or live.record_choice is not incoming.record_choice:
        if live is not None:
            _supersede(db, live, now, delivered=True)
        ballot = _ballot_row(db, incoming.pair_id, incoming.voter)
        _insert(db, _with_free_id(db, incoming), ballot, delivered=True)
    elif set(live.reasons) != set(incoming.reasons) or live.comment != incoming.comment:
        _change_words(db, replace(live, reasons=incoming.reasons, comment=incoming.comment), now)
        _mark_delivered(db, live.id)


def mirror_removed(db: sqlite3.Connection, gone: Sequence[tuple[str, str]], now: datetime) -> None:
    for pair_id, voter in gone:
        row = _live_row(db, pair_id, voter)
        if row is not None and row["source"] == VoteSource.ARGILLA.value:
            _supersede(db, vote_from_row(row), now, delivered=True)


def set_aside(db: sqlite3.Connection, voter: str, why: str | None, now: datetime) -> int:
    """Set every vote of `voter`, those to come too, aside for `why`; None brings them back."""
    db.execute(
        "INSERT INTO voters (voter, set_aside, changed_at) VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
        " SET set_aside = excluded.set_aside, changed_at = excluded.changed_at, backed_up = 0",
        (voter, why, to_text(now)),
    )
    changed = db.execute("UPDATE votes SET set_aside = ? WHERE voter = ?", (why, voter)).rowcount
    for row in db.execute("SELECT DISTINCT pair_id FROM votes WHERE voter = ?", (voter,)):
        recount(db, row["pair_id"])
    return changed


def count_waiting(db: sqlite3.Connection, pair_id: str, now: datetime) -> None:
    """Let the votes cast on a pair while it waited for approval count, as new revisions."""
    for row in _waiting_rows(db, pair_id):
        _keep_state(db, row["id"], now)
        db.execute(
            "UPDATE votes SET counted = 1, why = NULL, revision = revision + 1 WHERE id = ?",
            (row["id"],),
        )
    recount(db, pair_id)


def refuse_waiting(db: sqlite3.Connection, pair_id: str, now: datetime) -> None:
    """Say of the votes cast on a pair while it waited that it was not approved."""
    for row in _waiting_rows(db, pair_id):
        _keep_state(db, row["id"], now)
        db.execute(
            "UPDATE votes SET why = ?, revision = revision + 1 WHERE id = ?", (REJECTED, row["id"])
        )


def _waiting_rows(db: sqlite3.Connection, pair_id: str) -> list[sqlite3.Row]:
    return db.execute(
        "SELECT id FROM votes WHERE pair_id = ? AND why = ? AND superseded_at IS NULL",
        (pair_id, WAITING),
    ).fetchall()


def _pair_row(db: sqlite3.Connection, pair_id: str) -> sqlite3.Row:
    row: sqlite3.Row | None = db.execute("SELECT * FROM pairs WHERE id = ?", (pair_id,)).fetchone()
    if row is None:
        raise _unknown(pair_id)
    return row


def _ballot_row(db: sqlite3.Connection, pair_id: str, voter: str) -> sqlite3.Row:
    """The pair, with when this voter was given it and why their votes are set aside."""
    row: sqlite3.Row | None = db.execute(
        "SELECT pairs.*, assignments.issued_at AS given_at, voters.set_aside AS aside FROM pairs"
        " LEFT JOIN assignments ON assignments.pair_id = pairs.id AND assignments.voter = :voter"
        " LEFT JOIN voters ON voters.voter = :voter WHERE pairs.id = :pair",
        {"pair": pair_id, "voter": voter},
    ).fetchone()
    if row is None:
        raise _unknown(pair_id)
    return row


def _unknown(pair_id: str) -> UnknownPair:
    return UnknownPair(f"No pair has the id {pair_id!r}: ask for the next pair.")


def _live_row(db: sqlite3.Connection, pair_id: str, voter: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM votes WHERE pair_id = ? AND voter = ? AND superseded_at IS NULL",
        (pair_id, voter),
    ).fetchone()
    return row


def _own_row(db: sqlite3.Connection, vote_id: str, voter: str) -> sqlite3.Row:
    row: sqlite3.Row | None = db.execute("SELECT * FROM votes WHERE id = ?", (vote_id,)).fetchone()
    if row is None:
        raise UnknownVote(f"No vote has the id {vote_id!r}: look at your votes for its id.")
    if row["voter"] != voter:
        raise NotYours(f"Vote {vote_id!r} is another voter's.")
    if row["source"] == VoteSource.ARGILLA.value:
        # The next read-back would bring Argilla's state again.
        raise VoteConflict("This vote was cast in Argilla: change or delete it there.")
    return row


def _replay(db: sqlite3.Connection, live: sqlite3.Row, vote: Vote) -> VoteOutcome:
    if vote_from_row(live).record_choice is not vote.record_choice:
        raise VoteConflict("You already voted otherwise on this pair: undo that vote instead.")
    return _outcome(db, live["id"], replayed=True)


def _outcome(db: sqlite3.Connection, vote_id: str, *, replayed: bool = False) -> VoteOutcome:
    row = db.execute("SELECT * FROM votes WHERE id = ?", (vote_id,)).fetchone()
    pair = pair_from_row(_pair_row(db, row["pair_id"]))
    return VoteOutcome(vote_from_row(row), pair, is_in_argilla(row), replayed)


def _insert(db: sqlite3.Connection, vote: Vote, ballot: sqlite3.Row, *, delivered: bool) -> Vote:
    """Store the vote, and give it as it is stored."""
    why = _why_not(ballot)
    given = ballot["given_at"]
    vote = replace(
        vote,
        counted=vote.counted and why is None,
        why=why if vote.counted else vote.why,
        issued_at=datetime.fromisoformat(given) if given else vote.issued_at,
        set_aside=ballot["aside"],
    )
    db.execute(
        "INSERT INTO votes (id, pair_id, voter, choice, flipped, created_at, reasons, comment,"
        " source, superseded_at, counted, why, revision, issued_at, set_aside,"
        " delivered_revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*vote_to_row(vote), vote.revision if delivered else 0),
    )
    moment = to_text(vote.created_at)
    db.execute(
        "INSERT INTO assignments (voter, pair_id, issued_at, expires_at, done)"
        " VALUES (?, ?, ?, ?, 1) ON CONFLICT DO UPDATE SET done = 1",
        (vote.voter, vote.pair_id, moment, moment),
    )
    recount(db, vote.pair_id)
    return vote


def _why_not(pair: sqlite3.Row) -> str | None:
    """Why a vote on this pair does not count, whoever casts it; None where it does."""
    if pair["kind"] == PairKind.REPEAT.value:
        return REPEATED
    if pair["kind"] == PairKind.GOLD.value:
        return KNOWN
    if pair["kind"] == PairKind.TRIED.value:
        return TRIED
    if pair["kind"] == PairKind.COMPARE.value:
        return None
    is_out = pair["retired_at"] is not None
    if pair["only_for"] is not None:
        return REJECTED if is_out else WAITING
    return RETIRED if is_out else None


def _supersede(db: sqlite3.Connection, vote: Vote, now: datetime, *, delivered: bool) -> None:
    _keep_state(db, vote.id, now)
    db.execute(
        "UPDATE votes SET superseded_at = ?, revision = revision + 1 WHERE id = ?",
        (to_text(now), vote.id),
    )
    if delivered:
        _mark_delivered(db, vote.id)
    if vote.choice is Choice.SKIP:
        db.execute(
            "UPDATE assignments SET done = 0 WHERE voter = ? AND pair_id = ?",
            (vote.voter, vote.pair_id),
        )
    recount(db, vote.pair_id)


def _change_words(db: sqlite3.Connection, vote: Vote, now: datetime) -> None:
    _keep_state(db, vote.id, now)
    db.execute(
        "UPDATE votes SET reasons = ?, comment = ?, revision = revision + 1 WHERE id = ?",
        (reasons_to_text(vote.reasons), vote.comment, vote.id),
    )


def _keep_state(db: sqlite3.Connection, vote_id: str, now: datetime) -> None:
    db.execute(
        "INSERT INTO vote_history (vote_id, revision, reasons, comment, superseded_at, replaced_at)"
        " SELECT id, revision, reasons, comment, superseded_at, ? FROM votes WHERE id = ?",
        (to_text(now), vote_id),
    )


def _mark_delivered(db: sqlite3.Connection, vote_id: str) -> None:
    db.execute("UPDATE votes SET delivered_revision = revision WHERE id = ?", (vote_id,))


def recount(db: sqlite3.Connection, pair_id: str) -> None:
    """Make what a pair says of its votes and leases true again."""
    db.execute(
        "UPDATE pairs SET votes = (SELECT count(*) FROM votes"
        " WHERE pair_id = pairs.id AND superseded_at IS NULL AND counted AND set_aside IS NULL),"
        " leased_until = coalesce((SELECT max(expires_at) FROM assignments"
        " WHERE pair_id = pairs.id AND done = 0), '') WHERE id = ?",
        (pair_id,),
    )


def _with_free_id(db: sqlite3.Connection, vote: Vote) -> Vote:
    taken = db.execute("SELECT 1 FROM votes WHERE id = ?", (vote.id,)).fetchone()
    return vote if taken is None else replace(vote, id=uuid.uuid4().hex)
