"""Which pair a voter is given next: the one that most needs a vote, and never one twice.

Plain functions over the writer's connection, run inside its transaction. Owns the order of pairs
and the leases. When there is a check or a comparison instead is drawn by `checks`.
"""

import sqlite3
from datetime import datetime, timedelta

from annotation.checks import Checks
from annotation.journal.check_pairs import GIVEN, choose_check
from annotation.journal.pairs import lease_pair
from annotation.journal.rows import pair_from_row, to_text
from annotation.journal.tables import COMPARISONS, IN_PLAY, LEASES
from annotation.schema import Pair

_UNSEEN = f"""
    {IN_PLAY}
    AND NOT EXISTS (
        SELECT 1 FROM assignments AS mine
        WHERE mine.voter = :voter AND mine.pair_id = pairs.id
          AND (mine.done OR mine.expires_at > :now))
"""  # noqa: S608 - built from constants
_WANTING = f"""
    SELECT id FROM pairs WHERE votes = :votes AND {_UNSEEN} AND votes + {LEASES} < :most
    ORDER BY seq LIMIT 1
"""  # noqa: S608
_UNHELD = f"""
    SELECT id FROM pairs WHERE votes = :votes AND leased_until <= :now AND {_UNSEEN}
    ORDER BY seq LIMIT 1
"""  # noqa: S608
_SEEN_BY_OTHERS = f"""
    SELECT id FROM pairs WHERE votes >= :wanted AND leased_until <= :free AND {_UNSEEN}
    ORDER BY votes, seq LIMIT 1
"""  # noqa: S608
_COMPARISON = f"""
    SELECT id FROM pairs
    WHERE {COMPARISONS} AND votes < 1 AND leased_until <= :now AND NOT EXISTS (
        SELECT 1 FROM assignments AS mine
        WHERE mine.voter = :voter AND mine.pair_id = pairs.id)
    ORDER BY seq LIMIT 1
"""  # noqa: S608
# From the few comparisons in play, not from all that a voter was ever given.
_COMPARED = f"""
    SELECT count(*) FROM pairs CROSS JOIN assignments AS mine
    ON mine.voter = :voter AND mine.pair_id = pairs.id WHERE {COMPARISONS}
"""  # noqa: S608
_OPEN = """
    SELECT pair_id FROM assignments JOIN pairs ON pairs.id = pair_id
    WHERE voter = :voter AND done = 0 AND expires_at > :now AND retired_at IS NULL
      AND kind <> 'tried'
    ORDER BY issued_at, pairs.seq
"""
MOST_COMPARISONS = 10
"""Comparisons in play that one voter is given."""
_ANY_NUMBER = 1 << 40
_ANY_TIME = "9999"


def issue_pair(
    db: sqlite3.Connection,
    voter: str,
    *,
    votes_per_pair: int,
    lease: timedelta,
    max_open: int,
    now: datetime,
    checks: Checks | None = None,
    compare_share: float = 0.0,
) -> Pair | None:
    mine = {"voter": voter, "now": to_text(now)}
    still_open = [row["pair_id"] for row in db.execute(_OPEN, mine)]
    pair_id = None
    if len(still_open) < max_open:
        check = checks and choose_check(db, voter, checks, now)
        compared = check or (checks and _choose_comparison(db, mine, checks, compare_share))
        pair_id = compared or _choose(db, mine, votes_per_pair)
    if pair_id is None and still_open:
        pair_id = still_open[0]
    if pair_id is None:
        return None
    lease_pair(db, voter, pair_id, lease=lease, now=now)
    return pair_from_row(db.execute("SELECT * FROM pairs WHERE id = ?", (pair_id,)).fetchone())


def _choose_comparison(
    db: sqlite3.Connection, mine: dict[str, str], checks: Checks, share: float
) -> str | None:
    """A comparison of models, in `share` of the voter's pairs while there are any."""
    if not share:
        return None
    given = int(db.execute(GIVEN, mine).fetchone()[0])
    if not checks.compares(mine["voter"], given, share):
        return None
    # One person's taste must not fill a comparison: the gate would leave such votes out anyway.
    if int(db.execute(_COMPARED, mine).fetchone()[0]) >= MOST_COMPARISONS:
        return None
    row = db.execute(_COMPARISON, mine).fetchone()
    return None if row is None else str(row["id"])


def _choose(db: sqlite3.Connection, mine: dict[str, str], votes_per_pair: int) -> str | None:
    # Votes and leases below what is wanted first, then whatever still wants votes.
    for most in (votes_per_pair, _ANY_NUMBER):
        for votes in range(votes_per_pair - 1, -1, -1):
            # Where one vote is wanting, any lease takes it: that is read off the index.
            sql = _UNHELD if votes + 1 == most else _WANTING
            row = db.execute(sql, {**mine, "votes": votes, "most": most}).fetchone()
            if row is not None:
                return str(row["id"])
    # Those that others have finished go round; many voters at once must not all get the same.
    for free in (mine["now"], _ANY_TIME):
        values = {**mine, "wanted": votes_per_pair, "free": free}
        row = db.execute(_SEEN_BY_OTHERS, values).fetchone()
        if row is not None:
            return str(row["id"])
    return None
