"""A voter's wish to be forgotten, in Argilla: their responses, receipts, own prompts and user.

Owns the order, which survives a crash at any point: every step finds nothing to do the second
time, and the journal is told last. An account that somebody signs in with is never deleted.
"""

import logging
import time
from collections.abc import Callable, Sequence

from annotation.argilla_store.api import ArgillaApi, ArgillaRefused
from annotation.argilla_store.records import Json, receipts_of, voter_user_id, without_receipt
from annotation.journal.deletion import Deletion
from annotation.journal.journal import Journal

RETRY_REFUSED_S = 120.0
_HOPELESS = (401, 403)
_log = logging.getLogger(__name__)


class ArgillaDeletion:
    """Lets one dataset forget whom the journal forgot. May raise what ArgillaApi raises."""

    def __init__(self, api: ArgillaApi, journal: Journal, dataset_id: str) -> None:
        self._api = api
        self._journal = journal
        self._dataset_id = dataset_id
        self._refused: dict[str, float] = {}

    def refused_count(self) -> int:
        """Wishes that Argilla refused and that wait for another try."""
        return len(self._refused)

    def run(self, stopping: Callable[[], bool]) -> list[str]:
        """Follow every pending wish, until none is left or `stopping`; the voters forgotten."""
        oldest = time.monotonic() - RETRY_REFUSED_S
        self._refused = {voter: at for voter, at in self._refused.items() if at > oldest}
        forgotten = []
        for wish in self._journal.deletions("in_argilla"):
            if stopping():
                break
            if wish.voter in self._refused:
                continue
            try:
                self._forget(wish)
            except ArgillaRefused as error:
                if error.status in _HOPELESS:
                    raise
                self._refused[wish.voter] = time.monotonic()
                # Without the voter's name: a log is a place that forgets nothing.
                _log.warning("A deletion waits %d s: %s", RETRY_REFUSED_S, error)
                continue
            self._journal.finish_deletion(wish, "in_argilla").result()
            forgotten.append(wish.voter)
        return forgotten

    def _forget(self, wish: Deletion) -> None:
        user_id = self._api.user_ids().get(wish.voter)
        ids = list(dict.fromkeys((*wish.voted, *wish.removed)))
        records = self._api.records_by_external_id(self._dataset_id, ids)
        # Responses before receipts: a response without its receipt would read as a new vote.
        for record in records:
            for response in _responses_of(record, user_id):
                self._api.delete_response(response["id"])
        removed = [r for r in records if r["external_id"] in wish.removed and _is_alone(r, user_id)]
        self._api.delete_records(self._dataset_id, [record["id"] for record in removed])
        gone = {record["id"] for record in removed}
        self._rewrite([r for r in records if r["id"] not in gone], wish.voter)
        if user_id == voter_user_id(wish.voter):
            # Takes what they answered in other datasets along.
            self._api.delete_user(user_id)

    def _rewrite(self, records: Sequence[Json], voter: str) -> None:
        items = [
            {
                "external_id": record["external_id"],
                "metadata": without_receipt(record["metadata"], voter),
            }
            for record in records
            if voter in receipts_of(record)
        ]
        if items:
            self._api.upsert(self._dataset_id, items)


def _responses_of(record: Json, user_id: str | None) -> list[Json]:
    return [r for r in record.get("responses") or [] if r["user_id"] == user_id]


def _is_alone(record: Json, user_id: str | None) -> bool:
    """Whether nobody else has answered."""
    return all(r["user_id"] == user_id for r in record.get("responses") or [])
