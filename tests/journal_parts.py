"""Pairs and votes by hand for the tests of the vote path, and a way to fill the disk."""

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from annotation.journal.journal import Journal
from annotation.schema import Choice, Completion, ModelRef, Pair, Prompt, Sampling, Vote

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LEASE = timedelta(minutes=30)
FIRST_MODEL = ModelRef("starter", "1" * 40)
SECOND_MODEL = ModelRef("starter", "1" * 40, "run-7", "2" * 40)


def make_pair(name: str, *, prompt: str | None = None, size: int = 1) -> Pair:
    """Completions "first …" by the base and "second …" by an adapter."""
    return Pair(
        id=name,
        prompt=Prompt.from_text(prompt or f"What is {name}?"),
        completions=(
            Completion("first " * size, FIRST_MODEL, Sampling(seed=1)),
            Completion("second " * size, SECOND_MODEL, Sampling(seed=2), finish="length"),
        ),
        created_at=NOON,
    )


def make_vote(
    name: str, pair: str, voter: str = "ann", choice: Choice = Choice.A, **more: Any
) -> Vote:
    fields = {"flipped": False, "created_at": NOON, **more}
    if choice is Choice.SKIP:
        fields = {"counted": False, "why": "skipped", **fields}
    return Vote(id=name, pair_id=pair, voter=voter, choice=choice, **fields)


def give(journal: Journal, voter: str, *, wanted: int = 1, now: datetime = NOON) -> str | None:
    """The id of the next pair for `voter`, at most 4 open, 30 minutes each."""
    pair = journal.issue(voter, votes_per_pair=wanted, lease=LEASE, max_open=4, now=now).result()
    return pair and pair.id


def on_writer(journal: Journal, run: Callable[[sqlite3.Connection], Any]) -> Any:
    """Run something on the journal's own writing connection."""
    return journal._writer.submit(run).result()


def fill_disk(journal: Journal) -> None:
    """Let the file grow no further; what fits in its pages still does."""
    pages = on_writer(journal, lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    on_writer(journal, lambda db: db.execute(f"PRAGMA max_page_count = {pages}").fetchone())


def free_disk(journal: Journal) -> None:
    on_writer(journal, lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone())
