"""The journal's file: how a connection is opened, and rows to types and back.

Refuses a file that a newer Votetune wrote, and text that is not valid Unicode. Its tables are in
`journal_tables`. Decides nothing about who may vote.
"""

import json
import os
import sqlite3
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from annotation.faults import Fault
from annotation.journal.tables import SCHEMA_VERSION, upgrade_script
from annotation.schema import (
    Choice,
    Completion,
    Message,
    ModelRef,
    Pair,
    PairKind,
    Prompt,
    Reason,
    Sampling,
    Vote,
    VoteSource,
)

BUSY_TIMEOUT_S = 10.0
WAL_PAGES = 8000
# Looked up here, a vote is read in two thirds of the time: an Enum's own call is slow.
_CHOICES = {choice.value: choice for choice in Choice}
_REASONS = {reason.value: reason for reason in Reason}
_SOURCES = {source.value: source for source in VoteSource}


class JournalError(Fault):
    """The journal cannot do what was asked; the message is one clear line."""


class JournalFull(JournalError):
    """No room on the disk: nothing of the operation was stored."""


class UnknownPair(JournalError):
    """No pair has this id."""


class UnknownVote(JournalError):
    """No vote has this id."""


class NotYours(JournalError):
    """The pair was not issued to this voter, or the vote is another voter's."""


class VoteConflict(JournalError):
    """The voter has already decided, here or in Argilla, and this would contradict it."""


@dataclass(frozen=True, slots=True)
class VoteOutcome:
    """A stored vote with its pair. `replayed`: it was there before and nothing changed."""

    vote: Vote
    pair: Pair
    in_argilla: bool
    replayed: bool = False


def open_writer(path: Path) -> sqlite3.Connection:
    """Open or make the journal, mode 0600, WAL, synchronous=FULL; JournalError in one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        path.chmod(0o600)
    except OSError as error:
        raise JournalError(f"The journal {path} can't be written: {error.strerror}.") from error
    connection = connect(path)
    with ExitStack() as unless_made:
        unless_made.callback(connection.close)
        _prepare(connection, path)
        unless_made.pop_all()
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open an existing journal for reading, whether or not another process writes to it."""
    if not path.is_file():
        raise JournalError(f"There is no journal at {path}: start the app once to make it.")
    connection = connect(path)
    with ExitStack() as unless_ready:
        unless_ready.callback(connection.close)
        if _version(connection, path) < SCHEMA_VERSION:
            raise JournalError(
                f"{path} is not a journal of this Votetune: start the app to make or renew it."
            )
        connection.execute("PRAGMA query_only = ON")
        unless_ready.pop_all()
    return connection


def connect(path: Path) -> sqlite3.Connection:
    """A bare connection, for any thread; sets no mode and looks at no version."""
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    return connection


def _version(connection: sqlite3.Connection, path: Path) -> int:
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.DatabaseError as error:
        raise JournalError(f"{path} can't be read as a journal: {error}.") from error
    if version > SCHEMA_VERSION:
        raise JournalError(
            f"{path} is of a newer Votetune (schema {version}, this one knows {SCHEMA_VERSION}):"
            " use that Votetune, or set VOTETUNE_HOME to another folder."
        )
    return version


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = _version(connection, path)
    try:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise JournalError(f"{path} is on a disk without SQLite's WAL: use a local disk.")
        connection.execute("PRAGMA synchronous = FULL")
        # Folding the WAL in holds votes up: `checkpoints` does it, this where that falls behind.
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        connection.execute("PRAGMA foreign_keys = ON")
        # What was deleted on a voter's wish is overwritten, not only unlinked.
        connection.execute("PRAGMA secure_delete = ON")
        if version < SCHEMA_VERSION:
            # One script in one transaction: a crash leaves no half-made journal.
            connection.executescript(f"BEGIN IMMEDIATE; {upgrade_script(version)} COMMIT;")
    except sqlite3.Error as error:
        raise translate(error, path) from error


