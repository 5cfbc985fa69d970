"""A route of the embedded server alone: many votes on records that are there, in one transaction.

Runs only in the embedded server's environment. Leaves in the tables, row for row, what the server's
own PUT records/bulk leaves of the same votes; reads no field, builds no model of a record and
answers with no record, which is what takes that route its time. Refuses what that one refuses, all
or nothing. What it can't do it names, for the caller to send through that route: records that are
not there or not ours, and all of them while a webhook has to hear of each.
"""

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Annotated, Any
from uuid import UUID, uuid4

from argilla_server.api.policies.v1 import DatasetPolicy, authorize
from argilla_server.api.schemas.v1.responses import UserResponseCreate
from argilla_server.database import get_async_db
from argilla_server.enums import RecordStatus, ResponseStatus
from argilla_server.errors.future import UnprocessableEntityError
from argilla_server.models import Dataset, Record, Response, User
from argilla_server.models.database import DatasetUser
from argilla_server.security import auth
from argilla_server.validators.responses import ResponseCreateValidator
from fastapi import APIRouter, Depends, Security
from pydantic import BaseModel, Field, TypeAdapter
from sqlalchemy import bindparam, func, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from annotation.argilla_store.records import has_receipts, with_receipts

MAX_RECORDS = 1000
_RECORDS, _RESPONSES = Record.__table__, Response.__table__
_MEMBERS = DatasetUser.__table__
_adapter = TypeAdapter(UserResponseCreate)
_SAID = "some text"
_Session = Annotated[AsyncSession, Depends(get_async_db)]
_Caller = Annotated[User, Security(auth.get_current_user)]


class VotesOnRecord(BaseModel):
    """Responses to one record, and by voter the receipts to put into it (None takes one out)."""

    external_id: str
    receipts: dict[str, dict[str, Any] | None]
    responses: list[dict[str, Any]]


class Votes(BaseModel):
    items: list[VotesOnRecord] = Field(min_length=1, max_length=MAX_RECORDS)


def votes_router(has_webhooks: Callable[[], bool]) -> APIRouter:
    """The route, and one that says that it is here."""
    router = APIRouter()

    @router.get("/votetune")
    async def offers(_user: _Caller) -> dict[str, int]:
        return {"votes": MAX_RECORDS}

    @router.put("/votetune/datasets/{dataset_id}/votes")
    async def put_votes(
        dataset_id: UUID, votes: Votes, db: _Session, user: _Caller
    ) -> dict[str, list[str]]:
        questions = selectinload(Dataset.questions)
        dataset = await Dataset.get_or_raise(db, dataset_id, options=[questions])
        await authorize(user, DatasetPolicy.upsert_records(dataset))
        if has_webhooks():
            return {"left": [item.external_id for item in votes.items]}
        return {"left": await _take(db, dataset, votes.items)}

    return router


async def _take(db: AsyncSession, dataset: Dataset, items: Sequence[VotesOnRecord]) -> list[str]:
    """Write what can be written here; the external ids of the rest."""
    check = _Checker(dataset)
    checked = {item.external_id: [check(r) for r in item.responses] for item in items}
    connection = await db.connection()
    # At once: what is read below is then what is written to, whoever else writes.
    await connection.exec_driver_sql("BEGIN IMMEDIATE")
    columns = (
        _RECORDS.c.id,
        _RECORDS.c.external_id,
        _RECORDS.c.status,
        _RECORDS.c.metadata,
    )
    named = _RECORDS.c.external_id.in_(list(checked))
    rows = await connection.execute(
        select(*columns).where(_RECORDS.c.dataset_id == dataset.id, named)
    )
    records = {row.external_id: row for row in rows if has_receipts(row.metadata)}
    here = [item for item in items if item.external_id in records]
    if here:
        responses = [(records[i.external_id].id, r) for i in here for r in checked[i.external_id]]
        await _refuse_strangers(connection, {response["user_id"] for _, response in responses})
        await _put_responses(connection, dataset.id, responses)
        await _update_records(connection, dataset, records, here)
    await db.commit()
    return [item.external_id for item in items if item.external_id not in records]


