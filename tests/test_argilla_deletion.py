"""A voter whom the journal forgot is forgotten by a real Argilla, whenever either side dies."""

import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_argilla_store import Bench, bench, make_pair, make_vote, respond

from annotation.argilla_store.api import ArgillaRefused, ArgillaUnavailable
from annotation.argilla_store.records import receipts_of, to_metadata, to_receipt, without_receipt
from annotation.argilla_store.sync import ArgillaSync
from annotation.journal.journal import Journal
from annotation.schema import PairKind, VoteSource

__all__ = ["bench"]  # a fixture


def voter(kind: str = "anon") -> str:
    return f"{kind}-{uuid.uuid4().hex[:16]}"


def users(bench: Bench) -> set[str]:
    items = bench.sdk.api.http_client.get("/api/v1/users").json()["items"]
    return {user["username"] for user in items}


def answers(record: dict[str, Any]) -> int:
    return len(record["responses"])


def test_a_receipt_leaves_and_all_else_stays() -> None:
    pair = make_pair(1)
    ann = make_vote(pair, "ann", source=VoteSource.SYNTHETIC)
    bob = make_vote(pair, "bob")
    both = to_metadata(pair, {"ann": to_receipt(ann), "bob": to_receipt(bob)})
    assert without_receipt(both, "ann") == to_metadata(pair, {"bob": to_receipt(bob)})
    assert without_receipt(both, "carol") == both


@pytest.mark.argilla
def test_responses_receipts_and_user_go_and_nobody_elses(bench: Bench) -> None:
    ann, bob = voter(), voter()
    pairs = [make_pair(n) for n in range(3)]
    bench.add(*pairs)
    for pair in pairs[:2]:
        bench.vote(pair, ann, comment="only Ann said this")
    bob_votes = [bench.vote(pair, bob) for pair in pairs[1:]]
    bench.store.deliver()
    assert bench.raw_records()[pairs[0].id]["status"] == "completed"
    assert bench.journal.delete_voter(ann).result() == 2
    bench.store.deliver()
    records = bench.raw_records()
    assert ann not in str(records) and "only Ann" not in str(records)
    assert [answers(records[pair.id]) for pair in pairs] == [0, 1, 1]
    assert records[pairs[0].id]["status"] == "pending"
    assert list(receipts_of(records[pairs[1].id])) == [bob]
    assert records[pairs[1].id]["metadata"]["source"] == ["page"]
    assert ann not in users(bench) and bob in users(bench)
    assert bench.journal.deletions("in_argilla") == []
    bench.store.pull(thorough=True)
    assert bench.journal.votes() == bob_votes


@pytest.mark.argilla
def test_deleting_a_user_takes_the_answers_in_other_datasets_along(bench: Bench) -> None:
    """What the order of `ArgillaDeletion` relies on, measured on the real server."""
    ann, pair, other = voter(), make_pair(1), make_pair(2)
    bench.add(pair)
    bench.vote(pair, ann)
    bench.store.deliver()
    journal = bench.open_journal()
    journal.add_pairs([other]).result()
    journal.add_vote(make_vote(other, ann)).result()
    elsewhere = bench.open_store(journal, dataset=f"d-{uuid.uuid4().hex[:12]}")
    elsewhere.deliver()
    journal.delete_voter(ann).result()
    elsewhere.deliver()
    record = bench.raw_records()[pair.id]
    # The record is not asked for votes again, so the dataset in use is cleaned answer by answer.
    assert (answers(record), record["status"]) == (0, "completed")


@pytest.mark.argilla
def test_own_prompts_go_unless_somebody_else_answered(bench: Bench) -> None:
    ann, bob = voter(), voter()
    own = [replace(make_pair(n), kind=PairKind.OWN, author=ann) for n in range(3)]
    bench.add(*own)
    for pair in own[:2]:
        bench.vote(pair, ann)
    bench.vote(own[1], bob)
    bench.store.deliver()
    person = bench.annotator()
    # In Argilla's own page, and not yet read back when Ann deletes.
    respond(person, bench.raw_records()[own[2].id], "b")
    bench.journal.delete_voter(ann).result()
    bench.store.deliver()
    records = bench.raw_records()
    assert set(records) == {own[1].id, own[2].id}
    bench.store.pull(thorough=True)
    cast = {(vote.pair_id, vote.voter) for vote in bench.journal.votes()}
    assert cast == {(own[1].id, bob), (own[2].id, person.headers["X-Name"])}
    person.close()