def translate(error: sqlite3.Error, path: Path) -> JournalError:
    """A SQLite error as one of ours: JournalFull where the disk has no room."""
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return JournalFull(f"The disk that holds {path} is full, so nothing was saved.")
    return JournalError(f"The journal {path} refused: {error}.")


def to_text(moment: datetime) -> str:
    """UTC with microseconds, of fixed width, so that text order is time order."""
    if moment.tzinfo is None:
        raise ValueError(f"The time {moment.isoformat()} has no time zone: use UTC.")
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def pair_to_row(pair: Pair) -> tuple[str | None, ...]:
    """What a pair is, column by column from `id` to `created_at`, then `kind` to `expected`."""
    first, second = (_dumps(asdict(completion)) for completion in pair.completions)
    messages = _dumps([asdict(message) for message in pair.prompt.messages])
    return (
        pair.id,
        pair.prompt.id,
        messages,
        first,
        second,
        to_text(pair.created_at),
        pair.kind.value,
        pair.only_for,
        pair.author,
        pair.repeats,
        pair.expected.value if pair.expected else None,
    )


def pair_from_row(row: sqlite3.Row) -> Pair:
    return Pair(
        id=row["id"],
        prompt=Prompt(tuple(Message(**message) for message in json.loads(row["messages"]))),
        completions=(_completion(row["first"]), _completion(row["second"])),
        created_at=datetime.fromisoformat(row["created_at"]),
        kind=PairKind(row["kind"]),
        only_for=row["only_for"],
        author=row["author"],
        repeats=row["repeats"],
        expected=Choice(row["expected"]) if row["expected"] else None,
    )


def vote_to_row(vote: Vote) -> tuple[str | int | None, ...]:
    """Every column of `votes` but seq and those that say who has got it."""
    return (
        vote.id,
        vote.pair_id,
        vote.voter,
        vote.choice.value,
        int(vote.flipped),
        to_text(vote.created_at),
        reasons_to_text(vote.reasons),
        vote.comment,
        vote.source.value,
        to_text(vote.superseded_at) if vote.superseded_at else None,
        int(vote.counted),
        vote.why,
        vote.revision,
        to_text(vote.issued_at) if vote.issued_at else None,
        vote.set_aside,
    )


def vote_from_row(row: sqlite3.Row) -> Vote:
    """The vote in a row of `SELECT votes.*`."""
    # By place, of the table's columns and of the vote's fields: by name it takes twice the time.
    (_, vote_id, pair_id, voter, choice, flipped, cast, reasons, comment, source, undone,
     counted, why, revision, _, issued, set_aside, _) = row  # fmt: skip
    return Vote(
        vote_id,
        pair_id,
        voter,
        _CHOICES[choice],
        flipped == 1,
        datetime.fromisoformat(cast),
        tuple([_REASONS[reason] for reason in reasons.split()]) if reasons else (),
        comment,
        _SOURCES[source],
        datetime.fromisoformat(undone) if undone else None,
        counted == 1,
        why,
        revision,
        datetime.fromisoformat(issued) if issued else None,
        set_aside,
    )


def reasons_to_text(reasons: tuple[Reason, ...]) -> str:
    return " ".join(reason.value for reason in reasons)


def is_in_argilla(row: sqlite3.Row) -> bool:
    """Whether Argilla has this state of the vote; a skip never goes there."""
    delivered: bool = row["delivered_revision"] >= row["revision"]
    return delivered and row["choice"] != Choice.SKIP.value


def _dumps(value: Any) -> str:
    # Not ASCII-escaped: a lone surrogate then fails here, and not in a reader years later.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _completion(text: str) -> Completion:
    fields = json.loads(text)
    return Completion(
        text=fields["text"],
        model=ModelRef(**fields["model"]),
        sampling=Sampling(**fields["sampling"]),
        finish=fields["finish"],
    )
