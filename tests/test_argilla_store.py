"""Votes between the journal and a real Argilla: nothing is lost, doubled or blocked."""

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import argilla as rg
import httpx
import pytest
from argilla_fixture import wait_ready

from annotation.argilla_server.launcher import Credentials, EmbeddedArgilla
from annotation.argilla_store.api import ArgillaUnavailable
from annotation.argilla_store.records import (
    MAX_MESSAGE_CHARS,
    ForeignRecordError,
    pair_from_record,
    to_receipt,
    to_record,
    to_response,
    vote_from_response,
    voter_user_id,
)
from annotation.argilla_store.store import ArgillaConnection, ArgillaStore, ArgillaStoreError
from annotation.argilla_store.sync import ArgillaSync
from annotation.faults import Fault
from annotation.journal.journal import Journal
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

BASE = ModelRef("starter", "0" * 40)
TUNED = ModelRef("starter", "0" * 40, "run-1", "1" * 40)
T0 = datetime(2026, 5, 1, 12, tzinfo=UTC)


def make_pair(n: int, messages: tuple[Message, ...] | None = None) -> Pair:
    sampling = Sampling(temperature=0.7, top_p=0.9, max_new_tokens=64, seed=2**40 + n)
    return Pair(
        id=f"pair-{n}-{uuid.uuid4().hex[:8]}",
        prompt=Prompt(messages or (Message("user", f"Why is the sky blue, part {n}?"),)),
        completions=(
            Completion(f" Because {n}.\n", BASE, sampling, "stop"),
            Completion(
                "Ünï <b>codé</b> 🙂",
                TUNED,
                replace(sampling, seed=3, chosen_by="edit_distance"),
                "length",
            ),
        ),
        created_at=T0 + timedelta(seconds=n, microseconds=123),
    )


def make_vote(pair: Pair, voter: str = "anon-0123456789abcdef", **changes: Any) -> Vote:
    vote = Vote(
        id=uuid.uuid4().hex,
        pair_id=pair.id,
        voter=voter,
        choice=Choice.A,
        flipped=False,
        created_at=T0 + timedelta(minutes=5),
    )
    return replace(vote, **changes)


@pytest.mark.parametrize(
    "messages",
    [
        (Message("user", "  spaces stay \n"),),
        (
            Message("system", ""),
            Message("user", "a"),
            Message("assistant", "b"),
            Message("user", "c"),
        ),
        (Message("user", "x" * (MAX_MESSAGE_CHARS + 1)),),
    ],
    ids=["text", "turns", "longer than a chat field takes"],
)
def test_a_record_gives_back_the_very_pair(messages: tuple[Message, ...]) -> None:
    pair = make_pair(1, messages)
    record = to_record(pair)
    assert pair_from_record(record) == pair
    shown = [message["content"] for message in record["fields"]["prompt"]]
    assert all(1 <= len(content) <= MAX_MESSAGE_CHARS for content in shown)


def test_a_response_with_its_receipt_gives_back_the_very_vote() -> None:
    vote = make_vote(
        make_pair(1),
        choice=Choice.B,
        flipped=True,
        reasons=(Reason.CLEAR, Reason.SAFE),
        comment="well put",
        source=VoteSource.SYNTHETIC,
        counted=False,
        why="too fast",
    )
    response = to_response(vote, voter_user_id(vote.voter))
    # The voter saw the sides flipped, so side b was the record's first completion.
    assert response["values"]["preference"]["value"] == "a"
    kept = response | {"id": str(uuid.uuid4()), "inserted_at": "2026-05-01T13:00:00"}
    back = vote_from_response(
        kept, pair_id=vote.pair_id, voter=vote.voter, receipt=to_receipt(vote)
    )
    assert back == vote


def test_a_response_changed_in_argilla_is_the_voters_choice_there() -> None:
    vote = make_vote(make_pair(1), "anna")
    response = to_response(vote, str(uuid.uuid4())) | {
        "id": str(uuid.uuid4()),
        "inserted_at": "2026-05-01T13:00:00",
        "values": {"preference": {"value": "tie"}},
    }
    back = vote_from_response(
        response, pair_id=vote.pair_id, voter="anna", receipt=to_receipt(vote)
    )
    assert back is not None
    assert (back.choice, back.source, back.flipped) == (Choice.TIE, VoteSource.ARGILLA, False)
    assert back.created_at == datetime(2026, 5, 1, 13, tzinfo=UTC)


