"""A backup comes home: its pairs, votes, voters and deletions become rows of the journal.

Plain functions over the writer's connection, run inside one transaction: all or nothing. What is
here already at the same or a later revision stays, so the same backup can be read again.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from annotation.backup.events import (
    BackupBase,
    Snapshot,
    StoredPair,
    StoredVote,
    VoterState,
    Wish,
    sha256_of_voter,
)
from annotation.journal.rows import pair_to_row, reasons_to_text, to_text, vote_to_row
from annotation.schema import Choice, PairKind, Vote, VoteSource

_Key = tuple[str, str]
_VOTE_COLUMNS = (
    *("id", "pair_id", "voter", "choice", "flipped", "created_at", "reasons", "comment", "source"),
    *("superseded_at", "counted", "why", "revision", "issued_at", "set_aside"),
)


@dataclass(frozen=True, slots=True)
class Restored:
    """How much a restore brought that was not here before, or not as it is now."""

    pairs: int
    votes: int


def restore_snapshot(
    db: sqlite3.Connection, held: Snapshot, base: BackupBase, now: str
) -> Restored:
    """Take over what a backup `held`; waiting pairs of another base than `base` are retired."""
    pairs = sum(_restore_pair(db, stored, base, now) for stored in held.pairs.values())
    live = {_key(s.vote) for s in held.votes.values() if s.vote.superseded_at is None}
    brought = [s for s in _in_order(held) if _restore_vote(db, s, live)]
    for state in held.voters.values():
        _restore_voter(db, state)
    for voter in {stored.vote.voter for stored in brought}.union(held.voters):
        _set_aside(db, voter)
    for wish in held.wishes.values():
        _restore_wish(db, wish)
    _forget_here(db, held.wishes)
    _restore_assignments(db, held, {_key(stored.vote) for stored in brought})
    _recount(db, {stored.vote.pair_id for stored in brought})
    return Restored(pairs, len(brought))


def _key(vote: Vote) -> _Key:
    return vote.pair_id, vote.voter


def _restore_pair(db: sqlite3.Connection, stored: StoredPair, base: BackupBase, now: str) -> int:
    pair = stored.pair
    retired = to_text(stored.retired_at) if stored.retired_at else None
    sampled = pair.kind in (PairKind.POOL, PairKind.OWN)
    is_ours = all(base.is_of(completion.model) for completion in pair.completions)
    # Which gold pairs and comparisons are in play is for this start to say, not for an earlier one.
    chosen_here = pair.kind in (PairKind.GOLD, PairKind.COMPARE)
    if chosen_here or (sampled and not is_ours):
        retired = retired or now
    added = db.execute(
        "INSERT INTO pairs (id, prompt_id, messages, first, second, created_at, kind, only_for,"
        " author, repeats, expected, retired_at, delivered, backed_up)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1) ON CONFLICT (id) DO NOTHING",
        (*pair_to_row(pair), retired, int(not pair.is_public)),
    ).rowcount
    if not added and not chosen_here:
        db.execute(
            "UPDATE pairs SET retired_at = coalesce(retired_at, ?),"
            " only_for = CASE WHEN ? IS NULL THEN NULL ELSE only_for END WHERE id = ?",
            (retired, pair.only_for, pair.id),
        )
    return added


def _in_order(held: Snapshot) -> list[StoredVote]:
    """Votes as they were cast, the undone ones first."""
    return sorted(
        held.votes.values(), key=lambda s: (s.vote.superseded_at is None, s.vote.created_at)
    )


def _restore_vote(db: sqlite3.Connection, stored: StoredVote, live: set[_Key]) -> bool:
    """Whether the vote was not here at its revision, and its pair is."""
    vote = stored.vote
    if db.execute("SELECT 1 FROM pairs WHERE id = ?", (vote.pair_id,)).fetchone() is None:
        return False
    known = db.execute("SELECT revision FROM votes WHERE id = ?", (vote.id,)).fetchone()
    if known is not None and known["revision"] >= vote.revision:
        return False
    other = db.execute(
        "SELECT 1 FROM votes WHERE pair_id = ? AND voter = ? AND superseded_at IS NULL AND id <> ?",
        (*_key(vote), vote.id),
    ).fetchone()
    if vote.superseded_at is None and other is not None:
        # The voter decided again here, before the backup could be read: what is here stays.
        vote = replace(vote, superseded_at=vote.created_at)
    # An undone vote sent again would wipe the live one of the same voter in Argilla, and one
    # that nothing has replaced must be sent, or Argilla's copy would come back as a vote.
    replaced = vote.superseded_at is not None and (_key(vote) in live or other is not None)
    delivered = vote.revision if replaced or vote.source is VoteSource.ARGILLA else 0
    names = (*_VOTE_COLUMNS, "delivered_revision", "backup_revision")
    marks = ", ".join("?" * len(names))
    db.execute(
        f"INSERT INTO votes ({', '.join(names)}) VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET "  # noqa: S608
        + ", ".join(f"{name} = excluded.{name}" for name in names[1:]),
        (*vote_to_row(vote), delivered, vote.revision),
    )
    db.executemany(
        "INSERT OR IGNORE INTO vote_history"
        " (vote_id, revision, reasons, comment, superseded_at, replaced_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [
            (
                vote.id,
                earlier.revision,
                reasons_to_text(earlier.reasons),
                earlier.comment,
                to_text(earlier.superseded_at) if earlier.superseded_at else None,
                to_text(earlier.replaced_at),
            )
            for earlier in stored.history
        ],
    )
    return True


def _restore_voter(db: sqlite3.Connection, state: VoterState) -> None:
    changed_at = to_text(state.changed_at)
    db.execute(
        "INSERT INTO voters (voter, set_aside, changed_at, backed_up) VALUES (?, ?, ?, 1)"
        " ON CONFLICT DO UPDATE SET set_aside = excluded.set_aside,"
        " changed_at = excluded.changed_at, backed_up = 1 WHERE changed_at < excluded.changed_at",
        (state.voter, state.set_aside, changed_at),
    )


def _set_aside(db: sqlite3.Connection, voter: str) -> None:
    """Make the votes of `voter` say what is said of the voter."""
    row = db.execute("SELECT set_aside FROM voters WHERE voter = ?", (voter,)).fetchone()
    if row is not None:
        db.execute("UPDATE votes SET set_aside = ? WHERE voter = ?", (row["set_aside"], voter))
        pairs = db.execute("SELECT DISTINCT pair_id FROM votes WHERE voter = ?", (voter,))
        _recount(db, [found["pair_id"] for found in pairs.fetchall()])


def _restore_wish(db: sqlite3.Connection, wish: Wish) -> None:
    """A deletion that is still to be followed is so again; one by name only, for Argilla's sake."""
    if wish.voter is None:
        return
    pairs = json.dumps({"voted": wish.voted, "removed": wish.removed})
    db.execute(
        "INSERT INTO deletions (voter, requested_at, votes, pairs, in_argilla, in_backup)"
        " VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT DO NOTHING",
        (wish.voter, to_text(wish.requested_at), wish.votes, pairs, int(wish.in_argilla)),
    )


