"""The journal's side of the backup: what it has not got yet, and marking what it has.

Owns the columns `backed_up` and `backup_revision`. Marks only what is still as it was sent. Knows
no repository; how a backup comes home is `journal_restore`.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path

from annotation.backup.events import (
    BackupBase,
    EarlierState,
    Event,
    Snapshot,
    StoredPair,
    StoredVote,
    VoterState,
    Wish,
)
from annotation.backup.journal_restore import Restored, restore_snapshot
from annotation.journal.deletion import Deletion
from annotation.journal.journal import Journal
from annotation.journal.reader import IDS_PER_QUERY, JournalReader
from annotation.journal.rows import pair_from_row, to_text, vote_from_row
from annotation.schema import Reason, utc_now

MAX_EVENTS = 4000
"""Pairs, and votes, that go to the backup in one commit."""
_REPO_NOTE = "backup:repo"
_SYNCED_NOTE = "backup:last_sync"
_ERROR_NOTE = "backup:last_error"


class BackupReader(JournalReader):
    """Reads what a backup asks of the journal, also beside a running app."""

    def waiting(self) -> list[Event]:
        """What the backup has not got, oldest first: at most MAX_EVENTS pairs and as many votes.

        A vote never goes before its pair. Deletions that the backup has not followed come last,
        every time.
        """
        pairs = self._rows(
            "SELECT * FROM pairs WHERE backed_up = 0 ORDER BY seq LIMIT ?", (MAX_EVENTS,)
        )
        # Read apart, so a pair made meanwhile may have a vote here already: that one waits.
        votes = self._rows(
            "SELECT votes.* FROM votes JOIN pairs ON pairs.id = pair_id"
            " WHERE backup_revision < revision AND (pairs.backed_up = 1 OR pairs.seq <= ?)"
            " ORDER BY votes.seq LIMIT ?",
            (pairs[-1]["seq"] if pairs else 0, MAX_EVENTS),
        )
        history = self._history([row["id"] for row in votes])
        voters = self._rows("SELECT * FROM voters WHERE backed_up = 0")
        return [
            *(StoredPair(pair_from_row(row), _time(row["retired_at"])) for row in pairs),
            *(StoredVote(vote_from_row(row), tuple(history.get(row["id"], ()))) for row in votes),
            *(
                VoterState(
                    row["voter"], row["set_aside"], datetime.fromisoformat(row["changed_at"])
                )
                for row in voters
            ),
            *self.wishes(),
        ]

    def waiting_count(self) -> int:
        """Pairs and votes that the backup has not got as they are now."""
        return self._number(
            "SELECT (SELECT count(*) FROM pairs WHERE backed_up = 0)"
            " + (SELECT count(*) FROM votes WHERE backup_revision < revision)"
        )

    def wishes(self) -> list[Wish]:
        """Deletions that the backup has not followed yet, oldest first."""
        rows = self._rows("SELECT * FROM deletions WHERE in_backup = 0 ORDER BY requested_at")
        return [_wish(row) for row in rows]

    def is_empty(self) -> bool:
        """Whether nothing was ever sampled or voted on here; gold pairs come with every start."""
        sampled = "SELECT 1 FROM pairs WHERE kind <> 'gold'"
        return not self._number(f"SELECT EXISTS ({sampled}) OR EXISTS (SELECT 1 FROM votes)")  # noqa: S608

    def held_votes(self) -> int:
        """Every vote, undone ones too: any of them ties this home to its base."""
        return self._number("SELECT count(*) FROM votes")

    def read_up_to(self, repo: str) -> str | None:
        """The last file of `repo` that is here with all before it; None before a restore."""
        return self.note(_read_note(repo))

    def last_sync(self) -> datetime | None:
        """When the backup last had everything."""
        return _time(self.note(_SYNCED_NOTE))

    def last_error(self) -> str | None:
        """Why it has not, in one line."""
        return self.note(_ERROR_NOTE) or None

    def _history(self, ids: Sequence[str]) -> dict[str, list[EarlierState]]:
        found: dict[str, list[EarlierState]] = {}
        for start in range(0, len(ids), IDS_PER_QUERY):
            some = ids[start : start + IDS_PER_QUERY]
            marks = ",".join("?" * len(some))
            for row in self._rows(
                f"SELECT * FROM vote_history WHERE vote_id IN ({marks}) ORDER BY revision",  # noqa: S608
                some,
            ):
                found.setdefault(row["vote_id"], []).append(_earlier(row))
        return found


class JournalBackup(BackupReader):
    """Reads as BackupReader does, and writes through the journal's one writer."""

    def __init__(self, journal: Journal, path: Path) -> None:
        super().__init__(path)
        self._journal = journal

    def belong_to(self, repo: str) -> None:
        """Send all to `repo` where it was another one that had it before."""
        if self.note(_REPO_NOTE) == repo:
            return

        def run(db: sqlite3.Connection) -> None:
            db.execute("UPDATE pairs SET backed_up = 0")
            db.execute("UPDATE votes SET backup_revision = 0")
            db.execute("UPDATE voters SET backed_up = 0")
            _note(db, _REPO_NOTE, repo)

        self._journal.submit(run).result()

    def mark(
        self, repo: str, last: str | None, events: Iterable[Event], at: datetime
    ) -> "Future[None]":
        """`repo` has `events`; what has changed meanwhile stays waiting.

        `last` is the file up to which all of `repo` is here, None where that is not known.
        """
        sent = list(events)

        def run(db: sqlite3.Connection) -> None:
            for event in sent:
                _mark(db, event)
            _note(db, _SYNCED_NOTE, to_text(at))
            if last is not None:
                _note(db, _read_note(repo), last)

        return self._journal.submit(run)

    def finish(self, wish: Wish) -> "Future[None]":
        """The backup holds nothing of that voter any more; a wish renewed since stays."""

        assert wish.voter is not None
        asked = Deletion(wish.voter, wish.requested_at, wish.votes, wish.voted, wish.removed)
        return self._journal.finish_deletion(asked, "in_backup")

    def set_error(self, line: str | None) -> "Future[None]":
        """Keep why the backup does not have everything, for whoever asks for the state."""
        return self._journal.set_note(_ERROR_NOTE, line or "")

    def restore(self, repo: str, last: str, held: Snapshot, base: BackupBase) -> "Future[Restored]":
        """Take over what the backup `held` up to the file `last`, all or none.

        What is here at the same or a later revision stays. Who has got a vote is not known, so
        all go to Argilla again, which changes nothing there. Waiting pairs of another base than
        `base` are retired.
        """
        now = to_text(utc_now())

        def run(db: sqlite3.Connection) -> Restored:
            found = restore_snapshot(db, held, base, now)
            _note(db, _read_note(repo), last)
            return found

        return self._journal.submit(run, scrub=bool(held.wishes))


