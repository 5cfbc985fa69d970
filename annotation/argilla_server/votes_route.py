"""A route of the embedded server alone: many votes on records that are there, in one transaction.

Runs only in the embedded server's environment. Leaves in the tables, row for row, what the server's
own PUT records/bulk leaves of the same votes; reads no field, builds no model of a record and
answers with no record, which is what takes that route its time. Refuses what that one refuses, all
or nothing. What it can't do it names, for the caller to send through that route: records that are
not there or not ours, and all of them while a webhook has to hear of each. The rows themselves are
`votes_tables`'.
"""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Annotated, Any
from uuid import UUID

from argilla_server.api.policies.v1 import DatasetPolicy, authorize
from argilla_server.api.schemas.v1.responses import UserResponseCreate
from argilla_server.database import get_async_db
from argilla_server.errors.future import UnprocessableEntityError
from argilla_server.models import Dataset, User
from argilla_server.security import auth
from argilla_server.validators.responses import ResponseCreateValidator
from fastapi import APIRouter, Depends, Request, Security
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field, NonNegativeInt, TypeAdapter, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from annotation.argilla_server.votes_tables import Answer, Votes, write_votes
from annotation.argilla_store.records import Receipts

MAX_RECORDS = 1000
_adapter = TypeAdapter(UserResponseCreate)
_SAID = "some text"
_ANYBODY = str(UUID(int=0))
_Session = Annotated[AsyncSession, Depends(get_async_db)]
_Caller = Annotated[User, Security(auth.get_current_user)]


class VotesOnRecord(BaseModel):
    """Responses to one record, and by voter the receipts to put into it (null takes one out)."""

    # JSON as text: so it is stored as a rule, and no value of it is looked at.
    receipts: str
    # Of each the user's place among `users`, and the answer's among `answers`.
    responses: list[tuple[NonNegativeInt, NonNegativeInt]]


class PackedVotes(BaseModel):
    """Votes by external id. Who answers and what is answered stand there once, not in each vote."""

    users: list[UUID]
    answers: list[dict[str, Any]]
    records: dict[str, VotesOnRecord] = Field(min_length=1, max_length=MAX_RECORDS)


def votes_router(has_webhooks: Callable[[], bool]) -> APIRouter:
    """The route, and one that says that it is here."""
    router = APIRouter()

    @router.get("/votetune")
    async def offers(_user: _Caller) -> dict[str, int]:
        return {"packed_votes": MAX_RECORDS}

    @router.put("/votetune/datasets/{dataset_id}/votes")
    async def put_votes(
        dataset_id: UUID, request: Request, db: _Session, user: _Caller
    ) -> dict[str, list[str]]:
        questions = selectinload(Dataset.questions)
        dataset = await Dataset.get_or_raise(db, dataset_id, options=[questions])
        await authorize(user, DatasetPolicy.upsert_records(dataset))
        packed = _read(await request.body())
        if has_webhooks():
            return {"left": list(packed.records)}
        votes = _checked(dataset, packed)
        needed = dataset.distribution["min_submitted"]
        return {"left": await run_in_threadpool(write_votes, dataset.id.hex, needed, votes)}

    return router


def _read(body: bytes) -> PackedVotes:
    # From the bytes at once: parsed first and checked then, it takes twice the time.
    try:
        return PackedVotes.model_validate_json(body)
    except ValidationError as error:
        raise UnprocessableEntityError(f"these are no votes: {error}") from error


def _checked(dataset: Dataset, packed: PackedVotes) -> dict[str, Votes]:
    """The votes by external id, as they are stored."""
    check = _Checker(dataset)
    answers = [check(answer) for answer in packed.answers]
    users = [user_id.hex for user_id in packed.users]
    try:
        return {
            external_id: Votes(
                [(users[u], answers[a]) for u, a in on.responses],
                _receipts(on.receipts),
                on.receipts,
            )
            for external_id, on in packed.records.items()
        }
    except LookupError as error:
        raise UnprocessableEntityError("a vote names a user or answer past the last") from error


def _receipts(text: str) -> Receipts:
    try:
        receipts: dict[str, Any] = json.loads(text)
        for receipt in receipts.values():
            if receipt is not None and not isinstance(receipt["source"], str):
                raise TypeError("a receipt's source is text")
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise UnprocessableEntityError(f"these are no receipts: {error!r}") from error
    return receipts


class _Checker:
    """An answer as the server itself checks and stores it. Each sort of answer is looked at once,
    whatever its free text says: a batch has a thousand answers and a handful of sorts.
    """

    def __init__(self, dataset: Dataset) -> None:
        questions = [
            SimpleNamespace(name=q.name, required=q.required, parsed_settings=q.parsed_settings)
            for q in dataset.questions
        ]
        self._record = SimpleNamespace(dataset=SimpleNamespace(questions=questions), fields={})
        self._texts = [q.name for q in dataset.questions if q.is_text]
        self._seen: dict[str, dict[str, Any]] = {}

    def __call__(self, answer: dict[str, Any]) -> Answer:
        try:
            values: Any = answer.get("values")
            said = {name: values[name] for name in self._texts if values and _says(values, name)}
            # The order of the answers counts: it is that of the stored text.
            shape = {**values, **dict.fromkeys(said, _SAID)} if said else values
            sort = json.dumps([answer["status"], shape])
            found = self._seen.get(sort)
            if found is None:
                created = _adapter.validate_python({**answer, "user_id": _ANYBODY})
                ResponseCreateValidator.validate(created, self._record)
                found = self._seen[sort] = created.model_dump(exclude={"user_id"})
        except (UnprocessableEntityError, LookupError, TypeError, AttributeError, ValueError) as ex:
            raise UnprocessableEntityError(f"record does not have valid responses: {ex}") from ex
        stored = {**found["values"], **said} if said else found["values"]
        return Answer(found["status"].name, json.dumps(stored))


def _says(values: dict[str, Any], name: str) -> bool:
    """Whether the answer to the question is some text, and nothing beside it."""
    held = values.get(name)
    return isinstance(held, dict) and list(held) == ["value"] and isinstance(held["value"], str)
