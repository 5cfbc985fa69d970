"""A search engine for argilla-server that answers from the server's own SQLite tables.

Runs only in the embedded server's environment. Owns the meaning of queries, filters, sorting,
progress and metrics as Argilla's Elasticsearch engine defines them. Indexes nothing: every
method that indexes is a no-op, because the tables are always up to date. The session that
handles a request is not handed to an engine, so each answer opens one of its own.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np
from argilla_server.database import AsyncSessionLocal
from argilla_server.enums import MetadataPropertyType, SimilarityOrder
from argilla_server.models import Question, Record, Response, Suggestion, Vector
from argilla_server.search_engine.base import (
    AndFilter,
    FloatMetadataMetrics,
    IntegerMetadataMetrics,
    MetadataFilterScope,
    RangeFilter,
    RecordFilterScope,
    ResponseFilterScope,
    SearchEngine,
    SearchResponseItem,
    SearchResponses,
    SuggestionFilterScope,
    TermsFilter,
    TermsMetrics,
)
from sqlalchemy import (
    String,
    and_,
    case,
    cast,
    exists,
    false,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
    type_coerce,
)

_PENDING = "pending"
_MAX_TERMS = 2**14
_TOKEN = re.compile(r'(-?)(?:"([^"]*)"|(\S+))')
_SHUFFLE_PRIME = 2_147_483_647


def _json_path(*keys: str) -> str:
    return "$" + "".join('."{}"'.format(key.replace('"', '\\"')) for key in keys)


def _utc_naive(value: Any) -> datetime:
    """A bound of a date range, ISO text or epoch milliseconds, as the tables store it."""
    if isinstance(value, str):
        moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
    else:
        moment = datetime.fromtimestamp(float(value) / 1000, UTC)
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _atoms(column: Any, path: str, name: str) -> Any:
    """The values at `path` of a JSON column, one row each, whether it holds a scalar or a list."""
    rows = func.json_each(column, path).table_valued("value", "type").alias(name)
    # Filter values arrive as text, and JSON booleans leave SQLite as 0 and 1.
    text = case(
        (rows.c.type == "true", "true"),
        (rows.c.type == "false", "false"),
        else_=cast(rows.c.value, String),
    )
    return rows, text


def _holds(rows: Any, text: Any, condition: TermsFilter | RangeFilter, *where: Any) -> Any:
    if isinstance(condition, TermsFilter):
        found = text.in_([str(value) for value in condition.values])
    else:
        found = _between(rows.c.value, condition.ge, condition.le)
    return exists(select(1).select_from(rows).where(found, *where))


def _between(column: Any, ge: Any, le: Any) -> Any:
    bounds = [column >= ge] if ge is not None else []
    return and_(*bounds, column <= le) if le is not None else and_(true(), *bounds)


def _record_condition(condition: TermsFilter | RangeFilter) -> Any:
    name = condition.scope.property
    column = getattr(Record, str(name))
    if isinstance(condition, RangeFilter):
        ge, le = condition.ge, condition.le
        if name in ("inserted_at", "updated_at"):
            ge, le = (None if bound is None else _utc_naive(bound) for bound in (ge, le))
        return _between(column, ge, le)
    if name in ("inserted_at", "updated_at"):
        return column.in_([_utc_naive(value) for value in condition.values])
    if name == "id":
        return column.in_([UUID(value) for value in condition.values])
    return column.in_(condition.values)


def _metadata_condition(condition: TermsFilter | RangeFilter) -> Any:
    rows, text = _atoms(Record.metadata_, _json_path(condition.scope.metadata_property), "meta")
    return _holds(rows, text, condition)


def _suggestion_condition(condition: TermsFilter | RangeFilter) -> Any:
    scope = condition.scope
    own = and_(
        Suggestion.record_id == Record.id,
        Suggestion.question_id == Question.id,
        Question.name == scope.question,
    )
    if scope.property in ("agent", "type"):
        column = getattr(Suggestion, str(scope.property))
        return exists(
            select(1)
            .select_from(Suggestion)
            .join(Question)
            .where(own, column.in_(condition.values))
        )
    column = Suggestion.score if scope.property == "score" else Suggestion.value
    rows, text = _atoms(column, "$", "suggested")
    return exists(
        select(1).select_from(Suggestion).join(Question).where(own, _holds(rows, text, condition))
    )


def _response_condition(condition: TermsFilter | RangeFilter) -> Any:
    scope = condition.scope
    own = [Response.record_id == Record.id]
    if scope.user is not None:
        own.append(Response.user_id == scope.user.id)
    if scope.question:
        rows, text = _atoms(Response.values, _json_path(scope.question, "value"), "answered")
        return exists(select(1).select_from(Response).where(*own, _holds(rows, text, condition)))
    if scope.property != "status" or not isinstance(condition, TermsFilter):
        raise ValueError(f"Responses can't be filtered by {scope}: use a question or the status.")
    statuses = [str(value) for value in condition.values]
    # "pending" is no stored status: it means that there is no response yet.
    wanted = [
        not_(exists(select(1).select_from(Response).where(*own)))
        if status == _PENDING
        else exists(select(1).select_from(Response).where(*own, Response.status == status))
        for status in statuses
    ]
    return or_(false(), *wanted)


def _condition(condition: Any) -> Any:
    if isinstance(condition, AndFilter):
        return and_(true(), *(_condition(part) for part in condition.filters))
    by_scope = {
        RecordFilterScope: _record_condition,
        MetadataFilterScope: _metadata_condition,
        SuggestionFilterScope: _suggestion_condition,
        ResponseFilterScope: _response_condition,
    }
    return by_scope[type(condition.scope)](condition)


def _text_condition(query: Any) -> Any:
    """Every word or "quoted phrase" occurs in a field, and no -word does; case is ignored.

    The columns hold escaped JSON, so the search walks the decoded texts. SQLite folds ASCII case
    only, so other letters are tried as written, lower, upper and capitalised.
    """
    text, field = (query, None) if isinstance(query, str) else (query.q, query.field)
    path = _json_path(field) if field else "$"
    wanted = []
    for minus, phrase, word in _TOKEN.findall(text):
        term = phrase or word.rstrip("*")
        if not term:
            continue
        node = func.json_tree(Record.fields, path).table_valued("key", "atom", "type").alias("node")
        spellings = {term, term.lower(), term.upper(), term.capitalize()}
        found = exists(
            select(1)
            .select_from(node)
            .where(
                node.c.type == "text",
                or_(node.c.key.is_(None), node.c.key != "role"),
                or_(*(node.c.atom.contains(spelling, autoescape=True) for spelling in spellings)),
            )
        )
        wanted.append(not_(found) if minus else found)
    return and_(true(), *wanted)


def _order_value(scope: Any) -> Any:
    if isinstance(scope, RecordFilterScope):
        return getattr(Record, str(scope.property))
    if isinstance(scope, MetadataFilterScope):
        rows, _ = _atoms(Record.metadata_, _json_path(scope.metadata_property), "meta_order")
        return select(func.min(rows.c.value)).scalar_subquery()
    if isinstance(scope, SuggestionFilterScope):
        column = getattr(Suggestion, str(scope.property))
        return (
            select(type_coerce(column, String))
            .join(Question)
            .where(Suggestion.record_id == Record.id, Question.name == scope.question)
            .correlate(Record)
            .scalar_subquery()
        )
    own = [Response.record_id == Record.id]
    if scope.user is not None:
        own.append(Response.user_id == scope.user.id)
    if scope.question:
        value = func.json_extract(Response.values, _json_path(scope.question, "value"))
    else:
        value = type_coerce(Response.status, String)
    return select(func.min(value)).where(*own).correlate(Record).scalar_subquery()


def _ordering(sort: Sequence[Any] | None, user_id: Any) -> list[Any]:
    if sort:
        orders = [
            (value.desc() if order.order == "desc" else value.asc()).nulls_last()
            for order in sort
            for value in [_order_value(order.scope)]
        ]
        return [*orders, Record.inserted_at.asc(), Record.id.asc()]
    if user_id is None:
        return [Record.inserted_at.asc(), Record.id.asc()]
    # As in Argilla: an order of one's own for each person, and always the same one.
    multiplier = UUID(str(user_id)).int % (_SHUFFLE_PRIME - 1) + 1
    return [(literal_column("records.rowid") * multiplier) % _SHUFFLE_PRIME, Record.id.asc()]


@SearchEngine.register("sql")
class SqlSearchEngine(SearchEngine):  # type: ignore[misc]
    """Argilla's search over SQLite; a new instance serves each request and holds nothing."""

    @classmethod
    async def new_instance(cls) -> "SqlSearchEngine":
        return cls()

    async def close(self) -> None: ...

    async def ping(self) -> bool:
        return True

    async def info(self) -> dict[str, Any]:
        return {"name": "sql", "version": {"distribution": "votetune"}}

    async def create_index(self, dataset: Any) -> None: ...

    async def delete_index(self, dataset: Any) -> None: ...

    async def configure_metadata_property(self, dataset: Any, metadata_property: Any) -> None: ...

    async def configure_index_vectors(self, vector_settings: Any) -> None: ...

    async def index_records(self, dataset: Any, records: Iterable[Any]) -> None: ...

    async def partial_record_update(self, record: Any, **update: Any) -> None: ...

    async def delete_records(self, dataset: Any, records: Iterable[Any]) -> None: ...

    async def update_record_response(self, response: Any) -> None: ...

    async def delete_record_response(self, response: Any) -> None: ...

    async def update_record_suggestion(self, suggestion: Any) -> None: ...

    async def delete_record_suggestion(self, suggestion: Any) -> None: ...

    async def get_dataset_progress(self, dataset: Any) -> dict[str, int]:
        if dataset.is_draft:
            return {}
        counts = select(Record.status, func.count()).where(Record.dataset_id == dataset.id)
        return await self._counts(counts.group_by(Record.status))

    async def get_dataset_user_progress(self, dataset: Any, user: Any) -> dict[str, int]:
        if dataset.is_draft:
            return {}
        counts = (
            select(Response.status, func.count())
            .join(Record, Record.id == Response.record_id)
            .where(Record.dataset_id == dataset.id, Response.user_id == user.id)
        )
        return await self._counts(counts.group_by(Response.status))

    async def _counts(self, query: Any) -> dict[str, int]:
        async with AsyncSessionLocal() as session:
            counts = {status.value: count for status, count in await session.execute(query)}
        return {"total": sum(counts.values()), **counts}

    async def search(
        self,
        dataset: Any,
        query: Any = None,
        filter: Any = None,
        sort: Sequence[Any] | None = None,
        offset: int = 0,
        limit: int = 100,
        user_id: Any = None,
    ) -> SearchResponses:
        where = self._where(dataset, query, filter)
        page = select(Record.id).where(*where).order_by(*_ordering(sort, user_id))
        async with AsyncSessionLocal() as session:
            total = await session.scalar(select(func.count()).select_from(Record).where(*where))
            ids = (await session.scalars(page.offset(offset).limit(limit))).all()
        items = [SearchResponseItem(record_id=record_id, score=None) for record_id in ids]
        return SearchResponses(items=items, total=total)

    async def similarity_search(
        self,
        dataset: Any,
        vector_settings: Any,
        value: list[float] | None = None,
        record: Any = None,
        query: Any = None,
        filter: Any = None,
        max_results: int = 100,
        order: Any = SimilarityOrder.most_similar,
        threshold: float | None = None,
    ) -> SearchResponses:
        """Exact cosine similarity over all vectors, scored as (1 + cosine) / 2, in [0, 1]."""
        wanted = value or record.vector_value_by_vector_settings(vector_settings)
        if not wanted:
            raise ValueError("A similarity search needs a vector, or a record that has one.")
        where = self._where(dataset, query, filter)
        if record is not None:
            where.append(Record.id != record.id)
        candidates = (
            select(Vector.record_id, Vector.value)
            .join(Record, Record.id == Vector.record_id)
            .where(Vector.vector_settings_id == vector_settings.id, *where)
        )
        async with AsyncSessionLocal() as session:
            rows = (await session.execute(candidates)).all()
        if not rows:
            return SearchResponses(items=[], total=0)
        scores = _cosine_scores(np.asarray(wanted), np.asarray([row.value for row in rows]))
        sign = -1 if order == SimilarityOrder.most_similar else 1
        items = [
            SearchResponseItem(record_id=rows[i].record_id, score=float(scores[i]))
            for i in np.argsort(sign * scores, kind="stable")[:max_results]
            if threshold is None or scores[i] >= threshold
        ]
        return SearchResponses(items=items, total=len(items))

    @staticmethod
    def _where(dataset: Any, query: Any, condition: Any) -> list[Any]:
        where = [Record.dataset_id == dataset.id]
        if query:
            where.append(_text_condition(query))
        if condition:
            where.append(_condition(condition))
        return where

    async def compute_metrics_for(self, metadata_property: Any) -> Any:
        rows, text = _atoms(Record.metadata_, _json_path(metadata_property.name), "meta")
        own = [Record.dataset_id == metadata_property.dataset_id, rows.c.type != "null"]
        async with AsyncSessionLocal() as session:
            if metadata_property.type == MetadataPropertyType.terms:
                terms = select(text, func.count()).select_from(Record).join(rows, true())
                grouped = terms.where(*own).group_by(text).order_by(func.count().desc(), text)
                found = (await session.execute(grouped.limit(_MAX_TERMS))).all()
                values = [TermsMetrics.TermCount(term=term, count=count) for term, count in found]
                return TermsMetrics(total=sum(v.count for v in values), values=values)
            bounds = select(func.min(rows.c.value), func.max(rows.c.value))
            low, high = (
                await session.execute(bounds.select_from(Record).join(rows, true()).where(*own))
            ).one()
        kind = (
            IntegerMetadataMetrics
            if metadata_property.type == MetadataPropertyType.integer
            else FloatMetadataMetrics
        )
        return kind(min=low, max=high)


def _cosine_scores(wanted: Any, vectors: Any) -> Any:
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(wanted)
    return (1 + (vectors @ wanted) / np.where(norms == 0, 1, norms)) / 2
