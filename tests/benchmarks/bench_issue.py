"""How long the journal takes to choose a pair: 100,000 pairs, 300 voters with 100 votes each.

Each voter takes 4 pairs and holds them, so that at the end 1,200 are held at once.
"""

import random
import sqlite3
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from annotation.journal.issue import issue_pair
from annotation.journal.journal import Journal
from annotation.journal.rows import pair_to_row, to_text
from tests.journal_parts import LEASE, NOON, make_pair, on_writer

PAIRS, VOTERS, VOTES_EACH, OPEN = 100_000, 300, 100, 4


def fill(db: sqlite3.Connection) -> None:
    row = pair_to_row(make_pair("p"))[1:6]
    db.executemany(
        "INSERT INTO pairs (id, prompt_id, messages, first, second, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        ((f"p{n}", *row) for n in range(PAIRS)),
    )
    drawn = random.Random(1)
    voted = [
        (f"v{v}", f"p{n}") for v in range(VOTERS) for n in drawn.sample(range(PAIRS), VOTES_EACH)
    ]
    at = to_text(NOON)
    db.executemany(
        "INSERT INTO assignments VALUES (?, ?, ?, ?, 1)", ((*both, at, at) for both in voted)
    )
    db.executemany(
        "INSERT INTO votes (id, pair_id, voter, choice, flipped, created_at, reasons, comment,"
        " source, counted, revision) VALUES (?, ?, ?, 'a', 0, ?, '', '', 'page', 1, 1)",
        ((f"{voter}-{pair}", pair, voter, at) for voter, pair in voted),
    )
    db.execute("UPDATE pairs SET votes = (SELECT count(*) FROM votes WHERE pair_id = pairs.id)")


def take(db: sqlite3.Connection, wanted: int) -> list[float]:
    """Milliseconds of each choice."""
    took, now = [], NOON
    for turn in range(VOTERS * OPEN):
        began = time.perf_counter()
        issue_pair(
            db,
            f"v{turn % VOTERS}",
            votes_per_pair=wanted,
            lease=LEASE,
            max_open=OPEN,
            now=now,
        )
        took.append(1000 * (time.perf_counter() - began))
        now += timedelta(milliseconds=20)
    return took


def main() -> None:
    for wanted in (1, 3):
        with tempfile.TemporaryDirectory() as scratch:
            journal = Journal(Path(scratch) / "journal.sqlite3")
            on_writer(journal, fill)
            took = sorted(on_writer(journal, lambda db, wanted=wanted: take(db, wanted)))
            journal.close()
        print(
            f"choosing among {PAIRS:,} pairs, {VOTERS} voters, VOTES_PER_PAIR={wanted}: "
            f"p50 {statistics.median(took):.2f}, p95 {took[int(0.95 * len(took))]:.2f} ms"
        )


if __name__ == "__main__":
    main()