def test_a_record_of_somebody_else_is_foreign() -> None:
    with pytest.raises(ForeignRecordError, match="rec-7"):
        pair_from_record({"external_id": "rec-7", "fields": {"text": "hi"}, "metadata": None})


def test_a_connection_never_shows_its_key() -> None:
    assert "s3cret" not in repr(ArgillaConnection("http://127.0.0.1:1", "s3cret", "w", "d"))


# From here on with a real Argilla.


@dataclass
class Bench:
    """A journal and a dataset of one test's own, on the shared server."""

    journal: Journal
    store: ArgillaStore
    connection: ArgillaConnection
    sdk: rg.Argilla
    open_store: Callable[..., ArgillaStore]
    open_journal: Callable[[], Journal]

    @property
    def dataset(self) -> Any:
        workspace = self.connection.workspace
        named = next(w for w in self.sdk.workspaces if w.name == workspace)
        return next(d for d in named.datasets if d.name == self.connection.dataset).get()

    def records(self) -> dict[str, Any]:
        return {record.id: record for record in self.dataset.records(with_responses=True)}

    def raw_records(self) -> dict[str, Any]:
        path = f"/api/v1/datasets/{self.dataset.id}/records?include=responses&limit=1000"
        items = self.sdk.api.http_client.get(path).json()["items"]
        return {item["external_id"]: item for item in items}

    def add(self, *pairs: Pair) -> None:
        self.journal.add_pairs(pairs).result()

    def vote(self, pair: Pair, voter: str = "anon-0123456789abcdef", **changes: Any) -> Vote:
        return self.journal.add_vote(make_vote(pair, voter, **changes)).result().vote

    def annotator(self) -> httpx.Client:
        """A person who signs in to Argilla's own page with a password."""
        name, password = f"person-{uuid.uuid4().hex[:8]}", "x" * 64
        user = rg.User(username=name, password=password, role="annotator", client=self.sdk).create()
        user.add_to_workspace(
            next(w for w in self.sdk.workspaces if w.name == self.connection.workspace)
        )
        login = {"username": name, "password": password}
        answer = httpx.post(f"{self.connection.api_url}/api/v1/token", data=login)
        bearer = {"Authorization": f"Bearer {answer.json()['access_token']}", "X-Name": name}
        return httpx.Client(base_url=f"{self.connection.api_url}/api/v1", headers=bearer)


