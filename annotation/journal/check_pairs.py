"""The checks among a voter's pairs: a decided pair shown again, or one whose answer is known.

Plain functions over the writer's connection, run inside its transaction. Owns which pair is shown
again, and that a repeat has its sides swapped. When there is a check is drawn by `checks`.
"""

import sqlite3
from dataclasses import replace
from datetime import datetime

from annotation.checks import MOST_CHECKS, VOTES_BETWEEN, Checks, is_flipped, keyed_id
from annotation.journal.pairs import insert_pair
from annotation.journal.rows import pair_from_row
from annotation.schema import PairKind

GIVEN = "SELECT count(*) FROM assignments WHERE voter = :voter"
# Not the pool: in the words of the index on the few pairs of other kinds.
_CHECKS_GIVEN = """
    SELECT (SELECT count(*) FROM pairs WHERE only_for = :voter AND repeats IS NOT NULL)
         + (SELECT count(*) FROM pairs CROSS JOIN assignments AS mine
            ON mine.voter = :voter AND mine.pair_id = pairs.id
            WHERE pairs.kind <> 'pool' AND pairs.kind = 'gold')
"""
_GOLD = """
    SELECT id FROM pairs
    WHERE kind <> 'pool' AND kind = 'gold' AND retired_at IS NULL AND NOT EXISTS (
        SELECT 1 FROM assignments AS mine
        WHERE mine.voter = :voter AND mine.pair_id = pairs.id)
    ORDER BY id
"""
# Old votes of somebody who has cast thousands are let be, so that this stays quick.
_DECIDED = """
    SELECT pairs.*, votes.flipped AS was_flipped FROM votes JOIN pairs ON pairs.id = votes.pair_id
    WHERE votes.voter = :voter AND votes.superseded_at IS NULL AND votes.choice IN ('a', 'b')
      AND votes.source <> 'argilla' AND pairs.kind IN ('pool', 'own')
      AND votes.seq <= (SELECT seq FROM votes WHERE voter = :voter
                        ORDER BY seq DESC LIMIT 1 OFFSET :between)
      AND NOT EXISTS (SELECT 1 FROM pairs AS again
                      WHERE again.only_for = :voter AND again.repeats = pairs.id)
    ORDER BY votes.seq DESC LIMIT 200
"""


def choose_check(db: sqlite3.Connection, voter: str, checks: Checks, now: datetime) -> str | None:
    """The id of a check to give `voter` now, or None where an ordinary pair is next."""
    if not checks.repeat_share and not checks.gold_share:
        return None
    given = int(db.execute(GIVEN, {"voter": voter}).fetchone()[0])
    check = checks.drawn(voter, given)
    if check is None:
        return None
    had = int(db.execute(_CHECKS_GIVEN, {"voter": voter}).fetchone()[0])
    if had + 1 > MOST_CHECKS * (given + 1):
        return None
    if check == "gold":
        return _gold(db, voter, checks, given)
    return _repeat(db, voter, checks, given, now)


def _gold(db: sqlite3.Connection, voter: str, checks: Checks, given: int) -> str | None:
    ids = [str(row["id"]) for row in db.execute(_GOLD, {"voter": voter})]
    return ids[checks.place(voter, given, len(ids))] if ids else None


def _repeat(
    db: sqlite3.Connection, voter: str, checks: Checks, given: int, now: datetime
) -> str | None:
    """Store a decided pair of `voter` once more, so that its sides will be drawn swapped."""
    values = {"voter": voter, "between": VOTES_BETWEEN}
    decided = db.execute(_DECIDED, values).fetchall()
    if not decided:
        return None
    row = decided[checks.place(voter, given, len(decided))]
    original = pair_from_row(row)
    a, b = original.shown(bool(row["was_flipped"]))
    pair_id = keyed_id(checks.secret, "repeat", voter, original.id)
    again = replace(
        original,
        id=pair_id,
        completions=(a, b) if is_flipped(checks.secret, pair_id, voter) else (b, a),
        created_at=now,
        kind=PairKind.REPEAT,
        only_for=voter,
        author=None,
        repeats=original.id,
    )
    insert_pair(db, again, delivered=False)
    return pair_id