class _Checker:
    """A response as the server itself checks and stores it. Each sort of answer is looked at once,
    whatever its free text says: a batch has a thousand responses and a handful of sorts.
    """

    def __init__(self, dataset: Dataset) -> None:
        questions = [
            SimpleNamespace(name=q.name, required=q.required, parsed_settings=q.parsed_settings)
            for q in dataset.questions
        ]
        self._record = SimpleNamespace(dataset=SimpleNamespace(questions=questions), fields={})
        self._texts = [q.name for q in dataset.questions if q.is_text]
        self._seen: dict[str, dict[str, Any]] = {}

    def __call__(self, response: dict[str, Any]) -> dict[str, Any]:
        try:
            user_id = UUID(response["user_id"])
            values: Any = response.get("values")
            said = {name: values[name] for name in self._texts if values and _says(values, name)}
            # The order of the answers counts: it is that of the stored text.
            shape = {**values, **dict.fromkeys(said, _SAID)} if said else values
            sort = json.dumps([response["status"], shape])
            if sort not in self._seen:
                created = _adapter.validate_python(response)
                ResponseCreateValidator.validate(created, self._record)
                self._seen[sort] = created.model_dump(exclude={"user_id"})
        except (UnprocessableEntityError, LookupError, TypeError, AttributeError, ValueError) as ex:
            raise UnprocessableEntityError(f"record does not have valid responses: {ex}") from ex
        found = {"user_id": user_id, **self._seen[sort]}
        return {**found, "values": {**found["values"], **said}} if said else found


def _says(values: dict[str, Any], name: str) -> bool:
    """Whether the answer to the question is some text, and nothing beside it."""
    held = values.get(name)
    return isinstance(held, dict) and list(held) == ["value"] and isinstance(held["value"], str)


async def _refuse_strangers(connection: Any, user_ids: set[UUID]) -> None:
    found = await connection.execute(select(User.id).where(User.id.in_(user_ids)))
    if strangers := user_ids - set(found.scalars()):
        raise UnprocessableEntityError(
            "record does not have valid responses: "
            f"user with id {min(map(str, strangers))} not found"
        )


async def _put_responses(
    connection: Any, dataset_id: UUID, responses: Sequence[tuple[UUID, dict[str, Any]]]
) -> None:
    if not responses:
        return
    now = datetime.utcnow()
    member = insert(_MEMBERS)
    await connection.execute(
        member.on_conflict_do_update(
            index_elements=[_MEMBERS.c.dataset_id, _MEMBERS.c.user_id], set_={"updated_at": now}
        ),
        [
            {"dataset_id": dataset_id, "user_id": user_id, "inserted_at": now, "updated_at": now}
            for user_id in dict.fromkeys(response["user_id"] for _, response in responses)
        ],
    )
    fresh = insert(_RESPONSES)
    changed = {"values": fresh.excluded["values"], "status": fresh.excluded.status}
    # A moment apart: responses are listed in the order in which they came.
    moments = (now + timedelta(microseconds=n) for n in range(len(responses)))
    await connection.execute(
        fresh.on_conflict_do_update(
            index_elements=[_RESPONSES.c.record_id, _RESPONSES.c.user_id],
            set_={**changed, "updated_at": now},
        ),
        [
            {
                "id": uuid4(),
                "record_id": record_id,
                **response,
                "inserted_at": moment,
                "updated_at": moment,
            }
            for (record_id, response), moment in zip(responses, moments, strict=True)
        ],
    )


async def _update_records(
    connection: Any, dataset: Dataset, records: dict[str, Any], items: Sequence[VotesOnRecord]
) -> None:
    """Receipts, and the status that the responses make; what changes neither keeps its time."""
    ids = [records[item.external_id].id for item in items]
    counts = await connection.execute(
        select(_RESPONSES.c.record_id, func.count())
        .where(_RESPONSES.c.record_id.in_(ids), _RESPONSES.c.status == ResponseStatus.submitted)
        .group_by(_RESPONSES.c.record_id)
    )
    submitted = dict(counts.tuples().all())
    changes, now = [], datetime.utcnow()
    for item in items:
        record = records[item.external_id]
        metadata = with_receipts(record.metadata, item.receipts)
        done = submitted.get(record.id, 0) >= dataset.distribution["min_submitted"]
        status = RecordStatus.completed if done else RecordStatus.pending
        if status != record.status or metadata != record.metadata:
            row = {"of": record.id, "metadata": metadata, "status": status, "updated_at": now}
            changes.append(row)
    if changes:
        await connection.execute(update(_RECORDS).where(_RECORDS.c.id == bindparam("of")), changes)
