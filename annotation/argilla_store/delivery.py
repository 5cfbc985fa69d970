"""From the journal to Argilla: pairs as records, votes as responses of one user a voter.

Owns batching, users, and what happens to a batch that Argilla refuses. Idempotent: what was sent
and not yet marked is sent again and changes nothing. Reads nothing back.
"""

import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from annotation.argilla_store.api import ArgillaApi, ArgillaRefused, ArgillaUnavailable
from annotation.argilla_store.packed import to_packed_votes
from annotation.argilla_store.records import (
    Json,
    receipts_of,
    to_metadata,
    to_receipts,
    to_record,
    to_response,
    voter_user_id,
)
from annotation.journal.deletion import ARGILLA_NOTE
from annotation.journal.journal import Journal
from annotation.schema import Pair, Vote, VoteSource

BATCH = 200
RETRY_REFUSED_S = 120.0
# The key is wrong or the dataset is gone: no smaller batch would fare better.
_HOPELESS = (401, 403, 404)
_Item = TypeVar("_Item", Pair, Vote)
_log = logging.getLogger(__name__)


def dataset_note() -> str:
    """The journal's note of the dataset that its votes were delivered to."""
    return ARGILLA_NOTE


class Delivery:
    """Sends one journal's pairs and votes to one dataset. May raise what ArgillaApi raises."""

    def __init__(self, api: ArgillaApi, journal: Journal, dataset_id: str) -> None:
        self._api = api
        self._journal = journal
        self._dataset_id = dataset_id
        self._users = api.user_ids()
        self._votes_at_once = api.votes_at_once()
        # By id: when Argilla refused it. Left out for a while, so that the others get through.
        self._refused: dict[str, float] = {}

    def forget_users(self, voters: Sequence[str]) -> None:
        """These have no user any more."""
        for voter in voters:
            self._users.pop(voter, None)

    def refused_count(self) -> int:
        """Pairs and votes set aside just now."""
        return len(self._refused)

    def run(self, stopping: Callable[[], bool]) -> int:
        """Send what Argilla has not got, until nothing is left or `stopping`; how many went."""
        oldest = time.monotonic() - RETRY_REFUSED_S
        self._refused = {key: at for key, at in self._refused.items() if at > oldest}
        sent = self._move_here(stopping)
        while pairs := self._next(self._journal.undelivered_pairs, BATCH, stopping):
            accepted = self._send(pairs, self._upsert_pairs)
            self._journal.mark_pairs_delivered([pair.id for pair in accepted]).result()
            sent += len(accepted)
        most = self._votes_at_once or BATCH
        while votes := self._next(self._journal.undelivered_votes, most, stopping):
            sent += self._send_votes(votes)
        return sent

    def _move_here(self, stopping: Callable[[], bool]) -> int:
        """Send every live vote again where they went to another dataset before."""
        before = self._journal.note(dataset_note())
        sent = 0
        if before not in (None, self._dataset_id):
            votes = [v for v in self._journal.votes() if v.counted]
            for start in range(0, len(votes), BATCH):
                if stopping():
                    return sent
                sent += self._send_votes(votes[start : start + BATCH])
        if before != self._dataset_id:
            self._journal.set_note(dataset_note(), self._dataset_id).result()
        return sent

    def _next(
        self,
        undelivered: Callable[[int], list[_Item]],
        most: int,
        stopping: Callable[[], bool],
    ) -> list[_Item]:
        if stopping():
            return []
        waiting = undelivered(most + len(self._refused))
        return [item for item in waiting if item.id not in self._refused][:most]

    def _upsert_pairs(self, pairs: Sequence[Pair]) -> None:
        self._api.upsert(self._dataset_id, [to_record(pair) for pair in pairs])

    def _send_votes(self, votes: Sequence[Vote]) -> int:
        votes = self._with_users(votes)
        accepted: list[Vote] = []
        if self._votes_at_once:
            accepted, votes = self._send_known(votes)
        for start in range(0, len(votes), BATCH):
            accepted += self._send_whole(votes[start : start + BATCH])
        self._journal.mark_votes_delivered(accepted).result()
        return len(accepted)

    def _send_known(self, votes: Sequence[Vote]) -> tuple[list[Vote], list[Vote]]:
        """By the embedded server's own route, which needs no pair; the votes that it took, and
        those that have to be sent with their records.
        """
        left: set[str] = set()

        def put(some: Sequence[Vote]) -> None:
            packed = to_packed_votes(_decided(some), self._users)
            left.update(self._api.put_votes(self._dataset_id, packed))

        went = self._send(votes, put)
        return (
            [vote for vote in went if vote.pair_id not in left],
            [vote for vote in went if vote.pair_id in left],
        )

    def _send_whole(self, votes: Sequence[Vote]) -> list[Vote]:
        """By the route of any Argilla, with the whole record of each pair; the votes it took."""
        ids = list(dict.fromkeys(vote.pair_id for vote in votes))
        pairs = {pair.id: pair for pair in self._journal.pairs(ids)}
        # A pair may have been deleted, with its votes, since these were read.
        votes = [vote for vote in votes if vote.pair_id in pairs]
        found = self._api.records_by_external_id(self._dataset_id, ids, responses=False)
        receipts = {record["external_id"]: receipts_of(record) for record in found}

        def upsert(some: Sequence[Vote]) -> None:
            items = self._vote_items(some, pairs, receipts)
            self._api.upsert(self._dataset_id, items)
            # A later part of a split batch must not wipe what this part wrote.
            receipts.update({item["external_id"]: receipts_of(item) for item in items})

        return self._send(votes, upsert)

    def _vote_items(
        self, votes: Sequence[Vote], pairs: dict[str, Pair], known: dict[str, dict[str, Json]]
    ) -> list[Json]:
        """One record a pair: its metadata with a receipt a voter, and one response a voter."""
        items = []
        for pair_id, decided in _decided(votes).items():
            receipts = known.get(pair_id, {}) | to_receipts(decided)
            item = to_record(pairs[pair_id])
            if pair_id in known:
                del item["fields"]
            kept = {voter: receipt for voter, receipt in receipts.items() if receipt is not None}
            item["metadata"] = to_metadata(pairs[pair_id], kept)
            item["responses"] = self._responses(decided)
            items.append(item)
        return items

    def _responses(self, decided: Mapping[str, Vote]) -> list[Json]:
        return [to_response(vote, self._users[voter]) for voter, vote in decided.items()]

    def _send(
        self, items: Sequence[_Item], upsert: Callable[[Sequence[_Item]], None]
    ) -> list[_Item]:
        """Send all at once, or by halves where Argilla refuses; those that it took.

        What it refuses alone is set aside. A server that refuses all of a batch with a fault of
        its own is unavailable, and nothing is set aside.
        """
        refused: list[tuple[_Item, ArgillaRefused]] = []

        def halve(some: Sequence[_Item]) -> list[_Item]:
            if not some:
                return []
            try:
                upsert(some)
            except ArgillaRefused as error:
                if error.status in _HOPELESS:
                    raise
                if len(some) == 1:
                    refused.append((some[0], error))
                    return []
                middle = len(some) // 2
                return halve(some[:middle]) + halve(some[middle:])
            return list(some)

        accepted = halve(items)
        if len(refused) > 1 and not accepted and all(e.status >= 500 for _, e in refused):
            raise ArgillaUnavailable(str(refused[0][1]))
        for item, error in refused:
            self._set_aside(item, str(error))
        if refused:
            # A user who was deleted in Argilla is made again at the next try.
            self._users = self._api.user_ids()
        return accepted

    def _set_aside(self, item: Pair | Vote, why: str) -> None:
        self._refused[item.id] = time.monotonic()
        kind = type(item).__name__
        _log.warning("%s %s is set aside for %d s: %s", kind, item.id, RETRY_REFUSED_S, why)

    def _with_users(self, votes: Sequence[Vote]) -> list[Vote]:
        """`votes` whose voters have a user in Argilla, made now where they had none."""
        for vote in votes:
            if vote.voter in self._users:
                continue
            try:
                self._make_user(vote)
            except ArgillaRefused as error:
                if error.status in _HOPELESS:
                    raise
                self._set_aside(vote, str(error))
        return [vote for vote in votes if vote.voter in self._users]

    def _make_user(self, vote: Vote) -> None:
        user_id = voter_user_id(vote.voter)
        synthetic = vote.source is VoteSource.SYNTHETIC
        try:
            self._api.create_user(
                user_id=user_id,
                username=vote.voter,
                first_name="Scripted voter (synthetic)" if synthetic else "Voter on the page",
                # Nobody signs in with it; at 64 characters the embedded server hashes it fast.
                password=secrets.token_urlsafe(48),
            )
        except ArgillaRefused as error:
            # Somebody may have made that user meanwhile.
            self._users = self._api.user_ids()
            if vote.voter not in self._users:
                raise error
        else:
            self._users[vote.voter] = user_id


def _decided(votes: Sequence[Vote]) -> dict[str, dict[str, Vote]]:
    """Each voter's vote by pair and voter."""
    by_pair: dict[str, dict[str, Vote]] = {}
    for vote in votes:
        decided = by_pair.setdefault(vote.pair_id, {})
        # An undone vote never hides a live one of the same voter.
        if vote.superseded_at is None or vote.voter not in decided:
            decided[vote.voter] = vote
    return by_pair
