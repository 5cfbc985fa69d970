"""Pairs and votes as Argilla's records and responses, and back. Pure: JSON in, JSON out.

Owns the record's layout and that record → Pair → record loses nothing. What annotators see are the
fields; models, revisions and sampling are metadata hidden from them. Two texts of JSON in the
metadata are the truth for reading back: `pair` (completions, exactly) and `votes` (one receipt a
voter: what a response has no room for). A record without them is not ours.
"""

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

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

Json = dict[str, Any]
Receipts = Mapping[str, Json | None]
"""By voter; None where there should be none."""

# What a chat field takes, in argilla-server 2.8.0: longer or empty messages are refused.
MAX_MESSAGE_CHARS = 20_000
_VOTERS = uuid.UUID("8f9d1d57-6a0c-5c0e-9f0d-6c1f0a4b7e21")
_ELLIPSIS = "\n…"
_EMPTY = "(empty)"


class ForeignRecordError(ValueError):
    """A record that Votetune did not write, or whose metadata was changed past reading."""


def voter_user_id(voter: str) -> str:
    """The id of the Argilla user that stands for `voter`; the same on every machine."""
    return str(uuid.uuid5(_VOTERS, voter))


def to_record(pair: Pair) -> Json:
    """The record of `pair`, without votes."""
    first, second = pair.completions
    return {
        "external_id": pair.id,
        "fields": {
            "prompt": [_shown(message) for message in pair.prompt.messages],
            "completion_a": first.text,
            "completion_b": second.text,
        },
        "metadata": to_metadata(pair, {}),
    }


def to_metadata(pair: Pair, receipts: Mapping[str, Json]) -> Json:
    """All metadata of `pair`'s record, with one receipt for each voter who decided."""
    first, second = pair.completions
    metadata: Json = {
        "split": pair.prompt.split.value,
        "models": list(dict.fromkeys(c.model.label for c in pair.completions)),
        "source": sources_of(receipts),
        # Drawn in one batch as a rule; where not, these are the first completion's.
        "temperature": float(first.sampling.temperature),
        "top_p": float(first.sampling.top_p),
        "max_new_tokens": first.sampling.max_new_tokens,
        "seed": first.sampling.seed,
        "pair": compact(_pair_json(pair)),
        "votes": compact(receipts),
    }
    for side, completion in (("a", first), ("b", second)):
        metadata[f"model_{side}"] = completion.model.adapter or completion.model.base
        metadata[f"revision_{side}"] = _revision(completion.model)
        metadata[f"finish_{side}"] = completion.finish
    return metadata