def _forget_here(db: sqlite3.Connection, wishes: Mapping[str, Wish]) -> None:
    """Delete what another instance of the app was asked to delete, after this one had read it."""
    if not wishes:
        return
    voters = db.execute(
        "SELECT voter FROM votes UNION SELECT voter FROM voters"
        " UNION SELECT author FROM pairs WHERE author IS NOT NULL"
    ).fetchall()
    for voter in (row["voter"] for row in voters):
        if wish := wishes.get(sha256_of_voter(voter)):
            _forget_voter(db, voter, to_text(wish.requested_at))
    for pair_id in {pair_id for wish in wishes.values() for pair_id in wish.removed}:
        voted = db.execute("SELECT 1 FROM votes WHERE pair_id = ?", (pair_id,)).fetchone()
        if voted is None:
            db.execute("DELETE FROM assignments WHERE pair_id = ?", (pair_id,))
            db.execute("DELETE FROM pairs WHERE id = ?", (pair_id,))


def _forget_voter(db: sqlite3.Connection, voter: str, until: str) -> None:
    key = {"voter": voter, "until": until}
    mine = "voter = :voter AND created_at <= :until"
    pairs = db.execute(f"SELECT DISTINCT pair_id FROM votes WHERE {mine}", key).fetchall()  # noqa: S608
    db.execute(
        f"DELETE FROM vote_history WHERE vote_id IN (SELECT id FROM votes WHERE {mine})",  # noqa: S608
        key,
    )
    db.execute(f"DELETE FROM votes WHERE {mine}", key)  # noqa: S608
    db.execute("DELETE FROM voters WHERE voter = :voter AND changed_at <= :until", key)
    db.execute("DELETE FROM assignments WHERE voter = :voter AND issued_at <= :until", key)
    for column in ("author", "only_for"):
        db.execute(
            f"UPDATE pairs SET {column} = NULL WHERE {column} = :voter AND created_at <= :until",  # noqa: S608
            key,
        )
    _recount(db, [row["pair_id"] for row in pairs])


def _restore_assignments(db: sqlite3.Connection, held: Snapshot, brought: set[_Key]) -> None:
    """A pair is done for whoever has voted on it; one whose skip was undone may be given again."""
    by_key: dict[_Key, list[Vote]] = {}
    for stored in held.votes.values():
        if _key(stored.vote) in brought:
            by_key.setdefault(_key(stored.vote), []).append(stored.vote)
    for (pair_id, voter), votes in by_key.items():
        open_again = all(v.choice is Choice.SKIP and v.superseded_at is not None for v in votes)
        moment = to_text(min(vote.issued_at or vote.created_at for vote in votes))
        db.execute(
            "INSERT INTO assignments (voter, pair_id, issued_at, expires_at, done)"
            " VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET done = max(done, excluded.done)",
            (voter, pair_id, moment, moment, int(not open_again)),
        )


def _recount(db: sqlite3.Connection, pair_ids: Iterable[str]) -> None:
    rows: Sequence[tuple[str]] = [(pair_id,) for pair_id in pair_ids]
    db.executemany(
        "UPDATE pairs SET votes = (SELECT count(*) FROM votes WHERE pair_id = pairs.id"
        " AND superseded_at IS NULL AND counted AND set_aside IS NULL) WHERE id = ?",
        rows,
    )
