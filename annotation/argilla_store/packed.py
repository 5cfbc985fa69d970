"""Many votes as they travel to the embedded server's own route, and into the texts it stores.

Owns the packing, which the app does and the server undoes, and how receipts come into a record's
metadata without those being read and written anew. Pure, and nothing of it is slow: a delivery
has a thousand votes, a handful of sorts of them, and metadata of some kilobytes a record.
"""

import json
from collections.abc import Iterable, Mapping
from json.encoder import encode_basestring as _quoted
from json.encoder import encode_basestring_ascii as _escaped

from annotation.argilla_store.records import (
    Json,
    Receipts,
    changed_receipts,
    compact,
    is_receipted,
    receipts_of,
    sources_of,
    to_answer,
    to_receipt,
)
from annotation.schema import Vote

_NO_RECEIPTS = compact({})
_OWN = ("created_at", "id")
"""What two receipts of a sort differ in, in the order of a receipt's text."""
Receipt = tuple[str, str]
"""As it is stored, and its source."""


def to_packed_votes(decided: Mapping[str, Mapping[str, Vote]], users: Mapping[str, str]) -> Json:
    """The votes by pair and voter, packed. `users` are the ids of the voters' users.

    A vote is the places of its voter, its answer and its sort of receipt (None takes that voter's
    out) in lists that name each once, then its id and time.
    """
    voters: dict[str, int] = {}
    answers: dict[object, tuple[int, Json]] = {}
    receipts: dict[object, tuple[int, str]] = {}
    records: Json = {}
    for pair_id, by_voter in decided.items():
        records[pair_id] = votes = []
        for voter, vote in by_voter.items():
            said = (
                *(vote.choice, vote.flipped, vote.reasons, vote.comment),
                vote.superseded_at is None,
            )
            answer = answers.get(said)
            if answer is None:
                answer = answers[said] = (len(answers), to_answer(vote))
            place = None
            if is_receipted(vote):
                sort = (vote.choice, vote.flipped, vote.source, vote.counted, vote.why)
                receipt = receipts.get(sort)
                if receipt is None:
                    receipt = receipts[sort] = (len(receipts), _common_text(vote))
                place = receipt[0]
            at = vote.created_at.isoformat()
            votes.append((voters.setdefault(voter, len(voters)), answer[0], place, vote.id, at))
    return {
        "voters": [(users[voter], voter) for voter in voters],
        "answers": [answer for _, answer in answers.values()],
        "receipts": [text for _, text in receipts.values()],
        "records": records,
    }


def _common_text(vote: Vote) -> str:
    return compact({k: value for k, value in to_receipt(vote).items() if k not in _OWN})


class ReceiptSort:
    """Makes the receipts of one sort: their text but for what is each one's own."""

    def __init__(self, common: Json) -> None:
        """Raises LookupError or TypeError where that is no receipt."""
        if not isinstance(common["source"], str):
            raise TypeError("a receipt's source is text")
        self._source = common["source"]
        parts = [""]
        for key in sorted({*common, *_OWN}):
            parts[-1] += f"{',' if len(parts) > 1 or parts[0] else '{'}{_quoted(key)}:"
            if key in _OWN:
                parts.append("")
            else:
                parts[-1] += compact(common[key])
        self._before, self._between, self._after = (*parts[:-1], f"{parts[-1]}}}")

    def __call__(self, vote_id: str, created_at: str) -> Receipt:
        own = f"{_quoted(created_at)}{self._between}{_quoted(vote_id)}"
        return f"{self._before}{own}{self._after}", self._source


def receipts_spliced(metadata: str, held: str, changes: Mapping[str, Receipt | None]) -> str | None:
    """`with_receipts` on metadata as Argilla stores them, the text of `json.dumps`.

    Rewrites nothing but what changes, by voter; None takes a receipt out. `held` is the text of
    `votes` in them. None where it is not plain from the text which `votes` or `source` are the
    record's own, since there is another such key.
    """
    was: list[str] = []
    if held == _NO_RECEIPTS:
        new = sorted([(voter, *receipt) for voter, receipt in changes.items() if receipt])
        votes = f"{{{','.join([f'{_quoted(voter)}:{text}' for voter, text, _ in new])}}}"
        now = sorted({source for _, _, source in new})
    else:
        before = receipts_of({"metadata": {"votes": held}})
        kept = changed_receipts(before, read_receipts(changes))
        votes, was, now = compact(kept), sources_of(before), sources_of(kept)
    metadata, is_plain = _respelled(metadata, '"votes": ', _escaped(held), _escaped(votes))
    if is_plain and was != now:
        metadata, is_plain = _respelled(metadata, '"source": ', _listed(was), _listed(now))
    return metadata if is_plain else None


def read_receipts(changes: Mapping[str, Receipt | None]) -> Receipts:
    """As `with_receipts` takes them."""
    return {voter: receipt and json.loads(receipt[0]) for voter, receipt in changes.items()}


def _respelled(text: str, key: str, was: str, now: str) -> tuple[str, bool]:
    """The text with another value of `key`, and whether it is plain where that stands."""
    before, found, after = text.partition(key)
    # A quote within a string has a backslash before it, so that this is a key wherever it is.
    is_plain = bool(found) and key not in after and after.startswith(was)
    return f"{before}{key}{now}{after[len(was) :]}", is_plain


def _listed(words: Iterable[str]) -> str:
    """As `json.dumps` writes them, which makes an encoder for each list."""
    return f"[{', '.join(map(_escaped, words))}]"
