"""How pairs come into the journal: sampled, taken over from Argilla, asked, made as checks.

Plain functions over the writer's connection, run inside its transaction. Owns that only a public
pair waits to be delivered, and the leases. Chooses nobody's next pair.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from annotation.journal.rows import UnknownPair, pair_from_row, pair_to_row, to_text
from annotation.journal.tables import WAITING_PAIRS
from annotation.journal.votes import count_waiting, refuse_waiting
from annotation.schema import Pair


def add_pairs(db: sqlite3.Connection, pairs: Sequence[Pair]) -> None:
    for pair in pairs:
        if not insert_pair(db, pair, delivered=False):
            raise ValueError(f"Pair {pair.id} is in the journal already: give a new one a new id.")


def mirror_pairs(db: sqlite3.Connection, pairs: Sequence[Pair]) -> None:
    for pair in pairs:
        if not insert_pair(db, pair, delivered=True):
            db.execute("UPDATE pairs SET delivered = 1 WHERE id = ?", (pair.id,))


def insert_pair(db: sqlite3.Connection, pair: Pair, *, delivered: bool) -> bool:
    added = db.execute(
        "INSERT INTO pairs (id, prompt_id, messages, first, second, created_at, kind, only_for,"
        " author, repeats, expected, delivered)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        (*pair_to_row(pair), int(delivered or not pair.is_public)),
    )
    return added.rowcount == 1


def set_gold_pairs(db: sqlite3.Connection, pairs: Sequence[Pair], now: datetime) -> None:
    """Let `pairs` be the gold pairs in play: new ones come in, those that are gone retire."""
    db.execute(
        "UPDATE pairs SET retired_at = coalesce(retired_at, ?) WHERE kind <> 'pool'"
        " AND kind = 'gold'",
        (to_text(now),),
    )
    for pair in pairs:
        if not insert_pair(db, pair, delivered=False):
            db.execute("UPDATE pairs SET retired_at = NULL WHERE id = ?", (pair.id,))


def add_own_pair(db: sqlite3.Connection, pair: Pair, *, lease: timedelta, now: datetime) -> None:
    """Store the pair on a voter's own prompt and give it to them."""
    assert pair.author is not None
    add_pairs(db, [pair])
    lease_pair(db, pair.author, pair.id, lease=lease, now=now)


def approve_pair(db: sqlite3.Connection, pair_id: str, now: datetime) -> Pair:
    """Let a waiting pair go round; what was voted on it counts from now on."""
    pair = _waiting_pair(db, pair_id)
    db.execute(
        "UPDATE pairs SET only_for = NULL, delivered = 0, backed_up = 0 WHERE id = ?", (pair_id,)
    )
    count_waiting(db, pair_id, now)
    return replace(pair, only_for=None)


def reject_pair(db: sqlite3.Connection, pair_id: str, now: datetime) -> Pair:
    """Take a waiting pair out of play for good; what was voted on it never counts."""
    pair = _waiting_pair(db, pair_id)
    db.execute(
        "UPDATE pairs SET retired_at = ?, backed_up = 0 WHERE id = ?", (to_text(now), pair_id)
    )
    refuse_waiting(db, pair_id, now)
    return pair


def lease_pair(
    db: sqlite3.Connection, voter: str, pair_id: str, *, lease: timedelta, now: datetime
) -> None:
    """Write down that `voter` was given the pair and has it until `now + lease`."""
    expires = to_text(now + lease)
    db.execute(
        "INSERT INTO assignments (voter, pair_id, issued_at, expires_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE"
        " SET issued_at = excluded.issued_at, expires_at = excluded.expires_at",
        (voter, pair_id, to_text(now), expires),
    )
    db.execute(
        "UPDATE pairs SET leased_until = max(leased_until, ?) WHERE id = ?", (expires, pair_id)
    )


def _waiting_pair(db: sqlite3.Connection, pair_id: str) -> Pair:
    row = db.execute(f"SELECT * FROM pairs WHERE {WAITING_PAIRS} AND id = ?", (pair_id,)).fetchone()  # noqa: S608
    if row is None:
        raise UnknownPair(f"No prompt waits under the id {pair_id!r}: look at the list again.")
    return pair_from_row(row)
