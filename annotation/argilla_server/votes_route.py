"""A route of the embedded server alone: many votes on records that are there, in one transaction.

Runs only in the embedded server's environment. Leaves in the tables, row for row, what the server's
own PUT records/bulk leaves of the same votes; reads no field, builds no model of a record and
answers with no record, which is what takes that route its time. Refuses what that one refuses, all
or nothing. What it can't do it names, for the caller to send through that route: records that are
not there or not ours, and all of them while a webhook has to hear of each. The rows themselves are
`votes_tables`'. Who asks is found by one look at the key where it is an owner's, as the app's is,
and by the server's own rules where it is anything else.
"""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Annotated, Any
from uuid import UUID

from argilla_server.api.policies.v1 import DatasetPolicy, authorize
from argilla_server.api.schemas.v1.questions import QuestionSettings
from argilla_server.api.schemas.v1.responses import UserResponseCreate
from argilla_server.constants import API_KEY_HEADER_NAME
from argilla_server.database import get_async_db
from argilla_server.enums import QuestionType
from argilla_server.errors.future import NotFoundError, UnprocessableEntityError
from argilla_server.models import Dataset, User
from argilla_server.security import auth
from argilla_server.validators.responses import ResponseCreateValidator
from fastapi import APIRouter, Depends, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from fastapi.security import SecurityScopes
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, TypeAdapter, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from annotation.argilla_server.votes_tables import (
    Answer,
    Place,
    Question,
    Votes,
    find_place,
    is_owners,
    write_votes,
)
from annotation.argilla_store.packed import ReceiptSort

MAX_RECORDS = 1000
_response_adapter = TypeAdapter(UserResponseCreate)
_settings_adapter = TypeAdapter(QuestionSettings)
_SAID = "some text"
_ANYBODY = str(UUID(int=0))
_Session = Annotated[AsyncSession, Depends(get_async_db)]
_Caller = Annotated[User, Security(auth.get_current_user)]


class PackedVotes(BaseModel):
    """`to_packed_votes`, the votes by external id."""

    # Each id and time is there once: keeping them to find them again takes half of the reading.
    model_config = ConfigDict(cache_strings="keys")

    voters: list[tuple[UUID, str]]
    answers: list[dict[str, Any]]
    # JSON as text: so it is stored as a rule, and little of it is looked at.
    receipts: list[str]
    records: dict[
        str, list[tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt | None, str, str]]
    ] = Field(min_length=1, max_length=MAX_RECORDS)


def votes_router(has_webhooks: Callable[[], bool]) -> APIRouter:
    """The route, and one that says that it is here."""
    router = APIRouter()

    @router.get("/votetune")
    async def offers(_user: _Caller) -> dict[str, int]:
        return {"votes_at_once": MAX_RECORDS}

    def put(api_key: str | None, dataset_id: UUID, body: bytes) -> list[str] | None:
        """Records left; None where it takes more than a look at the key to say who asks."""
        if api_key is not None and not is_owners(api_key):
            return None
        place = find_place(dataset_id)
        if place is None:
            raise NotFoundError(f"Dataset with id `{dataset_id}` not found")
        packed = _read(body)
        return (
            list(packed.records) if has_webhooks() else write_votes(place, _checked(place, packed))
        )

    @router.put("/votetune/datasets/{dataset_id}/votes")
    async def put_votes(dataset_id: UUID, request: Request, db: _Session) -> JSONResponse:
        body = await request.body()
        api_key = request.headers.get(API_KEY_HEADER_NAME, "")
        # All in one thread: the server's own look-ups go to another one a dozen times.
        left = await run_in_threadpool(put, api_key, dataset_id, body)
        if left is None:
            user = await auth.get_current_user(SecurityScopes(), request, db)
            dataset = await Dataset.get_or_raise(db, dataset_id)
            await authorize(user, DatasetPolicy.upsert_records(dataset))
            left = await run_in_threadpool(put, None, dataset_id, body)
        return JSONResponse({"left": left})

    return router


def _read(body: bytes) -> PackedVotes:
    # From the bytes at once: parsed first and checked then, it takes twice the time.
    try:
        return PackedVotes.model_validate_json(body)
    except ValidationError as error:
        raise UnprocessableEntityError(f"these are no votes: {error}") from error


def _checked(place: Place, packed: PackedVotes) -> dict[str, Votes]:
    """The votes by external id, as they are stored."""
    check = _Checker(place.questions)
    answers = [check(answer) for answer in packed.answers]
    users = [user_id.hex for user_id, _ in packed.voters]
    names = [name for _, name in packed.voters]
    receipts = [_receipt_sort(text) for text in packed.receipts]
    try:
        return {
            external_id: Votes(
                [(users[u], answers[a]) for u, a, _, _, _ in on],
                {
                    names[u]: None if r is None else receipts[r](vote_id, at)
                    for u, _, r, vote_id, at in on
                },
            )
            for external_id, on in packed.records.items()
        }
    except LookupError as error:
        raise UnprocessableEntityError("a vote names a place past the last") from error


def _receipt_sort(text: str) -> ReceiptSort:
    try:
        return ReceiptSort(json.loads(text))
    except (LookupError, TypeError, ValueError) as error:
        raise UnprocessableEntityError(f"this is no receipt: {error!r}") from error


class _Checker:
    """An answer as the server itself checks and stores it. Each sort of answer is looked at once,
    whatever its free text says: a batch has a thousand answers and a handful of sorts.
    """

    def __init__(self, questions: tuple[Question, ...]) -> None:
        asked = [
            SimpleNamespace(
                name=question.name,
                required=question.required,
                parsed_settings=_settings_adapter.validate_json(question.settings),
            )
            for question in questions
        ]
        self._record = SimpleNamespace(dataset=SimpleNamespace(questions=asked), fields={})
        self._texts = [q.name for q in asked if q.parsed_settings.type == QuestionType.text]
        self._seen: dict[str, dict[str, Any]] = {}

    def __call__(self, answer: dict[str, Any]) -> Answer:
        try:
            values: Any = answer.get("values")
            said = {name: values[name] for name in self._texts if values and _says(values, name)}
            # The order of the answers counts: it is that of the stored text.
            shape = {**values, **dict.fromkeys(said, _SAID)} if said else values
            sort = repr((answer["status"], shape))
            found = self._seen.get(sort)
            if found is None:
                created = _response_adapter.validate_python({**answer, "user_id": _ANYBODY})
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
