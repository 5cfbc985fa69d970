"""The rows of many votes, as the server's own models would write them, without those models.

Runs only in the embedded server's environment. Owns the SQL and what a column's text looks like;
what may be written is decided in `votes_route`. Statements are text and go to sqlite3 as they are:
SQLAlchemy binds each id, time and status of a thousand rows by itself, which takes it four times
as long as SQLite takes to insert them, and its asynchronous side hands every statement to another
thread four times.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from sqlite3 import Connection
from typing import NamedTuple
from uuid import UUID

from argilla_server.database import sync_engine
from argilla_server.enums import RecordStatus
from argilla_server.errors.future import UnprocessableEntityError

from annotation.argilla_store.packed import Receipt, read_receipts, receipts_spliced
from annotation.argilla_store.records import has_receipts, with_receipts

_OWNER = "SELECT 1 FROM users WHERE api_key = ? AND role = 'owner'"
_DISTRIBUTION = "SELECT distribution FROM datasets WHERE id = ?"
_QUESTIONS = """
SELECT name, required, settings FROM questions WHERE dataset_id = ? ORDER BY inserted_at"""
# The receipts where SQLite finds them as we write them; any other record is looked at in Python.
_RECORDS = """
SELECT external_id, id, status, metadata,
CASE WHEN json_valid(metadata) AND json_type(metadata, '$.pair') = 'text'
AND json_type(metadata, '$.votes') = 'text' THEN json_extract(metadata, '$.votes') END
FROM records WHERE dataset_id = ? AND external_id IN (SELECT value FROM json_each(?))"""
_STRANGERS = "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT id FROM users)"
_PUT_MEMBERS = """
INSERT INTO datasets_users (dataset_id, user_id, inserted_at, updated_at) VALUES (?, ?, ?, ?)
ON CONFLICT (dataset_id, user_id) DO UPDATE SET updated_at = excluded.updated_at"""
_PUT_RESPONSES = """
INSERT INTO responses (id, record_id, user_id, status, "values", inserted_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (record_id, user_id) DO UPDATE SET
"values" = excluded."values", status = excluded.status, updated_at = excluded.updated_at"""
# The status is no condition: SQLite would then read every response that has it, of all datasets.
_SUBMITTED = """
SELECT record_id, count(*) FILTER (WHERE status = 'submitted') FROM responses
WHERE record_id IN (SELECT value FROM json_each(?)) GROUP BY record_id"""
_UPDATE_RECORDS = "UPDATE records SET metadata = ?, status = ?, updated_at = ? WHERE id = ?"
# A byte to what it is in a random UUID's version, and in its variant.
_VERSION = bytes(byte & 0x0F | 0x40 for byte in range(256))
_VARIANT = bytes(byte & 0x3F | 0x80 for byte in range(256))


class Answer(NamedTuple):
    """A response's two columns, as they are stored."""

    status: str
    values: str


class Votes(NamedTuple):
    """What to write to one record: answers by users (32 digits, as stored), receipts by voters."""

    responses: Sequence[tuple[str, Answer]]
    receipts: Mapping[str, Receipt | None]


class Question(NamedTuple):
    """A question as it is stored."""

    name: str
    required: bool
    settings: str


class Place(NamedTuple):
    """A dataset to write to: its id as stored, and what decides which answers it takes."""

    dataset_id: str
    min_submitted: int
    questions: tuple[Question, ...]


class _Record(NamedTuple):
    id: str
    status: str
    metadata: str | None
    receipts: str | None

    def with_receipts_of(self, votes: Votes) -> str | None:
        """The metadata with these receipts; None for a record that is not ours."""
        if self.metadata is None:
            return None
        if self.receipts is not None:
            spliced = receipts_spliced(self.metadata, self.receipts, votes.receipts)
            if spliced is not None:
                return spliced
        held = json.loads(self.metadata)
        if not has_receipts(held):
            return None
        return json.dumps(with_receipts(held, read_receipts(votes.receipts)))


def is_owners(api_key: str) -> bool:
    """Whether an owner, who may write to every dataset, has this key."""
    if not api_key:
        return False
    with closing(sync_engine.raw_connection()) as pooled:
        found = pooled.driver_connection.execute(_OWNER, (api_key,)).fetchone()
    return found is not None


def find_place(dataset_id: UUID) -> Place | None:
    """The dataset; None where there is none."""
    key = (dataset_id.hex,)
    with closing(sync_engine.raw_connection()) as pooled:
        found = pooled.driver_connection.execute(_DISTRIBUTION, key).fetchone()
        questions = pooled.driver_connection.execute(_QUESTIONS, key).fetchall()
    if found is None:
        return None
    needed = int(json.loads(found[0])["min_submitted"])
    asked = (Question(name, bool(required), text) for name, required, text in questions)
    return Place(dataset_id.hex, needed, tuple(asked))


def write_votes(place: Place, votes: Mapping[str, Votes]) -> list[str]:
    """Write the votes by external id and commit; the external ids of records that are not there or
    not ours. Raises UnprocessableEntityError at a user who is not there: nothing is written then.

    Blocks, and waits for others who write: for a thread of its own.
    """
    with closing(sync_engine.raw_connection()) as pooled, pooled.driver_connection as db:
        # At once: what is read below is then what is written to, whoever else writes.
        db.execute("BEGIN IMMEDIATE")
        records, metadata = _found(db, place.dataset_id, votes)
        here = [key for key in votes if key in metadata]
        rows = [(records[key].id, *said) for key in here for said in votes[key].responses]
        if rows:
            _put_responses(db, place.dataset_id, rows)
        if here:
            changed = [(records[key], metadata[key]) for key in here]
            _update_records(db, place.min_submitted, changed)
    return [key for key in votes if key not in metadata]


def _found(
    db: Connection, dataset_id: str, votes: Mapping[str, Votes]
) -> tuple[dict[str, _Record], dict[str, str]]:
    """The records that are there, and what the metadata of those that are ours will be."""
    found = db.execute(_RECORDS, (dataset_id, json.dumps(list(votes)))).fetchall()
    records = {key: _Record(*row) for key, *row in found}
    metadata = {key: record.with_receipts_of(votes[key]) for key, record in records.items()}
    return records, {key: text for key, text in metadata.items() if text is not None}


def _put_responses(
    db: Connection, dataset_id: str, responses: Sequence[tuple[str, str, Answer]]
) -> None:
    users = list(dict.fromkeys(user_id for _, user_id, _ in responses))
    strangers = db.execute(_STRANGERS, (json.dumps(users),)).fetchall()
    if ids := [str(UUID(user_id)) for (user_id,) in strangers]:
        raise UnprocessableEntityError(
            f"record does not have valid responses: user with id {min(ids)} not found"
        )
    now = datetime.utcnow()
    db.executemany(_PUT_MEMBERS, [(dataset_id, user_id, *2 * [_text(now)]) for user_id in users])
    rows = [
        (new_id, record_id, user_id, *said, moment, moment)
        for new_id, (record_id, user_id, said), moment in zip(
            _new_ids(len(responses)), responses, _moments(now, len(responses)), strict=True
        )
    ]
    db.executemany(_PUT_RESPONSES, rows)


def _update_records(
    db: Connection, min_submitted: int, metadata: Sequence[tuple[_Record, str]]
) -> None:
    """Receipts, and the status that the responses make; what changes neither keeps its time."""
    ids = json.dumps([record.id for record, _ in metadata])
    submitted = dict(db.execute(_SUBMITTED, (ids,)).fetchall())
    changes, now = [], _text(datetime.utcnow())
    for record, text in metadata:
        done = submitted.get(record.id, 0) >= min_submitted
        status = (RecordStatus.completed if done else RecordStatus.pending).name
        if status != record.status or text != record.metadata:
            changes.append((text, status, now, record.id))
    db.executemany(_UPDATE_RECORDS, changes)


def _new_ids(count: int) -> list[str]:
    """As `uuid4().hex` makes them, of one draw: a thousand draws take a third of the inserts."""
    drawn = bytearray(os.urandom(16 * count))
    for place, marked in ((6, _VERSION), (8, _VARIANT)):
        drawn[place::16] = drawn[place::16].translate(marked)
    digits = drawn.hex()
    return [digits[start : start + 32] for start in range(0, 32 * count, 32)]


def _moments(first: datetime, count: int) -> list[str]:
    """A microsecond apart: responses are listed in the order in which they came."""
    moments: list[str] = []
    while len(moments) < count:
        second, start = first.isoformat(" ", "seconds"), first.microsecond
        end = min(start + count - len(moments), 1_000_000)
        moments += [f"{second}.{micros:06}" for micros in range(start, end)]
        first += timedelta(microseconds=end - start)
    return moments


def _text(moment: datetime) -> str:
    return moment.isoformat(" ", "microseconds")