def respond(person: httpx.Client, record: Any, choice: str, **more: Any) -> str:
    values = {"preference": {"value": choice}, **{k: {"value": v} for k, v in more.items()}}
    body = {"status": "submitted", "values": values}
    answer = person.post(f"/records/{record['id']}/responses", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.fixture
def bench(argilla_server: Credentials, tmp_path: Path) -> Iterator[Bench]:
    opened: list[Any] = []

    def open_journal() -> Journal:
        opened.append(Journal(tmp_path / f"journal-{len(opened)}.sqlite3"))
        return opened[-1]

    def open_store(
        journal: Journal | None = None, votes_per_pair: int = 1, **changes: Any
    ) -> ArgillaStore:
        used = replace(connection, **changes)
        opened.append(ArgillaStore(used, journal or first, votes_per_pair=votes_per_pair))
        return opened[-1]

    connection = ArgillaConnection(
        argilla_server.api_url, argilla_server.api_key, "votetune", f"d-{uuid.uuid4().hex[:12]}"
    )
    sdk = rg.Argilla(api_url=argilla_server.api_url, api_key=argilla_server.api_key)
    first = open_journal()
    store = open_store()
    store.ensure_dataset()
    yield Bench(first, store, connection, sdk, open_store, open_journal)
    for thing in opened:
        thing.close()
    sdk.http_client.close()


@pytest.mark.argilla
def test_a_delivered_vote_stands_in_argilla_as_the_sdk_reads_it(bench: Bench) -> None:
    pair = make_pair(1)
    bench.add(pair)
    bench.vote(pair, flipped=True, choice=Choice.A, reasons=(Reason.CLEAR,), comment="short")
    assert bench.store.deliver() == 2
    assert bench.journal.undelivered_count() == 0
    record = bench.records()[pair.id]
    assert record.fields["prompt"][0].content == pair.prompt.messages[0].content
    assert record.fields["completion_a"] == pair.completions[0].text
    assert record.fields["completion_b"] == pair.completions[1].text
    assert record.status == "completed"
    (preference,), (reasons,), (comment,) = (
        record.responses[name] for name in ("preference", "reasons", "comment")
    )
    assert (preference.value, reasons.value, comment.value) == ("b", ["clear"], "short")
    assert str(preference.user_id) == voter_user_id("anon-0123456789abcdef")
    metadata = record.metadata
    assert metadata["model_a"] == "starter" and metadata["model_b"] == "run-1"
    assert (metadata["temperature"], metadata["top_p"], metadata["max_new_tokens"]) == (
        0.7,
        0.9,
        64,
    )
    assert metadata["split"] == pair.prompt.split.value and metadata["source"] == ["page"]


@pytest.mark.argilla
def test_an_annotator_sees_the_answers_and_no_model(bench: Bench) -> None:
    bench.add(make_pair(1))
    bench.store.deliver()
    person = bench.annotator()
    body = {
        "filters": {
            "and": [
                {
                    "type": "terms",
                    "scope": {"entity": "response", "property": "status"},
                    "values": ["pending"],
                }
            ]
        }
    }
    answer = person.post(f"/me/datasets/{bench.dataset.id}/records/search", json=body)
    record = answer.json()["items"][0]["record"]
    assert record["fields"]["completion_b"] == "Ünï <b>codé</b> 🙂"
    assert record["metadata"] == {}
    properties = person.get(f"/me/datasets/{bench.dataset.id}/metadata-properties").json()
    assert properties["items"] == []
    person.close()


@pytest.mark.argilla
def test_sending_again_after_a_crash_changes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_pair(1)
    bench.add(pair)
    bench.vote(pair, "anon-1")
    with monkeypatch.context() as patched:

        def die(_votes: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(bench.journal, "mark_votes_delivered", die)
        with pytest.raises(KeyboardInterrupt):
            bench.store.deliver()
    before = bench.raw_records()[pair.id]["responses"]
    assert bench.journal.undelivered_count() == 1
    assert bench.open_store().deliver() == 1
    after = bench.raw_records()[pair.id]["responses"]
    assert [r["id"] for r in after] == [r["id"] for r in before]
    assert len(after) == 1


@pytest.mark.argilla
def test_an_undone_vote_is_discarded_and_its_record_waits_again(bench: Bench) -> None:
    pair = make_pair(1)
    bench.add(pair)
    vote = bench.vote(pair, "anon-1")
    bench.store.deliver()
    assert bench.raw_records()[pair.id]["status"] == "completed"
    bench.journal.undo_vote(vote.id, voter="anon-1").result()
    assert bench.store.deliver() == 1
    record = bench.raw_records()[pair.id]
    assert (record["status"], record["responses"][0]["status"]) == ("pending", "discarded")
    assert bench.store.pull(thorough=True) == 0
    assert bench.journal.votes() == []


@pytest.mark.argilla
def test_one_refused_vote_blocks_no_other(bench: Bench) -> None:
    pairs = [make_pair(n) for n in range(6)]
    bench.add(*pairs)
    bench.vote(pairs[0], "gone")
    bench.store.deliver()
    bench.sdk.api.http_client.delete(f"/api/v1/users/{voter_user_id('gone')}").raise_for_status()
    lost = bench.vote(pairs[1], "gone")
    for pair in pairs[1:]:
        bench.vote(pair, "anon-2")
    assert bench.store.deliver() == 5
    assert bench.store.refused_count() == 1
    assert [v.id for v in bench.journal.undelivered_votes(10)] == [lost.id]
    # The next try makes the deleted user again.
    assert bench.open_store().deliver() == 1


@pytest.mark.argilla
def test_a_vote_cast_in_argillas_own_page_counts(bench: Bench) -> None:
    pair = make_pair(1)
    bench.add(pair)
    bench.store.deliver()
    person = bench.annotator()
    respond(person, bench.raw_records()[pair.id], "b", reasons=["safe"], comment="kind")
    assert bench.store.pull() == 1
    (vote,) = bench.journal.votes()
    assert (vote.voter, vote.source) == (person.headers["X-Name"], VoteSource.ARGILLA)
    assert (vote.choice, vote.flipped, vote.counted) == (Choice.B, False, True)
    assert (vote.reasons, vote.comment) == ((Reason.SAFE,), "kind")
    assert abs(vote.created_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert bench.journal.undelivered_count() == 0 and bench.store.deliver() == 0
    assert bench.store.pull() == 0
    person.close()


@pytest.mark.argilla
def test_changes_and_removals_in_argilla_are_mirrored(bench: Bench) -> None:
    pairs = [make_pair(n) for n in range(3)]
    bench.add(*pairs)
    bench.store.deliver()
    person = bench.annotator()
    records = bench.raw_records()
    ids = [respond(person, records[pair.id], "a") for pair in pairs]
    bench.store.pull(thorough=True)
    tie = {"status": "submitted", "values": {"preference": {"value": "tie"}}}
    assert person.put(f"/responses/{ids[0]}", json=tie).status_code == 200
    assert person.put(f"/responses/{ids[1]}", json={"status": "discarded"}).status_code == 200
    assert person.delete(f"/responses/{ids[2]}").status_code == 200
    assert bench.store.pull(thorough=True) == 3
    assert [(v.pair_id, v.choice) for v in bench.journal.votes()] == [(pairs[0].id, Choice.TIE)]
    assert len(bench.journal.votes(include_superseded=True)) == 4
    person.close()


@pytest.mark.argilla
def test_a_pull_that_finds_nothing_new_reads_almost_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.add(*(make_pair(n) for n in range(120)))
    bench.store.deliver()
    bench.store.pull()
    paths: list[str] = []
    send = httpx.Client.request

    def spy(self: httpx.Client, method: str, url: Any, **more: Any) -> httpx.Response:
        paths.append(str(url))
        return send(self, method, url, **more)

    monkeypatch.setattr(httpx.Client, "request", spy)
    assert bench.store.pull() == 0
    assert len(paths) == 2 and "limit=50" in paths[1]


@pytest.mark.argilla
def test_an_empty_journal_is_restored_from_argilla(bench: Bench) -> None:
    pairs = [make_pair(n) for n in range(3)]
    bench.add(*pairs)
    bench.vote(pairs[0], "anon-1", flipped=True, choice=Choice.B, comment="so")
    bench.vote(pairs[0], "anon-2", choice=Choice.TIE, reasons=(Reason.STYLE,))
    bench.vote(pairs[1], "bot-1", choice=Choice.BOTH_BAD, source=VoteSource.SYNTHETIC)
    bench.store.deliver()
    person = bench.annotator()
    respond(person, bench.raw_records()[pairs[2].id], "a")
    bench.store.pull()
    empty = bench.open_journal()
    assert bench.open_store(empty).pull() == 4
    assert empty.pairs() == bench.journal.pairs()
    assert _by_pair(empty) == _by_pair(bench.journal)
    assert empty.undelivered_count() == 0 and empty.undelivered_pairs(10) == []
    person.close()


def _by_pair(journal: Journal) -> list[Vote]:
    return sorted(journal.votes(), key=lambda vote: (vote.pair_id, vote.voter))


@pytest.mark.argilla
def test_a_pull_never_touches_what_is_still_on_its_way(bench: Bench) -> None:
    pair = make_pair(1)
    bench.add(pair)
    vote = bench.vote(pair, "anon-1")
    bench.store.deliver()
    bench.journal.undo_vote(vote.id, voter="anon-1").result()
    # Argilla still has it as submitted.
    bench.store.pull(thorough=True)
    assert bench.journal.votes() == []
    assert bench.journal.undelivered_count() == 1


@pytest.mark.argilla
def test_two_voters_complete_a_pair_that_wants_two(bench: Bench) -> None:
    pair = make_pair(1)
    bench.add(pair)
    store = bench.open_store(votes_per_pair=2)
    store.ensure_dataset()
    assert bench.dataset.distribution.min_submitted == 2
    for voter, status in (("anon-1", "pending"), ("anon-2", "completed")):
        bench.vote(pair, voter)
        store.deliver()
        assert bench.raw_records()[pair.id]["status"] == status
    assert len(bench.raw_records()[pair.id]["responses"]) == 2


@pytest.mark.argilla
def test_another_dataset_gets_all_votes_once_more(bench: Bench) -> None:
    pairs = [make_pair(n) for n in range(2)]
    bench.add(*pairs)
    bench.vote(pairs[0], "anon-1", choice=Choice.B)
    # A check is not in Argilla, so a vote on it has no record to go to.
    gold = replace(make_pair(2), kind=PairKind.GOLD, expected=Choice.A)
    bench.add(gold)
    bench.vote(gold, "anon-1", choice=Choice.A)
    bench.store.deliver()
    name = f"moved-{uuid.uuid4().hex[:8]}"
    moved = bench.open_store(dataset=name, workspace=f"w-{uuid.uuid4().hex[:8]}")
    assert moved.deliver() == 1
    assert moved.pull(thorough=True) == 0
    assert [vote.choice for vote in bench.journal.votes()] == [Choice.B, Choice.A]
    assert moved.deliver() == 0


@pytest.mark.argilla
def test_a_dataset_of_another_make_is_left_alone(bench: Bench) -> None:
    name = f"theirs-{uuid.uuid4().hex[:8]}"
    settings = rg.Settings(
        fields=[rg.TextField(name="text")], questions=[rg.TextQuestion(name="summary")]
    )
    workspace = next(w for w in bench.sdk.workspaces if w.name == "votetune")
    rg.Dataset(name, workspace=workspace, settings=settings, client=bench.sdk).create()
    with pytest.raises(
        ArgillaStoreError, match=f"'{name}'.*lack 'prompt'.*ARGILLA_DATASET"
    ) as told:
        bench.open_store(dataset=name).ensure_dataset()
    assert "\n" not in str(told.value)


@pytest.mark.argilla
def test_a_key_that_is_no_owners_is_refused_in_one_line(bench: Bench) -> None:
    with pytest.raises(ArgillaStoreError, match="does not know this ARGILLA_API_KEY"):
        bench.open_store(api_key="nonsense").ensure_dataset()
    person = bench.annotator()
    name = person.headers["X-Name"]
    person.close()
    users = bench.sdk.api.http_client.get("/api/v1/users").json()["items"]
    key = next(user["api_key"] for user in users if user["username"] == name)
    with pytest.raises(ArgillaStoreError, match=f"'{name}'.*'annotator'.*owner's key") as told:
        bench.open_store(api_key=key).ensure_dataset()
    assert key not in str(told.value)


def test_an_argilla_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite3")
    store = ArgillaStore(
        ArgillaConnection("http://127.0.0.1:9", "key", "w", "d"), journal, votes_per_pair=1
    )
    with pytest.raises(ArgillaUnavailable, match=r"127\.0\.0\.1:9 does not answer"):
        store.deliver()
    store.close()
    journal.close()


def _eventually(holds: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.argilla
@pytest.mark.slow
def test_votes_wait_while_argilla_is_down_and_reach_it_when_it_is_back(tmp_path: Path) -> None:
    server = EmbeddedArgilla(tmp_path)
    journal = Journal(tmp_path / "journal.sqlite3")

    def connect() -> ArgillaConnection | None:
        known = server.credentials()
        return known and ArgillaConnection(known.api_url, known.api_key, "votetune", "preferences")

    sync = ArgillaSync(journal, connect, votes_per_pair=1, deliver_every_s=0.1, pull_every_s=0.5)
    pairs = [make_pair(n) for n in range(3)]
    journal.add_pairs(pairs).result()
    sync.start()
    try:
        assert sync.state == "starting"
        server.start()
        journal.add_vote(make_vote(pairs[0])).result()
        _eventually(lambda: sync.state == "ready" and journal.undelivered_count() == 0)
        first = wait_ready(server)
        server.stop()
        for pair in pairs[1:]:
            journal.add_vote(make_vote(pair)).result()
        _eventually(lambda: sync.state == "unreachable")
        assert journal.undelivered_count() == 2 and "does not answer" in (sync.last_error or "")
        server = EmbeddedArgilla(tmp_path)
        server.start()
        second = wait_ready(server)
        assert (second.api_key, second.password) == (first.api_key, first.password)
        assert second.api_url == first.api_url
        _eventually(lambda: sync.state == "ready" and journal.undelivered_count() == 0)
        client = rg.Argilla(api_url=second.api_url, api_key=second.api_key)
        dataset = client.datasets(name="preferences", workspace="votetune")
        assert {r.id for r in dataset.records(with_responses=True) if r.responses} == {
            pair.id for pair in pairs
        }
        client.http_client.close()
        # A server that hangs must not hold the app's end up.
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        time.sleep(0.7)
        began = time.monotonic()
        sync.stop()
        assert time.monotonic() - began < 8
        os.kill(server.pid, signal.SIGCONT)
    finally:
        sync.stop()
        server.stop()
        journal.close()


def test_a_failing_connect_never_reaches_the_app(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite3")
    told = iter([Fault("no address: set one."), ValueError("odd")])

    def connect() -> ArgillaConnection | None:
        raise next(told, Fault("still none."))

    sync = ArgillaSync(journal, connect, votes_per_pair=1, deliver_every_s=0.01)
    sync.start()
    _eventually(lambda: sync.last_error == "still none.")
    assert sync.state == "unreachable"
    sync.stop()
    journal.close()