def _mark(db: sqlite3.Connection, event: Event) -> None:
    if isinstance(event, StoredPair):
        pair, retired = event.pair, event.retired_at
        db.execute(
            "UPDATE pairs SET backed_up = 1"
            " WHERE id = ? AND only_for IS ? AND author IS ? AND retired_at IS ?",
            (pair.id, pair.only_for, pair.author, to_text(retired) if retired else None),
        )
    elif isinstance(event, StoredVote):
        db.execute(
            "UPDATE votes SET backup_revision = max(backup_revision, ?) WHERE id = ?",
            (event.vote.revision, event.vote.id),
        )
    elif isinstance(event, VoterState):
        db.execute(
            "UPDATE voters SET backed_up = 1 WHERE voter = ? AND changed_at = ?",
            (event.voter, to_text(event.changed_at)),
        )


def _earlier(row: sqlite3.Row) -> EarlierState:
    return EarlierState(
        revision=row["revision"],
        reasons=tuple(Reason(reason) for reason in row["reasons"].split()),
        comment=row["comment"],
        superseded_at=_time(row["superseded_at"]),
        replaced_at=datetime.fromisoformat(row["replaced_at"]),
    )


def _voter_state(row: sqlite3.Row) -> VoterState:
    return VoterState(row["voter"], row["set_aside"], datetime.fromisoformat(row["changed_at"]))


def _wish(row: sqlite3.Row) -> Wish:
    pairs = json.loads(row["pairs"])
    return Wish.of(
        row["voter"],
        datetime.fromisoformat(row["requested_at"]),
        votes=row["votes"],
        voted=pairs["voted"],
        removed=pairs["removed"],
        in_argilla=bool(row["in_argilla"]),
    )


def _note(db: sqlite3.Connection, key: str, value: str) -> None:
    db.execute("INSERT OR REPLACE INTO notes (key, value) VALUES (?, ?)", (key, value))


def _read_note(repo: str) -> str:
    return f"backup:{repo}:read"


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
