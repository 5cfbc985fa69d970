"""From Argilla to the journal: votes cast, changed or removed there, and all that was lost here.

Nothing in Argilla lists changed responses: a record's `updated_at` moves with its fields, its
metadata and its status, not with a response; a dataset's `last_activity_at` moves with every
response given through the UI, not with bulk writes. So records that moved are read often, and all
records when the activity moved, at most a tenth of the time, and every ten minutes anyway.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from annotation.argilla_store.api import ArgillaApi
from annotation.argilla_store.delivery import dataset_note
from annotation.argilla_store.records import (
    ForeignRecordError,
    Json,
    pair_from_record,
    receipts_of,
    utc,
    vote_from_response,
)
from annotation.journal.journal import Journal
from annotation.schema import Pair, Vote, VoteSource

PAGE = 250
SCAN_AT_LEAST_S = 600.0
SCAN_SHARE = 10
_FIRST_LOOK = 50
_OVERLAP = timedelta(seconds=5)
_Live = dict[tuple[str, str], Vote]
_log = logging.getLogger(__name__)


class Readback:
    """Mirrors one dataset into one journal. May raise what ArgillaApi raises."""

    def __init__(self, api: ArgillaApi, journal: Journal, dataset_id: str) -> None:
        self._api = api
        self._journal = journal
        self._dataset_id = dataset_id
        self._names: dict[str, str] = {}
        self._foreign: set[str] = set()
        self._scanned_at = float("-inf")
        self._scan_took_s = 0.0

    def pull(self, stopping: Callable[[], bool], *, thorough: bool = False) -> int:
        """Take over what changed; `thorough` reads every record now. How many votes moved."""
        activity = str(self._api.dataset(self._dataset_id)["last_activity_at"])
        if thorough or self._scan_is_due(activity):
            return self._scan(activity, stopping)
        return self._take_newest(stopping)

    def _scan_is_due(self, activity: str) -> bool:
        since_s = time.monotonic() - self._scanned_at
        if self._journal.note(self._note("activity")) != activity:
            return since_s > SCAN_SHARE * self._scan_took_s
        # After a restart with nothing new, the first one may wait as well.
        if self._scanned_at == float("-inf"):
            self._scanned_at = time.monotonic()
        return since_s > SCAN_AT_LEAST_S and since_s != float("inf")

    def _scan(self, activity: str, stopping: Callable[[], bool]) -> int:
        """Read every record. The notes move only after a whole one."""
        began = time.monotonic()
        live: _Live = {(vote.pair_id, vote.voter): vote for vote in self._journal.votes()}
        seen: set[tuple[str, str]] = set()
        newest, moved = "", 0
        for records in self._api.records(self._dataset_id, PAGE):
            if stopping():
                return moved
            votes = self._take(records)
            seen |= {(vote.pair_id, vote.voter) for vote in votes}
            moved += self._mirror(records, [vote for vote in votes if _differs(vote, live)])
            newest = max(newest, *(record["updated_at"] for record in records))
        moved += self._remove_gone(live, seen)
        for key, value in (("activity", activity), ("newest", newest)):
            self._journal.set_note(self._note(key), value).result()
        self._scanned_at = time.monotonic()
        self._scan_took_s = self._scanned_at - began
        return moved

    def _take_newest(self, stopping: Callable[[], bool]) -> int:
        """Read the records that moved since the last time."""
        mark = self._journal.note(self._note("newest")) or ""
        newest, moved = mark, 0
        for records in self._api.newest_records(self._dataset_id, _FIRST_LOOK):
            if newest == mark and records[0]["updated_at"] <= mark:
                return 0
            newest = max(newest, records[0]["updated_at"])
            fresh = [r for r in records if not mark or _moved_since(r["updated_at"], mark)]
            moved += self._mirror(fresh, self._take(fresh))
            if len(fresh) < len(records) or stopping():
                break
        if not stopping():
            self._journal.set_note(self._note("newest"), newest).result()
        return moved

    def _take(self, records: Iterable[Json]) -> list[Vote]:
        """Every submitted vote on records that are ours."""
        votes = []
        for record in records:
            receipts = receipts_of(record)
            for response in record.get("responses") or []:
                voter = self._name(response["user_id"])
                vote = voter and vote_from_response(
                    response,
                    pair_id=record["external_id"],
                    voter=voter,
                    receipt=receipts.get(voter),
                )
                if vote:
                    votes.append(vote)
        return votes

    def _mirror(self, records: Sequence[Json], votes: Sequence[Vote]) -> int:
        ids = [str(record["external_id"]) for record in records]
        known = {pair.id for pair in self._journal.pairs(ids)}
        pairs = self._unknown_pairs(records, known)
        usable = known | {pair.id for pair in pairs}
        ours = [vote for vote in votes if vote.pair_id in usable]
        if pairs or ours:
            self._journal.mirror(pairs, ours).result()
        return len(ours)

    def _unknown_pairs(self, records: Iterable[Json], known: set[str]) -> list[Pair]:
        pairs = []
        for record in records:
            if record["external_id"] in known or record["id"] in self._foreign:
                continue
            try:
                pairs.append(pair_from_record(record))
            except ForeignRecordError as error:
                self._foreign.add(record["id"])
                _log.warning("%s It is left alone.", error)
        return pairs

    def _remove_gone(self, live: _Live, seen: set[tuple[str, str]]) -> int:
        """Supersede votes cast in Argilla that are submitted there no more."""
        if self._journal.note(dataset_note()) != self._dataset_id:
            return 0  # They are not all sent to this dataset yet.
        missing = [
            key
            for key, vote in live.items()
            if vote.source is VoteSource.ARGILLA and key not in seen
        ]
        # A page may have slipped while records were deleted: look at those once more.
        ids = list(dict.fromkeys(pair_id for pair_id, _ in missing))
        again = self._take(self._api.records_by_external_id(self._dataset_id, ids))
        still = {(vote.pair_id, vote.voter) for vote in again}
        gone = [key for key in missing if key not in still]
        if gone:
            self._journal.mirror_removed(gone).result()
        return len(gone)

    def _name(self, user_id: str) -> str | None:
        if user_id not in self._names:
            self._names = {id_: name for name, id_ in self._api.user_ids().items()}
        return self._names.get(user_id)

    def _note(self, key: str) -> str:
        return f"argilla:{self._dataset_id}:{key}"


def _differs(vote: Vote, live: _Live) -> bool:
    known = live.get((vote.pair_id, vote.voter))
    return (
        known is None
        or known.record_choice is not vote.record_choice
        or set(known.reasons) != set(vote.reasons)
        or known.comment != vote.comment
    )


def _moved_since(updated_at: str, mark: str) -> bool:
    moment: datetime = utc(updated_at)
    return moment > utc(mark) - _OVERLAP