@pytest.mark.argilla
def test_killed_between_journal_and_argilla_it_is_finished_at_the_next_start(
    bench: Bench, tmp_path: Path
) -> None:
    ann, pair = voter(), make_pair(1)
    bench.add(pair)
    bench.vote(pair, ann)
    bench.store.deliver()
    bench.journal.delete_voter(ann).result()
    # Before it has followed, nothing that Argilla still holds comes back.
    bench.store.pull(thorough=True)
    assert bench.journal.votes(include_superseded=True) == []
    bench.store.close()
    bench.journal.close()
    again = Journal(tmp_path / "journal-0.sqlite3")
    sync = ArgillaSync(again, lambda: bench.connection, votes_per_pair=1, deliver_every_s=0.1)
    sync.start()
    deadline = time.monotonic() + 30
    while again.deletions("in_argilla") or sync.state != "ready":
        assert time.monotonic() < deadline, sync.last_error
        time.sleep(0.05)
    sync.stop()
    assert answers(bench.raw_records()[pair.id]) == 0
    assert ann not in users(bench)
    assert again.votes(include_superseded=True) == []
    again.close()


@pytest.mark.argilla
@pytest.mark.parametrize("step", ["delete_response", "upsert", "delete_user"])
def test_torn_at_any_step_it_is_done_at_the_next_try(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    ann, pairs = voter(), [make_pair(n) for n in range(3)]
    bench.add(*pairs)
    for pair in pairs:
        bench.vote(pair, ann)
    bench.store.deliver()
    bench.journal.delete_voter(ann).result()
    with monkeypatch.context() as torn:

        def tear(*_: object) -> None:
            raise ArgillaUnavailable("gone.")

        torn.setattr(bench.store._api, step, tear)
        with pytest.raises(ArgillaUnavailable):
            bench.store.deliver()
    bench.store.pull(thorough=True)
    assert bench.journal.votes() == []
    bench.store.deliver()
    assert [answers(record) for record in bench.raw_records().values()] == [0, 0, 0]
    assert ann not in str(bench.raw_records()) and ann not in users(bench)


@pytest.mark.argilla
def test_a_signed_in_voter_goes_on_after_deleting(bench: Bench) -> None:
    ann, pairs = voter("hub"), [make_pair(n) for n in range(3)]
    bench.add(*pairs)
    bench.vote(pairs[0], ann)
    bench.store.deliver()
    bench.journal.delete_voter(ann).result()
    # Cast before Argilla has followed, and delivered in the same round.
    soon = bench.vote(pairs[1], ann, created_at=bench.journal._clock())
    bench.store.deliver()
    later = bench.vote(pairs[2], ann)
    bench.store.deliver()
    records = bench.raw_records()
    assert [answers(records[pair.id]) for pair in pairs] == [0, 1, 1]
    bench.store.pull(thorough=True)
    assert bench.journal.votes() == [later, soon]


@pytest.mark.argilla
def test_an_account_that_somebody_signs_in_with_stays(bench: Bench) -> None:
    person, pair = bench.annotator(), make_pair(1)
    name = person.headers["X-Name"]
    bench.add(pair)
    bench.store.deliver()
    respond(person, bench.raw_records()[pair.id], "a")
    bench.store.pull(thorough=True)
    assert bench.journal.delete_voter(name).result() == 1
    bench.store.deliver()
    assert answers(bench.raw_records()[pair.id]) == 0
    assert name in users(bench)
    person.close()


@pytest.mark.argilla
def test_a_deletion_that_argilla_refuses_holds_up_no_vote(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ann, pairs = voter(), [make_pair(n) for n in range(2)]
    bench.add(*pairs)
    bench.vote(pairs[0], ann)
    bench.store.deliver()
    bench.journal.delete_voter(ann).result()

    def refuse(_: str) -> None:
        raise ArgillaRefused("Argilla will not.", 422)

    monkeypatch.setattr(bench.store._api, "delete_user", refuse)
    bench.vote(pairs[1], voter())
    assert bench.store.deliver() == 1
    assert bench.store.refused_count() == 1
    assert [wish.voter for wish in bench.journal.deletions("in_argilla")] == [ann]
    assert "will not" in caplog.text and ann not in caplog.text


@pytest.mark.argilla
def test_what_was_on_its_way_while_the_voter_deleted_goes_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, pair = voter(), make_pair(1)
    own = replace(make_pair(2), kind=PairKind.OWN, author=ann)
    bench.add(pair, own)
    bench.store.deliver()
    bench.vote(pair, ann)
    bench.vote(own, ann)
    read = bench.journal.undelivered_votes
    taken = [read(9), []]
    bench.journal.delete_voter(ann).result()
    monkeypatch.setattr(bench.store, "_deletion", _Later())
    monkeypatch.setattr(bench.journal, "undelivered_votes", lambda _: taken.pop(0))
    bench.store.deliver()
    assert answers(bench.raw_records()[pair.id]) == 1
    monkeypatch.undo()
    bench.store.deliver()
    assert answers(bench.raw_records()[pair.id]) == 0
    assert own.id not in bench.raw_records() and ann not in users(bench)


class _Later:
    """A deletion that came right after this round had looked for some."""

    def run(self, _: object) -> list[str]:
        return []