def pair_from_record(record: Json) -> Pair:
    """The pair that `to_record` was given. Raises ForeignRecordError."""
    try:
        fields = record["fields"]
        kept = json.loads(record["metadata"]["pair"])
        messages = kept.get("messages") or fields["prompt"]
        texts = (fields["completion_a"], fields["completion_b"])
        return Pair(
            id=record["external_id"],
            prompt=Prompt(tuple(Message(m["role"], m["content"]) for m in messages)),
            completions=(
                _completion(texts[0], kept["a"]),
                _completion(texts[1], kept["b"]),
            ),
            created_at=datetime.fromisoformat(kept["created_at"]),
            kind=PairKind(kept.get("kind", PairKind.POOL)),
            author=kept.get("author"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ForeignRecordError(
            f"Record {record.get('external_id')} is not one that Votetune wrote ({error!r})."
        ) from error


def receipts_of(record: Json) -> dict[str, Json]:
    """The receipts in a record, by voter; none where they can't be read."""
    try:
        receipts = json.loads((record.get("metadata") or {})["votes"])
        return {voter: dict(receipt) for voter, receipt in receipts.items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def without_receipt(metadata: Json, voter: str) -> Json:
    """A record's metadata, all as it is but the receipt of `voter`."""
    return with_receipts(metadata, {voter: None})


def with_receipts(metadata: Json, changes: Receipts) -> Json:
    """A record's metadata, all as it is but for the receipts that change; None takes one out."""
    kept = changed_receipts(receipts_of({"metadata": metadata}), changes)
    return metadata | {"votes": compact(kept), "source": sources_of(kept)}


def changed_receipts(receipts: Receipts, changes: Receipts) -> dict[str, Json]:
    """`receipts` with the changes; None takes one out."""
    changed = {**receipts, **changes}
    return {voter: receipt for voter, receipt in changed.items() if receipt is not None}


def has_receipts(metadata: Json | None) -> bool:
    """Whether a record's metadata is what Votetune wrote: a pair, with room for receipts."""
    return metadata is not None and all(isinstance(metadata.get(k), str) for k in ("pair", "votes"))


def to_receipt(vote: Vote) -> Json:
    """What a response can't hold of a vote."""
    return {
        "id": vote.id,
        "choice": vote.choice.value,
        "flipped": vote.flipped,
        "created_at": vote.created_at.isoformat(),
        "source": vote.source.value,
        "counted": vote.counted,
        "why": vote.why,
    }


def is_receipted(vote: Vote) -> bool:
    """Whether a record holds a receipt of the vote: not of an undone one, nor of Argilla's own."""
    return vote.superseded_at is None and vote.source is not VoteSource.ARGILLA


def to_receipts(decided: Mapping[str, Vote]) -> dict[str, Json | None]:
    """The receipts of the voters."""
    return {
        voter: to_receipt(vote) if is_receipted(vote) else None for voter, vote in decided.items()
    }


def to_response(vote: Vote, user_id: str) -> Json:
    """The response of `vote`, in the record's own order; an undone vote is a discarded one."""
    return {"user_id": user_id, **to_answer(vote)}


def to_answer(vote: Vote) -> Json:
    """A response but for who gave it."""
    values: Json = {"preference": {"value": vote.record_choice.value}}
    if vote.reasons:
        values["reasons"] = {"value": [reason.value for reason in dict.fromkeys(vote.reasons)]}
    if vote.comment:
        values["comment"] = {"value": vote.comment}
    status = "submitted" if vote.superseded_at is None else "discarded"
    return {"status": status, "values": values}


def vote_from_response(
    response: Json, *, pair_id: str, voter: str, receipt: Json | None
) -> Vote | None:
    """The vote behind a submitted response; None for a draft, a discarded or an unreadable one.

    With a receipt that agrees, it is the vote that was delivered; else the voter decided in
    Argilla (a response whose user is ours but whose receipt is lost counts as the page's).
    """
    values = response.get("values") or {}
    if response.get("status") != "submitted" or "preference" not in values:
        return None
    known = {choice.value for choice in Choice} - {Choice.SKIP.value}
    if values["preference"]["value"] not in known:
        return None
    chosen = Choice(values["preference"]["value"])
    reasons = _reasons(values.get("reasons", {}).get("value") or [])
    comment = str(values.get("comment", {}).get("value") or "")
    delivered = _vote_from_receipt(receipt, pair_id, voter, reasons, comment)
    if delivered is not None and delivered.record_choice is chosen:
        return delivered
    ours = receipt is None and response["user_id"] == voter_user_id(voter)
    return Vote(
        id=uuid.UUID(response["id"]).hex,
        pair_id=pair_id,
        voter=voter,
        choice=chosen,
        flipped=False,
        created_at=utc(response["inserted_at"]),
        reasons=reasons,
        comment=comment,
        source=VoteSource.PAGE if ours else VoteSource.ARGILLA,
    )


def utc(text: str) -> datetime:
    """Argilla writes times in UTC and without saying so."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _vote_from_receipt(
    receipt: Json | None, pair_id: str, voter: str, reasons: tuple[Reason, ...], comment: str
) -> Vote | None:
    if receipt is None:
        return None
    try:
        return Vote(
            id=str(receipt["id"]),
            pair_id=pair_id,
            voter=voter,
            choice=Choice(receipt["choice"]),
            flipped=bool(receipt["flipped"]),
            created_at=datetime.fromisoformat(receipt["created_at"]),
            reasons=reasons,
            comment=comment,
            source=VoteSource(receipt["source"]),
            counted=bool(receipt["counted"]),
            why=receipt["why"],
        )
    except (KeyError, TypeError, ValueError):
        return None


def sources_of(receipts: Mapping[str, Json]) -> list[str]:
    """Where the votes behind the receipts were cast, each place once."""
    return sorted({str(receipt["source"]) for receipt in receipts.values()})


def _reasons(values: Iterable[str]) -> tuple[Reason, ...]:
    known = {reason.value for reason in Reason}
    return tuple(Reason(value) for value in values if value in known)


def _shown(message: Message) -> Json:
    content = message.content or _EMPTY
    if len(content) > MAX_MESSAGE_CHARS:
        content = content[: MAX_MESSAGE_CHARS - len(_ELLIPSIS)] + _ELLIPSIS
    return {"role": message.role, "content": content}


def _pair_json(pair: Pair) -> Json:
    kept: Json = {"created_at": pair.created_at.isoformat()}
    for side, completion in zip("ab", pair.completions, strict=True):
        kept[side] = {
            "model": asdict(completion.model),
            "sampling": asdict(completion.sampling),
            "finish": completion.finish,
        }
    if any(_shown(m)["content"] != m.content for m in pair.prompt.messages):
        kept["messages"] = [asdict(message) for message in pair.prompt.messages]
    if pair.kind is PairKind.OWN:
        kept |= {"kind": pair.kind.value, "author": pair.author}
    return kept


def _completion(text: str, kept: Json) -> Completion:
    return Completion(
        text=text,
        model=ModelRef(**kept["model"]),
        sampling=Sampling(**kept["sampling"]),
        finish=kept["finish"],
    )


def _revision(model: ModelRef) -> str:
    return (model.adapter_revision if model.adapter else model.base_revision) or ""


# Made once: json.dumps makes one a call where it is told anything.
compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode
"""JSON as the texts in the metadata are written."""
