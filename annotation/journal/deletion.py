"""A voter's wish to be forgotten, in the journal: a real deletion, and who else has to follow.

Plain functions over the writer's connection, run inside its transaction. The table `deletions`
remembers a wish only until Argilla and the backup have forgotten too. Refuses nothing: a wish
that finds nothing changes nothing.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from annotation.journal.reader import JournalReader
from annotation.journal.rows import open_writer, to_text
from annotation.journal.votes import recount
from annotation.schema import Pair, Vote, utc_now

ARGILLA_NOTE = "argilla:dataset"
"""The journal's note of the dataset that its votes were delivered to, set before the first."""
PUBLISHED_NOTE = "dataset.published"
"""The journal's note of when votes first left for the Hub as a dataset or in a model."""
Place = Literal["in_argilla", "in_backup"]


@dataclass(frozen=True, slots=True)
class Deletion:
    """A wish that some other place has to follow yet, from `JournalReader.deletions`.

    `voted` are the pairs that the voter had votes on, `removed` those that are gone with them.
    """

    voter: str
    requested_at: datetime
    votes: int
    voted: tuple[str, ...]
    removed: tuple[str, ...]


def delete_voter(db: sqlite3.Connection, voter: str, now: datetime, *, has_backup: bool) -> int:
    """Delete votes, their history, assignments, own prompts and checks of `voter`; how many votes.

    A pair of theirs that somebody else has voted on stays, without its author.
    """
    voted = _ids(db, "SELECT DISTINCT pair_id FROM votes WHERE voter = :voter", voter)
    touched = _ids(db, "SELECT pair_id FROM assignments WHERE voter = :voter", voter)
    removed = _ids(
        db,
        "SELECT id FROM pairs WHERE (author = :voter OR only_for = :voter) AND NOT EXISTS"
        " (SELECT 1 FROM votes WHERE pair_id = pairs.id AND voter <> :voter)",
        voter,
    )
    db.execute(
        "DELETE FROM vote_history WHERE vote_id IN (SELECT id FROM votes WHERE voter = ?)", (voter,)
    )
    votes = db.execute("DELETE FROM votes WHERE voter = ?", (voter,)).rowcount
    db.execute("DELETE FROM assignments WHERE voter = ?", (voter,))
    db.execute("DELETE FROM voters WHERE voter = ?", (voter,))
    gone = [(pair_id,) for pair_id in removed]
    db.executemany("DELETE FROM assignments WHERE pair_id = ?", gone)
    db.executemany("DELETE FROM pairs WHERE id = ?", gone)
    db.execute("UPDATE pairs SET author = NULL WHERE author = ?", (voter,))
    db.execute("UPDATE pairs SET only_for = NULL WHERE only_for = ?", (voter,))
    for pair_id in touched:
        recount(db, pair_id)
    if voted or removed:
        _remember(db, Deletion(voter, now, votes, voted, removed), has_backup=has_backup)
    return votes


def finish_deletion(db: sqlite3.Connection, deletion: Deletion, place: Place) -> None:
    """`place` has forgotten what `deletion` names; after the last place so has the journal.

    A wish that was renewed meanwhile stays pending.
    """
    key = (deletion.voter, to_text(deletion.requested_at))
    done = db.execute(
        f"UPDATE deletions SET {place} = 1 WHERE voter = ? AND requested_at = ?",  # noqa: S608
        key,
    )
    if done.rowcount and place == "in_argilla":
        # A vote cast since may have gone with the voter's user there: send it again.
        db.execute("UPDATE votes SET delivered_revision = 0 WHERE voter = ?", key[:1])
    db.execute("DELETE FROM deletions WHERE in_argilla AND in_backup")


def still_wanted(
    db: sqlite3.Connection, pairs: Sequence[Pair], votes: Sequence[Vote]
) -> tuple[list[Pair], list[Vote]]:
    """What of Argilla's pairs and votes no pending deletion forbids to take over again."""
    asked = {deletion.voter: deletion for deletion in pending(db)}
    if not asked:
        return list(pairs), list(votes)
    removed = {pair_id for deletion in asked.values() for pair_id in deletion.removed}
    return (
        [pair for pair in pairs if pair.id not in removed],
        [
            vote
            for vote in votes
            if vote.pair_id not in removed
            and (vote.voter not in asked or vote.created_at > asked[vote.voter].requested_at)
        ],
    )


def pending(db: sqlite3.Connection, place: Place | None = None) -> list[Deletion]:
    """Wishes that `place`, or any place, has not followed yet; oldest first."""
    where = f"WHERE NOT {place}" if place else ""
    rows = db.execute(f"SELECT * FROM deletions {where} ORDER BY requested_at")  # noqa: S608
    return [_deletion(row) for row in rows]


def note_published(path: Path) -> None:
    """Keep in the journal at `path` that votes left for the Hub; from any process, beside the app.

    Raises JournalError.
    """
    db = open_writer(path)
    try:
        db.execute(
            "INSERT OR IGNORE INTO notes VALUES (?, ?)", (PUBLISHED_NOTE, to_text(utc_now()))
        )
    finally:
        db.close()


def was_published(journal: JournalReader) -> bool:
    """Whether a dataset, or a model made from one, was ever sent to the Hub."""
    return journal.note(PUBLISHED_NOTE) is not None


def _remember(db: sqlite3.Connection, asked: Deletion, *, has_backup: bool) -> None:
    """Keep the wish for the places that may hold something, joined with one still pending."""
    before = next((d for d in pending(db) if d.voter == asked.voter), None)
    known = db.execute("SELECT 1 FROM notes WHERE key = ?", (ARGILLA_NOTE,)).fetchone()
    if before is None and known is None and not has_backup:
        return
    voted, removed, votes = asked.voted, asked.removed, asked.votes
    if before is not None:
        voted = tuple(dict.fromkeys((*before.voted, *voted)))
        removed = tuple(dict.fromkeys((*before.removed, *removed)))
        votes += before.votes
    db.execute(
        "INSERT INTO deletions (voter, requested_at, votes, pairs, in_argilla, in_backup)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " requested_at = excluded.requested_at, votes = excluded.votes, pairs = excluded.pairs,"
        " in_argilla = min(in_argilla, excluded.in_argilla),"
        " in_backup = min(in_backup, excluded.in_backup)",
        (
            asked.voter,
            to_text(asked.requested_at),
            votes,
            json.dumps({"voted": voted, "removed": removed}),
            int(known is None),
            int(not has_backup),
        ),
    )


def _deletion(row: sqlite3.Row) -> Deletion:
    pairs = json.loads(row["pairs"])
    return Deletion(
        voter=row["voter"],
        requested_at=datetime.fromisoformat(row["requested_at"]),
        votes=row["votes"],
        voted=tuple(pairs["voted"]),
        removed=tuple(pairs["removed"]),
    )


def _ids(db: sqlite3.Connection, sql: str, voter: str) -> tuple[str, ...]:
    return tuple(str(row[0]) for row in db.execute(sql, {"voter": voter}))
