"""Which pair a voter is given next: the one that most needs a vote, and never one twice.

Plain functions over the writer's connection, run inside its transaction. Owns the order of pairs
and the leases. Makes no pair.
"""

import sqlite3
from datetime import datetime, timedelta

from annotation.journal_schema import pair_from_row, to_text
from annotation.schema import Pair

_UNSEEN = """
    pairs.retired_at IS NULL AND pairs.only_for IS NULL AND pairs.kind IN ('pool', 'own')
    AND NOT EXISTS (
        SELECT 1 FROM assignments AS mine
        WHERE mine.voter = :voter AND mine.pair_id = pairs.id
          AND (mine.done OR mine.expires_at > :now))
"""
_LEASES = """
    (SELECT count(*) FROM assignments AS lease
     WHERE lease.pair_id = pairs.id AND lease.done = 0 AND lease.expires_at > :now)
"""
_WANTING = f"""
    SELECT id FROM pairs WHERE votes = :votes AND {_UNSEEN} AND votes + {_LEASES} < :most
    ORDER BY seq LIMIT 1
"""  # noqa: S608 - built from constants
_SEEN_BY_OTHERS = f"""
    SELECT id FROM pairs WHERE votes >= :wanted AND {_UNSEEN} ORDER BY votes, seq LIMIT 1
"""  # noqa: S608
_OPEN = """
    SELECT pair_id FROM assignments JOIN pairs ON pairs.id = pair_id
    WHERE voter = :voter AND done = 0 AND expires_at > :now AND retired_at IS NULL
    ORDER BY issued_at, pairs.seq
"""
_ANY_NUMBER = 1 << 40


def issue_pair(
    db: sqlite3.Connection,
    voter: str,
    *,
    votes_per_pair: int,
    lease: timedelta,
    max_open: int,
    now: datetime,
) -> Pair | None:
    issued, expires = to_text(now), to_text(now + lease)
    mine = {"voter": voter, "now": issued}
    still_open = [row["pair_id"] for row in db.execute(_OPEN, mine)]
    pair_id = None
    if len(still_open) < max_open:
        pair_id = _choose(db, mine, votes_per_pair)
    if pair_id is None and still_open:
        pair_id = still_open[0]
    if pair_id is None:
        return None
    db.execute(
        "INSERT INTO assignments (voter, pair_id, issued_at, expires_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE"
        " SET issued_at = excluded.issued_at, expires_at = excluded.expires_at",
        (voter, pair_id, issued, expires),
    )
    return pair_from_row(db.execute("SELECT * FROM pairs WHERE id = ?", (pair_id,)).fetchone())


def _choose(db: sqlite3.Connection, mine: dict[str, str], votes_per_pair: int) -> str | None:
    # Votes and leases below what is wanted first, then whatever still wants votes.
    for most in (votes_per_pair, _ANY_NUMBER):
        for votes in range(votes_per_pair - 1, -1, -1):
            row = db.execute(_WANTING, {**mine, "votes": votes, "most": most}).fetchone()
            if row is not None:
                return str(row["id"])
    row = db.execute(_SEEN_BY_OTHERS, {**mine, "wanted": votes_per_pair}).fetchone()
    return None if row is None else str(row["id"])
